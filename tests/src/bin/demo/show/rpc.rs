//! (a) RPCs through XDP, and the same client past the balancer.

use ::tests::load::{Plan, Series};
use anyhow::Result;

use super::{Stage, grouped};
use crate::figures::{Latency, Rpc};

/// Turns of each series; they alternate, so that noise hits both alike.
const ROUNDS: u32 = 20;
/// Requests through the VIP, one at a time; as many go past it.
const LATENCY_REQUESTS: u64 = 100_000;
/// Requests through the VIP for the rate.
const RATE_REQUESTS: u64 = 100_000;
const RATE_IN_FLIGHT: usize = 16;

pub(crate) fn show(stage: &mut Stage<'_>) -> Result<()> {
    // Before the others are warmed, all calls go to one worker: past the balancer, the same worker is called.
    let worker = only_warm_worker(stage)?;
    let latency = stage.booked("(a)", |stage| {
        let plan = latency_plan(stage, worker);
        let latency = stage.load("(a) one request at a time", &plan)?.series;
        let sent = latency[0].packets;
        Ok((latency, sent))
    })?;
    stage
        .screen
        .during("warming hello on every worker", || stage.warm("hello"))?;
    let rate = stage.booked("(a)", |stage| {
        let rate = stage
            .load("(a) 16 requests at a time", &rate_plan(stage))?
            .series;
        let sent = rate[0].packets;
        Ok((rate, sent))
    })?;
    let ([vip, direct], [rate]) = (two(latency), one(rate));
    let quantile = |series: &Series, share| series.latency.quantile_us(share);
    stage.figures.rpc = Rpc {
        sent: vip.sent + rate.sent,
        answered: vip.answered + rate.answered,
        p50_us: quantile(&vip, 0.5),
        p99_us: quantile(&vip, 0.99),
        per_second: rate.per_second() as u64,
    };
    stage.figures.direct = Latency {
        p50_us: quantile(&direct, 0.5),
        p99_us: quantile(&direct, 0.99),
    };
    report(stage, worker, &[&vip, &direct, &rate]);
    stage.pictures.vip = vip.latency;
    stage.pictures.direct = direct.latency;
    Ok(())
}

/// Calls hello until it is warm, and returns the index of the worker where.
fn only_warm_worker(stage: &Stage<'_>) -> Result<usize> {
    stage.busiest(&stage.few_calls("hello")?)
}

fn latency_plan(stage: &Stage<'_>, worker: usize) -> Plan {
    let requests = stage.scale.requests(LATENCY_REQUESTS) / u64::from(ROUNDS);
    Plan::Latency {
        function: "hello".to_owned(),
        targets: vec![stage.vip(), stage.cluster.direct(worker)],
        rounds: ROUNDS,
        requests: u32::try_from(requests).unwrap_or(u32::MAX),
    }
}

fn rate_plan(stage: &Stage<'_>) -> Plan {
    Plan::Closed {
        function: "hello".to_owned(),
        target: stage.vip(),
        requests: stage.scale.requests(RATE_REQUESTS),
        in_flight: RATE_IN_FLIGHT,
    }
}

fn report(stage: &Stage<'_>, worker: usize, [vip, direct, rate]: &[&Series; 3]) {
    let name = &stage.cluster.topology.workers[worker].role;
    let (rpc, past) = (&stage.figures.rpc, &stage.figures.direct);
    stage.say(&format!(
        "\n(a) RPC over UDP to the VIP, from the client's namespace\n\
         \x20   {} sent, {} answered\n\
         \x20                          p50       p99   one request at a time, {ROUNDS} turns each, all served by {name}\n\
         \x20   through the VIP   {:>6} µs {:>6} µs   {} requests\n\
         \x20   past the balancer {:>6} µs {:>6} µs   {} requests straight to {name}\n\
         \x20   the balancer adds {:>6} µs at p50\n\
         \x20   {} requests/s through the VIP, {RATE_IN_FLIGHT} at a time, answered by {}",
        grouped(rpc.sent),
        grouped(rpc.answered),
        rpc.p50_us,
        rpc.p99_us,
        grouped(vip.answered),
        past.p50_us,
        past.p99_us,
        grouped(direct.answered),
        rpc.p50_us.cast_signed() - past.p50_us.cast_signed(),
        grouped(rpc.per_second),
        stage.shares(&rate.workers),
    ));
}

fn one(mut series: Vec<Series>) -> [Series; 1] {
    [series.pop().unwrap_or_default()]
}

fn two(mut series: Vec<Series>) -> [Series; 2] {
    let second = series.pop().unwrap_or_default();
    [series.pop().unwrap_or_default(), second]
}
