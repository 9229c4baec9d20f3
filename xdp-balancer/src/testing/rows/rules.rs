//! Each routing rule over both versions of IP and VLAN tags, and the answers where no rule applies.

use ebpf_common::{
    cookie::CookieScope,
    ids::{FunctionId, SlotId, WorkerId},
    maps::{Affinity, Counter, ForwardMode, FunctionEntry, WorkerState, features},
    wire::{Kind, RpcHeader, Status, flags},
};

use super::{FUNCTION, Group, Row, envelopes, request, tables};
use crate::{DropReason, RETRY_AFTER_MS, testing::FakeTables};

/// What becomes of a request.
enum Fate {
    /// It is sent to this worker.
    Sent(u16),
    /// It is answered with this ERROR.
    Refused(Status, u32),
}

/// A request, and what must become of it in every envelope.
struct Asked(&'static str, RpcHeader, Fate, Vec<Counter>);

/// The rows of the route stage.
#[must_use]
pub fn rules() -> Vec<Group> {
    vec![
        by_cookie(),
        by_session(),
        by_slot(),
        by_home(),
        by_nobody(),
        overloaded(),
        messages(),
        malformed(),
    ]
}

fn group(name: &str, tables: FakeTables, asked: &[Asked]) -> Group {
    let mut rows = Vec::new();
    for (envelope, frame) in envelopes() {
        for Asked(what, header, fate, counters) in asked {
            let name = format!("{envelope}: {what}");
            let bytes = frame.carrying(*header, b"payload").bytes();
            rows.push(match fate {
                Fate::Sent(worker) => {
                    Row::sent(name, &tables, ForwardMode::L2, *worker, bytes, counters)
                }
                Fate::Refused(status, retry_after_ms) => {
                    let answer = frame.caller().error(header, *status, *retry_after_ms);
                    Row::answered(name, bytes, answer, counters)
                }
            });
        }
    }
    Group {
        name: name.to_owned(),
        tables,
        rows,
    }
}

fn in_session(session_id: u64) -> RpcHeader {
    RpcHeader {
        flags: request().flags | flags::HAS_SESSION,
        session_id,
        ..request()
    }
}

fn on_slot(slot: u16) -> RpcHeader {
    RpcHeader {
        flags: request().flags | flags::HAS_SLOT,
        slot: SlotId(slot),
        ..request()
    }
}

/// The same request with a cookie of `worker`, given out `age` epochs ago.
fn with_cookie(tables: &FakeTables, header: RpcHeader, worker: u16, age: u8) -> RpcHeader {
    let session = if header.has(flags::HAS_SESSION) {
        header.session_id
    } else {
        0
    };
    let scope = CookieScope {
        function: FUNCTION,
        session,
    };
    let mut keys = tables.config.expect("configured").cookie_keys();
    keys.epoch = keys.epoch.wrapping_sub(age);
    RpcHeader {
        flags: header.flags | flags::HAS_COOKIE,
        route_cookie: keys.seal(WorkerId(worker), scope),
        ..header
    }
}

fn by_cookie() -> Group {
    let mut tables = tables(Affinity::Session);
    tables.add_worker(3, WorkerState::Down);
    tables.set_session(FUNCTION, 7, WorkerId(1));
    let with_cookie = |header, worker, age| with_cookie(&tables, header, worker, age);
    let good = with_cookie(request(), 2, 0);
    let forged = RpcHeader {
        route_cookie: good.route_cookie ^ 1,
        ..good
    };
    let gone = Counter::CookieWorkerGone;
    let mut asked = vec![
        Asked("cookie", good, Fate::Sent(2), vec![Counter::RouteCookie]),
        Asked(
            "cookie before session",
            with_cookie(in_session(7), 2, 0),
            Fate::Sent(2),
            vec![Counter::RouteCookie],
        ),
        Asked(
            "of the epoch before",
            with_cookie(request(), 2, 1),
            Fate::Sent(2),
            vec![Counter::RouteCookie],
        ),
        Asked(
            "stale",
            with_cookie(request(), 2, 2),
            Fate::Sent(1),
            vec![Counter::CookieStale, Counter::RouteWarm],
        ),
        Asked(
            "forged",
            forged,
            Fate::Sent(1),
            vec![Counter::CookieForged, Counter::RouteWarm],
        ),
        Asked(
            "its worker is down",
            with_cookie(request(), 3, 0),
            Fate::Sent(1),
            vec![gone, Counter::RouteWarm],
        ),
    ];
    // Any one bit: 40 to 47 are the epoch (1 now), of which only the lowest leads to another one that is valid.
    for bit in 0..64 {
        let flipped = RpcHeader {
            route_cookie: good.route_cookie ^ (1 << bit),
            ..good
        };
        let why = if (41..48).contains(&bit) {
            Counter::CookieStale
        } else {
            Counter::CookieForged
        };
        let counters = vec![why, Counter::RouteWarm];
        asked.push(Asked("one bit flipped", flipped, Fate::Sent(1), counters));
    }
    group("cookie", tables, &asked)
}

fn by_session() -> Group {
    let mut tables = tables(Affinity::Session);
    tables.add_worker(3, WorkerState::Down);
    tables.set_session(FUNCTION, 7, WorkerId(2));
    tables.set_session(FUNCTION, 9, WorkerId(3));
    let asked = [
        Asked(
            "known",
            in_session(7),
            Fate::Sent(2),
            vec![Counter::RouteSession],
        ),
        Asked(
            "new",
            in_session(8),
            Fate::Sent(1),
            vec![Counter::RouteWarm, Counter::SessionCreated],
        ),
        Asked(
            "on a worker that is down",
            in_session(9),
            Fate::Sent(1),
            vec![Counter::RouteWarm, Counter::SessionMoved],
        ),
        Asked("none", request(), Fate::Sent(1), vec![Counter::RouteWarm]),
    ];
    group("session", tables, &asked)
}

fn by_slot() -> Group {
    let mut tables = tables(Affinity::Shard);
    tables.set_slot(SlotId(9), WorkerId(2));
    tables.set_slot(SlotId(10), WorkerId::NONE);
    let asked = [
        Asked(
            "owned",
            on_slot(9),
            Fate::Sent(2),
            vec![Counter::RouteShard],
        ),
        Asked(
            "not owned",
            on_slot(10),
            Fate::Refused(Status::NoShardOwner, RETRY_AFTER_MS),
            vec![Counter::ErrorNoShardOwner],
        ),
    ];
    group("slot", tables, &asked)
}

fn by_home() -> Group {
    let mut tables = tables(Affinity::None);
    tables.set_load(1, 10, 10);
    let cold = FunctionId(0xc01d);
    tables
        .functions
        .insert(cold, FunctionEntry::new(Affinity::None, &[]));
    tables.set_home(cold, &[WorkerId(9), WorkerId(2)]);
    let cold = RpcHeader {
        function: cold,
        ..request()
    };
    let unknown = RpcHeader {
        function: FunctionId(0xbad),
        ..in_session(5)
    };
    let ping = RpcHeader {
        kind: Kind::Ping,
        ..cold
    };
    let probed = vec![Counter::HomeProbed, Counter::RouteHome];
    let asked = [
        Asked(
            "its warm worker is full",
            request(),
            Fate::Sent(2),
            vec![Counter::WarmFull, Counter::RouteHome],
        ),
        Asked("warm nowhere", cold, Fate::Sent(2), probed.clone()),
        Asked("a ping", ping, Fate::Sent(2), probed),
        Asked(
            "unknown",
            unknown,
            Fate::Refused(Status::UnknownFunction, 0),
            vec![Counter::ErrorUnknownFunction],
        ),
    ];
    group("home", tables, &asked)
}

fn by_nobody() -> Group {
    let mut tables = tables(Affinity::None);
    tables.add_worker(1, WorkerState::Draining);
    tables.add_worker(2, WorkerState::Down);
    let asked = [Asked(
        "no worker",
        in_session(5),
        Fate::Refused(Status::NoWorker, RETRY_AFTER_MS),
        vec![Counter::WarmFull, Counter::ErrorNoWorker],
    )];
    group("no worker", tables, &asked)
}

/// Every worker has as much as it may have: what is new is refused, what is about a call that a worker has goes there.
fn overloaded() -> Group {
    let mut tables = tables(Affinity::None);
    let config = tables.config.as_mut().expect("configured");
    config.features |= features::SHED;
    config.shed_percent = 100;
    tables.set_load(1, 10, 10);
    tables.set_load(2, 10, 10);
    let about = |flag| RpcHeader {
        flags: request().flags | flag,
        ..request()
    };
    let cookie = |header| with_cookie(&tables, header, 2, 0);
    let taken = cookie(about(flags::CANCEL));
    let forged = RpcHeader {
        route_cookie: taken.route_cookie ^ 1,
        ..taken
    };
    let refused = || Fate::Refused(Status::Overloaded, RETRY_AFTER_MS);
    let goes_on = || (Fate::Sent(2), vec![Counter::RouteCookie]);
    let (fate, counters) = goes_on();
    let later = Asked(
        "a later fragment",
        cookie(request()).with_fragment(1, 2),
        fate,
        counters,
    );
    let (fate, counters) = goes_on();
    let resume = Asked("a RESUME", cookie(about(flags::RESUME)), fate, counters);
    let (fate, counters) = goes_on();
    let cancel = Asked("a CANCEL", taken, fate, counters);
    let asked = [
        later,
        resume,
        cancel,
        Asked(
            "a request of a known worker's",
            cookie(request()),
            refused(),
            vec![Counter::ErrorOverloaded],
        ),
        Asked(
            "a new request",
            request(),
            refused(),
            vec![Counter::WarmFull, Counter::ErrorOverloaded],
        ),
        Asked(
            "a RESUME that nobody's cookie vouches for",
            about(flags::RESUME),
            refused(),
            vec![Counter::WarmFull, Counter::ErrorOverloaded],
        ),
        Asked(
            "a CANCEL with a forged cookie",
            forged,
            refused(),
            vec![
                Counter::CookieForged,
                Counter::WarmFull,
                Counter::ErrorOverloaded,
            ],
        ),
    ];
    group("overloaded", tables, &asked)
}

fn messages() -> Group {
    let asked = [
        Asked(
            "the first of three",
            request().with_fragment(0, 3),
            Fate::Sent(1),
            vec![Counter::RouteWarm, Counter::FlowCreated],
        ),
        Asked(
            "the last of three, whose first is lost",
            request().with_fragment(2, 3),
            Fate::Sent(1),
            vec![
                Counter::FragmentUnplaced,
                Counter::RouteWarm,
                Counter::FlowCreated,
            ],
        ),
    ];
    group("messages", tables(Affinity::None), &asked)
}

/// One fault each, by offset in the RPC header and value: what is answered, and what must never be.
fn malformed() -> Group {
    let tables = tables(Affinity::None);
    let mut rows = Vec::new();
    for (envelope, frame) in envelopes() {
        let whole = frame.carrying(request(), b"payload").bytes();
        let rpc = frame.rpc_offset();
        let edited = |edits: &[(usize, u8)]| {
            let mut bytes = whole.clone();
            for (at, value) in edits {
                bytes[rpc + at] = *value;
            }
            bytes
        };
        // A slot beyond the last is flagged as one, or nobody would look at it.
        let slot: &[(usize, u8)] = &[(5, 0x62), (32, 0x40)];
        for (what, edits, status, counter) in [
            (
                "version",
                &[(2, 2)][..],
                Status::UnsupportedVersion,
                Counter::ErrorVersion,
            ),
            (
                "flags",
                &[(4, 0x80)],
                Status::Malformed,
                Counter::ErrorFlags,
            ),
            (
                "header length",
                &[(7, 63)],
                Status::Malformed,
                Counter::ErrorHeaderLen,
            ),
            (
                "fragment",
                &[(35, 1)],
                Status::Malformed,
                Counter::ErrorFragment,
            ),
            ("slot", slot, Status::Malformed, Counter::ErrorSlot),
            (
                "length",
                &[(47, 8)],
                Status::Malformed,
                Counter::ErrorLength,
            ),
        ] {
            // The slot's bytes come back, but not flagged as one: the answer must parse where the request did not.
            let echoed = RpcHeader {
                slot: SlotId(if what == "slot" { 0x4000 } else { 0 }),
                ..request()
            };
            let answer = frame.caller().error(&echoed, status, 0);
            rows.push(Row::answered(
                format!("{envelope}: {what}"),
                edited(edits),
                answer,
                &[counter],
            ));
        }
        for (what, edits, reason) in [
            ("magic", (0, 0), DropReason::BadMagic),
            ("kind 0", (3, 0), DropReason::UnknownKind),
            ("kind 9", (3, 9), DropReason::UnknownKind),
            ("a RESPONSE", (3, 2), DropReason::UnexpectedKind),
            ("an ERROR", (3, 3), DropReason::UnexpectedKind),
            ("a LOAD", (3, 5), DropReason::UnexpectedKind),
        ] {
            rows.push(Row::dropped(
                format!("{envelope}: {what}"),
                reason,
                edited(&[edits]),
            ));
        }
    }
    Group {
        name: "malformed".to_owned(),
        tables,
        rows,
    }
}
