//! What is made ahead of need: so many of a kind, made anew as they are taken.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

/// A kind of thing kept ready.
#[derive(Debug)]
pub(super) struct Shelf<T> {
    ready: Mutex<Vec<T>>,
    /// How many are to be ready.
    wanted: usize,
    making: AtomicUsize,
    closed: AtomicBool,
}

/// The right to make one, which counts as one that is there. Dropped, it was not made.
#[derive(Debug)]
pub(super) struct Claim<T>(Arc<Shelf<T>>);

impl<T> Claim<T> {
    /// Puts what was made onto the shelf; gives it back when that is closed.
    pub(super) fn fill(self, one: T) -> Result<(), T> {
        self.0.put(one)
    }
}

impl<T> Drop for Claim<T> {
    fn drop(&mut self) {
        self.0.making.fetch_sub(1, Ordering::AcqRel);
    }
}

impl<T> Shelf<T> {
    /// A shelf for `wanted`, empty.
    pub(super) const fn new(wanted: usize) -> Self {
        Self {
            ready: Mutex::new(Vec::new()),
            wanted,
            making: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
        }
    }

    /// The one that was put here last: the likeliest to be in the caches.
    pub(super) fn take(&self) -> Option<T> {
        self.lock().pop()
    }

    /// Puts one here; gives it back when the shelf is closed.
    pub(super) fn put(&self, one: T) -> Result<(), T> {
        let mut ready = self.lock();
        if self.closed.load(Ordering::Acquire) {
            return Err(one);
        }
        ready.push(one);
        Ok(())
    }

    /// How many are ready.
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    /// The right to make one more, if one is missing.
    pub(super) fn claim(self: &Arc<Self>) -> Option<Claim<T>> {
        let ready = self.lock();
        let making = self.making.load(Ordering::Acquire);
        if ready.len() + making >= self.wanted || self.closed.load(Ordering::Acquire) {
            return None;
        }
        self.making.fetch_add(1, Ordering::AcqRel);
        Some(Claim(Arc::clone(self)))
    }

    /// Removes those that are of no use.
    pub(super) fn remove_if(&self, mut is_useless: impl FnMut(&T) -> bool) -> Vec<T> {
        self.lock().extract_if(.., |one| is_useless(one)).collect()
    }

    /// Takes all, for good: nothing more is made for it.
    pub(super) fn close(&self) -> Vec<T> {
        let mut ready = self.lock();
        self.closed.store(true, Ordering::Release);
        std::mem::take(&mut ready)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<T>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_are_made_than_are_missing() {
        let shelf = Arc::new(Shelf::new(2));
        let first = shelf.claim().unwrap();
        let second = shelf.claim().unwrap();
        assert!(shelf.claim().is_none(), "both are in the making");
        first.fill('a').unwrap();
        assert!(shelf.claim().is_none(), "one is there, one in the making");
        // It could not be made.
        drop(second);
        assert!(shelf.claim().is_some());
        assert_eq!(shelf.take(), Some('a'));
        assert_eq!(shelf.take(), None);
    }

    #[test]
    fn nothing_comes_onto_a_closed_shelf() {
        let shelf = Arc::new(Shelf::new(2));
        shelf.put('a').unwrap();
        let claim = shelf.claim().unwrap();
        assert_eq!(shelf.close(), ['a']);
        assert_eq!(claim.fill('b'), Err('b'));
        assert!(shelf.claim().is_none());
    }

    #[test]
    fn the_useless_are_made_anew() {
        let shelf = Arc::new(Shelf::new(2));
        shelf.put(1).unwrap();
        shelf.put(2).unwrap();
        assert_eq!(shelf.remove_if(|one| *one == 1), [1]);
        assert_eq!((shelf.len(), shelf.claim().is_some()), (1, true));
    }
}
