//! Path and headers of an HTTP request as the gateway reads them.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| gateway::fuzzing::request(data));
