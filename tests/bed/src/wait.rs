//! Waiting for a condition, with a deadline. The only place where the test bed lets time pass.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

const POLL: Duration = Duration::from_millis(2);

/// Asks `check` until it gives something, and returns that.
///
/// # Errors
/// After `timeout`, naming `what` was waited for and what `check` said last.
pub fn until<T>(
    what: &str,
    timeout: Duration,
    mut check: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + timeout;
    loop {
        let last = match check() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => "not yet".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() > deadline {
            bail!("waited {timeout:?} for {what}: {last}");
        }
        thread::sleep(POLL);
    }
}
