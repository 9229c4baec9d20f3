//! Policy files, as `warmpath map apply` and the admin API take them, and the configuration around them: refused with a
//! reason, or accepted and written again as the same.
#![no_main]

use std::path::Path;

use balancer_userspace::{
    Config,
    config::{PolicyFile, TunnelConfig},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(policy) = toml::from_str::<PolicyFile>(text)
        && policy.check(&TunnelConfig::default()).is_ok()
    {
        let again = toml::to_string(&policy).expect("it was read");
        assert_eq!(toml::from_str::<PolicyFile>(&again).ok(), Some(policy));
    }
    if let Err(error) = Config::parse(text, Path::new("fuzz.toml")) {
        assert!(!error.to_string().is_empty());
    }
});
