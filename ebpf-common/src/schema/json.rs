//! A key at the top level of a JSON object (RFC 8259). The first member of the name counts; where names repeat, a parser of
//! the whole object would most often take the last one.

use super::{Progress, Scan, SchemaEntry};

/// Before the object.
const START: u32 = 0;
/// Between tokens, where a string is a value.
const BETWEEN: u32 = 1;
/// Between tokens, where a string is a member's name.
const BEFORE_NAME: u32 = 2;
/// In a string that is skipped.
const STRING: u32 = 3;
/// Behind the backslash in such a string.
const ESCAPE: u32 = 4;
/// In a member's name that is the wanted one so far; `left` bytes have matched.
const NAME: u32 = 5;
/// Behind the wanted name, before the colon.
const COLON: u32 = 6;
/// Behind the colon, before the value.
const VALUE: u32 = 7;
/// In the value, a string.
const TAKE_STRING: u32 = 8;
/// In the value, a number.
const TAKE_NUMBER: u32 = 9;

#[inline(always)]
pub(super) fn step(scan: &mut Scan, schema: &SchemaEntry, byte: u8) -> Progress {
    match scan.state {
        START => start(scan, byte),
        STRING => {
            scan.state = match byte {
                b'\\' => ESCAPE,
                b'"' => BETWEEN,
                _ => STRING,
            };
            Progress::More
        }
        ESCAPE => {
            scan.state = STRING;
            Progress::More
        }
        NAME => name(scan, schema, byte),
        COLON => expect(scan, byte, b':', VALUE),
        VALUE => value(scan, byte),
        TAKE_STRING => take_string(scan, byte),
        TAKE_NUMBER => take_number(scan, byte),
        _ => between(scan, byte),
    }
}

#[inline(always)]
const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

#[inline(always)]
const fn start(scan: &mut Scan, byte: u8) -> Progress {
    if byte == b'{' {
        scan.depth = 1;
        scan.state = BEFORE_NAME;
        return Progress::More;
    }
    if is_space(byte) {
        Progress::More
    } else {
        Progress::Over
    }
}

/// Between tokens: brackets are counted, and what follows a comma of the outermost object is a name.
#[inline(always)]
const fn between(scan: &mut Scan, byte: u8) -> Progress {
    match byte {
        b'"' if scan.state == BEFORE_NAME => {
            scan.left = 0;
            scan.state = NAME;
        }
        b'"' => scan.state = STRING,
        b'{' | b'[' => {
            scan.depth = scan.depth.wrapping_add(1);
            scan.state = BETWEEN;
        }
        b'}' | b']' => {
            scan.depth = scan.depth.wrapping_sub(1);
            if scan.depth == 0 {
                return Progress::Over;
            }
        }
        b',' if scan.depth == 1 => scan.state = BEFORE_NAME,
        _ => {}
    }
    Progress::More
}

#[inline(always)]
fn name(scan: &mut Scan, schema: &SchemaEntry, byte: u8) -> Progress {
    if byte == b'"' {
        scan.state = if scan.left == u32::from(schema.len) {
            COLON
        } else {
            BETWEEN
        };
        return Progress::More;
    }
    let wanted = schema
        .name
        .get(scan.left as usize & 31)
        .copied()
        .unwrap_or(0);
    if scan.left < u32::from(schema.len) && byte == wanted {
        scan.left = scan.left.wrapping_add(1);
    } else {
        scan.state = if byte == b'\\' { ESCAPE } else { STRING };
    }
    Progress::More
}

#[inline(always)]
const fn expect(scan: &mut Scan, byte: u8, wanted: u8, next: u32) -> Progress {
    if byte == wanted {
        scan.state = next;
        return Progress::More;
    }
    if is_space(byte) {
        Progress::More
    } else {
        Progress::Over
    }
}

#[inline(always)]
fn value(scan: &mut Scan, byte: u8) -> Progress {
    match byte {
        b'"' => scan.state = TAKE_STRING,
        b'-' | b'0'..=b'9' => {
            scan.take(byte);
            scan.state = TAKE_NUMBER;
        }
        _ if is_space(byte) => {}
        // An object, an array, true, false or null is no key.
        _ => return Progress::Over,
    }
    Progress::More
}

#[inline(always)]
fn take_string(scan: &mut Scan, byte: u8) -> Progress {
    match byte {
        b'"' => scan.found(),
        // The bytes here are not those of the string.
        b'\\' => Progress::Over,
        _ => {
            scan.take(byte);
            Progress::More
        }
    }
}

#[inline(always)]
fn take_number(scan: &mut Scan, byte: u8) -> Progress {
    match byte {
        b'0'..=b'9' | b'.' | b'-' | b'+' | b'e' | b'E' => {
            scan.take(byte);
            Progress::More
        }
        b',' | b'}' => scan.found(),
        _ if is_space(byte) => scan.found(),
        _ => Progress::Over,
    }
}
