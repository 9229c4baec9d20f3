//! The memory that all instances of a worker may be promised together.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::policy::{Room, room};

/// How much memory is promised, and how much may be.
#[derive(Debug)]
pub(super) struct Budget {
    limit_mb: u64,
    used_mb: Mutex<u64>,
    /// Told when there may be more room than before.
    pub(super) changed: Notify,
}

/// A promise of memory; dropped, it is taken back.
#[derive(Debug)]
pub(super) struct Share {
    mb: u64,
    budget: Arc<Budget>,
}

impl Budget {
    pub(super) fn new(limit_mb: u32) -> Arc<Self> {
        Arc::new(Self {
            limit_mb: u64::from(limit_mb),
            used_mb: Mutex::new(0),
            changed: Notify::new(),
        })
    }

    /// Promises `mb`, if that fits.
    pub(super) fn reserve(self: &Arc<Self>, mb: u32) -> Result<Share, Room> {
        let mb = u64::from(mb);
        let mut used_mb = self.used_mb.lock().unwrap_or_else(PoisonError::into_inner);
        match room(*used_mb, mb, self.limit_mb) {
            Room::Enough => {
                *used_mb += mb;
                Ok(Share {
                    mb,
                    budget: Arc::clone(self),
                })
            }
            full => Err(full),
        }
    }

    pub(super) fn used_mb(&self) -> u64 {
        *self.used_mb.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) const fn limit_mb(&self) -> u64 {
        self.limit_mb
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        *self
            .budget
            .used_mb
            .lock()
            .unwrap_or_else(PoisonError::into_inner) -= self.mb;
        self.budget.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_promises_more_than_there_is() {
        let budget = Budget::new(128);
        let first = budget.reserve(64).unwrap();
        let _second = budget.reserve(64).unwrap();
        assert_eq!(budget.reserve(1).unwrap_err(), Room::Full);
        assert_eq!(budget.reserve(129).unwrap_err(), Room::Never);
        drop(first);
        assert_eq!(budget.used_mb(), 64);
        assert!(budget.reserve(64).is_ok());
    }
}
