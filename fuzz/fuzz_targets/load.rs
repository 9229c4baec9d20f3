//! LOAD packets: what is taken in is sealed with its worker's key, and newer than what came before.
//!
//! (Not "nothing that was changed": libFuzzer sees what the program compares, and so learns the seal of any packet.)
#![no_main]

use ebpf_common::{
    hash::siphash24,
    ids::WorkerId,
    wire::{HEADER_LEN, words_of},
};
use libfuzzer_sys::fuzz_target;
use warmpath_fuzz::{PORTS, balanced, damaged, load_packet, tables};
use xdp_balancer::{
    Verdict,
    testing::{FakeTables, frame::Frame},
};

thread_local! {
    static TABLES: FakeTables = tables();
}

fuzz_target!(|data: &[u8]| {
    let [choice, edits @ ..] = data else {
        return;
    };
    TABLES.with(|tables| {
        let before = tables.loads.borrow()[&WorkerId(1)];
        let mut datagram = load_packet(tables, before.sequence + 1).emit().to_vec();
        if choice & 2 == 0 {
            damaged(&mut datagram, edits);
        } else {
            datagram = edits[..edits.len().min(1_400)].to_vec();
        }
        let sealed = is_sealed(tables, &datagram);
        let mut frame = Frame {
            port: PORTS[4].1,
            ..Frame::udp(datagram.clone())
        };
        if choice & 1 == 1 {
            frame = frame.over_v6();
        }
        let verdict = balanced(tables, frame.bytes());
        let after = tables.loads.borrow()[&WorkerId(1)];
        if verdict == Verdict::Consumed {
            assert!(sealed);
            assert!(after.sequence > before.sequence);
        } else {
            assert_eq!(after, before);
            let is_whole = choice & 2 == 0 && edits.len() < 3;
            assert!(!is_whole, "a good one was dropped: {verdict:?}");
        }
    });
});

/// Whether the packet ends in the seal of what it begins with, in the epoch that it claims.
fn is_sealed(tables: &FakeTables, datagram: &[u8]) -> bool {
    let Some(header) = datagram.first_chunk::<HEADER_LEN>() else {
        return false;
    };
    let words = words_of(header);
    let claimed = u64::from_be(words[7]);
    let Ok(worker) = u16::try_from(u64::from_be(words[2])) else {
        return false;
    };
    let keys = tables.config.expect("configured").load_keys();
    let key = keys.of(WorkerId(worker), (claimed >> 56) as u8);
    let [w0, w1, w2, w3, w4, w5, w6, _] = words;
    let mac = siphash24(key, &[w0, w1, w2, w3, w4, w5, w6]);
    claimed & (u64::MAX >> 8) == mac >> 8
}
