//! What libFuzzer says of a run.

use std::time::Duration;

/// The figures of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stats {
    /// Inputs that were run.
    runs: u64,
    /// Edges of the program that were reached.
    edges: u64,
    /// Inputs that are kept, because each reaches something new.
    corpus: u64,
    seconds: u64,
    result: &'static str,
}

impl Stats {
    pub(super) const HEADINGS: &str =
        "TARGET                 RUNS   EDGES  CORPUS  SECONDS  RESULT";

    /// Reads `log`, what libFuzzer wrote in `took`.
    pub(super) fn read(log: &str, took: Duration, is_clean: bool) -> Self {
        let last = |label: &str| {
            log.lines()
                .rev()
                .find_map(|line| number_behind(line, label))
                .unwrap_or_default()
        };
        Self {
            runs: last("stat::number_of_executed_units:"),
            edges: last(" cov: "),
            corpus: last(" corp: "),
            seconds: took.as_secs(),
            result: if is_clean { "clean" } else { "FOUND" },
        }
    }

    /// A line of the table.
    pub(super) fn row(&self, target: &str) -> String {
        format!(
            "{target:<16}{:>11}{:>8}{:>8}{:>9}  {}",
            self.runs, self.edges, self.corpus, self.seconds, self.result
        )
    }
}

/// The number that stands behind `label`.
fn number_behind(line: &str, label: &str) -> Option<u64> {
    let (_, rest) = line.split_once(label)?;
    let rest = rest.trim_start();
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    rest.get(..end)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
#2\tINITED cov: 10 ft: 10 corp: 1/1b exec/s: 0 rss: 40Mb
#1140759\tDONE   cov: 24 ft: 24 corp: 7/37b lim: 4096 exec/s: 285189 rss: 124Mb
Done 1140759 runs in 4 second(s)
stat::number_of_executed_units: 1140759
stat::average_exec_per_sec:     285189
";

    #[test]
    fn the_last_word_counts() {
        let stats = Stats::read(LOG, Duration::from_secs(4), true);
        let expected = Stats {
            runs: 1_140_759,
            edges: 24,
            corpus: 7,
            seconds: 4,
            result: "clean",
        };
        assert_eq!(stats, expected);
        assert_eq!(stats.row("x").len(), Stats::HEADINGS.len() - 1);
    }

    #[test]
    fn a_run_without_figures_has_none() {
        let stats = Stats::read("==1==ERROR: AddressSanitizer", Duration::ZERO, false);
        assert_eq!((stats.runs, stats.edges, stats.result), (0, 0, "FOUND"));
    }
}
