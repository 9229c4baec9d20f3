//! `bench document`: writes measured figures into docs/performance.md, between the markers of each section, so that the
//! text around them stays whoever wrote it.
//!
//! A section `NAME` stands between `<!-- begin NAME -->` and `<!-- end NAME -->`. Its content comes from `NAME.json` in the
//! folder of reports, where this file knows how to render it, or else from `NAME.md` as it is: a benchmark of another
//! package adds itself by writing that file and a pair of markers. Each begins with a line that says when and where it
//! was measured, by [`Occasion`].

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, ensure};
use occasion::{Occasion, UNKNOWN};

use crate::{live, ops, report::Row};

/// What `bench document` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The folder with the reports.
    #[arg(long, value_name = "DIR")]
    reports: PathBuf,
    /// The document.
    #[arg(long, value_name = "FILE")]
    document: PathBuf,
}

/// Writes the document anew.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut text = fs::read_to_string(&args.document)
        .with_context(|| format!("reading {}", args.document.display()))?;
    for name in sections(&text) {
        if let Some(content) = content(&args.reports, &name)? {
            text = replaced(&text, &name, &content)?;
        }
    }
    fs::write(&args.document, text)
        .with_context(|| format!("writing {}", args.document.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// The names of all sections with markers.
fn sections(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.strip_prefix("<!-- begin ")?.strip_suffix(" -->"))
        .map(str::to_owned)
        .collect()
}

fn content(reports: &Path, name: &str) -> Result<Option<String>> {
    let json = reports.join(format!("{name}.json"));
    let known = matches!(name, "xdp" | "live" | "ops");
    let path = if known {
        json
    } else {
        reports.join(format!("{name}.md"))
    };
    if !path.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let rendered = match name {
        "xdp" => xdp(&serde_json::from_str::<Vec<Row>>(&text)?),
        "live" => live::markdown(&serde_json::from_str::<Vec<live::Row>>(&text)?),
        "ops" => ops::markdown(&serde_json::from_str::<Vec<ops::Row>>(&text)?),
        // Its benchmark has written that into it.
        _ => return Ok(Some(text)),
    };
    let occasion = Occasion::of(&path)?;
    let line = occasion.map_or_else(|| UNKNOWN.to_owned(), |it| it.line());
    Ok(Some(format!("{line}\n\n{rendered}")))
}

fn replaced(text: &str, name: &str, content: &str) -> Result<String> {
    let begin = format!("<!-- begin {name} -->\n");
    let end = format!("<!-- end {name} -->");
    let (before, rest) = text
        .split_once(&begin)
        .with_context(|| format!("no marker {begin}"))?;
    let (_old, after) = rest
        .split_once(&end)
        .with_context(|| format!("no marker {end}"))?;
    ensure!(
        !content.contains(&end),
        "the section `{name}` holds its own marker"
    );
    Ok(format!(
        "{before}{begin}\n{}\n\n{end}{after}",
        content.trim()
    ))
}

/// Three tables: rules by flows, encapsulation, floors and answers.
fn xdp(rows: &[Row]) -> String {
    let mut out = String::from("![net nanoseconds against flows](figures/xdp.svg)\n\n");
    out += "| rule, l2 | 1 | 1k | 131k | 1M | targets |\n|---|---|---|---|---|---|\n";
    for ip in ["v4", "v6"] {
        for rule in [
            "pass",
            "shard",
            "cookie",
            "warm",
            "home",
            "session",
            "session_new",
            "flow",
            "flow_new",
            "flow_new_udp",
            "quic",
        ] {
            out += &by_flows(rows, ip, rule);
        }
    }
    out += "\nNet ns a packet: median, less the floor measured right before it with the same template; **bold** misses its target. \
            Every packet was counted under its rule, but for sessions and flows that lost their place in a full row \
            (below 0.2 %; the report has the counts).\n\n";
    out += "| rule, 1 flow | ";
    let ways = ["l2", "ipip4", "ipip6", "gue4", "gue6"];
    out += &ways.join(" | ");
    out += " |\n|---|---|---|---|---|---|\n";
    for ip in ["v4", "v6"] {
        for rule in ["shard", "cookie", "warm", "session", "flow"] {
            let cell = |way: &&str| {
                found(rows, ip, rule, way, 1)
                    .map_or_else(String::new, |row| format!("{:.0}", row.net()))
            };
            let cells: Vec<_> = ways.iter().map(cell).collect();
            if cells.iter().any(|cell| !cell.is_empty()) {
                let _infallible = writeln!(out, "| {rule} {ip} | {} |", cells.join(" | "));
            }
        }
    }
    out += "\nThe number behind the encapsulation is the IP version of the outer header.\n\n\
            | floor or answer | median ns | net ns | min–max | rounds × packets |\n|---|---|---|---|---|\n";
    let is_other = |row: &&Row| ["floor", "answer"].contains(&row.rule.as_str());
    for row in rows.iter().filter(is_other) {
        let _infallible = writeln!(
            out,
            "| {} | {:.0} | {:.0} | {:.0}–{:.0} | {} × {} |",
            row.case,
            row.median_ns,
            row.net(),
            row.min_ns,
            row.max_ns,
            row.rounds,
            row.packets / u64::from(row.rounds.max(1)),
        );
    }
    out
}

fn by_flows(rows: &[Row], ip: &str, rule: &str) -> String {
    let mut targets = Vec::new();
    let mut cells = Vec::new();
    for flows in crate::cases::FLOWS {
        let Some(row) = found(rows, ip, rule, "l2", flows) else {
            cells.push(String::new());
            continue;
        };
        let net = format!("{:.0}", row.net());
        let target = row.target();
        cells.push(if target.is_some_and(|target| row.net() > target) {
            format!("**{net}**")
        } else {
            net
        });
        targets.push(target.map_or_else(|| "–".to_owned(), |target| format!("{target:.0}")));
    }
    if targets.is_empty() {
        return String::new();
    }
    format!(
        "| {rule} {ip} | {} | ≤ {} |\n",
        cells.join(" | "),
        targets.join(" / ")
    )
}

/// The row of the case that is called after `rule`.
fn found<'a>(rows: &'a [Row], ip: &str, rule: &str, way: &str, flows: u32) -> Option<&'a Row> {
    let name = format!("{rule}/{ip}/{way}/{flows}");
    rows.iter().find(|row| row.case == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_markers_changes() {
        let text = "a\n<!-- begin x -->\nold\n<!-- end x -->\nb\n";
        assert_eq!(sections(text), ["x"]);
        let once = replaced(text, "x", "new\n").expect("the markers are there");
        assert_eq!(once, "a\n<!-- begin x -->\n\nnew\n\n<!-- end x -->\nb\n");
        let twice = replaced(&once, "x", "new\n").expect("the markers are still there");
        assert_eq!(twice, once);
    }

    #[test]
    fn each_section_says_when_and_where_its_own_report_was_made() {
        let dir = std::env::temp_dir().join(format!("wp-document-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a folder");
        let section = |name: &str| content(&dir, name).expect("it is read");
        assert_eq!(section("live"), None);
        fs::write(dir.join("live.json"), "[]").expect("written");
        let unknown = section("live").expect("a section");
        assert!(unknown.starts_with(UNKNOWN), "{unknown}");
        let occasion = Occasion::begin();
        let begins = occasion.line().split(" to ").next().map(str::to_owned);
        let report = dir.join("live.json");
        occasion.write(&report, "[]").expect("written");
        let known = section("live").expect("a section");
        assert!(known.starts_with(&begins.expect("a line")), "{known}");
        assert!(known.contains("| case | Mpps |"), "{known}");
        // Another package's is taken as it is.
        fs::write(dir.join("other.md"), "text").expect("written");
        assert_eq!(section("other").as_deref(), Some("text"));
        fs::write(&report, "no list").expect("written");
        content(&dir, "live").expect_err("what is no report");
        fs::remove_dir_all(&dir).expect("removed");
    }

    #[test]
    fn a_marker_that_is_not_there_is_an_error() {
        assert!(replaced("nothing", "x", "new").is_err());
    }
}
