//! The report: rows as JSON, as a table with the aims beside the figures, and as Markdown for docs/performance.md.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// One measured case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    /// Its name: what, by which way, of what.
    pub(crate) case: String,
    /// ms, us, MB or 1/s.
    pub(crate) unit: String,
    /// The median of the measurements.
    pub(crate) p50: f64,
    /// What 99 of a hundred stay below.
    pub(crate) p99: f64,
    /// What 999 of a thousand stay below, where there are so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) p999: Option<f64>,
    /// The least.
    pub(crate) min: f64,
    /// The greatest.
    pub(crate) max: f64,
    /// How many measurements.
    pub(crate) n: usize,
}

/// What a case is to reach: a bound of its median.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Aim {
    AtMost(f64),
    /// So many times the row of that name, at least.
    TimesOf(f64, &'static str),
}

/// The aims of issue 4, by the beginning of a case's name.
const AIMS: [(&str, Aim); 14] = [
    ("first_reply/zygote/none", Aim::AtMost(6.0)),
    ("first_reply/zygote/numpy", Aim::AtMost(7.0)),
    ("first_reply/thaw/none", Aim::AtMost(0.3)),
    ("burst/began", Aim::AtMost(400.0)),
    ("burst/replied", Aim::AtMost(800.0)),
    ("memory/instance", Aim::AtMost(4.0)),
    ("warm/unix/closed 1", Aim::AtMost(40.0)),
    ("parked/memory", Aim::AtMost(1_024.0)),
    (
        "first_reply/crun/none",
        Aim::TimesOf(3.0, "first_reply/zygote/none"),
    ),
    (
        "first_reply/runc/none",
        Aim::TimesOf(3.0, "first_reply/zygote/none"),
    ),
    (
        "first_reply/crun/stdlib",
        Aim::TimesOf(3.0, "first_reply/zygote/stdlib"),
    ),
    (
        "first_reply/runc/stdlib",
        Aim::TimesOf(3.0, "first_reply/zygote/stdlib"),
    ),
    (
        "first_reply/crun/numpy",
        Aim::TimesOf(3.0, "first_reply/zygote/numpy"),
    ),
    (
        "first_reply/runc/numpy",
        Aim::TimesOf(3.0, "first_reply/zygote/numpy"),
    ),
];
/// So many measurements have a p99.9.
const THOUSAND: usize = 1_000;

impl Row {
    /// The row of `values`; none if there are none.
    pub(crate) fn of(case: impl Into<String>, unit: &str, mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        // The nearest rank: a value that was measured.
        let at = |permille: usize| {
            let rank = (values.len() * permille).div_ceil(1_000).max(1);
            values.get(rank - 1).copied()
        };
        Some(Self {
            case: case.into(),
            unit: unit.to_owned(),
            p50: at(500)?,
            p99: at(990)?,
            p999: if values.len() >= THOUSAND {
                at(999)
            } else {
                None
            },
            min: *values.first()?,
            max: *values.last()?,
            n: values.len(),
        })
    }

    fn aim(&self) -> Option<Aim> {
        AIMS.iter()
            .find(|(case, _aim)| *case == self.case)
            .map(|(_case, aim)| *aim)
    }

    /// The aim in words, and whether it is met; none when there is no aim, or nothing to compare with.
    fn verdict(&self, rows: &[Self]) -> Option<(String, bool)> {
        match self.aim()? {
            Aim::AtMost(limit) => Some((format!("≤ {limit}"), self.p50 <= limit)),
            Aim::TimesOf(factor, other) => {
                let other = rows.iter().find(|row| row.case == other)?;
                let times = self.p50 / other.p50;
                Some((format!("{times:.1} × ours, ≥ {factor}"), times >= factor))
            }
        }
    }
}

/// Three digits that count.
fn figure(value: f64) -> String {
    let digits: usize = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else if value >= 1.0 {
        2
    } else {
        3
    };
    format!("{value:.digits$}")
}

/// The table, and how many aims were met and missed.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut out = format!(
        "{:34} {:>5} {:>9} {:>9} {:>9} {:>9} {:>9} {:>7}  aim\n",
        "case", "unit", "p50", "p99", "p99.9", "min", "max", "n"
    );
    let (mut met, mut missed) = (0, 0);
    for row in rows {
        let verdict = match row.verdict(rows) {
            Some((words, true)) => {
                met += 1;
                format!("{words}: met")
            }
            Some((words, false)) => {
                missed += 1;
                format!("{words}: MISSED")
            }
            None => String::new(),
        };
        // Writing to a string cannot fail, here and below.
        let _infallible = writeln!(
            out,
            "{:34} {:>5} {:>9} {:>9} {:>9} {:>9} {:>9} {:>7}  {verdict}",
            row.case,
            row.unit,
            figure(row.p50),
            figure(row.p99),
            row.p999.map_or_else(String::new, figure),
            figure(row.min),
            figure(row.max),
            row.n,
        );
    }
    out + &format!("aims: {met} met, {missed} missed\n")
}

/// The same as Markdown, with the plot.
pub(crate) fn markdown(rows: &[Row]) -> String {
    let mut out = String::from(
        "![first replies by the way an instance comes](figures/worker.svg)\n\n\
         | case | unit | p50 | p99 | p99.9 | min–max | n | aim |\n|---|---|--:|--:|--:|--:|--:|---|\n",
    );
    for row in rows {
        let verdict = row.verdict(rows);
        let median = match verdict {
            Some((_, false)) => format!("**{}**", figure(row.p50)),
            _ => figure(row.p50),
        };
        let _infallible = writeln!(
            out,
            "| {} | {} | {median} | {} | {} | {}–{} | {} | {} |",
            row.case,
            row.unit,
            figure(row.p99),
            row.p999.map_or_else(String::new, figure),
            figure(row.min),
            figure(row.max),
            row.n,
            verdict.map_or_else(String::new, |(words, _met)| words),
        );
    }
    out + "\n**Bold** misses its aim.\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(case: &str, values: &[f64]) -> Row {
        Row::of(case, "ms", values.to_vec()).expect("there are values")
    }

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let values: Vec<f64> = (1..=1_000).rev().map(f64::from).collect();
        let row = row("x", &values);
        assert_eq!((row.p50, row.p99, row.p999), (500.0, 990.0, Some(999.0)));
        assert_eq!((row.min, row.max, row.n), (1.0, 1_000.0, 1_000));
        assert_eq!(Row::of("x", "ms", Vec::new()), None);
    }

    #[test]
    fn the_json_has_the_fields_that_were_asked_for() {
        let json = serde_json::to_value(row("x", &[1.0])).expect("a row is JSON");
        let mut fields: Vec<_> = json.as_object().expect("an object").keys().collect();
        fields.sort();
        assert_eq!(fields, ["case", "max", "min", "n", "p50", "p99", "unit"]);
    }

    #[test]
    fn others_are_to_be_three_times_slower_than_ours() {
        let rows = [
            row("first_reply/zygote/none", &[4.0]),
            row("first_reply/crun/none", &[13.0]),
            row("first_reply/runc/none", &[11.0]),
        ];
        let text = table(&rows);
        assert!(text.contains("3.2 × ours, ≥ 3: met"), "{text}");
        assert!(text.contains("2.8 × ours, ≥ 3: MISSED"), "{text}");
        assert!(text.contains("aims: 2 met, 1 missed"), "{text}");
    }

    #[test]
    fn small_figures_keep_their_digits() {
        let figures = [0.123_4, 1.234, 12.34, 123.4].map(figure);
        assert_eq!(figures, ["0.123", "1.23", "12.3", "123"]);
    }
}
