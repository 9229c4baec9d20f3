//! The state file, written by a thread of its own: with 4,096 workers it takes milliseconds, which no packet waits for.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread::{self, JoinHandle},
};

use tracing::warn;

use crate::membership::persist::Persisted;

/// Writes the newest state that it was given, one after the other.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    writer: Option<(Sender<Persisted>, JoinHandle<()>)>,
    has_failed: Arc<AtomicBool>,
}

impl StateFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            writer: None,
            has_failed: Arc::default(),
        }
    }

    /// Has `state` written, in place of any that is waiting.
    pub(super) fn write(&mut self, state: Persisted) {
        if self.writer.is_none() {
            let (sender, states) = mpsc::channel();
            let path = self.path.clone();
            let has_failed = Arc::clone(&self.has_failed);
            let writer = thread::spawn(move || write_all(&states, &path, &has_failed));
            self.writer = Some((sender, writer));
        }
        if let Some((sender, _)) = &self.writer
            && sender.send(state).is_err()
        {
            self.has_failed.store(true, Ordering::Relaxed);
            self.writer = None;
        }
    }

    /// Whether a state was not written since the last call.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed.swap(false, Ordering::Relaxed)
    }

    /// Waits for all that was given.
    pub(super) fn finish(&mut self) {
        if let Some((sender, writer)) = self.writer.take() {
            drop(sender);
            if writer.join().is_err() {
                warn!("state not saved: its thread panicked");
            }
        }
    }
}

fn write_all(states: &Receiver<Persisted>, path: &std::path::Path, has_failed: &AtomicBool) {
    while let Ok(state) = states.recv() {
        let newest = states.try_iter().last().unwrap_or(state);
        if let Err(error) = newest.write(path) {
            warn!(error = &error as &dyn std::error::Error, "state not saved");
            has_failed.store(true, Ordering::Relaxed);
        }
    }
}
