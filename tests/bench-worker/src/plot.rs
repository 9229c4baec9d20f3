//! First replies by the way an instance comes: one bar each on a logarithmic scale, a group for each kind of imports.

use std::fmt::Write as _;

use testbed::svg::{COLOURS, escape, page};

use crate::row::Row;

const WIDTH: f64 = 860.0;
const LEFT: f64 = 150.0;
const RIGHT: f64 = 120.0;
const TOP: f64 = 64.0;
const BAR: f64 = 22.0;
const GAP: f64 = 30.0;
/// The ends of the scale, in milliseconds.
const SCALE: (f64, f64) = (0.01, 1_000.0);
const PREFIX: &str = "first_reply/";

/// Draws those of `rows` that are first replies.
pub(crate) fn svg(rows: &[Row]) -> String {
    let mut groups: Vec<(&str, Vec<(&str, &Row)>)> = Vec::new();
    for row in rows {
        let Some((way, imports)) = row
            .case
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once('/'))
        else {
            continue;
        };
        match groups.iter_mut().find(|(name, _)| *name == imports) {
            Some((_, bars)) => bars.push((way, row)),
            None => groups.push((imports, vec![(way, row)])),
        }
    }
    let mut content = String::from(
        "<text x=\"20\" y=\"28\" font-size=\"16\" font-weight=\"600\">From a request to its first reply, by the way an \
         instance comes</text>\n\
         <text x=\"20\" y=\"46\" fill=\"#555\">ms, logarithmic; bars to the median, lines from the least to p99; the same \
         root file system and handler, in turn</text>\n",
    );
    let mut y = TOP;
    for (imports, bars) in &groups {
        let title = match *imports {
            "none" => "no imports".to_owned(),
            "stdlib" => "a web service's part of the standard library".to_owned(),
            other => other.to_owned(),
        };
        let _infallible = writeln!(
            content,
            "<text x=\"20\" y=\"{:.1}\" font-weight=\"600\">{}</text>",
            y + 14.0,
            escape(&title)
        );
        y += 20.0;
        for (way, row) in bars {
            content += &bar(y, way, row);
            y += BAR;
        }
        y += GAP - 10.0;
    }
    content += &axis(y);
    page(WIDTH, y + 30.0, &content)
}

fn x(ms: f64) -> f64 {
    let (low, high) = SCALE;
    let part = (ms.clamp(low, high) / low).log10() / (high / low).log10();
    LEFT + part * (WIDTH - LEFT - RIGHT)
}

fn bar(y: f64, way: &str, row: &Row) -> String {
    let colour = match way {
        "crun" | "runc" => COLOURS[1],
        _ => COLOURS[0],
    };
    let middle = y + BAR / 2.0;
    format!(
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
         <rect x=\"{LEFT}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\" fill-opacity=\".75\"/>\
         <path d=\"M{:.1} {middle:.1}H{:.1}\" stroke=\"#222\"/>\
         <text x=\"{:.1}\" y=\"{:.1}\">{:.2} ms</text>\n",
        LEFT - 8.0,
        middle + 4.0,
        escape(way),
        y + 3.0,
        x(row.p50) - LEFT,
        BAR - 6.0,
        x(row.min),
        x(row.p99),
        x(row.p99) + 6.0,
        middle + 4.0,
        row.p50,
    )
}

fn axis(bottom: f64) -> String {
    let mut out = String::new();
    let (low, high) = SCALE;
    let mut value = low;
    while value <= high * 1.001 {
        let at = x(value);
        let _infallible = writeln!(
            out,
            "<path d=\"M{at:.1} {TOP}V{bottom:.1}\" stroke=\"#222\" stroke-opacity=\".12\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#555\">{value}</text>",
            bottom + 16.0
        );
        value *= 10.0;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_first_reply_has_a_bar_and_nothing_else_has() {
        let rows: Vec<_> = [
            "first_reply/zygote/none",
            "first_reply/crun/numpy",
            "burst/began",
        ]
        .into_iter()
        .filter_map(|case| Row::of(case, "ms", vec![4.0]))
        .collect();
        let page = svg(&rows);
        assert_eq!(page.matches("4.00 ms").count(), 2, "{page}");
        assert!(page.contains(">zygote<") && page.contains(">numpy<"));
        assert!(!page.contains("NaN"));
    }

    #[test]
    fn nothing_measured_still_makes_a_page() {
        let page = svg(&[]);
        assert!(page.starts_with("<svg") && page.ends_with("</svg>\n"));
    }
}
