//! A worker that answers as the function's name says.

use std::net::SocketAddr;

use bytes::Bytes;
use ebpf_common::{
    ids::FunctionId,
    wire::{Kind, RpcHeader, Status, flags},
};
use serde_json::json;
use tokio::net::UdpSocket;
use warmpath_sdk::{
    deferred::{Ask, FUNCTION_ID, Report, State},
    http::{self, RequestHead, ResponseHead},
};

use crate::streams::Exchanges;

/// Answers a function named like a status with that status, and a few with what they saw.
pub(crate) async fn worker(exchanges: Exchanges) -> SocketAddr {
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
            // Who calls now pays when it is made.
            let callers = head.headers.iter().filter(|(name, _)| name == http::CALLER);
            let callers: Vec<_> = callers.map(|(_, caller)| caller.as_str()).collect();
            assert_eq!(callers, ["127.0.0.1"]);
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
