//! The binary as a shell sees it: what it ends with, and what goes to which stream. What the verbs do is tested where
//! there is a platform to ask (`tests/netns`, `tests/platform`).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Command, Output, Stdio};

fn warmpath(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_warmpath"));
    command.args(args).stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    warmpath(args).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn what_is_no_command_ends_with_2_and_says_how_it_is_used_on_standard_error() {
    for args in [
        &[][..],
        &["frobnicate"],
        &["status", "--frobnicate"],
        &["fn", "--frobnicate"],
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty(), "{args:?}");
        assert!(stderr(&output).contains("Usage: warmpath"), "{args:?}");
    }
}

#[test]
fn what_is_not_there_is_named_with_what_to_do_and_ends_with_1() {
    let nowhere = tempfile::tempdir().unwrap();
    let pins = nowhere.path().join("bpf");
    let pins = pins.to_str().unwrap();
    for json in [&[][..], &["--json"]] {
        let output = run(&[&["status", "--pin-path", pins], json].concat());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        let said = stderr(&output);
        assert!(said.starts_with("warmpath: "), "{said}");
        assert!(
            said.contains(pins) && said.contains("been started"),
            "{said}"
        );
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = warmpath(&["doctor", "lo", "--json"])
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(!stderr(&output).contains("panicked"), "{output:?}");
}
