//! A profile while it is taken: who takes it, what the requests add to it.

use std::{
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use super::Stacks;
use crate::runtime::protocol::FrameError;

/// A runtime sends four frames a second. This is what is taken of one that lags and hurries.
const FRAMES_PER_SECOND_MAX: u64 = 8;
const FRAMES_AT_ONCE_MAX: u64 = 4;

/// Where a function's profile stands while one is taken.
#[derive(Debug, Default)]
pub struct Slot(RwLock<Option<Arc<Recording>>>);

/// What was sampled so far.
#[derive(Debug)]
pub struct Recording {
    hz: u32,
    requests: AtomicU64,
    stacks: Mutex<Stacks>,
}

/// The taking of a profile: requests that begin are sampled until it is dropped.
#[derive(Debug)]
pub struct Session<'a> {
    slot: &'a Slot,
    recording: Arc<Recording>,
}

/// One request's share in a profile.
#[derive(Debug)]
pub struct Tap {
    recording: Arc<Recording>,
    begun: Instant,
    frames: u64,
}

impl Slot {
    /// Begins to take a profile; `None` when one is being taken.
    pub fn open(&self, hz: u32) -> Option<Session<'_>> {
        let mut slot = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if slot.is_some() {
            return None;
        }
        let recording = Arc::new(Recording {
            hz,
            requests: AtomicU64::new(0),
            stacks: Mutex::default(),
        });
        *slot = Some(Arc::clone(&recording));
        drop(slot);
        Some(Session {
            slot: self,
            recording,
        })
    }

    /// What a request that begins now has to do with it.
    pub fn tap(&self) -> Option<Tap> {
        let slot = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let recording = Arc::clone(slot.as_ref()?);
        drop(slot);
        recording.requests.fetch_add(1, Ordering::Relaxed);
        Some(Tap {
            recording,
            begun: Instant::now(),
            frames: 0,
        })
    }
}

impl Session<'_> {
    /// How many requests began, and what was sampled.
    #[must_use]
    pub fn so_far(&self) -> (u64, Stacks) {
        let stacks = self.recording.stacks.lock();
        let stacks = stacks.unwrap_or_else(PoisonError::into_inner).clone();
        (self.recording.requests.load(Ordering::Relaxed), stacks)
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        let mut slot = self.slot.0.write().unwrap_or_else(PoisonError::into_inner);
        *slot = None;
    }
}

impl Tap {
    /// Samples a second that the runtime is asked for.
    #[must_use]
    pub fn hz(&self) -> u32 {
        self.recording.hz
    }

    /// A frame came: where what it holds is to be added.
    ///
    /// # Errors
    /// [`FrameError::ProfileFlood`] when there were too many.
    pub fn admit(&mut self) -> Result<Arc<Recording>, FrameError> {
        self.frames += 1;
        let due = FRAMES_AT_ONCE_MAX + self.begun.elapsed().as_secs() * FRAMES_PER_SECOND_MAX;
        if self.frames > due {
            return Err(FrameError::ProfileFlood);
        }
        Ok(Arc::clone(&self.recording))
    }
}

impl Recording {
    /// Adds what a frame holds.
    ///
    /// # Errors
    /// [`FrameError::Profile`] when that is no samples.
    pub fn add(&self, data: &[u8]) -> Result<(), FrameError> {
        let new = Stacks::parse(data)?;
        let mut stacks = self.stacks.lock().unwrap_or_else(PoisonError::into_inner);
        stacks.merge(&new);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_profile_at_a_time_and_none_when_it_is_over() {
        let slot = Slot::default();
        assert!(slot.tap().is_none());
        let session = slot.open(99).unwrap();
        assert!(slot.open(99).is_none());
        let mut tap = slot.tap().unwrap();
        assert_eq!(tap.hz(), 99);
        tap.admit().unwrap().add(br#"[["f",3]]"#).unwrap();
        assert_eq!(tap.admit().unwrap().add(b"x"), Err(FrameError::Profile));
        let (requests, stacks) = session.so_far();
        assert_eq!((requests, stacks.samples()), (1, 3));
        drop(session);
        assert!(slot.tap().is_none());
        // Who began before its end may still answer.
        tap.admit().unwrap().add(br#"[["f",3]]"#).unwrap();
        assert_eq!(slot.open(1).unwrap().so_far(), (0, Stacks::default()));
    }

    #[test]
    fn a_flood_ends_soon() {
        let slot = Slot::default();
        let _session = slot.open(99).unwrap();
        let mut tap = slot.tap().unwrap();
        let flood = (0..1_000).find_map(|_| tap.admit().err());
        assert_eq!(flood, Some(FrameError::ProfileFlood));
    }
}
