//! The trace file format of lcov, as far as llvm-cov writes it: `SF:` names a file, `DA:` a line of it and how often that
//! was run.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// How often each line was run, by file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Coverage {
    /// Files by their path below the folder that was asked for.
    pub(super) files: BTreeMap<PathBuf, BTreeMap<usize, u64>>,
}

impl Coverage {
    /// Reads `text` for the files below `folder`. Lines of tests do not count: `read` gives a file's source, in which they
    /// begin at `#[cfg(test)]`.
    pub(super) fn parse(text: &str, folder: &Path, read: impl Fn(&Path) -> Option<String>) -> Self {
        let mut coverage = Self::default();
        let mut current = None;
        let mut tests_from = usize::MAX;
        for line in text.lines() {
            if let Some(path) = line.strip_prefix("SF:") {
                let path = Path::new(path);
                current = path.strip_prefix(folder).ok().map(Path::to_owned);
                tests_from = read(path).map_or(usize::MAX, |source| first_of_tests(&source));
            } else if let (Some(file), Some(counted)) = (&current, line.strip_prefix("DA:"))
                && let Some((number, count)) = counts(counted)
                && number < tests_from
            {
                let lines = coverage.files.entry(file.clone()).or_default();
                *lines.entry(number).or_default() += count;
            }
        }
        coverage
    }
}

/// `<line>,<count>`.
fn counts(text: &str) -> Option<(usize, u64)> {
    let mut parts = text.split(',');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The line, from 1 on, at which the tests in `source` begin.
fn first_of_tests(source: &str) -> usize {
    let before = source.lines().position(|line| line == "#[cfg(test)]");
    before.map_or(usize::MAX, |before| before + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_tests_and_of_other_folders_do_not_count() {
        let text = "SF:/r/a.rs\nFN:1,x\nDA:1,3\nDA:3,4\nend_of_record\nSF:/other/b.rs\nDA:1,1\nend_of_record\n";
        let source = |_: &Path| Some("fn a() {}\n#[cfg(test)]\nmod tests {}\n".to_owned());
        let coverage = Coverage::parse(text, Path::new("/r"), source);
        let expected = BTreeMap::from([(PathBuf::from("a.rs"), BTreeMap::from([(1, 3)]))]);
        assert_eq!(coverage.files, expected);
    }
}
