//! What the engine promises, held against a model and over reopening.

use std::{collections::BTreeMap, sync::mpsc};

use proptest::{collection::vec, option, prelude::*};
use tempfile::TempDir;

use super::*;
use crate::{
    limits::ROWS_MAX,
    op::{Change, FeedRecord},
};

fn open(dir: &TempDir) -> Embedded {
    let options = Options { reserve_bytes: 0 };
    Embedded::open(dir.path(), options, &Metrics::unregistered()).unwrap()
}

fn get(key: &str) -> Op {
    Op::Get { key: key.into() }
}

fn put(key: &str, value: &str) -> Op {
    Op::Put {
        key: key.into(),
        value: value.into(),
    }
}

fn compare_and_set(key: &str, expected: Option<&str>, value: &str) -> Op {
    Op::CompareAndSet {
        key: key.into(),
        expected: expected.map(Into::into),
        value: value.into(),
    }
}

fn scan(prefix: &str, after: Option<&str>, limit: u32) -> Op {
    Op::Scan {
        prefix: prefix.into(),
        after: after.map(Into::into),
        limit,
    }
}

fn feed_of(engine: &Embedded, slot: SlotId, from: Cursor, page: u32) -> Vec<FeedRecord> {
    let mut all = Vec::new();
    let mut cursor = from;
    loop {
        let op = Op::Feed {
            slot,
            cursor,
            limit: page,
        };
        match engine.execute(&op).unwrap() {
            Reply::Feed { records, .. } if records.is_empty() => return all,
            Reply::Feed { records, next } => {
                assert_eq!(records.last().unwrap().cursor, next);
                all.extend(records);
                cursor = next;
            }
            other => panic!("{other:?}"),
        }
    }
}

fn written(cursor: u64) -> Result<Reply, DbError> {
    Ok(Reply::Written {
        cursor: Cursor(cursor),
    })
}

fn value(text: &str) -> Result<Reply, DbError> {
    Ok(Reply::Value(Some(text.into())))
}

#[test]
fn a_write_is_read_back_also_after_reopening() {
    let dir = TempDir::new().unwrap();
    let engine = open(&dir);
    assert_eq!(engine.execute(&get("k")), Ok(Reply::Value(None)));
    assert_eq!(engine.execute(&put("k", "1")), written(1));
    assert_eq!(engine.execute(&put("k", "2")), written(2));
    assert_eq!(engine.execute(&get("k")), value("2"));
    drop(engine);
    let engine = open(&dir);
    assert_eq!(engine.execute(&get("k")), value("2"));
    assert_eq!(engine.execute(&Op::Delete { key: "k".into() }), written(3));
    assert_eq!(engine.execute(&get("k")), Ok(Reply::Value(None)));
}

#[test]
fn compare_and_set_writes_only_what_it_expected() {
    let dir = TempDir::new().unwrap();
    let engine = open(&dir);
    let conflict = |current: Option<&str>| {
        Ok(Reply::Conflict {
            current: current.map(Into::into),
        })
    };
    assert_eq!(
        engine.execute(&compare_and_set("k", Some("x"), "1")),
        conflict(None)
    );
    assert_eq!(engine.execute(&compare_and_set("k", None, "1")), written(1));
    assert_eq!(
        engine.execute(&compare_and_set("k", None, "2")),
        conflict(Some("1"))
    );
    assert_eq!(
        engine.execute(&compare_and_set("k", Some("1"), "2")),
        written(2)
    );
    assert_eq!(engine.execute(&get("k")), value("2"));
    let slot = slot_of_key(b"k");
    assert_eq!(feed_of(&engine, slot, Cursor::START, 10).len(), 2);
}

#[test]
fn writes_of_one_group_see_each_other() {
    let dir = TempDir::new().unwrap();
    let engine = open(&dir);
    let (sender, receiver) = mpsc::channel();
    // One thread submits all of them without waiting, so most share a group; each builds on the last.
    let total = 300;
    for step in 0..total {
        let expected = (step > 0).then(|| step.to_string());
        let op = compare_and_set("k", expected.as_deref(), &(step + 1).to_string());
        let sender = sender.clone();
        engine.submit(op, Box::new(move |outcome| sender.send(outcome).unwrap()));
    }
    for step in 0..total {
        assert_eq!(receiver.recv().unwrap(), written(step + 1));
    }
    assert_eq!(engine.execute(&get("k")), value(&total.to_string()));
    let health = engine.health();
    assert_eq!(health.commits, total);
    assert!(health.syncs < total, "no two writes ever shared a sync");
    assert_eq!(health.waiting, 0);
}

#[test]
fn a_counter_raced_by_compare_and_set_loses_no_increment() {
    let dir = TempDir::new().unwrap();
    let engine = open(&dir);
    let (threads, rounds) = (8, 25);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                for _ in 0..rounds {
                    loop {
                        let Ok(Reply::Value(current)) = engine.execute(&get("n")) else {
                            panic!("get failed");
                        };
                        let now: u64 = current
                            .as_ref()
                            .map_or(0, |text| str::from_utf8(text).unwrap().parse().unwrap());
                        let op = Op::CompareAndSet {
                            key: b"n".to_vec(),
                            expected: current,
                            value: (now + 1).to_string().into_bytes(),
                        };
                        match engine.execute(&op).unwrap() {
                            Reply::Written { .. } => break,
                            Reply::Conflict { .. } => {}
                            other => panic!("{other:?}"),
                        }
                    }
                }
            });
        }
    });
    let total = threads * rounds;
    assert_eq!(engine.execute(&get("n")), value(&total.to_string()));
    assert_eq!(engine.feed_head(slot_of_key(b"n")), Ok(Cursor(total)));
}

#[test]
fn a_scan_stays_in_its_slot_and_goes_on_behind_a_key() {
    let dir = TempDir::new().unwrap();
    let engine = open(&dir);
    for key in ["{u}:a", "{u}:b", "{u}:c", "{u}-other", "{v}:a", "u:x"] {
        engine.execute(&put(key, key)).unwrap();
    }
    let rows = |reply| match reply {
        Ok(Reply::Rows { rows, more }) => {
            let keys: Vec<String> = rows
                .into_iter()
                .map(|(key, _)| String::from_utf8(key).unwrap())
                .collect();
            (keys.join(" "), more)
        }
        other => panic!("{other:?}"),
    };
    let page = |after, limit| rows(engine.execute(&scan("{u}:", after, limit)));
    assert_eq!(page(None, 10), ("{u}:a {u}:b {u}:c".to_owned(), false));
    assert_eq!(page(None, 2), ("{u}:a {u}:b".to_owned(), true));
    assert_eq!(page(Some("{u}:b"), 2), ("{u}:c".to_owned(), false));
    assert_eq!(page(Some("{u}:c"), 2), (String::new(), false));
    assert_eq!(page(Some("{u}:"), 1), ("{u}:a".to_owned(), true));
    assert_eq!(page(Some("{u}~"), 1), (String::new(), false));
}

#[test]
fn a_scan_of_large_values_ends_at_the_reply_bound_and_says_so() {
    let dir = TempDir::new().unwrap();
    let engine = open(&dir);
    let large = "x".repeat(1 << 20);
    for index in 0..6 {
        engine
            .execute(&put(&format!("{{u}}{index}"), &large))
            .unwrap();
    }
    let Ok(Reply::Rows { rows, more: true }) = engine.execute(&scan("{u}", None, 10)) else {
        panic!("all six fitted");
    };
    assert_eq!(rows.len(), 4);
    let records = feed_of(&engine, slot_of_key(b"u"), Cursor::START, 10);
    assert_eq!(records.len(), 6);
}

#[test]
fn a_feed_goes_on_from_a_cursor_over_reopening() {
    let dir = TempDir::new().unwrap();
    let slot = slot_of_key(b"{u}");
    let engine = open(&dir);
    for step in 0..5 {
        engine.execute(&put("{u}a", &step.to_string())).unwrap();
    }
    let first = feed_of(&engine, slot, Cursor::START, 2);
    drop(engine);
    let engine = open(&dir);
    engine.execute(&Op::Delete { key: "{u}a".into() }).unwrap();
    let rest = feed_of(&engine, slot, first.last().unwrap().cursor, 2);
    let cursors: Vec<u64> = first.iter().chain(&rest).map(|r| r.cursor.0).collect();
    assert_eq!(cursors, [1, 2, 3, 4, 5, 6]);
    assert_eq!(rest[0].change, Change::Delete);
    assert_eq!(engine.feed_head(slot), Ok(Cursor(6)));
    assert_eq!(feed_of(&engine, slot, Cursor(u64::MAX), 2), []);
}

#[test]
fn readers_of_a_feed_never_see_a_gap_while_it_is_written() {
    let dir = TempDir::new().unwrap();
    let engine = open(&dir);
    let slot = slot_of_key(b"{u}");
    let (writers, each) = (4, 100);
    std::thread::scope(|scope| {
        for writer in 0..writers {
            let engine = &engine;
            scope.spawn(move || {
                for step in 0..each {
                    let key = format!("{{u}}{writer}");
                    engine.execute(&put(&key, &step.to_string())).unwrap();
                }
            });
        }
        let mut cursor = Cursor::START;
        while cursor < Cursor(writers * each) {
            // The engine itself answers `Read` on a gap; `feed_of` unwraps.
            if let Some(last) = feed_of(&engine, slot, cursor, ROWS_MAX).last() {
                cursor = last.cursor;
            }
        }
    });
}

#[test]
fn an_engine_that_is_open_elsewhere_is_refused_by_name() {
    let dir = TempDir::new().unwrap();
    let _engine = open(&dir);
    let again = Embedded::open(dir.path(), Options::default(), &Metrics::unregistered());
    assert!(matches!(again, Err(OpenError::Locked { .. })), "{again:?}");
}

#[test]
fn a_layout_of_another_release_is_refused() {
    let dir = TempDir::new().unwrap();
    drop(open(&dir));
    let database = Database::builder(dir.path()).open().unwrap();
    let meta = database
        .keyspace("meta", KeyspaceCreateOptions::default)
        .unwrap();
    meta.insert(layout::VERSION_KEY, [layout::VERSION + 1])
        .unwrap();
    drop((meta, database));
    let refused = Embedded::open(dir.path(), Options::default(), &Metrics::unregistered());
    assert!(matches!(refused, Err(OpenError::Layout { .. })));
}

#[test]
fn writes_are_refused_below_the_reserve_and_reads_go_on() {
    let dir = TempDir::new().unwrap();
    let engine = open(&dir);
    engine.execute(&put("k", "1")).unwrap();
    drop(engine);
    let options = Options {
        reserve_bytes: u64::MAX,
    };
    let engine = Embedded::open(dir.path(), options, &Metrics::unregistered()).unwrap();
    let refused = engine.execute(&put("k", "2"));
    assert!(matches!(refused, Err(DbError::DiskFull { .. })));
    assert!(refused.unwrap_err().is_retryable());
    assert_eq!(engine.execute(&get("k")), value("1"));
    assert!(!engine.health().poisoned);
}

/// A few keys of few slots, so that ops meet each other.
const KEYS: [&str; 6] = ["{a}1", "{a}2", "{a}22", "{b}1", "{b}", "c"];

#[derive(Debug, Clone)]
enum Step {
    Op(Op),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = || proptest::sample::select(&KEYS[..]).prop_map(|key| key.as_bytes().to_vec());
    let val = || vec(0u8..3, 0..3);
    let step = prop_oneof![
        6 => key().prop_map(|key| Step::Op(Op::Get { key })),
        6 => (key(), val()).prop_map(|(key, value)| Step::Op(Op::Put { key, value })),
        3 => key().prop_map(|key| Step::Op(Op::Delete { key })),
        6 => (key(), option::of(val()), val()).prop_map(|(key, expected, value)| {
            Step::Op(Op::CompareAndSet { key, expected, value })
        }),
        3 => (0usize..4, option::of(key()), 1u32..5).prop_map(|(prefix, after, limit)| {
            let prefix = ["{a}", "{a}2", "{b}", "{b}1"][prefix].into();
            Step::Op(Op::Scan { prefix, after, limit })
        }),
        1 => Just(Step::Reopen),
    ];
    vec(step, 1..60)
}

/// The engine as it should be: a map, and a list for each slot.
#[derive(Default)]
struct Model {
    data: BTreeMap<Vec<u8>, Vec<u8>>,
    feeds: BTreeMap<u16, Vec<FeedRecord>>,
}

impl Model {
    fn write(&mut self, key: &[u8], value: Option<&[u8]>) -> Reply {
        let feed = self.feeds.entry(slot_of_key(key).0).or_default();
        let cursor = Cursor(feed.len() as u64 + 1);
        feed.push(FeedRecord {
            cursor,
            key: key.to_vec(),
            change: value.map_or(Change::Delete, |value| Change::Put(value.to_vec())),
        });
        match value {
            Some(value) => drop(self.data.insert(key.to_vec(), value.to_vec())),
            None => drop(self.data.remove(key)),
        }
        Reply::Written { cursor }
    }

    fn execute(&mut self, op: &Op) -> Reply {
        match op {
            Op::Get { key } => Reply::Value(self.data.get(key).cloned()),
            Op::Put { key, value } => self.write(key, Some(value)),
            Op::Delete { key } => self.write(key, None),
            Op::CompareAndSet {
                key,
                expected,
                value,
            } => {
                let current = self.data.get(key).cloned();
                if current == *expected {
                    self.write(key, Some(value))
                } else {
                    Reply::Conflict { current }
                }
            }
            Op::Scan {
                prefix,
                after,
                limit,
            } => {
                let mut rows: Vec<_> = self
                    .data
                    .iter()
                    .filter(|(key, _)| key.starts_with(prefix))
                    .filter(|(key, _)| after.as_ref().is_none_or(|after| *key > after))
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect();
                let more = rows.len() > *limit as usize;
                rows.truncate(*limit as usize);
                Reply::Rows { rows, more }
            }
            Op::Feed { .. } | Op::Head { .. } => unreachable!("compared whole at the end"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_engine_answers_as_a_map_and_lists_would(steps in steps()) {
        let dir = TempDir::new().unwrap();
        let mut engine = open(&dir);
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Op(op) => prop_assert_eq!(engine.execute(&op).unwrap(), model.execute(&op)),
                Step::Reopen => {
                    drop(engine);
                    engine = open(&dir);
                }
            }
        }
        for key in KEYS {
            let slot = slot_of_key(key.as_bytes());
            let expected = model.feeds.get(&slot.0).cloned().unwrap_or_default();
            prop_assert_eq!(engine.feed_head(slot).unwrap(), Cursor(expected.len() as u64));
            prop_assert_eq!(feed_of(&engine, slot, Cursor::START, 3), expected);
        }
    }
}
