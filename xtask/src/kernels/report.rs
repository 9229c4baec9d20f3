//! The result of all kernels, for people and for programs.

use std::io::Write as _;

use anyhow::{Context as _, Result};

use super::outcome::{NotRun, Outcome};

/// Prints a table, or JSON; then, for people, what failed.
pub(super) fn print(outcomes: &[Outcome], json: bool) -> Result<()> {
    let text = if json {
        serde_json::to_string_pretty(outcomes).context("writing JSON")? + "\n"
    } else {
        table(outcomes)
    };
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .context("printing the result")
}

fn table(outcomes: &[Outcome]) -> String {
    let mut rows = vec![
        [
            "KERNEL", "RELEASE", "VERDICT", "PASSED", "FAILED", "NOT RUN", "FRAMES", "VERIFIED",
            "TIME",
        ]
        .map(str::to_owned),
    ];
    for outcome in outcomes {
        let verified: Vec<_> = outcome
            .programs
            .iter()
            .map(|it| format!("{} {}", it.program, it.verified))
            .collect();
        rows.push([
            outcome.kernel.clone(),
            outcome.release.clone(),
            if outcome.is_good() { "ok" } else { "FAILED" }.to_owned(),
            outcome.passed.to_string(),
            outcome.failed.len().to_string(),
            outcome.not_run.len().to_string(),
            outcome.frames.to_string(),
            verified.join(", "),
            format!("{:.0} s", outcome.seconds),
        ]);
    }
    let mut text = aligned(&rows);
    for outcome in outcomes {
        for NotRun { test, reason } in &outcome.not_run {
            text.push_str(&format!(
                "{}: {test} was not run: {reason}\n",
                outcome.kernel
            ));
        }
    }
    for outcome in outcomes.iter().filter(|outcome| !outcome.is_good()) {
        text.push('\n');
        if let Some(error) = &outcome.error {
            text.push_str(&format!("{}: {error}\n", outcome.kernel));
        }
        for test in &outcome.failed {
            text.push_str(&format!("{}: {test}\n", outcome.kernel));
        }
    }
    text
}

fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let cells: Vec<_> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::outcome::Verified;

    #[test]
    fn the_table_has_a_row_a_kernel_and_names_what_failed() {
        let good = Outcome {
            kernel: "6.12".to_owned(),
            release: "6.12.117+deb12-cloud-amd64".to_owned(),
            passed: 29,
            frames: 1_050_000,
            seconds: 55.4,
            programs: vec![Verified {
                program: "balancer".to_owned(),
                verified: 9_339,
                translated: 2_056,
            }],
            ..Outcome::default()
        };
        let bad = Outcome {
            kernel: "6.1".to_owned(),
            failed: vec!["pass::passes (did not run)".to_owned()],
            not_run: vec![NotRun {
                test: "pass::counts".to_owned(),
                reason: "it has no clock".to_owned(),
            }],
            error: Some("the machine ended before its script did".to_owned()),
            ..Outcome::default()
        };
        assert_eq!(
            table(&[good, bad]),
            "\
KERNEL  RELEASE                     VERDICT  PASSED  FAILED  NOT RUN  FRAMES   VERIFIED       TIME
6.12    6.12.117+deb12-cloud-amd64  ok       29      0       0        1050000  balancer 9339  55 s
6.1                                 FAILED   0       1       1        0                       0 s
6.1: pass::counts was not run: it has no clock

6.1: the machine ended before its script did
6.1: pass::passes (did not run)
"
        );
    }
}
