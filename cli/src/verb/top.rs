//! `warmpath status --top`: which VIPs, workers, functions and outcomes packets go to, how many a second now and how
//! many in all.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Result;
use balancer_userspace::{
    api::types::{CounterValue, TrafficReport, TrafficRow},
    client::{AdminClient, AdminError},
    maps,
};
use serde::Serialize;

use crate::{
    args::{AdminArgs, OutputArgs, PinArgs},
    output::{self, Exit, Table},
};

/// What is counted, at one time.
struct Reading {
    at: Instant,
    traffic: TrafficReport,
    counters: Vec<CounterValue>,
}

/// What `--json` prints.
#[derive(Debug, PartialEq, Serialize)]
struct Top {
    /// How far apart the two readings are that the rates are of.
    seconds: f64,
    vips: Vec<Line>,
    workers: Vec<Line>,
    functions: Vec<Line>,
    outcomes: Vec<Line>,
}

/// One VIP, worker, function or outcome.
#[derive(Debug, PartialEq, Serialize)]
struct Line {
    name: String,
    packets_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_per_second: Option<f64>,
    packets: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
}

pub(super) async fn top(
    rows: usize,
    seconds: f64,
    admin: &AdminArgs,
    pins: &PinArgs,
    output: &OutputArgs,
) -> Result<Exit> {
    let pause = Duration::try_from_secs_f64(seconds)?;
    let mut exit = Exit::Ok;
    let before = match from_control_plane(&admin.admin).await {
        Ok(reading) => reading,
        Err(error) => {
            output::talk(format_args!(
                "warmpath: {error}; what follows is the kernel's own, which knows no names"
            ));
            exit = Exit::Failed;
            from_kernel(&pins.pin_path)?
        }
    };
    tokio::time::sleep(pause).await;
    let after = match exit {
        Exit::Ok => from_control_plane(&admin.admin).await?,
        Exit::Failed => from_kernel(&pins.pin_path)?,
    };
    let top = Top::between(&before, &after, rows);
    if output.json {
        output::json(&top)?;
    } else {
        top.print()?;
    }
    Ok(exit)
}

async fn from_control_plane(socket: &Path) -> Result<Reading, AdminError> {
    let client = AdminClient::new(socket)?;
    Ok(Reading {
        at: Instant::now(),
        traffic: client.traffic().await?,
        counters: client.counters().await?,
    })
}

fn from_kernel(pin_path: &Path) -> Result<Reading> {
    Ok(Reading {
        at: Instant::now(),
        traffic: maps::traffic(pin_path)?,
        counters: maps::counters(pin_path)?,
    })
}

impl Top {
    /// The `rows` of each kind that most packets went to between the readings, and if that is equal, at all.
    fn between(before: &Reading, after: &Reading, rows: usize) -> Self {
        let seconds = after.at.duration_since(before.at).as_secs_f64();
        let most = |before: &[TrafficRow], after: &[TrafficRow]| {
            let mut lines = lines(before, after, seconds);
            lines.truncate(rows);
            lines
        };
        let (b, a) = (&before.traffic, &after.traffic);
        Self {
            seconds,
            vips: most(&b.vips, &a.vips),
            workers: most(&b.workers, &a.workers),
            functions: most(&b.functions, &a.functions),
            outcomes: most(&outcomes(&before.counters), &outcomes(&after.counters)),
        }
    }

    fn print(&self) -> Result<()> {
        let kinds = [
            ("vip", &self.vips),
            ("worker", &self.workers),
            ("function", &self.functions),
            ("outcome", &self.outcomes),
        ];
        for (number, (kind, lines)) in kinds.into_iter().enumerate() {
            if number > 0 {
                output::line("")?;
            }
            let has_bytes = lines.iter().any(|line| line.bytes.is_some());
            let mut headings = vec![kind, "packets/s", "packets"];
            if has_bytes {
                headings.extend(["bytes/s", "bytes"]);
            }
            let mut table = Table::new(&headings);
            for line in lines {
                let mut cells = vec![
                    line.name.clone(),
                    format!("{:.0}", line.packets_per_second),
                    line.packets.to_string(),
                ];
                if has_bytes {
                    cells.push(format!("{:.0}", line.bytes_per_second.unwrap_or(0.0)));
                    cells.push(line.bytes.unwrap_or(0).to_string());
                }
                table.row(cells);
            }
            table.print()?;
        }
        Ok(())
    }
}

/// What became of packets; details count them a second time.
fn outcomes(counters: &[CounterValue]) -> Vec<TrafficRow> {
    let is_outcome = |counter: &&CounterValue| !["packets", "detail"].contains(&&*counter.class);
    let row = |counter: &CounterValue| TrafficRow {
        name: format!("{}/{}", counter.class, counter.label),
        packets: counter.value,
        bytes: None,
    };
    counters.iter().filter(is_outcome).map(row).collect()
}

/// Those that were ever counted, the busiest first.
fn lines(before: &[TrafficRow], after: &[TrafficRow], seconds: f64) -> Vec<Line> {
    let before: BTreeMap<&str, &TrafficRow> =
        before.iter().map(|row| (row.name.as_str(), row)).collect();
    let mut lines: Vec<Line> = after
        .iter()
        .filter(|row| row.packets > 0)
        .map(|row| {
            let was = before.get(row.name.as_str());
            Line {
                name: row.name.clone(),
                packets_per_second: rate(was.map(|was| was.packets), row.packets, seconds),
                bytes_per_second: row
                    .bytes
                    .map(|bytes| rate(was.and_then(|was| was.bytes), bytes, seconds)),
                packets: row.packets,
                bytes: row.bytes,
            }
        })
        .collect();
    lines.sort_by(|a, b| {
        let by_rate = b.packets_per_second.total_cmp(&a.packets_per_second);
        let by_packets = b.packets.cmp(&a.packets);
        by_rate.then(by_packets).then_with(|| a.name.cmp(&b.name))
    });
    lines
}

/// A count that has gone down began anew, as that of a function does which lost its row and took it again.
fn rate(before: Option<u64>, after: u64, seconds: f64) -> f64 {
    let more = after.checked_sub(before.unwrap_or(0)).unwrap_or(after);
    if seconds > 0.0 {
        more as f64 / seconds
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, packets: u64, bytes: Option<u64>) -> TrafficRow {
        TrafficRow {
            name: name.to_owned(),
            packets,
            bytes,
        }
    }

    fn names(lines: &[Line]) -> Vec<&str> {
        lines.iter().map(|line| line.name.as_str()).collect()
    }

    #[test]
    fn the_busiest_now_comes_first_then_who_had_most_in_all() {
        let before = [
            row("old", 900, None),
            row("idle", 1_000, None),
            row("none", 0, None),
        ];
        let after = [
            row("idle", 1_000, None),
            row("none", 0, None),
            row("old", 901, None),
            row("idle too", 5, None),
            row("new", 10, None),
        ];
        let lines = lines(&before, &after, 2.0);
        assert_eq!(names(&lines), ["new", "idle too", "old", "idle"]);
        let rates: Vec<f64> = lines.iter().map(|line| line.packets_per_second).collect();
        assert_eq!(rates, [5.0, 2.5, 0.5, 0.0]);
    }

    #[test]
    fn a_count_that_began_anew_is_all_new() {
        let lines = lines(&[row("f", 500, Some(9))], &[row("f", 40, Some(19))], 1.0);
        assert_eq!(lines[0].packets_per_second, 40.0);
        assert_eq!(lines[0].bytes_per_second, Some(10.0));
    }

    #[test]
    fn details_are_no_outcomes() {
        let counter = |class: &str, label: &str| CounterValue {
            class: class.to_owned(),
            label: label.to_owned(),
            value: 1,
            help: String::new(),
        };
        let counters = [
            counter("packets", "packets"),
            counter("route", "warm"),
            counter("detail", "cookie_forged"),
            counter("consume", "load"),
        ];
        let rows = outcomes(&counters);
        let names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names, ["route/warm", "consume/load"]);
    }

    #[test]
    fn only_so_many_rows_of_each_kind_are_shown() {
        let reading = |at, packets| Reading {
            at,
            traffic: TrafficReport {
                vips: vec![row("a", packets, Some(1)), row("b", 2 * packets, Some(1))],
                workers: Vec::new(),
                functions: Vec::new(),
            },
            counters: Vec::new(),
        };
        let began = Instant::now();
        let before = reading(began, 1);
        let after = reading(began + Duration::from_secs(4), 9);
        let top = Top::between(&before, &after, 1);
        assert_eq!(names(&top.vips), ["b"]);
        assert_eq!((top.seconds, top.vips[0].packets_per_second), (4.0, 4.0));
    }
}
