//! `cargo xtask churn` in short: a worker's sandboxes made and removed under random kills leave nothing behind.

use std::process::Command;

const SANDBOXES: &str = "500";

#[test]
fn five_hundred_sandboxes_under_random_kills_leave_nothing() {
    let churn = Command::new(env!("CARGO_BIN_EXE_churn"))
        .args(["--sandboxes", SANDBOXES])
        .output()
        .expect("churn starts");
    let said = String::from_utf8_lossy(&churn.stdout);
    let complaint = String::from_utf8_lossy(&churn.stderr);
    assert!(churn.status.success(), "{said}\n{complaint}");
    assert!(said.contains("nothing left"), "{said}");
}
