//! What of a feed one call is told of: pure.

use db::{Cursor, FeedRecord};
use ebpf_common::limits::MAX_MESSAGE;

use super::event;

/// Most bytes of one call's records; what is around them has its room too.
const BYTES_MAX: usize = MAX_MESSAGE - 2 * 1024;

/// The writes of one call.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// As they are told.
    pub(super) records: Vec<Vec<u8>>,
    /// The first of them.
    pub(super) first: Cursor,
    /// With the call, all is done up to here.
    pub(super) through: Cursor,
}

/// The writes to keys with `prefix` at the head of `records`, at most `count` and as many as fit a message; and how many
/// records that leaves behind. No batch if there is none.
pub(super) fn next(records: &[FeedRecord], prefix: &[u8], count: u32) -> (Option<Batch>, usize) {
    let mut batch: Option<Batch> = None;
    let mut bytes = 0;
    for (looked_at, record) in records.iter().enumerate() {
        if !record.key.starts_with(prefix) {
            if let Some(batch) = &mut batch {
                batch.through = record.cursor;
            }
            continue;
        }
        let told = event::record(record, BYTES_MAX);
        let batch = batch.get_or_insert_with(|| Batch {
            records: Vec::new(),
            first: record.cursor,
            through: record.cursor,
        });
        let is_full = batch.records.len() >= count as usize || bytes + told.len() >= BYTES_MAX;
        if is_full && !batch.records.is_empty() {
            return (Some(std::mem::replace(batch, EMPTY)), looked_at);
        }
        bytes += told.len() + 1;
        batch.records.push(told);
        batch.through = record.cursor;
    }
    (batch, records.len())
}

/// What is left where a batch was taken out.
const EMPTY: Batch = Batch {
    records: Vec::new(),
    first: Cursor::START,
    through: Cursor::START,
};

#[cfg(test)]
mod tests {
    use db::Change;
    use proptest::prelude::*;

    use super::*;

    fn feed(keys: &[(&str, usize)]) -> Vec<FeedRecord> {
        let cursors = 1..;
        let record = |((key, bytes), cursor): (&(&str, usize), u64)| FeedRecord {
            cursor: Cursor(cursor),
            key: key.as_bytes().to_vec(),
            change: Change::Put(vec![b'x'; *bytes]),
        };
        keys.iter().zip(cursors).map(record).collect()
    }

    #[test]
    fn others_are_passed_over_and_count_as_done_with_the_call_before_them() {
        let records = feed(&[("b", 1), ("a", 1), ("b", 1), ("b", 1), ("a", 1), ("a", 1)]);
        let (batch, looked_at) = next(&records, b"a", 1);
        let batch = batch.unwrap();
        assert_eq!(
            (batch.first, batch.through, looked_at),
            (Cursor(2), Cursor(4), 4)
        );
        let (batch, looked_at) = next(&records[4..], b"a", 5);
        let batch = batch.unwrap();
        assert_eq!(
            (batch.records.len(), batch.through, looked_at),
            (2, Cursor(6), 2)
        );
        assert_eq!(next(&records[..1], b"a", 5), (None, 1));
        assert_eq!(next(&[], b"a", 5), (None, 0));
    }

    #[test]
    fn a_value_longer_than_a_message_makes_a_call_without_it() {
        let records = feed(&[("a", 1_000_000), ("a", 40_000), ("a", 40_000)]);
        let (batch, looked_at) = next(&records, b"a", 5);
        assert_eq!((batch.unwrap().records.len(), looked_at), (2, 2));
        let (batch, _) = next(&records[2..], b"a", 5);
        assert_eq!(batch.unwrap().first, Cursor(3));
    }

    proptest! {
        #[test]
        fn every_write_is_told_once_in_order_and_no_call_is_longer_than_a_message(
            keys in prop::collection::vec((prop_oneof![Just("a1"), Just("b")], 0..40_000_usize), 0..40),
            count in 1..6_u32,
        ) {
            let records = feed(&keys);
            let (mut at, mut told, mut through) = (0, 0, Cursor::START);
            while at < records.len() {
                let (batch, looked_at) = next(&records[at..], b"a", count);
                prop_assert!(looked_at > 0);
                at += looked_at;
                let Some(batch) = batch else { continue };
                prop_assert!((1..=count as usize).contains(&batch.records.len()));
                let bytes: usize = batch.records.iter().map(|record| record.len() + 1).sum();
                prop_assert!(bytes <= MAX_MESSAGE - 1024);
                prop_assert!(batch.first > through && batch.through >= batch.first);
                prop_assert_eq!(batch.through, records[at - 1].cursor);
                through = batch.through;
                told += batch.records.len();
            }
            prop_assert_eq!(told, keys.iter().filter(|(key, _)| *key == "a1").count());
        }
    }
}
