//! Messages as fragments: cutting, keeping track of, and putting together again. Client and worker
//! share this code, so that they cannot disagree about it.

use bytes::Bytes;
use ebpf_common::limits::{MAX_FRAGMENT_PAYLOAD, MAX_FRAGMENTS, MAX_MESSAGE};

/// The set of fragments of one message that somebody holds; bit *i* is fragment *i*.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Held(u64);

impl Held {
    /// No fragment.
    pub const NONE: Self = Self(0);

    /// Every fragment of a message of `count`.
    #[must_use]
    pub const fn all(count: u16) -> Self {
        if count as u32 >= u64::BITS {
            Self(u64::MAX)
        } else {
            Self((1 << count) - 1)
        }
    }

    /// Only fragment `index`.
    #[must_use]
    pub const fn one(index: u16) -> Self {
        if index as u32 >= u64::BITS {
            Self(0)
        } else {
            Self(1 << index)
        }
    }

    /// Whether every fragment of `other` is in this set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// This set without `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether no fragment is in the set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The lowest fragment in the set.
    #[must_use]
    pub const fn first(self) -> Option<u16> {
        if self.0 == 0 {
            None
        } else {
            Some(self.0.trailing_zeros() as u16)
        }
    }

    /// How many fragments are in the set.
    #[must_use]
    pub const fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// The set as the payload of a `continue` or RESUME packet.
    #[must_use]
    pub const fn to_payload(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }

    /// The set in the payload of a `continue` or RESUME packet, if it is one.
    #[must_use]
    pub fn from_payload(payload: &[u8]) -> Option<Self> {
        payload.try_into().ok().map(u64::from_be_bytes).map(Self)
    }
}

/// The number of fragments that a message of `bytes` is cut into.
#[must_use]
pub fn count_of(bytes: usize) -> u16 {
    let count = bytes.div_ceil(MAX_FRAGMENT_PAYLOAD).max(1);
    u16::try_from(count).unwrap_or(u16::MAX)
}

/// The payload of fragment `index` of `message`; empty beyond its end.
#[must_use]
pub fn part(message: &[u8], index: u16) -> &[u8] {
    let start = usize::from(index) * MAX_FRAGMENT_PAYLOAD;
    let end = (start + MAX_FRAGMENT_PAYLOAD).min(message.len());
    message.get(start..end).unwrap_or_default()
}

/// Why a fragment does not belong to the message being put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FragmentError {
    /// Its index or count contradicts what came before.
    #[error("fragment number or count contradicts the other fragments")]
    Number,
    /// Its length contradicts that of the other fragments.
    #[error("fragment length contradicts the other fragments")]
    Length,
    /// The message would be longer than a message may be.
    #[error("the fragments add up to more than {MAX_MESSAGE} bytes")]
    TooLong,
}

/// What [`Reassembly::add`] did with a fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// Kept; more are missing.
    Kept,
    /// It had arrived before.
    Duplicate,
    /// Kept, and it was the last one missing.
    Complete,
}

/// A message of which some fragments have arrived, in any order.
///
/// All fragments but the last have one length, which the first of them to arrive decides. Memory
/// for the whole message is taken when the second fragment arrives and not before, so that one
/// packet of a stranger costs no more than itself.
#[derive(Debug)]
pub struct Reassembly {
    count: u16,
    held: Held,
    /// Length of every fragment but the last; 0 until one has arrived.
    unit: usize,
    buffer: Vec<u8>,
    /// The last fragment, kept apart while `unit` is unknown.
    tail: Vec<u8>,
}

impl Reassembly {
    /// Nothing yet of a message of `count` fragments.
    #[must_use]
    pub const fn new(count: u16) -> Self {
        Self {
            count,
            held: Held::NONE,
            unit: 0,
            buffer: Vec::new(),
            tail: Vec::new(),
        }
    }

    /// The fragments that have arrived.
    #[must_use]
    pub const fn held(&self) -> Held {
        self.held
    }

    /// The number of fragments of the message.
    #[must_use]
    pub const fn count(&self) -> u16 {
        self.count
    }

    /// Bytes of memory held for the message.
    #[must_use]
    pub const fn memory(&self) -> usize {
        self.buffer.capacity() + self.tail.capacity()
    }

    /// Whether every fragment has arrived.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.held == Held::all(self.count)
    }

    /// Takes in fragment `index` of `count`.
    ///
    /// # Errors
    /// [`FragmentError`] if it contradicts what is known; then nothing has changed.
    pub fn add(&mut self, index: u16, count: u16, payload: &[u8]) -> Result<Added, FragmentError> {
        if count != self.count || index >= count || count > MAX_FRAGMENTS {
            return Err(FragmentError::Number);
        }
        if self.held.contains(Held::one(index)) {
            return Ok(Added::Duplicate);
        }
        if index + 1 == count {
            self.add_last(payload)?;
        } else {
            self.add_inner(index, payload)?;
        }
        self.held = self.held.with(Held::one(index));
        Ok(if self.is_complete() {
            Added::Complete
        } else {
            Added::Kept
        })
    }

    /// The message; what is missing of it is missing or zero.
    #[must_use]
    pub fn into_message(self) -> Bytes {
        Bytes::from(self.buffer)
    }

    fn add_inner(&mut self, index: u16, payload: &[u8]) -> Result<(), FragmentError> {
        if payload.is_empty() {
            return Err(FragmentError::Length);
        }
        if self.unit == 0 {
            let inner = payload.len() * usize::from(self.count - 1);
            // Every fragment carries something, so the last one has at least a byte.
            if inner + self.tail.len().max(1) > MAX_MESSAGE {
                return Err(FragmentError::TooLong);
            }
            if self.tail.len() > payload.len() {
                return Err(FragmentError::Length);
            }
            self.unit = payload.len();
            if !self.tail.is_empty() {
                let tail = std::mem::take(&mut self.tail);
                self.write(inner, &tail);
            }
        } else if payload.len() != self.unit {
            return Err(FragmentError::Length);
        }
        self.write(self.unit * usize::from(index), payload);
        Ok(())
    }

    fn add_last(&mut self, payload: &[u8]) -> Result<(), FragmentError> {
        if self.count == 1 {
            if payload.len() > MAX_MESSAGE {
                return Err(FragmentError::TooLong);
            }
            self.buffer = payload.to_vec();
            return Ok(());
        }
        if payload.is_empty() {
            return Err(FragmentError::Length);
        }
        if self.unit == 0 {
            if payload.len() > MAX_MESSAGE {
                return Err(FragmentError::TooLong);
            }
            self.tail = payload.to_vec();
            return Ok(());
        }
        if payload.len() > self.unit {
            return Err(FragmentError::Length);
        }
        let start = self.unit * usize::from(self.count - 1);
        if start + payload.len() > MAX_MESSAGE {
            return Err(FragmentError::TooLong);
        }
        self.write(start, payload);
        Ok(())
    }

    fn write(&mut self, start: usize, payload: &[u8]) {
        let end = start + payload.len();
        if self.buffer.len() < end {
            if !self.held.is_empty() {
                let whole = (self.unit * usize::from(self.count)).min(MAX_MESSAGE);
                self.buffer
                    .reserve_exact(whole.saturating_sub(self.buffer.len()));
            }
            self.buffer.resize(end, 0);
        }
        if let Some(place) = self.buffer.get_mut(start..end) {
            place.copy_from_slice(payload);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_message_survives_any_order_and_repetition(
            message in proptest::collection::vec(any::<u8>(), 0..=MAX_MESSAGE),
            picks in proptest::collection::vec(any::<u16>(), 0..200),
        ) {
            let count = count_of(message.len());
            let mut whole = Reassembly::new(count);
            for index in picks.into_iter().map(|pick| pick % count).chain((0..count).rev()) {
                whole.add(index, count, part(&message, index)).unwrap();
            }
            prop_assert!(whole.is_complete());
            prop_assert_eq!(whole.into_message(), message);
        }

        #[test]
        fn no_fragment_panics_or_grows_beyond_a_message(
            count in 1u16..=64,
            fragments in proptest::collection::vec((0u16..70, 0u16..70, 0usize..3_000), 0..100),
        ) {
            let mut whole = Reassembly::new(count);
            for (index, claimed, bytes) in fragments {
                let claimed = if claimed > 64 { claimed } else { count };
                let before = whole.held();
                if whole.add(index, claimed, &vec![1; bytes]).is_err() {
                    prop_assert_eq!(before, whole.held());
                }
                prop_assert!(whole.buffer.len() + whole.tail.len() <= MAX_MESSAGE);
            }
        }

        #[test]
        fn any_fragment_length_will_do_if_it_is_the_same_in_all_but_the_last(
            unit in 1usize..1_400, last in 1usize..1_400, count in 2u16..=40,
        ) {
            let last = last.min(unit);
            let mut whole = Reassembly::new(count);
            for index in 0..count {
                let bytes = if index + 1 == count { last } else { unit };
                whole.add(index, count, &vec![index as u8; bytes]).unwrap();
            }
            prop_assert_eq!(whole.into_message().len(), unit * (usize::from(count) - 1) + last);
        }
    }

    #[test]
    fn fragments_that_contradict_each_other_are_refused() {
        let mut whole = Reassembly::new(3);
        assert_eq!(whole.add(0, 3, &[0; 100]), Ok(Added::Kept));
        assert_eq!(whole.add(1, 4, &[0; 100]), Err(FragmentError::Number));
        assert_eq!(whole.add(3, 3, &[0; 100]), Err(FragmentError::Number));
        assert_eq!(whole.add(1, 3, &[0; 99]), Err(FragmentError::Length));
        assert_eq!(whole.add(2, 3, &[0; 101]), Err(FragmentError::Length));
        assert_eq!(whole.add(2, 3, &[]), Err(FragmentError::Length));
        assert_eq!(whole.add(0, 3, &[0; 5]), Ok(Added::Duplicate));
        assert_eq!(whole.add(2, 3, &[0; 1]), Ok(Added::Kept));
        assert_eq!(whole.add(1, 3, &[0; 100]), Ok(Added::Complete));
    }

    #[test]
    fn one_fragment_takes_no_more_memory_than_itself() {
        let mut whole = Reassembly::new(49);
        whole.add(0, 49, &[0; MAX_FRAGMENT_PAYLOAD]).unwrap();
        assert!(whole.buffer.capacity() < 2 * MAX_FRAGMENT_PAYLOAD);
    }

    #[test]
    fn a_message_one_byte_too_long_is_refused() {
        let mut whole = Reassembly::new(50);
        whole.add(0, 50, &[0; MAX_FRAGMENT_PAYLOAD]).unwrap();
        let last = MAX_MESSAGE - 49 * MAX_FRAGMENT_PAYLOAD;
        assert_eq!(
            whole.add(49, 50, &vec![0; last + 1]),
            Err(FragmentError::TooLong)
        );
        assert_eq!(whole.add(49, 50, &vec![0; last]), Ok(Added::Kept));
        assert_eq!(
            Reassembly::new(64).add(0, 64, &[0; 1_100]),
            Err(FragmentError::TooLong)
        );
    }

    #[test]
    fn counts_at_the_edges() {
        assert_eq!(count_of(0), 1);
        assert_eq!(count_of(MAX_FRAGMENT_PAYLOAD), 1);
        assert_eq!(count_of(MAX_FRAGMENT_PAYLOAD + 1), 2);
        assert_eq!(count_of(MAX_MESSAGE), 50);
        assert_eq!(part(b"", 0), b"");
        assert_eq!(part(b"abc", 1), b"");
        assert_eq!(Held::all(64), Held(u64::MAX));
    }
}
