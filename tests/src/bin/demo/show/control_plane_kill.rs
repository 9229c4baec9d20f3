//! (f) The control plane dies under load and comes back; the data plane does not notice.

use ::tests::load::{Plan, Summary};
use anyhow::Result;

use super::{Stage, grouped, shards::failures};
use crate::figures::ControlPlaneKill;

const PER_SECOND: u32 = 2_000;
const REQUESTS: u64 = 8_000;
/// Shares of the requests after which the control plane is killed, and started again.
const KILL_AT: f64 = 0.25;
const START_AT: f64 = 0.5;

pub(crate) fn show(stage: &mut Stage<'_>) -> Result<()> {
    stage
        .screen
        .during("warming hello on every worker", || stage.warm("hello"))?;
    let summary = stage.booked("(f)", |stage| {
        let summary = kill_under_load(stage)?;
        let sent = summary.series[0].packets;
        Ok((summary, sent))
    })?;
    let series = &summary.series[0];
    stage.figures.control_plane_kill = ControlPlaneKill {
        sent: series.sent,
        lost: series.sent - series.answered,
    };
    for index in 0..stage.cluster.topology.workers.len() {
        stage.cluster.wait_worker(index, "up")?;
    }
    let status = stage.cluster.status()?;
    if !status.adopted {
        stage
            .figures
            .complaints
            .push("the new control plane did not adopt the old one's maps".to_owned());
    }
    stage.say(&format!(
        "\n(f) Control plane killed with SIGKILL under {} requests/s, and started again\n\
         \x20   {} sent, {} lost, {} sent again{}\n\
         \x20   the new one {} maps and link, and sees {} of {} workers up",
        grouped(u64::from(PER_SECOND)),
        grouped(series.sent),
        grouped(stage.figures.control_plane_kill.lost),
        grouped(series.retried),
        failures(&summary),
        if status.adopted {
            "adopted the pinned"
        } else {
            "did NOT adopt the pinned"
        },
        status.workers_up,
        status.workers,
    ));
    Ok(())
}

fn kill_under_load(stage: &mut Stage<'_>) -> Result<Summary> {
    let requests = stage.scale.requests(REQUESTS).max(u64::from(PER_SECOND));
    let plan = Plan::Paced {
        function: "hello".to_owned(),
        target: stage.vip(),
        per_second: PER_SECOND,
        requests,
    };
    let bar = stage
        .screen
        .bar("(f) killing the control plane under load", requests);
    let mut load = stage.start_load(&plan)?;
    let mut progress = |done| bar.set(done);
    let share = |part: f64| (requests as f64 * part) as u64;
    load.wait_done(share(KILL_AT), &mut progress)?;
    stage.cluster.kill_balancer()?;
    load.wait_done(share(START_AT), &mut progress)?;
    stage.cluster.start_balancer()?;
    load.finish(&mut progress)
}
