//! The extractors against parsers of whole payloads, and on what is broken.

use proptest::prelude::*;

use super::*;
use crate::hash::slot_of_key;

fn slot(schema: Option<SchemaEntry>, payload: &[u8]) -> Option<SlotId> {
    match schema.expect("the schema compiles").find(payload) {
        Some(Key::Slot(slot)) => Some(slot),
        Some(Key::Session(_)) => panic!("asked for a slot"),
        None => None,
    }
}

fn json(name: &str) -> Option<SchemaEntry> {
    SchemaEntry::json(SchemaTarget::Slot, name)
}

fn protobuf(path: &[u32]) -> Option<SchemaEntry> {
    SchemaEntry::protobuf(SchemaTarget::Slot, path)
}

#[test]
fn fixed_takes_its_bytes_and_no_others() {
    let schema = SchemaEntry::fixed(SchemaTarget::Slot, 3, 4);
    assert_eq!(slot(schema, b"abckey7rest"), Some(slot_of_key(b"key7")));
    assert_eq!(slot(schema, b"abckey7"), Some(slot_of_key(b"key7")));
    assert_eq!(slot(schema, b"abckey"), None);
    assert_eq!(SchemaEntry::fixed(SchemaTarget::Slot, 250, 7), None);
    assert_eq!(SchemaEntry::fixed(SchemaTarget::Slot, 0, 0), None);
}

#[test]
fn a_session_is_of_the_keys_bytes_alone() {
    let by_offset = SchemaEntry::fixed(SchemaTarget::Session, 0, 3).unwrap();
    let by_name = SchemaEntry::json(SchemaTarget::Session, "user").unwrap();
    let found = by_offset.find(b"ann");
    assert!(matches!(found, Some(Key::Session(_))));
    assert_eq!(found, by_name.find(br#"{"user":"ann"}"#));
    assert_ne!(found, by_name.find(br#"{"user":"bob"}"#));
}

#[test]
fn hash_tags_in_a_key_count_as_in_the_database() {
    let schema = json("k");
    for key in [
        "{user1000}.following",
        "foo{bar}{zap}",
        "foo{{bar}}zap",
        "foo{}{bar}",
        "foo{bar",
    ] {
        let payload = format!(r#"{{"k":"{key}"}}"#);
        assert_eq!(
            slot(schema, payload.as_bytes()),
            Some(slot_of_key(key.as_bytes())),
            "{key}"
        );
    }
}

#[test]
fn json_finds_the_top_level_key_only() {
    let ann = Some(slot_of_key(b"ann"));
    for payload in [
        r#"{"user":"ann"}"#,
        " { \"x\" : [1, {\"user\": \"bob\"}], \n \"user\" : \"ann\" , \"y\": 2 }",
        r#"{"o":{"user":"bob"},"s":"\"user\":\"bob\"","user":"ann"}"#,
        r#"{"use":"bob","users":"bob","user":"ann"}"#,
        r#"{"a\"":"user","user":"ann","user":"bob"}"#,
    ] {
        assert_eq!(slot(json("user"), payload.as_bytes()), ann, "{payload}");
    }
    let number = Some(slot_of_key(b"-1.5e3"));
    assert_eq!(slot(json("user"), br#"{"user": -1.5e3}"#), number);
}

#[test]
fn json_finds_nothing_where_there_is_no_key() {
    for payload in [
        "",
        "[]",
        r#""user""#,
        r#"{"user":null}"#,
        r#"{"user":["ann"]}"#,
        r#"{"user":"a\u006en"}"#,
        r#"{"user":"ann"#,
        r#"{"user":12"#,
        r#"{"user":12x}"#,
        r#"{"user" "ann"}"#,
        r#"{}{"user":"ann"}"#,
        r#"{"other":"user"}"#,
    ] {
        assert_eq!(slot(json("user"), payload.as_bytes()), None, "{payload}");
    }
    assert_eq!(json(""), None);
    assert_eq!(json("a\"b"), None);
    assert_eq!(json(&"x".repeat(33)), None);
}

/// A field with a length.
fn field(number: u32, value: &[u8]) -> Vec<u8> {
    [
        varint(u64::from(number) << 3 | 2),
        varint(value.len() as u64),
        value.to_vec(),
    ]
    .concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

#[test]
fn protobuf_follows_its_path() {
    let inner = [field(1, b"bob"), field(2, b"ann")].concat();
    let skipped = [
        [varint(9 << 3), varint(u64::MAX)].concat(),
        [varint(10 << 3 | 1), vec![0xff; 8]].concat(),
        [varint(11 << 3 | 5), vec![0xff; 4]].concat(),
        field(12, b""),
        field(2, b"zed"),
    ]
    .concat();
    let payload = [skipped, field(300, &inner)].concat();
    assert_eq!(
        slot(protobuf(&[300, 2]), &payload),
        Some(slot_of_key(b"ann"))
    );
    assert_eq!(slot(protobuf(&[2]), &payload), Some(slot_of_key(b"zed")));
    let number = Some(slot_of_key(&u64::MAX.to_be_bytes()));
    assert_eq!(slot(protobuf(&[9]), &payload), number);
    assert_eq!(slot(protobuf(&[300, 3]), &payload), None);
    assert_eq!(slot(protobuf(&[10]), &payload), None);
}

/// Found by `cargo xtask fuzz schema`: such a length was added to before it was compared, which overflows.
#[test]
fn protobuf_enters_no_value_whose_length_is_beyond_all_payloads() {
    for len in [1 << 16, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
        for path in [&[1][..], &[1, 2]] {
            let payload = [varint(1 << 3 | 2), varint(len), vec![7; 100]].concat();
            assert_eq!(slot(protobuf(path), &payload), None, "{len}");
        }
    }
}

#[test]
fn protobuf_finds_nothing_in_what_is_broken() {
    let path = protobuf(&[1, 2]);
    let good = field(1, &field(2, b"ann"));
    assert!(slot(path, &good).is_some());
    for cut in 0..good.len() {
        assert_eq!(slot(path, &good[..cut]), None, "{cut}");
    }
    // A message that says it is shorter than the field in it, numbers without an end, groups.
    let liar = [varint(1 << 3 | 2), varint(3), field(2, b"ann")].concat();
    assert_eq!(slot(path, &liar), None);
    assert_eq!(slot(path, &[0xff; 30]), None);
    assert_eq!(slot(path, &[1 << 3 | 3, 1 << 3 | 4]), None);
    assert_eq!(protobuf(&[]), None);
    assert_eq!(protobuf(&[0]), None);
    assert_eq!(protobuf(&[1; 7]), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_payload_panics(payload: Vec<u8>, kind in 0u8..5, len: u8, offset: u16, size: u16) {
        let schema = SchemaEntry { kind, target: 2, len, offset, size, ..SchemaEntry::EMPTY };
        let found = schema.find(&payload);
        prop_assert!(found.is_none_or(|key| matches!(key, Key::Slot(_))));
    }

    #[test]
    fn json_agrees_with_serde(
        before: Vec<(String, i64)>, value in "[ !#-\\[\\]-~]{1,40}", after: Vec<(String, String)>
    ) {
        let mut object = serde_json::Map::new();
        for (key, number) in before.into_iter().filter(|(key, _)| key != "user") {
            object.insert(key, number.into());
        }
        object.insert("user".to_owned(), value.clone().into());
        for (key, text) in after.into_iter().filter(|(key, _)| key != "user") {
            object.insert(key, text.into());
        }
        let payload = serde_json::to_vec(&object).unwrap();
        if payload.len() <= SCAN_MAX {
            prop_assert_eq!(slot(json("user"), &payload), Some(slot_of_key(value.as_bytes())));
        }
    }
}
