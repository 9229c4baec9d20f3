//! Plans that only count and time: one at a time, as fast as it goes, and a steady stream.

use std::{
    cell::RefCell,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use futures_util::stream::{self, StreamExt as _};
use warmpath_sdk::{Call, Client};

use super::{BUDGET, Progress, connect, micros, now_us, timed};
use crate::load::{Sample, Series, Summary, series::is_retried};

const TICK: Duration = Duration::from_millis(1);
const HELLO: &str = r#"{"name":"Ada"}"#;

fn hello(function: &str) -> Call {
    Call::new(function).payload(HELLO).budget(BUDGET)
}

pub(super) async fn latency(
    progress: &Progress,
    function: &str,
    targets: &[SocketAddr],
    (rounds, requests): (u32, u32),
) -> Result<Summary> {
    let clients: Vec<Client> = targets
        .iter()
        .map(|it| connect(*it))
        .collect::<Result<_>>()?;
    let call = hello(function);
    let mut series = vec![Series::default(); targets.len()];
    for round in 0..rounds as usize {
        // Every other round the other way round, so that none always comes first.
        let mut order: Vec<usize> = (0..series.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let begin = Instant::now();
            for _request in 0..requests {
                let (result, took) = timed(&clients[index], call.clone()).await;
                series[index].add(&result, took);
                progress.step();
            }
            series[index].elapsed_us += micros(begin.elapsed());
        }
    }
    for (series, client) in series.iter_mut().zip(&clients) {
        series.packets = client.stats().packets_sent;
    }
    Ok(Summary {
        series,
        ..Summary::default()
    })
}

pub(super) async fn closed(
    progress: &Progress,
    function: &str,
    target: SocketAddr,
    (requests, in_flight): (u64, usize),
) -> Result<Summary> {
    let client = connect(target)?;
    let call = hello(function);
    let mut series = Series::default();
    let begin = Instant::now();
    let mut results = stream::iter(0..requests)
        .map(|_request| timed(&client, call.clone()))
        .buffer_unordered(in_flight);
    while let Some((result, took)) = results.next().await {
        series.add(&result, took);
        progress.step();
    }
    series.elapsed_us = micros(begin.elapsed());
    series.packets = client.stats().packets_sent;
    Ok(Summary {
        series: vec![series],
        ..Summary::default()
    })
}

pub(super) async fn paced(
    progress: Progress,
    function: &str,
    target: SocketAddr,
    (per_second, requests): (u32, u64),
) -> Result<Summary> {
    let client = connect(target)?;
    let call = hello(function);
    let shared = Rc::new((RefCell::new(Summary::default()), progress));
    shared.0.borrow_mut().series.push(Series::default());
    let begin = Instant::now();
    let mut ticks = tokio::time::interval(TICK);
    let mut tasks = Vec::new();
    let mut begun = 0;
    while begun < requests {
        ticks.tick().await;
        let due = begin.elapsed().as_secs_f64() * f64::from(per_second);
        while begun < requests && (begun as f64) < due {
            begun += 1;
            let (client, call, shared) = (client.clone(), call.clone(), Rc::clone(&shared));
            tasks.push(tokio::task::spawn_local(async move {
                let at_us = now_us();
                let (result, took) = timed(&client, call).await;
                let response = result.as_ref().ok();
                let sample = Sample {
                    at_us,
                    took_us: micros(took),
                    worker: response.and_then(|it| it.worker()).map(|worker| worker.0),
                    ok: response.is_some(),
                    retried: response.is_none_or(is_retried),
                };
                let (summary, progress) = &*shared;
                let mut summary = summary.borrow_mut();
                summary.samples.push(sample);
                summary.series[0].add(&result, took);
                progress.step();
            }));
        }
    }
    for task in tasks {
        task.await.context("a request's task")?;
    }
    let mut summary = shared.0.take();
    summary.series[0].elapsed_us = micros(begin.elapsed());
    summary.series[0].packets = client.stats().packets_sent;
    summary.samples.sort_by_key(|sample| sample.at_us);
    Ok(summary)
}
