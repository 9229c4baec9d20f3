//! The commands of docs/operations.md about policy, police and single packets, run as they stand there.

use std::path::Path;

use tests::topology::Layout;

use crate::bed::{Hosts, warmpath};

/// The sections whose commands are run, in their order there.
const SECTIONS: [&str; 5] = [
    "## Where would this packet go?",
    "## Keys out of payloads",
    "## Draining a worker",
    "## Changing VIPs, pools, weights and police",
    "## Who may send how much",
];

/// The VIPs and functions that the examples name.
const POLICY: &str = r#"
[tunnel]
v4 = "10.77.0.0"
[[function]]
name = "hello"
affinity = "session"
[[function]]
name = "cart"
affinity = "shard"
schema = { json = "user" }
[[vip]]
address = "fd99::1"
port = 9000
[[vip]]
address = "10.99.0.1"
port = 53
kind = "l4"
forward = "gue"
[[vip]]
address = "10.99.0.1"
port = 80
protocol = "tcp"
kind = "l4"
[[vip]]
address = "10.99.0.1"
port = 443
kind = "quic"
quic_config = 1
[[vip]]
address = "10.99.0.1"
port = 9
kind = "pktgen"
[vip.pktgen]
functions = ["hello", "store"]
sessions = 16
"#;

/// The lines behind `$ ` in the section that begins with `heading`.
fn commands<'m>(manual: &'m str, heading: &str) -> Vec<&'m str> {
    let (_, section) = manual.split_once(heading).unwrap();
    let lines = section
        .lines()
        .skip(1)
        .take_while(|line| !line.starts_with("## "));
    lines.filter_map(|line| line.strip_prefix("$ ")).collect()
}

#[test]
fn every_command_of_the_manual_does_what_it_says_there() {
    let hosts = Hosts::new(Layout::OneArm, 2);
    hosts.write_config(&hosts.all_interfaces("native"), POLICY);
    let bed = hosts.start();
    let _echoes = bed.echoes();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations.md");
    let manual = std::fs::read_to_string(path).unwrap();
    let binaries = warmpath().parent().unwrap().display().to_string();
    let mut ran = 0;
    for command in SECTIONS
        .iter()
        .flat_map(|heading| commands(&manual, heading))
    {
        let output = bed
            .topology
            .balancer
            .netns
            .command("sh")
            .args(["-c", command])
            .current_dir(bed.topology.run.dir())
            .env(
                "PATH",
                format!("{binaries}:{}", std::env::var("PATH").unwrap()),
            )
            .env(
                "WARMPATH_ADMIN",
                bed.topology.run.dir().join("balancer.sock"),
            )
            .env("WARMPATH_PIN_PATH", bed.pin_path())
            .output()
            .unwrap();
        println!("$ {command}\n{}", String::from_utf8_lossy(&output.stdout));
        assert!(output.status.success(), "{command}: {output:?}");
        bed.wait_written();
        ran += 1;
    }
    assert!(ran >= 31, "only {ran} commands were found");
}
