//! The RPC header as the worker, the client and the balancer read it: what parses is written again as the same bytes.
#![no_main]

use ebpf_common::wire::{HEADER_LEN, RpcHeader};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // Behind a good beginning, or all of it.
    let mut datagram = data.to_vec();
    if data.first().is_some_and(|first| first & 1 == 1) && data.len() >= 8 {
        let good = RpcHeader::request(ebpf_common::ids::FunctionId(1), 1).emit();
        datagram[..3].copy_from_slice(&good[..3]);
        datagram[6..8].copy_from_slice(&good[6..8]);
    }
    if let Some(Ok((header, payload))) = RpcHeader::parse(&datagram) {
        assert_eq!(payload.len(), header.payload_len as usize);
        assert_eq!(header.emit(), datagram[..HEADER_LEN]);
    }
});
