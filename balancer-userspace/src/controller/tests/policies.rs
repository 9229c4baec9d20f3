//! Policies: that of the configuration, and changes of it.

use super::*;

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
    let last = history
        .last(&crate::config::TunnelConfig::default())
        .unwrap();
    assert_eq!(last, Some((1, good)));
}
