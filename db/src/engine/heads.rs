//! Who waits for a feed to move, told by the commit itself: nobody polls.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use ebpf_common::ids::SlotId;
use tokio::sync::watch;

use crate::op::Cursor;

/// The feeds that somebody follows. A feed that nobody follows costs a commit nothing but one look.
#[derive(Debug, Default)]
pub struct Heads {
    followed: Mutex<HashMap<SlotId, watch::Sender<Cursor>>>,
}

impl Heads {
    /// Each newer head of `slot` from now on. What was committed before is not told: ask the engine for the
    /// head *after* this, and no commit falls between.
    #[must_use]
    pub fn follow(&self, slot: SlotId) -> watch::Receiver<Cursor> {
        self.lock()
            .entry(slot)
            .or_insert_with(|| watch::Sender::new(Cursor::START))
            .subscribe()
    }

    /// Tells whoever follows these feeds that they are now here.
    pub(crate) fn moved<'a>(&self, heads: impl IntoIterator<Item = (&'a SlotId, &'a Cursor)>) {
        let mut followed = self.lock();
        if followed.is_empty() {
            return;
        }
        for (slot, head) in heads {
            let Some(sender) = followed.get(slot) else {
                continue;
            };
            if sender.is_closed() {
                followed.remove(slot);
            } else {
                sender.send_replace(*head);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SlotId, watch::Sender<Cursor>>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tell(heads: &Heads, slot: u16, head: u64) {
        heads.moved([(&SlotId(slot), &Cursor(head))]);
    }

    #[test]
    fn only_the_followed_slot_tells_and_a_feed_left_is_forgotten() {
        let heads = Heads::default();
        let mut seven = heads.follow(SlotId(7));
        tell(&heads, 8, 1);
        assert!(!seven.has_changed().unwrap());
        tell(&heads, 7, 4);
        assert_eq!(*seven.borrow_and_update(), Cursor(4));
        drop(seven);
        tell(&heads, 7, 5);
        assert!(heads.lock().is_empty());
    }

    #[test]
    fn everybody_who_follows_a_feed_is_told() {
        let heads = Heads::default();
        let all = [heads.follow(SlotId(1)), heads.follow(SlotId(1))];
        tell(&heads, 1, 2);
        for one in all {
            assert_eq!(*one.borrow(), Cursor(2));
        }
    }
}
