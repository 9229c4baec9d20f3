//! The gateway over real HTTP, with a worker that answers as the function's name says.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

mod streams;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use bytes::Bytes;
use ebpf_common::{
    ids::FunctionId,
    wire::{Kind, RpcHeader, Status, flags},
};
use gateway::Config;
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};
use streams::Exchanges;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::watch,
    task::JoinHandle,
};
use warmpath_sdk::{
    deferred::{Ask, CallId, FUNCTION_ID, Report, State},
    http::{self, RequestHead, ResponseHead},
    session_id,
};

/// A gateway, its worker, and the way to stop it.
struct Bench {
    base: String,
    address: SocketAddr,
    metrics: String,
    exchanges: Exchanges,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), gateway::RunError>>,
}

impl Bench {
    async fn start() -> Self {
        let exchanges = Exchanges::start().await;
        let vip = worker(exchanges.clone()).await;
        let (listen, metrics_listen) = (free_port().await, free_port().await);
        let proxy = PROXY;
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = format!(
            "listen = '{listen}'\nvip = '{vip}'\nmetrics_listen = '{metrics_listen}'\n\
             trusted_proxies = ['{proxy}']\nbudget_ms = 2000\nread_timeout_ms = 500\nmax_body_bytes = 200000"
        );
        std::fs::write(file.path(), text).unwrap();
        let config = Config::load(file.path()).unwrap();
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(gateway::run(config, stopped));
        let listening = async {
            while TcpStream::connect(listen).await.is_err() {
                assert!(!task.is_finished(), "the gateway did not start");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), listening)
            .await
            .expect("the gateway listens");
        Self {
            base: format!("http://{listen}"),
            address: listen,
            metrics: format!("http://{metrics_listen}/metrics"),
            exchanges,
            stop,
            task,
        }
    }

    /// The value of a metric.
    async fn count(&self, metric: &str) -> u64 {
        let text = client().get(&self.metrics).send().await.unwrap();
        let text = text.text().await.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(metric));
        line.expect("the metric is there").trim().parse().unwrap()
    }

    fn post(&self, function: &str) -> RequestBuilder {
        client().post(format!("{}/run/{function}", self.base))
    }
}

/// An address of the client's host that the gateway trusts as a proxy's.
const PROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);

fn client() -> Client {
    Client::builder().no_proxy().build().unwrap()
}

/// A free port on a loopback address that no other call gives away: a port that was free a moment ago may
/// by now be another test's.
async fn free_port() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let address = Ipv4Addr::new(127, 77, 0, NEXT.fetch_add(1, Ordering::Relaxed));
    TcpListener::bind((address, 0))
        .await
        .unwrap()
        .local_addr()
        .unwrap()
}

/// Answers a function named like a status with that status, and a few with what they saw.
async fn worker(exchanges: Exchanges) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let vip = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 2_000];
        loop {
            let (len, from) = socket.recv_from(&mut buffer).await.unwrap();
            let (request, payload) = RpcHeader::parse(&buffer[..len]).unwrap().unwrap();
            if request.function == FunctionId::of("silent") {
                exchanges.is_kept_waiting();
            }
            let streamed = exchanges.answer(request);
            if let Some(packet) = streamed.or_else(|| answer(request, payload)) {
                socket.send_to(&packet, from).await.unwrap();
            }
        }
    });
    vip
}

fn answer(request: RpcHeader, payload: &[u8]) -> Option<Vec<u8>> {
    let is = |name: &str| request.function == FunctionId::of(name);
    let of_name = Status::ALL
        .iter()
        .find(|status| is(&status.name().replace('_', "-")));
    let status = of_name.copied().unwrap_or(Status::Ok);
    let message = Bytes::copy_from_slice(payload);
    if request.function == *FUNCTION_ID {
        return Some(keep(request, &message));
    }
    let (head, body) = http::split::<RequestHead>(&message).unwrap();
    let mut is_http = status == Status::Exception && head.path == "/http";
    let text = match status {
        Status::Ok if is("silent") => return None,
        Status::Ok if is("echo") => body.to_vec(),
        Status::Ok if is("mirror") => {
            is_http = true;
            mirror(&head, &body)
        }
        Status::Ok if is("garbage") => {
            is_http = true;
            b"no head".to_vec()
        }
        Status::MethodNotAllowed => b"GET, HEAD".to_vec(),
        Status::Ok if is("bytes") => vec![0xff, 0xfe],
        Status::Ok => format!(
            r#"{{"session":"{}","slot":{},"flags":{},"budget":{}}}"#,
            request.session_id, request.slot.0, request.flags, request.budget_ms
        )
        .into_bytes(),
        _ => b"because".to_vec(),
    };
    let header = RpcHeader {
        kind: if status == Status::Ok || is_http {
            Kind::Response
        } else {
            Kind::Error
        },
        status: status as u16,
        flags: flags::FIRST | flags::LAST | if is_http { flags::HTTP } else { 0 },
        // Longer than any budget here: a retryable error is not waited out.
        budget_ms: if status.is_retryable() { 3_500 } else { 0 },
        payload_len: text.len() as u32,
        ..request
    };
    Some([&header.emit(), text.as_slice()].concat())
}

/// Keeps nothing: the last digit of an id says what became of its call.
fn keep(request: RpcHeader, message: &Bytes) -> Vec<u8> {
    let (ask, event) = Ask::read(message).unwrap();
    assert!(request.has(flags::HAS_SLOT | flags::IDEMPOTENT));
    let id = match ask {
        Ask::Submit { id, call } => {
            assert_eq!((call.function.as_str(), call.budget_ms), ("echo", 2_000));
            let (head, body) = http::split::<RequestHead>(&event).unwrap();
            assert_eq!(body, "later");
            // A worker will make it, which is no gateway.
            assert!(head.headers.iter().all(|(name, _)| name != http::CALLER));
            id
        }
        Ask::Outcome { id } => id,
        other => panic!("{other:?}"),
    };
    let state = match id.to_string().as_bytes()[15] {
        b'0' => State::Pending,
        b'1' => State::Done,
        b'2' => State::Failed,
        _ => State::Unknown,
    };
    let report = Report {
        id,
        state,
        function: "echo".to_owned(),
        attempts: 3,
        status: Some("exception".to_owned()),
        http: false,
        at_ms: 1,
    };
    let reply = http::join(&report, b"[1]").unwrap();
    let header = RpcHeader {
        kind: Kind::Response,
        flags: flags::FIRST | flags::LAST,
        budget_ms: 0,
        payload_len: reply.len() as u32,
        ..request
    };
    [&header.emit(), &reply[..]].concat()
}

/// What came, as JSON, with the status of the query and headers of which some are not for a handler to say.
fn mirror(head: &RequestHead, body: &[u8]) -> Vec<u8> {
    let text = json!({
        "method": head.method,
        "base": head.base,
        "path": head.path,
        "query": head.query,
        "headers": head.headers,
        "body": String::from_utf8_lossy(body),
    });
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let answer = ResponseHead {
        status: head.query.parse().unwrap_or(200),
        headers: vec![
            pair("content-type", "text/plain"),
            pair("x-mine", "caf\u{e9}"),
            pair("connection", "close"),
            pair("x-warmpath-status", "forged"),
            pair(http::BILL, "cpu_ns=1"),
        ],
    };
    http::join(&answer, text.to_string().as_bytes())
        .unwrap()
        .to_vec()
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response
        .headers()
        .get(name)
        .map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn a_worker_is_told_who_calls_and_no_client_says_so_itself() {
    let bench = Bench::start().await;
    let proxy = Client::builder()
        .no_proxy()
        .local_address(std::net::IpAddr::from(PROXY));
    let proxy = proxy.build().unwrap();
    for (client, expected) in [(client(), "127.0.0.1"), (proxy, "192.0.2.7")] {
        let request = client
            .post(format!("{}/run/mirror", bench.base))
            .header("x-forwarded-for", "192.0.2.66, 192.0.2.7")
            .header("X-Warmpath-Caller", "192.0.2.77");
        let seen: Value = request.send().await.unwrap().json().await.unwrap();
        let headers: Vec<(String, String)> =
            serde_json::from_value(seen["headers"].clone()).unwrap();
        let told: Vec<_> = headers
            .iter()
            .filter(|(name, _)| name == http::CALLER)
            .collect();
        assert_eq!(told.len(), 1, "{headers:?}");
        assert_eq!(told[0].1, expected);
    }
}

#[tokio::test]
async fn a_reply_comes_back_as_it_is() {
    let bench = Bench::start().await;
    let response = bench.post("echo").body(r#"{"a": 1}"#).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(header(&response, "content-type"), "application/json");
    assert_eq!(header(&response, "x-warmpath-status"), "ok");
    assert_eq!(response.text().await.unwrap(), r#"{"a": 1}"#);
    let response = bench.post("bytes").send().await.unwrap();
    assert_eq!(
        header(&response, "content-type"),
        "application/octet-stream"
    );
}

#[tokio::test]
async fn each_status_has_its_code_its_fault_and_a_json_body() {
    let bench = Bench::start().await;
    for (function, code, fault) in [
        ("malformed", 400, "caller"),
        ("unknown-function", 404, "caller"),
        ("bad-payload", 400, "caller"),
        ("budget-exceeded", 408, "caller"),
        ("exception", 502, "function"),
        ("timeout", 504, "function"),
        ("out-of-memory", 502, "function"),
        ("crashed", 502, "function"),
        ("bad-reply", 502, "function"),
        ("no-worker", 503, "platform"),
        ("no-shard-owner", 503, "platform"),
        ("overloaded", 503, "platform"),
        ("code-unavailable", 503, "platform"),
        ("sandbox-unavailable", 503, "platform"),
        ("outcome-unknown", 503, "platform"),
        ("draining", 503, "platform"),
    ] {
        let response = bench.post(function).send().await.unwrap();
        assert_eq!(response.status(), code, "{function}");
        assert_eq!(header(&response, "x-warmpath-fault"), fault, "{function}");
        let status = function.replace('-', "_");
        assert_eq!(header(&response, "x-warmpath-status"), status);
        let retry_after = header(&response, "retry-after").to_owned();
        let expected = if code == 503 && function != "outcome-unknown" {
            "4"
        } else {
            ""
        };
        assert_eq!(retry_after, expected, "{function}");
        let request_id = header(&response, "x-request-id").to_owned();
        let body: Value = response.json().await.unwrap();
        assert_eq!(body["error"]["status"], status);
        assert_eq!(body["error"]["message"], "because");
        assert_eq!(body["error"]["request_id"], request_id);
        assert_eq!(body["error"]["retryable"], !retry_after.is_empty());
    }
}

#[tokio::test]
async fn a_worker_that_never_answers_is_the_platforms_fault() {
    let bench = Bench::start().await;
    let request = bench.post("silent").header("x-warmpath-budget-ms", "100");
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 503);
    assert_eq!(header(&response, "x-warmpath-status"), "no_answer");
    assert_eq!(header(&response, "x-warmpath-fault"), "platform");
}

#[tokio::test]
async fn headers_become_header_fields() {
    let bench = Bench::start().await;
    let request = bench
        .post("fields@3")
        .header("x-warmpath-session", "ada")
        .header("x-warmpath-shard-key", "foo")
        .header("x-warmpath-idempotent", "1")
        .header("x-warmpath-budget-ms", "700")
        .header("x-request-id", "mine-1");
    let response = request.send().await.unwrap();
    assert_eq!(header(&response, "x-request-id"), "mine-1");
    assert_eq!(
        header(&response, "set-cookie"),
        "",
        "the caller named the session"
    );
    let fields: Value = response.json().await.unwrap();
    assert_eq!(fields["session"], session_id("ada").to_string());
    assert_eq!(fields["slot"], 12_182);
    let wanted = flags::HAS_SESSION | flags::HAS_SLOT | flags::IDEMPOTENT;
    assert_eq!(fields["flags"].as_u64().unwrap() as u16 & wanted, wanted);
    // What is left of it: without it there would be two seconds.
    let left = fields["budget"].as_u64().unwrap();
    assert!((1..=700).contains(&left), "{fields}");
}

#[tokio::test]
async fn a_browser_is_given_a_session_and_keeps_it() {
    let bench = Bench::start().await;
    let response = bench.post("fields").send().await.unwrap();
    let cookie = header(&response, "set-cookie").to_owned();
    assert!(
        cookie.ends_with("; Path=/; HttpOnly; SameSite=Lax"),
        "{cookie}"
    );
    let first: Value = response.json().await.unwrap();
    let pair = cookie.split(';').next().unwrap();
    let response = bench
        .post("fields")
        .header("cookie", pair)
        .send()
        .await
        .unwrap();
    assert_eq!(header(&response, "set-cookie"), "");
    let second: Value = response.json().await.unwrap();
    assert_eq!(first["session"], second["session"]);
}

#[tokio::test]
async fn what_is_too_long_or_no_call_is_refused() {
    let bench = Bench::start().await;
    let whole = vec![b'1'; 200_001];
    let response = bench.post("echo").body(whole.clone()).send().await.unwrap();
    assert_eq!(response.status(), 413);
    assert_eq!(header(&response, "x-warmpath-fault"), "caller");

    for (method, path, code) in [
        (Method::TRACE, "/run/echo", 405),
        (Method::POST, "/run/Not%20A%20Name", 400),
        (Method::POST, "/run/", 400),
        (Method::POST, "/else", 404),
    ] {
        let request = client().request(method, format!("{}{path}", bench.base));
        assert_eq!(request.send().await.unwrap().status(), code, "{path}");
    }
    let response = bench
        .post("echo")
        .header("x-warmpath-budget-ms", "never")
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 400);
}

#[tokio::test]
async fn method_path_query_headers_and_body_go_there_and_status_headers_and_body_come_back() {
    let bench = Bench::start().await;
    let url = format!("{}/run/mirror/a%20b/c?418", bench.base);
    let request = client()
        .put(url)
        .header("x-custom", "1")
        .header("te", "trailers")
        .header("connection", "x-hop")
        .header("x-hop", "1")
        .body("text");
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 418);
    assert_eq!(header(&response, "content-type"), "text/plain");
    assert_eq!(header(&response, http::BILL), "cpu_ns=1");
    let mine = response.headers()["x-mine"].as_bytes();
    assert_eq!(mine, b"caf\xe9");
    assert_eq!(header(&response, "x-warmpath-status"), "ok");
    assert_eq!(header(&response, "connection"), "");
    let seen: Value = response.json().await.unwrap();
    assert_eq!(seen["method"], "PUT");
    assert_eq!(seen["base"], "/run/mirror");
    assert_eq!(seen["path"], "/a%20b/c");
    assert_eq!(seen["query"], "418");
    assert_eq!(seen["body"], "text");
    let headers = seen["headers"].as_array().unwrap();
    assert!(headers.contains(&json!(["x-custom", "1"])), "{seen}");
    for name in ["te", "connection", "x-hop"] {
        assert!(headers.iter().all(|pair| pair[0] != name), "{name}");
    }
}

#[tokio::test]
async fn head_has_no_body_and_a_status_of_the_handler_is_its_own() {
    let bench = Bench::start().await;
    let url = format!("{}/run/mirror?503", bench.base);
    let response = client().head(url).send().await.unwrap();
    assert_eq!(response.status(), 503);
    assert_eq!(header(&response, "x-warmpath-fault"), "function");
    assert_eq!(header(&response, "retry-after"), "");
    assert_eq!(response.bytes().await.unwrap(), "");
}

#[tokio::test]
async fn a_method_that_the_function_does_not_take_is_answered_with_those_it_does() {
    let bench = Bench::start().await;
    let response = bench.post("method-not-allowed").send().await.unwrap();
    assert_eq!(response.status(), 405);
    assert_eq!(header(&response, "allow"), "GET, HEAD");
    assert_eq!(header(&response, "x-warmpath-fault"), "caller");
}

#[tokio::test]
async fn a_handler_that_speaks_http_and_raises_is_answered_500() {
    let bench = Bench::start().await;
    let response = bench.post("exception/http").send().await.unwrap();
    assert_eq!(response.status(), 500);
    assert_eq!(header(&response, "x-warmpath-fault"), "function");
    assert_eq!(header(&response, "x-warmpath-status"), "exception");
}

#[tokio::test]
async fn a_reply_whose_head_is_garbage_is_the_functions_fault() {
    let bench = Bench::start().await;
    let response = bench.post("garbage").send().await.unwrap();
    assert_eq!(response.status(), 502);
    assert_eq!(header(&response, "x-warmpath-status"), "bad_reply");
    assert_eq!(header(&response, "x-warmpath-fault"), "function");
}

#[tokio::test]
async fn a_head_that_no_message_holds_is_refused() {
    let bench = Bench::start().await;
    let mut request = bench.post("echo");
    for number in 0..60 {
        request = request.header(format!("x-{number}"), "\\".repeat(400));
    }
    assert_eq!(request.send().await.unwrap().status(), 431);
}

#[tokio::test]
async fn a_client_that_trickles_is_cut_off() {
    let bench = Bench::start().await;
    let mut stream = TcpStream::connect(bench.address).await.unwrap();
    let head = "POST /run/echo HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n1";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");
}

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let bench = Bench::start().await;
    let mut stream = TcpStream::connect(bench.address).await.unwrap();
    let request = "POST /run/echo HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n42";
    let mut seen = Vec::new();
    for number in 1..=20 {
        stream.write_all(request.as_bytes()).await.unwrap();
        while count(&seen, b"\r\n\r\n42") < number {
            let mut buffer = [0; 1_024];
            let len = stream.read(&mut buffer).await.unwrap();
            assert!(len > 0, "closed after {number} requests");
            seen.extend_from_slice(&buffer[..len]);
        }
    }
    assert_eq!(count(&seen, b"HTTP/1.1 200"), 20);
}

fn count(bytes: &[u8], needle: &[u8]) -> usize {
    bytes
        .windows(needle.len())
        .filter(|window| window == &needle)
        .count()
}

#[tokio::test]
async fn health_and_metrics_can_be_read() {
    let bench = Bench::start().await;
    let health = client()
        .get(format!("{}/healthz", bench.base))
        .send()
        .await
        .unwrap();
    assert_eq!(health.text().await.unwrap(), "ok\n");
    bench.post("echo").body("1").send().await.unwrap();
    bench.post("exception").send().await.unwrap();
    let text = client()
        .get(&bench.metrics)
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    for line in [
        r#"gateway_requests_total{code="200",fault="nobody",status="ok"} 1"#,
        r#"gateway_requests_total{code="502",fault="function",status="exception"} 1"#,
    ] {
        assert!(text.contains(line), "{text}");
    }
}

#[tokio::test]
async fn stopping_lets_what_is_in_flight_finish() {
    let bench = Bench::start().await;
    let slow = bench
        .post("silent")
        .header("x-warmpath-budget-ms", "300")
        .send();
    let slow = tokio::spawn(slow);
    bench.exchanges.someone_waits().await;
    bench.stop.send(true).unwrap();
    assert_eq!(slow.await.unwrap().unwrap().status(), 503);
    bench.task.await.unwrap().unwrap();
    assert!(TcpStream::connect(bench.address).await.is_err());
}

#[tokio::test]
async fn a_busy_port_is_an_error_that_names_it() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(
        file.path(),
        format!("listen = '{address}'\nvip = '127.0.0.1:9'"),
    )
    .unwrap();
    let (_stop, stopped) = watch::channel(false);
    let error = gateway::run(Config::load(file.path()).unwrap(), stopped)
        .await
        .unwrap_err();
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_gets_an_id_and_its_outcome_later() {
    let bench = Bench::start().await;
    let kept = bench
        .post("echo")
        .header("x-warmpath-async", "true")
        .body("later");
    let kept = kept.send().await.unwrap();
    assert_eq!(kept.status(), 202);
    let place = header(&kept, "location").to_owned();
    let body: Value = kept.json().await.unwrap();
    let id: CallId = body["id"].as_str().unwrap().parse().unwrap();
    assert_eq!(place, format!("/async/{id}"));
    assert_eq!(body["state"], "pending");
    let ask = |last: &str| {
        let url = format!("{}/async/3f0000000000000{last}", bench.base);
        client().get(url).send()
    };
    for (last, code, state) in [
        ("0", 202, "pending"),
        ("2", 502, "failed"),
        ("3", 404, "unknown"),
    ] {
        let answer = ask(last).await.unwrap();
        assert_eq!(answer.status(), code);
        let body: Value = answer.json().await.unwrap();
        assert_eq!(
            (body["state"].as_str(), body["attempts"].as_u64()),
            (Some(state), Some(3))
        );
        assert_eq!(body["error"].as_str(), (state == "failed").then_some("[1]"));
    }
    let done = ask("1").await.unwrap();
    assert_eq!(
        (done.status().as_u16(), header(&done, "x-warmpath-async")),
        (200, "done")
    );
    assert_eq!(done.text().await.unwrap(), "[1]");
}

#[tokio::test]
async fn ids_and_methods_that_make_no_sense_are_refused() {
    let bench = Bench::start().await;
    for id in ["", "1", "ff00000000000000", "3f00000000000000/x"] {
        let url = format!("{}/async/{id}", bench.base);
        let answer = client().get(url).send().await.unwrap();
        assert_eq!(answer.status(), 400, "{id}");
    }
    let url = format!("{}/async/3f00000000000000", bench.base);
    let answer = client().delete(url).send().await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), header(&answer, "allow")),
        (405, "GET")
    );
    let odd = bench
        .post("echo")
        .header("x-warmpath-async", "perhaps")
        .send();
    assert_eq!(odd.await.unwrap().status(), 400);
}
