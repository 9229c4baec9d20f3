//! What the targets share: tables with a VIP of each kind, frames that fit them, and what must hold of every frame.

use std::cell::Cell;

use ebpf_common::{
    ids::{FunctionId, WorkerId},
    load::LoadReport,
    maps::{
        Affinity, Counter, DecapRow, ForwardMode, FunctionEntry, PktgenInfo, Prefix4, Prefix6,
        Rate, VipInfo, VipKind, features, home_index, words, worker_flags,
    },
    schema::{SchemaEntry, SchemaTarget},
    wire::{RpcHeader, flags},
};
use xdp_balancer::{
    Verdict, balance, decapsulate,
    testing::{
        FakeTables, HostPacket,
        frame::{Frame, Transport, VIP, VIP_PORT, VIP6},
        rows,
    },
};

/// The port of the VIP of each kind.
pub const PORTS: [(VipKind, u16); 5] = [
    (VipKind::Rpc, VIP_PORT),
    (VipKind::L4, 9_100),
    (VipKind::Quic, 9_200),
    (VipKind::Pktgen, 9_300),
    (VipKind::Load, 9_400),
];

/// A function whose session stands in a JSON payload, and one whose slot stands in a protobuf message.
const BY_JSON: FunctionId = FunctionId(0x1_0000);
const BY_PROTOBUF: FunctionId = FunctionId(0x2_0000);

/// Tables with all kinds of VIP, all ways to a worker, schemas, and police switched on.
#[must_use]
pub fn tables() -> FakeTables {
    let mut tables = rows::tables(Affinity::Session);
    let modes = [ForwardMode::L2, ForwardMode::Ipip, ForwardMode::Gue];
    for ((id, (kind, port)), mode) in (0..).zip(PORTS).zip(modes.into_iter().cycle()) {
        let vip = VipInfo {
            forward: mode as u8,
            quic_config: 2,
            ..VipInfo::new(id, kind)
        };
        for protocol in [17, 6] {
            tables.add_vip_of(VIP, port, protocol, vip);
            tables.add_vip6_of(VIP6, port, protocol, vip);
        }
    }
    if let Some(worker) = tables.workers.get_mut(&WorkerId(1)) {
        worker.flags |= worker_flags::OUTER_V6;
    }
    for entry in 0..65_537 {
        let index = home_index(tables.generation(), 0, entry, 0);
        tables.home.insert(index, WorkerId(2));
    }
    tables.schemas = [
        SchemaEntry::json(SchemaTarget::Session, "user"),
        SchemaEntry::protobuf(SchemaTarget::Slot, &[2, 3]),
    ]
    .into_iter()
    .flatten()
    .collect();
    for (function, affinity, schema) in [
        (BY_JSON, Affinity::Session, 1),
        (BY_PROTOBUF, Affinity::Shard, 2),
    ] {
        let entry = FunctionEntry {
            schema,
            ..FunctionEntry::new(affinity, &[WorkerId(1), WorkerId(2)])
        };
        tables.functions.insert(function, entry);
    }
    tables.pktgen = vec![PktgenInfo::new(&[rows::FUNCTION], 4)];
    tables.police.block4([10, 90, 0, 0], 16);
    tables.police.limit(BY_JSON, rate());
    if let Some(config) = &mut tables.config {
        config.features = features::BLOCK_LIST
            | features::SOURCE_RATE
            | features::FUNCTION_RATE
            | features::ADDRESS_TOKENS
            | features::SHED
            | features::ANSWER_RATE
            | features::EVICTION_RATE;
        config.source_rate = rate();
        config.unknown_rate = rate();
        config.answer_rate = rate();
        config.eviction_rate = rate();
        config.shed_percent = 90;
    }
    tables
}

/// Ten a second: a frame every second, as [`balanced`] has them come, is admitted.
fn rate() -> Rate {
    Rate {
        interval_ns: 100_000_000,
        tolerance_ns: 100_000_000,
    }
}

/// A LOAD packet of worker 1 that the program would take in.
#[must_use]
pub fn load_packet(tables: &FakeTables, sequence: u64) -> RpcHeader {
    let config = tables.config.expect("configured");
    let report = LoadReport {
        worker: WorkerId(1),
        sequence,
        received: 9,
        completed: 4,
        capacity: 8,
    };
    let epoch = config.key_epoch as u8;
    report.seal(epoch, config.load_keys().of(report.worker, epoch))
}

/// Good frames of every shape for every kind of VIP: what the `frame` target damages.
#[must_use]
pub fn good_frames(tables: &FakeTables) -> Vec<Vec<u8>> {
    let id = [2 << 5 | 7, 0, 1, 9, 9, 9, 9, 9];
    let in_session = RpcHeader {
        flags: rows::request().flags | flags::HAS_SESSION,
        session_id: 7,
        ..rows::request()
    };
    let json = RpcHeader::request(BY_JSON, 1);
    let protobuf = RpcHeader::request(BY_PROTOBUF, 2);
    let contents = [
        (VipKind::Rpc, Frame::rpc(in_session, b"payload").datagram),
        (
            VipKind::Rpc,
            Frame::rpc(json, br#"{"a":1,"user":"ann"}"#).datagram,
        ),
        (VipKind::Rpc, Frame::rpc(protobuf, &[18, 2, 24, 5]).datagram),
        (VipKind::L4, b"anything".to_vec()),
        (VipKind::Quic, Frame::quic(true, &id).datagram),
        (VipKind::Quic, Frame::quic(false, &id).datagram),
        (VipKind::Pktgen, Frame::pktgen(5).datagram),
        (VipKind::Load, load_packet(tables, 5).emit().to_vec()),
    ];
    let mut frames = Vec::new();
    for (_, shape) in rows::shapes() {
        for (kind, datagram) in &contents {
            let port = PORTS
                .iter()
                .find(|(of, _)| of == kind)
                .map_or(0, |(_, port)| *port);
            let frame = Frame {
                port,
                datagram: datagram.clone(),
                ..shape.clone()
            };
            frames.push(frame.bytes());
            let tcp = Frame {
                transport: Transport::Tcp { flags: 2 },
                ..frame
            };
            frames.push(tcp.bytes());
        }
    }
    frames
}

thread_local! {
    static SECONDS: Cell<u64> = const { Cell::new(1) };
}

/// Moves the clock on, so that no rate is exceeded.
fn a_second_later(tables: &FakeTables) {
    let seconds = SECONDS.replace(SECONDS.get() + 1);
    tables.now_ns.set(seconds * 1_000_000_000);
}

/// Runs `frame` through the pipeline, a second after the one before, and checks what holds of every frame: one outcome;
/// what is not sent is not touched; what is sent has grown by no more than the longest headers of a tunnel.
pub fn balanced(tables: &FakeTables, frame: Vec<u8>) -> Verdict {
    a_second_later(tables);
    let before = frame.clone();
    let mut packet = HostPacket::new(frame);
    let verdict = balance(&mut packet, tables);
    let counters = tables.take_counters();
    let outcomes: u64 = counters
        .iter()
        .filter(|(counter, _)| counter.class().is_outcome())
        .map(|(_, count)| count)
        .sum();
    assert_eq!(outcomes, 1, "{counters:?}");
    match verdict {
        Verdict::Tx | Verdict::Redirect { .. } => {
            assert!(packet.bytes.len() <= before.len() + 48);
        }
        _ => assert_eq!(packet.bytes, before),
    }
    verdict
}

/// What the balancer makes of [`good_frames`] where it encapsulates them, and `DECAP` for the workers that it sends them to.
#[must_use]
pub fn encapsulated_frames(tables: &mut FakeTables) -> Vec<Vec<u8>> {
    let mut row = DecapRow::ZERO;
    for (place, worker) in tables.workers.values().enumerate().take(row.local4.len()) {
        row.local4[place] = u32::from_ne_bytes(worker.addr4);
        row.local6[place] = words(worker.addr6);
    }
    let config = tables.config.expect("configured");
    row.sources4[0] = Prefix4::new(config.tunnel_v4, 16);
    row.sources6[0] = Prefix6::new(config.tunnel_v6, 96);
    tables.decap = Some(row);
    let sent = |frame: Vec<u8>| {
        a_second_later(tables);
        let plain_len = frame.len();
        let mut packet = HostPacket::new(frame);
        let verdict = balance(&mut packet, tables);
        let is_sent = matches!(verdict, Verdict::Tx | Verdict::Redirect { .. });
        // An answer may have grown as well, and is nobody's tunnel.
        (is_sent && packet.bytes.len() >= plain_len + 20).then_some(packet.bytes)
    };
    let frames: Vec<_> = good_frames(tables).into_iter().filter_map(sent).collect();
    assert!(!frames.is_empty(), "the balancer encapsulates nothing");
    let _counters = tables.take_counters();
    frames
}

/// Takes the encapsulation off `frame`, and checks what holds of every frame: one outcome; it is not touched unless
/// something comes off; what comes off is one outer header, all behind it stays where it was, and nothing comes off twice.
/// Returns whether something came off.
pub fn decapsulated(tables: &FakeTables, frame: Vec<u8>) -> bool {
    let before = frame.clone();
    let mut packet = HostPacket::new(frame);
    let came_off = came_off(&mut packet, tables);
    if !came_off {
        assert_eq!(packet.bytes, before);
        return false;
    }
    let after = packet.bytes.clone();
    let headers = before.len() - after.len();
    // The shortest is IPv4's; the longest IPv4's with all its options, and UDP's.
    assert!((20..=68).contains(&headers), "{headers} bytes came off");
    assert_eq!(after[..12], before[..12]);
    // The inner header may be told of congestion: two bits, and a checksum.
    let payload = (14 + 8 + 40).min(after.len());
    assert!(before.ends_with(&after[payload..]));
    assert!(!self::came_off(&mut packet, tables), "encapsulated twice");
    assert_eq!(packet.bytes, after);
    true
}

fn came_off(packet: &mut HostPacket, tables: &FakeTables) -> bool {
    let verdict = decapsulate(packet, tables);
    let counters = tables.take_counters();
    let outcomes = counters.keys().filter(|it| it.class().is_outcome()).count();
    assert_eq!(outcomes, 1, "{counters:?}");
    let is_one = matches!(verdict, Verdict::Pass | Verdict::Drop(_));
    assert!(is_one, "{verdict:?}");
    counters.contains_key(&Counter::PassDecapsulated)
}

/// `bytes` with the faults that `edits` says: each offset (two bytes), value (one). Returns whether any byte is another.
pub fn damaged(bytes: &mut [u8], edits: &[u8]) -> bool {
    let before = bytes.to_vec();
    for edit in edits.chunks_exact(3) {
        let at = usize::from(u16::from_be_bytes([edit[0], edit[1]])) % bytes.len().max(1);
        if let Some(byte) = bytes.get_mut(at) {
            *byte = edit[2];
        }
    }
    bytes != before
}
