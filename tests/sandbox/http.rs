//! Handlers that speak HTTP: what reaches them, and what becomes of what they say.

use std::sync::Arc;

use ebpf_common::wire::Status;
use serde_json::{Value, json};
use store::CatalogEntry;
use warmpath_sdk::http::RequestHead;
use worker::pool::Outcome;

use crate::bed::{Bed, json, text};

const WSGI: &str = r#"
def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/raise":
        raise ValueError("no")
    if path == "/twice":
        start_response("200 OK", [])
    if path == "/inject":
        start_response("200 OK", [("X-A", "1\r\nSet-Cookie: a=b")])
        return [b""]
    if path == "/long":
        start_response("200 OK", [])
        return [b"x" * 40000, b"x" * 40000]
    body = environ["wsgi.input"].read()
    write = start_response("201 Created", [("X-Mine", "caf\xe9"), ("Content-Type", "text/plain")])
    write(environ["REQUEST_METHOD"].encode() + b" ")
    wanted = ["SCRIPT_NAME", "PATH_INFO", "QUERY_STRING", "HTTP_X_A", "CONTENT_LENGTH", "SERVER_NAME", "SERVER_PORT"]
    yielded = "|".join(environ.get(name, "-") for name in wanted).encode("latin-1")
    return iter([yielded, b"|", body])
"#;

const ASGI: &str = r#"
import asyncio

async def my_app(scope, receive, send):
    if scope["type"] == "lifespan":
        assert (await receive())["type"] == "lifespan.startup"
        scope["state"]["started"] = True
        await send({"type": "lifespan.startup.complete"})
        await receive()
        return
    if scope["path"].endswith("/raise"):
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b"sorry"})
        raise ValueError("no")
    if scope["path"].endswith("/silent"):
        return
    message = await receive()
    await asyncio.sleep(0.001)
    said = [scope["method"], scope["root_path"], scope["path"], scope["raw_path"].decode(), scope["query_string"].decode()]
    await send({"type": "http.response.start", "status": 202, "headers": [(b"X-Started", str(scope["state"]["started"]).encode())]})
    await send({"type": "http.response.body", "body": "|".join(said).encode(), "more_body": True})
    await send({"type": "http.response.body", "body": b"|" + message["body"]})
"#;

/// What the function answers to `method path?query`.
async fn call(
    bed: &Bed,
    function: &Arc<CatalogEntry>,
    method: &str,
    path: &str,
    body: &str,
) -> Outcome {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let head = RequestHead {
        method: method.to_owned(),
        base: "/run/f".to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        headers: [
            ("host", "example:81"),
            ("x-a", "1"),
            ("x-a", "2"),
            ("x_a", "3"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec(),
    };
    let mut invocation = bed.invocation(function, &Value::Null);
    invocation.payload = body.to_owned().into();
    invocation.http = Some(Box::new(head));
    bed.pool.invoke(invocation).await
}

fn header<'a>(outcome: &'a Outcome, name: &str) -> Option<&'a str> {
    let head = outcome.http.as_ref()?;
    let found = head.headers.iter().find(|(key, _)| key == name);
    found.map(|(_, value)| value.as_str())
}

fn status(outcome: &Outcome) -> (Status, u16) {
    let said = outcome.http.as_ref().map_or(0, |head| head.status);
    (outcome.status, said)
}

#[tokio::test]
async fn a_wsgi_application_gets_its_environ_and_gives_status_headers_and_body() {
    let bed = Bed::start().await;
    let function = bed.deploy("f", WSGI, "interface = 'wsgi'").await;
    let outcome = call(&bed, &function, "PUT", "/a%20%C3%A9?q=1&q=2", "body").await;
    assert_eq!(status(&outcome), (Status::Ok, 201), "{}", text(&outcome));
    let expected = "PUT /run/f|/a \u{c3}\u{a9}|q=1&q=2|1,2|4|example|81|body";
    let latin: String = outcome.payload.iter().copied().map(char::from).collect();
    assert_eq!(latin, expected);
    assert_eq!(header(&outcome, "x-mine"), Some("caf\u{e9}"));
    assert_eq!(header(&outcome, "content-type"), Some("text/plain"));
    bed.stop().await;
}

#[tokio::test]
async fn a_wsgi_application_that_fails_is_blamed_and_serves_on() {
    let bed = Bed::start().await;
    let function = bed.deploy("f", WSGI, "interface = 'wsgi'").await;
    let first = call(&bed, &function, "GET", "/", "").await.usage.instance;
    for (path, complaint) in [
        ("/raise", "ValueError: no"),
        ("/twice", "start_response was called twice"),
        ("/long", "longer than 65536"),
    ] {
        let outcome = call(&bed, &function, "GET", path, "").await;
        assert_eq!(status(&outcome), (Status::Exception, 500), "{path}");
        assert!(
            text(&outcome).contains(complaint),
            "{path}: {}",
            text(&outcome)
        );
    }
    let next = call(&bed, &function, "GET", "/", "").await;
    assert_eq!((next.status, next.usage.instance), (Status::Ok, first));
    bed.stop().await;
}

#[tokio::test]
async fn an_asgi_application_is_started_and_gets_its_scope() {
    let bed = Bed::start().await;
    let manifest = "interface = 'asgi'\napp = 'my_app'";
    let function = bed.deploy("f", ASGI, manifest).await;
    for _ in 0..2 {
        let outcome = call(&bed, &function, "PATCH", "/a%20b?q=1", "body").await;
        assert_eq!(status(&outcome), (Status::Ok, 202), "{}", text(&outcome));
        let expected = "PATCH|/run/f|/run/f/a b|/run/f/a%20b|q=1|body";
        assert_eq!(text(&outcome), expected);
        assert_eq!(header(&outcome, "x-started"), Some("True"));
    }
    let outcome = call(&bed, &function, "GET", "/raise", "").await;
    assert_eq!(status(&outcome), (Status::Exception, 500));
    let outcome = call(&bed, &function, "GET", "/silent", "").await;
    assert_eq!(status(&outcome), (Status::Exception, 500));
    assert!(
        text(&outcome).contains("http.response.start"),
        "{}",
        text(&outcome)
    );
    bed.stop().await;
}

#[tokio::test]
async fn an_asgi_application_that_cannot_start_says_why() {
    let bed = Bed::start().await;
    let code = r#"
async def app(scope, receive, send):
    await send({"type": "lifespan.startup.failed", "message": "no database"})
"#;
    let function = bed.deploy("f", code, "interface = 'asgi'").await;
    let outcome = call(&bed, &function, "GET", "/", "").await;
    assert_eq!(outcome.status, Status::Exception);
    assert!(text(&outcome).contains("no database"), "{}", text(&outcome));
    let missing = bed.deploy("g", "x = 1", "interface = 'wsgi'").await;
    let outcome = call(&bed, &missing, "GET", "/", "").await;
    assert!(
        text(&outcome).contains("defines no application app"),
        "{}",
        text(&outcome)
    );
    bed.stop().await;
}

#[tokio::test]
async fn a_handler_of_requests_gives_what_it_likes() {
    let bed = Bed::start().await;
    let code = r#"
import warmpath

def f(request, context):
    if request.path == "/json":
        return {"method": request.method, "query": request.parameters(), "sent": request.json()}
    if request.path == "/tuple":
        return 404, {"X-Who": request.header("Host")}, "gone"
    return warmpath.Response(b"\xff", status=203, headers=[("Content-Type", "image/x")])
"#;
    let function = bed.deploy("f", code, "interface = 'http'").await;
    let outcome = call(&bed, &function, "PUT", "/json?a=1&a=2", "[1]").await;
    assert_eq!(
        json(&outcome),
        json!({"method": "PUT", "query": {"a": ["1", "2"]}, "sent": [1]})
    );
    assert_eq!(header(&outcome, "content-type"), Some("application/json"));
    let outcome = call(&bed, &function, "GET", "/tuple", "").await;
    assert_eq!(status(&outcome), (Status::Ok, 404));
    assert_eq!(header(&outcome, "x-who"), Some("example:81"));
    let outcome = call(&bed, &function, "GET", "/", "").await;
    assert_eq!(status(&outcome), (Status::Ok, 203));
    assert_eq!(header(&outcome, "content-type"), Some("image/x"));
    bed.stop().await;
}

#[tokio::test]
async fn what_the_entry_holds_decides_how_an_automatic_interface_is_called() {
    let bed = Bed::start().await;
    let manifest = "interface = 'auto'";
    let event = "def f(event):\n    return {'saw': event}";
    let event = bed.deploy("a", event, manifest).await;
    let outcome = call(&bed, &event, "POST", "/", "[1]").await;
    assert_eq!(json(&outcome), json!({"saw": [1]}));
    assert!(outcome.http.is_none(), "an event's reply has no head");
    let wsgi = bed.deploy("b", WSGI, manifest).await;
    let outcome = call(&bed, &wsgi, "GET", "/", "").await;
    assert_eq!(status(&outcome), (Status::Ok, 201));
    let asgi = ASGI.replace("my_app", "app");
    let asgi = bed.deploy("c", &asgi, manifest).await;
    let outcome = call(&bed, &asgi, "GET", "/", "").await;
    assert_eq!(status(&outcome), (Status::Ok, 202));
    bed.stop().await;
}
