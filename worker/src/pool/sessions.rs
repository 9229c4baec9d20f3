//! Which instance a session met last, for a bounded number of sessions.
//!
//! Two generations instead of an LRU list: when the young one is half of what is allowed, it becomes the
//! old one and the old one is forgotten. What is looked up moves to the young one. So the least recently
//! used sessions go first, roughly, at the cost of a hash map.

use std::collections::HashMap;

/// Session → instance.
#[derive(Debug)]
pub(super) struct Sessions {
    young: HashMap<u64, u64>,
    old: HashMap<u64, u64>,
    generation_len_max: usize,
}

impl Sessions {
    /// Remembers at most `count` sessions, and at least half of that.
    pub(super) fn new(count: usize) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            generation_len_max: (count / 2).max(1),
        }
    }

    /// The instance of `session`.
    pub(super) fn instance(&mut self, session: u64) -> Option<u64> {
        if let Some(instance) = self.young.get(&session) {
            return Some(*instance);
        }
        let instance = self.old.remove(&session)?;
        self.bind(session, instance);
        Some(instance)
    }

    /// `session` belongs to `instance` from now on.
    pub(super) fn bind(&mut self, session: u64, instance: u64) {
        if self.young.len() >= self.generation_len_max && !self.young.contains_key(&session) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(session, instance);
    }

    /// `session` belongs to no instance any more.
    pub(super) fn forget(&mut self, session: u64) {
        self.young.remove(&session);
        self.old.remove(&session);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_the_sessions_not_seen_for_longest() {
        let mut sessions = Sessions::new(4);
        for session in 0..4 {
            sessions.bind(session, session + 100);
        }
        assert_eq!(sessions.instance(0), Some(100), "used again, so kept");
        sessions.bind(4, 104);
        assert_eq!(sessions.instance(1), None);
        assert_eq!(sessions.instance(0), Some(100));
        assert_eq!(sessions.instance(4), Some(104));
    }

    #[test]
    fn never_holds_more_than_it_may() {
        let mut sessions = Sessions::new(100);
        for session in 0..10_000 {
            sessions.bind(session, 1);
            assert!(sessions.young.len() + sessions.old.len() <= 100);
        }
        sessions.forget(9_999);
        assert_eq!(sessions.instance(9_999), None);
    }
}
