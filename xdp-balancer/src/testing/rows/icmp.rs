//! ICMP errors about packets that a worker sent from the VIP.

use ebpf_common::{
    cookie::CookieScope,
    ids::WorkerId,
    maps::{Affinity, Counter, ForwardMode, VipInfo, VipKind, WorkerState},
    wire::{Kind, RpcHeader, flags},
};

use super::{FUNCTION, Group, Row, all_at_home, request, set_vip, shapes, tables};
use crate::{
    DropReason, NotOurs, Verdict, balance,
    testing::{
        FakeTables, HostPacket,
        caller::Caller,
        extension::Extension,
        frame::{CLIENT_PORT, Frame, Transport, VIP_PORT},
    },
};

const SESSION: u64 = 77;

/// The rows of ICMP errors.
#[must_use]
pub fn icmp() -> Vec<Group> {
    vec![
        about_requests(ForwardMode::L2),
        about_requests(ForwardMode::Gue),
        about_flows(),
    ]
}

/// The error that `frame`'s sender sends about `quoted`, in `frame`'s headers.
fn error(frame: &Frame, quoted: &[u8]) -> Frame {
    let (kind, code) = if frame.source.is_ipv4() {
        (3, 4)
    } else {
        (2, 0)
    };
    Frame {
        transport: Transport::Icmp {
            kind,
            code,
            rest: 1_400_u32.to_be_bytes(),
        },
        datagram: quoted.to_vec(),
        ..frame.clone()
    }
}

/// The RPC header of an answer, with the cookie of `worker`.
fn answer(tables: &FakeTables, worker: u16, session: Option<u64>) -> RpcHeader {
    let scope = CookieScope {
        function: FUNCTION,
        session: session.unwrap_or(0),
    };
    let keys = tables.config.expect("configured").cookie_keys();
    let has_session = session.map_or(0, |_| flags::HAS_SESSION);
    RpcHeader {
        kind: Kind::Response,
        flags: request().flags | flags::HAS_COOKIE | has_session,
        session_id: session.unwrap_or(0),
        route_cookie: keys.seal(WorkerId(worker), scope),
        ..request()
    }
}

fn about_requests(mode: ForwardMode) -> Group {
    let mut tables = tables(Affinity::None);
    let vip = VipInfo {
        forward: mode as u8,
        ..VipInfo::new(3, VipKind::Rpc)
    };
    set_vip(&mut tables, 17, vip);
    tables.add_worker(3, WorkerState::Down);
    tables.set_session(FUNCTION, SESSION, WorkerId(2));
    let mut rows = Vec::new();
    for (name, frame) in shapes() {
        // Outside, GUE adds up to 48 bytes to the longest chain of headers.
        let caller = frame.caller();
        let quoted = |header: RpcHeader| caller.packet_from_vip(VIP_PORT, &header.emit());
        for worker in [1, 2] {
            let error = error(&frame, &quoted(answer(&tables, worker, None))).bytes();
            if error.len() > 1_400 {
                continue;
            }
            let name = format!("{name}: cookie of {worker}");
            let counters = [Counter::RouteIcmp];
            rows.push(Row::sent(name, &tables, mode, worker, error, &counters));
        }
        let forged = RpcHeader {
            route_cookie: 1,
            ..answer(&tables, 1, Some(SESSION))
        };
        let by_session = error(&frame, &quoted(forged)).bytes();
        if by_session.len() <= 1_400 {
            rows.push(Row::sent(
                format!("{name}: session"),
                &tables,
                mode,
                2,
                by_session,
                &[Counter::RouteIcmp],
            ));
        }
        rows.extend(unplaced(&name, &tables, &frame));
        rows.extend(not_quoted(&name, &tables, &frame));
    }
    Group {
        name: format!("ICMP about requests, {mode:?}"),
        tables,
        rows,
    }
}

/// Errors about packets of the VIP of which no worker is known.
fn unplaced(name: &str, tables: &FakeTables, frame: &Frame) -> Vec<Row> {
    let caller = frame.caller();
    let plain = answer(tables, 1, None);
    let nobody = RpcHeader {
        flags: plain.flags & !flags::HAS_COOKIE,
        ..plain
    };
    let stranger = RpcHeader {
        route_cookie: 1,
        session_id: SESSION + 1,
        ..answer(tables, 1, Some(SESSION))
    };
    let mut version = plain.emit().to_vec();
    version[2] = 9;
    [
        (
            "a worker that is down",
            answer(tables, 3, None).emit().to_vec(),
        ),
        ("neither cookie nor session", nobody.emit().to_vec()),
        ("an unknown session", stranger.emit().to_vec()),
        ("another version", version),
        ("a part of its header", plain.emit()[..63].to_vec()),
    ]
    .into_iter()
    .map(|(what, datagram)| {
        let quoted = caller.packet_from_vip(VIP_PORT, &datagram);
        let error = error(frame, &quoted).bytes();
        Row::dropped(format!("{name}: {what}"), DropReason::IcmpUnplaced, error)
    })
    .collect()
}

/// Errors that quote something else, or too little.
fn not_quoted(name: &str, tables: &FakeTables, frame: &Frame) -> Vec<Row> {
    let caller = frame.caller();
    let is_v4 = frame.source.is_ipv4();
    let good = caller.packet_from_vip(VIP_PORT, &answer(tables, 1, None).emit());
    let edited = |at: usize, value: u8| {
        let mut quoted = good.clone();
        quoted[at] = value;
        error(frame, &quoted).bytes()
    };
    let (source, protocol, headers) = if is_v4 { (15, 9, 20) } else { (23, 6, 40) };
    let bad =
        |what: &str, bytes| Row::dropped(format!("{name}: {what}"), DropReason::BadIcmp, bytes);
    let passed = |what: &str, bytes| Row::passed(format!("{name}: {what}"), NotOurs::NotVip, bytes);
    let mut rows = vec![
        bad("from another address", edited(source, 9)),
        bad("of version 7", edited(0, 0x75)),
        passed("TCP", edited(protocol, 6)),
        passed("GRE", edited(protocol, 47)),
        passed(
            "from another port",
            error(frame, &caller.packet_from_vip(7, &[0; 64])).bytes(),
        ),
        bad("nothing", error(frame, &[]).bytes()),
        bad(
            "half an IP header",
            error(frame, &good[..headers - 1]).bytes(),
        ),
        bad(
            "half a UDP header",
            error(frame, &good[..headers + 7]).bytes(),
        ),
    ];
    let later = if is_v4 {
        let mut later = good.clone();
        later[7] = 5;
        later
    } else {
        in_fragments(&caller, tables, 1)
    };
    rows.push(Row::dropped(
        format!("{name}: about a later fragment"),
        DropReason::IcmpUnplaced,
        error(frame, &later).bytes(),
    ));
    if !is_v4 {
        let cut = in_fragments(&caller, tables, 0)[..44].to_vec();
        rows.push(bad("half a fragment header", error(frame, &cut).bytes()));
    } else {
        rows.push(bad("a header of four words", edited(0, 0x44)));
    }
    let mut short = error(frame, &[]);
    short.held = Some(7);
    rows.push(bad("seven bytes", short.bytes()));
    rows
}

/// An answer as a fragment of IPv6.
fn in_fragments(caller: &Caller, tables: &FakeTables, offset: u16) -> Vec<u8> {
    let to = caller.to_vip();
    let frame = Frame {
        source: to.destination,
        destination: to.source,
        extensions: vec![Extension::fragment(offset, true)],
        source_port: VIP_PORT,
        port: CLIENT_PORT,
        ..to.carrying(answer(tables, 1, None), b"")
    };
    frame.packet()
}

fn about_flows() -> Group {
    let mut tables = tables(Affinity::None);
    let vip = VipInfo::new(3, VipKind::L4);
    set_vip(&mut tables, 17, vip);
    set_vip(&mut tables, 6, vip);
    all_at_home(&mut tables, 2);
    // A flow of the client's whose entry is older than the table's change to worker 1.
    for (_, frame) in super::envelopes() {
        let known = Frame {
            source_port: 7,
            ..frame.clone()
        };
        let mut packet = HostPacket::new(known.bytes());
        assert_eq!(balance(&mut packet, &tables), Verdict::Tx);
    }
    drop(tables.take_counters());
    all_at_home(&mut tables, 1);
    let mut rows = Vec::new();
    for (name, frame) in shapes() {
        let to = frame.caller().to_vip();
        for (what, client_port, worker) in [("new", CLIENT_PORT, 1), ("known", 7, 2)] {
            let from_vip = Frame {
                source: to.destination,
                destination: to.source,
                source_port: VIP_PORT,
                port: client_port,
                datagram: b"anything".to_vec(),
                ..to.clone()
            };
            let error = error(&frame, &from_vip.packet()).bytes();
            let name = format!("{name}: {what}");
            let counters = [Counter::RouteIcmp];
            rows.push(Row::sent(
                name,
                &tables,
                ForwardMode::L2,
                worker,
                error,
                &counters,
            ));
        }
    }
    Group {
        name: "ICMP about flows".to_owned(),
        tables,
        rows,
    }
}
