//! The last of what each function printed.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use super::{Entry, LogPage};

/// Text kept of one function.
const FUNCTION_BYTES_MAX: usize = 256 << 10;
/// Functions of which anything is kept; 64 MiB in all. The one that was silent for longest makes room.
const FUNCTIONS_MAX: usize = 256;
/// What an entry takes besides its text.
const ENTRY_BYTES: usize = 128;
/// Entries in one answer.
const PAGE_MAX: usize = 1_000;

/// Which entries are asked for.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Of this function.
    pub function: String,
    /// Of this request only.
    pub request: Option<String>,
    /// Later than this one.
    pub after: u64,
}

/// What all functions of a worker printed last.
#[derive(Debug)]
pub struct Logs {
    rings: Mutex<Rings>,
    latest: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Rings {
    seq: u64,
    functions: BTreeMap<String, Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    entries: VecDeque<Entry>,
    bytes: usize,
    dropped: u64,
    last: u64,
}

impl Default for Logs {
    fn default() -> Self {
        Self {
            rings: Mutex::default(),
            latest: watch::Sender::new(0),
        }
    }
}

impl Logs {
    /// Keeps `entry`, under a number of its own.
    pub fn push(&self, mut entry: Entry) {
        let mut rings = self.rings();
        rings.seq += 1;
        entry.seq = rings.seq;
        rings.make_room_for(&entry.function);
        let ring = rings.functions.entry(entry.function.clone()).or_default();
        ring.push(entry);
        let seq = rings.seq;
        drop(rings);
        self.latest.send_replace(seq);
    }

    /// What is kept of what is wanted, the oldest first.
    #[must_use]
    pub fn read(&self, wanted: &Wanted) -> LogPage {
        let rings = self.rings();
        let Some(ring) = rings.functions.get(&wanted.function) else {
            return LogPage {
                next: rings.seq.max(wanted.after),
                ..LogPage::default()
            };
        };
        let mut entries: Vec<Entry> = ring
            .entries
            .iter()
            .filter(|entry| entry.seq > wanted.after)
            .filter(|entry| wanted.request.is_none() || entry.request == wanted.request)
            .take(PAGE_MAX + 1)
            .cloned()
            .collect();
        let is_whole = entries.len() <= PAGE_MAX;
        entries.truncate(PAGE_MAX);
        let next = match entries.last() {
            Some(last) if !is_whole => last.seq,
            _ => rings.seq.max(wanted.after),
        };
        LogPage {
            entries,
            next,
            dropped: ring.dropped,
        }
    }

    /// As [`Self::read`], but waits until there is something.
    pub async fn follow(&self, wanted: &Wanted) -> LogPage {
        let mut latest = self.latest.subscribe();
        loop {
            // Before the look, so that nothing that comes after it is missed.
            latest.borrow_and_update();
            let page = self.read(wanted);
            // The sender is in `self`, and outlives this.
            if !page.entries.is_empty() || latest.changed().await.is_err() {
                return page;
            }
        }
    }

    fn rings(&self) -> MutexGuard<'_, Rings> {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rings {
    fn make_room_for(&mut self, function: &str) {
        if self.functions.len() < FUNCTIONS_MAX || self.functions.contains_key(function) {
            return;
        }
        let silent = self.functions.iter().min_by_key(|(_, ring)| ring.last);
        if let Some(silent) = silent.map(|(name, _)| name.clone()) {
            self.functions.remove(&silent);
        }
    }
}

impl Ring {
    fn push(&mut self, entry: Entry) {
        self.last = entry.seq;
        self.bytes += ENTRY_BYTES + entry.text.len();
        self.entries.push_back(entry);
        while self.bytes > FUNCTION_BYTES_MAX
            && let Some(oldest) = self.entries.pop_front()
        {
            self.bytes -= ENTRY_BYTES + oldest.text.len();
            self.dropped += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::log::Stream;

    fn entry(function: &str, request: u64, text: &str) -> Entry {
        Entry {
            seq: 0,
            at_ms: 0,
            function: function.to_owned(),
            version: 1,
            instance: 1,
            request: Some(format!("{request:016x}")),
            stream: Stream::Stdout,
            text: text.to_owned(),
            cut_bytes: 0,
        }
    }

    fn wanted(function: &str, after: u64) -> Wanted {
        Wanted {
            function: function.to_owned(),
            request: None,
            after,
        }
    }

    #[test]
    fn a_function_keeps_its_last_and_says_how_much_went() {
        let logs = Logs::default();
        let text = "x".repeat(10_000);
        for request in 0..100 {
            logs.push(entry("f", request, &text));
        }
        logs.push(entry("g", 7, "other"));
        let page = logs.read(&wanted("f", 0));
        let kept = page.entries.len();
        assert_eq!(kept, FUNCTION_BYTES_MAX / (10_000 + ENTRY_BYTES));
        assert_eq!(page.dropped, 100 - kept as u64);
        assert_eq!(page.entries[kept - 1].seq, 100);
        assert_eq!(page.next, 101);
        assert!(logs.read(&wanted("f", page.next)).entries.is_empty());
        assert!(logs.read(&wanted("none", 0)).entries.is_empty());
    }

    #[test]
    fn one_request_is_found_among_many_page_by_page() {
        let logs = Logs::default();
        for request in 0..1_500 {
            logs.push(entry("f", request % 3, "."));
        }
        let mut wanted = wanted("f", 0);
        let first = logs.read(&wanted);
        assert_eq!((first.entries.len(), first.next), (PAGE_MAX, 1_000));
        wanted.after = first.next;
        let second = logs.read(&wanted);
        assert_eq!((second.entries.len(), second.next), (500, 1_500));
        wanted = Wanted {
            request: Some(format!("{:016x}", 2)),
            after: 0,
            ..wanted
        };
        assert_eq!(logs.read(&wanted).entries.len(), 500);
    }

    #[test]
    fn however_many_functions_print_memory_is_bounded() {
        let logs = Logs::default();
        for number in 0..2 * FUNCTIONS_MAX {
            logs.push(entry(&format!("f{number}"), 1, "."));
            logs.push(entry("talks", 1, "."));
        }
        assert_eq!(logs.rings().functions.len(), FUNCTIONS_MAX);
        assert_eq!(logs.read(&wanted("f0", 0)).entries.len(), 0);
        assert_eq!(
            logs.read(&wanted("talks", 0)).entries.len(),
            2 * FUNCTIONS_MAX
        );
    }

    #[tokio::test]
    async fn who_follows_hears_of_the_next_entry() {
        let logs = Arc::new(Logs::default());
        logs.push(entry("f", 1, "old"));
        let following = {
            let logs = Arc::clone(&logs);
            tokio::spawn(async move { logs.follow(&wanted("f", 1)).await })
        };
        logs.push(entry("g", 1, "not asked for"));
        logs.push(entry("f", 2, "new"));
        let page = tokio::time::timeout(Duration::from_secs(5), following)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(page.entries[0].text, "new");
    }
}
