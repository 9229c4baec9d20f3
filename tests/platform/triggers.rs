//! Functions that the time and the database call, through the death of a worker.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use ebpf_common::hash::slot_of_key;
use serde_json::{Value, json};
use tests::{cluster::Cluster, wait};

use crate::bed::{machine, platform};

const PATIENCE: Duration = Duration::from_secs(30);
const ORDERS: usize = 60;

/// What `examples/triggers` answers to `event`.
fn ask(cluster: &Cluster, event: &Value) -> Result<Value> {
    let reply = cluster.invoke("triggers", &event.to_string(), &[])?;
    let payload = reply["payload"]
        .as_str()
        .with_context(|| format!("no payload: {reply}"))?;
    serde_json::from_str(payload).with_context(|| format!("no JSON: {reply}"))
}

/// The orders that the function was told of, as it was told.
fn orders(cluster: &Cluster) -> Result<Vec<String>> {
    let kept = ask(cluster, &json!({}))?;
    serde_json::from_value(kept["orders"].clone()).context("no orders")
}

fn triggers(cluster: &Cluster) -> Result<Value> {
    let store = cluster.store_url();
    cluster.cli(&["fn", "triggers", "triggers", "--store", &store, "--json"])
}

fn wait_for<T>(what: &str, check: impl FnMut() -> Result<Option<T>>) -> T {
    wait::until(what, PATIENCE, check).unwrap()
}

/// The number of the worker that owns the slot of `key`.
fn owner(cluster: &Cluster, key: &str) -> usize {
    let slot = slot_of_key(key.as_bytes()).0;
    let owners = cluster.slots().unwrap().owners;
    let owns = |range: &str| {
        let (first, last) = range.split_once('-').unwrap();
        (first.parse::<u16>().unwrap()..=last.parse().unwrap()).contains(&slot)
    };
    let owner = owners.iter().find(|it| owns(&it.range)).unwrap();
    let workers = &cluster.topology.workers;
    workers
        .iter()
        .position(|it| it.role == owner.worker)
        .unwrap()
}

#[test]
fn the_time_and_writes_call_a_function_and_no_call_is_lost_with_a_worker() {
    let _machine = machine();
    let mut cluster = platform(&["triggers"]);
    let begun = Instant::now();
    let report = |of: &str, at: &str| -> Result<Option<u64>> {
        let triggers = triggers(&cluster)?;
        let found = triggers
            .as_array()
            .context("no list")?
            .iter()
            .find(|it| it["trigger"] == of);
        Ok(found.and_then(|it| it["report"][at].as_u64()))
    };
    wait_for("the feed to be followed", || report("orders", "cursor"));
    wait_for("three ticks", || {
        Ok(report("tick", "fired")?.filter(|fired| *fired >= 3))
    });

    let placed: Vec<String> = (0..ORDERS).map(|number| format!("{number:02}")).collect();
    for order in &placed {
        let written = ask(&cluster, &json!({"order": order})).unwrap();
        assert_eq!(written, json!(order));
    }
    let dying = owner(&cluster, "{orders}:");
    wait_for("some orders", || {
        Ok((orders(&cluster)?.len() >= 5).then_some(()))
    });
    cluster.kill_worker(dying).unwrap();
    cluster.wait_worker(dying, "down").unwrap();
    cluster.start_worker(dying).unwrap();
    let told = wait_for("all orders", || {
        Ok(Some(orders(&cluster)?).filter(|told| told.last() == placed.last()))
    });
    // The call that died with the worker is made again, and no other.
    assert!(told.len() <= ORDERS + 1, "{told:?}");
    let mut once = told;
    once.dedup();
    assert_eq!(once, placed);

    let ticks = ask(&cluster, &json!({})).unwrap()["ticks"].clone();
    let ticks = ticks.as_array().unwrap();
    let of =
        |key: &str| -> BTreeSet<String> { ticks.iter().map(|it| it[key].to_string()).collect() };
    assert_eq!(
        of("id").len(),
        of("time_ms").len(),
        "one call for each tick: {ticks:?}"
    );
    assert!(
        ticks
            .iter()
            .all(|tick| tick["time_ms"].as_u64().unwrap() % 1_000 == 0)
    );
    let (seen, missed) = (
        ticks.len() as u64,
        ticks
            .iter()
            .map(|it| it["missed"].as_u64().unwrap())
            .sum::<u64>(),
    );
    let passed = begun.elapsed().as_secs();
    assert!(
        seen >= 3 && seen + missed <= passed + 2,
        "{seen} and {missed} in {passed} s"
    );

    let shown = triggers(&cluster).unwrap();
    let feed = &shown[1];
    assert_eq!(
        (&feed["trigger"], &feed["report"]["dead"]),
        (&json!("orders"), &json!(0))
    );
    assert_eq!(
        (&feed["calls"], &feed["error"]),
        (&json!("triggers@latest"), &Value::Null)
    );
    cluster.stop().unwrap();
}
