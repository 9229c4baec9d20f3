//! (b) Each session meets one worker, and one instance on it.

use ::tests::load::Plan;
use anyhow::{Context as _, Result};

use super::{Stage, grouped};
use crate::figures::{Sessions, ratio};

const SESSIONS: u64 = 1_000;
const ROUNDS: u32 = 10;
const IN_FLIGHT: usize = 16;

pub(crate) fn show(stage: &mut Stage<'_>) -> Result<()> {
    stage
        .screen
        .during("warming session-counter on every worker", || {
            stage.warm("session-counter")
        })?;
    let plan = Plan::Sessions {
        function: "session-counter".to_owned(),
        target: stage.vip(),
        sessions: stage.scale.requests(SESSIONS),
        rounds: ROUNDS,
        in_flight: IN_FLIGHT,
        fresh: true,
    };
    let summary = stage.booked("(b)", |stage| {
        let summary = stage.load("(b) sessions", &plan)?;
        let sent = summary.series[0].packets;
        Ok((summary, sent))
    })?;
    let met = summary
        .sessions
        .context("the load generator counted no sessions")?;
    stage.figures.sessions = Sessions {
        count: met.sessions,
        requests: met.requests,
        // Of those sent: an unanswered one met nobody.
        sticky_ratio: ratio(met.sticky, plan.requests()),
    };
    if met.counted != plan.requests() {
        stage.figures.complaints.push(format!(
            "in {} of {} session requests the instance's memory did not hold the earlier ones",
            plan.requests() - met.counted,
            plan.requests()
        ));
    }
    stage.say(&format!(
        "\n(b) Sessions: {} × {ROUNDS} requests, every second round by a client without route cookies\n\
         \x20   {} of {} requests met the worker and the instance of their session ({:.2} %)\n\
         \x20   {} found all earlier requests of their session in the instance's memory\n\
         \x20   answered by {}",
        grouped(met.sessions),
        grouped(met.sticky),
        grouped(plan.requests()),
        stage.figures.sessions.sticky_ratio * 100.0,
        grouped(met.counted),
        stage.shares(&summary.series[0].workers),
    ));
    Ok(())
}
