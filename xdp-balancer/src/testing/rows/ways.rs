//! The ways to a worker: each mode around each kind of packet, over both versions of IP outside.

use ebpf_common::maps::{Affinity, Counter, ForwardMode, VipInfo, VipKind, features, worker_flags};

use super::{Group, Row, envelopes, request, set_vip, shapes, tables};
use crate::{
    DropReason,
    testing::{FakeTables, frame::Frame},
};

const MODES: [ForwardMode; 3] = [ForwardMode::L2, ForwardMode::Ipip, ForwardMode::Gue];

/// The rows of the forward stage.
#[must_use]
pub fn ways() -> Vec<Group> {
    let mut groups = Vec::new();
    for mode in MODES {
        for outer_v6 in [false, true] {
            let tables = tables_of(mode, outer_v6);
            groups.push(all_shapes(mode, tables.clone()));
            groups.push(by_another_interface(mode, tables.clone()));
            groups.push(with_all_hops(mode, tables.clone()));
            if mode != ForwardMode::L2 {
                groups.push(without_an_address(tables, outer_v6));
            }
        }
    }
    groups
}

/// An RPC VIP by `mode`, whose workers are reached by IPv6 if `outer_v6`.
fn tables_of(mode: ForwardMode, outer_v6: bool) -> FakeTables {
    let mut tables = tables(Affinity::None);
    let vip = VipInfo {
        forward: mode as u8,
        ..VipInfo::new(3, VipKind::Rpc)
    };
    set_vip(&mut tables, 17, vip);
    for worker in tables.workers.values_mut() {
        worker.mtu = 3_000;
        if outer_v6 {
            worker.flags |= worker_flags::OUTER_V6;
        }
    }
    tables
}

fn named(what: &str, mode: ForwardMode, tables: &FakeTables, rows: Vec<Row>) -> Group {
    let is_v6 = tables
        .workers
        .values()
        .all(|worker| worker.flags & worker_flags::OUTER_V6 != 0);
    Group {
        name: format!(
            "{mode:?}, {} outside: {what}",
            if is_v6 { "v6" } else { "v4" }
        ),
        tables: tables.clone(),
        rows,
    }
}

fn sent(name: String, tables: &FakeTables, mode: ForwardMode, frame: &Frame) -> Row {
    Row::sent(name, tables, mode, 1, frame.bytes(), &[Counter::RouteWarm])
}

fn all_shapes(mode: ForwardMode, tables: FakeTables) -> Group {
    let mut rows = Vec::new();
    for (name, frame) in shapes() {
        let plain = frame.carrying(request(), b"payload");
        let classed = Frame {
            traffic_class: 0b1011_1010,
            hops: 2,
            ..plain.clone()
        };
        let first_fragment = Frame {
            more_fragments: true,
            held: Some(8 + 64 + 16),
            ..frame.carrying(request(), &[7; 200])
        };
        rows.push(sent(name.clone(), &tables, mode, &plain));
        rows.push(sent(
            format!("{name}, a traffic class"),
            &tables,
            mode,
            &classed,
        ));
        if frame.extensions.len() < 4 {
            let name = format!("{name}, a first fragment");
            rows.push(sent(name, &tables, mode, &first_fragment));
        }
    }
    named("all shapes", mode, &tables, rows)
}

fn by_another_interface(mode: ForwardMode, mut tables: FakeTables) -> Group {
    for worker in tables.workers.values_mut() {
        worker.ifindex = NO_PORT;
    }
    let no_port = |(name, frame): (String, Frame)| {
        let frame = frame.carrying(request(), b"payload").bytes();
        Row::dropped(name, DropReason::NoPort, frame)
    };
    let rows = envelopes().into_iter().map(no_port).collect();
    named("no port", mode, &tables, rows)
}

/// An interface that is in no `PORTS`.
const NO_PORT: u32 = 4_000;

/// The hop limit is lowered, a packet that has none left is dropped, and with the feature neither happens.
fn with_all_hops(mode: ForwardMode, mut tables: FakeTables) -> Group {
    let config = tables.config.as_mut().expect("configured");
    config.features |= features::KEEP_HOP_LIMIT;
    let mut rows = Vec::new();
    for (name, frame) in envelopes() {
        // What is sent is what would be sent of a packet with one hop more, which lowering takes from it.
        let kept = |hops: u8| Frame {
            hops,
            ..frame.carrying(request(), b"payload")
        };
        for hops in [0, 1, 64] {
            let mut row = sent(name.clone(), &tables, mode, &kept(hops + 1));
            row.frame = kept(hops).bytes();
            row.name = format!("{name}: {hops} hops");
            rows.push(row);
        }
    }
    named("hops are kept", mode, &tables, rows)
}

fn without_an_address(mut tables: FakeTables, outer_v6: bool) -> Group {
    for worker in tables.workers.values_mut() {
        if outer_v6 {
            worker.addr6 = [0; 16];
        } else {
            worker.addr4 = [0; 4];
        }
    }
    let dropped = |(name, frame): (String, Frame)| {
        let frame = frame.carrying(request(), b"payload").bytes();
        Row::dropped(name, DropReason::NoTunnelAddress, frame)
    };
    let rows = envelopes().into_iter().map(dropped).collect();
    named("no address", ForwardMode::Ipip, &tables, rows)
}
