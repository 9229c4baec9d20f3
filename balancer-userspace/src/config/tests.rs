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

const BASE: &str = r#"
        pin_path = "/sys/fs/bpf/warmpath"
        admin_socket = "/run/warmpath/balancer.sock"
    "#;

/// The key that `BASE` and `text` is refused by, and why.
fn refusal(text: &str) -> Option<(String, String)> {
    match parse(&format!("{BASE}{text}")) {
        Ok(_) => None,
        Err(ConfigError::Value { key, problem, .. }) => Some((key, problem)),
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn no_more_interfaces_than_the_map_of_ports_holds() {
    let interfaces = |count: u32| -> String {
        let one = |number| format!("[[interface]]\nname = \"eth{number}\"\n");
        (0..count).map(one).collect()
    };
    assert_eq!(refusal(&interfaces(64)), None);
    let (key, problem) = refusal(&interfaces(65)).unwrap();
    assert_eq!(
        (key.as_str(), problem.as_str()),
        ("interface", "at most 64")
    );
}

#[test]
fn no_more_functions_or_schemas_than_their_maps_hold_and_none_twice() {
    let with = |rest: &str| refusal(&format!("interface = [{{ name = \"eth0\" }}]\n{rest}"));
    let functions = |names: &[&str]| -> String {
        let one = |name: &&str| format!("[[function]]\nname = \"{name}\"\n");
        names.iter().map(one).collect()
    };
    assert_eq!(with(&functions(&["hello", "hello@3"])), None);
    for (names, key) in [
        (["hello", "hello"], "function \"hello\""),
        (["hello", "hello@latest"], "function \"hello@latest\""),
        (["hello", "warmpath.async"], "function \"warmpath.async\""),
    ] {
        assert_eq!(with(&functions(&names)).unwrap().0, key);
    }

    // One row more is the platform's own.
    let limited = |functions_limit: u32| {
        let names = functions(&["f", "g", "h"]);
        with(&format!("[limits]\nfunctions = {functions_limit}\n{names}"))
    };
    assert_eq!(limited(4), None);
    assert_eq!(limited(3).unwrap().0, "limits.functions");
    assert_eq!(with("[limits]\nfunctions = 1\n"), None);

    let schemas = |count: u32, more: &str| {
        let one = |number: u32| {
            format!(
                "[[function]]\nname = \"f{number}\"\naffinity = \"session\"\nschema = {{ json = \"key{}\" }}\n",
                number % count
            )
        };
        with(&((0..count + 2).map(one).collect::<String>() + more))
    };
    assert_eq!(schemas(4_096, ""), None);
    let (key, problem) = schemas(4_097, "").unwrap();
    assert_eq!(key, "function");
    assert_eq!(problem, "at most 4096 different schemas");
}

#[test]
fn an_mtu_holds_the_shortest_packets_of_every_vip() {
    let with = |mtu: u16, vip: &str| {
        refusal(&format!(
            "interface = [{{ name = \"eth0\", mtu = {mtu} }}]\n{vip}"
        ))
    };
    let (key, problem) = with(1, "").unwrap();
    assert_eq!(key, "interface \"eth0\"");
    assert!(problem.contains("at least 68"), "{problem}");
    let vip = |address: &str, forward: &str, tunnel: &str| {
        format!(
            "[[vip]]\naddress = \"{address}\"\nport = 9000\nforward = \"{forward}\"\n[tunnel]\n{tunnel}\n"
        )
    };
    const V4: &str = "v4 = \"172.16.0.0\"";
    const V6: &str = "v6 = \"2001:db8:f::\"";
    for (address, forward, tunnel, least) in [
        ("10.99.0.1", "l2", "", 68),
        ("10.99.0.1", "ipip", V4, 88),
        ("10.99.0.1", "gue", V4, 96),
        // What carries it is IPv6.
        ("10.99.0.1", "gue", V6, 1_280),
        ("2001:db8::1", "l2", "", 1_280),
        ("2001:db8::1", "ipip", V4, 1_300),
        ("2001:db8::1", "gue", V6, 1_328),
    ] {
        let vip = vip(address, forward, tunnel);
        assert_eq!(with(least, &vip), None, "{address} {forward} {tunnel}");
        let (key, problem) = with(least - 1, &vip).unwrap();
        if least > 68 {
            assert!(key.starts_with(&format!(
                "vip {}",
                if address.contains(':') { "[" } else { address }
            )));
            assert!(
                problem.contains(&format!("an mtu of {least} (")),
                "{problem}"
            );
            assert!(problem.contains("raise it"), "{problem}");
        }
    }
}

#[test]
fn a_policy_is_held_against_the_mtus_of_the_configuration() {
    let narrow = parse(&format!(
        "{BASE}interface = [{{ name = \"eth0\", mtu = 1300 }}]\ntunnel = {{ v4 = \"172.16.0.0\" }}"
    ));
    let narrow = narrow.unwrap();
    let policy = |forward: &str| -> PolicyFile {
        let text =
            format!("[[vip]]\naddress = \"2001:db8::1\"\nport = 9000\nforward = \"{forward}\"");
        toml::from_str(&text).unwrap()
    };
    policy("ipip").check(&narrow).unwrap();
    let (key, _) = policy("gue").check(&narrow).unwrap_err();
    assert_eq!(key, "vip [2001:db8::1]:9000/udp");
}

#[test]
fn a_vip_at_the_load_address_is_refused_if_workers_send_there_and_it_is_for_udp() {
    let with = |vip: &str, more: &str| {
        refusal(&format!(
            "interface = [{{ name = \"eth0\" }}]\nload = {{ address = \"10.80.0.2\" }}\n[[vip]]\naddress = \"10.80.0.2\"\n{vip}\n{more}"
        ))
    };
    const MEMBERS: &str = "[membership]\nlisten = \"10.80.0.2:7000\"\ntoken_file = \"/none\"";
    assert_eq!(with("port = 7001", MEMBERS).unwrap().0, "load");
    assert_eq!(with("port = \"any\"", MEMBERS).unwrap().0, "load");
    let tcp = "port = 7001\nkind = \"l4\"\nprotocol = \"tcp\"";
    assert_eq!(with(tcp, MEMBERS), None);
    assert_eq!(with("port = 9000", MEMBERS), None);
    assert_eq!(
        with("port = 7001", ""),
        None,
        "without workers that report, there is none"
    );
}
