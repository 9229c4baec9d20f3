//! Frames: a header, a meta and data.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use ebpf_common::limits::MAX_MESSAGE;
use serde::Serialize;

use crate::{profile, stream::PIECE_BYTES_MAX};

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

    proptest! {
        #[test]
        fn survives_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut input = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = decode(&mut input) {}
        }
    }
}
