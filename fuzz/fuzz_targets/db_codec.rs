//! Ops as functions and workers send them, and replies: what is read is written again as the same bytes.
#![no_main]

use db::codec::{decode_op, decode_reply, encode_op, encode_reply};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(op) = decode_op(data) {
        assert_eq!(encode_op(&op), data);
    }
    if let Ok(reply) = decode_reply(data) {
        assert_eq!(encode_reply(&reply), data);
    }
});
