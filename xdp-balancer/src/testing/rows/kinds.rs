//! VIPs that carry no RPC header of the client's, over both versions of IP, VLAN tags, options and extension headers.

use ebpf_common::{
    ids::{FunctionId, WorkerId},
    load::LoadReport,
    maps::{Affinity, Counter, ForwardMode, PktgenInfo, VipInfo, VipKind, features},
};

use super::{FUNCTION, Group, Row, all_at_home, envelopes, request, set_vip, shapes, tables};
use crate::{
    DropReason, NotOurs, Verdict, balance,
    testing::{
        FakeTables, HostPacket,
        frame::{Frame, Transport},
    },
};

/// TCP's flags.
const SYN: u8 = 2;
const ACK: u8 = 16;

/// The rows of VIPs of other kinds than `rpc`.
#[must_use]
pub fn kinds() -> Vec<Group> {
    vec![
        new_flows(),
        known_flows(),
        quic(),
        pktgen(),
        overloaded(),
        load(),
    ]
}

/// A VIP of `kind` for UDP and TCP, with worker 2 as the only one in the Maglev table.
fn tables_of(kind: VipKind) -> FakeTables {
    let mut tables = tables(Affinity::None);
    let vip = VipInfo {
        quic_config: 2,
        ..VipInfo::new(3, kind)
    };
    set_vip(&mut tables, 17, vip);
    set_vip(&mut tables, 6, vip);
    all_at_home(&mut tables, 2);
    tables
}

fn sent(
    name: String,
    tables: &FakeTables,
    worker: u16,
    frame: &Frame,
    counters: &[Counter],
) -> Row {
    Row::sent(
        name,
        tables,
        ForwardMode::L2,
        worker,
        frame.bytes(),
        counters,
    )
}

/// The same headers in front of another datagram, or another transport header.
fn with(frame: &Frame, transport: Transport, datagram: &[u8]) -> Frame {
    Frame {
        transport,
        datagram: datagram.to_vec(),
        ..frame.clone()
    }
}

fn new_flows() -> Group {
    let tables = tables_of(VipKind::L4);
    let placed = [Counter::RouteMaglev, Counter::FlowCreated];
    let mut rows = Vec::new();
    for (name, frame) in shapes() {
        for (what, transport) in [
            ("UDP", Transport::Udp),
            ("SYN", Transport::Tcp { flags: SYN }),
            ("ACK", Transport::Tcp { flags: ACK }),
        ] {
            let frame = with(&frame, transport, b"anything");
            let name = format!("{name}: {what}");
            rows.push(sent(name, &tables, 2, &frame, &placed));
        }
        let mut short = with(&frame, Transport::Tcp { flags: SYN }, b"");
        short.held = Some(19);
        let row = Row::dropped(
            format!("{name}: 19 bytes of TCP"),
            DropReason::TruncatedUdp,
            short.bytes(),
        );
        rows.push(row);
    }
    Group {
        name: "new flows".to_owned(),
        tables,
        rows,
    }
}

/// Flows whose entries name worker 2, while the Maglev table has become worker 1's.
fn known_flows() -> Group {
    let mut tables = tables_of(VipKind::L4);
    let transports = [Transport::Udp, Transport::Tcp { flags: ACK }];
    for (_, frame) in envelopes() {
        for transport in transports {
            let mut packet = HostPacket::new(with(&frame, transport, b"first").bytes());
            assert_eq!(balance(&mut packet, &tables), Verdict::Tx);
        }
    }
    drop(tables.take_counters());
    all_at_home(&mut tables, 1);
    let mut rows = Vec::new();
    for (name, frame) in envelopes() {
        for transport in transports {
            let frame = with(&frame, transport, b"later");
            let name = format!("{name}: {transport:?}");
            rows.push(sent(name, &tables, 2, &frame, &[Counter::RouteFlow]));
        }
        // A client that opens a connection from the same port.
        let again = with(&frame, Transport::Tcp { flags: SYN }, b"");
        let moved = [Counter::RouteMaglev, Counter::FlowMoved];
        rows.push(sent(
            format!("{name}: SYN again"),
            &tables,
            1,
            &again,
            &moved,
        ));
    }
    Group {
        name: "known flows".to_owned(),
        tables,
        rows,
    }
}

fn quic() -> Group {
    let tables = tables_of(VipKind::Quic);
    // Configuration 2, an id of eight bytes, worker 1.
    let id = [2 << 5 | 7, 0, 1, 9, 9, 9, 9, 9];
    let foreign = [3 << 5 | 7, 0, 1, 9, 9, 9, 9, 9];
    let absent = [2 << 5 | 7, 0, 99, 9, 9, 9, 9, 9];
    let by_flow = [
        Counter::QuicUnknownId,
        Counter::RouteMaglev,
        Counter::FlowCreated,
    ];
    let mut rows = Vec::new();
    for (name, frame) in shapes() {
        let mut add = |what: &str, worker: u16, datagram: &[u8], counters: &[Counter]| {
            let frame = with(&frame, Transport::Udp, datagram);
            rows.push(sent(
                format!("{name}: {what}"),
                &tables,
                worker,
                &frame,
                counters,
            ));
        };
        let long = |id: &[u8]| Frame::quic(true, id).datagram;
        let short = |id: &[u8]| Frame::quic(false, id).datagram;
        add("long header", 1, &long(&id), &[Counter::RouteQuic]);
        add("short header", 1, &short(&id), &[Counter::RouteQuic]);
        add("another configuration", 2, &short(&foreign), &by_flow);
        add("an absent worker", 2, &long(&absent), &by_flow);
        add("an id that is too short", 2, &long(&id[..6]), &by_flow);
        add("one byte", 2, &[0x43], &by_flow);
        add("cut in its id", 2, &short(&id)[..3], &by_flow);
        add("cut before its id", 2, &long(&id)[..5], &by_flow);
        let tcp = with(&frame, Transport::Tcp { flags: ACK }, &short(&id));
        let placed = [Counter::RouteMaglev, Counter::FlowCreated];
        rows.push(sent(format!("{name}: TCP"), &tables, 2, &tcp, &placed));
    }
    Group {
        name: "quic".to_owned(),
        tables,
        rows,
    }
}

/// A VIP of pktgen's that calls the function by even numbers, and one that is none by odd numbers.
fn tables_of_pktgen() -> FakeTables {
    let mut tables = tables_of(VipKind::Pktgen);
    tables.pktgen = vec![PktgenInfo::new(&[FUNCTION, FunctionId(0xbad)], 0)];
    tables
}

/// Workers that have as much as they may have: pktgen cannot be told so.
fn overloaded() -> Group {
    let mut tables = tables_of_pktgen();
    let config = tables.config.as_mut().expect("configured");
    config.features |= features::SHED;
    config.shed_percent = 100;
    tables.set_load(1, 10, 10);
    tables.set_load(2, 10, 10);
    let shed = |(name, frame): (String, Frame)| {
        let datagram = Frame::pktgen(6).datagram;
        let frame = with(&frame, Transport::Udp, &datagram).bytes();
        Row {
            counters: vec![Counter::WarmFull, Counter::DropOverloaded],
            ..Row::dropped(name, DropReason::Overloaded, frame)
        }
    };
    Group {
        name: "pktgen, overloaded".to_owned(),
        rows: envelopes().into_iter().map(shed).collect(),
        tables,
    }
}

fn pktgen() -> Group {
    let tables = tables_of_pktgen();
    let mut rows = Vec::new();
    for (name, frame) in shapes() {
        let number = |sequence| {
            with(
                &frame,
                Transport::Udp,
                &Frame::pktgen(sequence).datagram.clone(),
            )
        };
        rows.push(sent(
            format!("{name}: the first function"),
            &tables,
            1,
            &number(6),
            &[Counter::RouteWarm],
        ));
        let dropped = |what: &str, reason, frame: &Frame| {
            Row::dropped(format!("{name}: {what}"), reason, frame.bytes())
        };
        let rpc = frame.carrying(request(), b"payload");
        let tcp = Frame {
            transport: Transport::Tcp { flags: ACK },
            ..number(6)
        };
        let short = with(&frame, Transport::Udp, &[0xbe, 0x9b, 0xe9, 0x55]);
        let unknown = DropReason::UnknownFunction;
        rows.extend([
            dropped("a function that is none", unknown, &number(7)),
            dropped("RPC", DropReason::NotPktgen, &rpc),
            dropped("TCP", DropReason::NotPktgen, &tcp),
            dropped("four bytes", DropReason::NotPktgen, &short),
        ]);
    }
    Group {
        name: "pktgen".to_owned(),
        tables,
        rows,
    }
}

/// LOAD packets: taken in, or dropped under their reason.
fn load() -> Group {
    let tables = tables_of(VipKind::Load);
    let config = tables.config.expect("configured");
    let report = LoadReport {
        worker: WorkerId(1),
        sequence: 5,
        received: 9,
        completed: 4,
        capacity: 8,
    };
    let epoch = config.key_epoch as u8;
    let seal = |report: LoadReport| report.seal(epoch, config.load_keys().of(report.worker, epoch));
    let good = seal(report);
    let stranger = seal(LoadReport {
        worker: WorkerId(77),
        ..report
    });
    let stale = seal(LoadReport {
        sequence: 0,
        ..report
    });
    let mut rows = Vec::new();
    for (name, frame) in shapes() {
        rows.push(Row {
            verdict: Verdict::Consumed,
            counters: vec![Counter::ConsumeLoad],
            ..Row::passed(
                format!("{name}: LOAD"),
                NotOurs::NotVip,
                frame.carrying(good, b"").bytes(),
            )
        });
        let mut forged = good;
        forged.token ^= 1;
        let mut dropped = |what: &str, reason, frame: Frame| {
            rows.push(Row::dropped(
                format!("{name}: {what}"),
                reason,
                frame.bytes(),
            ));
        };
        let tcp = Frame {
            transport: Transport::Tcp { flags: ACK },
            ..frame.carrying(good, b"")
        };
        let short = with(&frame, Transport::Udp, &good.emit()[..63]);
        dropped(
            "forged",
            DropReason::LoadForged,
            frame.carrying(forged, b""),
        );
        dropped("stale", DropReason::LoadStale, frame.carrying(stale, b""));
        dropped(
            "of a stranger",
            DropReason::LoadUnknown,
            frame.carrying(stranger, b""),
        );
        dropped(
            "a request",
            DropReason::UnexpectedKind,
            frame.carrying(request(), b""),
        );
        dropped("TCP", DropReason::UnexpectedKind, tcp);
        dropped("63 bytes", DropReason::TruncatedRpc, short);
    }
    Group {
        name: "load".to_owned(),
        tables,
        rows,
    }
}
