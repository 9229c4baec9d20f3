//! Lines between workers and the control plane: what is read is written again as something that reads the same.
#![no_main]

use balancer_userspace::membership::protocol::{FromWorker, ToWorker};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(line) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(said) = serde_json::from_str::<FromWorker>(line) {
        let again = serde_json::to_string(&said).expect("it was read");
        assert_eq!(serde_json::from_str::<FromWorker>(&again).ok(), Some(said));
    }
    if let Ok(said) = serde_json::from_str::<ToWorker>(line) {
        let again = serde_json::to_string(&said).expect("it was read");
        assert_eq!(serde_json::from_str::<ToWorker>(&again).ok(), Some(said));
    }
});
