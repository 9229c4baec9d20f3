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
        workers: None,
        seconds,
        wait_ms: 0,
    }
}

fn code_on(workers: Option<u32>) -> OrderRequest {
    OrderRequest {
        workers,
        ..request("hello", 0, 60)
    }
}

fn living(live: u32) -> Heartbeat {
    Heartbeat {
        capacity: 8,
        kept: vec![Kept {
            function: FunctionId::of("hello"),
            live,
            code: false,
        }],
        ..Heartbeat::default()
    }
}

fn with_code() -> Heartbeat {
    let mut heartbeat = living(0);
    heartbeat.kept[0].code = true;
    heartbeat
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
fn code_is_ordered_onto_all_workers_or_some_and_starts_nothing() {
    let mut bench = Bench::new();
    let (first, _) = bench.join("a", "0-99");
    bench.join("b", "100-199").1.unwrap();
    let status = bench.controller.order(&code_on(None)).unwrap();
    assert_eq!((status.count, status.missing), (0, 0));
    assert_eq!((status.code_workers, status.code_missing), (2, 2));
    assert_eq!(bench.told(), [(0, true), (0, true)]);
    bench.says(first, with_code());
    let status = &bench.controller.prewarms()[0];
    assert_eq!((status.code_missing, status.is_met()), (1, false));
    let has: Vec<_> = status.workers.iter().map(|it| it.code).collect();
    assert!(has.contains(&Some(true)) && has.contains(&Some(false)));
    let metrics = &bench.controller.metrics;
    bench.controller.publish_orders();
    let gauges = (
        metrics.ordered_code.get(),
        metrics.ordered_code_missing.get(),
    );
    assert_eq!(gauges, (2, 1));
    assert_eq!(
        (metrics.ordered_instances.get(), metrics.orders.get()),
        (0, 1)
    );

    // A worker that comes is one of all; one that goes is missed by nobody.
    let (third, _) = bench.join("c", "200-299");
    let status = &bench.controller.prewarms()[0];
    assert_eq!((status.code_workers, status.code_missing), (3, 2));
    bench.close(third);
    bench.settle();
    assert_eq!(bench.controller.prewarms()[0].code_workers, 2);

    // Instances stand beside it, and a number of workers is met by as many as there are.
    let status = bench.order(1);
    assert_eq!((status.count, status.missing), (1, 1));
    assert_eq!((status.code_workers, status.orders.len()), (2, 2));
    assert_eq!(bench.told(), [(0, true), (1, true)]);
    let many = bench.controller.order(&code_on(Some(5))).unwrap();
    assert_eq!((many.code_workers, many.code_missing), (5, 4));
    bench.controller.withdraw("hello").unwrap();
    assert!(bench.told().is_empty());
    bench.controller.order(&code_on(Some(1))).unwrap();
    assert_eq!(bench.told(), [(0, true)]);
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

    // One of code does, too.
    next.controller.withdraw("hello").unwrap();
    next.controller.order(&code_on(Some(2))).unwrap();
    let mut last = next.restart();
    let status = &last.controller.prewarms()[0];
    assert_eq!(
        (status.orders[0].count, status.orders[0].workers),
        (0, Some(2))
    );
    assert_eq!((status.code_workers, status.code_missing), (2, 2));
    let (connection, _) = last.join("a", "0-99");
    assert_eq!(last.told(), [(0, true)]);
    last.says(connection, with_code());
    assert_eq!(last.controller.prewarms()[0].code_missing, 1);
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
    for (count, seconds) in [(MAX_INSTANCES + 1, 60), (0, 0), (1, 0), (1, u32::MAX)] {
        let error = refused("hello", count, seconds);
        assert!(matches!(error, CommandError::Order(_)), "{error}");
    }
    for (count, workers) in [(0, 0), (0, MAX_INSTANCES + 1), (1, 1)] {
        let order = OrderRequest {
            count,
            ..code_on(Some(workers))
        };
        let error = bench.controller.order(&order).unwrap_err();
        assert!(matches!(error, CommandError::Order(_)), "{error}");
    }
    assert_eq!(bench.events("refused"), 13);
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

/// The answer to `request`, given a minute to wait in, once the worker of `connection` has sent `heartbeat`.
async fn answered_after(
    running: &Running,
    request: OrderRequest,
    connection: ConnectionId,
    heartbeat: Heartbeat,
) -> PrewarmStatus {
    let patient = OrderRequest {
        wait_ms: 60_000,
        ..request
    };
    let later = async {
        // The request is there before; and if it is not, it is answered all the same.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let beat = ConnectionEvent::Heartbeat {
            connection,
            heartbeat,
        };
        running.connections.send(beat).await.unwrap();
    };
    let both = async { tokio::join!(running.client.prewarm(&patient), later).0 };
    let answer = timeout(Duration::from_secs(10), both).await.unwrap();
    answer.unwrap()
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
    let met = answered_after(&running, waiting, connection, living(2)).await;
    assert_eq!((met.live, met.missing), (2, 0));
    assert_eq!(met.workers[0].worker, "a");
    assert_eq!(client.prewarms().await.unwrap()[0].function, FUNCTION);

    // One of code waits for the code.
    let code = OrderRequest {
        wait_ms: 100,
        ..code_on(None)
    };
    let short = client.prewarm(&code).await.unwrap();
    assert_eq!((short.code_workers, short.code_missing), (1, 1));
    let mut heartbeat = with_code();
    heartbeat.kept[0].live = 2;
    let met = answered_after(&running, code, connection, heartbeat).await;
    assert!(met.is_met());

    for (order, expected) in [
        (request("nope", 1, 60), StatusCode::NOT_FOUND),
        (
            OrderRequest {
                count: 1,
                ..code_on(Some(1))
            },
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
        (request("hello", 1, 0), StatusCode::UNPROCESSABLE_ENTITY),
    ] {
        let (status, message) = refusal(client.prewarm(&order).await);
        assert_eq!(status, expected, "{message}");
    }
    let odd = refusal(client.withdraw_prewarm("no/such name?").await);
    assert_eq!(odd.0, StatusCode::NOT_FOUND);
    assert!(odd.1.contains("no/such name?"), "{}", odd.1);
    let gone = client.withdraw_prewarm("hello").await.unwrap();
    assert_eq!(gone.orders.len(), 2);
    assert_eq!(client.prewarms().await.unwrap(), []);
}
