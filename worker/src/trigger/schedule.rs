//! Pulling a schedule: each tick becomes a call that nobody waits for.

use std::{sync::Arc, time::Duration};

use db::DbError;
use store::trigger::{Schedule, ScheduleTrigger};
use tokio_util::sync::CancellationToken;
use warmpath_sdk::trigger::{TriggerKind, TriggerReport};

use super::{MEND, Site, event, metrics::Pulled, state::ScheduleState, wanted::Wanted};
use crate::deferred::{Record, now_ms};

/// The clock is looked at so often at least, for it may be set.
const LOOK: Duration = Duration::from_secs(20);

/// Pulls `trigger` until it `ended`.
pub(super) async fn pull(
    site: &Arc<Site>,
    wanted: &Wanted,
    trigger: &ScheduleTrigger,
    ended: &CancellationToken,
) {
    let schedule = match trigger.schedule() {
        Ok(schedule) => schedule,
        Err(error) => {
            // Published by a store that knew more than this worker.
            tracing::error!(function = wanted.function, trigger = wanted.trigger, %error, "a schedule is not pulled");
            return show(site, wanted, None, None, Some(error.to_string()));
        }
    };
    let mut state = None;
    while !ended.is_cancelled() && !site.load.is_draining() {
        let stepped = step(site, wanted, trigger, &schedule, &mut state, ended).await;
        if let Err(error) = stepped {
            tracing::warn!(function = wanted.function, trigger = wanted.trigger, %error, "a schedule's call cannot be kept; trying again");
            show(site, wanted, state.as_ref(), None, Some(error.to_string()));
            site.pause(MEND, ended).await;
        }
    }
}

/// Reads what is kept, waits for the next tick, or keeps the call of one.
async fn step(
    site: &Site,
    wanted: &Wanted,
    trigger: &ScheduleTrigger,
    schedule: &Schedule,
    state: &mut Option<ScheduleState>,
    ended: &CancellationToken,
) -> Result<(), DbError> {
    let Some(known) = state else {
        *state = Some(begin(site, wanted, trigger).await?);
        return Ok(());
    };
    let now = now_ms();
    if let Some((tick, missed)) = schedule.newest(known.through_ms, now) {
        *known = fire(site, wanted, known, tick, missed).await?;
        return Ok(());
    }
    // After the last time that a calendar has there is none.
    let next = schedule.next_after(known.through_ms.max(now));
    show(site, wanted, Some(known), next, None);
    let wait = next.map(|next| Duration::from_millis(next.saturating_sub(now)));
    site.pause(wait.unwrap_or(LOOK).min(LOOK), ended).await;
    Ok(())
}

/// What survived, or the beginning: nothing is due of what was before.
async fn begin(
    site: &Site,
    wanted: &Wanted,
    trigger: &ScheduleTrigger,
) -> Result<ScheduleState, DbError> {
    let survived: Option<ScheduleState> = site.state(wanted).await?;
    let same = survived.filter(|it| it.cron == trigger.cron && it.timezone == trigger.timezone);
    let state = match same {
        Some(state) if state.version == wanted.version => return Ok(state),
        Some(state) => ScheduleState {
            version: wanted.version,
            ..state
        },
        None => ScheduleState {
            version: wanted.version,
            cron: trigger.cron.clone(),
            timezone: trigger.timezone.clone(),
            through_ms: now_ms(),
            fired: 0,
            missed: 0,
            last_call: None,
        },
    };
    site.keep_state(wanted, &state).await?;
    Ok(state)
}

/// Keeps the call of a tick, and then that it was pulled: done twice, it is the same call.
async fn fire(
    site: &Site,
    wanted: &Wanted,
    before: &ScheduleState,
    tick: u64,
    missed: u32,
) -> Result<ScheduleState, DbError> {
    let id = wanted.call_id(tick);
    let event = event::tick(wanted, id, tick, missed);
    let record = Record::new(wanted.call(None), Some(wanted.payer()));
    site.shelves.keep_call(id, &record, &event).await?;
    let state = ScheduleState {
        through_ms: tick,
        fired: before.fired + 1,
        missed: before.missed + u64::from(missed),
        last_call: Some(id),
        ..before.clone()
    };
    site.keep_state(wanted, &state).await?;
    site.metrics.pulled(TriggerKind::Schedule, Pulled::Kept);
    site.metrics.missed(missed);
    Ok(state)
}

fn show(
    site: &Site,
    wanted: &Wanted,
    state: Option<&ScheduleState>,
    next_ms: Option<u64>,
    error: Option<String>,
) {
    let report = TriggerReport {
        next_ms,
        error,
        ..wanted.report()
    };
    let report = match state {
        Some(state) => TriggerReport {
            fired: state.fired,
            missed: state.missed,
            last_ms: state.last_call.is_some().then_some(state.through_ms),
            last_call: state.last_call,
            ..report
        },
        None => report,
    };
    site.shelves.board().show(&report);
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use db::{Embedded, Local, Op, Reply, Router, SlotSet};
    use prometheus::Registry;
    use store::{Catalog, CatalogEntry, Digest, Manifest};
    use warmpath_sdk::{Client, ClientConfig, FunctionId, deferred};

    use super::*;
    use crate::{
        catalog::Functions,
        deferred::{DeferredLimits, DeferredMetrics, Shelves},
        load::Load,
        trigger::{
            TriggerMetrics,
            wanted::{Pull, wanted},
        },
    };

    fn site(path: &std::path::Path) -> Site {
        let metrics = db::Metrics::unregistered();
        let local = Local {
            engine: Arc::new(Embedded::open(path, db::Options::default(), &metrics).unwrap()),
            slots: SlotSet::new(vec!["0-16383".parse().unwrap()]).unwrap(),
        };
        let db = Arc::new(Router::new(Some(local), metrics));
        let manifest = "name = 'f'\n[[triggers.schedule]]\nname = 't'\ncron = '@daily'";
        let entry = |qualified: &str| CatalogEntry {
            id: FunctionId::of(qualified),
            name: "f".to_owned(),
            qualified: qualified.to_owned(),
            version: 1,
            digest: Digest::of(b""),
            manifest: Manifest::parse(manifest.as_bytes()).unwrap(),
        };
        let nobody: SocketAddr = "127.0.0.1:9".parse().unwrap();
        let registry = Registry::new();
        let functions = Arc::new(Functions::fixed(Catalog {
            revision: 1,
            entries: vec![entry("f@latest"), entry("f@1")],
        }));
        let metrics = DeferredMetrics::register(&registry).unwrap();
        let limits = DeferredLimits::default();
        Site {
            shelves: Shelves::new(db, Arc::clone(&functions), limits, metrics),
            functions,
            client: Client::connect(nobody, ClientConfig::default()).unwrap(),
            load: Arc::new(Load::new(1)),
            metrics: TriggerMetrics::register(&registry).unwrap(),
        }
    }

    async fn kept(site: &Site, shelf: u8) -> usize {
        let scan = Op::Scan {
            prefix: format!("{}p:", deferred::tag(shelf)).into_bytes(),
            after: None,
            limit: 100,
        };
        match site.shelves.db().execute(scan).await.unwrap() {
            (Reply::Rows { rows, .. }, _) => rows.len(),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_tick_that_a_crash_has_fired_again_is_one_call() {
        let dir = tempfile::tempdir().unwrap();
        let site = site(dir.path());
        let all = wanted(&site.functions, |_| true);
        let wanted = all.values().next().unwrap();
        let Pull::Schedule(trigger) = &wanted.pull else {
            panic!("{wanted:?}");
        };
        let before = begin(&site, wanted, trigger).await.unwrap();
        let tick = before.through_ms + 1_000;
        let fired = fire(&site, wanted, &before, tick, 0).await.unwrap();
        // The crash came before the tick was known to have fired.
        let again = fire(&site, wanted, &before, tick, 0).await.unwrap();
        assert_eq!(fired, again);
        let shelf = fired.last_call.unwrap().shelf();
        assert_eq!(kept(&site, shelf).await, 1);
        fire(&site, wanted, &again, tick + 1_000, 0).await.unwrap();
        assert_eq!(kept(&site, shelf).await, 2);
        assert_eq!(begin(&site, wanted, trigger).await.unwrap().fired, 2);
    }
}
