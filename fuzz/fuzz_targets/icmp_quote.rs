//! ICMP errors to a VIP's address, which quote any bytes, or a damaged packet of the VIP's.
#![no_main]

use ebpf_common::wire::{Kind, RpcHeader};
use libfuzzer_sys::fuzz_target;
use warmpath_fuzz::{PORTS, balanced, damaged, tables};
use xdp_balancer::testing::{
    FakeTables,
    frame::{CLIENT_PORT, Frame, Transport},
    rows,
};

thread_local! {
    static TABLES: FakeTables = tables();
}

fuzz_target!(|data: &[u8]| {
    let [choice, kind, rest @ ..] = data else {
        return;
    };
    let to = if choice & 1 == 0 {
        Frame::udp(Vec::new())
    } else {
        Frame::udp(Vec::new()).over_v6()
    };
    let quoted = if choice & 2 == 0 {
        rest[..rest.len().min(1_232)].to_vec()
    } else {
        let answer = RpcHeader {
            kind: Kind::Response,
            ..rows::request()
        };
        let (_, port) = PORTS[usize::from(choice >> 2) % PORTS.len()];
        let of_vip = Frame {
            source: to.destination,
            destination: to.source,
            source_port: port,
            port: CLIENT_PORT,
            ..to.carrying(answer, b"")
        };
        let mut packet = of_vip.packet();
        damaged(&mut packet, rest);
        packet
    };
    let error = Frame {
        transport: Transport::Icmp {
            kind: *kind,
            code: 0,
            rest: [0; 4],
        },
        datagram: quoted,
        ..to
    };
    let _any = TABLES.with(|tables| balanced(tables, error.bytes()));
});
