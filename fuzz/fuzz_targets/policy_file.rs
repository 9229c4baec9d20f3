//! Policy files, as `warmpath map apply` and the admin API take them, and the configuration around them: refused with a
//! reason, or accepted and written again as the same.
#![no_main]

use std::{path::Path, sync::LazyLock};

use balancer_userspace::{Config, config::PolicyFile};
use libfuzzer_sys::fuzz_target;

/// What the policies are for.
static BALANCER: LazyLock<Config> = LazyLock::new(|| {
    let text = r#"
        pin_path = "/sys/fs/bpf/fuzz"
        admin_socket = "/run/fuzz.sock"
        interface = [{ name = "eth0", mtu = 1300 }]
        tunnel = { v4 = "172.16.0.0" }
    "#;
    Config::parse(text, Path::new("balancer.toml")).expect("it makes sense")
});

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(policy) = toml::from_str::<PolicyFile>(text)
        && policy.check(&BALANCER).is_ok()
    {
        let again = toml::to_string(&policy).expect("it was read");
        assert_eq!(toml::from_str::<PolicyFile>(&again).ok(), Some(policy));
    }
    if let Err(error) = Config::parse(text, Path::new("fuzz.toml")) {
        assert!(!error.to_string().is_empty());
    }
});
