//! Policies: that of the configuration, and changes of it.

use ebpf_common::maps::VipKind;

use super::*;
use crate::reconcile::tables::AnyVipKey;

#[test]
fn vips_of_the_configuration_are_listed() {
    let bench = Bench::new();
    let vips = bench.controller.vips();
    assert_eq!(vips[0].address.to_string(), "10.99.0.1");
    assert_eq!((vips[0].port, vips[1].kind.as_str()), (9000, "load"));
}

#[test]
fn a_policy_that_makes_no_sense_changes_nothing_and_one_that_does_survives_a_restart() {
    let mut bench = Bench::new();
    let before = bench.tables().clone();
    let bad: PolicyFile = toml::from_str("[[worker]]\nname = \"w0\"\nweight = 0").unwrap();
    let error = bench.controller.change_policy(bad, false).unwrap_err();
    assert!(error.to_string().contains("worker \"w0\""), "{error}");
    let good = "[[vip]]\naddress = \"10.99.0.7\"\nport = 53\n[police]\nblock = [\"192.0.2.0/24\"]";
    let good: PolicyFile = toml::from_str(good).unwrap();
    let dry = bench.controller.change_policy(good.clone(), true).unwrap();
    assert!(
        dry.rows
            .iter()
            .any(|row| row.map == "BLOCK4" && row.after.is_some())
    );
    assert!(
        dry.rows
            .iter()
            .any(|row| row.map == "VIPS" && row.after.is_none())
    );
    bench.settle();
    assert_eq!(*bench.tables(), before, "a dry run writes nothing");

    let change = bench.controller.change_policy(good.clone(), false).unwrap();
    assert_eq!((change.revision, change.is_applied), (1, true));
    bench.settle();
    assert_eq!(bench.tables().blocks.len(), 1);
    let history = crate::history::History::new(bench.controller.config.policy_dir());
    let last = history.last(&bench.controller.config).unwrap();
    assert_eq!(last, Some((1, good)));
}

fn vip_at_own_address(protocol: &str) -> PolicyFile {
    let text = format!(
        "[[vip]]\naddress = \"10.80.0.2\"\nport = 7001\nkind = \"l4\"\nprotocol = \"{protocol}\""
    );
    toml::from_str(&text).unwrap()
}

#[test]
fn a_vip_at_the_load_address_is_refused_if_it_is_for_udp_alone() {
    let mut bench = Bench::new();
    let error = bench
        .controller
        .change_policy(vip_at_own_address("udp"), false)
        .unwrap_err();
    assert!(error.to_string().contains("LOAD"), "{error}");
    bench
        .controller
        .change_policy(vip_at_own_address("tcp"), false)
        .unwrap();
    bench.settle();
    let key = |protocol| AnyVipKey::new("10.80.0.2".parse().unwrap(), 7001, protocol);
    let kind = |protocol| bench.tables().vips[&key(protocol)].kind();
    assert_eq!(kind(6), Some(VipKind::L4));
    assert_eq!(kind(17), Some(VipKind::Load));
}

#[test]
fn a_vip_keeps_its_row_when_its_address_becomes_our_own() {
    let mut bench = Bench::new();
    let elsewhere = || {
        let mut event = ports();
        event.ports.0[0].subnets[0] =
            Subnet::new(Ipv4Addr::new(10, 80, 0, 3), Ipv4Addr::new(255, 255, 255, 0));
        event
    };
    bench.controller.handle(Event::Ports(elsewhere()));
    bench
        .controller
        .change_policy(vip_at_own_address("udp"), false)
        .unwrap();
    bench.settle();
    bench.controller.handle(Event::Ports(ports()));
    bench.settle();
    let key = AnyVipKey::new("10.80.0.2".parse().unwrap(), 7001, 17);
    assert_eq!(bench.tables().vips[&key].kind(), Some(VipKind::L4));
    assert!(bench.controller.shared.borrow().load.is_none());

    bench.controller.handle(Event::Ports(elsewhere()));
    bench.settle();
    assert!(bench.controller.shared.borrow().load.is_some());
}
