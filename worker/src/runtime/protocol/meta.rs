//! Metas: what stands in a frame before its data, as JSON.

use std::time::Duration;

use ebpf_common::{hash::slot_of_key, ids::SlotId, limits::SLOTS};
use serde::{Deserialize, Serialize};
use warmpath_sdk::http::{Header, RequestHead, ResponseHead};

use super::{super::Exec, FrameError};
use crate::{
    park::{Wait, Wake},
    secrets::Environment,
};

/// Meta of a [`super::Kind::Load`] that names no function yet: another one follows.
#[derive(Debug, Serialize)]
pub struct BecomeMeta<'a> {
    /// The program to become.
    pub exec: &'a Exec,
}

/// Meta of [`super::Kind::Load`].
#[derive(Debug, Serialize)]
pub struct LoadMeta<'a> {
    /// The file that holds the handler, relative to the bundle.
    pub entry: &'a str,
    /// `json` or `bytes`.
    pub payload: store::PayloadKind,
    /// Directories below `/layers` that packages are searched in, in this order.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub layers: &'a [String],
    /// How the handler is called.
    pub interface: store::Interface,
    /// The application's name in the entry.
    pub app: &'a str,
    /// The program that loads it, if the runtime has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exec: Option<Exec>,
    /// Variables to be set before anything of the function runs, its secrets among them.
    #[serde(skip_serializing_if = "Environment::is_empty")]
    pub env: &'a Environment,
    /// The qualified name under which the function was called first.
    pub function: &'a str,
    /// This worker.
    pub worker: &'a str,
    /// This instance.
    pub instance: u64,
    /// How many requests come at a time; absent: one.
    #[serde(skip_serializing_if = "is_one")]
    pub concurrency: u32,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
const fn is_no(says: &bool) -> bool {
    !*says
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
const fn is_one(concurrency: &u32) -> bool {
    *concurrency == 1
}

/// Meta of the [`super::Kind::Ready`] that answers a load; absent, it says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct LoadedMeta {
    /// The modules that the function imported.
    #[serde(default)]
    pub imports: Vec<Imported>,
    /// Whether the runtime asks for bodies that follow. Before one that does not, the worker puts them together.
    #[serde(default)]
    pub streams: bool,
}

/// A module that a function imported.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Imported {
    /// Its name.
    pub module: String,
    /// How many microseconds that took.
    pub us: u64,
    /// The layer that it came from; absent for the standard library.
    #[serde(default)]
    pub layer: Option<String>,
}

impl LoadedMeta {
    /// Reads it. The function's own code has run by now, so that none of it is believed: what is no module's
    /// name is left out, and nothing took longer than `all`, which is what loading took.
    ///
    /// # Errors
    /// [`FrameError::Meta`] when it is not JSON of this form.
    pub fn parse(meta: &[u8], all: Duration) -> Result<Self, FrameError> {
        if meta.is_empty() {
            return Ok(Self::default());
        }
        let mut loaded: Self = serde_json::from_slice(meta).or(Err(FrameError::Meta))?;
        let most = u64::try_from(all.as_micros()).unwrap_or(u64::MAX);
        loaded.imports.retain(|import| is_module(&import.module));
        loaded.imports.truncate(IMPORTS_MAX);
        for import in &mut loaded.imports {
            import.us = most.min(import.us);
        }
        Ok(loaded)
    }
}

/// Imports that are listened to.
const IMPORTS_MAX: usize = 64;
/// Longest name of a module.
const MODULE_LEN_MAX: usize = 100;

fn is_module(name: &str) -> bool {
    let is_word = |word: &str| {
        let is_letter = |c: char| c.is_alphanumeric() || c == '_';
        !word.is_empty() && word.chars().all(is_letter)
    };
    name.len() <= MODULE_LEN_MAX && name.split('.').all(is_word)
}

/// Meta of [`super::Kind::Invoke`].
#[derive(Debug, Serialize)]
pub struct InvokeMeta<'a> {
    /// What its other frames are known by, in an instance that serves several requests at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call: Option<u32>,
    /// The request.
    pub request_id: u64,
    /// Its session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<u64>,
    /// Time left.
    pub deadline_ms: u64,
    /// The qualified name under which it was called.
    pub function: &'a str,
    /// What woke it, if it was parked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wake: Option<&'a Wake>,
    /// What stood before the body, if the handler speaks HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<&'a RequestHead>,
    /// How many chunks the reply may be ahead of its caller; absent if that takes no stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<u32>,
    /// Whether the request's body follows, piece by piece.
    #[serde(skip_serializing_if = "is_no")]
    pub body_follows: bool,
    /// How often a second to sample the thread that runs it, while a profile is taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<u32>,
}

/// Meta of [`super::Kind::Result`] and of a first [`super::Kind::Chunk`]; a handler that does not speak HTTP sends none.
#[derive(Debug, Deserialize)]
pub struct ResultMeta {
    status: Option<u16>,
    #[serde(default)]
    headers: Vec<Header>,
}

impl ResultMeta {
    /// What a handler that speaks HTTP says before its reply.
    ///
    /// # Errors
    /// When it is something else.
    pub fn parse(meta: &[u8]) -> Result<Option<ResponseHead>, FrameError> {
        if meta.is_empty() {
            return Ok(None);
        }
        let meta: Self = serde_json::from_slice(meta).or(Err(FrameError::Meta))?;
        let headers = meta.headers;
        Ok(meta.status.map(|status| ResponseHead { status, headers }))
    }
}

/// Meta of [`super::Kind::Error`].
#[derive(Debug, Deserialize)]
pub struct ErrorMeta {
    /// The exception's type.
    pub kind: String,
    /// What it says.
    pub message: String,
}

impl ErrorMeta {
    /// Reads it.
    ///
    /// # Errors
    /// When it is something else.
    pub fn parse(meta: &[u8]) -> Result<Self, FrameError> {
        serde_json::from_slice(meta).or(Err(FrameError::Meta))
    }
}

/// Meta of [`super::Kind::Wait`]: a feed by the slot or by a key in it, a time, or both.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WaitMeta {
    slot: Option<u16>,
    key: Option<String>,
    cursor: Option<u64>,
    until_ms: Option<u64>,
    state: Option<Box<str>>,
    /// That of any frame; [`CallMeta`] reads it.
    #[serde(rename = "call")]
    _call: Option<u32>,
}

impl WaitMeta {
    /// Reads what it asks for.
    ///
    /// # Errors
    /// When it is something else, contradicts itself, or asks for nothing that could ever wake it.
    pub fn parse(meta: &[u8]) -> Result<Wait, FrameError> {
        let meta: Self = serde_json::from_slice(meta).or(Err(FrameError::Meta))?;
        let slot = match (meta.slot, meta.key) {
            (Some(slot), None) if u32::from(slot) < SLOTS => Some(SlotId(slot)),
            (None, Some(key)) => Some(slot_of_key(key.as_bytes())),
            (None, None) if meta.until_ms.is_some() => None,
            _ => return Err(FrameError::Meta),
        };
        let feed = match (slot, meta.cursor) {
            (Some(slot), Some(cursor)) => Some((slot, db::Cursor(cursor))),
            (None, None) => None,
            _ => return Err(FrameError::Meta),
        };
        Ok(Wait {
            feed,
            until_ms: meta.until_ms,
            state: meta.state,
        })
    }
}

/// Meta of [`super::Kind::Body`].
#[derive(Debug, Serialize)]
pub struct BodyMeta {
    /// The call that asked, in an instance that serves several requests at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call: Option<u32>,
    /// Whether the body is over; there is no data then.
    #[serde(skip_serializing_if = "is_no")]
    pub end: bool,
}

/// Which call a frame is of, in an instance that serves several requests at a time.
#[derive(Debug, Serialize, Deserialize)]
pub struct CallMeta {
    /// The number that its invoke frame gave it.
    pub call: u32,
}

impl CallMeta {
    /// Reads it; a frame's own fields may stand beside it.
    ///
    /// # Errors
    /// When there is none.
    pub fn parse(meta: &[u8]) -> Result<Self, FrameError> {
        serde_json::from_slice(meta).or(Err(FrameError::Meta))
    }
}

/// Meta of [`super::Kind::DbReply`].
#[derive(Debug, Serialize)]
pub struct DbReplyMeta {
    /// The call that asked, in an instance that serves several requests at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call: Option<u32>,
    /// Present when the answer is no.
    #[serde(flatten)]
    pub error: Option<DbErrorMeta>,
}

impl DbReplyMeta {
    /// That of a reply in the data.
    #[must_use]
    pub const fn good(call: u32) -> Self {
        Self {
            call: Some(call),
            error: None,
        }
    }
}

/// Why the database says no.
#[derive(Debug, Serialize)]
pub struct DbErrorMeta {
    /// For people.
    pub error: String,
    /// For programs.
    pub kind: &'static str,
    /// Whether the same operation may succeed later and was not done.
    pub retryable: bool,
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::{
        super::{Kind, encode},
        *,
    };

    #[test]
    fn a_wait_is_read_only_if_something_can_end_it() {
        let feed = |slot, cursor| Some((SlotId(slot), db::Cursor(cursor)));
        let parse = |meta: &str| WaitMeta::parse(meta.as_bytes()).map(|wait| wait.feed);
        assert_eq!(parse(r#"{"slot":7,"cursor":3}"#), Ok(feed(7, 3)));
        let of_key = slot_of_key(b"u").0;
        assert_eq!(
            parse(r#"{"key":"{u}:a","cursor":0,"until_ms":5}"#),
            Ok(feed(of_key, 0))
        );
        assert_eq!(parse(r#"{"until_ms":5,"state":"s"}"#), Ok(None));
        for bad in [
            "{}",
            "[]",
            "",
            r#"{"slot":7}"#,
            r#"{"slot":16384,"cursor":0}"#,
            r#"{"slot":7,"key":"a","cursor":0}"#,
            r#"{"cursor":1,"until_ms":5}"#,
            r#"{"slot":7,"cursor":-1}"#,
            r#"{"until_ms":5,"more":1}"#,
        ] {
            assert_eq!(parse(bad), Err(FrameError::Meta), "{bad}");
        }
    }

    #[test]
    fn writes_what_the_document_draws() {
        let mut out = BytesMut::new();
        let meta = InvokeMeta {
            call: None,
            request_id: 7,
            session: None,
            deadline_ms: 100,
            function: "f@1",
            wake: None,
            http: None,
            stream: None,
            body_follows: false,
            profile: None,
        };
        encode(&mut out, Kind::Invoke, Some(&meta), b"[1]");
        let json = br#"{"request_id":7,"deadline_ms":100,"function":"f@1"}"#;
        assert_eq!(out[..9], [3, 0, 0, 0, json.len() as u8, 0, 0, 0, 3]);
        assert_eq!(&out[9..9 + json.len()], json);
        assert_eq!(&out[9 + json.len()..], b"[1]");
    }

    #[test]
    fn a_result_says_status_and_headers_or_nothing() {
        assert_eq!(ResultMeta::parse(b""), Ok(None));
        assert_eq!(ResultMeta::parse(b"{}"), Ok(None));
        let head = ResultMeta::parse(br#"{"status":201,"headers":[["a","b"]]}"#).unwrap();
        let head = head.unwrap();
        assert_eq!((head.status, head.headers.len()), (201, 1));
        for bad in [
            &br#"{"status":"x"}"#[..],
            br#"{"status":99999}"#,
            br#"{"headers":1}"#,
            b"[",
        ] {
            assert_eq!(ResultMeta::parse(bad), Err(FrameError::Meta));
        }
    }
}
