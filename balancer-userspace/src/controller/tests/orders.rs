//! Orders of warmth: what workers are told, what they tell, and the admin API over both.

use axum::http::StatusCode;
use tokio::{
    net::UnixListener,
    sync::mpsc::{self, Sender},
    time::timeout,
};

use super::*;
use crate::{
    api::{
        routes::{self, Admin},
        types::{OrderRequest, PrewarmStatus},
    },
    client::{AdminClient, AdminError},
    membership::protocol::Kept,
    policy::orders::{MAX_INSTANCES, MAX_ORDERS, OrderError},
};

fn request(function: &str, count: u32, seconds: u32) -> OrderRequest {
    OrderRequest {
        function: function.to_owned(),
        count,
        seconds,
        wait_ms: 0,
    }
}

fn living(live: u32) -> Heartbeat {
    Heartbeat {
        capacity: 8,
        kept: vec![Kept {
            function: FunctionId::of("hello"),
            live,
        }],
        ..Heartbeat::default()
    }
}

impl Bench {
    /// What each worker was told to keep, and whether to tell of it.
    fn told(&self) -> Vec<(u32, bool)> {
        let shared = self.controller.shared.borrow();
        let kept = shared.keep_warm.values().flatten();
        let mut told: Vec<_> = kept.map(|kept| (kept.instances, kept.tell)).collect();
        told.sort_unstable();
        told
    }

    fn order(&mut self, count: u32) -> PrewarmStatus {
        let order = self.controller.order(&request("hello", count, 60));
        order.unwrap()
    }

    fn says(&mut self, connection: ConnectionId, heartbeat: Heartbeat) {
        let beat = ConnectionEvent::Heartbeat {
            connection,
            heartbeat,
        };
        self.controller.handle(Event::Connection(beat));
        self.settle();
    }

    fn events(&self, event: &str) -> u64 {
        let counter = &self.controller.metrics.order_events;
        counter.with_label_values(&[event]).get()
    }
}

#[test]
fn an_order_is_spread_over_the_workers_and_moves_with_them() {
    let mut bench = Bench::new();
    let (first, _) = bench.join("a", "0-99");
    let (second, _) = bench.join("b", "100-199");
    let status = bench.order(3);
    assert_eq!((status.count, status.live, status.missing), (3, 0, 3));
    assert_eq!(bench.told(), [(1, true), (2, true)]);
    bench.says(first, living(5));
    bench.says(second, living(0));
    let status = &bench.controller.prewarms()[0];
    let of_b = status.workers.iter().find(|part| part.worker == "b");
    // What one has too many is no comfort to those who come to the other.
    assert_eq!((status.live, status.missing), (5, of_b.unwrap().wanted));
    bench.says(second, living(2));
    bench.controller.publish_orders_if_stale();
    assert_eq!(bench.controller.prewarms()[0].missing, 0);
    assert_eq!(bench.controller.metrics.ordered_missing.get(), 0);

    bench.close(first);
    bench.settle();
    assert_eq!(bench.told(), [(3, true)]);
    let status = &bench.controller.prewarms()[0];
    assert_eq!((status.live, status.missing), (2, 1));
    assert_eq!(bench.controller.metrics.ordered_missing.get(), 1);
    bench.close(second);
    bench.settle();
    assert_eq!(bench.controller.prewarms()[0].missing, 3);
}

#[test]
fn of_manifest_and_order_the_larger_counts_and_the_manifests_stays() {
    let mut bench = Bench::new();
    bench.join("a", "0-99").1.unwrap();
    let catalog = Catalog {
        kept: vec![(FunctionId::of("hello"), 4)],
        ..bench.controller.catalog.clone().unwrap()
    };
    bench.controller.follow_catalog(catalog);
    assert_eq!(bench.told(), [(4, false)]);
    let status = bench.order(2);
    assert_eq!((status.count, status.min_warm), (4, 4));
    assert_eq!(bench.told(), [(4, true)]);
    assert_eq!(bench.order(6).count, 6);
    let gone = bench.controller.withdraw("hello").unwrap();
    assert_eq!(gone.orders[0].count, 6);
    assert_eq!(bench.told(), [(4, false)]);
    let again = bench.controller.withdraw("hello@latest").unwrap_err();
    assert!(matches!(again, CommandError::NoOrder { .. }), "{again}");
    assert_eq!((bench.events("placed"), bench.events("withdrawn")), (2, 1));
}

#[test]
fn an_order_ends_by_the_clock_or_with_its_function() {
    let mut bench = Bench::new();
    bench.join("a", "0-99").1.unwrap();
    bench.controller.order(&request("hello", 2, 1)).unwrap();
    let end = bench.controller.orders_end_at().unwrap();
    assert!(end <= Instant::now() + Duration::from_secs(1));
    bench.controller.expire_orders();
    assert_eq!(bench.controller.prewarms().len(), 1);
    let deadline = Instant::now() + Duration::from_secs(5);
    while !bench.controller.prewarms().is_empty() {
        assert!(Instant::now() < deadline);
        bench.controller.expire_orders();
    }
    assert!(bench.told().is_empty() && bench.controller.orders_end_at().is_none());

    bench.order(2);
    bench.controller.follow_catalog(Catalog::default());
    assert!(bench.told().is_empty());
    let ended = (bench.events("expired"), bench.events("function_gone"));
    assert_eq!(ended, (1, 1));
}

#[test]
fn an_order_outlives_the_control_plane() {
    let mut bench = Bench::new();
    bench.join("a", "0-99").1.unwrap();
    bench.order(3);
    let mut next = bench.restart();
    let status = &next.controller.prewarms()[0];
    assert_eq!((status.orders[0].count, status.missing), (3, 3));
    assert!(status.orders[0].ends_in_ms <= 60_000);
    let (connection, _) = next.join("a", "0-99");
    assert_eq!(next.told(), [(3, true)]);
    next.says(connection, living(3));
    assert_eq!(next.controller.prewarms()[0].missing, 0);
}

#[test]
fn what_cannot_be_ordered_is_refused_and_counted() {
    let mut bench = Bench::new();
    let nobody = bench.controller.order(&request("hello", 1, 60));
    assert!(matches!(nobody, Err(CommandError::NoWorker)));
    bench.join("a", "0-99").1.unwrap();
    let mut refused = |function: &str, count, seconds| {
        let answer = bench.controller.order(&request(function, count, seconds));
        answer.unwrap_err()
    };
    for name in ["nope", "hello@7", "", "warmpath.async", "a\nb"] {
        let error = refused(name, 1, 60);
        assert!(
            matches!(error, CommandError::UnknownFunction { .. }),
            "{name}"
        );
        assert!(error.to_string().contains("fn list"), "{error}");
        assert!(!error.to_string().contains('\n'), "{error}");
    }
    for (count, seconds) in [(0, 60), (MAX_INSTANCES + 1, 60), (1, 0), (1, u32::MAX)] {
        let error = refused("hello", count, seconds);
        assert!(matches!(error, CommandError::Order(_)), "{error}");
    }
    assert_eq!(bench.events("refused"), 10);
    assert!(bench.told().is_empty());

    // Each larger and sooner over than the last: none covers another.
    for n in 0..MAX_ORDERS as u32 {
        let order = request("hello", 1 + n, 10_000 - 10 * n);
        bench.controller.order(&order).unwrap();
    }
    let full = bench.controller.order(&request("hello", 1_000, 1));
    assert!(matches!(full, Err(CommandError::Order(OrderError::Full))));
    bench.controller.catalog = None;
    let early = bench.controller.order(&request("hello", 1, 60));
    assert!(matches!(early, Err(CommandError::NoCatalog)));
}

/// A control plane that runs, with its admin API.
struct Running {
    client: AdminClient,
    connections: Sender<ConnectionEvent>,
    _commands_end: watch::Sender<bool>,
    _dir: tempfile::TempDir,
}

impl Running {
    fn start() -> Self {
        let bench = Bench::new();
        let (connections, connection_events) = mpsc::channel(8);
        let (commands, command_events) = mpsc::channel(8);
        let events = Events {
            connections: connection_events,
            catalogs: mpsc::channel(1).1,
            ports: mpsc::channel(1).1,
            commands: command_events,
        };
        let (stop, stopped) = watch::channel(false);
        let socket = bench.dir.path().join("admin.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let admin = Admin::new(commands, "/none".into(), "/none".into());
        tokio::spawn(async { axum::serve(listener, routes::admin(admin)).await });
        tokio::spawn(bench.controller.run(events, stopped));
        Self {
            client: AdminClient::new(&socket).unwrap(),
            connections,
            _commands_end: stop,
            _dir: bench.dir,
        }
    }

    async fn join(&self) -> ConnectionId {
        let connection = ConnectionId::test(1);
        let (reply, answer) = oneshot::channel();
        let hello = ConnectionEvent::Hello {
            connection,
            identity: identity("a"),
            reply,
        };
        self.connections.send(hello).await.unwrap();
        answer.await.unwrap().unwrap();
        connection
    }
}

fn refusal(answer: Result<PrewarmStatus, AdminError>) -> (StatusCode, String) {
    match answer.unwrap_err() {
        AdminError::Refused {
            status, message, ..
        } => (status, message),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn the_api_answers_once_the_instances_live_and_says_what_is_missing_otherwise() {
    let running = Running::start();
    let client = &running.client;
    let (status, message) = refusal(client.prewarm(&request("hello", 1, 60)).await);
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(message.contains("worker list"), "{message}");
    let connection = running.join().await;

    let waiting = OrderRequest {
        wait_ms: 100,
        ..request("hello", 2, 60)
    };
    let short = client.prewarm(&waiting).await.unwrap();
    assert_eq!((short.live, short.missing), (0, 2));
    let patient = OrderRequest {
        wait_ms: 60_000,
        ..waiting
    };
    let heartbeat = living(2);
    let later = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let beat = ConnectionEvent::Heartbeat {
            connection,
            heartbeat,
        };
        running.connections.send(beat).await.unwrap();
    };
    let both = async { tokio::join!(client.prewarm(&patient), later).0 };
    let met = timeout(Duration::from_secs(10), both).await.unwrap();
    let met = met.unwrap();
    assert_eq!((met.live, met.missing), (2, 0));
    assert_eq!(met.workers[0].worker, "a");
    assert_eq!(client.prewarms().await.unwrap()[0].function, FUNCTION);

    for (order, expected) in [
        (request("nope", 1, 60), StatusCode::NOT_FOUND),
        (request("hello", 0, 60), StatusCode::UNPROCESSABLE_ENTITY),
        (request("hello", 1, 0), StatusCode::UNPROCESSABLE_ENTITY),
    ] {
        let (status, message) = refusal(client.prewarm(&order).await);
        assert_eq!(status, expected, "{message}");
    }
    let odd = refusal(client.withdraw_prewarm("no/such name?").await);
    assert_eq!(odd.0, StatusCode::NOT_FOUND);
    assert!(odd.1.contains("no/such name?"), "{}", odd.1);
    let gone = client.withdraw_prewarm("hello").await.unwrap();
    assert_eq!(gone.orders.len(), 1);
    assert_eq!(client.prewarms().await.unwrap(), []);
}
