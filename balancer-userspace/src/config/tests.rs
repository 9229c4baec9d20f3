//! Configurations that make sense, and those that do not.

use super::*;

const FULL: &str = r#"
        pin_path = "/sys/fs/bpf/warmpath"
        admin_socket = "/run/warmpath/balancer.sock"
        metrics_listen = "10.80.0.2:9100"
        store_url = "http://10.80.0.2:7100"

        [membership]
        listen = "10.80.0.2:7000"
        token_file = "/etc/warmpath/token"

        [[interface]]
        name = "eth0"

        [[interface]]
        name = "eth1"
        mode = "auto"

        [[vip]]
        address = "10.99.0.1"
        port = 9000

        [[worker]]
        name = "w9"
        address = "10.80.0.19"
        mac = "02:77:70:00:00:19"
        interface = "eth1"

        [[function]]
        name = "hello"
        affinity = "session"

        [limits]
        sessions = 1000
    "#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("balancer.toml"))
}

#[test]
fn defaults_fill_what_is_not_given() {
    let config = parse(FULL).unwrap();
    let membership = config.membership.unwrap();
    assert_eq!((membership.heartbeat_ms, membership.lease_ms), (20, 200));
    assert_eq!(config.interfaces[0].mode, AttachMode::Native);
    assert_eq!(config.limits.functions, MAX_FUNCTIONS);
    assert_eq!(config.limits.sessions, 1000);
    assert_eq!(config.limits.session_rows(), 128, "1,024 places");
}

#[test]
fn every_senseless_value_is_refused_by_its_key() {
    let cases = [
        (
            "pin_path = \"/sys/fs/bpf/warmpath\"",
            "pin_path = \"bpf\"",
            "pin_path",
        ),
        ("bpf/warmpath\"", "bpf/warm.path\"", "pin_path"),
        (
            "\"eth1\"\n        mode",
            "\"eth0\"\n        mode",
            "interface \"eth0\"",
        ),
        (
            "\"eth0\"",
            "\"0123456789abcdef\"",
            "interface \"0123456789abcdef\"",
        ),
        ("\"10.99.0.1\"", "\"224.0.0.1\"", "vip 224.0.0.1:9000/udp"),
        (
            "interface = \"eth1\"",
            "interface = \"eth2\"",
            "worker \"w9\"",
        ),
        ("\"w9\"", "\"a/b\"", "worker \"a/b\""),
        ("sessions = 1000", "sessions = 0", "limits.sessions"),
        (
            "token\"",
            "token\"\n        lease_ms = 30",
            "membership.lease_ms",
        ),
    ];
    for (from, to, key) in cases {
        assert!(FULL.contains(from), "{from}");
        match parse(&FULL.replace(from, to)) {
            Err(ConfigError::Value { key: found, .. }) => assert_eq!(found, key),
            other => panic!("{key}: {other:?}"),
        }
    }
}

/// Each change of `POLICY` and the key that it is refused by.
const SENSELESS: &[(&str, &str, &str)] = &[
    ("name = \"blue\"", "name = \"b/b\"", "pool \"b/b\""),
    ("[\"w1\", \"w2\"]", "[]", "pool \"blue\""),
    ("[\"w1\", \"w2\"]", "[\"w1\", \"w1\"]", "pool \"blue\""),
    (
        "pool = \"blue\"",
        "pool = \"green\"",
        "vip 10.99.0.1:80/tcp",
    ),
    ("kind = \"l4\"", "kind = \"rpc\"", "vip 10.99.0.1:80/tcp"),
    (
        "quic_config = 3",
        "quic_config = 7",
        "vip [2001:db8::1]:any/udp",
    ),
    ("quic_config = 3", "", "vip [2001:db8::1]:any/udp"),
    (
        "kind = \"quic\"",
        "kind = \"l4\"",
        "vip [2001:db8::1]:any/udp",
    ),
    ("\"2001:db8::1\"", "\"ff02::1\"", "vip [ff02::1]:any/udp"),
    ("\"f\", \"g\"", "\"f\", \"g\", \"h\"", "vip 10.99.0.2:9/udp"),
    ("sessions = 1024", "sessions = 1000", "vip 10.99.0.2:9/udp"),
    ("port = 9\n", "port = \"any\"\n", "vip 10.99.0.2:any/udp"),
    ("weight = 64", "weight = 0", "worker \"w1\""),
    ("cap = 10", "cap = 0", "worker \"w1\""),
    ("v4 = \"172.16.0.0\"", "", "vip 10.99.0.1:80/tcp"),
    ("172.16.0.0", "172.16.0.1", "tunnel.v4"),
    ("rotate_s = 60", "rotate_s = 1", "keys.rotate_s"),
    (
        "bound_percent = 50",
        "bound_percent = 100000",
        "home.bound_percent",
    ),
];

const POLICY: &str = r#"
        [tunnel]
        v4 = "172.16.0.0"
        [keys]
        rotate_s = 60
        [home]
        bound_percent = 50
        [[pool]]
        name = "blue"
        workers = ["w1", "w2"]
        [[vip]]
        address = "10.99.0.1"
        port = 80
        protocol = "tcp"
        kind = "l4"
        forward = "gue"
        pool = "blue"
        [[vip]]
        address = "2001:db8::1"
        port = "any"
        kind = "quic"
        quic_config = 3
        [[vip]]
        address = "10.99.0.2"
        port = 9
        kind = "pktgen"
        [vip.pktgen]
        functions = ["f", "g"]
        sessions = 1024
        [[worker]]
        name = "w1"
        address = "10.80.0.19"
        mac = "02:77:70:00:00:19"
        weight = 64
        cap = 10
    "#;

#[test]
fn every_senseless_combination_is_refused_by_its_key() {
    let base = r#"
            pin_path = "/sys/fs/bpf/warmpath"
            admin_socket = "/run/warmpath/balancer.sock"
            interface = [{ name = "eth0" }]
        "#;
    let policy = parse(&format!("{base}{POLICY}")).unwrap().policy();
    assert_eq!(
        (policy.worker("w1").weight, policy.worker("w1").cap),
        (64, Some(10))
    );
    assert_eq!(policy.worker("w2").weight, 256);
    let written = toml::to_string(&policy).unwrap();
    assert_eq!(toml::from_str::<PolicyFile>(&written).unwrap(), policy);

    for (from, to, key) in SENSELESS {
        assert!(POLICY.contains(from), "{from}");
        match parse(&format!("{base}{}", POLICY.replace(from, to))) {
            Err(ConfigError::Value { key: found, .. }) => assert_eq!(found, *key),
            other => panic!("{key}: {other:?}"),
        }
    }
    for port in ["0", "65536", "-1", "\"all\"", "1.5"] {
        let text = POLICY.replace("port = 80\n", &format!("port = {port}\n"));
        let result = parse(&format!("{base}{text}"));
        assert!(matches!(result, Err(ConfigError::Parse { .. })), "{port}");
    }
}

#[test]
fn an_unknown_key_is_refused() {
    let error = parse(&FULL.replace("store_url", "store_uri")).unwrap_err();
    assert!(matches!(error, ConfigError::Parse { .. }));
}
