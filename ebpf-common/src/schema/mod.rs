//! RPC schemas: where in a payload the session or the shard key of a request is found (DESIGN §6).
//!
//! A [`SchemaEntry`] is a small extractor: a fixed offset, a path of protobuf fields, or a top-level JSON key. [`Scan`] runs
//! it, one byte of the payload a step, so that the same code runs in a loop on the host and as the body of `bpf_loop` in
//! the kernel, where the verifier looks at one step and not at all payloads.
//!
//! Invariants: no input makes a step panic or a scan longer than [`SCAN_MAX`]; a key that is not whole within the bytes
//! scanned, or whose bytes are not those that a parser would give (a JSON string with an escape), is no key.
//!
//! Deliberately absent: HTTP headers, cookies and paths (a later step of the data plane reads HTTP).

mod fixed;
mod json;
mod protobuf;

use crate::{
    hash::{crc16_step, mix64},
    ids::SlotId,
    limits::SLOTS,
    map_type::map_type,
};

/// Bytes of payload that are looked at.
pub const SCAN_MAX: usize = 256;
/// Fields of a protobuf path.
pub const PATH_MAX: usize = 6;
/// Bytes of a JSON key.
pub const NAME_MAX: usize = 32;

/// How the key is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SchemaKind {
    /// `len` bytes at `offset`.
    Fixed = 1,
    /// The protobuf field at `path`: each but the last a message. Bytes and strings are the key as they are; a number is
    /// the key as eight bytes, big-endian.
    Protobuf = 2,
    /// The value of the top-level key `name` of a JSON object: a string without escapes, or the characters of a number.
    Json = 3,
}

/// What the key is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SchemaTarget {
    /// The session.
    Session = 1,
    /// The slot.
    Slot = 2,
}

map_type! {
    /// A row of `SCHEMAS`. All zero is an empty row, which finds nothing.
    SchemaEntry, 64 {
        /// A [`SchemaKind`] code.
        kind: u8,
        /// A [`SchemaTarget`] code.
        target: u8,
        /// Protobuf: how many fields of `path` are set. JSON: how many bytes of `name` are.
        len: u8,
        /// Unused; zero.
        reserved: u8,
        /// Fixed: where the key begins in the payload.
        offset: u16,
        /// Fixed: its bytes.
        size: u16,
        /// Protobuf: field numbers, from the outermost message on.
        path: [u32; PATH_MAX],
        /// JSON: the key.
        name: [u8; NAME_MAX],
    }
}

impl SchemaEntry {
    /// An entry that finds nothing.
    pub const EMPTY: Self = Self {
        kind: 0,
        target: 0,
        len: 0,
        reserved: 0,
        offset: 0,
        size: 0,
        path: [0; PATH_MAX],
        name: [0; NAME_MAX],
    };

    /// `size` bytes at `offset`; `None` if they do not lie in what is scanned, or are none.
    #[must_use]
    pub const fn fixed(target: SchemaTarget, offset: u16, size: u16) -> Option<Self> {
        if size == 0 || offset as usize + size as usize > SCAN_MAX {
            return None;
        }
        Some(Self {
            kind: SchemaKind::Fixed as u8,
            target: target as u8,
            offset,
            size,
            ..Self::EMPTY
        })
    }

    /// The protobuf field at `path`; `None` if it is too long or empty, or has a number that no field can have.
    #[must_use]
    pub fn protobuf(target: SchemaTarget, path: &[u32]) -> Option<Self> {
        let mut entry = Self {
            kind: SchemaKind::Protobuf as u8,
            target: target as u8,
            len: u8::try_from(path.len()).ok()?,
            ..Self::EMPTY
        };
        if path.is_empty() || path.iter().any(|field| !(1..1 << 29).contains(field)) {
            return None;
        }
        entry.path.get_mut(..path.len())?.copy_from_slice(path);
        Some(entry)
    }

    /// The value of the JSON key `name`; `None` if it is too long or empty, or could only be written with an escape.
    #[must_use]
    pub fn json(target: SchemaTarget, name: &str) -> Option<Self> {
        let bytes = name.as_bytes();
        let mut entry = Self {
            kind: SchemaKind::Json as u8,
            target: target as u8,
            len: u8::try_from(bytes.len()).ok()?,
            ..Self::EMPTY
        };
        let needs_escape = |byte: &u8| matches!(byte, 0..0x20 | b'"' | b'\\');
        if bytes.is_empty() || bytes.iter().any(needs_escape) {
            return None;
        }
        entry.name.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(entry)
    }

    /// Finds the key in `payload`, or what was scanned of it.
    #[must_use]
    pub fn find(&self, payload: &[u8]) -> Option<Key> {
        let mut scan = Scan::START;
        for byte in payload.iter().take(SCAN_MAX) {
            if scan.step(self, *byte).is_over() {
                break;
            }
        }
        scan.key(self)
    }
}

/// The key that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// The session that it stands for: FNV-1a of 64 bits over its bytes, mixed.
    Session(u64),
    /// Its slot, exactly as of a database key (see [`crate::hash::slot_of_key`]).
    Slot(SlotId),
}

/// Whether there is more to scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Yes.
    More,
    /// No: the key is whole, or cannot be found any more.
    Over,
}

impl Progress {
    /// Whether the scan has ended.
    #[inline(always)]
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Over)
    }
}

/// Beginning and prime of FNV-1a (Fowler, Noll, Vo), 64 bits.
const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

/// States of [`Scan::tag`]: where the key stands with its hash tag (the part in braces).
const TAG_NONE: u32 = 0;
const TAG_OPEN: u32 = 1;
const TAG_DONE: u32 = 2;

map_type! {
    /// How far a scan is: words, each of which any value is right for. Only the program writes it.
    Scan, 72 {
        /// Which state the extractor is in; its own numbers.
        state: u32,
        /// Bytes scanned.
        position: u32,
        /// JSON: open brackets. Protobuf: fields of the path that have been entered.
        depth: u32,
        /// Bytes left of what is skipped or taken; JSON: bytes of the name that matched.
        left: u32,
        /// Protobuf: where the innermost entered message ends.
        end: u32,
        /// Protobuf: bits of the number that have been read.
        shift: u32,
        /// Protobuf: the number being read.
        number: u64,
        /// FNV-1a of the key so far.
        session: u64,
        /// CRC16 of the key so far.
        crc: u32,
        /// CRC16 of the key's hash tag so far.
        tag_crc: u32,
        /// Where the key stands with its hash tag, the part in braces.
        tag: u32,
        /// Bytes in the hash tag.
        tag_len: u32,
        /// Whether the key is whole.
        is_found: u32,
        /// Bytes of payload there are to scan.
        len: u32,
        /// Unused; zero.
        reserved: u64,
    }
}

impl Scan {
    /// Nothing scanned yet.
    pub const START: Self = Self {
        state: 0,
        position: 0,
        depth: 0,
        left: 0,
        end: u32::MAX,
        shift: 0,
        number: 0,
        session: FNV_START,
        crc: 0,
        tag_crc: 0,
        tag: TAG_NONE,
        tag_len: 0,
        is_found: 0,
        len: 0,
        reserved: 0,
    };

    /// Scans the next byte.
    #[inline(always)]
    pub fn step(&mut self, schema: &SchemaEntry, byte: u8) -> Progress {
        let progress = match schema.kind {
            1 => fixed::step(self, schema, byte),
            2 => protobuf::step(self, schema, byte),
            3 => json::step(self, schema, byte),
            _ => Progress::Over,
        };
        self.position = self.position.wrapping_add(1);
        progress
    }

    /// The key, if it was found whole.
    #[inline(always)]
    #[must_use]
    pub fn key(&self, schema: &SchemaEntry) -> Option<Key> {
        if self.is_found == 0 {
            return None;
        }
        match schema.target {
            1 => Some(Key::Session(mix64(self.session))),
            2 => {
                let is_tagged = self.tag == TAG_DONE && self.tag_len > 0;
                let crc = if is_tagged { self.tag_crc } else { self.crc };
                Some(Key::Slot(SlotId((crc & (SLOTS - 1)) as u16)))
            }
            _ => None,
        }
    }

    /// Adds a byte of the key.
    #[inline(always)]
    fn take(&mut self, byte: u8) {
        self.session = (self.session ^ u64::from(byte)).wrapping_mul(FNV_PRIME);
        self.crc = u32::from(crc16_step(self.crc as u16, byte));
        if self.tag == TAG_NONE && byte == b'{' {
            self.tag = TAG_OPEN;
        } else if self.tag == TAG_OPEN && byte == b'}' {
            self.tag = TAG_DONE;
        } else if self.tag == TAG_OPEN {
            self.tag_crc = u32::from(crc16_step(self.tag_crc as u16, byte));
            self.tag_len = self.tag_len.wrapping_add(1);
        }
    }

    /// The key is whole.
    #[inline(always)]
    const fn found(&mut self) -> Progress {
        self.is_found = 1;
        Progress::Over
    }
}

#[cfg(all(test, feature = "user"))]
mod tests;
