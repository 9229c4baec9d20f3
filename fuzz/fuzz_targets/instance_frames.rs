//! What a function's process writes to its worker: any bytes, in any pieces. The pieces change nothing; what is kept for
//! bytes that have not come stays within what a frame may have; a frame's meta is read or refused.
#![no_main]

use std::time::Duration;

use bytes::BytesMut;
use db::limits::OP_BYTES_MAX;
use libfuzzer_sys::fuzz_target;
use worker::{
    profile::Stacks,
    runtime::protocol::{
        CallMeta, ErrorMeta, Frame, FrameError, HEADER_LEN, Kind, LoadedMeta, META_BYTES_MAX,
        ResultMeta, WaitMeta, decode,
    },
};

/// Modules that a load is listened to for.
const IMPORTS_MAX: usize = 64;
const LOADING: Duration = Duration::from_millis(5);
/// Of an instance whose frame has begun. The longest carry a database operation; buffers may double.
const MEMORY_MAX: usize = 2 * (HEADER_LEN + META_BYTES_MAX + OP_BYTES_MAX);

fuzz_target!(|data: &[u8]| {
    let [piece, stream @ ..] = data else {
        return;
    };
    let whole = frames(stream, stream.len().max(1));
    let pieces = frames(stream, usize::from(*piece) + 1);
    assert_eq!(whole, pieces);
    for frame in &whole.0 {
        read(frame);
    }
});

/// The frames in `stream`, which comes in pieces of `piece` bytes; why it ended early, if it did.
fn frames(stream: &[u8], piece: usize) -> (Vec<Frame>, Option<FrameError>) {
    let mut input = BytesMut::new();
    let mut frames = Vec::new();
    for piece in stream.chunks(piece) {
        input.extend_from_slice(piece);
        loop {
            match decode(&mut input) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => {
                    assert!(input.capacity() <= MEMORY_MAX, "{}", input.capacity());
                    break;
                }
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

fn read(frame: &Frame) {
    let Frame { kind, meta, data } = frame;
    assert!(meta.len() <= META_BYTES_MAX);
    let has_no_data = matches!(kind, Kind::Ready | Kind::Error | Kind::Wait | Kind::Pull);
    assert!(!has_no_data || data.is_empty());
    let _call = CallMeta::parse(meta);
    match kind {
        Kind::Ready => {
            if let Ok(loaded) = LoadedMeta::parse(meta, LOADING) {
                assert!(loaded.imports.len() <= IMPORTS_MAX);
                let most = LOADING.as_micros();
                assert!(loaded.imports.iter().all(|it| u128::from(it.us) <= most));
            }
        }
        Kind::Result | Kind::Chunk => drop(ResultMeta::parse(meta)),
        Kind::Error => drop(ErrorMeta::parse(meta)),
        Kind::Wait => {
            if let Ok(wait) = WaitMeta::parse(meta) {
                assert!(wait.feed.is_some() || wait.until_ms.is_some(), "{wait:?}");
            }
        }
        Kind::Profile => {
            if let Ok(stacks) = Stacks::parse(data) {
                let is_clean = |stack: &str| !stack.contains(char::is_control);
                assert!(stacks.iter().all(|(stack, _)| is_clean(stack)));
            }
        }
        Kind::DbRequest => drop(db::codec::decode_op(data)),
        Kind::Pull => (),
        _ => panic!("an instance sends no {kind:?}"),
    }
}
