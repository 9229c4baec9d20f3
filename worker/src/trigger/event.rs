//! What a triggered function is told: docs/requests.md, "Triggers".

use db::{Change, FeedRecord};
use serde::Serialize;
use store::trigger::utc;
use warmpath_sdk::{deferred::CallId, trigger::TriggerKind};

use super::wanted::Wanted;

/// Who calls.
#[derive(Serialize)]
struct By<'a> {
    kind: TriggerKind,
    function: &'a str,
    name: &'a str,
}

impl<'a> By<'a> {
    fn of(wanted: &'a Wanted) -> Self {
        Self {
            kind: wanted.kind(),
            function: &wanted.function,
            name: &wanted.trigger,
        }
    }
}

/// The event of a tick.
pub(super) fn tick(wanted: &Wanted, id: CallId, time_ms: u64, missed: u32) -> Vec<u8> {
    #[derive(Serialize)]
    struct Tick<'a> {
        trigger: By<'a>,
        id: CallId,
        time: String,
        time_ms: u64,
        missed: u32,
    }
    json(&Tick {
        trigger: By::of(wanted),
        id,
        time: utc(time_ms),
        time_ms,
        missed,
    })
}

/// The event of some writes, each as [`record`] made it.
pub(super) fn writes(wanted: &Wanted, id: CallId, records: &[Vec<u8>]) -> Vec<u8> {
    #[derive(Serialize)]
    struct Writes<'a> {
        trigger: By<'a>,
        id: CallId,
    }
    let mut event = json(&Writes {
        trigger: By::of(wanted),
        id,
    });
    event.pop();
    event.extend_from_slice(b",\"records\":[");
    event.extend_from_slice(&records.join(&b','));
    event.extend_from_slice(b"]}");
    event
}

/// One write. Its value is left out if the write would be longer than `bytes_max` with it.
pub(super) fn record(record: &FeedRecord, bytes_max: usize) -> Vec<u8> {
    #[derive(Serialize, Default)]
    struct Write<'a> {
        cursor: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        key: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        key_hex: Option<String>,
        change: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        value: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        value_hex: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        value_bytes: Option<usize>,
    }
    let (key, key_hex) = text_or_hex(&record.key);
    let mut write = Write {
        cursor: record.cursor.0,
        key,
        key_hex,
        change: "delete",
        ..Write::default()
    };
    if let Change::Put(value) = &record.change {
        write.change = "put";
        if value.len() <= bytes_max {
            (write.value, write.value_hex) = text_or_hex(value);
        }
        let whole = json(&write);
        if value.len() <= bytes_max && whole.len() <= bytes_max {
            return whole;
        }
        (write.value, write.value_hex) = (None, None);
        write.value_bytes = Some(value.len());
    }
    json(&write)
}

fn text_or_hex(bytes: &[u8]) -> (Option<&str>, Option<String>) {
    match str::from_utf8(bytes) {
        Ok(text) => (Some(text), None),
        Err(_) => (
            None,
            Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
        ),
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("it holds only strings and numbers")
}

#[cfg(test)]
mod tests {
    use db::Cursor;
    use serde_json::{Value, json};

    use super::*;

    fn told(key: &[u8], change: Change, bytes_max: usize) -> Value {
        let record = FeedRecord {
            cursor: Cursor(7),
            key: key.to_vec(),
            change,
        };
        serde_json::from_slice(&super::record(&record, bytes_max)).unwrap()
    }

    #[test]
    fn a_write_is_told_as_text_or_in_hexadecimal_or_by_its_length_alone() {
        let put = |value: &[u8]| Change::Put(value.to_vec());
        assert_eq!(
            told(b"{a}:1", put("é".as_bytes()), 100),
            json!({"cursor": 7, "key": "{a}:1", "change": "put", "value": "é"})
        );
        assert_eq!(
            told(b"{a}:\xff", put(b"\x00\xfe"), 100),
            json!({"cursor": 7, "key_hex": "7b617d3aff", "change": "put", "value_hex": "00fe"})
        );
        assert_eq!(
            told(b"{a}:1", Change::Delete, 100),
            json!({"cursor": 7, "key": "{a}:1", "change": "delete"})
        );
        // Escapes make it longer than it is.
        for value in [vec![b'x'; 101], vec![0; 30], vec![0xff; 50]] {
            let length = value.len();
            assert_eq!(
                told(b"{a}:1", Change::Put(value), 100),
                json!({"cursor": 7, "key": "{a}:1", "change": "put", "value_bytes": length})
            );
        }
    }
}
