//! What a worker holds while it rests, and whether that grows.

use std::{collections::BTreeSet, fmt, fs, path::PathBuf};

use anyhow::{Context as _, Result};
use testbed::proc;

use crate::host::{Host, PREPARED};

/// The worker's memory may differ by so much between two looks: allocators keep what they may need again.
const RSS_SLACK_KB: u64 = 6 * 1_024;
/// A connection that is about to be closed, of the metrics or the store.
const FD_SLACK: usize = 3;

/// The worker at rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holdings {
    /// Sandboxes made before.
    made: u64,
    prepared: u64,
    /// Zygotes with packages, and what they have forked ahead of need: a sandbox with two processes each.
    package_zygotes: usize,
    rss_kb: u64,
    fds: usize,
    threads: u64,
    groups: usize,
    processes: usize,
    zygotes: usize,
    namespaces: usize,
}

impl Holdings {
    pub(crate) fn take(host: &Host) -> Result<Self> {
        let pid = host.pid()?;
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).context("listing the worker's fds")?;
        let sandboxed = host.sandboxed();
        let namespaces: BTreeSet<PathBuf> = sandboxed
            .iter()
            .filter_map(|pid| fs::read_link(format!("/proc/{pid}/ns/net")).ok())
            .collect();
        let own: BTreeSet<_> = host
            .groups()
            .iter()
            .filter_map(|it| it.file_name().map(ToOwned::to_owned))
            .collect();
        let live = host.metric("worker_instances")?;
        Ok(Self {
            made: host.made(),
            // Instances count as sandboxes that are not ready: then it does not rest.
            prepared: if live == 0 {
                host.metric("worker_sandboxes_prepared")?
            } else {
                0
            },
            package_zygotes: (host.metric("worker_package_zygotes")?
                + host.metric("worker_package_zygote_ready")?)
                as usize,
            rss_kb: proc::status(pid, "VmRSS").context("the worker is gone")?,
            fds: fds.count(),
            threads: proc::status(pid, "Threads").unwrap_or_default(),
            groups: own.len(),
            processes: sandboxed.len(),
            zygotes: host.zygotes()?.len(),
            namespaces: namespaces.len(),
        })
    }

    /// Whether neither sandboxes nor processes were made or removed between the two looks.
    pub(crate) fn has_as_many(&self, other: &Self) -> bool {
        let counts = |it: &Self| {
            (
                it.prepared,
                it.package_zygotes,
                it.groups,
                it.processes,
                it.zygotes,
            )
        };
        counts(self) == counts(other)
    }

    /// Sandboxes with a process forked into them.
    const fn occupied(&self) -> usize {
        self.prepared as usize + self.package_zygotes
    }

    /// Sandboxes beside those: bare ones that are kept ready, and any that should not be there.
    const fn others(&self) -> usize {
        self.groups.saturating_sub(self.occupied())
    }

    /// Whether nothing is there but the sandboxes that are kept ready: with a process forked into them, or bare.
    pub(crate) fn is_at_rest(&self) -> bool {
        let occupied = self.occupied();
        let bare_max = PREPARED as usize;
        self.prepared >= PREPARED
            && (occupied..=occupied + bare_max).contains(&self.groups)
            && self.processes == self.groups + occupied
            && self.namespaces == self.groups
            && self.zygotes >= 1
    }
}

impl fmt::Display for Holdings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "at rest after {:>6}: worker {:.1} MB, {} fds, {} threads, {} zygotes; sandboxes: {} control groups, \
             {} processes, {} network namespaces",
            self.made,
            self.rss_kb as f64 / 1_024.0,
            self.fds,
            self.threads,
            self.zygotes,
            self.groups,
            self.processes,
            self.namespaces,
        )
    }
}

/// What grew from look to look of one life. The first look is of a worker that has done nothing yet, and does not count.
pub(crate) fn judge(looks: &[Holdings]) -> Vec<String> {
    let mut faults = Vec::new();
    // At a quarter, and at the end.
    let (Some(early), Some(last)) = (looks.get(looks.len() / 4), looks.last()) else {
        return vec!["nothing was looked at".to_owned()];
    };
    if last.fds > early.fds + FD_SLACK {
        faults.push(format!(
            "file descriptors: {} became {}",
            early.fds, last.fds
        ));
    }
    // Not all of them: how many zygotes live at a look is for the kills to say.
    if last.others() > early.others() {
        faults.push(format!(
            "sandboxes without a function: {} became {}",
            early.others(),
            last.others()
        ));
    }
    if last.rss_kb > early.rss_kb + RSS_SLACK_KB {
        faults.push(format!(
            "memory: {} kB became {} kB after {} more sandboxes",
            early.rss_kb,
            last.rss_kb,
            last.made - early.made
        ));
    }
    let later = &looks[looks.len() / 4..];
    let slope = slope(later);
    let made = (last.made - early.made) as f64;
    if slope * made > RSS_SLACK_KB as f64 {
        faults.push(format!("memory grows by {:.3} kB a sandbox", slope));
    }
    faults
}

/// Kilobytes of memory for each sandbox made, by least squares.
fn slope(looks: &[Holdings]) -> f64 {
    let n = looks.len().max(1) as f64;
    let points = looks
        .iter()
        .map(|look| (look.made as f64, look.rss_kb as f64));
    let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / n;
    let x = mean(&mut points.clone().map(|(x, _)| x));
    let y = mean(&mut points.clone().map(|(_, y)| y));
    let above: f64 = points.clone().map(|(px, py)| (px - x) * (py - y)).sum();
    let below: f64 = points.map(|(px, _)| (px - x).powi(2)).sum();
    if below > 0.0 { above / below } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(made: u64, rss_kb: u64, fds: usize) -> Holdings {
        Holdings {
            made,
            prepared: PREPARED,
            package_zygotes: 0,
            rss_kb,
            fds,
            threads: 4,
            groups: 4,
            processes: 8,
            zygotes: 1,
            namespaces: 4,
        }
    }

    #[test]
    fn a_worker_that_warms_up_and_stays_there_is_flat() {
        let looks: Vec<_> = (0..9)
            .map(|n| {
                look(
                    n * 1_000,
                    if n == 0 { 20_000 } else { 40_000 + n % 2 * 500 },
                    60,
                )
            })
            .collect();
        assert_eq!(judge(&looks), Vec::<String>::new());
    }

    #[test]
    fn what_grows_with_the_sandboxes_is_told() {
        let looks: Vec<_> = (0..9u64)
            .map(|n| look(n * 1_000, 40_000 + n * 1_500, 60 + n as usize))
            .collect();
        let faults = judge(&looks);
        assert_eq!(faults.len(), 3, "{faults:?}");
        assert!(faults[0].contains("62 became 68"), "{faults:?}");
    }

    #[test]
    fn zygotes_may_come_and_go_and_sandboxes_that_are_nobodys_may_not() {
        let mut looks: Vec<_> = (0..9).map(|n| look(n * 1_000, 40_000, 60)).collect();
        let last = looks.last_mut().unwrap();
        (last.package_zygotes, last.groups) = (3, 7);
        assert_eq!(judge(&looks), Vec::<String>::new());
        looks.last_mut().unwrap().groups += 1;
        assert_eq!(judge(&looks).len(), 1);
    }

    #[test]
    fn a_sandbox_too_many_is_no_rest() {
        let mut holdings = look(1, 1, 1);
        assert!(holdings.is_at_rest());
        holdings.groups += 1;
        assert!(!holdings.is_at_rest(), "nothing runs in it");
        holdings.processes += 1;
        holdings.namespaces += 1;
        assert!(holdings.is_at_rest(), "it is one kept bare");
        holdings.package_zygotes += 1;
        assert!(!holdings.is_at_rest(), "its processes are missing");
    }
}
