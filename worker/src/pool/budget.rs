//! The memory that all instances of a worker may be promised together.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::policy::{Room, room};

/// How much memory is promised, and how much may be.
#[derive(Debug)]
pub(super) struct Budget {
    limit_mb: u64,
    promised: Mutex<Promised>,
    /// Told when there is more room than before.
    pub(super) changed: Notify,
}

#[derive(Debug, Default)]
struct Promised {
    used_mb: u64,
    /// Of these, what instances that are ending have.
    leaving_mb: u64,
}

/// A promise of memory; dropped, it is taken back.
#[derive(Debug)]
pub(super) struct Share {
    mb: u64,
    is_leaving: bool,
    budget: Arc<Budget>,
}

impl Budget {
    pub(super) fn new(limit_mb: u32) -> Arc<Self> {
        Arc::new(Self {
            limit_mb: u64::from(limit_mb),
            promised: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// Promises `mb`, if that fits.
    pub(super) fn reserve(self: &Arc<Self>, mb: u32) -> Result<Share, Room> {
        let mb = u64::from(mb);
        let mut promised = self.promised();
        match room(promised.used_mb, promised.leaving_mb, mb, self.limit_mb) {
            Room::Enough => {
                promised.used_mb += mb;
                Ok(Share {
                    mb,
                    is_leaving: false,
                    budget: Arc::clone(self),
                })
            }
            no => Err(no),
        }
    }

    pub(super) fn used_mb(&self) -> u64 {
        self.promised().used_mb
    }

    pub(super) const fn limit_mb(&self) -> u64 {
        self.limit_mb
    }

    fn promised(&self) -> MutexGuard<'_, Promised> {
        self.promised.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// It will be taken back soon: whose it is is ending.
    pub(super) fn leave(mut self) -> Self {
        if !self.is_leaving {
            self.is_leaving = true;
            self.budget.promised().leaving_mb += self.mb;
        }
        self
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut promised = self.budget.promised();
        promised.used_mb -= self.mb;
        if self.is_leaving {
            promised.leaving_mb -= self.mb;
        }
        drop(promised);
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
        let leaving = first.leave();
        assert_eq!(budget.reserve(64).unwrap_err(), Room::Soon);
        drop(leaving);
        assert_eq!(budget.used_mb(), 64);
        assert!(budget.reserve(64).is_ok());
    }
}
