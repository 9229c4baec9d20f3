//! The program `traced`: does what `balancer` does, and tells of it.

use std::{thread::sleep, time::Duration};

use ebpf_common::{
    event::{EVENTS_LEN, TraceEvent, TraceFilter, TraceHead, trace_fields},
    ids::WorkerId,
    maps::{Affinity, Counter, FunctionEntry},
    schema::{SchemaEntry, SchemaTarget},
    wire::{RpcHeader, flags},
};
use prog_tests::program::{Action, Program};
use rand::{SeedableRng as _, rngs::StdRng};
use xdp_balancer::{
    testing::{
        FakeTables, HostPacket,
        frame::{CLIENT, CLIENT_PORT, Frame, VIP, VIP_PORT, forwarded},
    },
    trace,
};

use crate::{
    case::{FUNCTION, action_of, edited, frame, loaded, request, tables},
    world::World,
};

/// Bytes before each entry of a ring buffer.
const RING_HEADER_LEN: u32 = 8;

/// Everything is traced, for an hour.
const ALL: TraceFilter = TraceFilter {
    beat: 1,
    lease_ns: 3_600_000_000_000,
    ..TraceFilter::ANY
};

fn traced(tables: &FakeTables, sizes: &[(&'static str, u32)]) -> Program {
    let mut program = Program::load_as("traced", prog_tests::object(), sizes).unwrap();
    program.apply(tables).unwrap();
    program
}

/// The event of `frame`, which the host must make too, and what became of the frame.
fn event_of(tables: &mut FakeTables, bytes: &[u8]) -> (TraceEvent, Action, Vec<u8>) {
    let mut program = traced(tables, &[]);
    program.set_filter(&ALL).unwrap();
    let (action, after) = program.run(bytes).unwrap();
    let after = after.to_vec();
    let events = program.take_events().unwrap();
    let [event] = *events else {
        panic!("{} events of one packet", events.len());
    };

    tables.trace.filter = ALL;
    let mut packet = HostPacket::new(bytes.to_vec());
    let verdict = trace(&mut packet, tables);
    assert_eq!((action_of(verdict), &packet.bytes), (action, &after));
    let of_host = tables.trace.events.take();
    let [of_host] = *of_host else {
        panic!("{} events of one packet on the host", of_host.len());
    };
    assert_eq!(timeless(&event), timeless(&of_host));
    assert_eq!(captured(&event), captured(&of_host));
    (event, action, after)
}

/// The head without what is different each time.
fn timeless(event: &TraceEvent) -> TraceHead {
    TraceHead {
        time_ns: 0,
        duration_ns: 0,
        cpu: 0,
        ..event.head
    }
}

fn captured(event: &TraceEvent) -> (&[u8], &[u8]) {
    let frame = &event.frame[..usize::from(event.head.captured)];
    let sent = &event.sent[..usize::from(event.head.captured_sent)];
    (frame, sent)
}

fn padded(addr: [u8; 4]) -> [u8; 16] {
    let mut padded = [0; 16];
    padded[..4].copy_from_slice(&addr);
    padded
}

/// What is known of every packet from the client to the VIP.
fn from_client(bytes: &[u8], counters: &[Counter]) -> TraceHead {
    let mut head = TraceHead {
        source: padded(CLIENT),
        destination: padded(VIP),
        source_port: CLIENT_PORT,
        destination_port: VIP_PORT,
        ifindex: 1,
        frame_len: bytes.len() as u32,
        captured: bytes.len().min(192) as u16,
        family: 4,
        protocol: 17,
        known: trace_fields::ADDRESSES | trace_fields::PORTS,
        ..TraceHead::EMPTY
    };
    for counter in counters {
        head.mark(*counter as u32);
    }
    head
}

#[test]
fn a_routed_packet_is_told_of_with_worker_session_and_both_frames() {
    let mut tables = tables(Affinity::Session);
    let header = RpcHeader {
        flags: request().flags | flags::HAS_SESSION,
        session_id: 0x5e55,
        ..request()
    };
    let bytes = Frame::rpc(header, &[0x5a; 200]).bytes();
    let (event, action, after) = event_of(&mut tables, &bytes);
    assert_eq!(action, Action::Tx);
    assert_eq!(after, forwarded(&bytes, &tables.workers[&WorkerId(1)]));
    let counters = [
        Counter::Packets,
        Counter::RouteWarm,
        Counter::SessionCreated,
    ];
    let expected = TraceHead {
        function: FUNCTION.0,
        session: 0x5e55,
        request_id: 0x1234,
        worker: 1,
        out_ifindex: 1,
        sent_len: bytes.len() as u32,
        captured_sent: 192,
        action: 3,
        known: trace_fields::VIP
            | trace_fields::FUNCTION
            | trace_fields::SESSION
            | trace_fields::WORKER
            | trace_fields::ADDRESSES
            | trace_fields::PORTS,
        ..from_client(&bytes, &counters)
    };
    assert_eq!(timeless(&event), expected);
    assert_eq!(captured(&event), (&bytes[..192], &after[..192]));
    assert_ne!(event.head.time_ns, 0);
    // A difference of two clocks and not one of them; an emulated processor takes milliseconds.
    assert!((1..1_000_000_000).contains(&event.head.duration_ns));
}

#[test]
fn a_dropped_packet_is_told_of_with_its_reason() {
    let bytes = edited(|b| b[42] = 0);
    let (event, action, _) = event_of(&mut tables(Affinity::None), &bytes);
    assert_eq!(action, Action::Drop);
    let expected = TraceHead {
        action: 1,
        known: trace_fields::VIP | trace_fields::ADDRESSES | trace_fields::PORTS,
        ..from_client(&bytes, &[Counter::Packets, Counter::DropBadMagic])
    };
    assert_eq!(timeless(&event), expected);
    assert_eq!(captured(&event), (&*bytes, &[][..]));
}

#[test]
fn an_answered_packet_is_told_of_with_the_answer() {
    let header = RpcHeader::request(ebpf_common::ids::FunctionId(1), 7);
    let bytes = Frame::rpc(header, b"payload").bytes();
    let (event, action, after) = event_of(&mut tables(Affinity::None), &bytes);
    assert_eq!(action, Action::Tx);
    let expected = TraceHead {
        function: 1,
        request_id: 7,
        out_ifindex: 1,
        sent_len: after.len() as u32,
        captured_sent: after.len() as u16,
        action: 3,
        known: trace_fields::VIP
            | trace_fields::FUNCTION
            | trace_fields::ADDRESSES
            | trace_fields::PORTS,
        ..from_client(&bytes, &[Counter::Packets, Counter::ErrorUnknownFunction])
    };
    assert_eq!(timeless(&event), expected);
    assert_eq!(captured(&event), (&*bytes, &*after));
}

#[test]
fn a_packet_that_is_not_ours_is_told_of() {
    let elsewhere = Frame {
        destination: [10, 99, 0, 2].into(),
        ..Frame::rpc(request(), b"")
    };
    let bytes = elsewhere.bytes();
    let (event, action, after) = event_of(&mut tables(Affinity::None), &bytes);
    assert_eq!((action, &after), (Action::Pass, &bytes));
    let expected = TraceHead {
        destination: padded([10, 99, 0, 2]),
        action: 2,
        ..from_client(&bytes, &[Counter::Packets, Counter::PassNotVip])
    };
    assert_eq!(timeless(&event), expected);

    let arp = edited(|b| b[13] = 6);
    let (event, ..) = event_of(&mut tables(Affinity::None), &arp);
    assert_eq!(event.head.known, 0);
    assert!(event.head.moved(Counter::PassNotIp));
}

#[test]
fn only_packets_that_the_filter_admits_are_told_of() {
    let routed = {
        let mut head = TraceHead::EMPTY;
        head.mark(Counter::RouteWarm as u32);
        head.counted
    };
    type Ask = fn(&mut TraceFilter, bool);
    let asks: [(&str, u8, Ask); 6] = [
        ("VIP", trace_fields::VIP, |f, good| {
            f.vip_id = u32::from(!good);
        }),
        ("function", trace_fields::FUNCTION, |f, good| {
            f.function = FUNCTION.0 + u64::from(!good);
        }),
        ("worker", trace_fields::WORKER, |f, good| {
            f.worker = 1 + u16::from(!good);
        }),
        ("port", trace_fields::PORTS, |f, good| {
            f.destination_port = VIP_PORT + u16::from(!good);
        }),
        ("source", trace_fields::ADDRESSES, |f, good| {
            f.family = 4;
            f.source = padded([10, 80 + u8::from(!good), 0, 0]);
            f.source_mask = padded([255, 255, 0, 0]);
        }),
        ("IP version", trace_fields::ADDRESSES, |f, good| {
            f.family = if good { 4 } else { 6 };
        }),
    ];
    let mut tables = tables(Affinity::None);
    tables.set_load(1, 0, 1_000);
    let mut program = traced(&tables, &[]);
    let mut events = |filter: TraceFilter| {
        program.set_filter(&filter).unwrap();
        program.run(&frame()).unwrap();
        program.take_events().unwrap().len()
    };
    for (what, fields, ask) in asks {
        let mut filter = TraceFilter { fields, ..ALL };
        ask(&mut filter, true);
        assert_eq!(events(filter), 1, "{what}");
        ask(&mut filter, false);
        assert_eq!(events(filter), 0, "another {what}");
    }
    let session = TraceFilter {
        fields: trace_fields::SESSION,
        ..ALL
    };
    assert_eq!(events(session), 0, "the request has no session");
    let mut outcome = ALL;
    outcome.counters = routed;
    assert_eq!(events(outcome), 1, "the outcome");
    outcome.counters = [!routed[0] & !1, !routed[1]];
    assert_eq!(events(outcome), 0, "all other outcomes");
}

#[test]
fn one_packet_in_n_is_told_of() {
    let mut program = traced(&tables(Affinity::None), &[]);
    pin_to_this_cpu();
    program
        .set_filter(&TraceFilter { every: 10, ..ALL })
        .unwrap();
    for _ in 0..105 {
        program.run(&frame()).unwrap();
    }
    assert_eq!(program.take_events().unwrap().len(), 10);
    assert_eq!(program.counters().unwrap()[&Counter::Packets], 105);
}

#[test]
fn a_tracer_that_was_killed_is_not_waited_for() {
    let mut program = traced(&tables(Affinity::None), &[]);
    pin_to_this_cpu();
    let mut events = |filter: TraceFilter| {
        program.set_filter(&filter).unwrap();
        let (action, _) = program.run(&frame()).unwrap();
        assert_eq!(action, Action::Tx, "it goes on balancing");
        program.take_events().unwrap().len()
    };
    let short = TraceFilter {
        lease_ns: 1_000_000_000,
        ..ALL
    };
    assert_eq!(events(short), 1);
    sleep(Duration::from_millis(1_100));
    assert_eq!(events(short), 0, "the lease is over");
    assert_eq!(events(TraceFilter { beat: 2, ..short }), 1, "it lives");
    assert_eq!(events(TraceFilter { beat: 0, ..short }), 0, "it has ended");
    assert_eq!(events(TraceFilter::ANY), 0, "there is none");
}

#[test]
fn events_that_find_the_ring_full_are_counted() {
    let len = 4_096;
    let mut program = traced(
        &tables(Affinity::None),
        &[(ebpf_common::maps::name::EVENTS, len)],
    );
    program.set_filter(&ALL).unwrap();
    for _ in 0..20 {
        let (action, _) = program.run(&frame()).unwrap();
        assert_eq!(action, Action::Tx);
    }
    let event_len = size_of::<TraceEvent>() as u32 + RING_HEADER_LEN;
    let room = u64::from(len / event_len);
    assert_eq!(program.take_events().unwrap().len() as u64, room);
    assert_eq!(program.counters().unwrap()[&Counter::TraceLost], 20 - room);
    assert!(EVENTS_LEN / event_len > 8_000, "as the documentation says");
}

#[test]
fn traced_and_balancer_agree_on_random_frames() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    // Rates of answers and of unknown sources are each CPU's own.
    pin_to_this_cpu();
    let mut rng = StdRng::seed_from_u64(seed);
    for _ in 0..5 {
        // Nothing is redirected: 1 is the interface of arrival.
        let world = World::random(&mut rng, 1);
        let mut plain = Program::load(prog_tests::object(), &[]).unwrap();
        plain.apply(&world.tables).unwrap();
        let mut looking = traced(&world.tables, &[]);
        looking
            .set_filter(&TraceFilter { every: 3, ..ALL })
            .unwrap();
        for _ in 0..4_000 {
            let bytes = world.frame(&mut rng);
            let (action, after) = plain.run(&bytes).unwrap();
            let (of_traced, after_traced) = looking.run(&bytes).unwrap();
            assert_eq!(of_traced, action, "seed {seed}: {bytes:02x?}");
            assert_eq!(after_traced, after, "seed {seed}: {bytes:02x?}");
        }
        assert!(looking.take_events().unwrap().len() > 1_000);
        assert_eq!(plain.counters().unwrap(), looking.counters().unwrap());
    }
}

/// What one CPU remembers, another does not.
fn pin_to_this_cpu() {
    use nix::{
        sched::{CpuSet, sched_setaffinity},
        unistd::Pid,
    };
    let mut cpus = CpuSet::new();
    cpus.set(0).unwrap();
    sched_setaffinity(Pid::from_raw(0), &cpus).unwrap();
}

/// LLVM once compared the length of a payload together with the budget beside it in the header.
#[test]
fn a_key_in_the_payload_is_found_whatever_the_header_says_beside_its_length() {
    let mut tables = tables(Affinity::Session);
    let entry = FunctionEntry {
        schema: 1,
        ..FunctionEntry::new(Affinity::Session, &[WorkerId(1)])
    };
    tables.functions.insert(FUNCTION, entry);
    let schema = SchemaEntry::json(SchemaTarget::Session, "user");
    tables.schemas = vec![schema.unwrap()];
    for mut program in [traced(&tables, &[]), loaded(&tables)] {
        program.set_filter(&ALL).unwrap();
        for budget_ms in [0, 1, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
            let header = RpcHeader {
                budget_ms,
                token: u64::MAX,
                ..request()
            };
            let frame = Frame::rpc(header, br#"{"user":"ann"}"#).bytes();
            assert_eq!(program.run(&frame).unwrap().0, Action::Tx);
            let counters = program.counters().unwrap();
            assert_eq!(counters.get(&Counter::SchemaMissed), None, "{budget_ms:x}");
        }
    }
}
