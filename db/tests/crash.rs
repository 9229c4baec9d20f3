//! Durability against the real thing: a process that writes and acknowledges is killed with SIGKILL, and
//! what it acknowledged must be there, each write together with its feed record.
//!
//! Part two makes a commit fail (a file size limit stands in for a broken disk) and checks that the
//! engine takes no more writes, still reads, and has every acknowledged write when it is opened again.
//!
//! A killed process leaves the page cache alive, so this proves the order of acknowledgement and write
//! and the atomicity of recovery; that the engine syncs before it acknowledges is its code's to show.
#![expect(
    clippy::unwrap_used,
    reason = "a failed helper should panic where it stands"
)]

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
};

use db::{Change, Cursor, DbError, Embedded, Engine, FeedRecord, Metrics, Op, Options, Reply};
use ebpf_common::{
    hash::{mix64, slot_of_key},
    ids::SlotId,
};

/// Names the folder to the child processes.
const DIR_VARIABLE: &str = "WARMPATH_DB_TEST_DIR";
/// Begins each line with which a child acknowledges a write.
const ACK: &str = "acknowledged";
/// Concurrent writers of the child, each with a hash tag, and so a slot, of its own and a shared one.
const WRITERS: usize = 8;

fn open(dir: &Path) -> Embedded {
    let options = Options { reserve_bytes: 0 };
    Embedded::open(dir, options, &Metrics::unregistered()).unwrap()
}

/// Re-executes this test binary as the (otherwise ignored) test `name`, below a shell that runs `setup`.
fn child(name: &str, dir: &Path, setup: &str) -> Child {
    let script =
        format!("{setup} exec \"$0\" --ignored --exact --nocapture --test-threads 1 {name}");
    Command::new("sh")
        .args(["-c", &script])
        .arg(std::env::current_exe().unwrap())
        .env(DIR_VARIABLE, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn child_dir() -> std::path::PathBuf {
    std::env::var_os(DIR_VARIABLE)
        .expect("only run by its parent test")
        .into()
}

fn acknowledge(key: &str, value: &str, cursor: Cursor) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{ACK} {key} {value} {cursor}").unwrap();
}

/// The acknowledgement in a line of a child, if it is one, whole.
fn acknowledged(line: &str) -> Option<(String, String, u64)> {
    let mut words = line.strip_prefix(ACK)?.split_whitespace();
    let (key, value, cursor) = (words.next()?, words.next()?, words.next()?);
    Some((key.to_owned(), value.to_owned(), cursor.parse().ok()?))
}

#[test]
#[ignore = "the child process of a test here, not a test"]
fn child_that_writes_until_it_is_killed() {
    let engine = open(&child_dir());
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let engine = &engine;
            scope.spawn(move || {
                for step in 0u64.. {
                    let tag = if step % 2 == 0 {
                        "shared"
                    } else {
                        &format!("own{writer}")
                    };
                    let key = format!("{{{tag}}}{writer}-{}", step % 50);
                    let value = format!("{writer}.{step}");
                    let op = Op::Put {
                        key: key.clone().into_bytes(),
                        value: value.clone().into_bytes(),
                    };
                    match engine.execute(&op).unwrap() {
                        Reply::Written { cursor } => acknowledge(&key, &value, cursor),
                        other => panic!("{other:?}"),
                    }
                }
            });
        }
    });
}

#[test]
fn every_acknowledged_write_and_its_record_survive_sigkill() {
    let dir = tempfile::tempdir().unwrap();
    let mut acks: BTreeMap<(SlotId, u64), (String, String)> = BTreeMap::new();
    for round in 1..=3 {
        let mut child = child("child_that_writes_until_it_is_killed", dir.path(), "");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut note = |line: &str| match acknowledged(line) {
            Some((key, value, cursor)) => {
                let slot = slot_of_key(key.as_bytes());
                let before = acks.insert((slot, cursor), (key, value));
                assert_eq!(before, None, "a cursor was given twice");
                true
            }
            None => false,
        };
        let mut seen = 0;
        while seen < 500 * round {
            let line = lines.next().expect("the child ended by itself").unwrap();
            seen += usize::from(note(&line));
        }
        child.kill().unwrap();
        // What it had written before it died counts too; a torn last line does not.
        for line in lines.map_while(Result::ok) {
            note(&line);
        }
        child.wait().unwrap();
        check(&open(dir.path()), &acks);
    }
}

/// Every acknowledged write is in its slot's feed at its cursor, and the data are what the feed leads to.
fn check(engine: &Embedded, acks: &BTreeMap<(SlotId, u64), (String, String)>) {
    let mut feeds: BTreeMap<SlotId, Vec<FeedRecord>> = BTreeMap::new();
    for (slot, _) in acks.keys() {
        feeds.entry(*slot).or_insert_with(|| feed_of(engine, *slot));
    }
    for ((slot, cursor), (key, value)) in acks {
        let record = feeds[slot]
            .get(*cursor as usize - 1)
            .expect("a record is lost");
        assert_eq!(record.cursor.0, *cursor);
        assert_eq!(record.key, key.as_bytes());
        assert_eq!(record.change, Change::Put(value.as_bytes().to_vec()));
    }
    for records in feeds.values() {
        let mut newest: BTreeMap<&[u8], &Change> = BTreeMap::new();
        for record in records {
            newest.insert(&record.key, &record.change);
        }
        for (key, change) in newest {
            let stored = engine.execute(&Op::Get { key: key.to_vec() });
            let Change::Put(value) = change else {
                panic!("nothing was deleted");
            };
            assert_eq!(
                stored,
                Ok(Reply::Value(Some(value.clone()))),
                "data without feed"
            );
        }
    }
}

fn feed_of(engine: &Embedded, slot: SlotId) -> Vec<FeedRecord> {
    let mut all = Vec::new();
    let mut cursor = Cursor::START;
    loop {
        let op = Op::Feed {
            slot,
            cursor,
            limit: db::limits::ROWS_MAX,
        };
        match engine.execute(&op).unwrap() {
            Reply::Feed { records, .. } if records.is_empty() => return all,
            Reply::Feed { records, next } => {
                all.extend(records);
                cursor = next;
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Bytes of any file that the child may write: within the first journal.
const FILE_BYTES_MAX: u64 = 1 << 20;

#[test]
#[ignore = "the child process of a test here, not a test"]
fn child_whose_commits_begin_to_fail() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let engine = open(&child_dir());
    let limit = Rlimit {
        current: Some(FILE_BYTES_MAX),
        ..getrlimit(Resource::Fsize)
    };
    // Only now: the journal is made with its full length. The shell above has SIGXFSZ ignored.
    setrlimit(Resource::Fsize, limit).unwrap();
    // Noise: the journal compresses long values.
    let value: Vec<u8> = (0..5_000).flat_map(|n| mix64(n).to_be_bytes()).collect();
    let put = |step: usize| Op::Put {
        key: format!("{{k}}{step}").into_bytes(),
        value: value.clone(),
    };
    let mut failed_at = None;
    for step in 0..100 {
        match engine.execute(&put(step)) {
            Ok(Reply::Written { cursor }) => acknowledge(&format!("{{k}}{step}"), "v", cursor),
            Err(DbError::CommitFailed { .. }) => {
                failed_at = Some(step);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    let failed_at = failed_at.expect("the limit was never met");
    assert!(failed_at > 0);
    assert_eq!(engine.execute(&put(0)), Err(DbError::Poisoned));
    assert!(engine.health().poisoned);
    let read = |step: usize| {
        engine.execute(&Op::Get {
            key: format!("{{k}}{step}").into_bytes(),
        })
    };
    assert_eq!(read(0), Ok(Reply::Value(Some(value.clone()))));
    assert_eq!(
        read(failed_at),
        Ok(Reply::Value(None)),
        "an uncommitted write is seen"
    );
}

#[test]
fn after_a_failed_commit_an_engine_only_reads_and_nothing_acknowledged_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let child = child(
        "child_whose_commits_begin_to_fail",
        dir.path(),
        "trap '' XFSZ;",
    );
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let acks: Vec<_> = text.lines().filter_map(acknowledged).collect();
    assert!(acks.len() > 10, "{text}");

    let engine = open(dir.path());
    let records = feed_of(&engine, slot_of_key(b"{k}"));
    assert!(
        records.len() >= acks.len(),
        "an acknowledged record is lost"
    );
    for (key, _, cursor) in &acks {
        assert_eq!(records[*cursor as usize - 1].key, key.as_bytes());
    }
    for record in &records {
        let Change::Put(value) = &record.change else {
            panic!("nothing was deleted");
        };
        let stored = engine.execute(&Op::Get {
            key: record.key.clone(),
        });
        assert_eq!(stored, Ok(Reply::Value(Some(value.clone()))));
    }
    let written = engine.execute(&Op::Put {
        key: b"{k}0".to_vec(),
        value: b"again".to_vec(),
    });
    assert!(matches!(written, Ok(Reply::Written { .. })), "{written:?}");
}
