//! Packets and bytes by VIP, worker, function and outcome: the same figures in the kernel's maps, at the admin API, in the
//! metrics, and in `warmpath status --top`.

use std::collections::BTreeMap;

use balancer_userspace::{
    api::types::{TrafficReport, TrafficRow},
    maps,
};
use ebpf_common::{ids::FunctionId, wire::HEADER_LEN};
use serde_json::Value;
use tests::topology::Layout;

use crate::bed::{Bed, metric, warmpath};

const VIP: &str = "10.99.0.1:9000/udp";
const ECHOES: u64 = 300;
const STORES: u64 = 40;
/// Bytes of a request on the wire: Ethernet, IPv4, UDP, RPC.
const REQUEST_LEN: u64 = (14 + 20 + 8 + HEADER_LEN) as u64;

fn row<'r>(rows: &'r [TrafficRow], name: &str) -> &'r TrafficRow {
    let row = rows.iter().find(|row| row.name == name);
    row.unwrap_or_else(|| panic!("no {name} in {rows:?}"))
}

/// Sends requests and returns how many each worker answered.
fn call(bed: &Bed) -> BTreeMap<String, u64> {
    let client = bed.client();
    let mut answered = BTreeMap::new();
    for _ in 0..ECHOES {
        let worker = client.call("echo").unwrap().worker;
        *answered.entry(worker).or_default() += 1;
    }
    for number in 0..STORES {
        let worker = client
            .call_key("store", &number.to_string())
            .unwrap()
            .worker;
        *answered.entry(worker).or_default() += 1;
    }
    answered
}

fn top(bed: &Bed, is_up: bool) -> Value {
    let dir = bed.topology.run.dir().display();
    let output = bed
        .topology
        .balancer
        .netns
        .command(warmpath())
        .args([
            "status",
            "--top",
            "5",
            "--seconds",
            "0.2",
            "--json",
            "--admin",
        ])
        .arg(format!("{dir}/balancer.sock"))
        .arg("--pin-path")
        .arg(bed.pin_path())
        .output()
        .unwrap();
    assert_eq!(output.status.success(), is_up, "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn traffic_is_counted_by_vip_worker_and_function() {
    let mut bed = Bed::new(Layout::OneArm, 2);
    let _echoes = bed.echoes();
    let answered = call(&bed);
    let calls = ECHOES + STORES;

    let report: TrafficReport = bed.runtime.block_on(bed.admin().traffic()).unwrap();
    let vip = row(&report.vips, VIP);
    assert_eq!((vip.packets, vip.bytes), (calls, Some(calls * REQUEST_LEN)));
    for (worker, packets) in &answered {
        let row = row(&report.workers, worker);
        let expected = (*packets, Some(packets * REQUEST_LEN));
        assert_eq!((row.packets, row.bytes), expected, "{worker}");
    }
    assert_eq!(row(&report.functions, "echo@latest").packets, ECHOES);
    assert_eq!(row(&report.functions, "store@latest").packets, STORES);

    let text = bed.metrics();
    let is = |name: &str, label: &str, expected: u64| {
        let found = metric(&text, &format!("balancer_{name}_total{{{label}}}")).unwrap();
        assert!(
            (found - expected as f64).abs() < 0.5,
            "{name} {label}: {found}"
        );
    };
    is("vip_packets", &format!("vip=\"{VIP}\""), calls);
    is("vip_bytes", &format!("vip=\"{VIP}\""), calls * REQUEST_LEN);
    is("worker_packets", "worker=\"w0\"", answered["w0"]);
    is(
        "worker_bytes",
        "worker=\"w1\"",
        answered["w1"] * REQUEST_LEN,
    );
    is("function_packets", "function=\"echo@latest\"", ECHOES);

    let told = top(&bed, true);
    assert_eq!(told["vips"][0]["name"], VIP);
    assert_eq!(told["vips"][0]["packets"], calls);
    assert_eq!(told["functions"][0]["name"], "echo@latest");
    assert_eq!(told["functions"][0]["packets"], ECHOES);
    let outcomes = told["outcomes"].as_array().unwrap();
    let warm = outcomes.iter().find(|line| line["name"] == "route/warm");
    assert_eq!(warm.unwrap()["packets"], ECHOES);

    bed.control.kill().unwrap();
    let alone = maps::traffic(&bed.pin_path()).unwrap();
    assert_eq!(row(&alone.vips, VIP).packets, calls);
    assert_eq!(
        alone.workers.iter().map(|row| row.packets).sum::<u64>(),
        calls
    );
    let told = top(&bed, false);
    assert_eq!(
        told["functions"][0]["name"],
        FunctionId::of("echo").to_string()
    );
}
