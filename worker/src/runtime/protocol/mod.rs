//! Frames between the worker and an instance; `docs/runtime-protocol.md` is the definition for people.
//!
//! What arrives here was written by a handler, or by anything a handler started, and may be any bytes at
//! all. Lengths are checked before a byte is reserved for them; every surprise is a [`FrameError`], and the
//! instance that caused it is ended.

mod frame;
mod meta;

pub use self::{
    frame::{Frame, FrameError, HEADER_LEN, Kind, META_BYTES_MAX, decode, encode},
    meta::{
        BecomeMeta, BodyMeta, CallMeta, DbErrorMeta, DbReplyMeta, ErrorMeta, Imported, InvokeMeta,
        LoadMeta, LoadedMeta, ResultMeta, WaitMeta,
    },
};
