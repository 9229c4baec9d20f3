//! Frames between the worker and an instance; `docs/runtime-protocol.md` is the definition for people.
//!
//! What arrives here was written by a handler, or by anything a handler started, and may be any bytes at
//! all. Lengths are checked before a byte is reserved for them; every surprise is a [`FrameError`], and the
//! instance that caused it is ended.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use ebpf_common::{
    hash::slot_of_key,
    ids::SlotId,
    limits::{MAX_MESSAGE, SLOTS},
};
use serde::{Deserialize, Serialize};
use warmpath_sdk::http::{Header, RequestHead, ResponseHead};

use super::Exec;
use crate::{
    park::{Wait, Wake},
    profile,
    secrets::Environment,
    stream::PIECE_BYTES_MAX,
};

/// `type:u8 meta_len:u32 data_len:u32`.
pub const HEADER_LEN: usize = 9;
/// Longest meta from an instance.
pub const META_BYTES_MAX: usize = 16 * 1024;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// From the instance: the sandbox is closed behind it, or the function is loaded.
    Ready = 1,
    /// To it: load the function.
    Load = 2,
    /// To it: run the function on the event in the data.
    Invoke = 3,
    /// From it: the reply is the data.
    Result = 4,
    /// From it: the function raised an exception, or cannot be loaded.
    Error = 5,
    /// From it: a database operation.
    DbRequest = 6,
    /// To it: its result.
    DbReply = 7,
    /// From it: run the function again when a feed moves, or at a time.
    Wait = 8,
    /// From it: a piece of its reply; the first one says what stands before them all.
    Chunk = 9,
    /// To it: a chunk was taken, and another one may come.
    GoOn = 10,
    /// To it: a piece of the request's body.
    Body = 11,
    /// From it: asks for the next piece of the request's body.
    Pull = 12,
    /// From it: samples of the threads that run calls.
    Profile = 13,
    /// To it: the caller has gone, and wants nothing any more.
    Gone = 14,
}

impl Kind {
    /// The kind of a frame from an instance, and how much data it may carry.
    const fn from_instance(code: u8) -> Option<(Self, usize)> {
        match code {
            1 => Some((Self::Ready, 0)),
            4 => Some((Self::Result, MAX_MESSAGE)),
            5 => Some((Self::Error, 0)),
            6 => Some((Self::DbRequest, db::limits::OP_BYTES_MAX)),
            8 => Some((Self::Wait, 0)),
            9 => Some((Self::Chunk, PIECE_BYTES_MAX)),
            12 => Some((Self::Pull, 0)),
            13 => Some((Self::Profile, profile::FRAME_BYTES_MAX)),
            _ => None,
        }
    }
}

/// Why bytes from an instance are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The first byte names no frame that an instance sends.
    #[error("the handler's process wrote garbage to the worker: {0} is no frame type")]
    UnknownKind(u8),
    /// The result is longer than a response can be.
    #[error("the reply has {0} bytes, and {MAX_MESSAGE} are the most")]
    ResultTooLong(usize),
    /// Another part is longer than it may be.
    #[error("the handler's process wrote garbage to the worker: a frame with {0} bytes")]
    TooLong(usize),
    /// The meta is not what its kind has.
    #[error("the handler's process wrote garbage to the worker: its meta is malformed")]
    Meta,
    /// The samples are none.
    #[error("the handler's process wrote garbage to the worker: its profile is malformed")]
    Profile,
    /// There are more samples than anyone asked for.
    #[error("the handler's process floods the worker with profiles")]
    ProfileFlood,
}

/// One frame from an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    /// JSON, or empty.
    pub meta: Bytes,
    /// As the kind has it.
    pub data: Bytes,
}

/// Takes the next whole frame off `input`; `None` when more bytes are needed.
///
/// # Errors
/// When what is there can never become a frame.
pub fn decode(input: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
    let Some((header, _)) = input.split_first_chunk::<HEADER_LEN>() else {
        // Garbage is known by its first byte: no need to wait for the rest.
        return match input.first() {
            Some(&code) if Kind::from_instance(code).is_none() => {
                Err(FrameError::UnknownKind(code))
            }
            _ => Ok(None),
        };
    };
    let [code, m0, m1, m2, m3, d0, d1, d2, d3] = *header;
    let (kind, data_max) = Kind::from_instance(code).ok_or(FrameError::UnknownKind(code))?;
    let meta_len = u32::from_be_bytes([m0, m1, m2, m3]) as usize;
    let data_len = u32::from_be_bytes([d0, d1, d2, d3]) as usize;
    if meta_len > META_BYTES_MAX {
        return Err(FrameError::TooLong(meta_len));
    }
    if data_len > data_max {
        let is_result = kind == Kind::Result;
        return Err(if is_result {
            FrameError::ResultTooLong
        } else {
            FrameError::TooLong
        }(data_len));
    }
    let whole = HEADER_LEN + meta_len + data_len;
    if input.len() < whole {
        input.reserve(whole - input.len());
        return Ok(None);
    }
    input.advance(HEADER_LEN);
    let meta = input.split_to(meta_len).freeze();
    let data = input.split_to(data_len).freeze();
    Ok(Some(Frame { kind, meta, data }))
}

/// Appends a frame to `out`. `meta` is JSON, or absent.
pub fn encode<M: Serialize>(out: &mut BytesMut, kind: Kind, meta: Option<&M>, data: &[u8]) {
    let start = out.len();
    out.put_bytes(0, HEADER_LEN);
    if let Some(meta) = meta {
        let mut writer = out.writer();
        serde_json::to_writer(&mut writer, meta).expect("our own metas always serialise");
    }
    let meta_len = out.len() - start - HEADER_LEN;
    let length = |len: usize| {
        u32::try_from(len)
            .expect("frames are far below 4 GiB")
            .to_be_bytes()
    };
    let (m, d) = (length(meta_len), length(data.len()));
    let header = [kind as u8, m[0], m[1], m[2], m[3], d[0], d[1], d[2], d[3]];
    out[start..start + HEADER_LEN].copy_from_slice(&header);
    out.put_slice(data);
}

/// Meta of a [`Kind::Load`] that names no function yet: another one follows.
#[derive(Debug, Serialize)]
pub struct BecomeMeta<'a> {
    /// The program to become.
    pub exec: &'a Exec,
}

/// Meta of [`Kind::Load`].
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

/// Meta of the [`Kind::Ready`] that answers a load; absent, it says nothing.
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

/// Meta of [`Kind::Invoke`].
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

/// Meta of [`Kind::Result`] and of a first [`Kind::Chunk`]; a handler that does not speak HTTP sends none.
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

/// Meta of [`Kind::Error`].
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

/// Meta of [`Kind::Wait`]: a feed by the slot or by a key in it, a time, or both.
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

/// Meta of [`Kind::Body`].
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

/// Meta of [`Kind::DbReply`].
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
    use proptest::prelude::*;

    use super::*;

    fn frame(code: u8, meta_len: u32, data_len: u32, rest: &[u8]) -> BytesMut {
        let mut bytes = BytesMut::new();
        bytes.put_u8(code);
        bytes.put_u32(meta_len);
        bytes.put_u32(data_len);
        bytes.put_slice(rest);
        bytes
    }

    #[test]
    fn takes_frames_off_a_stream_whatever_its_pieces() {
        let mut whole = frame(4, 2, 3, b"{}abc");
        whole.extend_from_slice(&frame(1, 0, 0, b""));
        for cut in 0..whole.len() {
            let mut input = BytesMut::from(&whole[..cut]);
            let mut frames = Vec::new();
            while let Some(frame) = decode(&mut input).unwrap() {
                frames.push(frame);
            }
            input.extend_from_slice(&whole[cut..]);
            while let Some(frame) = decode(&mut input).unwrap() {
                frames.push(frame);
            }
            assert_eq!(frames.len(), 2, "cut at {cut}");
            assert_eq!(frames[0].data, "abc");
            assert_eq!(frames[1].kind, Kind::Ready);
        }
    }

    #[test]
    fn refuses_long_lengths_before_reserving_anything() {
        let mut reply = frame(4, 0, MAX_MESSAGE as u32 + 1, b"");
        assert_eq!(
            decode(&mut reply),
            Err(FrameError::ResultTooLong(MAX_MESSAGE + 1))
        );
        let mut meta = frame(5, u32::MAX, 0, b"");
        assert_eq!(
            decode(&mut meta),
            Err(FrameError::TooLong(u32::MAX as usize))
        );
        assert!(meta.capacity() < 1024);
        assert_eq!(
            decode(&mut frame(1, 0, 1, b"x")),
            Err(FrameError::TooLong(1))
        );
    }

    #[test]
    fn a_chunk_is_bounded_and_a_pull_has_no_data() {
        let chunk = decode(&mut frame(9, 0, 1, b"x")).unwrap().unwrap();
        assert_eq!((chunk.kind, &chunk.data[..]), (Kind::Chunk, &b"x"[..]));
        let long = PIECE_BYTES_MAX + 1;
        assert_eq!(
            decode(&mut frame(9, 0, long as u32, b"")),
            Err(FrameError::TooLong(long))
        );
        assert_eq!(
            decode(&mut frame(12, 0, 1, b"x")),
            Err(FrameError::TooLong(1))
        );
        // What the worker sends about streams, an instance does not.
        for code in [10, 11, 14] {
            let refused = decode(&mut frame(code, 0, 0, b""));
            assert_eq!(refused, Err(FrameError::UnknownKind(code)));
        }
    }

    #[test]
    fn knows_garbage_by_its_first_byte() {
        assert_eq!(
            decode(&mut BytesMut::from("G")),
            Err(FrameError::UnknownKind(b'G'))
        );
        // An instance sends no frames that the worker sends.
        assert_eq!(
            decode(&mut frame(3, 0, 0, b"")),
            Err(FrameError::UnknownKind(3))
        );
    }

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

    proptest! {
        #[test]
        fn survives_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut input = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = decode(&mut input) {}
        }
    }
}
