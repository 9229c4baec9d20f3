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
    let record = Record::new(wanted.call(None));
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
