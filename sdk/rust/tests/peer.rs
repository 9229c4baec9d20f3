//! The client against a peer that answers by a script: late, twice, in the wrong order, or lies.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

use std::{
    future::Future,
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    task::{Context, Waker},
    time::{Duration, Instant},
};

use ebpf_common::wire::{HEADER_LEN, Kind, RpcHeader, Status, flags};
use tokio::net::UdpSocket;
use warmpath_sdk::{
    Call, CallError, Client, ClientConfig, Fault, FunctionId, MAX_MESSAGE,
    fragment::{Added, Reassembly, count_of, part},
};

const MS: Duration = Duration::from_millis(1);

/// A socket that answers every packet with what `script` makes of it and of its number.
async fn peer<F>(mut script: F) -> SocketAddr
where
    F: FnMut(usize, RpcHeader, &[u8]) -> Vec<Vec<u8>> + Send + 'static,
{
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 2_000];
        for number in 0.. {
            let (len, from) = socket.recv_from(&mut buffer).await.unwrap();
            let (header, payload) = RpcHeader::parse(&buffer[..len]).unwrap().unwrap();
            for packet in script(number, header, payload) {
                socket.send_to(&packet, from).await.unwrap();
            }
        }
    });
    address
}

fn packet(header: RpcHeader, payload: &[u8]) -> Vec<u8> {
    let header = RpcHeader {
        payload_len: payload.len() as u32,
        ..header
    };
    [&header.emit(), payload].concat()
}

fn response(request: RpcHeader, status: Status) -> RpcHeader {
    RpcHeader {
        kind: Kind::Response,
        status: status as u16,
        flags: flags::FIRST | flags::LAST | flags::HAS_COOKIE,
        route_cookie: 0x0003_0000_0000_0042,
        budget_ms: 0,
        fragment_index: 0,
        fragment_count: 1,
        ..request
    }
}

fn client_of(vip: SocketAddr) -> Client {
    Client::connect(vip, ClientConfig::default()).unwrap()
}

/// One that waits longer before it sends again: on a machine that is busy with other things every packet counts.
fn patient(vip: SocketAddr) -> Client {
    let wait = 300 * MS;
    let config = ClientConfig {
        initial_retransmit: wait,
        min_retransmit: wait,
        max_retransmit: wait,
        ..ClientConfig::default()
    };
    Client::connect(vip, config).unwrap()
}

fn hello() -> Call {
    Call::new("hello").payload("hi").budget(2_000 * MS)
}

#[tokio::test]
async fn a_reply_says_what_it_took() {
    let vip =
        peer(|_, request, payload| vec![packet(response(request, Status::Ok), payload)]).await;
    let client = patient(vip);
    let reply = client.call(hello()).await.unwrap();
    assert_eq!(reply.payload, "hi");
    assert_eq!((reply.attempts, reply.retransmits), (1, 0));
    assert_eq!(reply.worker().unwrap().0, 3);
    let stats = client.stats();
    assert_eq!(
        (stats.requests, stats.answered, stats.packets_sent),
        (1, 1, 1)
    );
}

#[tokio::test]
async fn lost_packets_are_sent_again() {
    let vip = peer(|number, request, payload| match number {
        0..3 => Vec::new(),
        _ => vec![packet(response(request, Status::Ok), payload)],
    })
    .await;
    let reply = patient(vip).call(hello()).await.unwrap();
    assert_eq!((reply.attempts, reply.retransmits), (1, 3));
}

#[tokio::test]
async fn duplicates_and_strays_are_counted_and_change_nothing() {
    let vip = peer(|_, request, payload| {
        let stray = RpcHeader {
            request_id: !request.request_id,
            ..response(request, Status::Ok)
        };
        let answer = packet(response(request, Status::Ok), payload);
        vec![
            packet(stray, b"not yours"),
            answer.clone(),
            answer.clone(),
            answer,
        ]
    })
    .await;
    let client = patient(vip);
    for _ in 0..10 {
        assert_eq!(client.call(hello()).await.unwrap().payload, "hi");
    }
    let deadline = Instant::now() + 10_000 * MS;
    while client.stats().packets_received < 40 && Instant::now() < deadline {
        tokio::time::sleep(MS).await;
    }
    let stats = client.stats();
    assert_eq!((stats.answered, stats.packets_received), (10, 40));
    assert_eq!(stats.packets_unknown, 30);
}

#[tokio::test]
async fn lies_are_counted_and_the_truth_is_still_heard() {
    let vip = peer(|_, request, payload| {
        let ok = response(request, Status::Ok);
        let mut lies = vec![
            Vec::new(),
            vec![0; HEADER_LEN],
            vec![0xff; 1_900],
            packet(request, payload),
            packet(
                RpcHeader {
                    function: FunctionId(1),
                    ..ok
                },
                b"x",
            ),
            packet(RpcHeader { status: 1, ..ok }, &[0xff; 8]),
            packet(RpcHeader { status: 1, ..ok }, b"short"),
            packet(ok.with_fragment(1, 64), &[]),
            packet(ok, payload)[..HEADER_LEN + 1].to_vec(),
        ];
        lies.push(packet(ok, payload));
        lies
    })
    .await;
    let client = patient(vip);
    assert_eq!(client.call(hello()).await.unwrap().payload, "hi");
    assert_eq!(client.stats().packets_malformed, 9);
}

#[tokio::test]
async fn an_answer_from_elsewhere_is_not_heard() {
    let elsewhere = Arc::new(std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let vip = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 2_000];
        loop {
            let (len, from) = socket.recv_from(&mut buffer).await.unwrap();
            let (request, _) = RpcHeader::parse(&buffer[..len]).unwrap().unwrap();
            elsewhere
                .send_to(&packet(response(request, Status::Ok), b"forged"), from)
                .unwrap();
        }
    });
    let client = client_of(vip);
    let error = client.call(hello().budget(100 * MS)).await.unwrap_err();
    assert!(
        matches!(
            error,
            CallError::Timeout {
                acknowledged: false,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(client.stats().packets_received, 0);
}

#[tokio::test]
async fn the_deadline_is_kept_when_nobody_listens() {
    let vip = UdpSocket::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let begun = Instant::now();
    let error = client_of(vip)
        .call(hello().budget(150 * MS))
        .await
        .unwrap_err();
    assert!(matches!(error, CallError::Timeout { .. }), "{error}");
    assert_eq!(error.fault(), Fault::Platform);
    let took = begun.elapsed();
    assert!(took >= 150 * MS && took < 1_000 * MS, "{took:?}");
}

#[tokio::test]
async fn a_message_of_64_kib_goes_both_ways_in_fragments() {
    let mut parts = Reassembly::new(count_of(MAX_MESSAGE));
    let vip = peer(move |_, request, payload| {
        let ok = response(request, Status::Ok);
        let added = parts
            .add(request.fragment_index, request.fragment_count, payload)
            .unwrap();
        let progress = packet(
            response(request, Status::Continue),
            &parts.held().to_payload(),
        );
        match added {
            Added::Kept if request.fragment_index == 0 => vec![progress],
            Added::Kept | Added::Duplicate => Vec::new(),
            Added::Complete => {
                let message = std::mem::replace(&mut parts, Reassembly::new(1)).into_message();
                let count = count_of(message.len());
                // Backwards, for good measure.
                let packets = (0..count)
                    .rev()
                    .map(|index| packet(ok.with_fragment(index, count), part(&message, index)));
                packets.collect()
            }
        }
    })
    .await;
    let payload: Vec<u8> = (0..MAX_MESSAGE).map(|byte| (byte / 7) as u8).collect();
    let reply = client_of(vip)
        .call(hello().payload(payload.clone()))
        .await
        .unwrap();
    assert_eq!(reply.payload, payload);
}

#[tokio::test]
async fn a_payload_that_is_too_long_is_refused_before_anything_is_sent() {
    let vip = peer(|_, _, _| panic!("nothing should arrive")).await;
    let client = client_of(vip);
    let error = client
        .call(hello().payload(vec![0; MAX_MESSAGE + 1]))
        .await
        .unwrap_err();
    assert!(
        matches!(error, CallError::PayloadTooLarge { bytes: 65_537 }),
        "{error}"
    );
    assert_eq!(client.stats().packets_sent, 0);
}

#[tokio::test]
async fn a_session_echoes_the_cookie_it_was_given() {
    let vip = peer(|_, request, _| {
        let cookie = if request.has(flags::HAS_COOKIE) {
            "known"
        } else {
            "new"
        };
        vec![packet(response(request, Status::Ok), cookie.as_bytes())]
    })
    .await;
    let client = client_of(vip);
    assert_eq!(
        client.call(hello().session(1)).await.unwrap().payload,
        "new"
    );
    assert_eq!(
        client.call(hello().session(1)).await.unwrap().payload,
        "known"
    );
    assert_eq!(
        client.call(hello().session(2)).await.unwrap().payload,
        "new"
    );
    assert_eq!(client.call(hello()).await.unwrap().payload, "new");
    let sharded = hello().session(1).shard_key("k");
    assert_eq!(client.call(sharded).await.unwrap().payload, "new");
}

fn retry(request: RpcHeader, token: u64) -> RpcHeader {
    RpcHeader {
        kind: Kind::Retry,
        flags: flags::FIRST | flags::LAST | flags::HAS_TOKEN,
        budget_ms: 0,
        token,
        ..RpcHeader::request(request.function, request.request_id)
    }
}

#[tokio::test]
async fn a_token_is_echoed_at_once_and_shown_by_later_calls() {
    let vip = peer(|_, request, payload| {
        if request.has(flags::HAS_TOKEN) && request.token == 42 {
            vec![packet(response(request, Status::Ok), payload)]
        } else {
            vec![packet(retry(request, 42), b"")]
        }
    })
    .await;
    let client = patient(vip);
    let reply = client.call(hello()).await.unwrap();
    assert_eq!(
        (reply.attempts, reply.retransmits),
        (1, 0),
        "no timer was waited for"
    );
    for _ in 0..10 {
        client.call(hello()).await.unwrap();
    }
    let timeout = 1_000 * MS;
    client.ping(FunctionId::of("hello"), timeout).await.unwrap();
    let stats = client.stats();
    assert_eq!((stats.retries, stats.packets_sent), (1, 13));
    // Clones have the same address.
    client.clone().call(hello()).await.unwrap();
    assert_eq!(client.stats().retries, 1);
}

#[tokio::test]
async fn a_new_token_replaces_the_one_that_is_out_of_date() {
    let vip = peer(|number, request, payload| {
        // The keys are changed before the sixth packet.
        let valid = if number < 5 { 1 } else { 2 };
        if request.has(flags::HAS_TOKEN) && request.token == valid {
            vec![packet(response(request, Status::Ok), payload)]
        } else {
            vec![packet(retry(request, valid), b"")]
        }
    })
    .await;
    let client = patient(vip);
    for _ in 0..20 {
        client.call(hello()).await.unwrap();
    }
    let stats = client.stats();
    assert_eq!((stats.retries, stats.packets_sent), (2, 22));
}

#[tokio::test]
async fn a_balancer_that_takes_no_token_of_its_own_is_given_up_at_the_deadline_without_a_flood() {
    let vip = peer(|number, request, _| vec![packet(retry(request, number as u64), b"")]).await;
    let client = client_of(vip);
    let error = client.call(hello().budget(200 * MS)).await.unwrap_err();
    assert!(matches!(error, CallError::Timeout { .. }), "{error}");
    assert!(client.stats().packets_sent < 20);
}

#[tokio::test]
async fn who_is_told_to_come_later_comes_later_or_says_so_at_once() {
    for status in [Status::RateLimited, Status::Overloaded] {
        let vip = peer(move |number, request, payload| match number % 2 {
            0 => vec![packet(
                RpcHeader {
                    kind: Kind::Error,
                    status: status as u16,
                    budget_ms: 400,
                    ..RpcHeader::request(request.function, request.request_id)
                },
                b"",
            )],
            _ => vec![packet(response(request, Status::Ok), payload)],
        })
        .await;
        let client = patient(vip);
        let begun = Instant::now();
        let reply = client.call(hello()).await.unwrap();
        assert_eq!((reply.attempts, reply.retransmits), (2, 0));
        assert!(begun.elapsed() >= 400 * MS);

        let begun = Instant::now();
        let error = client.call(hello().budget(350 * MS)).await.unwrap_err();
        assert!(begun.elapsed() < 350 * MS, "waiting would be in vain");
        let CallError::Status { retry_after, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!(*retry_after, Some(400 * MS));
        assert!(error.retryable(), "{error}");
    }
}

#[tokio::test]
async fn header_fields_are_those_of_the_call() {
    let vip = peer(|_, request, _| {
        let text = format!(
            "{} {} {} {}",
            request.session_id, request.slot.0, request.flags, request.token
        );
        vec![packet(response(request, Status::Ok), text.as_bytes())]
    })
    .await;
    let mut call = hello().session(4).shard_key("foo").idempotent(true);
    call.trace_id = 11;
    let reply = client_of(vip).call(call).await.unwrap();
    let bits =
        flags::HAS_SESSION | flags::HAS_SLOT | flags::IDEMPOTENT | flags::FIRST | flags::LAST;
    assert_eq!(reply.payload, format!("4 12182 {bits} 11"));
}

#[tokio::test]
async fn requests_beyond_the_limit_are_refused_and_given_up_ones_make_room() {
    let vip = peer(|_, _, _| Vec::new()).await;
    let config = ClientConfig {
        max_in_flight: 2,
        ..ClientConfig::default()
    };
    let client = Client::connect(vip, config).unwrap();
    let calls: Vec<_> = (0..2)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.call(hello()).await })
        })
        .collect();
    tokio::time::sleep(10 * MS).await;
    let error = client.call(hello()).await.unwrap_err();
    assert!(
        matches!(error, CallError::TooManyInFlight { limit: 2 }),
        "{error}"
    );
    for call in calls {
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
    }
    let error = client.call(hello().budget(30 * MS)).await.unwrap_err();
    assert!(matches!(error, CallError::Timeout { .. }), "{error}");
}

#[tokio::test]
async fn a_ping_is_a_ping() {
    let vip = peer(|_, request, _| {
        assert_eq!(request.kind, Kind::Ping);
        vec![packet(response(request, Status::Ok), b"")]
    })
    .await;
    let took = client_of(vip)
        .ping(FunctionId::of("hello"), 1_000 * MS)
        .await
        .unwrap();
    assert!(took < 1_000 * MS);
}

#[tokio::test]
async fn ten_thousand_requests_share_one_socket() {
    let vip =
        peer(|_, request, payload| vec![packet(response(request, Status::Ok), payload)]).await;
    let client = client_of(vip);
    let calls: Vec<_> = (0..10_000u32)
        .map(|number| {
            let client = client.clone();
            tokio::spawn(async move {
                let call = hello()
                    .payload(number.to_be_bytes().to_vec())
                    .budget(20_000 * MS);
                assert_eq!(
                    client.call(call).await.unwrap().payload,
                    number.to_be_bytes().to_vec()
                );
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    assert_eq!(client.stats().answered, 10_000);
}

#[test]
fn connecting_needs_a_runtime() {
    let error =
        Client::connect("127.0.0.1:9".parse().unwrap(), ClientConfig::default()).unwrap_err();
    assert!(error.to_string().contains("tokio"), "{error}");
}

#[tokio::test]
async fn an_icmp_error_about_one_packet_does_not_swallow_the_next() {
    let closed = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let vip = closed.local_addr().unwrap();
    drop(closed);
    let client = client_of(vip);
    // Makes the runtime learn that the socket takes packets, so that a first poll sends.
    client.call(hello().budget(30 * MS)).await.unwrap_err();

    // Nothing is awaited from here on: the error that loopback reports at once stays pending.
    let mut context = Context::from_waker(Waker::noop());
    let mut refused = pin!(client.call(hello()));
    assert!(refused.as_mut().poll(&mut context).is_pending());
    let peer = std::net::UdpSocket::bind(vip).unwrap();
    peer.set_read_timeout(Some(1_000 * MS)).unwrap();
    let mut next = pin!(client.call(hello()));
    assert!(next.as_mut().poll(&mut context).is_pending());
    assert!(peer.recv(&mut [0; 2_000]).is_ok());
}
