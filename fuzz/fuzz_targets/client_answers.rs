//! Datagrams that answer a client's request, good and forged, while its timers run.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| warmpath_sdk::fuzzing::exchange(data));
