//! HTTP through the RPC: a request's head into a call, a handler's head into an answer.
//!
//! Both heads were written by others. Neither may bring what concerns one connection only, nor what frames
//! a body: that is for each side's HTTP library to say. Deliberately absent: whether a function takes a method, which
//! its worker knows.

use bytes::Bytes;
use hyper::{
    HeaderMap, Method, Response, StatusCode,
    header::{CONNECTION, HeaderName, HeaderValue, TRAILER},
    http::request,
};
use warmpath_sdk::{
    Fault, Status,
    http::{self, Head, HeadError, RequestHead, ResponseHead},
};

use crate::{
    answer::{Answer, FAULT, Failure, STATUS},
    body::{AnswerBody, Passing},
    request::REQUEST_ID,
};

/// Where functions are called.
pub(crate) const RUN: &str = "/run/";
/// What the gateway takes; CONNECT and TRACE are for proxies and would be for the gateway itself.
const METHODS: [Method; 7] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
];

/// Splits what follows `/run/`: the function, as it is written, and the rest of the path, which begins with a slash.
pub(crate) fn split(rest: &str) -> (&str, &str) {
    match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    }
}

/// The head of a request for `function`, as it is written in the path.
pub(crate) fn head_of(parts: &request::Parts, function: &str) -> Result<RequestHead, Failure> {
    if !METHODS.contains(&parts.method) {
        let allowed = METHODS.map(|method| method.to_string()).join(", ");
        let message = format!("no function is called by {}", parts.method);
        return Err(Failure {
            allow: Some(allowed),
            ..Failure::of_caller(StatusCode::METHOD_NOT_ALLOWED, "method", message)
        });
    }
    let base = format!("{RUN}{function}");
    let path = parts.uri.path();
    let head = RequestHead {
        method: parts.method.as_str().to_owned(),
        path: match path.strip_prefix(&base) {
            Some(rest) if !rest.is_empty() => rest.to_owned(),
            _ => "/".to_owned(),
        },
        base,
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: headers_of(&parts.headers),
    };
    head.check().map_err(|error| bad_request(&error))?;
    Ok(head)
}

/// The headers that go on, in the order they came.
fn headers_of(headers: &HeaderMap) -> Vec<http::Header> {
    let named = named_by_connection(headers);
    let goes_on = |name: &str| {
        // Who calls is ours to say.
        !http::is_of_one_hop(name) && name != http::CALLER && !named.iter().any(|it| it == name)
    };
    headers
        .iter()
        .filter(|(name, _)| goes_on(name.as_str()))
        .map(|(name, value)| (name.as_str().to_owned(), http::text_of(value.as_bytes())))
        .collect()
}

/// What the header Connection names concerns this connection only.
fn named_by_connection(headers: &HeaderMap) -> Vec<String> {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect()
}

fn bad_request(error: &HeadError) -> Failure {
    let code = match error {
        HeadError::TooLong(_) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        _ => StatusCode::BAD_REQUEST,
    };
    Failure::of_caller(code, "bad_request", error.to_string())
}

impl From<HeadError> for Failure {
    fn from(error: HeadError) -> Self {
        bad_request(&error)
    }
}

/// The answer of a handler that said status and headers; `message` is the reply as it came.
pub(crate) fn answer(message: &Bytes) -> Result<Answer, Failure> {
    let (head, body) = http::split::<ResponseHead>(message).map_err(|error| bad_reply(&error))?;
    with_head(&head, body.into())
}

/// The answer of a handler whose reply is a stream, or whose body was.
pub(crate) fn streamed(head: &ResponseHead, body: Passing) -> Result<Answer, Failure> {
    head.check().map_err(|error| bad_reply(&error))?;
    let has_bill = head.headers.iter().any(|(name, _)| name == http::BILL);
    let mut answer = with_head(head, AnswerBody::Stream(body))?;
    if !has_bill {
        // It is not known yet, and follows the body for those who take trailers.
        let bill = HeaderValue::from_static(http::BILL);
        answer.headers_mut().insert(TRAILER, bill);
    }
    Ok(answer)
}

fn with_head(head: &ResponseHead, body: AnswerBody) -> Result<Answer, Failure> {
    let status = StatusCode::from_u16(head.status)
        .map_err(|_checked| bad_reply(&HeadError::Status(head.status)))?;
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    let mut of_handler = HeaderMap::new();
    for (name, value) in &head.headers {
        let (name, value) = header_of(name, value)?;
        of_handler.append(name, value);
    }
    let named = named_by_connection(&of_handler);
    for (name, value) in &of_handler {
        if !is_ours(name) && !named.iter().any(|it| it == name.as_str()) {
            headers.append(name.clone(), value.clone());
        }
    }
    // What the handler calls its own fault is counted as that.
    let fault = if status.is_server_error() {
        Fault::Function
    } else {
        Fault::Nobody
    };
    headers.insert(STATUS, HeaderValue::from_static(Status::Ok.name()));
    headers.insert(FAULT, HeaderValue::from_static(fault.name()));
    Ok(answer)
}

/// Headers that a handler has no say in. The bill comes from its worker, which lets no other one pass.
fn is_ours(name: &HeaderName) -> bool {
    let name = name.as_str();
    http::is_of_one_hop(name)
        || name == hyper::header::CONTENT_LENGTH
        || name == REQUEST_ID
        || (name.starts_with("x-warmpath-") && name != http::BILL)
}

fn header_of(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), Failure> {
    let refused = || bad_reply(&HeadError::Value(name.to_owned()));
    let bytes = http::bytes_of(value).ok_or_else(refused)?;
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_not_a_name| refused())?;
    let value = HeaderValue::from_bytes(&bytes).map_err(|_not_a_value| refused())?;
    Ok((name, value))
}

/// The worker has checked the head, so that this is the end of a handler's or a worker's lie.
fn bad_reply(error: &HeadError) -> Failure {
    Failure {
        fault: Fault::Function,
        ..Failure::of_caller(
            StatusCode::BAD_GATEWAY,
            Status::BadReply.name(),
            error.to_string(),
        )
    }
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    fn parts(method: &str, uri: &str, headers: &[(&str, &str)]) -> request::Parts {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_path_is_a_function_and_the_rest() {
        assert_eq!(split("hello"), ("hello", "/"));
        assert_eq!(split("hello/"), ("hello", "/"));
        assert_eq!(split("hello@3/a/b"), ("hello@3", "/a/b"));
        assert_eq!(split(""), ("", "/"));
        assert_eq!(split("/x"), ("", "/x"));
    }

    #[test]
    fn a_head_has_all_but_what_concerns_the_connection() {
        let parts = parts(
            "PUT",
            "/run/app/a%20b?x=1&x=2",
            &[
                ("host", "h"),
                ("connection", "close, X-Mine"),
                ("x-mine", "1"),
                ("transfer-encoding", "chunked"),
                ("upgrade", "h2c"),
                ("X-Warmpath-Caller", "192.0.2.66"),
                ("x-a", "1"),
                ("x-a", "2"),
            ],
        );
        let head = head_of(&parts, "app").unwrap();
        assert_eq!(
            (head.method.as_str(), head.base.as_str()),
            ("PUT", "/run/app")
        );
        assert_eq!(
            (head.path.as_str(), head.query.as_str()),
            ("/a%20b", "x=1&x=2")
        );
        let names: Vec<_> = head.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["host", "x-a", "x-a"]);
        assert_eq!(
            head_of(&self::parts("GET", "/run/app", &[]), "app")
                .unwrap()
                .path,
            "/"
        );
    }

    #[test]
    fn methods_of_proxies_are_refused() {
        for method in ["TRACE", "CONNECT", "BREW"] {
            let failure = head_of(&parts(method, "/run/app", &[]), "app").unwrap_err();
            assert_eq!(failure.code, StatusCode::METHOD_NOT_ALLOWED);
            assert!(failure.allow.unwrap().contains("PATCH"));
        }
    }

    fn answered(status: u16, headers: &[(&str, &str)]) -> Answer {
        let headers = headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let head = ResponseHead { status, headers };
        answer(&http::join(&head, b"body").unwrap()).unwrap()
    }

    #[test]
    fn an_answer_has_the_handlers_headers_but_those_that_are_ours() {
        let answer = answered(
            201,
            &[
                ("location", "/x"),
                ("set-cookie", "a=1"),
                ("set-cookie", "b=2"),
                ("content-length", "99999"),
                ("transfer-encoding", "chunked"),
                ("connection", "x-secret"),
                ("x-secret", "1"),
                ("x-warmpath-fault", "platform"),
                ("x-request-id", "mine"),
            ],
        );
        assert_eq!(answer.status(), StatusCode::CREATED);
        let headers = answer.headers();
        assert_eq!(headers["location"], "/x");
        assert_eq!(headers.get_all("set-cookie").iter().count(), 2);
        for name in [
            "content-length",
            "transfer-encoding",
            "connection",
            "x-secret",
            "x-request-id",
        ] {
            assert!(!headers.contains_key(name), "{name}");
        }
        assert_eq!(headers[FAULT], "nobody");
        assert_eq!(answered(503, &[]).headers()[FAULT], "function");
    }

    #[test]
    fn a_reply_that_lies_about_its_head_is_the_functions_fault() {
        for message in [&b""[..], b"{}\0\0\0\x09", b"{\"status\":99}\0\0\0\x0d"] {
            let failure = answer(&Bytes::copy_from_slice(message)).unwrap_err();
            assert_eq!(failure.code, StatusCode::BAD_GATEWAY);
            assert_eq!(failure.fault, Fault::Function);
        }
    }
}
