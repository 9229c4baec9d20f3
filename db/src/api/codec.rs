//! Ops and replies as bytes: what `POST /v1/op` carries.
//!
//! ```text
//! op    := kind:u8 fields           reply := kind:u8 fields
//! bytes := length:u32 byte*         all numbers big-endian
//! maybe := 0:u8 | 1:u8 bytes
//!
//! op                                reply
//! 1 get             key:bytes       1 value    maybe
//! 2 put             key:bytes       2 written  cursor:u64
//!                   value:bytes     3 conflict current:maybe
//! 3 delete          key:bytes       4 rows     more:u8 count:u32 (key:bytes value:bytes)*
//! 4 compare_and_set key:bytes       5 feed     next:u64 count:u32
//!                   expected:maybe             (cursor:u64 key:bytes value:maybe)*
//!                   value:bytes
//! 5 scan            prefix:bytes after:maybe limit:u32
//! 6 feed            slot:u16 cursor:u64 limit:u32
//! 7 head            slot:u16        (a feed without records)
//! ```
//!
//! A feed record without a value is a delete. Decoding never panics, reads nothing beyond its input,
//! allocates nothing that the input does not hold, and refuses bytes left over.

use ebpf_common::ids::SlotId;

use crate::op::{Change, Cursor, FeedRecord, Op, Reply};

/// Why bytes are no op or reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The input ends within a field.
    #[error("it ends within a field")]
    Truncated,
    /// The first byte names no kind.
    #[error("its kind is unknown")]
    UnknownKind,
    /// A byte that says whether something follows is neither 0 nor 1.
    #[error("a flag is neither 0 nor 1")]
    BadFlag,
    /// Bytes are left behind the last field.
    #[error("bytes are left over at its end")]
    LeftOver,
}

/// Writes `op`.
#[must_use]
pub fn encode_op(op: &Op) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    match op {
        Op::Get { key } => {
            out.push(1);
            put_bytes(&mut out, key);
        }
        Op::Put { key, value } => {
            out.push(2);
            put_bytes(&mut out, key);
            put_bytes(&mut out, value);
        }
        Op::Delete { key } => {
            out.push(3);
            put_bytes(&mut out, key);
        }
        Op::CompareAndSet {
            key,
            expected,
            value,
        } => {
            out.push(4);
            put_bytes(&mut out, key);
            put_maybe(&mut out, expected.as_deref());
            put_bytes(&mut out, value);
        }
        Op::Scan {
            prefix,
            after,
            limit,
        } => {
            out.push(5);
            put_bytes(&mut out, prefix);
            put_maybe(&mut out, after.as_deref());
            out.extend(limit.to_be_bytes());
        }
        Op::Feed {
            slot,
            cursor,
            limit,
        } => {
            out.push(6);
            out.extend(slot.0.to_be_bytes());
            out.extend(cursor.0.to_be_bytes());
            out.extend(limit.to_be_bytes());
        }
        Op::Head { slot } => {
            out.push(7);
            out.extend(slot.0.to_be_bytes());
        }
    }
    out
}

/// Reads an op.
///
/// # Errors
/// [`DecodeError`].
pub fn decode_op(bytes: &[u8]) -> Result<Op, DecodeError> {
    let mut input = Input(bytes);
    let op = match input.u8()? {
        1 => Op::Get {
            key: input.bytes()?,
        },
        2 => Op::Put {
            key: input.bytes()?,
            value: input.bytes()?,
        },
        3 => Op::Delete {
            key: input.bytes()?,
        },
        4 => Op::CompareAndSet {
            key: input.bytes()?,
            expected: input.maybe()?,
            value: input.bytes()?,
        },
        5 => Op::Scan {
            prefix: input.bytes()?,
            after: input.maybe()?,
            limit: input.u32()?,
        },
        6 => Op::Feed {
            slot: SlotId(u16::from_be_bytes(input.array()?)),
            cursor: Cursor(input.u64()?),
            limit: input.u32()?,
        },
        7 => Op::Head {
            slot: SlotId(u16::from_be_bytes(input.array()?)),
        },
        _ => return Err(DecodeError::UnknownKind),
    };
    input.end()?;
    Ok(op)
}

/// Writes `reply`.
#[must_use]
pub fn encode_reply(reply: &Reply) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    match reply {
        Reply::Value(value) => {
            out.push(1);
            put_maybe(&mut out, value.as_deref());
        }
        Reply::Written { cursor } => {
            out.push(2);
            out.extend(cursor.0.to_be_bytes());
        }
        Reply::Conflict { current } => {
            out.push(3);
            put_maybe(&mut out, current.as_deref());
        }
        Reply::Rows { rows, more } => {
            out.push(4);
            out.push(u8::from(*more));
            out.extend(length(rows.len()).to_be_bytes());
            for (key, value) in rows {
                put_bytes(&mut out, key);
                put_bytes(&mut out, value);
            }
        }
        Reply::Feed { records, next } => {
            out.push(5);
            out.extend(next.0.to_be_bytes());
            out.extend(length(records.len()).to_be_bytes());
            for record in records {
                out.extend(record.cursor.0.to_be_bytes());
                put_bytes(&mut out, &record.key);
                put_maybe(
                    &mut out,
                    match &record.change {
                        Change::Put(value) => Some(value),
                        Change::Delete => None,
                    },
                );
            }
        }
    }
    out
}

/// Reads a reply.
///
/// # Errors
/// [`DecodeError`].
pub fn decode_reply(bytes: &[u8]) -> Result<Reply, DecodeError> {
    let mut input = Input(bytes);
    let reply = match input.u8()? {
        1 => Reply::Value(input.maybe()?),
        2 => Reply::Written {
            cursor: Cursor(input.u64()?),
        },
        3 => Reply::Conflict {
            current: input.maybe()?,
        },
        4 => {
            let more = input.flag()?;
            let mut rows = Vec::new();
            for _ in 0..input.u32()? {
                rows.push((input.bytes()?, input.bytes()?));
            }
            Reply::Rows { rows, more }
        }
        5 => {
            let next = Cursor(input.u64()?);
            let mut records = Vec::new();
            for _ in 0..input.u32()? {
                records.push(FeedRecord {
                    cursor: Cursor(input.u64()?),
                    key: input.bytes()?,
                    change: input.maybe()?.map_or(Change::Delete, Change::Put),
                });
            }
            Reply::Feed { records, next }
        }
        _ => return Err(DecodeError::UnknownKind),
    };
    input.end()?;
    Ok(reply)
}

/// A length as it is written. Keys, values and counts are all far below 4 Gi (see [`crate::limits`]).
fn length(length: usize) -> u32 {
    u32::try_from(length).expect("limits keep every length below 4 Gi")
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(length(bytes.len()).to_be_bytes());
    out.extend_from_slice(bytes);
}

fn put_maybe(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    out.push(u8::from(bytes.is_some()));
    if let Some(bytes) = bytes {
        put_bytes(out, bytes);
    }
}

/// What is left to decode.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    fn flag(&mut self) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::BadFlag),
        }
    }

    fn bytes(&mut self) -> Result<Vec<u8>, DecodeError> {
        let length = self.u32()? as usize;
        let (head, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(head.to_vec())
    }

    fn maybe(&mut self) -> Result<Option<Vec<u8>>, DecodeError> {
        if self.flag()? {
            self.bytes().map(Some)
        } else {
            Ok(None)
        }
    }

    const fn end(&self) -> Result<(), DecodeError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::LeftOver)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        vec(any::<u8>(), 0..40)
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            bytes().prop_map(|key| Op::Get { key }),
            (bytes(), bytes()).prop_map(|(key, value)| Op::Put { key, value }),
            bytes().prop_map(|key| Op::Delete { key }),
            (bytes(), option::of(bytes()), bytes()).prop_map(|(key, expected, value)| {
                Op::CompareAndSet {
                    key,
                    expected,
                    value,
                }
            }),
            (bytes(), option::of(bytes()), any::<u32>()).prop_map(|(prefix, after, limit)| {
                Op::Scan {
                    prefix,
                    after,
                    limit,
                }
            }),
            (any::<u16>(), any::<u64>(), any::<u32>()).prop_map(|(slot, cursor, limit)| {
                Op::Feed {
                    slot: SlotId(slot),
                    cursor: Cursor(cursor),
                    limit,
                }
            }),
            any::<u16>().prop_map(|slot| Op::Head { slot: SlotId(slot) }),
        ]
    }

    fn reply() -> impl Strategy<Value = Reply> {
        let record =
            (any::<u64>(), bytes(), option::of(bytes())).prop_map(|(cursor, key, value)| {
                FeedRecord {
                    cursor: Cursor(cursor),
                    key,
                    change: value.map_or(Change::Delete, Change::Put),
                }
            });
        prop_oneof![
            option::of(bytes()).prop_map(Reply::Value),
            any::<u64>().prop_map(|cursor| Reply::Written {
                cursor: Cursor(cursor)
            }),
            option::of(bytes()).prop_map(|current| Reply::Conflict { current }),
            (vec((bytes(), bytes()), 0..5), any::<bool>())
                .prop_map(|(rows, more)| Reply::Rows { rows, more }),
            (vec(record, 0..5), any::<u64>()).prop_map(|(records, next)| Reply::Feed {
                records,
                next: Cursor(next)
            }),
        ]
    }

    proptest! {
        #[test]
        fn every_op_survives_its_encoding(op in op()) {
            prop_assert_eq!(decode_op(&encode_op(&op)), Ok(op));
        }

        #[test]
        fn every_reply_survives_its_encoding(reply in reply()) {
            prop_assert_eq!(decode_reply(&encode_reply(&reply)), Ok(reply));
        }

        #[test]
        fn an_op_cut_anywhere_is_refused(op in op()) {
            let whole = encode_op(&op);
            for length in 0..whole.len() {
                prop_assert!(decode_op(&whole[..length]).is_err());
            }
        }

        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>) {
            if let Ok(op) = decode_op(&bytes) {
                prop_assert_eq!(encode_op(&op), bytes.clone());
            }
            if let Ok(reply) = decode_reply(&bytes) {
                prop_assert_eq!(encode_reply(&reply), bytes);
            }
        }
    }

    #[test]
    fn the_bytes_of_a_put_are_these() {
        let op = Op::Put {
            key: b"k".to_vec(),
            value: b"vw".to_vec(),
        };
        assert_eq!(encode_op(&op), b"\x02\0\0\0\x01k\0\0\0\x02vw");
    }

    #[test]
    fn bytes_left_over_are_refused() {
        assert_eq!(decode_op(b"\x01\0\0\0\x01kx"), Err(DecodeError::LeftOver));
        assert_eq!(decode_op(b"\x09"), Err(DecodeError::UnknownKind));
        assert_eq!(decode_reply(b"\x01\x02"), Err(DecodeError::BadFlag));
    }
}
