//! What is kept of what a function printed.

use serde::{Deserialize, Serialize};

/// Where it was printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Some lines that one request printed to one stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Grows with each entry of a worker.
    pub seq: u64,
    /// When it was read, in milliseconds since 1970.
    pub at_ms: u64,
    /// The function.
    pub function: String,
    /// Its version.
    pub version: u32,
    /// The instance.
    pub instance: u64,
    /// The request's id, as 16 hexadecimal digits; none for what was printed while no request ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// Where it was printed.
    pub stream: Stream,
    /// The lines; the last one may lack its end.
    pub text: String,
    /// Bytes of the request that were not kept, told once when it ends.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cut_bytes: u64,
}

/// By reference, as serde asks.
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What was asked for, and where to go on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPage {
    /// In the order in which they were read.
    pub entries: Vec<Entry>,
    /// To be asked `after` next time.
    pub next: u64,
    /// Entries of this function so far that had to make room for later ones.
    pub dropped: u64,
}
