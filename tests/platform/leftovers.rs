//! The machine is left as it was found: after success, Ctrl-C and SIGKILL.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tests::{machine::MachineState, wait};

use crate::bed::{DEMO, examples, machine, warmpath};

const TIMEOUT: Duration = Duration::from_secs(120);
/// The kernel frees namespaces, programs and maps a moment after their last user is gone.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);

fn demo() -> Command {
    let mut command = Command::new(DEMO);
    command
        .args(["run", "--quick", "--warmpath"])
        .arg(warmpath())
        .arg("--examples")
        .arg(examples())
        .stdout(Stdio::piped());
    command
}

/// Starts the demo and returns when it has printed its first part: everything is up and busy then.
fn busy_demo() -> Child {
    let mut child = demo().spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while !lines
        .next()
        .expect("the demo ends before (a)")
        .unwrap()
        .contains("(a)")
    {}
    // Somebody must read on, or the demo would wait for its pipe.
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
    child
}

fn expect_as_before(before: &MachineState) {
    let mut differences = Vec::new();
    let settled = wait::until("the machine to be as before", SETTLE_TIMEOUT, || {
        differences = MachineState::take()?.differences(before);
        Ok(differences.is_empty().then_some(()))
    });
    assert!(settled.is_ok(), "{differences:#?}");
}

#[test]
fn the_demo_keeps_its_promises_and_leaves_the_machine_as_it_found_it() {
    let _machine = machine();
    let before = MachineState::take_at_rest().unwrap();
    let report = tempfile::tempdir().unwrap();
    let file = report.path().join("report.json");
    let output = demo().arg("--report").arg(&file).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{complaints}");
    let figures: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(figures["sessions"]["sticky_ratio"], 1.0);
    assert_eq!(figures["shards"]["local_ratio"], 1.0);
    assert_eq!(figures["control_plane_kill"]["lost"], 0);
    assert_eq!(figures["xdp"]["mode"], "native");
    let drawing = std::fs::read_to_string(file.with_extension("svg")).unwrap();
    assert!(drawing.contains("<polyline"), "the drawing is empty");
    drop(report);
    expect_as_before(&before);
}

#[test]
fn ctrl_c_removes_everything() {
    let _machine = machine();
    let before = MachineState::take_at_rest().unwrap();
    let mut child = busy_demo();
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    let status = wait::until("the demo to end", TIMEOUT, || Ok(child.try_wait()?)).unwrap();
    assert_eq!(status.code(), Some(130));
    expect_as_before(&before);
}

#[test]
fn what_a_killed_demo_leaves_is_removed_by_the_next() {
    let _machine = machine();
    let before = MachineState::take_at_rest().unwrap();
    let mut child = busy_demo();
    child.kill().unwrap();
    child.wait().unwrap();
    wait::until("the roles to die with the demo", SETTLE_TIMEOUT, || {
        let processes = MachineState::take()?.processes;
        Ok(processes.is_subset(&before.processes).then_some(()))
    })
    .unwrap();
    let clean = Command::new(DEMO).arg("clean").output().unwrap();
    let text = String::from_utf8_lossy(&clean.stdout).into_owned();
    assert!(clean.status.success() && text.contains("removed"), "{text}");
    expect_as_before(&before);
}
