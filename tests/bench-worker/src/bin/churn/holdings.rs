//! What a worker holds while it rests, and whether that grows.

use std::{collections::BTreeSet, fmt, fs, path::PathBuf};

use anyhow::{Context as _, Result};
use testbed::proc;

use crate::host::{Host, PREPARED};

/// The worker's memory may differ by so much between two looks: allocators keep what they may need again.
const RSS_SLACK_KB: u64 = 6 * 1_024;
/// A connection that is about to be closed, of the metrics or the store.
const FD_SLACK: usize = 3;
/// Descriptors that the worker holds of a sandbox without a process, of one with a process (its pidfd, socket and outputs
/// as well), and of one with a package zygote (its pidfd and socket).
const BARE_FDS: usize = 5;
const READY_FDS: usize = 9;
const ZYGOTE_FDS: usize = 7;

/// The worker at rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holdings {
    /// Sandboxes made before.
    made: u64,
    prepared: u64,
    /// Zygotes with packages, and what they have forked ahead of need: a sandbox with two processes each.
    package_zygotes: usize,
    zygote_ready: usize,
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
            package_zygotes: host.metric("worker_package_zygotes")? as usize,
            zygote_ready: host.metric("worker_package_zygote_ready")? as usize,
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
                it.zygote_ready,
                it.groups,
                it.processes,
                it.zygotes,
            )
        };
        counts(self) == counts(other)
    }

    /// Sandboxes with a process forked into them.
    const fn occupied(&self) -> usize {
        self.prepared as usize + self.package_zygotes + self.zygote_ready
    }

    /// Sandboxes beside those: bare ones that are kept ready, and any that should not be there.
    const fn others(&self) -> usize {
        self.groups.saturating_sub(self.occupied())
    }

    /// Whether nothing is there but the sandboxes that are kept ready: with a process forked into them, and, from the first
    /// package zygote on, as many bare ones.
    pub(crate) fn is_at_rest(&self) -> bool {
        let bare = self.others();
        self.prepared >= PREPARED
            && (bare == 0 || bare == PREPARED as usize)
            && self.groups == self.occupied() + bare
            && self.processes == self.groups + self.occupied()
            && self.namespaces == self.groups
            && self.zygotes >= 1
    }

    /// Descriptors but those of sandboxes that come and go: how many zygotes live at a look is for the kills to say.
    const fn own_fds(&self) -> usize {
        let of_sandboxes = BARE_FDS * self.others()
            + READY_FDS * self.zygote_ready
            + ZYGOTE_FDS * self.package_zygotes;
        self.fds.saturating_sub(of_sandboxes)
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
    // How many sandboxes there are is no question of more or less: with one too many, the worker does not rest.
    if last.own_fds() > early.own_fds() + FD_SLACK {
        faults.push(format!(
            "file descriptors: {} became {}",
            early.own_fds(),
            last.own_fds()
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
            zygote_ready: 0,
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
    fn bare_sandboxes_may_come_with_their_descriptors_and_no_more() {
        let mut looks: Vec<_> = (0..9).map(|n| look(n * 1_000, 40_000, 60)).collect();
        let last = looks.last_mut().unwrap();
        last.groups += PREPARED as usize;
        last.fds += PREPARED as usize * BARE_FDS;
        assert_eq!(judge(&looks), Vec::<String>::new());
        looks.last_mut().unwrap().fds += FD_SLACK + 1;
        assert_eq!(judge(&looks).len(), 1);
    }

    #[test]
    fn a_sandbox_too_many_is_no_rest() {
        let mut holdings = look(1, 1, 1);
        assert!(holdings.is_at_rest());
        for bare in 1..=PREPARED + 1 {
            holdings.groups += 1;
            assert!(!holdings.is_at_rest(), "nothing runs in it");
            holdings.processes += 1;
            holdings.namespaces += 1;
            assert_eq!(holdings.is_at_rest(), bare == PREPARED, "{bare} are bare");
        }
        holdings = look(1, 1, 1);
        holdings.package_zygotes += 1;
        assert!(!holdings.is_at_rest(), "its sandbox is missing");
        holdings.groups += 1;
        holdings.namespaces += 1;
        holdings.processes += 2;
        assert!(holdings.is_at_rest());
    }
}
