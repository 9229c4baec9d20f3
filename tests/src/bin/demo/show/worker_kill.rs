//! (e) A worker dies under load: SIGKILL, no goodbye.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ::tests::load::{Plan, Sample, Summary};
use anyhow::{Context as _, Result};

use super::{Stage, grouped, shards::failures};
use crate::{drawing::HandOver, figures::WorkerKill};

const PER_SECOND: u32 = 2_000;
const REQUESTS: u64 = 8_000;
/// The worker is killed when this share of them has ended.
const KILL_AT: f64 = 0.4;
/// So many requests answered at once, one after the other, say that the hand-over is over: of 25 requests to three
/// workers, one of them dead, all being lucky is one chance in 25,000.
const CALM: usize = 25;

pub(crate) fn show(stage: &mut Stage<'_>) -> Result<()> {
    stage
        .screen
        .during("warming hello on every worker", || stage.warm("hello"))?;
    // The death of an idle worker would show nothing.
    let victim = stage.busiest(&stage.few_calls("hello")?)?;
    let (summary, killed_at_us, noticed) = stage.booked("(e)", |stage| {
        let result = kill_under_load(stage, victim)?;
        let sent = result.0.series[0].packets;
        Ok((result, sent))
    })?;
    let back = stage.screen.during("starting the worker again", || {
        let begin = Instant::now();
        stage.cluster.start_worker(victim)?;
        Ok(begin.elapsed())
    })?;
    let series = &summary.series[0];
    stage.figures.worker_kill = WorkerKill {
        failed: series.sent - series.answered,
        retried: series.retried,
        moved_ms: moved_ms(&summary.samples, killed_at_us),
    };
    let name = stage.cluster.topology.workers[victim].role.clone();
    let WorkerKill {
        failed,
        retried,
        moved_ms,
    } = &stage.figures.worker_kill;
    stage.say(&format!(
        "\n(e) Worker {name} killed with SIGKILL under {} requests/s\n\
         \x20   {} sent, {failed} failed, {retried} answered after being sent again{}\n\
         \x20   out of the tables by {:.1} ms after; all traffic had moved to the others after {moved_ms:.1} ms\n\
         \x20   started again, it took work after {} ms",
        grouped(u64::from(PER_SECOND)),
        grouped(series.sent),
        failures(&summary),
        noticed.as_secs_f64() * 1_000.0,
        back.as_millis(),
    ));
    stage.pictures.hand_over = Some(HandOver {
        names: series
            .workers
            .keys()
            .map(|id| (*id, stage.name(*id).to_owned()))
            .collect(),
        samples: summary.samples,
        killed_at_us,
        victim: name,
    });
    Ok(())
}

/// Returns the load's figures, the time of the kill in microseconds since 1970, and how long after it the control
/// plane was seen to have taken the worker out.
fn kill_under_load(stage: &mut Stage<'_>, victim: usize) -> Result<(Summary, u64, Duration)> {
    let requests = stage.scale.requests(REQUESTS).max(u64::from(PER_SECOND));
    let plan = Plan::Paced {
        function: "hello".to_owned(),
        target: stage.vip(),
        per_second: PER_SECOND,
        requests,
    };
    let bar = stage
        .screen
        .bar("(e) killing a worker under load", requests);
    let mut load = stage.start_load(&plan)?;
    let mut progress = |done| bar.set(done);
    load.wait_done((requests as f64 * KILL_AT) as u64, &mut progress)?;
    let (killed_at, begin) = (SystemTime::now(), Instant::now());
    stage.cluster.kill_worker(victim)?;
    stage.cluster.wait_worker(victim, "down")?;
    let noticed = begin.elapsed();
    let summary = load.finish(&mut progress)?;
    let killed_at = killed_at
        .duration_since(UNIX_EPOCH)
        .context("the clock is before 1970")?;
    Ok((summary, u64::try_from(killed_at.as_micros())?, noticed))
}

/// From the kill to the last request, by the time of its sending, that failed or had to be sent again before
/// [`CALM`] requests in a row were answered at once. (Later ones have other reasons: a busy machine.)
fn moved_ms(samples: &[Sample], killed_at_us: u64) -> f64 {
    let mut moved_us = 0;
    let mut calm = 0;
    for sample in samples.iter().filter(|sample| sample.at_us >= killed_at_us) {
        if sample.retried || !sample.ok {
            moved_us = sample.at_us - killed_at_us;
            calm = 0;
        } else {
            calm += 1;
            if calm == CALM {
                break;
            }
        }
    }
    moved_us as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at_us: u64, retried: bool) -> Sample {
        Sample {
            at_us,
            took_us: 100,
            worker: Some(1),
            ok: true,
            retried,
        }
    }

    #[test]
    fn traffic_has_moved_when_it_stays_calm() {
        let mut samples = vec![sample(500, true), sample(1_000, false), sample(3_000, true)];
        samples.extend((0..CALM as u64).map(|index| sample(4_000 + index, false)));
        samples.push(sample(90_000, true));
        assert_eq!(moved_ms(&samples, 1_000), 2.0);
        assert_eq!(moved_ms(&[], 1_000), 0.0);
    }
}
