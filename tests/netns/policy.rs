//! `warmpath map show|set|unset|diff|apply|log|rollback`: what a policy changes is what becomes of packets, what it was can be
//! had again, and what cannot be kept changes nothing.

use balancer_userspace::maps;
use ebpf_common::maps::name;
use serde_json::{Value, json};
use tests::{topology::Layout, wait};

use crate::bed::{Bed, PATIENCE};

/// Maps that packets, heartbeats and time change.
const LIVELY: [&str; 10] = [
    name::WORKER_LOAD,
    name::SESSIONS,
    name::SCHEMA_SCRATCH,
    name::OPAQUE,
    name::SOURCE_BUCKETS,
    name::CPU_BUCKETS,
    name::COUNTERS,
    name::VIP_COUNTERS,
    name::WORKER_COUNTERS,
    name::FUNCTION_COUNTERS,
];

/// What all other maps hold.
fn held(bed: &Bed) -> Vec<(&'static str, Vec<Value>)> {
    let names = name::ALL.iter().filter(|name| !LIVELY.contains(name));
    let held = |name: &&'static str| (*name, maps::dump(&bed.pin_path(), name).unwrap().entries);
    names.map(held).collect()
}

/// Waits until the copies of tables that are not live are what the live ones are: they are written a while later.
fn wait_level(bed: &Bed) {
    let copy = |rows: &[Value], live: bool| -> Vec<Value> {
        let rows = rows.iter().filter(|row| row["live"] == live);
        rows.map(|row| json!([row["first"], row["last"], row["worker"]]))
            .collect()
    };
    wait::until("both copies written", PATIENCE, || {
        let is_level = |name: &&'static str| {
            let rows = maps::dump(&bed.pin_path(), name).unwrap().entries;
            copy(&rows, true) == copy(&rows, false)
        };
        Ok([name::SLOTS, name::HOME].iter().all(is_level).then_some(()))
    })
    .unwrap();
}

fn revisions(bed: &Bed) -> Vec<u64> {
    let log = bed.json("map log");
    let revision = |row: &Value| row["revision"].as_u64().unwrap();
    log.as_array().unwrap().iter().map(revision).collect()
}

fn write(bed: &Bed, text: &str) -> String {
    let path = bed.topology.run.dir().join("policy.toml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_policy_decides_what_becomes_of_packets_until_it_is_rolled_back() {
    let bed = Bed::new(Layout::OneArm, 2);
    let _echoes = bed.echoes();
    let client = bed.client();
    let blocked = || bed.counter("drop", "blocked");
    let shown = bed.says("map show");
    assert!(shown.starts_with("# revision 0\n"), "{shown}");
    wait_level(&bed);
    let before = held(&bed);
    let block = "[police]\nblock = [\"10.80.0.3/32\"]\n";
    let file = write(&bed, &format!("{shown}\n{block}"));

    let diff = bed.says(&format!("map diff {file}"));
    assert!(diff.contains("+ BLOCK4 10.80.0.3/32"), "{diff}");
    let dry = bed.json(&format!("map apply {file} --dry-run"));
    assert_eq!(
        (&dry["is_applied"], &dry["revision"]),
        (&false.into(), &0.into())
    );
    let rows = dry["rows"].as_array().unwrap();
    let is_block = |row: &&Value| row["map"] == "BLOCK4";
    let row = rows.iter().find(is_block).unwrap();
    assert_eq!(
        (&row["before"], &row["after"]),
        (&Value::Null, &"10.80.0.3/32".into())
    );
    assert_eq!(held(&bed), before);
    assert_eq!(revisions(&bed), [0; 0]);
    assert!(client.call("echo").is_some());

    let applied = bed.json(&format!("map apply {file}"));
    assert_eq!(
        (&applied["is_applied"], &applied["revision"]),
        (&true.into(), &1.into())
    );
    assert_eq!(
        applied["rows"], dry["rows"],
        "the dry run told what was done"
    );
    bed.wait_written();
    assert!(client.call("echo").is_none());
    assert_eq!(blocked(), 1);
    assert_eq!(
        bed.json("map show")["policy"]["police"]["block"][0],
        "10.80.0.3/32"
    );
    assert_eq!(revisions(&bed), [0, 1]);
    let trie = bed.json("map dump BLOCK4");
    assert_eq!(
        trie["entries"],
        serde_json::json!([{ "prefix": "10.80.0.3/32", "hits": 1 }])
    );

    let dry = bed.json("map rollback --dry-run");
    assert_eq!(dry["is_applied"], false);
    assert!(client.call("echo").is_none());
    assert_eq!(bed.json("map rollback")["revision"], 2);
    bed.wait_written();
    assert!(client.call("echo").is_some());
    assert_eq!(blocked(), 2);
    let mut after = held(&bed);
    let mut expected = before;
    for (_, rows) in [&mut after, &mut expected].into_iter().flatten() {
        for row in rows {
            // A change moves it on, whatever the change.
            row["generation"] = Value::Null;
            row["live"] = Value::Null;
        }
    }
    for (before, after) in expected.iter().zip(&after) {
        if ![name::HOME, name::SLOTS].contains(&before.0) {
            assert_eq!(before, after);
        }
    }

    assert_eq!(bed.json("map rollback 1")["revision"], 3);
    bed.wait_written();
    assert!(client.call("echo").is_none());
    assert_eq!(bed.json("map rollback 0")["revision"], 4);
    bed.wait_written();
    assert!(client.call("echo").is_some());
    assert!(bed.refused("map rollback 77").contains("no revision 77"));
}

#[test]
fn single_keys_are_set_and_taken_out() {
    let bed = Bed::new(Layout::OneArm, 1);
    let shed =
        || maps::dump(&bed.pin_path(), name::CONFIG).unwrap().entries[0]["shed_percent"].clone();
    let dry = bed.json("map set police.shed_percent 150 --dry-run");
    assert_eq!((&dry["is_applied"], shed()), (&false.into(), 0.into()));
    bed.json("map set police.shed_percent 150");
    bed.wait_written();
    assert_eq!(shed(), 150);
    assert_eq!(
        bed.json("map show")["policy"]["police"]["shed_percent"],
        150
    );
    bed.json("map unset police.shed_percent");
    bed.wait_written();
    assert_eq!(shed(), 0);
    for (line, problem) in [
        ("map set police.shed_percent 0", "police.shed_percent"),
        ("map set police.shed_percent lots", "not a TOML value"),
        ("map set police.shed_percents 200", "shed_percents"),
        ("map set vip.port 9", "map apply"),
        ("map unset police.shed_percent", "not set"),
    ] {
        let refusal = bed.refused(line);
        assert!(refusal.contains(problem), "{line}: {refusal}");
    }
    assert_eq!(revisions(&bed), [0, 1, 2]);
}

/// Each of these has something in it that could be done, too.
#[test]
fn a_file_that_cannot_be_kept_is_refused_whole() {
    let bed = Bed::new(Layout::OneArm, 2);
    let _echoes = bed.echoes();
    wait_level(&bed);
    let before = held(&bed);
    let vip = "[[vip]]\naddress = \"10.99.0.1\"\nport = 9000\n";
    let blocks = |count: u32| {
        let address = |n: u32| format!("\"{}\",", std::net::Ipv4Addr::from(0x0b00_0000 + n));
        let list: String = (0..count).map(address).collect();
        format!("[police]\nblock = [{list}]")
    };
    let functions = |count: u32| {
        let row = |n: u32| format!("{{name=\"f{n}\",per_second=100}},");
        let list: String = (0..count).map(row).collect();
        format!("[police]\nfunctions = [{list}]")
    };
    let many_vips: String = (1..=4_096)
        .map(|port| format!("[[vip]]\naddress = \"10.99.0.2\"\nport = {port}\n"))
        .collect();
    let many_pools: String = (0..16)
        .map(|n| format!("[[pool]]\nname = \"p{n}\"\nworkers = [\"w0\"]\n"))
        .collect();
    let long = [blocks(65_537), functions(3_687), many_vips, many_pools];
    let short = [
        (vip, "is there twice"),
        (
            "[[vip]]\naddress = \"224.0.0.1\"\nport = 1",
            "address of a host",
        ),
        (
            "[[vip]]\naddress = \"10.99.0.2\"\nport = 1\nprotocol = \"tcp\"",
            "only kind \"l4\"",
        ),
        (
            "[[vip]]\naddress = \"10.99.0.2\"\nport = 1\nforward = \"gue\"",
            "[tunnel]",
        ),
        (
            "[[vip]]\naddress = \"10.99.0.2\"\nport = 1\npool = \"none\"",
            "in no [[pool]]",
        ),
        (
            "[[vip]]\naddress = \"10.99.0.2\"\nport = 1\nkind = \"quic\"",
            "quic_config",
        ),
        (
            "[[vip]]\naddress = \"10.99.0.2\"\nport = 1\nkind = \"pktgen\"",
            "[vip.pktgen]",
        ),
        (
            "[[vip]]\naddress = \"10.80.0.2\"\nport = 7001",
            "LOAD address",
        ),
        (
            "[[vip]]\naddress = \"10.99.0.2\"\nport = 0",
            "port from 1 to 65535",
        ),
        ("[[pool]]\nname = \"p\"\nworkers = []", "no workers"),
        (
            "[[worker]]\nname = \"w0\"\nweight = 0",
            "weight of at least 1",
        ),
        ("[[worker]]\nname = \"w0\"\ncap = 0", "cap of at least 1"),
        (
            "[police]\nblock = [\"10.80.0.3/24\"]",
            "which hosts are meant",
        ),
        ("[police]\nblock = [\"nobody\"]", "police.block"),
        (
            "[police]\nsource_rate = {per_second = 0}",
            "police.source_rate",
        ),
        (
            "[police]\nunknown_rate = {per_second = 10000, burst = 1}",
            "at least 101",
        ),
        (
            "[police]\nanswer_rate = {per_second = 20000000}",
            "at most 10000000",
        ),
        (
            "[police]\nfunctions = [{name = \"\", per_second = 1}]",
            "must have a name",
        ),
        ("[police]\nshed_percents = 3", "shed_percents"),
        ("this is no TOML", "TOML"),
    ];
    let long = long.iter().map(|more| (more.as_str(), "at most"));
    for (more, problem) in short.into_iter().chain(long) {
        let block = if more.contains("[police]") {
            ""
        } else {
            "\n[police]\nblock = [\"10.80.0.3\"]"
        };
        let file = write(&bed, &format!("{vip}{more}{block}\n"));
        for verb in ["map diff", "map apply"] {
            let refusal = bed.refused(&format!("{verb} {file}"));
            let start: String = more.chars().take(80).collect();
            assert!(refusal.contains(problem), "{start}: {refusal}");
        }
    }
    assert_eq!(revisions(&bed), [0; 0]);
    assert_eq!(held(&bed), before);
    assert_eq!(bed.status().writes_pending, 0);
    assert!(bed.client().call("echo").is_some());
}
