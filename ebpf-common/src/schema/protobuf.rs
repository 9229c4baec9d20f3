//! A key in a protobuf message (protobuf.dev/programming-guides/encoding): tag, value, tag, value; a message within a message
//! is a value with a length. The first field of a number counts; a parser of the whole message would take the last one.

use super::{Progress, Scan, SchemaEntry};

/// Reading a tag: field number and wire type.
const TAG: u32 = 0;
/// Reading a number that is skipped.
const SKIP_NUMBER: u32 = 1;
/// Reading the length of a value that is skipped.
const SKIP_LENGTH: u32 = 2;
/// Skipping `left` bytes.
const SKIP: u32 = 3;
/// Reading a number that is the key.
const TAKE_NUMBER: u32 = 4;
/// Reading the length of the key, or of a message of the path.
const TAKE_LENGTH: u32 = 5;
/// Taking `left` bytes as the key.
const TAKE: u32 = 6;

/// Wire types.
const VARINT: u32 = 0;
const FIXED_64: u32 = 1;
const LENGTH: u32 = 2;
const FIXED_32: u32 = 5;

/// Bits of the longest number: ten bytes of seven.
const SHIFT_MAX: u32 = 63;

#[inline(always)]
pub(super) fn step(scan: &mut Scan, schema: &SchemaEntry, byte: u8) -> Progress {
    if scan.position >= scan.end {
        // The message that should hold the field has ended.
        return Progress::Over;
    }
    match scan.state {
        SKIP => {
            skip_one(scan);
            Progress::More
        }
        TAKE => {
            scan.take(byte);
            scan.left = scan.left.wrapping_sub(1);
            if scan.left == 0 {
                return scan.found();
            }
            Progress::More
        }
        _ => number(scan, schema, byte),
    }
}

#[inline(always)]
const fn skip_one(scan: &mut Scan) {
    scan.left = scan.left.wrapping_sub(1);
    if scan.left == 0 {
        scan.state = TAG;
    }
}

/// A byte of a number: seven bits, the lowest first, and whether more follow.
#[inline(always)]
fn number(scan: &mut Scan, schema: &SchemaEntry, byte: u8) -> Progress {
    if scan.shift > SHIFT_MAX {
        return Progress::Over;
    }
    scan.number |= u64::from(byte & 0x7f) << (scan.shift & 63);
    if byte & 0x80 != 0 {
        scan.shift += 7;
        return Progress::More;
    }
    let value = scan.number;
    scan.number = 0;
    scan.shift = 0;
    match scan.state {
        TAG => tag(scan, schema, value),
        SKIP_NUMBER => {
            scan.state = TAG;
            Progress::More
        }
        SKIP_LENGTH => skip(scan, value),
        TAKE_NUMBER => take_number(scan, value),
        TAKE_LENGTH => enter(scan, schema, value),
        _ => Progress::Over,
    }
}

/// A tag has been read.
#[inline(always)]
fn tag(scan: &mut Scan, schema: &SchemaEntry, tag: u64) -> Progress {
    let wanted = schema
        .path
        .get(scan.depth as usize & 7)
        .copied()
        .unwrap_or(0);
    let is_wanted = tag >> 3 == u64::from(wanted);
    let is_last = scan.depth + 1 == u32::from(schema.len);
    match (tag & 7) as u32 {
        VARINT => {
            scan.state = if is_wanted && is_last {
                TAKE_NUMBER
            } else {
                SKIP_NUMBER
            };
            Progress::More
        }
        LENGTH => {
            scan.state = if is_wanted { TAKE_LENGTH } else { SKIP_LENGTH };
            Progress::More
        }
        FIXED_64 if !is_wanted => skip(scan, 8),
        FIXED_32 if !is_wanted => skip(scan, 4),
        // Groups, which proto3 has not; a fixed number that is wanted, whose bytes stand in another order than a number's.
        _ => Progress::Over,
    }
}

#[inline(always)]
fn skip(scan: &mut Scan, len: u64) -> Progress {
    // More than a payload has; compared before it is cut to 32 bits.
    if len > u64::from(u16::MAX) {
        return Progress::Over;
    }
    scan.left = len as u32;
    scan.state = if len == 0 { TAG } else { SKIP };
    Progress::More
}

#[inline(always)]
fn take_number(scan: &mut Scan, value: u64) -> Progress {
    for byte in value.to_be_bytes() {
        scan.take(byte);
    }
    scan.found()
}

/// The length of the key, or of a message on the way to it, has been read.
#[inline(always)]
fn enter(scan: &mut Scan, schema: &SchemaEntry, len: u64) -> Progress {
    // Compared before it is added to: a number may be as long as 64 bits.
    if len > u64::from(u16::MAX) {
        return Progress::Over;
    }
    let end = u64::from(scan.position) + 1 + len;
    if end > u64::from(scan.end) {
        return Progress::Over;
    }
    if scan.depth + 1 == u32::from(schema.len) {
        scan.left = len as u32;
        scan.state = TAKE;
        // A key of no bytes is no key.
        return if len == 0 {
            Progress::Over
        } else {
            Progress::More
        };
    }
    scan.depth += 1;
    scan.end = end as u32;
    scan.state = TAG;
    Progress::More
}
