//! `warmpath trace`: single packets, as the data plane saw them.
//!
//! [`Asked`] says which packets, [`crate::maps::Loupe`] fetches them, [`Seen`] says what became of one in words, and
//! [`Capture`] writes their frames as a pcapng file. [`trace`] puts them together.

mod asked;
mod capture;
mod seen;

use std::{
    path::Path,
    time::{Duration, Instant},
};

pub use asked::{Asked, AskedError};
pub use capture::Capture;
use ebpf_common::event::TraceEvent;
pub use seen::{Names, Seen};
use thiserror::Error;
use tokio::{sync::watch, time::sleep};

use crate::{
    maps::{Loupe, LoupeError},
    object::{ObjectError, object},
};

/// How often the tracer says that it lives; the program waits [`asked::LEASE`] for that.
const BEAT: Duration = Duration::from_secs(1);
/// How long to wait when no event waited. The ring buffer holds 8,000: enough for 400,000 a second.
const IDLE: Duration = Duration::from_millis(20);

/// When to stop by itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Until {
    /// After so many events.
    pub count: Option<u64>,
    /// After so long.
    pub time: Option<Duration>,
}

/// What was traced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    /// Events shown.
    pub events: u64,
    /// Events that found the ring buffer full.
    pub lost: u64,
}

/// Why tracing ended early.
#[derive(Debug, Error)]
pub enum TraceError {
    /// There is no object in this binary.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The program cannot be put in place.
    #[error(transparent)]
    Loupe(#[from] LoupeError),
}

/// Calls `show` with each packet that `asked` asks for, until `until`, `stop`, or an error of `show`.
///
/// # Errors
/// [`TraceError`], or that of `show`. The data plane is as it was before in any case.
pub async fn trace<E: From<TraceError>>(
    pin_path: &Path,
    asked: &Asked,
    until: Until,
    stop: &mut watch::Receiver<bool>,
    mut show: impl FnMut(&TraceEvent) -> Result<(), E>,
) -> Result<Summary, E> {
    let object = object().map_err(TraceError::from)?;
    let mut loupe = Loupe::put(object, pin_path, asked.filter()).map_err(TraceError::from)?;
    let began = Instant::now();
    let mut beat = began;
    let mut events = 0;
    let is_over = |events| {
        until.count.is_some_and(|count| events >= count)
            || until.time.is_some_and(|time| began.elapsed() >= time)
    };
    while !is_over(events) && !*stop.borrow() {
        if beat.elapsed() >= BEAT {
            beat = Instant::now();
            loupe.beat().map_err(TraceError::from)?;
        }
        match loupe.event() {
            Some(event) => {
                events += 1;
                show(&event)?;
            }
            None => {
                tokio::select! {
                    () = sleep(IDLE) => {}
                    _ = stop.changed() => {}
                }
            }
        }
    }
    let lost = loupe.lost().map_err(TraceError::from)?;
    Ok(Summary { events, lost })
}
