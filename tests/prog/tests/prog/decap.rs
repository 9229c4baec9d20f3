//! Program `decap`: what a balancer has put around a packet comes off again, and nothing else does.

use std::collections::BTreeMap;

use ebpf_common::{
    hash::mix64,
    maps::{Counter, DecapRow, ForwardMode, Prefix4, Prefix6, words},
};
use prog_tests::program::{Action, Program};
use xdp_balancer::{
    decapsulate,
    testing::{
        FakeTables, HostPacket,
        caller::Caller,
        tunnel::{encapsulated, lowered},
    },
};

use crate::{
    case::{action_of, request},
    forward::tables as tables_of,
};

/// Frames that are damaged, of each way.
const DAMAGED: usize = 2_000;
/// Bytes at the front of a frame in which all its headers are.
const HEADERS: usize = 160;
const MODES: [ForwardMode; 2] = [ForwardMode::Ipip, ForwardMode::Gue];

/// The tables of a balancer whose first worker has this `DECAP`: its own addresses, and the balancers' networks.
fn tables(mode: ForwardMode, outer_v6: bool) -> FakeTables {
    let mut tables = tables_of(mode, outer_v6);
    let worker = *tables.workers.values().next().unwrap();
    let mut decap = DecapRow::ZERO;
    decap.local4[1] = u32::from_ne_bytes(worker.addr4);
    decap.local6[2] = words(worker.addr6);
    decap.sources4[3] = Prefix4::new([172, 16, 0, 0], 16);
    decap.sources6[4] = Prefix6::new(tables.config.unwrap().tunnel_v6, 64);
    tables.decap = Some(decap);
    tables
}

/// `frame` as worker 1 gets it.
fn wrapped(tables: &FakeTables, mode: ForwardMode, frame: &[u8]) -> Vec<u8> {
    let worker = tables.workers.values().next().unwrap();
    encapsulated(frame, worker, mode, &tables.config.unwrap())
}

/// What becomes of `frame` at a worker, in the kernel and on the host alike.
fn check(
    program: &mut Program,
    tables: &FakeTables,
    frame: &[u8],
    expected: (Action, &[u8], Counter),
) {
    let before = program.counters().unwrap();
    let (action, after) = program.run(frame).unwrap();
    let after = after.to_vec();
    assert_eq!(
        (action, after.as_slice()),
        (expected.0, expected.1),
        "{:?}",
        expected.2
    );
    let mut counters = before;
    for counter in [Counter::Packets, expected.2] {
        *counters.entry(counter).or_default() += 1;
    }
    assert_eq!(program.counters().unwrap(), counters);

    let _earlier = tables.take_counters();
    let mut packet = HostPacket::new(frame.to_vec());
    let verdict = decapsulate(&mut packet, tables);
    assert_eq!(action_of(verdict), action);
    assert_eq!(packet.bytes, after);
    let on_host: Vec<_> = tables.take_counters().into_keys().collect();
    assert_eq!(on_host, [Counter::Packets, expected.2]);
}

fn program(tables: &FakeTables) -> Program {
    let mut program = Program::load_as("decap", prog_tests::object(), &[]).unwrap();
    program.apply(tables).unwrap();
    program
}

/// Calls `check` with each mode, family of outer and of inner header, and number of tags.
fn each(check: impl Fn(&mut Program, &FakeTables, ForwardMode, &Caller)) {
    for mode in MODES {
        for outer_v6 in [false, true] {
            let tables = tables(mode, outer_v6);
            let mut program = program(&tables);
            for caller in Caller::of_each_kind() {
                check(&mut program, &tables, mode, &caller);
            }
        }
    }
}

#[test]
fn what_a_balancer_has_put_around_comes_off() {
    each(|program, tables, mode, caller| {
        for payload in [0, 7, 1_300] {
            let frame = caller.frame(request(), &vec![7; payload]);
            let wrapped = wrapped(tables, mode, &frame);
            // The MAC addresses are those of the last hop, the hop limit is lowered, all else is as the client sent it.
            let inner = [&wrapped[..12], &lowered(&frame)[12..]].concat();
            let expected = (Action::Pass, inner.as_slice(), Counter::PassDecapsulated);
            check(program, tables, &wrapped, expected);
        }
    });
}

/// Bytes changed at random, and cut anywhere: the kernel and the host make the same of it. Seeded, so that a failure comes
/// again.
#[test]
fn what_is_damaged_or_cut_is_treated_alike_by_program_and_library() {
    let mut seed = 20_261_130;
    let mut random = |below: usize| {
        seed = mix64(seed);
        (seed % below as u64) as usize
    };
    let mut seen = BTreeMap::new();
    for (mode, outer_v6) in [
        (ForwardMode::Ipip, false),
        (ForwardMode::Ipip, true),
        (ForwardMode::Gue, false),
        (ForwardMode::Gue, true),
    ] {
        let tables = tables(mode, outer_v6);
        let mut program = program(&tables);
        for caller in Caller::of_each_kind().iter().cycle().take(DAMAGED) {
            let mut frame = wrapped(&tables, mode, &caller.frame(request(), b"payload"));
            for _ in 0..random(4) {
                let at = random(frame.len().min(HEADERS));
                frame[at] = random(256) as u8;
            }
            if random(4) == 0 {
                frame.truncate(14 + random(frame.len() - 14));
            }
            let mut packet = HostPacket::new(frame.clone());
            let verdict = decapsulate(&mut packet, &tables);
            let (action, after) = program.run(&frame).unwrap();
            assert_eq!(action, action_of(verdict), "{frame:02x?}");
            assert_eq!(after, packet.bytes, "{frame:02x?}");
        }
        let on_host = tables.take_counters();
        assert_eq!(program.counters().unwrap(), on_host, "{mode:?}");
        seen.extend(on_host);
    }
    for counter in [
        Counter::PassDecapsulated,
        Counter::PassNotEncapsulated,
        Counter::DropDecapBad,
        Counter::DropDecapSource,
    ] {
        assert!(seen.contains_key(&counter), "{counter:?} was not met");
    }
}

#[test]
fn what_somebody_else_has_put_around_is_dropped() {
    each(|program, tables, mode, caller| {
        let mut wrapped = wrapped(tables, mode, &caller.frame(request(), b"x"));
        let link = 14 + 4 * caller.tags.len();
        let source = if wrapped[link] >> 4 == 4 {
            link + 13
        } else {
            link + 9
        };
        wrapped[source - 1] ^= 1;
        let expected = (Action::Drop, wrapped.as_slice(), Counter::DropDecapSource);
        check(program, tables, &wrapped, expected);
    });
}

#[test]
fn what_is_for_another_host_or_not_encapsulated_is_the_kernels() {
    each(|program, tables, mode, caller| {
        let plain = caller.frame(request(), b"x");
        let mut to_other = wrapped(tables, mode, &plain);
        let link = 14 + 4 * caller.tags.len();
        let destination = if to_other[link] >> 4 == 4 {
            link + 19
        } else {
            link + 39
        };
        to_other[destination] ^= 1;
        for frame in [plain, to_other] {
            let expected = (Action::Pass, frame.as_slice(), Counter::PassNotEncapsulated);
            check(program, tables, &frame, expected);
        }
    });
}

#[test]
fn what_is_encapsulated_twice_is_dropped() {
    each(|program, tables, mode, caller| {
        let once = wrapped(tables, mode, &caller.frame(request(), b"x"));
        let twice = wrapped(tables, mode, &once);
        let expected = (Action::Drop, twice.as_slice(), Counter::DropDecapNested);
        check(program, tables, &twice, expected);
    });
}

#[test]
fn an_inner_packet_that_contradicts_its_frame_is_dropped() {
    each(|program, tables, mode, caller| {
        let wrapped = wrapped(tables, mode, &caller.frame(request(), b"payload"));
        let link = 14 + 4 * caller.tags.len();
        let udp = if mode == ForwardMode::Gue { 8 } else { 0 };
        let inner = link + udp + if wrapped[link] >> 4 == 4 { 20 } else { 40 };
        let len = inner + if wrapped[inner] >> 4 == 4 { 3 } else { 5 };
        let mut longer = wrapped.clone();
        longer[len] += 1;
        let mut shorter = wrapped.clone();
        shorter[len] -= 1;
        let mut of_no_version = wrapped;
        of_no_version[inner] = 0x55;
        for frame in [longer, shorter, of_no_version] {
            let expected = (Action::Drop, frame.as_slice(), Counter::DropDecapBad);
            check(program, tables, &frame, expected);
        }
    });
}

/// RFC 6040, figure 4: what becomes of the inner packet's congestion bits, for each of the outer one's; none is a drop.
#[test]
fn congestion_on_the_way_is_told_to_the_inner_packet() {
    const NOT: u8 = 0;
    const ECT_1: u8 = 1;
    const ECT_0: u8 = 2;
    const CE: u8 = 3;
    for (inner, outer, expected) in [
        (NOT, NOT, Some(NOT)),
        (NOT, ECT_0, Some(NOT)),
        (NOT, ECT_1, Some(NOT)),
        (NOT, CE, None),
        (ECT_0, NOT, Some(ECT_0)),
        (ECT_0, ECT_0, Some(ECT_0)),
        (ECT_0, ECT_1, Some(ECT_1)),
        (ECT_0, CE, Some(CE)),
        (ECT_1, NOT, Some(ECT_1)),
        (ECT_1, ECT_0, Some(ECT_1)),
        (ECT_1, ECT_1, Some(ECT_1)),
        (ECT_1, CE, Some(CE)),
        (CE, NOT, Some(CE)),
        (CE, ECT_0, Some(CE)),
        (CE, ECT_1, Some(CE)),
        (CE, CE, Some(CE)),
    ] {
        each(|program, tables, mode, caller| {
            let link = 14 + 4 * caller.tags.len();
            let plain = caller.frame(request(), b"payload");
            let sent = with_congestion(&plain, link, inner);
            let marked = with_congestion(&wrapped(tables, mode, &sent), link, outer);
            let (action, after, counter) = match expected {
                Some(bits) => {
                    let arrived = with_congestion(&lowered(&plain), link, bits);
                    let after = [&marked[..12], &arrived[12..]].concat();
                    (Action::Pass, after, Counter::PassDecapsulated)
                }
                None => (Action::Drop, marked.clone(), Counter::DropDecapBad),
            };
            check(program, tables, &marked, (action, &after, counter));
        });
    }
}

/// `frame` with congestion `bits` in the IP header at `link`, and a good checksum over it.
fn with_congestion(frame: &[u8], link: usize, bits: u8) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if frame[link] >> 4 == 6 {
        frame[link + 1] = frame[link + 1] & !0x30 | bits << 4;
        return frame;
    }
    frame[link + 1] = frame[link + 1] & !3 | bits;
    let mut header = frame[link..link + 20].to_vec();
    header[10..12].copy_from_slice(&[0, 0]);
    let sum: u32 = header
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
    frame[link + 10..link + 12].copy_from_slice(&checksum.to_be_bytes());
    frame
}

/// A row of zeros, as it is before userspace has written one, takes nothing off.
#[test]
fn nothing_comes_off_before_it_is_configured() {
    for mode in MODES {
        let mut tables = tables(mode, false);
        tables.decap = Some(DecapRow::ZERO);
        let mut program = program(&tables);
        let frame = wrapped(
            &tables,
            mode,
            &Caller::of_each_kind()[0].frame(request(), b"x"),
        );
        let expected = (Action::Pass, frame.as_slice(), Counter::PassNotEncapsulated);
        check(&mut program, &tables, &frame, expected);
    }
}
