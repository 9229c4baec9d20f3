//! `warmpath doctor` on a veth: what the driver takes, and what it refuses.

use std::{path::PathBuf, process::Command};

use balancer_userspace::doctor::{Check, Options, Report, Role, Verdict, examine};
use nix::sched::{CloneFlags, unshare};

/// What the doctor says of `wpd0`, in the network of this thread, after a trial.
fn examined() -> Report {
    let options = Options {
        interface: Some("wpd0".to_owned()),
        config: None,
        pin_path: PathBuf::from("/sys/fs/bpf/warmpath"),
        role: Role::Balancer,
        vip_mtu: 1_500,
        trial: true,
        decap: None,
        sandbox: Ok(()),
        rootfs: Ok("host".to_owned()),
        landlock: 0,
    };
    examine(&options).unwrap()
}

fn check<'r>(report: &'r Report, name: &str) -> &'r Check {
    let mut checks = report.checks.iter();
    checks.find(|check| check.check == name).unwrap()
}

fn ip(args: &str) {
    let status = Command::new("ip").args(args.split(' ')).status().unwrap();
    assert!(status.success(), "ip {args}");
}

#[test]
fn a_veth_runs_xdp_natively_unless_its_peer_sends_frames_too_large() {
    // The test's own thread gets a network of its own; it goes when the thread ends.
    unshare(CloneFlags::CLONE_NEWNET).expect("needs root");
    ip("link add wpd0 type veth peer name wpd1");
    ip("link set wpd0 up");
    let report = examined();
    for name in [
        "native XDP",
        "verifier",
        "helpers",
        "map types",
        "JIT",
        "LRO",
        "driver",
    ] {
        let check = check(&report, name);
        assert_eq!(check.verdict, Verdict::Ok, "{check:?}");
    }
    assert_eq!(check(&report, "MTU head room").verdict, Verdict::Warning);
    assert_eq!(report.worst(), Verdict::Warning);

    // The trial leaves nothing behind, or a second one would find a program.
    let again = examined();
    assert_eq!(check(&report, "native XDP"), check(&again, "native XDP"));

    ip("link set wpd1 mtu 9000");
    let report = examined();
    assert_eq!(check(&report, "native XDP").verdict, Verdict::Failure);
    assert_eq!(report.worst(), Verdict::Failure);
}
