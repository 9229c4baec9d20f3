//! `cargo xtask bench control`: what the control plane costs, at several sizes. Prints a table; `--report F.json`, `--plot F.svg`,
//! and `target/bench/control.md` for docs/performance.md.
#![expect(clippy::print_stdout, reason = "the table is what this is for")]

use std::{env, error::Error, fmt::Write as _, fs, path::PathBuf, process};

use balancer_userspace::bench::{Report, Size, measure};
use occasion::Occasion;

/// Where `cargo xtask bench document` looks for what it puts into docs/performance.md.
const FRAGMENT: &str = "target/bench/control.md";
const KINDS: [&str; 6] = [
    "warm set",
    "function deployed",
    "worker lost: its row",
    "worker lost: all tables",
    "worker drained",
    "worker joined",
];

struct Options {
    report: Option<PathBuf>,
    plot: Option<PathBuf>,
    is_quick: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = options()?;
    let occasion = Occasion::begin();
    let (sizes, rounds): (&[(u32, u16)], usize) = if options.is_quick {
        (&[(1_000, 16), (100_000, 256)], 20)
    } else {
        (
            &[
                (1_000, 16),
                (10_000, 256),
                (100_000, 1_024),
                (1_000_000, 1_024),
                (1_000_000, 4_096),
            ],
            100,
        )
    };
    let mut reports = Vec::new();
    for (functions, workers) in sizes {
        let size = Size {
            functions: *functions,
            workers: *workers,
        };
        let pin_path = env::temp_dir().join(format!("wp-bench-{}", process::id()));
        reports.push(measure(size, &pin_path, rounds)?);
    }
    let table = table(&reports);
    println!("{table}");
    if let Some(parent) = PathBuf::from(FRAGMENT).parent() {
        fs::create_dir_all(parent)?;
    }
    let occasion = occasion.end();
    fs::write(FRAGMENT, format!("{}\n\n{table}", occasion.line()))?;
    if let Some(path) = options.report {
        occasion.write(&path, &serde_json::to_string_pretty(&reports)?)?;
    }
    if let Some(path) = options.plot {
        fs::write(path, plot(&reports))?;
    }
    Ok(())
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        report: None,
        plot: None,
        is_quick: false,
    };
    let mut arguments = env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut file = || {
            arguments
                .next()
                .map(PathBuf::from)
                .ok_or("a file is needed")
        };
        match argument.as_str() {
            "--report" => options.report = Some(file()?),
            "--plot" => options.plot = Some(file()?),
            "--quick" => options.is_quick = true,
            _ => {
                return Err(
                    "usage: bench control [--quick] [--report F.json] [--plot F.svg]".to_owned(),
                );
            }
        }
    }
    Ok(options)
}

/// As Markdown: one column for each size.
fn table(reports: &[Report]) -> String {
    let mut text = String::from("| functions × workers |");
    for report in reports {
        write!(
            text,
            " {} × {} |",
            report.size.functions, report.size.workers
        )
        .unwrap_or_default();
    }
    text.push_str("\n|---|");
    text.push_str(&"--:|".repeat(reports.len()));
    let mut row = |name: &str, cell: &dyn Fn(&Report) -> String| {
        write!(text, "\n| {name} |").unwrap_or_default();
        for report in reports {
            write!(text, " {} |", cell(report)).unwrap_or_default();
        }
    };
    row("load from nothing, s", &|report| {
        format!("{:.2}", report.load_s)
    });
    for kind in KINDS {
        row(&format!("{kind}, p50 / p99 ms"), &|report| {
            report.changes.get(kind).map_or_else(String::new, |times| {
                format!("{:.3} / {:.3}", times.p50_ms, times.p99_ms)
            })
        });
    }
    row("CPU with LOAD packets, ms/s", &|report| {
        format!("{:.1}", report.load_packets_cpu_ms_per_s)
    });
    row("CPU with 10,000 heartbeats/s, ms/s", &|report| {
        format!("{:.0}", report.heartbeats_cpu_ms_per_s)
    });
    row("the same, ten of a worker at once, ms/s", &|report| {
        format!("{:.1}", report.heartbeat_bursts_cpu_ms_per_s)
    });
    row("memory of the process, MiB", &|report| {
        format!("{:.0}", report.process_mib)
    });
    row("memory of the maps, MiB", &|report| {
        format!("{:.0}", report.maps_mib)
    });
    text.push('\n');
    text
}

/// How each figure grows, on a logarithmic axis, from size to size.
fn plot(reports: &[Report]) -> String {
    let (width, height, margin) = (720.0, 420.0, 60.0);
    // Side by side, as sizes that differ little would have their names one on the other.
    let x = |place: usize| {
        2.0 * margin + (width - 3.0 * margin) * place as f64 / (reports.len().max(2) - 1) as f64
    };
    // From a microsecond to a hundred seconds, in milliseconds.
    let y = |ms: f64| {
        let part = (ms.max(1e-3).log10() + 3.0) / 8.0;
        height - margin - (height - 2.0 * margin) * part
    };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"11\">\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\
         <text x=\"{margin}\" y=\"20\">p99 of one change, and load from nothing, by functions × workers (ms, log)</text>"
    );
    for decade in -3..=5 {
        let at = y(10f64.powi(decade));
        write!(
            svg,
            "<line x1=\"{margin}\" x2=\"{}\" y1=\"{at}\" y2=\"{at}\" stroke=\"#ddd\"/><text x=\"8\" y=\"{at}\">1e{decade}</text>",
            width - margin
        )
        .unwrap_or_default();
    }
    let colours = ["#c33", "#36c", "#393", "#963", "#639", "#099", "#333"];
    for (number, (kind, colour)) in KINDS
        .iter()
        .chain(&["load from nothing"])
        .zip(colours)
        .enumerate()
    {
        let point = |(place, report): (usize, &Report)| {
            let ms = match report.changes.get(kind) {
                Some(times) => times.p99_ms,
                None => report.load_s * 1e3,
            };
            format!("{:.1},{:.1}", x(place), y(ms))
        };
        let points: Vec<String> = reports.iter().enumerate().map(point).collect();
        let at = 40 + 14 * number;
        write!(
            svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/><text x=\"{}\" y=\"{at}\" fill=\"{colour}\">{kind}</text>",
            points.join(" "),
            margin + 8.0
        )
        .unwrap_or_default();
    }
    for (place, report) in reports.iter().enumerate() {
        write!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}×{}</text>",
            x(place),
            height - margin + 16.0,
            report.size.functions,
            report.size.workers
        )
        .unwrap_or_default();
    }
    svg.push_str("</svg>\n");
    svg
}
