//! What a person sees: the report on standard output, progress on standard error.

use std::{io::Write as _, time::Duration};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

const TICK: Duration = Duration::from_millis(100);

const BAR: &str = "  {msg} [{bar:30}] {human_pos}/{human_len} {per_sec}";
const SPINNER: &str = "  {spinner} {msg} {elapsed}";

/// The terminal. Where there is none, progress is silent and the report is plain text.
#[derive(Debug)]
pub(crate) struct Screen;

impl Screen {
    /// Prints a part of the report. A closed pipe is the reader's choice, not a failure.
    pub(crate) fn say(&self, text: &str) {
        let _closed = writeln!(std::io::stdout(), "{text}");
    }

    /// Prints something that is wrong.
    pub(crate) fn complain(&self, text: &str) {
        let _closed = writeln!(std::io::stderr(), "{text}");
    }

    /// Shows that `what` is being done while `work` does it.
    pub(crate) fn during<T>(&self, what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let spinner = ProgressBar::new_spinner().with_style(style(SPINNER));
        spinner.set_message(what.to_owned());
        spinner.enable_steady_tick(TICK);
        let result = work();
        spinner.finish_and_clear();
        result
    }

    /// A bar for `what`, of `total` steps. It vanishes when dropped.
    pub(crate) fn bar(&self, what: &str, total: u64) -> Bar {
        let bar = ProgressBar::new(total).with_style(style(BAR).progress_chars("=> "));
        bar.set_message(what.to_owned());
        Bar(bar)
    }
}

/// The template is a constant; if it were wrong, a plain bar would do.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_wrong| ProgressStyle::default_bar())
}

/// A progress bar.
#[derive(Debug)]
pub(crate) struct Bar(ProgressBar);

impl Bar {
    pub(crate) fn set(&self, done: u64) {
        self.0.set_position(done);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
