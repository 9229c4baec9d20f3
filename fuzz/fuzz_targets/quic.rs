//! Datagrams for a VIP of kind `quic`, `l4` or `pktgen`, over both versions of IP.
#![no_main]

use libfuzzer_sys::fuzz_target;
use warmpath_fuzz::{PORTS, balanced, tables};
use xdp_balancer::{
    Verdict,
    testing::{FakeTables, frame::Frame},
};

thread_local! {
    static TABLES: FakeTables = tables();
}

fuzz_target!(|data: &[u8]| {
    let [choice, datagram @ ..] = data else {
        return;
    };
    let (_, port) = PORTS[1 + usize::from(choice >> 1) % 3];
    let mut frame = Frame {
        port,
        ..Frame::udp(datagram[..datagram.len().min(1_400)].to_vec())
    };
    if choice & 1 == 1 {
        frame = frame.over_v6();
    }
    let verdict = TABLES.with(|tables| balanced(tables, frame.bytes()));
    assert_ne!(verdict, Verdict::Pass);
});
