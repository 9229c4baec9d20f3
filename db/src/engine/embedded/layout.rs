//! Keys and values as they lie in fjall. All numbers big-endian, so that byte order is key order.
//!
//! ```text
//! keyspace data:  slot:u16 key            -> value
//! keyspace feed:  slot:u16 cursor:u64     -> kind:u8 key_len:u16 key value     kind: 1 put, 2 delete
//! keyspace meta:  "layout"                -> version:u8
//! ```

use ebpf_common::ids::SlotId;

use crate::op::{Change, Cursor, FeedRecord};

/// Layout of this release.
pub(super) const VERSION: u8 = 1;
/// Where it is written down.
pub(super) const VERSION_KEY: &str = "layout";
/// Length of a feed key.
pub(super) const FEED_KEY_LEN: usize = 10;

const SLOT_LEN: usize = 2;
const KIND_PUT: u8 = 1;
const KIND_DELETE: u8 = 2;

pub(super) fn data_key(slot: SlotId, key: &[u8]) -> Vec<u8> {
    [&slot.0.to_be_bytes(), key].concat()
}

/// The key behind the slot.
pub(super) fn key_of(data_key: &[u8]) -> &[u8] {
    data_key.get(SLOT_LEN..).unwrap_or_default()
}

pub(super) fn feed_key(slot: SlotId, cursor: Cursor) -> [u8; FEED_KEY_LEN] {
    let [s0, s1] = slot.0.to_be_bytes();
    let [c0, c1, c2, c3, c4, c5, c6, c7] = cursor.0.to_be_bytes();
    [s0, s1, c0, c1, c2, c3, c4, c5, c6, c7]
}

pub(super) fn cursor_of(feed_key: &[u8]) -> Option<Cursor> {
    let (_, cursor) = feed_key.split_at_checked(SLOT_LEN)?;
    Some(Cursor(u64::from_be_bytes(cursor.try_into().ok()?)))
}

/// The value of a feed record; `value` is `None` for a delete.
pub(super) fn encode_record(key: &[u8], value: Option<&[u8]>) -> Vec<u8> {
    let kind = if value.is_some() {
        KIND_PUT
    } else {
        KIND_DELETE
    };
    let key_len = u16::try_from(key.len()).expect("ops are checked against KEY_BYTES_MAX");
    let mut record = Vec::with_capacity(3 + key.len() + value.map_or(0, <[u8]>::len));
    record.push(kind);
    record.extend(key_len.to_be_bytes());
    record.extend_from_slice(key);
    record.extend_from_slice(value.unwrap_or_default());
    record
}

pub(super) fn decode_record(feed_key: &[u8], record: &[u8]) -> Option<FeedRecord> {
    let ([kind, l0, l1], rest) = record.split_first_chunk::<3>()?;
    let (key, value) = rest.split_at_checked(u16::from_be_bytes([*l0, *l1]).into())?;
    let change = match *kind {
        KIND_PUT => Change::Put(value.to_vec()),
        KIND_DELETE if value.is_empty() => Change::Delete,
        _ => return None,
    };
    Some(FeedRecord {
        cursor: cursor_of(feed_key)?,
        key: key.to_vec(),
        change,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_on_disk_are_these() {
        assert_eq!(data_key(SlotId(0x0102), b"k"), b"\x01\x02k");
        assert_eq!(
            feed_key(SlotId(0x0102), Cursor(3)),
            *b"\x01\x02\0\0\0\0\0\0\0\x03"
        );
        assert_eq!(encode_record(b"k", Some(b"v")), b"\x01\0\x01kv");
        assert_eq!(encode_record(b"k", None), b"\x02\0\x01k");
    }

    #[test]
    fn a_record_survives_its_encoding_and_a_torn_one_is_refused() {
        let key = feed_key(SlotId(7), Cursor(9));
        let whole = encode_record(b"key", Some(b""));
        let record = decode_record(&key, &whole).unwrap();
        assert_eq!(record.cursor, Cursor(9));
        assert_eq!(record.change, Change::Put(Vec::new()));
        for length in 0..whole.len() {
            assert_eq!(decode_record(&key, &whole[..length]), None);
        }
        assert_eq!(decode_record(&key[..9], &whole), None);
        assert_eq!(decode_record(&key, b"\x02\0\x01kv"), None);
    }
}
