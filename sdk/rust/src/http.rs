//! HTTP requests and responses as messages: `docs/wire-format.md`, "HTTP".
//!
//! A message is the body, then the head as JSON, then the head's length. Heads come from callers and from
//! handlers, so whoever takes one off the wire checks it before it uses it: a name or value that could end a
//! header early is refused, not repaired.

use bytes::{BufMut, Bytes, BytesMut};
use ebpf_common::limits::MAX_MESSAGE;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Longest head, as JSON.
pub const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Bytes of the length behind the head.
const LENGTH_BYTES: usize = 4;
/// Longest method.
const METHOD_BYTES_MAX: usize = 32;
/// Headers that concern one connection, not the message (RFC 9110 §7.6.1), and with them those that frame a body.
const OF_ONE_HOP: [&str; 10] = [
    "connection",
    "expect",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What a request used, in the head of its reply. The worker writes it, and takes away what a handler calls so.
pub const BILL: &str = "x-warmpath-bill";

/// Who calls, in the head of a request that came through a gateway: an address. A worker takes it off, and believes it of
/// gateways that it was told of.
pub const CALLER: &str = "x-warmpath-caller";

/// Name, in lower case, and value; each character of a value is one byte.
pub type Header = (String, String);

/// What stands before the body of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestHead {
    /// As sent: methods are case-sensitive.
    pub method: String,
    /// What the path began with, and is not the function's business: `/run/<function>`.
    pub base: String,
    /// The rest of the path as it was sent; begins with a slash.
    pub path: String,
    /// Behind the question mark, without it.
    pub query: String,
    /// In the order they came.
    pub headers: Vec<Header>,
}

/// What stands before the body of a response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResponseHead {
    /// 200 to 599.
    pub status: u16,
    /// In the order they are to go.
    #[serde(default)]
    pub headers: Vec<Header>,
}

/// Why a message is none of HTTP.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Its end is not a head and its length.
    #[error("the message does not end with the head of an HTTP message")]
    Malformed,
    /// The head is longer than it may be.
    #[error("a head of {0} bytes is longer than the {HEAD_BYTES_MAX} bytes it may have")]
    TooLong(usize),
    /// No status that ends a request.
    #[error("{0} is no status of a response: 200 to 599 are")]
    Status(u16),
    /// The method, the path or the query cannot be in a request line.
    #[error("`{0}` cannot stand in a request line")]
    Line(String),
    /// A header's name is no token.
    #[error("`{0}` is no header name")]
    Name(String),
    /// A header's value has a character that is not one byte, or would end the header.
    #[error("the value of the header `{0}` has a character that a header cannot have")]
    Value(String),
}

/// A head that can be checked.
pub trait Head: Serialize + DeserializeOwned {
    /// Whether it can be written as HTTP without meaning something else.
    ///
    /// # Errors
    /// The first part that cannot.
    fn check(&self) -> Result<(), HeadError>;
}

impl RequestHead {
    /// The head of a call that came without one.
    #[must_use]
    pub fn of_call(body_len: usize) -> Self {
        Self {
            method: "POST".to_owned(),
            base: String::new(),
            path: "/".to_owned(),
            query: String::new(),
            headers: vec![("content-length".to_owned(), body_len.to_string())],
        }
    }
}

impl ResponseHead {
    /// The head of a reply whose function says nothing of HTTP: the wire does not tell what a payload is, so
    /// what reads as JSON is called JSON.
    #[must_use]
    pub fn of_reply(payload: &[u8]) -> Self {
        Self {
            status: 200,
            headers: vec![("content-type".to_owned(), content_type(payload).to_owned())],
        }
    }
}

/// What to call a payload of which nothing else is known.
#[must_use]
pub fn content_type(payload: &[u8]) -> &'static str {
    match serde_json::from_slice::<serde::de::IgnoredAny>(payload) {
        Ok(_) => "application/json",
        Err(_) => "application/octet-stream",
    }
}

impl Head for RequestHead {
    fn check(&self) -> Result<(), HeadError> {
        let is_line = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_token(&self.method) || self.method.len() > METHOD_BYTES_MAX {
            return Err(HeadError::Line(self.method.clone()));
        }
        for text in [&self.base, &self.path, &self.query] {
            if !is_line(text) {
                return Err(HeadError::Line(text.clone()));
            }
        }
        if !self.path.starts_with('/') {
            return Err(HeadError::Line(self.path.clone()));
        }
        check_headers(&self.headers)
    }
}

impl Head for ResponseHead {
    fn check(&self) -> Result<(), HeadError> {
        if !(200..=599).contains(&self.status) {
            return Err(HeadError::Status(self.status));
        }
        check_headers(&self.headers)
    }
}

/// The message of `head` and `body`.
///
/// # Errors
/// When the head breaks a rule. How long the message is, is for the caller to check.
pub fn join<H: Head>(head: &H, body: &[u8]) -> Result<Bytes, HeadError> {
    head.check()?;
    let mut message = BytesMut::with_capacity(body.len() + 512);
    message.put_slice(body);
    let mut writer = message.writer();
    serde_json::to_writer(&mut writer, head).or(Err(HeadError::Malformed))?;
    let mut message = writer.into_inner();
    let head_len = message.len() - body.len();
    if head_len > HEAD_BYTES_MAX {
        return Err(HeadError::TooLong(head_len));
    }
    message.put_u32(u32::try_from(head_len).unwrap_or(u32::MAX));
    Ok(message.freeze())
}

/// Head and body of `message`.
///
/// # Errors
/// When it ends with no head, or with one that breaks a rule.
pub fn split<H: Head>(message: &Bytes) -> Result<(H, Bytes), HeadError> {
    let Some((rest, length)) = message.split_last_chunk::<LENGTH_BYTES>() else {
        return Err(HeadError::Malformed);
    };
    let head_len = u32::from_be_bytes(*length) as usize;
    if head_len > HEAD_BYTES_MAX {
        return Err(HeadError::TooLong(head_len));
    }
    let body_len = rest.len().checked_sub(head_len);
    let body_len = body_len.ok_or(HeadError::Malformed)?;
    let head = rest.get(body_len..).unwrap_or_default();
    let head: H = serde_json::from_slice(head).or(Err(HeadError::Malformed))?;
    head.check()?;
    Ok((head, message.slice(..body_len)))
}

/// How long a body may be beside `head`.
#[must_use]
pub fn body_bytes_max<H: Head>(head: &H) -> usize {
    let head_len = serde_json::to_vec(head).map_or(MAX_MESSAGE, |head| head.len());
    MAX_MESSAGE.saturating_sub(head_len + LENGTH_BYTES)
}

/// Whether a header of this name (in lower case) concerns one connection only.
#[must_use]
pub fn is_of_one_hop(name: &str) -> bool {
    OF_ONE_HOP.contains(&name)
}

/// A header's bytes as text: each of them a character.
#[must_use]
pub fn text_of(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

/// The bytes of a header's text; `None` if a character is not one byte.
#[must_use]
pub fn bytes_of(text: &str) -> Option<Vec<u8>> {
    text.chars().map(|c| u8::try_from(c).ok()).collect()
}

fn check_headers(headers: &[Header]) -> Result<(), HeadError> {
    for (name, value) in headers {
        if !is_token(name) {
            return Err(HeadError::Name(name.chars().take(64).collect()));
        }
        let is_fit =
            |c: char| c == '\t' || (' '..='~').contains(&c) || ('\u{80}'..='\u{ff}').contains(&c);
        if !value.chars().all(is_fit) {
            return Err(HeadError::Value(name.clone()));
        }
    }
    Ok(())
}

/// `token` of RFC 9110 §5.6.2.
fn is_token(text: &str) -> bool {
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_fit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request() -> RequestHead {
        RequestHead {
            method: "PUT".to_owned(),
            base: "/run/app".to_owned(),
            path: "/a%20b".to_owned(),
            query: "x=1&y".to_owned(),
            headers: vec![("accept".to_owned(), "caf\u{e9}".to_owned())],
        }
    }

    #[test]
    fn a_message_is_its_body_and_then_its_head() {
        let message = join(&request(), b"[1]").unwrap();
        assert!(message.starts_with(b"[1]{\"method\":\"PUT\""));
        let (head, body) = split::<RequestHead>(&message).unwrap();
        assert_eq!((head, &body[..]), (request(), &b"[1]"[..]));
        let longest = body_bytes_max(&request());
        let message = join(&request(), &vec![0; longest]).unwrap();
        assert_eq!(message.len(), MAX_MESSAGE);
    }

    #[test]
    fn what_would_end_a_header_early_is_refused() {
        for (name, value) in [
            ("x-a", "1\r\nset-cookie: a=b"),
            ("x-a", "1\n"),
            ("x-a", "\0"),
            ("x-a", "\u{100}"),
            ("x-a\r\nx-b", "1"),
            ("x a", "1"),
            ("x:a", "1"),
            ("", "1"),
        ] {
            let head = ResponseHead {
                status: 200,
                headers: vec![(name.to_owned(), value.to_owned())],
            };
            let error = join(&head, b"").unwrap_err();
            let is_meant = matches!(error, HeadError::Name(_) | HeadError::Value(_));
            assert!(is_meant, "{name:?}: {value:?}: {error}");
        }
    }

    #[test]
    fn what_is_no_request_line_is_refused() {
        let with = |edit: &dyn Fn(&mut RequestHead)| {
            let mut head = request();
            edit(&mut head);
            head.check()
        };
        let is_line = |result| matches!(result, Err(HeadError::Line(_)));
        assert!(is_line(with(&|head| head.method = "GET /".to_owned())));
        assert!(is_line(with(&|head| head.method = String::new())));
        assert!(is_line(with(&|head| head.path = "a".to_owned())));
        assert!(is_line(with(&|head| head.path = "/a b".to_owned())));
        assert!(is_line(with(&|head| head.query = "a\nb".to_owned())));
        assert_eq!(with(&|_| ()), Ok(()));
    }

    #[test]
    fn a_status_that_ends_no_request_is_refused() {
        for status in [0, 100, 101, 199, 600, 999] {
            let head = ResponseHead {
                status,
                headers: Vec::new(),
            };
            assert_eq!(head.check(), Err(HeadError::Status(status)));
        }
    }

    #[test]
    fn a_length_beyond_the_message_or_the_limit_is_refused() {
        let of = |bytes: &'static [u8]| split::<ResponseHead>(&Bytes::from_static(bytes));
        assert_eq!(of(b"").unwrap_err(), HeadError::Malformed);
        assert_eq!(of(b"{}\0\0\0\x03").unwrap_err(), HeadError::Malformed);
        assert_eq!(of(b"{}\0\0\0\x02").unwrap_err(), HeadError::Malformed);
        let error = of(b"{}\xff\xff\xff\xff").unwrap_err();
        assert_eq!(error, HeadError::TooLong(u32::MAX as usize));
        let long = ResponseHead {
            status: 200,
            headers: vec![("x".to_owned(), "y".repeat(HEAD_BYTES_MAX))],
        };
        assert!(matches!(join(&long, b""), Err(HeadError::TooLong(_))));
    }

    #[test]
    fn every_byte_has_a_character() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(bytes_of(&text_of(&all)), Some(all));
        assert_eq!(bytes_of("\u{20ac}"), None);
    }

    proptest! {
        #[test]
        fn no_message_panics(bytes: Vec<u8>) {
            let _outcome = split::<RequestHead>(&Bytes::from(bytes));
        }
    }
}
