//! Fragments of a message as a worker and a client take them: in any order, of any length, with any number.
#![no_main]

use ebpf_common::limits::{MAX_FRAGMENTS, MAX_MESSAGE};
use libfuzzer_sys::fuzz_target;
use warmpath_sdk::fragment::{Added, Held, Reassembly};

fuzz_target!(|data: &[u8]| {
    let [count, rest @ ..] = data else {
        return;
    };
    let mut rest = rest;
    let mut message = Reassembly::new(u16::from(*count));
    let bytes = [7; 2_000];
    while let [index, other, high, low, next @ ..] = rest {
        rest = next;
        let len = usize::from(u16::from_be_bytes([*high, *low])) % (bytes.len() + 1);
        // Mostly the count that was told before.
        let count = if *other < 250 { *count } else { *other };
        let held = message.held();
        match message.add(u16::from(*index), u16::from(count), &bytes[..len]) {
            Ok(Added::Kept | Added::Complete) => assert_ne!(message.held(), held),
            Ok(Added::Duplicate) | Err(_) => assert_eq!(message.held(), held),
        }
        assert!(message.memory() <= 2 * MAX_MESSAGE);
    }
    if message.is_complete() && u16::from(*count) <= MAX_FRAGMENTS {
        assert!(message.into_message().len() <= MAX_MESSAGE);
    }
    if let Some(held) = Held::from_payload(data) {
        assert_eq!(held.to_payload(), data);
    }
});
