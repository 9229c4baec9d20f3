//! What things cost: a TOML file of prices, and sums in money.

use std::{fmt, path::Path};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use worker::bill::Line;

/// Prices. What is not named costs nothing.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Prices {
    /// For people.
    pub(crate) currency: String,
    /// A million requests.
    #[serde(default)]
    million_requests: f64,
    /// A second of CPU time.
    #[serde(default)]
    cpu_second: f64,
    /// A gigabyte (1,024 MB of the memory limit) for a second.
    #[serde(default)]
    gb_second: f64,
    /// A gigabyte (10^9 bytes) of events.
    #[serde(default)]
    gb_in: f64,
    /// A gigabyte of replies.
    #[serde(default)]
    gb_out: f64,
    /// A million database reads.
    #[serde(default)]
    million_reads: f64,
    /// A million database writes.
    #[serde(default)]
    million_writes: f64,
}

/// A sum of money.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Money(f64);

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A request costs millionths as a rule.
        write!(f, "{:.9}", self.0)
    }
}

impl Prices {
    /// Reads and checks the file `path`.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the prices {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("the prices {}", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let prices: Self = toml::from_str(text)?;
        for (name, price) in [
            ("million_requests", prices.million_requests),
            ("cpu_second", prices.cpu_second),
            ("gb_second", prices.gb_second),
            ("gb_in", prices.gb_in),
            ("gb_out", prices.gb_out),
            ("million_reads", prices.million_reads),
            ("million_writes", prices.million_writes),
        ] {
            anyhow::ensure!(
                price.is_finite() && price >= 0.0,
                "{name} = {price} is no price"
            );
        }
        Ok(prices)
    }

    /// What `line` costs.
    pub(crate) fn of(&self, line: &Line) -> Money {
        let million = |count: u64| count as f64 / 1e6;
        let gigabytes = |bytes: u64| bytes as f64 / 1e9;
        Money(
            self.million_requests * million(line.requests)
                + self.cpu_second * line.cpu_ns as f64 / 1e9
                + self.gb_second * line.memory_mb_ms as f64 / 1_024e3
                + self.gb_in * gigabytes(line.bytes_in)
                + self.gb_out * gigabytes(line.bytes_out)
                + self.million_reads * million(line.db_reads_local + line.db_reads_remote)
                + self.million_writes * million(line.db_writes_local + line.db_writes_remote),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_is_its_parts_times_their_prices() {
        let prices = "currency = 'EUR'\nmillion_requests = 2\ncpu_second = 3\ngb_second = 5\nmillion_writes = 7";
        let prices = Prices::parse(prices).unwrap();
        let line = Line {
            requests: 500_000,
            cpu_ns: 2_000_000_000,
            memory_mb_ms: 1_024_000,
            db_writes_local: 1_000_000,
            db_reads_local: 1_000_000,
            ..Line::default()
        };
        assert_eq!(prices.of(&line), Money(1.0 + 6.0 + 5.0 + 7.0));
        assert_eq!(prices.of(&Line::default()).to_string(), "0.000000000");
    }

    #[test]
    fn only_prices_are_prices() {
        for bad in [
            "",
            "currency = 'EUR'\ncpu_second = -1",
            "currency = 'EUR'\ncpu_second = nan",
            "currency = 'EUR'\ncpu_minute = 1",
            "currency = 3",
        ] {
            assert!(Prices::parse(bad).is_err(), "{bad}");
        }
    }
}
