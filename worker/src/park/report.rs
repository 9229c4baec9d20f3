//! Who is parked, for people: the body of `GET /v1/parked`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What is parked on a worker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParkedReport {
    /// Requests.
    pub parked: usize,
    /// Bytes that they hold, book-keeping included.
    pub bytes: usize,
    /// Requests by function.
    pub by_function: BTreeMap<String, usize>,
    /// Some of them, those first that time wakes first.
    pub soonest: Vec<ParkedRequest>,
}

/// One parked request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParkedRequest {
    /// Its number.
    pub request_id: u64,
    /// Its function.
    pub function: String,
    /// Whose feed it waits for.
    pub slot: Option<u16>,
    /// The cursor that this must get beyond.
    pub cursor: Option<u64>,
    /// Milliseconds until time wakes it.
    pub left_ms: u64,
}
