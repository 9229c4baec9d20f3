//! Net nanoseconds against the number of flows: a panel for each IP version, a line for each rule.

use std::fmt::Write as _;

use testbed::svg::{self, escape};

use crate::report::Row;

const WIDTH: f64 = 1_020.0;
const HEIGHT: f64 = 440.0;
const TOP: f64 = 70.0;
const BOTTOM: f64 = 380.0;
const PANEL_WIDTH: f64 = 330.0;
const PANEL_LEFT: [f64; 2] = [60.0, 540.0];
/// Rules in the order of the legend, and colours that people who see colours differently can tell apart (Okabe, Ito).
const RULES: [(&str, &str); 8] = [
    ("pass", "#777777"),
    ("shard", "#009e73"),
    ("cookie", "#0072b2"),
    ("warm", "#d55e00"),
    ("home", "#56b4e9"),
    ("session", "#cc79a7"),
    ("flow", "#e69f00"),
    ("quic", "#000000"),
];
/// What Katran took on the reference machine for a flow in its LRU table, by the same method (FACTS §3).
const KATRAN: [(u32, f64); 4] = [
    (1, 99.0),
    (1 << 10, 110.0),
    (1 << 17, 580.0),
    (1 << 20, 560.0),
];
const KATRAN_COLOUR: &str = "#999999";

/// A line of a panel.
struct Line<'a> {
    name: &'a str,
    colour: &'a str,
    is_dashed: bool,
    /// Flows, net median, and the ends of the rounds, net.
    points: Vec<(u32, f64, f64, f64)>,
}

/// Draws `rows` as an SVG page.
pub(crate) fn svg(rows: &[Row]) -> String {
    let mut content = String::from(
        "<text x=\"60\" y=\"28\" font-size=\"16\" font-weight=\"600\">The XDP program's time for a packet, by routing \
         rule and number of flows</text>\n\
         <text x=\"60\" y=\"46\" fill=\"#555\">ns, net of the harness measured in the same run; medians, bars from the fastest to the slowest \
         round; forwarding mode l2</text>\n",
    );
    let panels = [("IPv4", "v4"), ("IPv6", "v6")].map(|(title, ip)| (title, lines(rows, ip)));
    let highest = panels
        .iter()
        .flat_map(|(_title, lines)| lines)
        .flat_map(|line| line.points.iter().map(|point| point.3))
        .fold(100.0, f64::max);
    for ((title, lines), left) in panels.iter().zip(PANEL_LEFT) {
        let panel = Panel {
            left,
            highest: highest * 1.05,
        };
        content += &panel.draw(title, lines);
    }
    svg::page(WIDTH, HEIGHT, &content)
}

/// The same as an HTML page, with the figures below.
pub(crate) fn html(rows: &[Row], table: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>bench xdp</title>\n<body>\n{}<pre>{}</pre>\n</body></html>\n",
        svg(rows),
        escape(table)
    )
}

fn lines(rows: &[Row], ip: &str) -> Vec<Line<'static>> {
    let points = |rule: &str| {
        rows.iter()
            .filter(|row| row.ip == ip && row.rule == rule && row.forward == "l2")
            .map(|row| {
                let net = |ns: f64| (ns - row.floor_ns).max(0.0);
                (
                    row.flows,
                    row.net().max(0.0),
                    net(row.min_ns),
                    net(row.max_ns),
                )
            })
            .collect::<Vec<_>>()
    };
    let mut lines: Vec<_> = RULES
        .iter()
        .map(|(name, colour)| Line {
            name,
            colour,
            is_dashed: false,
            points: points(name),
        })
        .filter(|line| !line.points.is_empty())
        .collect();
    if !lines.is_empty() {
        lines.push(Line {
            name: "Katran, LRU hit",
            colour: KATRAN_COLOUR,
            is_dashed: true,
            points: KATRAN.map(|(flows, ns)| (flows, ns, ns, ns)).to_vec(),
        });
    }
    lines
}

/// A box with axes.
struct Panel {
    left: f64,
    highest: f64,
}

impl Panel {
    /// Flows on a logarithmic scale, from 1 to a million.
    fn x(&self, flows: u32) -> f64 {
        self.left + 12.0 + f64::from(flows).log2() / 20.0 * (PANEL_WIDTH - 24.0)
    }

    fn y(&self, ns: f64) -> f64 {
        BOTTOM - ns / self.highest * (BOTTOM - TOP)
    }

    fn draw(&self, title: &str, lines: &[Line<'_>]) -> String {
        let mut out = self.axes(title);
        let mut labels: Vec<(f64, &Line<'_>)> = Vec::new();
        for line in lines {
            let mut path = String::new();
            for (flows, ns, min, max) in &line.points {
                let (x, y) = (self.x(*flows), self.y(*ns));
                // Writing to a string cannot fail.
                let _infallible = write!(path, "{x:.1},{y:.1} ");
                out += &format!(
                    "<path d=\"M{x:.1} {:.1}V{:.1}\" stroke=\"{}\" stroke-opacity=\".45\" stroke-width=\"3\"/>\
                     <circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{}\"/>\n",
                    self.y(*min),
                    self.y(*max),
                    line.colour,
                    line.colour,
                );
                if line.points.last().is_some_and(|last| last.0 == *flows) {
                    labels.push((y, line));
                }
            }
            let dash = if line.is_dashed {
                " stroke-dasharray=\"5 4\""
            } else {
                ""
            };
            out += &format!(
                "<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"1.8\"{dash} points=\"{}\"/>\n",
                line.colour,
                path.trim_end()
            );
        }
        out + &self.labels(labels)
    }

    /// Names at the right ends of the lines, moved apart where they would meet.
    fn labels(&self, mut labels: Vec<(f64, &Line<'_>)>) -> String {
        labels.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut out = String::new();
        let mut free_from = f64::NEG_INFINITY;
        // From below, so that none is pushed out of the box.
        let crowd = labels.len() as f64 * 15.0;
        let mut places: Vec<f64> = Vec::new();
        for (y, _line) in &labels {
            let place = y
                .max(free_from)
                .min(BOTTOM - crowd + (places.len() as f64 + 1.0) * 15.0);
            free_from = place + 15.0;
            places.push(place);
        }
        for (place, (_y, line)) in places.iter().zip(&labels) {
            let ns = line.points.last().map_or(0.0, |point| point.1);
            out += &format!(
                "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{}\">{} {ns:.0}</text>\n",
                self.left + PANEL_WIDTH + 6.0,
                place + 4.0,
                line.colour,
                escape(line.name),
            );
        }
        out
    }

    fn axes(&self, title: &str) -> String {
        let right = self.left + PANEL_WIDTH;
        let left = self.left;
        let mut out = format!(
            "<text x=\"{left}\" y=\"{:.1}\" font-weight=\"600\">{title}</text>\n",
            TOP - 6.0
        );
        let step = if self.highest > 300.0 { 100.0 } else { 50.0 };
        let mut value = 0.0;
        while value <= self.highest {
            let y = self.y(value);
            out += &format!(
                "<path d=\"M{left} {y:.1}H{right}\" stroke=\"#e3e3e3\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>\n",
                left - 6.0,
                y + 4.0
            );
            value += step;
        }
        for (flows, name) in [
            (1, "1"),
            (1 << 10, "1k"),
            (1 << 17, "131k"),
            (1 << 20, "1M"),
        ] {
            let x = self.x(flows);
            out += &format!(
                "<path d=\"M{x:.1} {BOTTOM}v5\" stroke=\"#222\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{name}</text>\n",
                BOTTOM + 19.0
            );
        }
        out + &format!(
            "<path d=\"M{left} {TOP}V{BOTTOM}H{right}\" stroke=\"#222\" fill=\"none\"/>\n\
             <text x=\"{right}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#555\">flows, sessions or functions</text>\n",
            BOTTOM + 36.0
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(rule: &str, flows: u32, median_ns: f64) -> Row {
        Row {
            case: format!("{rule}/v4/l2/{flows}"),
            rule: rule.to_owned(),
            ip: "v4".to_owned(),
            forward: "l2".to_owned(),
            flows,
            median_ns,
            floor_ns: 40.0,
            min_ns: median_ns - 1.0,
            max_ns: median_ns + 5.0,
            rounds: 9,
            packets: 9,
            counted: 9,
        }
    }

    #[test]
    fn each_rule_that_was_measured_has_a_line_with_its_last_figure() {
        let page = svg(&[row("cookie", 1, 95.0), row("cookie", 1 << 20, 96.0)]);
        assert!(page.contains(">cookie 56</text>"), "{page}");
        assert!(!page.contains(">warm "));
        assert!(!page.contains("NaN"));
    }

    #[test]
    fn nothing_measured_still_makes_a_page() {
        let page = svg(&[]);
        assert!(page.starts_with("<svg") && page.ends_with("</svg>\n"));
    }
}
