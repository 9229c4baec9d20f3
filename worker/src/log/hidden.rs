//! Secrets, kept out of what is kept. Each instance has its own: they are known for as long as it can print them.

use std::fmt;

/// A shorter one would make a text unreadable and still be guessed.
const SECRET_BYTES_MIN: usize = 4;
/// What a secret is replaced by.
const HIDDEN: &str = "[hidden]";

/// Words that must not be kept.
#[derive(Clone, Default)]
pub struct Hidden(Vec<String>);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} words", self.0.len())
    }
}

impl Hidden {
    /// Those that hide `secrets`; of one of several lines, each line, for output is kept by lines.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let mut words: Vec<String> = secrets
            .into_iter()
            .flat_map(str::lines)
            .filter(|word| word.len() >= SECRET_BYTES_MIN)
            .map(str::to_owned)
            .collect();
        // The longest first, so that nothing is left over of one that has another in it.
        words.sort_by_key(|word| std::cmp::Reverse(word.len()));
        Self(words)
    }

    /// `text` without them, as far as each stands in it whole.
    #[must_use]
    pub fn hide(&self, mut text: String) -> String {
        for word in &self.0 {
            if text.contains(word) {
                text = text.replace(word, HIDDEN);
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hide(secrets: &[&str], text: &str) -> String {
        Hidden::new(secrets.iter().copied()).hide(text.to_owned())
    }

    #[test]
    fn a_secret_is_replaced_wherever_it_stands() {
        let text = hide(&["hunter2", ""], "password hunter2, again hunter2\n");
        assert_eq!(text, "password [hidden], again [hidden]\n");
    }

    #[test]
    fn nothing_is_left_of_the_longer_of_two() {
        assert_eq!(
            hide(&["hunter", "hunter2"], "hunter2 hunter"),
            "[hidden] [hidden]"
        );
    }

    #[test]
    fn of_a_key_of_several_lines_no_line_is_left() {
        let key = "-----BEGIN-----\nMIIEvQ\n-----END-----\n";
        assert_eq!(hide(&[key], "MIIEvQ\n"), "[hidden]\n");
        assert_eq!(hide(&[key], key), "[hidden]\n[hidden]\n[hidden]\n");
    }

    #[test]
    fn what_would_be_guessed_anyway_makes_no_text_unreadable() {
        assert_eq!(hide(&["a", "ab\ncde"], "abcde"), "abcde");
    }

    #[test]
    fn they_are_not_shown_by_those_who_have_them() {
        let shown = format!("{:?}", Hidden::new(["hunter2"]));
        assert_eq!(shown, "1 words");
    }
}
