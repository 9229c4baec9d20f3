//! The police stage in the loaded program: who is dropped, asked for a token, told to wait, and in which bytes. Each step
//! runs through the host library too, which must agree; only the last test is about time that really passes.

use std::{
    collections::BTreeMap,
    net::Ipv6Addr,
    thread,
    time::{Duration, Instant},
};

use ebpf_common::{
    cookie::CookieScope,
    ids::{FunctionId, WorkerId},
    limits::PLACES_PER_ROW,
    maps::{Affinity, Config, Counter, CpuBucket, PktgenInfo, Rate, VipInfo, VipKind, features},
    token::SourceAddress,
    wire::{RpcHeader, Status, flags},
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use prog_tests::program::{Action, Program};
use xdp_balancer::{
    RETRY_AFTER_MAX_MS, RETRY_AFTER_MS, balance,
    testing::{
        FakeTables, HostPacket,
        caller::{Caller, VIP6},
        frame::{CLIENT, Frame, VIP, VIP_PORT},
    },
};

use crate::case::{FUNCTION, action_of, all_at_home, request, tables};

/// No test lives as long as its interval: what is admitted is the burst and nothing more, at whatever pace it runs.
const fn once_an_age(burst: u64) -> Rate {
    Rate {
        interval_ns: 1 << 50,
        tolerance_ns: (burst - 1) << 50,
    }
}

const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 3, 4, 5, 6);

/// The loaded program and the host library, with the same tables.
struct Both {
    program: Program,
    tables: FakeTables,
}

impl Both {
    /// Both versions of IP, worker 1 warm, `bits` switched on. Stays on one CPU, whose buckets are asked.
    fn new(bits: u32, edit: impl FnOnce(&mut FakeTables, &mut Config)) -> Self {
        let mut cpus = CpuSet::new();
        cpus.set(0).unwrap();
        sched_setaffinity(Pid::from_raw(0), &cpus).unwrap();
        let mut tables = tables(Affinity::None);
        tables.add_vip6_of(VIP6, VIP_PORT, 17, VipInfo::new(0, VipKind::Rpc));
        let mut config = tables.config.unwrap();
        config.features |= bits;
        edit(&mut tables, &mut config);
        tables.config = Some(config);
        let mut program = Program::load(prog_tests::object(), &[]).unwrap();
        program.apply(&tables).unwrap();
        Self { program, tables }
    }

    /// What becomes of `frame`: what the driver is told, the frame afterwards, and the counters that moved.
    fn run(&mut self, frame: &[u8]) -> (Action, Vec<u8>, Vec<Counter>) {
        let before = self.program.counters().unwrap();
        let (action, after) = self.program.run(frame).unwrap();
        let after = after.to_vec();
        let moved = moved(&before, &self.program.counters().unwrap());

        let _earlier = self.tables.take_counters();
        let mut packet = HostPacket::new(frame.to_vec());
        let verdict = balance(&mut packet, &self.tables);
        assert_eq!(action_of(verdict), action, "{verdict:?}");
        assert_eq!(packet.bytes, after);
        assert_eq!(moved, moved_of(&self.tables.take_counters()));
        (action, after, moved)
    }

    fn call(&mut self, caller: &Caller, header: RpcHeader) -> Vec<Counter> {
        self.run(&caller.frame(header, b"payload")).2
    }

    fn config(&self) -> Config {
        self.tables.config.unwrap()
    }
}

/// The counters that moved, without `Packets`, which always does.
fn moved(before: &BTreeMap<Counter, u64>, after: &BTreeMap<Counter, u64>) -> Vec<Counter> {
    let moved = after.iter().filter(|(counter, count)| {
        **counter != Counter::Packets && before.get(counter) != Some(count)
    });
    moved.map(|(counter, _)| *counter).collect()
}

fn moved_of(counters: &BTreeMap<Counter, u64>) -> Vec<Counter> {
    assert!(counters.values().all(|count| *count == 1));
    moved(&BTreeMap::new(), counters)
}

fn with_token(token: u64) -> RpcHeader {
    RpcHeader {
        flags: request().flags | flags::HAS_TOKEN,
        token,
        ..request()
    }
}

fn nobodys() -> RpcHeader {
    RpcHeader::request(FunctionId(0xbad), 0x77)
}

/// A request whose cookie leads to worker 2.
fn to_worker_2(config: &Config) -> RpcHeader {
    let scope = CookieScope {
        function: FUNCTION,
        session: 0,
    };
    RpcHeader {
        flags: request().flags | flags::HAS_COOKIE,
        route_cookie: config.cookie_keys().seal(WorkerId(2), scope),
        ..request()
    }
}

#[test]
fn blocks_by_the_longest_prefix_and_counts_its_hits() {
    let net6 = [0x20, 1, 0xd, 0xb8, 0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut both = Both::new(features::BLOCK_LIST, |tables, _| {
        tables.police.block4([10, 80, 0, 0], 16);
        tables.police.block4(CLIENT, 32);
        tables.police.block4([192, 0, 0, 0], 3);
        tables.police.block6(net6, 64);
        tables
            .police
            .block6([0x24, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 12);
    });
    let mut hits = |source: Caller| both.call(&source, request()) == [Counter::DropBlocked];
    for _ in 0..3 {
        assert!(hits(Caller::new(CLIENT)));
    }
    for source in [
        [10, 80, 0, 2],
        [10, 80, 255, 255],
        [192, 0, 2, 1],
        [223, 0, 0, 1],
    ] {
        assert!(hits(Caller::new(source)), "{source:?}");
    }
    for source in [[10, 79, 255, 255], [10, 81, 0, 0], [191, 255, 255, 255]] {
        assert!(!hits(Caller::new(source)), "{source:?}");
    }
    assert!(hits(Caller::new(CLIENT6)));
    assert!(hits(Caller::new(Ipv6Addr::new(
        0x240f, 9, 0, 0, 0, 0, 0, 1
    ))));
    assert!(!hits(Caller::new(Ipv6Addr::new(
        0x2001, 0xdb8, 1, 3, 0, 0, 0, 1
    ))));
    assert!(!hits(Caller::new(Ipv6Addr::new(
        0x2410, 9, 0, 0, 0, 0, 0, 1
    ))));
    assert_eq!(
        both.program.hits4().unwrap(),
        *both.tables.police.block4.borrow()
    );
    assert_eq!(
        both.program.hits6().unwrap(),
        *both.tables.police.block6.borrow()
    );
    let hits4: Vec<_> = both.program.hits4().unwrap().into_values().collect();
    assert_eq!(hits4, [2, 3, 2]);
}

#[test]
fn admits_a_sources_burst_and_drops_what_is_more() {
    let mut both = Both::new(features::SOURCE_RATE, |_, config| {
        config.source_rate = once_an_age(3);
    });
    for caller in [
        Caller::new(CLIENT),
        Caller::new([10, 80, 0, 4]),
        Caller::new(CLIENT6),
    ] {
        for _ in 0..3 {
            assert_eq!(both.call(&caller, request()), [Counter::RouteWarm]);
        }
        let frame = caller.frame(request(), b"x");
        let refused = (Action::Drop, frame.clone(), vec![Counter::DropSourceRate]);
        assert_eq!(both.run(&frame), refused);
    }
    let neighbour = Caller::new(Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 0, 0, 0, 1));
    assert_eq!(both.call(&neighbour, request()), [Counter::DropSourceRate]);
}

#[test]
fn a_retry_leads_to_a_request_that_is_routed() {
    for caller in Caller::of_each_kind() {
        let mut both = Both::new(features::ADDRESS_TOKENS, |_, config| {
            config.unknown_rate = once_an_age(1);
        });
        assert_eq!(both.call(&caller, request()), [Counter::RouteWarm]);
        let header = RpcHeader {
            flags: request().flags | flags::HAS_SESSION,
            session_id: 0x99,
            ..request()
        };
        let frame = caller.frame(header, &[1; 200]);
        let (action, after, counters) = both.run(&frame);
        assert_eq!(
            (action, &counters[..]),
            (Action::Tx, &[Counter::AnswerRetry][..])
        );
        let (retry, _) = RpcHeader::parse(&after[caller.rpc_offset()..])
            .unwrap()
            .unwrap();
        assert_eq!(after, caller.retry(&header, retry.token), "{caller:?}");
        assert!(after.len() <= frame.len());
        for _ in 0..3 {
            assert_eq!(
                both.call(&caller, with_token(retry.token)),
                [Counter::RouteWarm]
            );
        }
        // From somewhere else it is worth nothing.
        for thief in [
            Caller::new([10, 80, 0, 4]),
            Caller::new(Ipv6Addr::new(1, 2, 3, 4, 5, 6, 7, 8)),
        ] {
            let counters = both.call(&thief, with_token(retry.token));
            assert_eq!(counters, [Counter::AnswerRetry, Counter::TokenForged]);
        }
    }
}

#[test]
fn no_flipped_bit_of_a_token_routes() {
    for (caller, source) in [
        (Caller::new(CLIENT), SourceAddress::v4(CLIENT)),
        (Caller::new(CLIENT6), SourceAddress::v6(CLIENT6.octets())),
    ] {
        let mut both = Both::new(features::ADDRESS_TOKENS, |_, config| {
            config.unknown_rate = once_an_age(1);
        });
        let token = both.config().token_keys().seal(source);
        assert_eq!(both.call(&caller, request()), [Counter::RouteWarm]);
        assert_eq!(both.call(&caller, with_token(token)), [Counter::RouteWarm]);
        for bit in 0..64 {
            // The epoch is 1: 0 is the one before, and valid too.
            let why = if bit <= 56 {
                Counter::TokenForged
            } else {
                Counter::TokenStale
            };
            let counters = both.call(&caller, with_token(token ^ (1 << bit)));
            assert_eq!(counters, [Counter::AnswerRetry, why], "bit {bit}");
        }
        assert_eq!(both.call(&caller, with_token(token)), [Counter::RouteWarm]);
        // Nor does a route cookie.
        let cookie = to_worker_2(&both.config());
        assert_eq!(both.call(&caller, cookie), [Counter::AnswerRetry]);
    }
}

#[test]
fn answers_a_function_above_its_rate() {
    for caller in Caller::of_each_kind() {
        let mut both = Both::new(features::FUNCTION_RATE, |tables, _| {
            tables.police.limit(FUNCTION, once_an_age(2));
            for function in 1..200 {
                tables.police.limit(FunctionId(function), once_an_age(1));
            }
        });
        for _ in 0..2 {
            assert_eq!(both.call(&caller, request()), [Counter::RouteWarm]);
        }
        let (action, after, counters) = both.run(&caller.frame(request(), b"payload"));
        assert_eq!(
            (action, &counters[..]),
            (Action::Tx, &[Counter::ErrorFunctionRate][..])
        );
        assert_eq!(
            after,
            caller.error(&request(), Status::RateLimited, RETRY_AFTER_MAX_MS)
        );
        // The rest of a message that was begun is not held up; others have no limit.
        let later = request().with_fragment(1, 2);
        assert!(both.call(&caller, later).contains(&Counter::RouteWarm));
        for _ in 0..3 {
            assert_eq!(
                both.call(&caller, nobodys()),
                [Counter::ErrorUnknownFunction]
            );
        }
    }
}

#[test]
fn sheds_what_an_overloaded_worker_would_only_keep_waiting() {
    for (in_flight, capacity, wait_ms) in [
        (14, 10, None),
        (15, 10, Some(RETRY_AFTER_MS)),
        (45, 10, Some(3 * RETRY_AFTER_MS)),
        (0, 0, Some(RETRY_AFTER_MAX_MS)),
        (100, u32::MAX, None),
    ] {
        let mut both = Both::new(features::SHED, |tables, config| {
            config.shed_percent = 150;
            tables.set_load(2, in_flight, capacity);
        });
        let caller = Caller::new(CLIENT);
        let header = to_worker_2(&both.config());
        let (action, after, counters) = both.run(&caller.frame(header, b""));
        assert_eq!(action, Action::Tx);
        match wait_ms {
            None => assert_eq!(counters, [Counter::RouteCookie]),
            Some(wait_ms) => {
                assert_eq!(counters, [Counter::ErrorOverloaded]);
                assert_eq!(after, caller.error(&header, Status::Overloaded, wait_ms));
            }
        }
    }
}

#[test]
fn answers_no_more_than_the_rate_of_answers() {
    for caller in Caller::of_each_kind() {
        let mut both = Both::new(features::ANSWER_RATE, |_, config| {
            config.answer_rate = once_an_age(2);
        });
        for _ in 0..2 {
            let (action, after, _) = both.run(&caller.frame(nobodys(), &[3; 90]));
            assert_eq!(action, Action::Tx);
            assert_eq!(
                after,
                caller.error(&nobodys(), Status::UnknownFunction, 0),
                "{caller:?}"
            );
        }
        let frame = caller.frame(nobodys(), b"x");
        let dropped = (Action::Drop, frame.clone(), vec![Counter::DropAnswerRate]);
        assert_eq!(both.run(&frame), dropped);
        assert_eq!(both.call(&caller, request()), [Counter::RouteWarm]);
        assert_ne!(both.program.cpu_bucket(CpuBucket::Answer).unwrap(), 0);
    }
}

/// Nobody can be told to come again later: pktgen reads no answer.
#[test]
fn holds_pktgen_to_a_functions_rate_in_silence() {
    let mut both = Both::new(features::FUNCTION_RATE, |tables, _| {
        tables.vips.clear();
        tables.add_vip_of(VIP, VIP_PORT, 17, VipInfo::new(3, VipKind::Pktgen));
        tables.pktgen = vec![PktgenInfo::new(&[FUNCTION], 4)];
        tables.police.limit(FUNCTION, once_an_age(2));
    });
    for sequence in 0..2 {
        let (action, _, counters) = both.run(&Frame::pktgen(sequence).bytes());
        assert_eq!((action, counters), (Action::Tx, vec![Counter::RouteWarm]));
    }
    let frame = Frame::pktgen(2).bytes();
    let dropped = (Action::Drop, frame.clone(), vec![Counter::DropFunctionRate]);
    assert_eq!(both.run(&frame), dropped);
}

#[test]
fn holds_new_flows_to_the_rate_of_evictions() {
    let mut both = Both::new(features::EVICTION_RATE, |tables, config| {
        tables.vips.clear();
        tables.add_vip_of(VIP, VIP_PORT, 17, VipInfo::new(3, VipKind::L4));
        all_at_home(tables, 0, 1);
        config.flow_mask = 0;
        config.eviction_rate = once_an_age(2);
    });
    let flow = |source_port: u32| {
        let source_port = source_port as u16;
        let payload = b"anything".to_vec();
        Frame {
            source_port,
            ..Frame::udp(payload)
        }
        .bytes()
    };
    // A row of its own, which the first eight fill.
    let new = [Counter::FlowCreated; PLACES_PER_ROW as usize]
        .into_iter()
        .chain([Counter::FlowEvicted; 2])
        .chain([Counter::FlowNotKept; 9]);
    for (source_port, detail) in (1_000..).zip(new) {
        let (action, _, counters) = both.run(&flow(source_port));
        assert_eq!(action, Action::Tx);
        assert_eq!(counters, [Counter::RouteMaglev, detail], "{source_port}");
    }
    let (_, _, kept) = both.run(&flow(1_009));
    assert_eq!(kept, [Counter::RouteFlow], "the last that was remembered");
    let bucket = both.program.cpu_bucket(CpuBucket::Eviction).unwrap();
    assert_ne!(bucket, 0);
}

#[test]
fn everything_at_once_routes_who_keeps_to_the_rules() {
    let all = features::BLOCK_LIST
        | features::SOURCE_RATE
        | features::FUNCTION_RATE
        | features::ADDRESS_TOKENS
        | features::SHED
        | features::ANSWER_RATE
        | features::EVICTION_RATE;
    for caller in Caller::of_each_kind() {
        let mut both = Both::new(all, |tables, config| {
            config.source_rate = once_an_age(10);
            config.unknown_rate = once_an_age(2);
            config.answer_rate = once_an_age(1);
            config.shed_percent = 100;
            tables.police.limit(FUNCTION, once_an_age(5));
            tables.police.block4([10, 80, 0, 4], 32);
            tables
                .police
                .block6([0x20, 1, 0xd, 0xb8, 0, 1, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0], 64);
        });
        assert_eq!(both.call(&caller, request()), [Counter::RouteWarm]);
        assert_eq!(both.call(&caller, request()), [Counter::RouteWarm]);
        assert_eq!(both.call(&caller, request()), [Counter::AnswerRetry]);
        assert_eq!(both.call(&caller, request()), [Counter::DropAnswerRate]);
    }
}

/// With the kernel's own clock, whose ticks are real here.
#[test]
fn a_rate_recovers_as_time_passes() {
    let rate = Rate {
        interval_ns: 1_000_000_000,
        tolerance_ns: 1_000_000_000,
    };
    let mut both = Both::new(features::FUNCTION_RATE, |tables, config| {
        config.tick_ns = tick_ns();
        tables.police.limit(FUNCTION, rate);
    });
    let caller = Caller::new(CLIENT);
    let frame = caller.frame(request(), b"");
    let mut call = || {
        let before = both.program.counters().unwrap();
        let (_, after) = both.program.run(&frame).unwrap();
        let after = after.to_vec();
        let moved = moved(&before, &both.program.counters().unwrap());
        (moved == [Counter::RouteWarm], after)
    };
    assert!(call().0);
    let begun = Instant::now();
    assert!(call().0);
    let (is_admitted, answer) = call();
    assert!(!is_admitted);
    let (error, _) = RpcHeader::parse(&answer[caller.rpc_offset()..])
        .unwrap()
        .unwrap();
    assert!(
        (1..=1_000).contains(&error.budget_ms),
        "{}",
        error.budget_ms
    );
    // Who waits as long as it is told to is admitted, and the time that it is told is not much too long.
    thread::sleep(
        Duration::from_millis(u64::from(error.budget_ms)) + Duration::from_nanos(tick_ns().into()),
    );
    assert!(call().0);
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(800), "{took:?}");
    assert!(!call().0);
}

/// A tick of the kernel's timer.
fn tick_ns() -> u32 {
    let resolution = nix::time::clock_getres(nix::time::ClockId::CLOCK_MONOTONIC_COARSE).unwrap();
    u32::try_from(resolution.tv_nsec()).unwrap()
}
