//! The client's half of the wire rules, packet by packet, without a network or a clock.

mod tokens;
mod workers;

use bytes::Bytes;
use ebpf_common::{
    limits::MAX_FRAGMENT_PAYLOAD,
    wire::{Kind, RpcHeader, flags},
};
use proptest::prelude::*;

use super::{receive::Rejected, *};
use crate::fragment::part;

const FUNCTION: FunctionId = FunctionId(7);
const MS: Duration = Duration::from_millis(1);
const TIMING: Timing = Timing {
    first: Duration::from_millis(20),
    max: Duration::from_millis(200),
};

/// An exchange and the clock it lives by.
struct Bench {
    exchange: Exchange,
    now: Instant,
}

impl Bench {
    fn of(call: Call, cookie: Option<u64>) -> Self {
        let now = Instant::now();
        let request = Request {
            id: 1,
            ping: false,
            call,
            stream_flags: 0,
        };
        Self {
            exchange: Exchange::begin(request, cookie, TIMING, now),
            now,
        }
    }

    fn small() -> Self {
        Self::of(Call::by_id(FUNCTION).payload("hi"), None)
    }

    fn big(fragments: usize) -> Self {
        let payload = vec![5; fragments * MAX_FRAGMENT_PAYLOAD];
        Self::of(Call::by_id(FUNCTION).payload(payload), None)
    }

    /// Everything the exchange sends now.
    fn sent(&mut self) -> Vec<(RpcHeader, Vec<u8>)> {
        let mut buffer = [0; MAX_PACKET];
        let mut packets = Vec::new();
        while let Some(written) = self.exchange.next_packet(self.now, &mut buffer) {
            let (header, payload) = RpcHeader::parse(&buffer[..written.bytes]).unwrap().unwrap();
            packets.push((header, payload.to_vec()));
            assert!(
                packets.len() <= 64,
                "an exchange sends no more than its fragments at once"
            );
        }
        packets
    }

    fn only_packet(&mut self) -> RpcHeader {
        let packets = self.sent();
        assert_eq!(packets.len(), 1, "{packets:?}");
        packets[0].0
    }

    fn timer(&mut self) {
        self.now = self.exchange.timer();
        self.exchange.on_timer(self.now);
    }

    fn receive(&mut self, header: RpcHeader, payload: &[u8]) -> Result<(), Rejected> {
        self.exchange.on_packet(&header, payload, self.now)
    }

    fn progress(&mut self, held: Held, cookie: u64) {
        let header = answer(Kind::Response, Status::Continue, Some(cookie));
        self.receive(header, &held.to_payload()).unwrap();
    }

    fn end(&mut self) -> (Status, Bytes) {
        match self.exchange.take_end() {
            Some(End::Answered {
                status, payload, ..
            }) => (status, payload),
            other => panic!("not answered: {other:?}"),
        }
    }
}

fn answer(kind: Kind, status: Status, cookie: Option<u64>) -> RpcHeader {
    RpcHeader {
        kind,
        status: status as u16,
        flags: flags::FIRST | flags::LAST | cookie.map_or(0, |_| flags::HAS_COOKIE),
        route_cookie: cookie.unwrap_or(0),
        ..RpcHeader::request(FUNCTION, 1)
    }
}

fn error(status: Status, retry_after_ms: u32) -> RpcHeader {
    RpcHeader {
        budget_ms: retry_after_ms,
        ..answer(Kind::Error, status, None)
    }
}

#[test]
fn one_packet_each_way_is_the_common_case() {
    let mut bench = Bench::small();
    let request = bench.only_packet();
    assert_eq!(request.kind, Kind::Request);
    assert_eq!(request.flags, flags::FIRST | flags::LAST);
    assert_eq!(request.budget_ms, 5_000);
    bench
        .receive(answer(Kind::Response, Status::Ok, Some(9)), b"yes")
        .unwrap();
    assert_eq!(bench.end(), (Status::Ok, Bytes::from_static(b"yes")));
    assert_eq!(bench.exchange.cookie(), Some(9));
}

#[test]
fn silence_is_answered_by_retransmission_with_growing_waits_until_the_deadline() {
    let call = Call::by_id(FUNCTION).budget(1_000 * MS);
    let mut bench = Bench::of(call, None);
    let begun = bench.now;
    bench.only_packet();
    let mut waits = Vec::new();
    loop {
        let before = bench.now;
        bench.timer();
        if bench.exchange.is_over() {
            break;
        }
        waits.push(bench.now - before);
        let header = bench.only_packet();
        assert!(header.has(flags::RETRANSMIT));
        assert_eq!(header.request_id, 1);
    }
    assert!(matches!(bench.exchange.take_end(), Some(End::TimedOut)));
    assert_eq!(bench.now, begun + 1_000 * MS);
    assert!(
        waits[0] >= 20 * MS && waits[1] >= 40 * MS && waits[3] >= 160 * MS,
        "{waits:?}"
    );
    assert!(waits.iter().all(|wait| *wait <= 250 * MS), "{waits:?}");
}

#[test]
fn only_the_first_fragment_is_sent_before_a_worker_answers() {
    let mut bench = Bench::big(3);
    assert_eq!(bench.only_packet().fragment_count, 3);
    bench.progress(Held::one(0), 9);
    let rest = bench.sent();
    assert_eq!(rest.len(), 2);
    for (header, payload) in &rest {
        assert_eq!(header.route_cookie, 9);
        assert!(header.has(flags::HAS_COOKIE) && !header.has(flags::RETRANSMIT));
        assert_eq!(payload.len(), MAX_FRAGMENT_PAYLOAD);
    }
}

#[test]
fn missing_fragments_are_asked_about_and_sent_again() {
    let mut bench = Bench::big(4);
    bench.sent();
    bench.progress(Held::one(0), 9);
    bench.sent();
    bench.timer();
    let ask = bench.only_packet();
    assert!(ask.has(flags::RESUME | flags::HAS_COOKIE));
    bench.progress(Held::one(0).with(Held::one(2)), 9);
    let again: Vec<_> = bench
        .sent()
        .iter()
        .map(|(header, _)| header.fragment_index)
        .collect();
    assert_eq!(again, [1, 3]);
}

#[test]
fn a_flood_of_progress_does_not_make_a_flood_of_fragments() {
    let mut bench = Bench::big(40);
    bench.sent();
    let mut sent = 0;
    for _ in 0..1_000 {
        bench.progress(Held::one(0), 9);
        sent += usize::from(bench.exchange.has_packets());
    }
    assert!(sent > 0);
    assert!(bench.sent().len() <= 39);
    // Sending the last fragment allows one more answer to be believed, not a thousand.
    let mut packets = 0;
    for _ in 0..1_000 {
        bench.progress(Held::one(0), 9);
    }
    packets += bench.sent().len();
    assert!(packets <= 39);
}

#[test]
fn an_acknowledged_request_is_asked_after_and_not_sent_again() {
    let mut bench = Bench::small();
    bench.only_packet();
    bench.progress(Held::one(0), 9);
    assert!(bench.sent().is_empty());
    bench.timer();
    let ask = bench.only_packet();
    assert!(ask.has(flags::RESUME));
    assert_eq!(ask.route_cookie, 9);
}

#[test]
fn a_reply_in_fragments_is_put_together_and_what_is_missing_is_asked_for() {
    let mut bench = Bench::small();
    bench.only_packet();
    let reply: Vec<u8> = (0..3 * MAX_FRAGMENT_PAYLOAD)
        .map(|byte| byte as u8)
        .collect();
    let header = |index| answer(Kind::Response, Status::Ok, Some(9)).with_fragment(index, 3);
    let begun = bench.now;
    for index in [2, 0] {
        bench.receive(header(index), part(&reply, index)).unwrap();
    }
    bench.timer();
    assert!(bench.now - begun < 10 * MS, "a gap is noticed soon");
    let packets = bench.sent();
    let (ask, payload) = &packets[0];
    assert!(ask.has(flags::RESUME) && ask.route_cookie == 9);
    assert_eq!(
        Held::from_payload(payload),
        Some(Held::one(0).with(Held::one(2)))
    );
    bench.receive(header(1), part(&reply, 1)).unwrap();
    assert_eq!(bench.end(), (Status::Ok, Bytes::from(reply)));
}

#[test]
fn fragments_of_two_workers_replies_do_not_mix() {
    let mut bench = Bench::small();
    bench.only_packet();
    let header =
        |index, cookie| answer(Kind::Response, Status::Ok, Some(cookie)).with_fragment(index, 2);
    bench.receive(header(0, 9), &[1; 100]).unwrap();
    assert_eq!(bench.receive(header(1, 8), &[2; 10]), Err(Rejected));
    bench.receive(header(1, 9), &[1; 10]).unwrap();
    assert_eq!(bench.end().1, vec![1; 110]);
}

#[test]
fn a_retryable_error_is_tried_again_after_the_time_it_names() {
    for status in [Status::Overloaded, Status::RateLimited] {
        let mut bench = Bench::small();
        bench.only_packet();
        let begun = bench.now;
        bench.receive(error(status, 70), b"full").unwrap();
        assert!(!bench.exchange.is_over());
        bench.timer();
        assert!(bench.now - begun >= 70 * MS);
        assert_eq!(bench.only_packet().fragment_index, 0);
        assert_eq!(bench.exchange.attempts(), 2);
    }
}

#[test]
fn a_retryable_error_that_cannot_be_waited_out_is_the_result() {
    let mut bench = Bench::of(Call::by_id(FUNCTION).budget(50 * MS), None);
    bench.only_packet();
    bench
        .receive(error(Status::Overloaded, 100), b"full")
        .unwrap();
    assert_eq!(
        bench.end(),
        (Status::Overloaded, Bytes::from_static(b"full"))
    );
}

/// The packet that was sent before may have run, and its reply be lost.
#[test]
fn a_refusal_of_what_was_sent_before_does_not_say_that_it_has_not_run() {
    for (idempotent, expected) in [(false, Status::OutcomeUnknown), (true, Status::Overloaded)] {
        let call = Call::by_id(FUNCTION).budget(50 * MS).idempotent(idempotent);
        let mut bench = Bench::of(call, None);
        bench.only_packet();
        bench.timer();
        bench.only_packet();
        bench
            .receive(error(Status::Overloaded, 100), b"full")
            .unwrap();
        assert_eq!(bench.end().0, expected);
    }
}

#[test]
fn an_error_that_is_final_ends_the_call() {
    for status in [
        Status::UnknownFunction,
        Status::Malformed,
        Status::OutcomeUnknown,
    ] {
        let mut bench = Bench::small();
        bench.only_packet();
        bench.receive(error(status, 0), b"why").unwrap();
        assert_eq!(bench.end(), (status, Bytes::from_static(b"why")));
    }
}

#[test]
fn a_session_whose_function_is_above_its_rate_or_whose_worker_is_overloaded_stays() {
    for (status, cookie) in [
        (Status::Overloaded, Some(5)),
        (Status::RateLimited, Some(5)),
        (Status::Draining, None),
    ] {
        let mut bench = Bench::of(Call::by_id(FUNCTION).session(1), Some(5));
        assert_eq!(bench.only_packet().route_cookie, 5);
        bench.receive(error(status, 0), b"").unwrap();
        bench.timer();
        let again = bench.only_packet();
        assert_eq!(
            again.has(flags::HAS_COOKIE).then_some(again.route_cookie),
            cookie
        );
    }
}

#[test]
fn what_cannot_be_an_answer_changes_nothing() {
    let mut bench = Bench::small();
    bench.only_packet();
    let ok = answer(Kind::Response, Status::Ok, None);
    let other_function = RpcHeader {
        function: FunctionId(8),
        ..ok
    };
    assert_eq!(bench.receive(other_function, b""), Err(Rejected));
    // A RETRY without a token is none.
    for kind in [Kind::Request, Kind::Retry, Kind::Load, Kind::Ping] {
        assert_eq!(bench.receive(RpcHeader { kind, ..ok }, b""), Err(Rejected));
    }
    let progress = answer(Kind::Response, Status::Continue, None);
    assert_eq!(bench.receive(progress, b"short"), Err(Rejected));
    assert_eq!(
        bench.receive(progress, &[0xff; 8]),
        Err(Rejected),
        "more than there is"
    );
    assert_eq!(bench.receive(error(Status::Ok, 0), b""), Err(Rejected));
    assert_eq!(
        bench.receive(error(Status::UnknownRequest, 0), b""),
        Ok(()),
        "nobody asked"
    );
    assert!(!bench.exchange.is_over());
}

#[test]
fn a_status_of_a_newer_version_keeps_its_class() {
    for (code, status) in [
        (150, Status::Malformed),
        (250, Status::Exception),
        (350, Status::OutcomeUnknown),
    ] {
        let mut bench = Bench::small();
        bench.only_packet();
        let header = RpcHeader {
            status: code,
            ..error(Status::Malformed, 0)
        };
        bench.receive(header, b"").unwrap();
        assert_eq!(bench.end().0, status);
    }
}

#[test]
fn a_packet_the_socket_did_not_take_is_sent_later_as_if_nothing_had_been() {
    let mut bench = Bench::small();
    let mut buffer = [0; MAX_PACKET];
    let written = bench.exchange.next_packet(bench.now, &mut buffer).unwrap();
    bench.exchange.put_back(written);
    assert!(!bench.only_packet().has(flags::RETRANSMIT));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn whatever_arrives_the_call_ends_by_its_deadline_within_bounds(
        fragments in 0usize..5,
        idempotent: bool,
        session: bool,
        script in proptest::collection::vec(
            (1u8..=6, prop_oneof![0u16..2, 100u16..106, 200u16..206, 300u16..308, any::<u16>()],
             0u16..0x200, (0u16..70, 0u16..70), proptest::collection::vec(any::<u8>(), 0..20), 0u64..40, 0u32..50),
            0..60,
        ),
    ) {
        let payload = vec![5; fragments * MAX_FRAGMENT_PAYLOAD];
        let mut call = Call::by_id(FUNCTION).payload(payload).budget(300 * MS).idempotent(idempotent);
        call.session = session.then_some(3);
        let mut bench = Bench::of(call, session.then_some(5));
        let deadline = bench.now + 300 * MS;
        for (kind, status, bits, (index, count), payload, wait, retry_after) in script {
            let mut header = RpcHeader {
                kind: Kind::from_code(kind).unwrap(),
                status,
                flags: bits,
                budget_ms: retry_after,
                ..answer(Kind::Response, Status::Ok, None)
            };
            if count > 0 && index < count {
                header = header.with_fragment(index, count);
            }
            let _accepted = bench.receive(header, &payload);
            bench.sent();
            bench.now += wait as u32 * MS / 4;
            bench.exchange.on_timer(bench.now);
            bench.sent();
        }
        let mut timers = 0;
        while !bench.exchange.is_over() {
            bench.timer();
            bench.sent();
            timers += 1;
            prop_assert!(timers < 1_000);
        }
        prop_assert!(bench.exchange.timer() <= deadline);
    }
}

#[test]
fn only_who_takes_a_stream_is_sent_away_to_one() {
    let streamed = || {
        let header = answer(Kind::Response, Status::Ok, Some(7));
        RpcHeader {
            flags: header.flags | flags::STREAM,
            ..header
        }
    };
    let mut plain = Bench::small();
    assert!(!plain.only_packet().has(flags::STREAM));
    assert_eq!(plain.receive(streamed(), b"place"), Err(Rejected));
    assert!(plain.exchange.take_end().is_none());

    let mut bench = Bench::small();
    let request = Request {
        id: 1,
        ping: false,
        call: Call::by_id(FUNCTION),
        stream_flags: flags::STREAM | flags::BODY_FOLLOWS,
    };
    bench.exchange = Exchange::begin(request, None, TIMING, bench.now);
    assert!(bench.only_packet().has(flags::STREAM | flags::BODY_FOLLOWS));
    // A retransmission says so as well, or another worker would run it without its body.
    bench.timer();
    assert!(
        bench
            .only_packet()
            .has(flags::STREAM | flags::BODY_FOLLOWS | flags::RETRANSMIT)
    );
    bench.receive(streamed(), b"place").unwrap();
    match bench.exchange.take_end() {
        Some(End::Answered { flags, payload, .. }) => {
            assert_eq!((flags, &payload[..]), (flags::STREAM, &b"place"[..]));
        }
        other => panic!("not answered: {other:?}"),
    }
}
