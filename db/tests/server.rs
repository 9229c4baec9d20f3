//! Two shards as servers on this host: routing between them, refusals, and the role's start and stop.
#![expect(
    clippy::unwrap_used,
    reason = "a failed helper should panic where it stands"
)]

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use db::{
    Config, Cursor, DbClient, DbError, Embedded, Local, Locality, Metrics, Op, Options, Reply,
    Router, RunError, SlotMap, SlotOwner, SlotSet,
};
use ebpf_common::hash::slot_of_key;
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

fn slots(range: &str) -> SlotSet {
    SlotSet::new(vec![range.parse().unwrap()]).unwrap()
}

fn local(dir: &TempDir, range: &str, metrics: &Metrics) -> Local {
    let options = Options { reserve_bytes: 0 };
    Local {
        engine: Arc::new(Embedded::open(dir.path(), options, metrics).unwrap()),
        slots: slots(range),
    }
}

/// A shard that serves `range` on a free port until the test ends.
async fn shard(dir: &TempDir, range: &str) -> String {
    let metrics = Metrics::unregistered();
    let routes = db::server::router(local(dir, range, &metrics), metrics);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    url
}

fn put(key: &str, value: &str) -> Op {
    Op::Put {
        key: key.into(),
        value: value.into(),
    }
}

fn get(key: &str) -> Op {
    Op::Get { key: key.into() }
}

fn owner(range: &str, url: &str) -> SlotOwner {
    SlotOwner {
        range: range.parse().unwrap(),
        shard: "w1".to_owned(),
        url: url.to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_router_serves_its_own_slots_and_asks_the_owner_for_others() {
    let (here, there) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let metrics = Metrics::unregistered();
    let router = Router::new(Some(local(&here, "0-8191", &metrics)), metrics.clone());
    // CRC16 slots: "hello" 866, "foo" 12182.
    assert_eq!(
        router.execute(put("hello", "1")).await,
        Ok((Reply::Written { cursor: Cursor(1) }, Locality::Local))
    );
    let error = router.execute(put("foo", "1")).await.unwrap_err();
    assert_eq!(error, DbError::NoOwner { slot: 12_182 });
    assert!(error.is_retryable());

    let url = shard(&there, "8192-16383").await;
    let map = SlotMap {
        version: 1,
        owners: vec![owner("8192-16383", &url)],
    };
    assert!(router.set_slots(map.clone()));
    assert!(!router.set_slots(map));
    assert_eq!(
        router.execute(put("foo", "1")).await,
        Ok((Reply::Written { cursor: Cursor(1) }, Locality::Remote))
    );
    assert_eq!(
        router.execute(get("foo")).await,
        Ok((Reply::Value(Some(b"1".to_vec())), Locality::Remote))
    );
    assert_eq!(metrics.ops_at(Locality::Local), 1);
    assert_eq!(metrics.ops_at(Locality::Remote), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_op_and_reply_crosses_the_network_unchanged() {
    let dir = TempDir::new().unwrap();
    let url = shard(&dir, "0-16383").await;
    let client = DbClient::new(&url).unwrap();
    let big = vec![7; db::limits::VALUE_BYTES_MAX];
    let cas = |expected: Option<Vec<u8>>, value: Vec<u8>| Op::CompareAndSet {
        key: b"{u}1".to_vec(),
        expected,
        value,
    };
    let written = |cursor| {
        Ok(Reply::Written {
            cursor: Cursor(cursor),
        })
    };
    assert_eq!(client.execute(&cas(None, big.clone())).await, written(1));
    // The largest op there is.
    assert_eq!(
        client.execute(&cas(Some(big.clone()), big.clone())).await,
        written(2)
    );
    assert_eq!(
        client.execute(&cas(None, Vec::new())).await,
        Ok(Reply::Conflict { current: Some(big) })
    );
    let delete = Op::Delete {
        key: b"{u}1".to_vec(),
    };
    assert_eq!(client.execute(&delete).await, written(3));
    assert_eq!(client.execute(&put("{u}2", "")).await, written(4));
    let scan = Op::Scan {
        prefix: b"{u}".to_vec(),
        after: None,
        limit: 10,
    };
    assert_eq!(
        client.execute(&scan).await,
        Ok(Reply::Rows {
            rows: vec![(b"{u}2".to_vec(), Vec::new())],
            more: false
        })
    );
    let slot = slot_of_key(b"{u}");
    let feed = Op::Feed {
        slot,
        cursor: Cursor(2),
        limit: 10,
    };
    let Ok(Reply::Feed { records, next }) = client.execute(&feed).await else {
        panic!("no feed");
    };
    assert_eq!((records.len(), next), (2, Cursor(4)));
    assert_eq!(client.feed_head(slot.0).await.unwrap().head, Cursor(4));
    let status = client.status().await.unwrap();
    assert_eq!((status.commits, status.writable), (4, true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_for_a_feed_is_told_of_the_commit_that_moves_it() {
    let dir = TempDir::new().unwrap();
    let url = shard(&dir, "0-16383").await;
    let here = Router::new(None, Metrics::unregistered());
    assert!(here.set_slots(SlotMap {
        version: 1,
        owners: vec![owner("0-16383", &url)],
    }));
    let slot = slot_of_key(b"{u}");
    let client = DbClient::new(&url).unwrap();
    let head = Op::Head { slot };
    let at = |next| {
        Ok(Reply::Feed {
            records: Vec::new(),
            next: Cursor(next),
        })
    };
    assert_eq!(client.execute(&head).await, at(0));
    let waits = tokio::spawn(async move { here.feed_moved(slot, Cursor(1)).await });
    client.execute(&put("{u}", "1")).await.unwrap();
    client.execute(&put("{v}", "1")).await.unwrap();
    assert_eq!(client.execute(&head).await, at(1));
    assert!(!waits.is_finished(), "the first record is not news");
    client.execute(&put("{u}", "2")).await.unwrap();
    let moved = tokio::time::timeout(Duration::from_secs(5), waits).await;
    assert_eq!(moved.unwrap().unwrap(), Ok(Cursor(2)));
    // Behind what is there already nobody waits.
    assert_eq!(client.feed_moved(slot, Cursor(0)).await, Ok(Cursor(2)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poll_that_makes_no_sense_is_refused() {
    let dir = TempDir::new().unwrap();
    let url = shard(&dir, "0-8191").await;
    for (path, status) in [
        ("7?after=-1", 400),
        ("7?wait_ms=soon", 400),
        ("7?afters=1", 400),
        ("16384?after=1", 400),
        ("8192?after=1&wait_ms=60000", 421),
        ("7?after=1&wait_ms=1", 200),
    ] {
        let response = reqwest::get(format!("{url}/v1/feeds/{path}"))
            .await
            .unwrap();
        assert_eq!(response.status().as_u16(), status, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_refuses_slots_that_it_does_not_own_and_names_those_it_does() {
    let dir = TempDir::new().unwrap();
    let url = shard(&dir, "0-8191").await;
    let client = DbClient::new(&url).unwrap();
    let moved = DbError::Moved {
        slot: 12_182,
        owned: slots("0-8191"),
    };
    assert_eq!(client.execute(&put("foo", "1")).await, Err(moved.clone()));
    assert_eq!(client.feed_head(12_182).await, Err(moved));
    let body = db::codec::encode_op(&get("foo"));
    let response = post(&url, body).await;
    assert_eq!(response.status().as_u16(), 421);
    let json: serde_json::Value = response.json().await.unwrap();
    assert_eq!(json["kind"], "moved");
    assert_eq!(json["owned"][0], "0-8191");
    assert_eq!(json["fault"], "platform");
    assert_eq!(json["retryable"], true);
}

async fn post(url: &str, body: Vec<u8>) -> reqwest::Response {
    let url = format!("{url}/v1/op");
    let request = reqwest::Client::new().post(url).body(body);
    request.send().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_op_and_bodies_that_are_too_long_are_refused() {
    let dir = TempDir::new().unwrap();
    let url = shard(&dir, "0-16383").await;
    let too_long = vec![2; db::limits::OP_BYTES_MAX + 1];
    let long_key = db::codec::encode_op(&get(&"k".repeat(2_000)));
    for (body, kind) in [
        (Vec::new(), "malformed"),
        (b"GET /".to_vec(), "malformed"),
        (too_long, "malformed"),
        (long_key, "key_length"),
    ] {
        let response = post(&url, body).await;
        assert_eq!(response.status().as_u16(), 400);
        let json: serde_json::Value = response.json().await.unwrap();
        assert_eq!(json["kind"], kind);
        assert_eq!(json["fault"], "caller");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_is_gone_is_told_from_one_that_may_have_got_the_write() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", gone.local_addr().unwrap());
    drop(gone);
    let error = DbClient::new(&url).unwrap().execute(&put("k", "1")).await;
    assert!(
        matches!(error, Err(DbError::Unreachable { sent: false, .. })),
        "{error:?}"
    );

    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", mute.local_addr().unwrap());
    tokio::spawn(async move {
        // Takes the request in, and closes without an answer.
        let (mut stream, _) = mute.accept().await.unwrap();
        let mut buffer = [0; 1024];
        tokio::io::AsyncReadExt::read(&mut stream, &mut buffer)
            .await
            .unwrap();
    });
    let error = DbClient::new(&url).unwrap().execute(&put("k", "1")).await;
    assert!(
        matches!(error, Err(DbError::Unreachable { sent: true, .. })),
        "{error:?}"
    );
    assert!(!error.unwrap_err().is_retryable());
}

type Role = (watch::Sender<bool>, JoinHandle<Result<(), RunError>>);

fn start(dir: &TempDir, listen: SocketAddr) -> Role {
    let text = format!(
        "listen = \"{listen}\"\npath = \"{}\"\nreserve_mb = 0",
        dir.path().join("db").display()
    );
    let path = dir.path().join("db.toml");
    std::fs::write(&path, text).unwrap();
    let config = Config::load(&path).unwrap();
    let (stop, stopped) = watch::channel(false);
    (stop, tokio::spawn(db::run(config, stopped)))
}

/// A free port on a loopback address that no other call gives away: a port that was free a moment ago may
/// by now be another test's.
async fn free_address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let address = Ipv4Addr::new(127, 77, 0, NEXT.fetch_add(1, Ordering::Relaxed));
    let listener = TcpListener::bind((address, 0)).await.unwrap();
    listener.local_addr().unwrap()
}

/// The client of a role, once that answers.
async fn ready(listen: SocketAddr) -> DbClient {
    let client = DbClient::new(&format!("http://{listen}")).unwrap();
    let answers = async {
        while client.status().await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), answers)
        .await
        .expect("the role did not come up");
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_role_stops_when_asked_and_finds_its_data_again() {
    let dir = TempDir::new().unwrap();
    let listen = free_address().await;
    for round in 1..=2 {
        let (stop, role) = start(&dir, listen);
        let client = ready(listen).await;
        let reply = client.execute(&put("k", "v")).await;
        assert_eq!(
            reply,
            Ok(Reply::Written {
                cursor: Cursor(round)
            })
        );
        let metrics = reqwest::get(format!("http://{listen}/metrics"))
            .await
            .unwrap();
        let text = metrics.text().await.unwrap();
        assert!(
            text.contains("db_served_total{kind=\"put\",outcome=\"ok\"} 1"),
            "{text}"
        );
        drop(client);
        stop.send(true).unwrap();
        tokio::time::timeout(Duration::from_secs(10), role)
            .await
            .expect("the role did not stop")
            .unwrap()
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_port_is_one_clear_line() {
    let dir = TempDir::new().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (_stop, role) = start(&dir, taken.local_addr().unwrap());
    let error = role.await.unwrap().unwrap_err();
    assert!(matches!(
        error,
        RunError::AddressInUse { key: "listen", .. }
    ));
    assert!(error.to_string().contains("in use"), "{error}");
    assert!(!error.to_string().contains('\n'));
}
