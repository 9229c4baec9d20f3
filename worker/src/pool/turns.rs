//! Whose turn it is to have a sandbox made: that of a request which waits for one, before those that are made ahead of need.
//!
//! A burst takes what is ready in a moment, and all of it is to be made anew; made first, it would cost the requests that found
//! nothing half of the machine.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use tokio::sync::{Notify, Semaphore, SemaphorePermit};

/// The requests of a burst do not come in one instant: what is made ahead of need lets them come first.
const BREATH: Duration = Duration::from_millis(2);

/// Places for sandboxes in the making.
#[derive(Debug)]
pub(super) struct Turns {
    places: Semaphore,
    /// Requests that wait for a sandbox.
    urgent: AtomicUsize,
    /// There is none any more.
    served: Notify,
}

/// The right to make one sandbox, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn<'t> {
    _place: SemaphorePermit<'t>,
    _urgent: Option<Urgent<'t>>,
}

/// A request that waits.
#[derive(Debug)]
struct Urgent<'t>(&'t Turns);

impl Drop for Urgent<'_> {
    fn drop(&mut self) {
        if self.0.urgent.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.served.notify_waiters();
        }
    }
}

impl Turns {
    /// Turns for `places` at one time.
    pub(super) const fn new(places: usize) -> Self {
        Self {
            places: Semaphore::const_new(places),
            urgent: AtomicUsize::new(0),
            served: Notify::const_new(),
        }
    }

    /// For a request that waits; `None` when there will be no turns any more.
    pub(super) async fn urgent(&self) -> Option<Turn<'_>> {
        self.urgent.fetch_add(1, Ordering::AcqRel);
        let urgent = Urgent(self);
        let place = self.places.acquire().await.ok()?;
        Some(Turn {
            _place: place,
            _urgent: Some(urgent),
        })
    }

    /// For what is made ahead of need: once no request waits.
    pub(super) async fn spare(&self) -> Option<Turn<'_>> {
        tokio::time::sleep(BREATH).await;
        loop {
            let served = self.served.notified();
            if self.urgent.load(Ordering::Acquire) > 0 {
                served.await;
                continue;
            }
            let place = self.places.acquire().await.ok()?;
            // While this one waited for a place, others may have begun to wait.
            if self.urgent.load(Ordering::Acquire) == 0 {
                return Some(Turn {
                    _place: place,
                    _urgent: None,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn whoever_waits_comes_before_what_is_made_ahead() {
        let turns = Arc::new(Turns::new(1));
        let first = turns.urgent().await.unwrap();
        let (said, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let ahead = tokio::spawn({
            let (turns, said) = (Arc::clone(&turns), said.clone());
            async move {
                let _turn = turns.spare().await.unwrap();
                said.send("ahead").unwrap();
            }
        });
        // It has begun to wait, before the next request comes.
        tokio::time::sleep(2 * BREATH).await;
        let waiting = tokio::spawn({
            let turns = Arc::clone(&turns);
            async move {
                let _turn = turns.urgent().await.unwrap();
                said.send("request").unwrap();
            }
        });
        while turns.urgent.load(Ordering::Acquire) < 2 {
            tokio::task::yield_now().await;
        }
        drop(first);
        assert_eq!(heard.recv().await, Some("request"));
        assert_eq!(heard.recv().await, Some("ahead"));
        ahead.await.unwrap();
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn a_request_that_gives_up_keeps_nobody_waiting() {
        let turns = Turns::new(1);
        let first = turns.urgent().await.unwrap();
        let gave_up = tokio::time::timeout(BREATH, turns.urgent()).await;
        assert!(gave_up.is_err());
        drop(first);
        let spare = tokio::time::timeout(Duration::from_secs(20), turns.spare()).await;
        assert!(spare.unwrap().is_some());
    }
}
