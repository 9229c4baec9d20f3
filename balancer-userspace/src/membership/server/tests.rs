//! The server against real sockets: the worker's own client, and peers that misbehave.

use std::net::Ipv4Addr;

use ebpf_common::ids::FunctionId;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

use super::*;
use crate::membership::{
    client::{MembershipClient, Told},
    protocol::KeepWarm,
};

const TOKEN: &str = "a shared secret";
const LEASE: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(10);

struct Bench {
    addr: SocketAddr,
    events: mpsc::Receiver<ConnectionEvent>,
    shared: watch::Sender<Arc<Shared>>,
}

impl Bench {
    async fn new() -> Self {
        let (sender, events) = mpsc::channel(64);
        let terms = Terms {
            token: TOKEN.into(),
            heartbeat_ms: 20,
            lease: LEASE,
        };
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = Server::bind(any, terms, sender).await.unwrap();
        let addr = server.local_addr().unwrap();
        tokio::spawn(server.run());
        Self {
            addr,
            events,
            shared: watch::Sender::default(),
        }
    }

    async fn next(&mut self) -> ConnectionEvent {
        timeout(PATIENCE, self.events.recv())
            .await
            .unwrap()
            .unwrap()
    }

    /// Takes the next hello in as worker 7.
    async fn welcome(&mut self) -> (ConnectionId, Identity, CancellationToken) {
        loop {
            if let ConnectionEvent::Hello {
                connection,
                identity,
                reply,
            } = self.next().await
            {
                let superseded = CancellationToken::new();
                let welcome = Welcome {
                    worker_id: 7,
                    shared: self.shared.subscribe(),
                    superseded: superseded.clone(),
                };
                reply.send(Ok(welcome)).unwrap();
                return (connection, identity, superseded);
            }
        }
    }

    /// The next connection that is closed, and whether it ended in silence.
    async fn closed(&mut self) -> (ConnectionId, bool) {
        loop {
            if let ConnectionEvent::Closed {
                connection,
                is_silent,
            } = self.next().await
            {
                return (connection, is_silent);
            }
        }
    }
}

fn hello() -> Hello {
    Hello {
        token: TOKEN.to_owned(),
        name: "w0".to_owned(),
        id: None,
        address: Ipv4Addr::new(10, 80, 0, 11),
        address6: None,
        mac: "02:00:00:00:00:11".to_owned(),
        slots: vec!["0-5460".parse().unwrap()],
        db_url: None,
    }
}

/// Sends `bytes` and reads what comes until the peer closes.
async fn talk(addr: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    // The peer may close before it has read all.
    let _early_close = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .unwrap();
    drop(read); // a reset is a close too
    String::from_utf8(answer).unwrap()
}

fn line(message: &FromWorker) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).unwrap();
    line.push(b'\n');
    line
}

#[tokio::test]
async fn a_client_joins_and_its_heartbeats_and_assignments_flow() {
    let mut bench = Bench::new().await;
    let (beat, beats) = watch::channel(Heartbeat::default());
    let mut told = MembershipClient::spawn(bench.addr, hello(), beats);
    let (connection, identity, _superseded) = bench.welcome().await;
    assert_eq!(identity.name, "w0");

    told.wait_for(Option::is_some).await.unwrap();
    let first = told.borrow().clone().unwrap();
    assert_eq!((first.assignment.worker_id, first.is_connected), (7, true));
    bench
        .shared
        .send_modify(|shared| Arc::make_mut(shared).slots_version = 9);
    let is_nine = |told: &Option<Told>| {
        told.as_ref()
            .is_some_and(|told| told.assignment.slots_version == 9)
    };
    timeout(PATIENCE, told.wait_for(is_nine))
        .await
        .unwrap()
        .unwrap();

    let kept = KeepWarm {
        code: false,
        function: FunctionId::of("hello"),
        instances: 2,
        tell: false,
    };
    bench.shared.send_modify(|shared| {
        // Those of another worker are none of its business.
        let all = [(7, vec![kept]), (8, vec![kept, kept])];
        Arc::make_mut(shared).keep_warm = Arc::new(all.into());
    });
    let keeps = |told: &Option<Told>| {
        told.as_ref()
            .is_some_and(|told| told.assignment.keep_warm == [kept])
    };
    timeout(PATIENCE, told.wait_for(keeps))
        .await
        .unwrap()
        .unwrap();

    beat.send_modify(|beat| beat.in_flight = 5);
    loop {
        match bench.next().await {
            ConnectionEvent::Heartbeat {
                heartbeat,
                connection: by,
            } => {
                assert_eq!(by, connection);
                if heartbeat.in_flight == 5 {
                    break;
                }
            }
            other => panic!("{other:?}"),
        }
    }
    drop(beat);
    assert_eq!(bench.closed().await, (connection, false));
}

#[tokio::test]
async fn a_client_comes_back_after_its_connection_is_lost() {
    let mut bench = Bench::new().await;
    let (_beat, beats) = watch::channel(Heartbeat::default());
    let mut told = MembershipClient::spawn(bench.addr, hello(), beats);
    let (first, _, superseded) = bench.welcome().await;
    told.wait_for(Option::is_some).await.unwrap();
    assert!(told.borrow().as_ref().unwrap().is_connected);
    let seen = tokio::spawn(async move {
        for connected in [false, true] {
            let is_so =
                |told: &Option<Told>| told.as_ref().is_some_and(|it| it.is_connected == connected);
            told.wait_for(is_so).await.unwrap();
        }
    });
    let lost = Instant::now();
    superseded.cancel();
    assert_eq!(bench.closed().await, (first, false));
    let (second, _, _token) = bench.welcome().await;
    assert_ne!(first, second);
    assert!(
        lost.elapsed() < Duration::from_secs(5),
        "{:?}",
        lost.elapsed()
    );
    timeout(PATIENCE, seen).await.unwrap().unwrap();
}

#[tokio::test]
async fn silence_ends_a_connection_when_its_lease_is_over() {
    let mut bench = Bench::new().await;
    let mut stream = TcpStream::connect(bench.addr).await.unwrap();
    stream
        .write_all(&line(&FromWorker::Hello(hello())))
        .await
        .unwrap();
    let (connection, ..) = bench.welcome().await;
    let silent_since = Instant::now();
    assert_eq!(bench.closed().await, (connection, true));
    assert!(silent_since.elapsed() >= LEASE / 2);
}

#[tokio::test]
async fn a_wrong_token_is_refused_without_an_event() {
    let mut bench = Bench::new().await;
    for token in ["", "a shared secreT", "a shared secret "] {
        let hello = Hello {
            token: token.to_owned(),
            ..hello()
        };
        let answer = talk(bench.addr, &line(&FromWorker::Hello(hello))).await;
        assert!(answer.contains("refused"), "{answer}");
    }
    assert!(bench.events.try_recv().is_err());
}

#[tokio::test]
async fn a_hello_that_makes_no_sense_is_refused_with_a_reason() {
    let bench = Bench::new().await;
    let cases = [
        (
            Hello {
                name: "a/b".to_owned(),
                ..hello()
            },
            "worker name",
        ),
        (
            Hello {
                name: "a".repeat(65),
                ..hello()
            },
            "worker name",
        ),
        (
            Hello {
                mac: "01:00:5e:00:00:01".to_owned(),
                ..hello()
            },
            "MAC",
        ),
        (
            Hello {
                address6: Some("ff02::1".parse().unwrap()),
                ..hello()
            },
            "ff02::1",
        ),
        (
            Hello {
                address: Ipv4Addr::UNSPECIFIED,
                ..hello()
            },
            "address",
        ),
    ];
    for (hello, word) in cases {
        let answer = talk(bench.addr, &line(&FromWorker::Hello(hello))).await;
        assert!(answer.contains(word), "{answer}");
    }
}

#[tokio::test]
async fn garbage_and_lines_without_end_close_the_connection() {
    let mut bench = Bench::new().await;
    let too_long = vec![b'x'; MAX_LINE + 10];
    let slots = br#"{"type":"hello","token":"a shared secret","name":"w","address":"10.0.0.1","mac":"02:00:00:00:00:01","slots":["5-4"],"db_url":null}"#;
    let mut bad_slots = slots.to_vec();
    bad_slots.push(b'\n');
    let heartbeat_first = line(&FromWorker::Heartbeat(Heartbeat::default()));
    for bytes in [
        &b"\n"[..],
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff\xfe\n",
        b"{\"type\":\"nonsense\"}\n",
        &too_long,
        &bad_slots,
        &heartbeat_first,
    ] {
        assert_eq!(talk(bench.addr, bytes).await, "");
    }
    assert!(bench.events.try_recv().is_err());
    // And the server is still there.
    let (_beat, beats) = watch::channel(Heartbeat::default());
    let _assignment = MembershipClient::spawn(bench.addr, hello(), beats);
    bench.welcome().await;
}

#[tokio::test]
async fn garbage_after_the_hello_closes_the_connection_too() {
    let mut bench = Bench::new().await;
    for garbage in [&b"{}\n"[..], &line(&FromWorker::Hello(hello()))] {
        let mut stream = TcpStream::connect(bench.addr).await.unwrap();
        stream
            .write_all(&line(&FromWorker::Hello(hello())))
            .await
            .unwrap();
        let (connection, ..) = bench.welcome().await;
        stream.write_all(garbage).await.unwrap();
        assert_eq!(bench.closed().await, (connection, false));
    }
}
