//! RPC schemas, from the configuration to the packet: a key in the payload leads where the same key in the header does.

use std::collections::BTreeSet;

use balancer_userspace::maps;
use ebpf_common::maps::name;
use serde_json::json;
use tests::topology::Layout;

use crate::{
    bed::{Bed, Hosts},
    client::{Client, request},
};

const KEYS: u64 = 24;

/// One function for each extractor, and one whose key is a session.
pub(crate) const FUNCTIONS: &str = r#"
    [[function]]
    name = "by-json"
    affinity = "shard"
    schema = { json = "user" }
    [[function]]
    name = "by-protobuf"
    affinity = "shard"
    schema = { protobuf = [3, 1] }
    [[function]]
    name = "by-offset"
    affinity = "shard"
    schema = { fixed = { offset = 4, size = 7 } }
    [[function]]
    name = "session-by-json"
    affinity = "session"
    schema = { json = "user" }
"#;

fn bed() -> Bed {
    let hosts = Hosts::new(Layout::TwoArms, 3);
    hosts.write_config(&hosts.all_interfaces("native"), FUNCTIONS);
    hosts.start()
}

/// Seven bytes.
pub(crate) fn key(number: u64) -> String {
    format!("user-{number:02}")
}

pub(crate) fn json_payload(key: &str) -> Vec<u8> {
    json!({ "cart": [1, { "user": "not this one" }], "user": key })
        .to_string()
        .into_bytes()
}

/// Field 1 of the message in field 3, behind a number in field 2.
pub(crate) fn protobuf_payload(key: &str) -> Vec<u8> {
    let len = u8::try_from(key.len()).unwrap();
    let outer = [2 << 3, 99, 3 << 3 | 2, len + 2, 1 << 3 | 2, len];
    [&outer, key.as_bytes()].concat()
}

fn worker(client: &Client, function: &str, payload: &[u8]) -> String {
    let answer = client.send_payload(request(function), payload);
    let answer = answer.unwrap_or_else(|| panic!("{function} was not answered"));
    assert!(answer.is_served(), "{function}: {answer:?}");
    answer.worker
}

fn check_keys(client: &Client) {
    let mut workers = BTreeSet::new();
    for key in (0..KEYS).map(key) {
        let owner = client.call_key("store", &key).unwrap().worker;
        for (function, payload) in [
            ("by-json", json_payload(&key)),
            ("by-protobuf", protobuf_payload(&key)),
            ("by-offset", format!("....{key}....").into_bytes()),
        ] {
            assert_eq!(
                worker(client, function, &payload),
                owner,
                "{function} {key}"
            );
        }
        workers.insert(owner);
    }
    assert_eq!(workers.len(), 3, "the keys are on all workers");
}

#[test]
fn a_key_in_the_payload_leads_where_the_same_key_in_the_header_does() {
    let mut bed = bed();
    let _echoes = bed.echoes();
    let client = bed.client();
    check_keys(&client);
    let held = || maps::dump(&bed.pin_path(), name::SCHEMAS).unwrap().entries;
    let before = held();
    let shown: Vec<_> = before
        .iter()
        .map(|row| (&row["target"], &row["schema"]))
        .collect();
    assert_eq!(before.len(), 4, "{shown:?}");
    assert!(
        shown.contains(&(&json!("slot"), &json!({ "json": "user" }))),
        "{shown:?}"
    );
    assert!(
        shown.contains(&(&json!("session"), &json!({ "json": "user" }))),
        "{shown:?}"
    );
    assert!(
        shown.contains(&(&json!("slot"), &json!({ "protobuf": [3, 1] }))),
        "{shown:?}"
    );

    bed.control.kill().unwrap();
    check_keys(&client);
    bed.restart_control();
    bed.wait_settled(3);
    check_keys(&client);
    let after = maps::dump(&bed.pin_path(), name::SCHEMAS).unwrap().entries;
    assert_eq!(after, before);
}

#[test]
fn a_session_in_the_payload_stays_where_it_is_when_new_ones_go_elsewhere() {
    let bed = bed();
    let _echoes = bed.echoes();
    let client = bed.client();
    let call = |number| worker(&client, "session-by-json", &json_payload(&key(number)));
    let first: Vec<_> = (0..KEYS).map(call).collect();
    let drained = &first[0];
    bed.json(&format!("worker drain {drained}"));
    bed.wait_written();
    let again: Vec<_> = (0..KEYS).map(call).collect();
    assert_eq!(again, first);
    for number in KEYS..2 * KEYS {
        assert_ne!(&call(number), drained, "a new session on a drained worker");
    }
    assert!(bed.counter("route", "session") >= KEYS);
}

#[test]
fn payloads_without_the_key_are_routed_by_the_next_rule_and_counted() {
    let bed = bed();
    let _echoes = bed.echoes();
    let client = bed.client();
    let payloads: [&[u8]; 5] = [
        b"{}",
        b"{\"user\": \"half of i",
        b"\xff\xff\xff\xff\xff\xff",
        br#"{"user": {"name": "no string"}}"#,
        br#"{"user": "with \u0061n escape"}"#,
    ];
    for payload in payloads {
        worker(&client, "by-json", payload);
    }
    let missed = bed.counter("detail", "schema_missed");
    assert_eq!(missed, payloads.len() as u64);
    assert_eq!(bed.counter("route", "shard"), 0);
}

#[test]
fn a_configuration_with_a_schema_that_cannot_be_compiled_is_refused() {
    for (more, says) in [
        ("schema = { json = \"user\" }", "affinity"),
        (
            "affinity = \"shard\"\nschema = { protobuf = [] }",
            "schema.protobuf",
        ),
        (
            "affinity = \"shard\"\nschema = { fixed = { offset = 250, size = 16 } }",
            "schema.fixed",
        ),
    ] {
        let hosts = Hosts::new(Layout::OneArm, 1);
        let more = format!("[[function]]\nname = \"bad\"\n{more}\n");
        hosts.write_config(&hosts.all_interfaces("native"), &more);
        let refusal = hosts.refusal();
        assert!(
            refusal.contains(says) && refusal.contains("bad"),
            "{refusal}"
        );
        assert!(!hosts.pin_path().join(name::LAYOUT).exists());
    }
}
