//! Address tokens: RETRYs of the balancer, and floods of them.

use super::*;

fn retry(token: u64) -> RpcHeader {
    let header = answer(Kind::Retry, Status::Ok, None);
    RpcHeader {
        flags: header.flags | flags::HAS_TOKEN,
        token,
        ..header
    }
}

fn token_of(header: &RpcHeader) -> Option<u64> {
    header.has(flags::HAS_TOKEN).then_some(header.token)
}

#[test]
fn a_retry_is_followed_at_once_with_its_token() {
    let mut bench = Bench::small();
    assert_eq!(token_of(&bench.only_packet()), None);
    bench.receive(retry(77), b"").unwrap();
    let again = bench.only_packet();
    assert_eq!((token_of(&again), again.request_id), (Some(77), 1));
    assert_eq!((again.fragment_index, again.payload_len), (0, 2));
    // The same once more is the answer to a packet sent before.
    bench.receive(retry(77), b"").unwrap();
    assert!(bench.sent().is_empty());
    // Lost, and sent again by the timer: the token is still shown.
    bench.timer();
    assert_eq!(token_of(&bench.only_packet()), Some(77));
    let attempts = bench.exchange.attempts();
    assert_eq!((bench.exchange.retries(), attempts), (1, 1));
}

#[test]
fn a_new_token_replaces_the_old_one_and_a_flood_of_them_makes_no_flood() {
    let mut bench = Bench::small();
    bench.exchange = Exchange::begin(
        Request {
            id: 1,
            ping: false,
            call: Call::by_id(FUNCTION),
            stream_flags: 0,
        },
        None,
        TIMING,
        bench.now,
    )
    .with_token(Some(1));
    assert_eq!(token_of(&bench.only_packet()), Some(1));
    let mut sent = 0;
    for token in 2..1_000 {
        bench.receive(retry(token), b"").unwrap();
        sent += bench.sent().len();
    }
    assert_eq!(sent, RETRIES_AT_ONCE as usize);
    bench.timer();
    assert_eq!(token_of(&bench.only_packet()), Some(999));
}

#[test]
fn a_retry_in_the_middle_of_a_message_asks_the_worker_what_is_missing() {
    let mut bench = Bench::big(3);
    bench.only_packet();
    bench.progress(Held::one(0), 9);
    assert_eq!(bench.sent().len(), 2);
    bench.receive(retry(77), b"").unwrap();
    let ask = bench.only_packet();
    assert!(ask.has(flags::RESUME) && token_of(&ask) == Some(77));
    bench.progress(Held::one(0).with(Held::one(1)), 9);
    let missing = bench.only_packet();
    assert_eq!((missing.fragment_index, token_of(&missing)), (2, Some(77)));
}
