//! The drawing beside the report: two plots in one SVG, latency and the hand-over of a killed worker's traffic.

use std::{collections::BTreeMap, fmt::Write as _};

use ::tests::{
    load::{Histogram, Sample},
    svg::{COLOURS, escape, page},
};

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 640.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 24.0;
const PLOT_HEIGHT: f64 = 210.0;
/// The slowest share of requests is left out of the latency plot, or it would be all that one sees.
const TAIL_SHOWN: f64 = 0.99;
const LATENCY_STEPS: u64 = 120;
const BUCKET_US: u64 = 50_000;

/// What is drawn.
#[derive(Debug, Default)]
pub(crate) struct Pictures {
    pub(crate) vip: Histogram,
    pub(crate) direct: Histogram,
    pub(crate) hand_over: Option<HandOver>,
}

/// A worker's death, request by request.
#[derive(Debug)]
pub(crate) struct HandOver {
    pub(crate) samples: Vec<Sample>,
    pub(crate) killed_at_us: u64,
    /// Worker id → name.
    pub(crate) names: BTreeMap<u16, String>,
    pub(crate) victim: String,
}

/// A line of a plot: its name and its points in the units of the axes.
struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

/// One plot: a box with axes, at some height of the page.
struct Plot<'a> {
    top: f64,
    title: &'a str,
    x_label: &'a str,
    y_label: &'a str,
    lines: Vec<Line>,
    /// An upright line at this x, and what it marks.
    mark: Option<(f64, String)>,
}

/// Draws the page.
pub(crate) fn draw(pictures: &Pictures) -> String {
    let mut content = latency(pictures).draw();
    if let Some(hand_over) = &pictures.hand_over {
        content += &hand_over_plot(hand_over).draw();
    }
    page(WIDTH, HEIGHT, &content)
}

fn latency(pictures: &Pictures) -> Plot<'static> {
    let both = [
        ("through the VIP", &pictures.vip),
        ("past the balancer", &pictures.direct),
    ];
    let end = both
        .iter()
        .map(|(_name, it)| it.quantile_us(TAIL_SHOWN))
        .max()
        .unwrap_or_default();
    let step = (end / LATENCY_STEPS).max(1);
    let lines = both.map(|(name, histogram)| {
        let mut buckets: BTreeMap<u64, u64> = BTreeMap::new();
        for (us, count) in histogram.iter().filter(|(us, _count)| *us <= end) {
            *buckets.entry(us / step).or_default() += count;
        }
        let all = histogram.len().max(1) as f64;
        let first = buckets.keys().next().copied().unwrap_or_default();
        let share = |bucket| buckets.get(&bucket).copied().unwrap_or_default() as f64 * 100.0 / all;
        Line {
            name: format!("{name}, p50 {} µs", histogram.quantile_us(0.5)),
            points: (first..=end / step)
                .map(|bucket| ((bucket * step) as f64, share(bucket)))
                .collect(),
        }
    });
    Plot {
        top: 50.0,
        title: "Latency of a warm hello, one request at a time",
        x_label: "µs",
        y_label: "% of requests",
        lines: lines.into(),
        mark: None,
    }
}

fn hand_over_plot(hand_over: &HandOver) -> Plot<'static> {
    let begin = hand_over.samples.first().map_or(0, |sample| sample.at_us);
    let end = hand_over.samples.last().map_or(0, |sample| sample.at_us);
    let last = (end - begin) / BUCKET_US;
    let mut counts: BTreeMap<Option<u16>, BTreeMap<u64, u64>> = BTreeMap::new();
    for sample in &hand_over.samples {
        let worker = if sample.ok { sample.worker } else { None };
        let bucket = (sample.at_us - begin) / BUCKET_US;
        *counts.entry(worker).or_default().entry(bucket).or_default() += 1;
    }
    let per_second = 1e6 / BUCKET_US as f64;
    let lines = counts.into_iter().map(|(worker, buckets)| Line {
        name: worker.map_or_else(
            || "failed".to_owned(),
            |id| {
                hand_over
                    .names
                    .get(&id)
                    .cloned()
                    .unwrap_or_else(|| id.to_string())
            },
        ),
        // The last bucket is cut short by the end of the load.
        points: (0..last)
            .map(|bucket| {
                let count = buckets.get(&bucket).copied().unwrap_or_default();
                ((bucket * BUCKET_US) as f64 / 1e3, count as f64 * per_second)
            })
            .collect(),
    });
    let killed_ms = hand_over.killed_at_us.saturating_sub(begin) as f64 / 1e3;
    Plot {
        top: 370.0,
        title: "Requests answered by each worker while one of them is killed",
        x_label: "ms, by the time of sending",
        y_label: "requests/s",
        lines: lines.collect(),
        mark: Some((killed_ms, format!("SIGKILL {}", hand_over.victim))),
    }
}

impl Plot<'_> {
    fn draw(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let fold = |f: fn(f64, f64) -> f64, start: f64, pick: fn(&(f64, f64)) -> f64| {
            points().map(pick).fold(start, f)
        };
        let marked = self.mark.as_ref().map_or(0.0, |(x, _text)| *x);
        let x_max = fold(f64::max, 1.0, |point| point.0).max(marked);
        let x_min = fold(f64::min, x_max, |point| point.0);
        let y_max = fold(f64::max, 1.0, |point| point.1) * 1.05;
        let frame = Frame {
            top: self.top,
            x: (x_min, x_max),
            y_max,
        };
        let mut out = frame.axes(self);
        let mut legend = String::new();
        for (index, line) in self.lines.iter().enumerate() {
            let colour = COLOURS[index % COLOURS.len()];
            let path: Vec<String> = line
                .points
                .iter()
                .map(|(x, y)| format!("{:.1},{:.1}", frame.x_at(*x), frame.y_at(*y)))
                .collect();
            out += &format!(
                "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\" points=\"{}\"/>\n",
                path.join(" "),
            );
            legend += &format!(
                "<tspan dx=\"16\" fill=\"{colour}\">{}</tspan>",
                escape(&line.name)
            );
        }
        // Above the box, where no line can run through it.
        out += &format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{legend}</text>\n",
            WIDTH - RIGHT,
            self.top - 7.0,
        );
        if let Some((x, text)) = &self.mark {
            let (x, bottom) = (frame.x_at(*x), self.top + PLOT_HEIGHT);
            out += &format!(
                "<path d=\"M{x:.1} {:.1}V{bottom:.1}\" stroke=\"#222\" stroke-dasharray=\"4 3\"/>\n\
                 <text x=\"{:.1}\" y=\"{:.1}\">{}</text>\n",
                self.top,
                x + 5.0,
                bottom - 6.0,
                escape(text),
            );
        }
        out
    }
}

/// The box of a plot, and where a value lies in it.
struct Frame {
    top: f64,
    x: (f64, f64),
    y_max: f64,
}

impl Frame {
    fn x_at(&self, x: f64) -> f64 {
        let (from, to) = self.x;
        LEFT + (x - from) / (to - from).max(1e-9) * (WIDTH - LEFT - RIGHT)
    }

    fn y_at(&self, y: f64) -> f64 {
        self.top + PLOT_HEIGHT * (1.0 - y / self.y_max)
    }

    fn axes(&self, plot: &Plot<'_>) -> String {
        let bottom = self.top + PLOT_HEIGHT;
        let right = WIDTH - RIGHT;
        let mut out = format!(
            "<text x=\"{LEFT}\" y=\"{:.1}\" font-size=\"15\" font-weight=\"600\">{}</text>\n",
            self.top - 24.0,
            escape(plot.title)
        );
        let mut grid = String::new();
        for value in ticks(0.0, self.y_max) {
            let y = self.y_at(value);
            // Writing to a string cannot fail.
            let _infallible = write!(grid, "M{LEFT} {y:.1}H{right}");
            out += &format!(
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>\n",
                LEFT - 8.0,
                y + 4.0
            );
        }
        for value in ticks(self.x.0, self.x.1) {
            let x = self.x_at(value);
            let _infallible = write!(grid, "M{x:.1} {bottom:.1}v5");
            out += &format!(
                "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{value}</text>\n",
                bottom + 19.0
            );
        }
        out += &format!(
            "<path d=\"{grid}\" stroke=\"#ccc\" fill=\"none\"/>\n\
             <path d=\"M{LEFT} {:.1}V{bottom:.1}H{right}\" stroke=\"#222\" fill=\"none\"/>\n\
             <text x=\"{right}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n\
             <text x=\"{LEFT}\" y=\"{:.1}\" fill=\"#555\">{}</text>\n",
            self.top,
            bottom + 36.0,
            escape(plot.x_label),
            self.top - 7.0,
            escape(plot.y_label),
        );
        out
    }
}

/// Round numbers between `from` and `to`: about five of them.
fn ticks(from: f64, to: f64) -> Vec<f64> {
    let rough = ((to - from) / 5.0).max(1e-9);
    let power = 10_f64.powf(rough.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
    let step = steps
        .into_iter()
        .find(|step| *step >= rough)
        .unwrap_or(power);
    let first = (from / step).ceil() as i64;
    let last = (to / step).floor() as i64;
    (first..=last).map(|index| index as f64 * step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(0.0, 10.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(ticks(35.0, 152.0), [50.0, 100.0, 150.0]);
    }

    #[test]
    fn nothing_measured_still_makes_a_page() {
        let page = draw(&Pictures::default());
        assert!(page.starts_with("<svg") && page.ends_with("</svg>\n"));
        assert!(!page.contains("NaN"));
    }
}
