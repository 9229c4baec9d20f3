//! Triggers: functions that the time and the database call, over redeployments and crashes.

use std::{ops::Deref, path::Path, sync::Arc};

use bytes::Bytes;
use db::{Op, Reply};
use serde_json::Value;
use store::{Catalog, CatalogEntry};
use tempfile::TempDir;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use warmpath_sdk::{
    deferred::{Ask, CallId, DeadCalls, SHELVES, State},
    http,
    trigger::{TriggerAnswer, TriggerReport, schedule_slot},
};
use worker::trigger::{self, Site, TriggerMetrics};

use crate::{
    bench::{MS, Runs, version},
    keeper::{Keeper, PATIENCE, until_crash},
};

const EACH_SECOND: &str = "[[triggers.schedule]]\nname = 't'\ncron = '* * * * * *'";
const ORDERS: &str = "[[triggers.feed]]\nname = 't'\nprefix = '{orders}:'";

/// One that pulls triggers, too.
struct Puller {
    keeper: Keeper,
    revision: u64,
    _tasks: JoinSet<()>,
}

impl Deref for Puller {
    type Target = Keeper;

    fn deref(&self) -> &Keeper {
        &self.keeper
    }
}

impl Puller {
    fn start(path: &Path, entries: Vec<CatalogEntry>) -> Self {
        let mut keeper = Keeper::start(path);
        keeper.make();
        let site = Site {
            shelves: Arc::clone(&keeper.shelves),
            functions: Arc::clone(&keeper.bench.functions),
            client: keeper.client.clone(),
            load: Arc::clone(&keeper.bench.load),
            metrics: TriggerMetrics::register(&keeper.registry).unwrap(),
        };
        let mut puller = Self {
            keeper,
            revision: 1,
            _tasks: JoinSet::new(),
        };
        // As at a real start: the catalog is there first, or comes later.
        puller.deploy(entries);
        trigger::serve(Arc::new(site), |_| true, &mut puller._tasks);
        puller
    }

    fn deploy(&mut self, entries: Vec<CatalogEntry>) {
        self.revision += 1;
        self.bench.functions.replace(Catalog {
            revision: self.revision,
            entries,
        });
    }

    async fn report(&self, function: &str) -> Option<TriggerReport> {
        let ask = Ask::Trigger {
            function: function.to_owned(),
            trigger: "t".to_owned(),
            slot: schedule_slot(function, "t").0,
        };
        let answer: (TriggerAnswer, Bytes) = http::split(&self.ask(&ask, b"").await).unwrap();
        answer.0.report
    }

    /// What is said of a trigger once `is_so`.
    async fn once(&self, function: &str, is_so: impl Fn(&TriggerReport) -> bool) -> TriggerReport {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let report = self.report(function).await;
            if let Some(report) = report.clone().filter(&is_so) {
                return report;
            }
            assert!(Instant::now() < deadline, "{report:?}");
            sleep(5 * MS).await;
        }
    }

    /// Waits until a trigger is not pulled any more.
    async fn gone(&self, function: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.report(function).await.is_some() {
            assert!(Instant::now() < deadline, "it is still pulled");
            sleep(5 * MS).await;
        }
    }

    /// What a call replied, once it is done.
    async fn done(&self, id: CallId) -> Value {
        let (_, body) = self.keeper.once(id, State::Done).await;
        serde_json::from_slice(&body).unwrap()
    }

    async fn rows(&self, prefix: &str) -> usize {
        let scan = Op::Scan {
            prefix: prefix.into(),
            after: None,
            limit: 1_000,
        };
        match self.db.execute(scan).await.unwrap() {
            (Reply::Rows { rows, .. }, _) => rows.len(),
            other => panic!("{other:?}"),
        }
    }

    /// Outcomes of all calls that nobody waited for: one for each tick.
    async fn outcomes(&self) -> u64 {
        let mut outcomes = 0;
        for shelf in 0..SHELVES {
            let tag = warmpath_sdk::deferred::tag(shelf);
            outcomes += self.rows(&format!("{tag}r:")).await as u64;
        }
        outcomes
    }

    fn collected(&self) -> Vec<String> {
        collected(&self.bench.runs)
    }

    async fn once_collected(&self, count: usize) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        while self.collected().len() < count {
            let seen = self.collected();
            assert!(Instant::now() < deadline, "{seen:?}");
            sleep(5 * MS).await;
        }
        self.collected()
    }

    /// The value of the metric `line`, which is its name and labels.
    fn counted(&self, line: &str) -> u64 {
        let metrics = self.metrics();
        let value = metrics.lines().find_map(|it| it.strip_prefix(line));
        value.map_or(0, |value| value.trim().parse().unwrap())
    }
}

/// The values of the writes that `collect` was told of, in that order.
fn collected(runs: &Runs) -> Vec<String> {
    let events = runs.collected.lock().unwrap();
    let values = events.iter().flat_map(|event| {
        let event: Value = serde_json::from_slice(event).unwrap();
        let records = event["records"].as_array().unwrap().clone();
        records
            .into_iter()
            .map(|it| it["value"].as_str().unwrap().to_owned())
    });
    values.collect()
}

/// A version of `name` that is its latest.
fn latest(name: &str, number: u32, triggers: &str) -> Vec<CatalogEntry> {
    vec![
        version(name, "latest", number, triggers),
        version(name, &number.to_string(), number, triggers),
    ]
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[tokio::test]
async fn each_tick_is_one_call_with_its_time_in_the_event() {
    let dir = TempDir::new().unwrap();
    let mut puller = Puller::start(dir.path(), latest("echo", 1, EACH_SECOND));
    let first = puller.once("echo", |report| report.fired >= 1).await;
    let event = puller.done(first.last_call.unwrap()).await;
    assert_eq!(
        event["trigger"],
        serde_json::json!({"kind": "schedule", "function": "echo", "name": "t"})
    );
    assert_eq!(event["time_ms"].as_u64(), first.last_ms);
    assert_eq!(first.last_ms.unwrap() % 1_000, 0);
    assert_eq!(
        event["id"].as_str().unwrap(),
        first.last_call.unwrap().to_string()
    );
    assert_eq!(first.next_ms, first.last_ms.map(|last| last + 1_000));
    let third = puller
        .once("echo", |report| report.fired >= first.fired + 2)
        .await;
    puller.done(third.last_call.unwrap()).await;
    assert_ne!(third.last_call, first.last_call);
    // Without the trigger there are no further ticks: as many calls as were kept, and no other.
    puller.deploy(latest("echo", 2, ""));
    puller.gone("echo").await;
    let kept = puller.counted("worker_trigger_pulls_total{kind=\"schedule\",outcome=\"kept\"}");
    assert!(kept >= third.fired, "{kept} after {third:?}");
    let deadline = Instant::now() + PATIENCE;
    while puller.outcomes().await < kept {
        assert!(Instant::now() < deadline, "{kept} calls do not end");
        sleep(5 * MS).await;
    }
    assert_eq!(puller.outcomes().await, kept);
}

#[tokio::test]
async fn triggers_pay_for_their_calls_by_their_names() {
    let dir = TempDir::new().unwrap();
    let both = [
        latest("payer", 1, EACH_SECOND),
        latest("collect", 1, ORDERS),
    ]
    .concat();
    let puller = Puller::start(dir.path(), both);
    let of_collect = |report: &TriggerReport| report.cursor.is_some();
    puller.once("collect", of_collect).await;
    for number in 0..3 {
        let key = format!("{{orders}}:{number}");
        puller.put(&key, &number.to_string()).await;
    }
    puller.once_collected(3).await;
    let paid = puller.bench.runs.payers.lock().unwrap().clone();
    assert!(paid.iter().all(|it| it == "trigger:collect/t"), "{paid:?}");
    let tick = puller.once("payer", |report| report.fired >= 1).await;
    let (_, reply) = puller
        .keeper
        .once(tick.last_call.unwrap(), State::Done)
        .await;
    assert_eq!(reply, "trigger:payer/t");
}

#[test]
fn of_ticks_that_were_missed_one_is_made_up_for() {
    let dir = TempDir::new().unwrap();
    let (fired, last_ms) = until_crash(async {
        let puller = Puller::start(dir.path(), latest("echo", 1, EACH_SECOND));
        let report = puller.once("echo", |report| report.fired >= 1).await;
        (report.fired, report.last_ms.unwrap())
    });
    std::thread::sleep(3_100 * MS);
    until_crash(async {
        let puller = Puller::start(dir.path(), latest("echo", 1, EACH_SECOND));
        let report = puller.once("echo", |report| report.fired > fired).await;
        // The tick of the catch-up, and perhaps the one after it.
        assert!(report.missed >= 2, "{report:?}");
        let passed = (report.last_ms.unwrap() - last_ms) / 1_000;
        assert_eq!(passed, report.fired - fired + report.missed, "{report:?}");
        let event = puller.done(report.last_call.unwrap()).await;
        assert!(event["missed"].as_u64().unwrap() <= report.missed);
    });
}

#[tokio::test]
async fn a_schedule_that_changes_is_new_and_one_that_is_removed_ends() {
    let dir = TempDir::new().unwrap();
    let mut puller = Puller::start(dir.path(), latest("echo", 1, EACH_SECOND));
    puller.once("echo", |report| report.fired >= 1).await;
    let daily = EACH_SECOND.replace("* * * * * *", "@yearly");
    puller.deploy(latest("echo", 2, &daily));
    let changed = puller.once("echo", |report| report.version == 2).await;
    assert_eq!((changed.fired, changed.last_call), (0, None));
    assert!(changed.next_ms.unwrap() > changed.last_ms.unwrap_or(0));
    puller.deploy(latest("echo", 3, ""));
    puller.gone("echo").await;
    puller.deploy(latest("echo", 4, &daily));
    puller.once("echo", |report| report.version == 4).await;
}

#[tokio::test]
async fn each_write_below_the_prefix_is_a_call_in_the_order_of_the_writes() {
    let dir = TempDir::new().unwrap();
    let puller = Puller::start(dir.path(), latest("collect", 1, ORDERS));
    puller
        .once("collect", |report| report.cursor.is_some())
        .await;
    for number in 0..30 {
        puller
            .put(
                &format!("{{orders}}:{}", 7 * number % 10),
                &number.to_string(),
            )
            .await;
        puller.put("other:{orders}", "no").await;
        puller.put("{elsewhere}:1", "no").await;
    }
    assert_eq!(puller.once_collected(30).await, numbers(0..30));
    let report = puller
        .once("collect", |report| report.fired == 30 && report.lag == 0)
        .await;
    assert_eq!((report.failures, report.dead), (0, 0));
    assert_eq!(puller.bench.runs.most_for_one_request(), 1);
    // What it keeps lies in the same feed, and does not call it.
    sleep(100 * MS).await;
    assert_eq!(puller.collected().len(), 30);
}

#[tokio::test]
async fn a_batch_is_one_call_and_a_new_trigger_can_begin_with_what_was_before() {
    let dir = TempDir::new().unwrap();
    let triggers = format!("{ORDERS}\nbatch = 100\nbegin = 'beginning'");
    let mut puller = Puller::start(dir.path(), latest("collect", 1, ""));
    for number in 0..40 {
        puller.put("{orders}:1", &number.to_string()).await;
    }
    puller.deploy(latest("collect", 2, &triggers));
    assert_eq!(puller.once_collected(40).await, numbers(0..40));
    assert_eq!(puller.bench.runs.requests(), 1);
}

#[test]
fn no_write_is_lost_when_the_worker_dies_with_its_calls() {
    let dir = TempDir::new().unwrap();
    // Slow enough to die before it is done.
    let slowly = format!("{ORDERS}\nper_second = 20");
    let runs = until_crash(async {
        let puller = Puller::start(dir.path(), latest("collect", 1, &slowly));
        puller
            .once("collect", |report| report.cursor.is_some())
            .await;
        for number in 0..60 {
            puller.put("{orders}:1", &number.to_string()).await;
        }
        puller.once_collected(3).await;
        Arc::clone(&puller.bench.runs)
    });
    // Only now is it certain that no further call has begun.
    let before = collected(&runs);
    assert!(before.len() < 60, "it died too late");
    until_crash(async {
        let puller = Puller::start(dir.path(), latest("collect", 1, ORDERS));
        // From where it was: what had been done is not done again, but for the call that was cut short.
        let first = puller.once_collected(1).await[0].parse::<usize>().unwrap();
        assert!(
            first + 1 >= before.len() && first <= before.len(),
            "{first} after {before:?}"
        );
        assert_eq!(puller.once_collected(60 - first).await, numbers(first..60));
    });
}

#[tokio::test]
async fn what_fails_again_and_again_is_a_dead_letter_and_the_next_write_has_its_turn() {
    let dir = TempDir::new().unwrap();
    let puller = Puller::start(dir.path(), latest("raise", 1, ORDERS));
    puller.once("raise", |report| report.cursor.is_some()).await;
    puller.put("{orders}:1", "a").await;
    puller.put("{orders}:2", "b").await;
    let report = puller.once("raise", |report| report.dead == 2).await;
    assert_eq!((report.fired, report.failures), (0, 4));
    let id = report.last_call.unwrap();
    assert_eq!(puller.keeper.report(id).await.0.state, State::Failed);
    let dead = puller.ask(&Ask::Dead { shelf: id.shelf() }, b"").await;
    let (dead, _) = http::split::<DeadCalls>(&dead).unwrap();
    assert_eq!(dead.calls.len(), 2);
    assert!(
        dead.calls
            .iter()
            .any(|call| call.id == id && call.function == "raise@latest")
    );
    let counted = puller.metrics();
    for (outcome, count) in [("failed", 4), ("dead", 2)] {
        let line =
            format!("worker_trigger_pulls_total{{kind=\"feed\",outcome=\"{outcome}\"}} {count}");
        assert!(counted.contains(&line), "{line} of {counted}");
    }
}

#[tokio::test]
async fn a_new_version_goes_on_where_the_old_one_was_and_a_removed_function_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    let mut puller = Puller::start(dir.path(), latest("collect", 1, ORDERS));
    puller
        .once("collect", |report| report.cursor.is_some())
        .await;
    puller.put("{orders}:1", "0").await;
    puller.once_collected(1).await;
    let mut both = latest("collect", 2, ORDERS);
    both.push(version("collect", "1", 1, ORDERS));
    puller.deploy(both);
    let second = puller.once("collect", |report| report.version == 2).await;
    assert_eq!(second.fired, 1);
    puller.put("{orders}:1", "1").await;
    puller.once_collected(2).await;

    puller.deploy(Vec::new());
    let deadline = Instant::now() + PATIENCE;
    while puller.rows("wp-trigger:{orders}:").await > 0 {
        assert!(
            Instant::now() < deadline,
            "what was kept of it is still there"
        );
        sleep(5 * MS).await;
    }
    puller.put("{orders}:1", "nobody's").await;
    puller.deploy(latest("collect", 3, ORDERS));
    puller
        .once("collect", |report| {
            report.version == 3 && report.cursor.is_some()
        })
        .await;
    puller.put("{orders}:1", "2").await;
    assert_eq!(puller.once_collected(3).await, numbers(0..3));
}

#[test]
fn one_that_was_removed_and_deployed_anew_while_its_worker_was_down_is_new() {
    let dir = TempDir::new().unwrap();
    until_crash(async {
        let puller = Puller::start(dir.path(), latest("collect", 1, ORDERS));
        puller
            .once("collect", |report| report.cursor.is_some())
            .await;
        puller.put("{orders}:1", "0").await;
        puller.once_collected(1).await;
    });
    until_crash(async {
        let mut puller = Puller::start(dir.path(), Vec::new());
        puller.put("{orders}:1", "nobody's").await;
        puller.deploy(latest("collect", 2, ORDERS));
        puller
            .once("collect", |report| {
                report.version == 2 && report.cursor.is_some()
            })
            .await;
        puller.put("{orders}:1", "1").await;
        assert_eq!(puller.once_collected(1).await, ["1"]);
    });
}

#[tokio::test]
async fn calls_are_no_more_than_per_second_has_it() {
    let dir = TempDir::new().unwrap();
    let triggers = format!("{ORDERS}\nper_second = 20");
    let puller = Puller::start(dir.path(), latest("collect", 1, &triggers));
    puller
        .once("collect", |report| report.cursor.is_some())
        .await;
    let begun = Instant::now();
    for number in 0..12 {
        puller.put("{orders}:1", &number.to_string()).await;
    }
    puller.once_collected(12).await;
    // The first one is free, each further one waits a twentieth of a second.
    assert!(begun.elapsed() >= 550 * MS, "{:?}", begun.elapsed());
    assert!(puller.metrics().contains("worker_trigger_held_back_total"));
}
