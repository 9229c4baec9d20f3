//! The extractor over any payload, by any row: also by rows that userspace would never write. What is found in the
//! beginning of a payload is found in all of it, or a packet in IP fragments would go elsewhere.
#![no_main]

use ebpf_common::schema::{PATH_MAX, SCAN_MAX, SchemaEntry, SchemaTarget};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let [choice, len, numbers @ ..] = data else {
        return;
    };
    let Some((row, payload)) = numbers.split_at_checked(10) else {
        return;
    };
    let target = if choice & 1 == 0 {
        SchemaTarget::Session
    } else {
        SchemaTarget::Slot
    };
    let path: [u32; PATH_MAX] = std::array::from_fn(|at| u32::from(row[at]));
    let entry = match choice >> 1 & 3 {
        0 => SchemaEntry::json(target, "user"),
        1 => SchemaEntry::protobuf(target, &path[..1 + usize::from(*len) % PATH_MAX]),
        2 => SchemaEntry::fixed(target, u16::from(row[0]), u16::from(row[1])),
        _ => Some(SchemaEntry {
            kind: row[0],
            target: row[1],
            len: *len,
            offset: u16::from_be_bytes([row[2], row[3]]),
            size: u16::from_be_bytes([row[4], row[5]]),
            path,
            name: [row[6]; 32],
            ..SchemaEntry::EMPTY
        }),
    };
    let Some(entry) = entry else {
        return;
    };
    let whole = entry.find(payload);
    let beginning = &payload[..payload.len().min(SCAN_MAX) / 2];
    if let Some(key) = entry.find(beginning) {
        assert_eq!(whole, Some(key));
    }
});
