//! Packets of requests as a worker's RPC server takes them in, with its memory bounded.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| worker::rpc::fuzzing::requests(data));
