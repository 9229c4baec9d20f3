//! A flame graph: sampled stacks as an SVG, callers below, as wide as they were often seen.
//!
//! Drawn here and not by the crate `inferno`: that is under the CDDL, a copyleft that would come into this binary, and what
//! is needed of it is one page. The drawing has no script in it; a browser shows a frame's whole name as its title.

use std::collections::BTreeMap;

use worker::profile::Stacks;

const WIDTH: f64 = 1_200.0;
const MARGIN: f64 = 10.0;
const ROW: f64 = 17.0;
const HEAD: f64 = 34.0;
/// Narrower frames are not drawn: nobody could see them, and a file stays small.
const NARROWEST: f64 = 0.4;
/// About what a letter takes.
const LETTER: f64 = 6.6;

/// A frame with all that it called, by name.
#[derive(Debug, Default)]
struct Node<'a> {
    samples: u64,
    calls: BTreeMap<&'a str, Self>,
}

impl<'a> Node<'a> {
    fn of(stacks: &'a Stacks) -> Self {
        let mut root = Self::default();
        for (stack, samples) in stacks.iter() {
            root.samples += samples;
            let mut node = &mut root;
            for frame in stack.split(';') {
                node = node.calls.entry(frame).or_default();
                node.samples += samples;
            }
        }
        root
    }

    /// How many rows it takes, those too narrow to see left out.
    fn rows(&self, scale: f64) -> usize {
        let seen = self.calls.values();
        let seen = seen.filter(|call| call.samples as f64 * scale >= NARROWEST);
        1 + seen.map(|call| call.rows(scale)).max().unwrap_or(0)
    }
}

/// The drawing.
struct Flame {
    svg: String,
    all: u64,
    scale: f64,
    height: f64,
}

/// Draws `stacks` under a headline.
pub(crate) fn draw(title: &str, stacks: &Stacks) -> String {
    let root = Node::of(stacks);
    let all = root.samples.max(1);
    let scale = (WIDTH - 2.0 * MARGIN) / all as f64;
    let height = HEAD + root.rows(scale) as f64 * ROW + MARGIN;
    let mut flame = Flame {
        svg: String::new(),
        all,
        scale,
        height,
    };
    flame.frame("all", &root, MARGIN, 0);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"ui-monospace, monospace\" font-size=\"11\" fill=\"#222\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{MARGIN}\" y=\"21\" font-size=\"14\">{}</text>\n{}</svg>\n",
        escape(title),
        flame.svg
    )
}

impl Flame {
    fn frame(&mut self, name: &str, node: &Node<'_>, x: f64, row: usize) {
        let width = node.samples as f64 * self.scale;
        if width < NARROWEST {
            return;
        }
        let y = self.height - MARGIN - (row + 1) as f64 * ROW;
        let percent = node.samples as f64 * 100.0 / self.all as f64;
        let title = format!("{name}: {} samples, {percent:.1} %", node.samples);
        self.svg.push_str(&format!(
            "<g><title>{}</title><rect x=\"{x:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\" rx=\"1\" fill=\"{}\"/>",
            escape(&title),
            ROW - 1.0,
            colour(name)
        ));
        let room = ((width - 6.0) / LETTER).max(0.0) as usize;
        if room >= 3 {
            self.svg.push_str(&format!(
                "<text x=\"{:.1}\" y=\"{}\">{}</text>",
                x + 3.0,
                y + 12.0,
                escape(&shortened(name, room))
            ));
        }
        self.svg.push_str("</g>\n");
        let mut x = x;
        for (name, call) in &node.calls {
            self.frame(name, call, x, row + 1);
            x += call.samples as f64 * self.scale;
        }
    }
}

/// As much of a name as fits.
fn shortened(name: &str, room: usize) -> String {
    if name.chars().count() <= room {
        return name.to_owned();
    }
    name.chars().take(room - 1).chain(['…']).collect()
}

/// The same for the same name in every drawing: light, between red and yellow, so that the text can be read.
fn colour(name: &str) -> String {
    let hash = name.bytes().fold(2_166_136_261_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(16_777_619)
    });
    format!("hsl({},85%,{}%)", hash % 50, 66 + (hash >> 8) % 12)
}

/// Names come from handlers: nothing in them is markup.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // XML has no other control characters.
            letter if letter.is_control() => escaped.push('\u{fffd}'),
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stacks(list: &[(&str, u64)]) -> Stacks {
        let mut stacks = Stacks::default();
        for (stack, samples) in list {
            stacks.add(stack, *samples);
        }
        stacks
    }

    /// The width of the frame of that title.
    fn width(svg: &str, title: &str) -> f64 {
        let line = svg.lines().find(|line| line.contains(title)).unwrap();
        let (_, rest) = line.split_once("width=\"").unwrap();
        rest.split_once('"').unwrap().0.parse().unwrap()
    }

    #[test]
    fn a_frame_is_as_wide_as_it_was_often_seen() {
        let svg = draw("f", &stacks(&[("f;hot", 75), ("f;cold", 20), ("f", 5)]));
        assert_eq!(width(&svg, "<title>all: 100 samples"), 1_180.0);
        assert_eq!(width(&svg, "<title>f: 100 samples, 100.0 %"), 1_180.0);
        assert_eq!(width(&svg, "<title>hot: 75 samples, 75.0 %"), 885.0);
        assert_eq!(width(&svg, "<title>cold: 20 samples, 20.0 %"), 236.0);
        // Three rows: all, f, and what it called.
        assert!(svg.contains("height=\"95\""), "{svg}");
    }

    #[test]
    fn a_name_is_text_whatever_is_in_it() {
        let svg = draw("<a>&\"", &stacks(&[("<script>x</script>\u{1b}", 1)]));
        assert!(!svg.contains("<script") && !svg.contains('\u{1b}'), "{svg}");
        assert!(svg.contains("&lt;a&gt;&amp;&quot;"));
    }

    #[test]
    fn what_nobody_could_see_is_not_drawn_and_nothing_is_a_drawing_too() {
        let svg = draw(
            "f",
            &stacks(&[("f;seen", 100_000), ("f;unseen;deep;deeper", 1)]),
        );
        assert!(svg.contains("seen: 100000") && !svg.contains("unseen"));
        assert!(svg.contains("height=\"95\""), "{svg}");
        assert!(draw("f", &Stacks::default()).contains("</svg>"));
    }

    #[test]
    fn a_long_name_is_cut_where_its_frame_ends() {
        assert_eq!(shortened("größer", 6), "größer");
        assert_eq!(shortened("größer (f.py:1)", 6), "größe…");
    }
}
