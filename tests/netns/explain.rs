//! The program asked about packets, and the maps read, with and without a control plane.

use balancer_userspace::{
    api::types::{ExplainRequest, Explanation},
    maps,
};
use ebpf_common::maps::name;
use tests::topology::Layout;

use crate::{bed::Bed, client::Load};

fn request(function: &str) -> ExplainRequest {
    ExplainRequest {
        function: Some(function.to_owned()),
        source: Some("10.80.0.3:40000".parse().unwrap()),
        ..ExplainRequest::to(Bed::vip().into())
    }
}

fn explain(bed: &Bed, request: &ExplainRequest) -> Explanation {
    bed.runtime.block_on(bed.admin().explain(request)).unwrap()
}

#[test]
fn the_program_says_rule_worker_and_packet() {
    let bed = Bed::new(Layout::OneArm, 3);
    let _echoes = bed.echoes();
    let warm = explain(&bed, &request("echo"));
    assert_eq!(
        (warm.outcome.as_str(), warm.rule.as_str()),
        ("route", "warm")
    );
    assert_eq!(warm.verdict, "XDP_TX");
    let worker = warm.worker.unwrap();
    assert!(worker.name.unwrap().starts_with('w'));
    let out = warm.packet_out.unwrap();
    assert_eq!(out.dst_mac, worker.mac);
    assert_eq!(out.destination, Bed::vip().into());

    let shard = ExplainRequest {
        shard_key: Some("foo".to_owned()),
        ..request("store")
    };
    // Slot 12182 is in the last third.
    let shard = explain(&bed, &shard);
    assert_eq!(shard.rule, "shard");
    assert_eq!(shard.worker.unwrap().name.as_deref(), Some("w2"));

    let unknown = explain(&bed, &request("nobody"));
    assert_eq!(
        (unknown.outcome.as_str(), unknown.rule.as_str()),
        ("error", "unknown_function")
    );
    let out = unknown.packet_out.unwrap();
    assert_eq!(
        (out.kind.as_str(), out.status.as_deref()),
        ("error", Some("unknown_function"))
    );
    assert_eq!(unknown.worker, None);

    let forged = ExplainRequest {
        cookie: Some(0x0001_0000_dead_beef),
        ..request("echo")
    };
    let forged = explain(&bed, &forged);
    assert_eq!(forged.rule, "warm");
    assert_eq!(forged.details.len(), 1, "{:?}", forged.details);

    let elsewhere = ExplainRequest {
        vip: "10.99.0.1:1".parse().unwrap(),
        ..request("echo")
    };
    assert_eq!(explain(&bed, &elsewhere).verdict, "XDP_PASS");
}

#[test]
fn asking_about_a_session_leaves_no_session_behind() {
    let bed = Bed::new(Layout::OneArm, 3);
    let _echoes = bed.echoes();
    let session = ExplainRequest {
        session: Some(77),
        ..request("talk")
    };
    let first = explain(&bed, &session);
    assert_eq!(first.details, ["session_created"]);
    assert_eq!(sessions(&bed), 0);
    let placed = bed.client().call_session("talk", 77).unwrap().worker;
    let again = explain(&bed, &session);
    assert_eq!(again.rule, "session");
    assert_eq!(again.worker.unwrap().name, Some(placed));
    assert_eq!(sessions(&bed), 1);
}

/// How many sessions have a place.
fn sessions(bed: &Bed) -> u64 {
    let dump = maps::dump(&bed.pin_path(), name::SESSIONS).unwrap();
    dump.entries[0]["entries"].as_u64().unwrap()
}

#[test]
fn everything_can_be_read_with_the_control_plane_dead_and_under_load() {
    let mut bed = Bed::new(Layout::TwoArms, 2);
    let _echoes = bed.echoes();
    let load = Load::start(bed.client(), |client, number| {
        client.call_session("talk", number % 9)
    });
    bed.control.kill().unwrap();
    let pin_path = bed.pin_path();
    for map in maps::list(&pin_path).unwrap() {
        let dump = maps::dump(&pin_path, &map.name).unwrap();
        // Nobody has asked for what these hold.
        let may_be_empty = [
            name::VIPS6,
            name::SCHEMAS,
            name::SCHEMA_SCRATCH,
            name::PKTGEN,
            name::BLOCK4,
            name::BLOCK6,
            name::BLOCK_FILTER,
            name::SOURCE_BUCKETS,
            name::FUNCTION_LIMITS,
            name::FUNCTION_BUCKETS,
            name::CPU_BUCKETS,
            name::OPAQUE,
            // The worker program's, which a balancer does not run.
            name::DECAP,
        ];
        let is_read = !dump.entries.is_empty() || may_be_empty.contains(&map.name.as_str());
        assert!(is_read, "{}", map.name);
    }
    let config = maps::dump(&pin_path, name::CONFIG).unwrap();
    assert_eq!(config.entries[0]["keys"], "not shown");
    assert!(
        maps::dump(&pin_path, "NOPE")
            .unwrap_err()
            .to_string()
            .contains("SESSIONS")
    );
    let in_balancer = &bed.topology.balancer.netns;
    for _ in 0..20 {
        let explained = in_balancer
            .enter(|| maps::explain(&pin_path, &request("echo")))
            .unwrap();
        let explained = explained.unwrap();
        assert_eq!(explained.rule, "warm");
        assert_eq!(explained.verdict, "XDP_REDIRECT");
    }
    let tally = load.stop();
    assert_eq!((tally.lost, tally.refused), (0, 0), "{tally:?}");
}
