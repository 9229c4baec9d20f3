//! The gateway over real HTTP, with a worker that answers as the function's name says.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

mod bench;
mod deferred;
mod streams;
mod worker;

use ebpf_common::wire::flags;
use gateway::Config;
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use warmpath_sdk::{http, session_id};

use self::bench::{Bench, PROXY, client, header};

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
