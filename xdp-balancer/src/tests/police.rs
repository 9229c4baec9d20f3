//! Who may send, who is asked to prove its address, who is told to wait; and the bytes in which they are told.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use ebpf_common::{
    cookie::CookieScope,
    ids::{FunctionId, SlotId, WorkerId},
    maps::{Affinity, Config, Counter, CpuBucket, Rate, VipInfo, VipKind, features},
    token::SourceAddress,
    wire::{RpcHeader, Status, flags},
};

use super::{FUNCTION, counted, request, run, tables};
use crate::{
    DropReason, RETRY_AFTER_MAX_MS, RETRY_AFTER_MS, Verdict,
    testing::{
        FakeTables,
        caller::{Caller, VIP6},
        frame::{CLIENT, VIP, VIP_PORT},
    },
};

const MS: u64 = 1_000_000;
/// A hundred a second, two at once.
const RATE: Rate = Rate {
    interval_ns: 10 * MS,
    tolerance_ns: 10 * MS,
};
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 3, 4, 5, 6);

/// A VIP of both versions of IP, two idle workers, and `bits` switched on.
fn policed(bits: u32, edit: impl FnOnce(&mut Config)) -> FakeTables {
    let mut tables = tables(Affinity::None);
    tables.add_vip6_of(VIP6, VIP_PORT, 17, VipInfo::new(0, VipKind::Rpc));
    let config = tables.config.as_mut().unwrap();
    config.features |= bits;
    edit(config);
    tables
}

fn v4() -> Caller {
    Caller::new(CLIENT)
}

/// What becomes of a request of `caller`.
fn call(
    tables: &FakeTables,
    caller: &Caller,
    header: RpcHeader,
) -> (Verdict, BTreeMap<Counter, u64>) {
    let (verdict, _, counters) = run(tables, caller.frame(header, b"payload"));
    (verdict, counters)
}

fn is_admitted(tables: &FakeTables, caller: &Caller, header: RpcHeader) -> bool {
    let (verdict, counters) = call(tables, caller, header);
    let is_admitted = counters == counted(Counter::RouteWarm, &[]);
    assert_eq!(
        verdict == Verdict::Tx,
        is_admitted || verdict == Verdict::Tx
    );
    is_admitted
}

fn pass_time(tables: &FakeTables, ns: u64) {
    tables.now_ns.set(tables.now_ns.get() + ns);
}

fn with_token(token: u64) -> RpcHeader {
    RpcHeader {
        flags: request().flags | flags::HAS_TOKEN,
        token,
        ..request()
    }
}

#[test]
fn a_blocked_source_is_dropped_and_its_longest_prefix_counts() {
    let mut tables = policed(features::BLOCK_LIST, |_| ());
    tables.police.block4([10, 80, 0, 0], 16);
    tables.police.block4([10, 80, 0, 3], 32);
    tables
        .police
        .block6([0x20, 1, 0xd, 0xb8, 0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0], 64);
    let blocked = (
        Verdict::Drop(DropReason::Blocked),
        counted(Counter::DropBlocked, &[]),
    );
    assert_eq!(call(&tables, &v4(), request()), blocked);
    assert_eq!(
        call(&tables, &Caller::new([10, 80, 9, 9]), request()),
        blocked
    );
    assert_eq!(call(&tables, &Caller::new(CLIENT6), request()), blocked);
    for innocent in [
        Caller::new([10, 81, 0, 3]),
        Caller::new(Ipv6Addr::new(0x2001, 0xdb8, 1, 3, 0, 0, 0, 1)),
    ] {
        assert!(is_admitted(&tables, &innocent, request()));
    }
    let hits: Vec<_> = tables.police.block4.borrow().values().copied().collect();
    assert_eq!(hits, [1, 1]);
    assert_eq!(tables.police.block6.borrow().values().sum::<u64>(), 1);

    tables.config.as_mut().unwrap().features = 0;
    assert!(is_admitted(&tables, &v4(), request()));
}

#[test]
fn a_source_gets_its_burst_and_then_its_rate() {
    let tables = policed(features::SOURCE_RATE, |config| config.source_rate = RATE);
    for caller in [v4(), Caller::new(CLIENT6)] {
        for round in 0..3 {
            assert!(is_admitted(&tables, &caller, request()));
            assert!(is_admitted(&tables, &caller, request()), "round {round}");
            let refused = (
                Verdict::Drop(DropReason::SourceRate),
                counted(Counter::DropSourceRate, &[]),
            );
            assert_eq!(call(&tables, &caller, request()), refused);
            pass_time(&tables, 10 * MS);
            assert!(is_admitted(&tables, &caller, request()));
            assert_eq!(call(&tables, &caller, request()), refused);
            // Recovered.
            pass_time(&tables, 30 * MS);
        }
    }
}

#[test]
fn sources_do_not_share_a_rate_and_the_hosts_of_an_ipv6_net_do() {
    let tables = policed(features::SOURCE_RATE, |config| config.source_rate = RATE);
    while is_admitted(&tables, &v4(), request()) {}
    assert!(is_admitted(
        &tables,
        &Caller::new([10, 80, 0, 4]),
        request()
    ));
    while is_admitted(&tables, &Caller::new(CLIENT6), request()) {}
    let neighbour = Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 9, 9, 9, 9);
    let elsewhere = Ipv6Addr::new(0x2001, 0xdb8, 1, 3, 3, 4, 5, 6);
    assert!(!is_admitted(&tables, &Caller::new(neighbour), request()));
    assert!(is_admitted(&tables, &Caller::new(elsewhere), request()));
}

#[test]
fn a_source_that_is_blocked_uses_up_no_rate_and_load_packets_have_none() {
    let mut tables = policed(features::SOURCE_RATE | features::BLOCK_LIST, |config| {
        config.source_rate = RATE;
    });
    tables.police.block4(CLIENT, 32);
    for _ in 0..5 {
        assert!(!is_admitted(&tables, &v4(), request()));
    }
    assert!(tables.police.sources.iter().all(|bucket| bucket.get() == 0));

    let mut tables = policed(features::SOURCE_RATE, |config| config.source_rate = RATE);
    tables.add_vip_of(VIP, VIP_PORT, 17, VipInfo::new(0, VipKind::Load));
    for _ in 0..5 {
        let (_, counters) = call(&tables, &v4(), request());
        assert!(
            !counters.contains_key(&Counter::DropSourceRate),
            "{counters:?}"
        );
    }
}

#[test]
fn unknown_sources_above_the_rate_are_told_their_token_and_known_ones_are_not() {
    for caller in Caller::of_each_kind() {
        let tables = policed(features::ADDRESS_TOKENS, |config| {
            config.unknown_rate = RATE
        });
        let header = RpcHeader {
            flags: request().flags | flags::HAS_SESSION | flags::HAS_SLOT,
            session_id: 77,
            slot: SlotId(88),
            ..request()
        };
        while is_admitted(&tables, &caller, header) {}
        let frame = caller.frame(header, b"");
        let (verdict, after, counters) = run(&tables, frame.clone());
        assert_eq!(verdict, Verdict::Tx);
        assert_eq!(counters, counted(Counter::AnswerRetry, &[]));
        assert!(after.len() <= frame.len());
        let (retry, _) = RpcHeader::parse(&after[caller.rpc_offset()..])
            .unwrap()
            .unwrap();
        assert!(retry.has(flags::HAS_TOKEN));
        assert_eq!(after, caller.retry(&header, retry.token), "{caller:?}");

        let bucket = tables.police.cpu[CpuBucket::Unknown as usize].get();
        for _ in 0..10 {
            assert!(is_admitted(&tables, &caller, with_token(retry.token)));
        }
        assert_eq!(tables.police.cpu[CpuBucket::Unknown as usize].get(), bucket);
    }
}

#[test]
fn no_flipped_bit_of_a_token_is_accepted() {
    for (caller, source) in [
        (v4(), SourceAddress::v4(CLIENT)),
        (Caller::new(CLIENT6), SourceAddress::v6(CLIENT6.octets())),
    ] {
        let tables = policed(features::ADDRESS_TOKENS, |config| {
            config.unknown_rate = RATE
        });
        let token = tables.config.unwrap().token_keys().seal(source);
        while is_admitted(&tables, &caller, request()) {}
        assert!(is_admitted(&tables, &caller, with_token(token)));
        for bit in 0..64 {
            let (_, counters) = call(&tables, &caller, with_token(token ^ (1 << bit)));
            let retry = |detail| counted(Counter::AnswerRetry, &[detail]);
            assert!(
                counters == retry(Counter::TokenForged) || counters == retry(Counter::TokenStale),
                "bit {bit}: {counters:?}"
            );
            assert_eq!(
                counters.contains_key(&Counter::TokenStale),
                bit > 56,
                "bit {bit}"
            );
        }
    }
}

#[test]
fn a_token_of_the_epoch_before_is_valid_and_one_of_another_address_or_epoch_is_not() {
    let mut tables = policed(features::ADDRESS_TOKENS, |config| {
        config.unknown_rate = RATE
    });
    let keys = tables.config.unwrap().token_keys();
    let token = keys.seal(SourceAddress::v4(CLIENT));
    let other = keys.seal(SourceAddress::v4([10, 80, 0, 4]));
    while is_admitted(&tables, &v4(), request()) {}
    let retry = |detail| counted(Counter::AnswerRetry, &[detail]);
    assert_eq!(
        call(&tables, &v4(), with_token(other)).1,
        retry(Counter::TokenForged)
    );
    tables.config.as_mut().unwrap().key_epoch += 1;
    assert!(is_admitted(&tables, &v4(), with_token(token)));
    tables.config.as_mut().unwrap().key_epoch += 1;
    assert_eq!(
        call(&tables, &v4(), with_token(token)).1,
        retry(Counter::TokenStale)
    );

    // Without the flag it is a trace id, and proves nothing.
    let unsaid = RpcHeader { token, ..request() };
    assert_eq!(
        call(&tables, &v4(), unsaid).1,
        counted(Counter::AnswerRetry, &[])
    );
}

#[test]
fn a_route_cookie_proves_no_address_and_a_forged_source_uses_up_no_functions_rate() {
    let bits = features::ADDRESS_TOKENS | features::FUNCTION_RATE;
    let mut tables = policed(bits, |config| config.unknown_rate = RATE);
    tables.police.limit(FUNCTION, RATE);
    let scope = CookieScope {
        function: FUNCTION,
        session: 0,
    };
    let keys = tables.config.unwrap();
    let known = with_token(keys.token_keys().seal(SourceAddress::v4(CLIENT)));
    let header = RpcHeader {
        flags: request().flags | flags::HAS_COOKIE,
        route_cookie: keys.cookie_keys().seal(WorkerId(1), scope),
        ..request()
    };
    // The rate of unknown sources lets two through, to other functions.
    for _ in 0..2 {
        let elsewhere = RpcHeader::request(FunctionId(0xbad), 1);
        let (_, counters) = call(&tables, &v4(), elsewhere);
        assert_eq!(counters, counted(Counter::ErrorUnknownFunction, &[]));
    }
    for _ in 0..10 {
        assert_eq!(
            call(&tables, &v4(), header).1,
            counted(Counter::AnswerRetry, &[])
        );
    }
    assert!(is_admitted(&tables, &v4(), known));
    assert!(is_admitted(&tables, &v4(), known));
    assert!(!is_admitted(&tables, &v4(), known));
}

#[test]
fn a_function_above_its_rate_is_answered_with_the_time_until_the_next_is_admitted() {
    for caller in Caller::of_each_kind() {
        let mut tables = policed(features::FUNCTION_RATE, |_| ());
        tables.police.limit(FUNCTION, RATE);
        tables.police.limit(FunctionId(9), RATE);
        while is_admitted(&tables, &caller, request()) {}
        // Up to the next millisecond.
        for (passed, wait_ms) in [(0, 10), (1, 10), (MS - 1, 9), (8 * MS, 1), (MS - 1, 1)] {
            pass_time(&tables, passed);
            let (verdict, after, counters) = run(&tables, caller.frame(request(), b""));
            assert_eq!(verdict, Verdict::Tx);
            assert_eq!(counters, counted(Counter::ErrorFunctionRate, &[]));
            assert_eq!(
                after,
                caller.error(&request(), Status::RateLimited, wait_ms)
            );
        }
        pass_time(&tables, 1);
        assert!(is_admitted(&tables, &caller, request()));
        let unlimited = RpcHeader::request(FunctionId(0xbad), 1);
        let (_, counters) = call(&tables, &caller, unlimited);
        assert_eq!(counters, counted(Counter::ErrorUnknownFunction, &[]));
    }
}

#[test]
fn a_very_slow_rate_names_the_longest_wait_and_not_more() {
    let mut tables = policed(features::FUNCTION_RATE, |_| ());
    let hourly = Rate {
        interval_ns: 3_600_000 * MS,
        tolerance_ns: 0,
    };
    tables.police.limit(FUNCTION, hourly);
    assert!(is_admitted(&tables, &v4(), request()));
    let (_, after, _) = run(&tables, v4().frame(request(), b""));
    assert_eq!(
        after,
        v4().error(&request(), Status::RateLimited, RETRY_AFTER_MAX_MS)
    );
}

#[test]
fn only_the_first_fragment_of_a_message_counts_as_a_call() {
    let mut tables = policed(features::FUNCTION_RATE, |_| ());
    tables.police.limit(FUNCTION, RATE);
    while is_admitted(&tables, &v4(), request()) {}
    let (_, counters) = call(&tables, &v4(), request().with_fragment(0, 3));
    assert_eq!(counters, counted(Counter::ErrorFunctionRate, &[]));
    let (verdict, counters) = call(&tables, &v4(), request().with_fragment(1, 3));
    assert_eq!(verdict, Verdict::Tx);
    assert!(!counters.contains_key(&Counter::ErrorFunctionRate));
}

#[test]
fn asking_about_a_call_or_giving_it_up_takes_nothing_from_the_functions_rate() {
    let mut tables = policed(features::FUNCTION_RATE, |_| ());
    tables.police.limit(FUNCTION, RATE);
    let known = in_session(&mut tables);
    while is_admitted(&tables, &v4(), request()) {}
    let sent_before = tables.load(2).sent;
    for flag in [flags::RESUME, flags::CANCEL] {
        let about = |header: RpcHeader| RpcHeader {
            flags: header.flags | flag,
            ..header
        };
        let (_, counters) = call(&tables, &v4(), about(known));
        assert_eq!(counters, counted(Counter::RouteCookie, &[]));
        // Without a cookie anybody could say so of anything.
        let (_, counters) = call(&tables, &v4(), about(request()));
        assert_eq!(counters, counted(Counter::ErrorFunctionRate, &[]));
    }
    assert_eq!(tables.load(2).sent, sent_before, "no new work");
}

#[test]
fn a_worker_above_its_share_of_capacity_gets_no_more() {
    let mut tables = policed(features::SHED, |config| config.shed_percent = 150);
    super::warm_on(&mut tables, Affinity::None, &[]);
    // The home is worker 2, and it has no bound here.
    let answer = |tables: &FakeTables, header| run(tables, v4().frame(header, b""));
    for (in_flight, capacity, cap, wait_ms) in [
        (0, 10, 0, None),
        (14, 10, 0, None),
        (15, 10, 0, Some(RETRY_AFTER_MS)),
        (30, 10, 0, Some(2 * RETRY_AFTER_MS)),
        (5, 10, 4, None),
        (6, 10, 4, Some(RETRY_AFTER_MS)),
        (u32::MAX - 1, 10, 0, Some(RETRY_AFTER_MAX_MS)),
        (0, 0, 0, Some(RETRY_AFTER_MAX_MS)),
        (1_000_000, u32::MAX, 0, None),
    ] {
        tables.set_load(2, in_flight, capacity);
        tables.workers.get_mut(&WorkerId(2)).unwrap().cap = cap;
        let (verdict, after, counters) = answer(&tables, in_session(&mut tables.clone()));
        let what = format!("{in_flight} of {capacity}, cap {cap}");
        match wait_ms {
            None => assert_eq!(counters.get(&Counter::ErrorOverloaded), None, "{what}"),
            Some(wait_ms) => {
                assert_eq!(verdict, Verdict::Tx);
                assert_eq!(counters, counted(Counter::ErrorOverloaded, &[]), "{what}");
                let header = in_session(&mut tables.clone());
                assert_eq!(
                    after,
                    v4().error(&header, Status::Overloaded, wait_ms),
                    "{what}"
                );
            }
        }
    }
}

/// A request whose cookie leads to worker 2, however busy that is.
fn in_session(tables: &mut FakeTables) -> RpcHeader {
    let scope = CookieScope {
        function: FUNCTION,
        session: 0,
    };
    RpcHeader {
        flags: request().flags | flags::HAS_COOKIE,
        route_cookie: tables
            .config
            .unwrap()
            .cookie_keys()
            .seal(WorkerId(2), scope),
        ..request()
    }
}

#[test]
fn nothing_is_shed_of_a_message_that_was_begun_or_where_shedding_is_off() {
    let mut tables = policed(features::SHED, |config| config.shed_percent = 100);
    tables.set_load(2, 100, 10);
    let header = in_session(&mut tables);
    assert_eq!(
        call(&tables, &v4(), header).1,
        counted(Counter::ErrorOverloaded, &[])
    );
    let later = header.with_fragment(1, 2);
    assert_eq!(
        call(&tables, &v4(), later).1,
        counted(Counter::RouteCookie, &[])
    );
    tables.config.as_mut().unwrap().features = 0;
    assert_eq!(
        call(&tables, &v4(), header).1,
        counted(Counter::RouteCookie, &[])
    );
}

#[test]
fn answers_of_every_kind_share_a_rate() {
    for caller in Caller::of_each_kind() {
        let bits = features::ANSWER_RATE | features::ADDRESS_TOKENS;
        let never = Rate {
            interval_ns: 1 << 50,
            tolerance_ns: 0,
        };
        let tables = policed(bits, |config| {
            config.answer_rate = RATE;
            config.unknown_rate = never;
        });
        let nobody = RpcHeader::request(FunctionId(0xbad), 1);
        let one = |counter| counted(counter, &[]);
        assert_eq!(
            call(&tables, &caller, nobody).1,
            one(Counter::ErrorUnknownFunction)
        );
        assert_eq!(call(&tables, &caller, nobody).1, one(Counter::AnswerRetry));
        let frame = caller.frame(nobody, b"x");
        let (verdict, after, counters) = run(&tables, frame.clone());
        assert_eq!(verdict, Verdict::Drop(DropReason::AnswerRate));
        assert_eq!(counters, one(Counter::DropAnswerRate));
        assert_eq!(after, frame, "untouched");
        pass_time(&tables, 10 * MS);
        assert_eq!(call(&tables, &caller, nobody).1, one(Counter::AnswerRetry));
    }
}

#[test]
fn what_cannot_be_answered_uses_up_no_answers() {
    let tables = policed(features::ANSWER_RATE, |config| config.answer_rate = RATE);
    let nobody = RpcHeader::request(FunctionId(0xbad), 1);
    for source in [
        Caller::new(Ipv4Addr::LOCALHOST),
        Caller::new(Ipv6Addr::UNSPECIFIED),
        Caller::new(Ipv6Addr::LOCALHOST),
        Caller::new(Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped()),
        Caller::new(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)),
    ] {
        for _ in 0..3 {
            let (verdict, counters) = call(&tables, &source, nobody);
            assert_eq!(verdict, Verdict::Drop(DropReason::BadSource), "{source:?}");
            assert_eq!(counters, counted(Counter::DropBadSource, &[]));
        }
    }
    assert_eq!(tables.police.cpu[CpuBucket::Answer as usize].get(), 0);
    let (verdict, _) = call(
        &tables,
        &Caller::new(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 1, 1)),
        nobody,
    );
    assert_eq!(verdict, Verdict::Tx, "a client behind NAT64");
}

#[test]
fn an_answer_is_as_long_as_the_shortest_request_and_keeps_the_tags() {
    for caller in Caller::of_each_kind() {
        let tables = policed(0, |_| ());
        let nobody = RpcHeader::request(FunctionId(0xbad), 0x55);
        for payload in [&b""[..], &[7; 900]] {
            let frame = caller.frame(nobody, payload);
            let (verdict, after, counters) = run(&tables, frame);
            assert_eq!(verdict, Verdict::Tx, "{caller:?}");
            assert_eq!(counters, counted(Counter::ErrorUnknownFunction, &[]));
            assert_eq!(
                after,
                caller.error(&nobody, Status::UnknownFunction, 0),
                "{caller:?}"
            );
            assert_eq!(after.len(), caller.frame(nobody, b"").len());
        }
    }
}

#[test]
fn what_is_switched_off_asks_nobody_and_changes_nothing() {
    let mut tables = policed(0, |config| {
        let never = Rate {
            interval_ns: 1 << 50,
            tolerance_ns: 0,
        };
        config.source_rate = never;
        config.unknown_rate = never;
        config.answer_rate = never;
    });
    tables.police.block4(CLIENT, 8);
    tables.police.limit(FUNCTION, RATE);
    for _ in 0..10 {
        assert!(is_admitted(&tables, &v4(), with_token(0xbad)));
    }
    assert!(tables.police.cpu.iter().all(|bucket| bucket.get() == 0));
    assert!(tables.police.sources.iter().all(|bucket| bucket.get() == 0));
}
