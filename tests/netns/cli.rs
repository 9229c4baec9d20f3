//! `warmpath` as an operator runs it on the balancer's host.

use std::process::Output;

use serde_json::Value;

use crate::bed::{Bed, warmpath};

impl Bed {
    /// Runs `warmpath` with the words of `line`.
    pub(crate) fn cli(&self, line: &str) -> Output {
        let dir = self.topology.run.dir();
        self.topology
            .balancer
            .netns
            .command(warmpath())
            .args(line.split_whitespace())
            .env("WARMPATH_ADMIN", dir.join("balancer.sock"))
            .env("WARMPATH_PIN_PATH", self.pin_path())
            .output()
            .unwrap()
    }

    /// What it prints, having ended well.
    pub(crate) fn says(&self, line: &str) -> String {
        let output = self.cli(line);
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The same with `--json`.
    pub(crate) fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.says(&format!("{line} --json"))).unwrap()
    }

    /// What it says why it does not do so: one line, and exit code 1.
    pub(crate) fn refused(&self, line: &str) -> String {
        let output = self.cli(line);
        assert_eq!(output.status.code(), Some(1), "{line}: {output:?}");
        assert!(output.stdout.is_empty(), "{line}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}
