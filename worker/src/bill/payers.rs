//! Who pays for the calls that a worker makes itself, for somebody else: what nobody waits for, and what triggers cause.
//!
//! Such a call comes to the worker's own RPC server as any other, from the worker's own address. While it runs, its packets
//! carry a word that stands for whoever pays. The words are random and live only in this process: who does not know one
//! cannot have another pay.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::Caller;

/// The words that stand for somebody now.
#[derive(Debug, Default)]
pub(crate) struct Payers {
    by_word: Mutex<HashMap<u64, Caller>>,
}

/// A word, until this is dropped.
#[derive(Debug)]
pub(crate) struct Loan {
    payers: Arc<Payers>,
    word: u64,
}

impl Payers {
    /// A new word that stands for `caller`.
    pub(crate) fn lend(self: &Arc<Self>, caller: Caller) -> Loan {
        let mut by_word = self.lock();
        let word = loop {
            // 0 is no word.
            let word: u64 = rand::random();
            if word != 0 && !by_word.contains_key(&word) {
                break word;
            }
        };
        by_word.insert(word, caller);
        Loan {
            payers: Arc::clone(self),
            word,
        }
    }

    /// Whom `word` stands for, if for anybody.
    pub(crate) fn of(&self, word: u64) -> Option<Caller> {
        if word == 0 {
            return None;
        }
        self.lock().get(&word).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Caller>> {
        // The map is whole between any two statements that could panic.
        self.by_word.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Loan {
    /// What the packets of the call carry.
    pub(crate) const fn word(&self) -> u64 {
        self.word
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.payers.lock().remove(&self.word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_stands_for_its_payer_until_its_call_has_ended_and_for_nobody_else() {
        let payers = Arc::new(Payers::default());
        let (one, other) = (Caller::of("192.0.2.7"), Caller::of("trigger:f/t"));
        let (first, second) = (payers.lend(one.clone()), payers.lend(other.clone()));
        assert_ne!(first.word(), second.word());
        assert_eq!(payers.of(first.word()), Some(one));
        assert_eq!(payers.of(second.word()), Some(other.clone()));
        assert_eq!((payers.of(0), payers.of(first.word() ^ 1)), (None, None));
        let word = first.word();
        drop(first);
        assert_eq!(payers.of(word), None);
        assert_eq!(payers.of(second.word()), Some(other));
        drop(second);
        assert!(payers.lock().is_empty());
    }
}
