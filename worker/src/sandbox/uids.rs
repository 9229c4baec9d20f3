//! The host user ids of handlers.

use std::sync::{Arc, Mutex, PoisonError};

/// The host user ids that handlers run as: each live sandbox has its own, so that even outside their
/// namespaces two handlers would be strangers to one another.
#[derive(Debug)]
pub struct Uids {
    first: u32,
    count: u32,
    free: Mutex<Vec<u32>>,
}

impl Uids {
    /// `count` ids from `first` on; one more, before them, is for the inits.
    #[must_use]
    pub fn new(first: u32, count: u32) -> Arc<Self> {
        let free = Mutex::new(
            (0..count)
                .rev()
                .map(|n| first.saturating_add(1 + n))
                .collect(),
        );
        Arc::new(Self { first, count, free })
    }

    pub(super) const fn count(&self) -> u32 {
        self.count
    }

    pub(super) const fn init_id(&self) -> u32 {
        self.first
    }

    pub(super) fn take(self: &Arc<Self>) -> Option<Uid> {
        let id = self
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()?;
        Some(Uid {
            id,
            all: Arc::clone(self),
        })
    }
}

/// One user id, in use.
#[derive(Debug)]
pub(super) struct Uid {
    id: u32,
    all: Arc<Uids>,
}

impl Uid {
    pub(super) const fn host_id(&self) -> u32 {
        self.id
    }
}

impl Drop for Uid {
    fn drop(&mut self) {
        self.all
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_sandboxes_share_a_user_id() {
        let uids = Uids::new(100, 2);
        let (a, b) = (uids.take().unwrap(), uids.take().unwrap());
        assert_eq!((a.host_id(), b.host_id(), uids.init_id()), (101, 102, 100));
        assert!(uids.take().is_none());
        drop(a);
        assert_eq!(uids.take().unwrap().host_id(), 101);
        drop(b);
    }
}
