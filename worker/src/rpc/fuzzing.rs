//! What `fuzz/` reaches of the RPC server: its table of requests, which takes what strangers send. Only in builds for it.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use ebpf_common::{
    ids::FunctionId,
    limits::{MAX_FRAGMENT_PAYLOAD, MAX_MESSAGE},
    wire::{RpcHeader, Status},
};

use super::{
    answer::Reply,
    limits::{RpcLimits, SHARDS},
    table::{Found, RequestKey, Table},
};

/// Takes in packets of requests by `script`, in steps of six bytes: what happens, whose request it is, fragment number and
/// count, length of the payload.
///
/// # Panics
/// What must not be has happened: more memory taken than the limits allow, or a message that is too long.
pub fn requests(script: &[u8]) {
    let limits = RpcLimits {
        reply_cache_bytes: SHARDS * 2 * MAX_MESSAGE,
        reassembly_bytes: SHARDS * 2 * MAX_MESSAGE,
        ..RpcLimits::default()
    };
    let table = Table::new(limits.clone());
    let mut running = BTreeSet::new();
    let mut now = Instant::now();
    for step in script.as_chunks::<6>().0 {
        let [step, who, index, count, high, low] = *step;
        let key = RequestKey {
            peer: ([127, 0, 0, 1], u16::from(who >> 4) + 1).into(),
            id: u64::from(who & 15),
        };
        let len = usize::from(u16::from_be_bytes([high, low])) % (MAX_FRAGMENT_PAYLOAD + 1);
        let Some(datagram) = datagram(key.id, index, count, len) else {
            continue;
        };
        // Those that do not parse end here, as in `intake`.
        let Some(Ok((header, payload))) = RpcHeader::parse(&datagram) else {
            continue;
        };
        match step & 7 {
            0 => {
                now += Duration::from_millis(u64::from(step) * 10);
                table.expire(now);
            }
            1 => drop(table.look(key)),
            2 if running.remove(&who) => table.forget(key),
            3 if running.remove(&who) => {
                let payload = Bytes::copy_from_slice(payload);
                let reply = Reply::new(&header, Status::Ok, payload, 0);
                table.finish(key, &Arc::new(reply), now);
            }
            _ => match table.take(key, &header, payload) {
                Found::Nothing if header.fragment_index != 0 => (),
                Found::Nothing if header.fragment_count == 1 => {
                    table.start(key, 1, 0);
                    running.insert(who);
                }
                Found::Nothing => drop(table.begin(key, header, payload, 0, now)),
                Found::Whole { payload, .. } => {
                    assert!(payload.len() <= MAX_MESSAGE);
                    running.insert(who);
                }
                Found::Progress { .. } | Found::Done(_) | Found::Bad(_) => (),
            },
        }
        let size = table.size();
        assert!(size.receiving_bytes <= limits.reassembly_bytes);
        assert!(size.done_bytes <= limits.reply_cache_bytes);
    }
}

fn datagram(id: u64, index: u8, count: u8, len: usize) -> Option<Vec<u8>> {
    let header = RpcHeader {
        fragment_index: u16::from(index),
        fragment_count: u16::from(count),
        payload_len: u32::try_from(len).ok()?,
        ..RpcHeader::request(FunctionId(1), id).with_fragment(u16::from(index), u16::from(count))
    };
    Some([&header.emit()[..], &vec![7; len]].concat())
}
