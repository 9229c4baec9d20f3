//! Functions that the time and the database call, through the death of a worker.

use std::{
    collections::BTreeSet,
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use ebpf_common::hash::slot_of_key;
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::{cluster::Cluster, wait};

use crate::bed::{examples, machine, metric, platform};

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

/// The orders that the function was told of, as it was told: each with the place of its write in the feed.
fn orders(cluster: &Cluster) -> Result<Vec<(u64, String)>> {
    let kept = ask(cluster, &json!({}))?;
    serde_json::from_value(kept["orders"].clone()).context("no orders")
}

fn triggers(cluster: &Cluster) -> Result<Value> {
    let store = cluster.store_url();
    cluster.cli(&["fn", "triggers", "triggers", "--store", &store, "--json"])
}

/// A number of what is reported of the trigger `of`.
fn report(cluster: &Cluster, of: &str, at: &str) -> Result<Option<u64>> {
    let triggers = triggers(cluster)?;
    let mut listed = triggers.as_array().context("no list")?.iter();
    let found = listed.find(|it| it["trigger"] == of);
    Ok(found.and_then(|it| it["report"][at].as_u64()))
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
    let mut cluster = platform(&[]);
    // It ticks as soon as a worker knows of it, whenever we hear that it is deployed.
    let begun = Instant::now();
    cluster.deploy(&examples().join("triggers")).unwrap();
    wait_for("the feed to be followed", || {
        report(&cluster, "orders", "cursor")
    });
    wait_for("three ticks", || {
        Ok(report(&cluster, "tick", "fired")?.filter(|fired| *fired >= 3))
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
        let told = orders(&cluster)?;
        let is_all = told.last().map(|(_, order)| order) == placed.last();
        Ok(is_all.then_some(told))
    });
    // In their order, each at least once. What was done before is not begun anew: the call that died with the worker is made
    // again, and each that failed; no other.
    let mut writes = told.clone();
    writes.dedup();
    assert!(writes.is_sorted_by(|one, next| one.0 < next.0), "{told:?}");
    let failures = report(&cluster, "orders", "failures").unwrap().unwrap();
    let most = writes.len() + 1 + usize::try_from(failures).unwrap();
    let (calls, distinct) = (told.len(), writes.len());
    println!("{calls} calls, {failures} failed, for {distinct} writes of {ORDERS} orders");
    assert!(told.len() <= most, "{failures} failed: {told:?}");
    // Who places an order has that handler run at most once on one worker, but on a second one, too, if the first one's word
    // comes late (docs/wire-format.md, "What at-most-once means"): those are two writes, and each is told of.
    let mut orders: Vec<String> = writes.into_iter().map(|(_, order)| order).collect();
    orders.dedup();
    assert_eq!(orders, placed);

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
    let client = cluster.topology.client.address().to_string();
    let own = ["trigger:triggers/orders", "trigger:triggers/tick"].map(str::to_owned);
    let all: BTreeSet<String> = own.into_iter().chain([client]).collect();
    assert_eq!(payers(&cluster), all);
    cluster.stop().unwrap();
}

/// Who paid for calls of `triggers`, of each of which one is asked for.
fn payers(cluster: &Cluster) -> BTreeSet<String> {
    let sockets = cluster.worker_sockets();
    let cost = |more: &[&str]| -> Vec<String> {
        let args = ["fn", "cost", "triggers", "--worker", &sockets, "--json"];
        let report = cluster.cli(&[&args, more].concat()).unwrap();
        let lines = report["lines"].as_array().unwrap().iter();
        let callers = lines.map(|line| line["caller"].as_str().unwrap().to_owned());
        callers.collect()
    };
    let all: BTreeSet<String> = cost(&[]).into_iter().collect();
    for caller in &all {
        let mut found = cost(&["--caller", caller]);
        found.dedup();
        assert_eq!(found, [caller.as_str()]);
    }
    all
}

/// A function that writes what calls it, or has a look at what is not its own.
const CYCLIC: &str = r#"
import warmpath

def f(event):
    if "peek" in event:
        try:
            return [value.decode() for _, value in warmpath.db.scan(event["peek"])]
        except warmpath.db.DbError as refused:
            return refused.kind
    if "records" in event:
        written = int(event["records"][0]["value"]) + 1
    else:
        written = 0
    warmpath.db.put("{cyclic}:n", str(written))
    return written
"#;
const PER_SECOND: u64 = 5;

fn deploy_cyclic(cluster: &Cluster, triggers: &str) {
    let root = TempDir::new().unwrap();
    let dir = root.path().join("cyclic");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("f.py"), CYCLIC).unwrap();
    fs::write(
        dir.join("warmpath.toml"),
        format!("name = \"cyclic\"\n{triggers}"),
    )
    .unwrap();
    cluster.deploy(&dir).unwrap();
}

#[test]
fn a_function_that_calls_itself_by_its_writes_is_held_to_its_rate_and_ended_by_a_deployment() {
    let _machine = machine();
    let cluster = platform(&[]);
    let trigger = format!(
        "[[triggers.feed]]\nname = \"self\"\nprefix = \"{{cyclic}}:\"\nper_second = {PER_SECOND}\n"
    );
    deploy_cyclic(&cluster, &trigger);
    let report = || -> Result<Value> {
        let store = cluster.store_url();
        let shown = cluster.cli(&["fn", "triggers", "cyclic", "--store", &store, "--json"])?;
        Ok(shown[0]["report"].clone())
    };
    wait_for("the feed to be followed", || {
        Ok(report()?["cursor"].as_u64())
    });
    let begun = Instant::now();
    let first = cluster.invoke("cyclic", "{}", &[]).unwrap();
    assert_eq!(first["payload"], "0");
    let fired = wait_for("some rounds", || {
        Ok(report()?["fired"].as_u64().filter(|fired| *fired >= 10))
    });
    let most = 1 + u64::try_from(begun.elapsed().as_millis()).unwrap() * PER_SECOND / 1_000;
    assert!(fired <= most, "{fired} calls in {:?}", begun.elapsed());

    deploy_cyclic(&cluster, "");
    wait_for("the trigger to end", || {
        let pulled = metric(&cluster, "worker_triggers{kind=\"feed\"}");
        Ok((pulled == 0).then_some(()))
    });
    let look = || {
        cluster
            .invoke("cyclic", r#"{"peek": "{cyclic}:"}"#, &[])
            .unwrap()["payload"]
            .clone()
    };
    let last = look();
    for _ in 0..2 * PER_SECOND {
        assert_eq!(look(), last, "somebody still writes");
    }
    for key in ["{wp-async-00}:p:", "wp-trigger:{cyclic}:"] {
        let event = json!({"peek": key}).to_string();
        let refused = cluster.invoke("cyclic", &event, &[]).unwrap();
        assert_eq!(refused["payload"], r#""malformed""#, "{refused}");
    }
    cluster.stop().unwrap();
}
