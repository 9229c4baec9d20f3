//! Workers that are gone, silent, or not the one that has the request.

use super::*;

#[test]
fn a_lost_acknowledged_request_is_an_unknown_outcome_unless_it_is_idempotent() {
    for idempotent in [false, true] {
        let mut bench = Bench::of(Call::by_id(FUNCTION).idempotent(idempotent), None);
        bench.only_packet();
        bench.progress(Held::one(0), 9);
        let unknown = answer(Kind::Error, Status::UnknownRequest, Some(9));
        bench.receive(unknown, b"").unwrap();
        if idempotent {
            bench.timer();
            let again = bench.only_packet();
            assert!(!again.has(flags::HAS_COOKIE) && !again.has(flags::RESUME));
        } else {
            assert_eq!(bench.end().0, Status::OutcomeUnknown);
        }
    }
}

#[test]
fn a_worker_is_gone_when_another_one_answers_in_its_name_twice() {
    let mut bench = Bench::small();
    bench.only_packet();
    bench.progress(Held::one(0), 9);
    let unknown = answer(Kind::Error, Status::UnknownRequest, Some(8));
    for _ in 0..3 {
        bench.receive(unknown, b"").unwrap();
        assert!(!bench.exchange.is_over(), "they may be late, all of them");
    }
    let asked_at = bench.now + TIMING.first;
    bench.timer();
    assert_eq!(bench.now, asked_at);
    let again = bench.only_packet();
    assert!(again.has(flags::RESUME));
    assert_eq!(again.route_cookie, 9);
    bench.receive(unknown, b"").unwrap();
    assert_eq!(bench.end().0, Status::OutcomeUnknown);
}

#[test]
fn the_late_word_of_a_worker_that_was_left_says_nothing_of_the_one_that_has_the_request_now() {
    let mut bench = Bench::small();
    bench.only_packet();
    bench.progress(Held::one(0), 9);
    bench.timer();
    assert!(bench.only_packet().has(flags::RESUME));
    // This overtakes the answer to the RESUME.
    let drains = answer(Kind::Error, Status::Draining, Some(9));
    bench.receive(drains, b"").unwrap();
    bench.timer();
    assert!(!bench.only_packet().has(flags::RESUME));
    bench.progress(Held::one(0), 8);
    let late = answer(Kind::Error, Status::UnknownRequest, Some(9));
    bench.receive(late, b"").unwrap();
    bench.timer();
    assert_eq!(bench.only_packet().route_cookie, 8);
    bench.progress(Held::one(0), 8);
    bench.now += TIMING.max;
    bench.receive(late, b"").unwrap();
    assert!(!bench.exchange.is_over(), "its worker has spoken since");
    let reply = answer(Kind::Response, Status::Ok, Some(8));
    bench.receive(reply, b"done").unwrap();
    assert_eq!(bench.end(), (Status::Ok, Bytes::from_static(b"done")));
}

#[test]
fn a_request_lost_before_it_was_whole_is_sent_again() {
    let mut bench = Bench::big(3);
    bench.only_packet();
    bench.progress(Held::one(0), 9);
    // Not one of the others sent yet, so that no handler can have run.
    bench
        .receive(error(Status::UnknownRequest, 0), b"")
        .unwrap();
    bench.timer();
    let again = bench.only_packet();
    assert_eq!(again.fragment_index, 0);
    assert!(!again.has(flags::HAS_COOKIE));
}

#[test]
fn an_error_of_another_does_not_make_an_acknowledged_request_run_twice() {
    let mut bench = Bench::small();
    bench.only_packet();
    bench.progress(Held::one(0), 9);
    bench.receive(error(Status::NoWorker, 30), b"").unwrap();
    bench.timer();
    assert!(
        bench.only_packet().has(flags::RESUME),
        "it is asked after, not sent again"
    );
    bench
        .receive(error(Status::UnknownFunction, 0), b"")
        .unwrap();
    assert_eq!(bench.end().0, Status::OutcomeUnknown);
}

#[test]
fn an_error_of_the_worker_itself_says_that_nothing_ran() {
    let mut bench = Bench::small();
    bench.only_packet();
    bench.progress(Held::one(0), 9);
    let header = answer(Kind::Error, Status::SandboxUnavailable, Some(9));
    bench.receive(header, b"").unwrap();
    bench.timer();
    assert!(
        !bench.only_packet().has(flags::RESUME),
        "it is sent again, whole"
    );
}

#[test]
fn a_worker_that_stays_silent_is_left_when_that_is_safe() {
    let mut bench = Bench::of(Call::by_id(FUNCTION).session(1), Some(5));
    bench.sent();
    for _ in 0..GONE_AFTER {
        bench.timer();
        assert!(bench.only_packet().has(flags::HAS_COOKIE));
    }
    bench.timer();
    assert!(!bench.only_packet().has(flags::HAS_COOKIE));

    let mut bench = Bench::small();
    bench.sent();
    bench.progress(Held::one(0), 9);
    for _ in 0..2 * GONE_AFTER {
        bench.timer();
        assert!(
            bench.only_packet().has(flags::RESUME),
            "acknowledged: nobody else may run it"
        );
    }
}
