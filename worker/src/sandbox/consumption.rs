//! What the processes of one cgroup have used, read through descriptors kept open: half a microsecond
//! each, so that every request can afford it.

use std::{fs::File, os::unix::fs::FileExt, path::Path};

/// Longer than any of the files; `cpu.stat` names what is wanted first.
const READ_BYTES: usize = 128;

/// Reads the counters of one cgroup.
#[derive(Debug)]
pub struct Consumption {
    cpu: Counter,
    peak: Option<Counter>,
}

impl Consumption {
    /// Of the version 1 group with these directories.
    pub(super) fn v1(cpuacct: &Path, memory: &Path) -> std::io::Result<Self> {
        Ok(Self {
            cpu: Counter::open(&cpuacct.join("cpuacct.usage"), "", 1, false)?,
            peak: Counter::open(&memory.join("memory.max_usage_in_bytes"), "", 1, true).ok(),
        })
    }

    /// Of the version 2 group with this directory. The kernel has `memory.peak` from 5.19 on, and lets it be
    /// reset from 6.12 on.
    pub(super) fn v2(directory: &Path) -> std::io::Result<Self> {
        Ok(Self {
            cpu: Counter::open(&directory.join("cpu.stat"), "usage_usec ", 1_000, false)?,
            peak: Counter::open(&directory.join("memory.peak"), "", 1, true).ok(),
        })
    }

    /// CPU time of all its processes, those that have ended included. `None` when the group is gone.
    #[must_use]
    pub fn cpu_ns(&self) -> Option<u64> {
        self.cpu.read()
    }

    /// Most memory it has had since it was made, or since [`Self::forget_peak`] where the kernel can forget.
    #[must_use]
    pub fn peak_bytes(&self) -> Option<u64> {
        self.peak.as_ref()?.read()
    }

    /// Has the peak begin anew, at what is used now. Older kernels cannot, and go on with the old one.
    pub fn forget_peak(&self) {
        if let Some(peak) = &self.peak {
            drop(peak.file.write_at(b"0", 0));
        }
    }
}

/// A number in a file.
#[derive(Debug)]
struct Counter {
    file: File,
    /// What stands before it.
    prefix: &'static str,
    unit: u64,
}

impl Counter {
    fn open(path: &Path, prefix: &'static str, unit: u64, writes: bool) -> std::io::Result<Self> {
        let read_only = || File::open(path);
        let file = if writes {
            // Where it cannot be written it can still be read.
            File::options()
                .read(true)
                .write(true)
                .open(path)
                .or_else(|_| read_only())?
        } else {
            read_only()?
        };
        Ok(Self { file, prefix, unit })
    }

    fn read(&self) -> Option<u64> {
        let mut buffer = [0; READ_BYTES];
        let len = self.file.read_at(&mut buffer, 0).ok()?;
        number_in(buffer.get(..len)?, self.prefix).map(|number| number * self.unit)
    }
}

/// The digits behind `prefix` at the front of `text`.
fn number_in(text: &[u8], prefix: &str) -> Option<u64> {
    let rest = text.strip_prefix(prefix.as_bytes())?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(rest.get(..digits)?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_counters_of_both_versions() {
        let stat = b"usage_usec 92080\nuser_usec 88242\nsystem_usec 3837\n";
        assert_eq!(number_in(stat, "usage_usec "), Some(92_080));
        assert_eq!(number_in(b"83334735\n", ""), Some(83_334_735));
        assert_eq!(number_in(b"", ""), None);
        assert_eq!(number_in(b"usage_usec \n", "usage_usec "), None);
        assert_eq!(number_in(b"99999999999999999999999\n", ""), None);
    }
}
