//! The worker's XDP program, as its pins and its counters tell of it.

use std::error::Error;

use crate::{
    decap::{DEFAULT_PIN_PATH, DecapConfig},
    doctor::facts::Decap,
    maps::{self, DecapError},
};

/// What runs where `configured` says, or where a worker's maps are by default.
pub(super) fn decap(configured: Option<&DecapConfig>) -> Decap {
    let pin_path =
        configured.map_or_else(|| DEFAULT_PIN_PATH.into(), |config| config.pin_path.clone());
    let running = match maps::decap_status(&pin_path) {
        Ok(status) => Ok(Some(status)),
        Err(DecapError::Nothing { .. }) => Ok(None),
        Err(error) => Err(told(&error)),
    };
    Decap {
        configured: configured.cloned(),
        pin_path,
        running,
        addresses: maps::host_addresses().ok(),
    }
}

/// The error and what caused it, on a line.
fn told(error: &DecapError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}
