//! The table's promises: one entry for each request, within its bounds, for its time.

use bytes::Bytes;
use ebpf_common::{
    ids::FunctionId,
    limits::{MAX_FRAGMENT_PAYLOAD, MAX_MESSAGE},
    wire::{RpcHeader, Status},
};
use proptest::prelude::*;

use super::*;
use crate::rpc::answer::Reply;

const COOKIE: u64 = 9;

fn limits() -> RpcLimits {
    RpcLimits {
        reply_cache_bytes: SHARDS * 2 * MAX_MESSAGE,
        reassembly_bytes: SHARDS * 2 * MAX_MESSAGE,
        ..RpcLimits::default()
    }
}

fn key(id: u64) -> RequestKey {
    RequestKey {
        peer: "10.0.0.1:5000".parse().unwrap(),
        id,
    }
}

fn header(id: u64, index: u16, count: u16) -> RpcHeader {
    RpcHeader::request(FunctionId(1), id).with_fragment(index, count)
}

fn reply(id: u64, bytes: usize) -> Arc<Reply> {
    let payload = Bytes::from(vec![1; bytes]);
    Arc::new(Reply::new(&header(id, 0, 1), Status::Ok, payload, COOKIE))
}

fn refusal(id: u64) -> Arc<Reply> {
    let why = Bytes::from_static(b"no room");
    let status = Status::SandboxUnavailable;
    Arc::new(Reply::new(&header(id, 0, 1), status, why, COOKIE))
}

fn is_done(table: &Table, id: u64) -> bool {
    matches!(table.look(key(id)), Found::Done(_))
}

#[test]
fn a_request_is_receiving_then_running_then_done_then_forgotten() {
    let table = Table::new(limits());
    let now = Instant::now();
    let fragment = [7; MAX_FRAGMENT_PAYLOAD];
    assert!(matches!(
        table.take(key(1), &header(1, 1, 3), &fragment),
        Found::Nothing
    ));
    let found = table.begin(key(1), header(1, 0, 3), &fragment, COOKIE, now);
    assert!(matches!(
        found,
        Found::Progress {
            cookie: COOKIE,
            tell: true,
            ..
        }
    ));
    let found = table.take(key(1), &header(1, 1, 3), &fragment);
    assert!(matches!(found, Found::Progress { held, tell: false, .. } if held.len() == 2));
    let found = table.take(key(1), &header(1, 2, 3), b"end");
    let Found::Whole { payload, .. } = found else {
        panic!("{found:?}")
    };
    assert_eq!(payload.len(), 2 * MAX_FRAGMENT_PAYLOAD + 3);
    // A repetition while it runs is told that everything is here, and runs nothing.
    for index in 0..3 {
        let found = table.take(key(1), &header(1, index, 3), &fragment);
        assert!(matches!(found, Found::Progress { held, .. } if held == Held::all(3)));
    }
    table.finish(key(1), &reply(1, 10), now);
    assert!(matches!(
        table.take(key(1), &header(1, 0, 3), &fragment),
        Found::Done(_)
    ));
    table.expire(now + limits().reply_cache() * 2);
    assert!(matches!(table.look(key(1)), Found::Nothing));
    assert_eq!(table.size(), TableSize::default());
}

#[test]
fn the_same_id_of_another_client_is_another_request() {
    let table = Table::new(limits());
    table.finish(key(1), &reply(1, 10), Instant::now());
    let other = RequestKey {
        peer: "10.0.0.1:5001".parse().unwrap(),
        id: 1,
    };
    assert!(matches!(table.look(other), Found::Nothing));
}

#[test]
fn replies_beyond_the_bound_push_out_the_oldest() {
    let table = Table::new(limits());
    let now = Instant::now();
    for id in 0..1_000 {
        table.finish(key(id), &reply(id, MAX_MESSAGE), now);
        assert!(table.size().done_bytes <= limits().reply_cache_bytes);
        assert!(is_done(&table, id), "the newest is always there");
    }
    let size = table.size();
    assert_eq!(size.done as u64 + size.evicted, 1_000);
    assert!(!is_done(&table, 0));
}

#[test]
fn small_replies_are_bounded_too() {
    let table = Table::new(limits());
    for id in 0..50_000 {
        table.finish(key(id), &reply(id, 0), Instant::now());
    }
    assert!(table.size().done_bytes <= limits().reply_cache_bytes);
    assert!(table.size().done < 10_000);
}

#[test]
fn first_fragments_of_strangers_cost_no_more_than_themselves() {
    let table = Table::new(limits());
    let now = Instant::now();
    for id in 0..10_000 {
        table.begin(
            key(id),
            header(id, 0, 49),
            &[7; MAX_FRAGMENT_PAYLOAD],
            COOKIE,
            now,
        );
        assert!(table.size().receiving_bytes <= limits().reassembly_bytes);
    }
    assert!(table.size().receiving > 500);
    table.expire(now + limits().reassembly() * 2);
    assert_eq!(
        (table.size().receiving, table.size().receiving_bytes),
        (0, 0)
    );
}

#[test]
fn a_running_request_is_never_forgotten_for_its_age() {
    let table = Table::new(limits());
    table.start(key(1), 1, COOKIE);
    table.expire(Instant::now() + limits().reply_cache() * 10);
    assert!(matches!(table.look(key(1)), Found::Progress { .. }));
    table.forget(key(1));
    assert!(matches!(table.look(key(1)), Found::Nothing));
}

proptest! {
    #[test]
    fn the_books_balance_whatever_happens(
        steps in proptest::collection::vec((0u8..6, 0u64..20, 0u16..5, 0usize..3_000), 0..400),
    ) {
        let table = Table::new(limits());
        let mut now = Instant::now();
        for (step, id, index, bytes) in steps {
            let payload = vec![1; bytes];
            match step {
                0 => drop(table.begin(key(id), header(id, 0, 5), &payload, COOKIE, now)),
                1 => drop(table.take(key(id), &header(id, index, 5), &payload)),
                2 => table.start(key(id), 5, COOKIE),
                3 => table.finish(key(id), &reply(id, bytes), now),
                4 => table.forget(key(id)),
                _ => {
                    now += limits().reassembly() / 3;
                    table.expire(now);
                }
            }
            prop_assert!(table.size().done_bytes <= limits().reply_cache_bytes);
            prop_assert!(table.size().receiving_bytes <= limits().reassembly_bytes);
        }
        now += limits().reply_cache() * 2;
        table.expire(now);
        let size = TableSize { evicted: 0, ..table.size() };
        prop_assert_eq!(size, TableSize::default());
    }
}

#[test]
fn a_refused_request_is_known_to_who_asks_and_may_be_sent_again() {
    let table = Table::new(limits());
    let now = Instant::now();
    table.start(key(1), 1, COOKIE);
    table.finish(key(1), &refusal(1), now);
    assert!(is_done(&table, 1));
    assert!(matches!(
        table.take(key(1), &header(1, 0, 1), b"again"),
        Found::Nothing
    ));
    assert!(is_done(&table, 1), "until it is");
    let late = table.take(key(1), &header(1, 1, 2), b"late");
    assert!(matches!(late, Found::Done(_)), "a stray of the refused one");
    table.start(key(1), 1, COOKIE);
    assert!(matches!(table.look(key(1)), Found::Progress { .. }));
    assert_eq!((table.size().done, table.size().done_bytes), (0, 0));
    table.finish(key(1), &reply(1, 10), now);
    assert!(matches!(
        table.take(key(1), &header(1, 0, 1), b"again"),
        Found::Done(_)
    ));
}
