//! A key at a fixed offset.

use super::{Progress, Scan, SchemaEntry};

#[inline(always)]
pub(super) fn step(scan: &mut Scan, schema: &SchemaEntry, byte: u8) -> Progress {
    let start = u32::from(schema.offset);
    if scan.position < start {
        return Progress::More;
    }
    scan.take(byte);
    if scan.position.wrapping_add(1) >= start + u32::from(schema.size) {
        return scan.found();
    }
    Progress::More
}
