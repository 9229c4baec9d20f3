//! The database on a full disk: an error, and nothing committed is lost.

use std::path::Path;

use db::{Change, Cursor, DbError, Embedded, Engine, Metrics, Op, Options, Reply};
use ebpf_common::hash::slot_of_key;

use super::{drop_ballast, noise, on_a_small_disk};

/// Bytes of one value.
const VALUE_BYTES: usize = 100_000;
/// More values than any disk here holds.
const VALUES_MAX: u64 = 2_000;

fn open(disk: &Path, reserve_bytes: u64) -> Embedded {
    let options = Options { reserve_bytes };
    Embedded::open(&disk.join("db"), options, &Metrics::unregistered()).unwrap()
}

fn key(index: u64) -> Vec<u8> {
    format!("{{k}}{index}").into_bytes()
}

fn put(engine: &Embedded, index: u64) -> Result<Reply, DbError> {
    engine.execute(&Op::Put {
        key: key(index),
        value: noise(index, VALUE_BYTES),
    })
}

/// Writes until an error comes; gives how many writes were acknowledged, and the error.
fn fill(engine: &Embedded) -> (u64, DbError) {
    for index in 0..VALUES_MAX {
        match put(engine, index) {
            Ok(reply) => assert_eq!(
                reply,
                Reply::Written {
                    cursor: Cursor(index + 1)
                }
            ),
            Err(error) => return (index, error),
        }
    }
    panic!("the disk never filled up");
}

/// Every one of the first `count` writes is there, with its feed record, and so is any one behind them.
fn check(engine: &Embedded, count: u64) {
    let slot = slot_of_key(&key(0));
    let head = engine.feed_head(slot).unwrap();
    assert!(head >= Cursor(count), "feed records are lost");
    for index in 0..head.0 {
        let value = noise(index, VALUE_BYTES);
        let read = engine.execute(&Op::Get { key: key(index) });
        assert_eq!(read, Ok(Reply::Value(Some(value.clone()))), "value {index}");
        let feed = engine.execute(&Op::Feed {
            slot,
            cursor: Cursor(index),
            limit: 1,
        });
        let Ok(Reply::Feed { records, .. }) = feed else {
            panic!("{feed:?}");
        };
        assert_eq!(records[0].change, Change::Put(value), "record {index}");
    }
}

#[test]
fn a_database_below_its_reserve_refuses_writes_until_there_is_room() {
    on_a_small_disk(64, 16, |disk| {
        let engine = open(disk, 16 << 20);
        let (count, error) = fill(&engine);
        assert!(matches!(error, DbError::DiskFull { .. }), "{error}");
        assert!(error.is_retryable());
        assert!(count > 50, "only {count} writes fitted");
        assert!(!engine.health().poisoned);
        check(&engine, count);
        drop_ballast(disk);
        assert!(put(&engine, count).is_ok(), "there is room again");
        drop(engine);
        check(&open(disk, 16 << 20), count + 1);
    });
}

#[test]
fn a_database_that_fills_the_disk_to_the_last_byte_loses_nothing_acknowledged() {
    on_a_small_disk(48, 16, |disk| {
        let engine = open(disk, 0);
        let (count, error) = fill(&engine);
        assert!(
            matches!(error, DbError::CommitFailed { .. } | DbError::Poisoned),
            "{error}"
        );
        assert!(count > 50, "only {count} writes fitted");
        assert_eq!(put(&engine, 0), Err(DbError::Poisoned));
        assert!(engine.health().poisoned);
        check(&engine, count);
        drop(engine);
        drop_ballast(disk);
        let engine = open(disk, 0);
        check(&engine, count);
        let next = engine.feed_head(slot_of_key(&key(0))).unwrap().0;
        assert_eq!(
            put(&engine, next),
            Ok(Reply::Written {
                cursor: Cursor(next + 1)
            })
        );
    });
}
