//! The generator itself: runs inside the client's namespace, on one thread.

use std::{
    cell::{Cell, RefCell},
    io::Write as _,
    net::SocketAddr,
    process::ExitCode,
    rc::Rc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use futures_util::stream::{self, StreamExt as _};
use serde_json::{Value, json};
use tokio::task::LocalSet;
use warmpath_sdk::{Call, CallError, Client, ClientConfig, Response, session_id};

use super::{
    KeyResult, Message, Plan, Sample, Series, SessionsResult, Summary, series::is_retried,
};

const TICK: Duration = Duration::from_millis(1);
const PROGRESS_EVERY: Duration = Duration::from_millis(50);
/// Handlers start cold when many come at once: patience beyond the client's default.
const BUDGET: Duration = Duration::from_secs(10);
const HELLO: &str = r#"{"name":"Ada"}"#;

/// The verb `load`: does what `plan` (JSON) says and prints the messages.
#[must_use]
pub fn main(plan: &str) -> ExitCode {
    let result = serde_json::from_str(plan)
        .context("the plan is no plan")
        .and_then(|plan| run(&plan));
    let (message, code) = match result {
        Ok(summary) => (Message::Summary(Box::new(summary)), ExitCode::SUCCESS),
        Err(error) => (Message::Failed(format!("{error:#}")), ExitCode::FAILURE),
    };
    match say(&message) {
        Ok(()) => code,
        Err(_nobody_reads) => ExitCode::FAILURE,
    }
}

fn say(message: &Message) -> Result<()> {
    let mut line = serde_json::to_vec(message).context("encoding a message")?;
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    out.write_all(&line)
        .and_then(|()| out.flush())
        .context("printing a message")
}

fn run(plan: &Plan) -> Result<Summary> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the async runtime")?;
    LocalSet::new().block_on(&runtime, dispatch(plan))
}

async fn dispatch(plan: &Plan) -> Result<Summary> {
    let progress = Progress::default();
    match plan {
        Plan::Latency {
            function,
            targets,
            rounds,
            requests,
        } => latency(&progress, function, targets, (*rounds, *requests)).await,
        Plan::Closed {
            function,
            target,
            requests,
            in_flight,
        } => closed(&progress, function, *target, (*requests, *in_flight)).await,
        Plan::Paced {
            function,
            target,
            per_second,
            requests,
        } => paced(progress, function, *target, (*per_second, *requests)).await,
        Plan::Sessions {
            function,
            target,
            sessions,
            rounds,
            in_flight,
        } => {
            let counts = (*sessions, *rounds, *in_flight);
            sessions_plan(&progress, function, *target, counts).await
        }
        Plan::Keys {
            function,
            target,
            keys,
            in_flight,
        } => keys_plan(&progress, function, *target, (*keys, *in_flight)).await,
    }
}

/// Says now and then how many requests have ended.
#[derive(Debug, Default)]
struct Progress {
    done: Cell<u64>,
    said: Cell<Option<Instant>>,
}

impl Progress {
    fn step(&self) {
        self.done.set(self.done.get() + 1);
        let now = Instant::now();
        if self
            .said
            .get()
            .is_none_or(|said| now - said > PROGRESS_EVERY)
        {
            self.said.set(Some(now));
            if say(&Message::Done(self.done.get())).is_err() {
                // Whoever asked for this load is gone.
                std::process::exit(1);
            }
        }
    }
}

fn connect(target: SocketAddr) -> Result<Client> {
    Ok(Client::connect(target, ClientConfig::default())?)
}

async fn timed(client: &Client, call: Call) -> (Result<Response, CallError>, Duration) {
    let begin = Instant::now();
    let result = client.call(call).await;
    (result, begin.elapsed())
}

fn hello(function: &str) -> Call {
    Call::new(function).payload(HELLO).budget(BUDGET)
}

async fn latency(
    progress: &Progress,
    function: &str,
    targets: &[Vec<SocketAddr>],
    (rounds, requests): (u32, u32),
) -> Result<Summary> {
    let mut clients = Vec::new();
    for targets in targets {
        ensure!(!targets.is_empty(), "a series without a target");
        let clients_of: Result<Vec<Client>> = targets.iter().map(|it| connect(*it)).collect();
        clients.push(clients_of?);
    }
    let call = hello(function);
    let mut series = vec![Series::default(); targets.len()];
    for round in 0..rounds as usize {
        // Every other round the other way round, so that none always comes first.
        let mut order: Vec<usize> = (0..series.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let client = &clients[index][round % clients[index].len()];
            let begin = Instant::now();
            for _request in 0..requests {
                let (result, took) = timed(client, call.clone()).await;
                series[index].add(&result, took);
                progress.step();
            }
            series[index].elapsed_us += micros(begin.elapsed());
        }
    }
    for (series, clients) in series.iter_mut().zip(&clients) {
        series.packets = clients
            .iter()
            .map(|client| client.stats().packets_sent)
            .sum();
    }
    Ok(Summary {
        series,
        ..Summary::default()
    })
}

async fn closed(
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

async fn paced(
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

/// What a session's first request met.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Met {
    worker: Value,
    instance: Value,
}

async fn sessions_plan(
    progress: &Progress,
    function: &str,
    target: SocketAddr,
    (sessions, rounds, in_flight): (u64, u32, usize),
) -> Result<Summary> {
    let salt: u64 = rand::random();
    let mut client = connect(target)?;
    let mut series = Series::default();
    let mut first: Vec<Option<Met>> = vec![None; usize::try_from(sessions)?];
    let mut result = SessionsResult::default();
    let begin = Instant::now();
    for round in 0..rounds {
        if round % 2 == 0 {
            series.packets += client.stats().packets_sent;
            client = connect(target)?;
        }
        let mut replies = stream::iter(0..first.len())
            .map(|index| {
                let session = session_id(&format!("{salt:x}-{index}"));
                let call = Call::new(function).session(session).budget(BUDGET);
                let client = &client;
                async move { (index, timed(client, call).await) }
            })
            .buffer_unordered(in_flight);
        while let Some((index, (reply, took))) = replies.next().await {
            series.add(&reply, took);
            progress.step();
            if let Ok(reply) = reply {
                note_session(&mut result, &mut first[index], round, &reply)?;
            }
        }
    }
    series.packets += client.stats().packets_sent;
    series.elapsed_us = micros(begin.elapsed());
    Ok(Summary {
        series: vec![series],
        sessions: Some(result),
        ..Summary::default()
    })
}

fn note_session(
    result: &mut SessionsResult,
    first: &mut Option<Met>,
    round: u32,
    reply: &Response,
) -> Result<()> {
    let reply: Value = parse(reply)?;
    let met = Met {
        worker: reply["worker"].clone(),
        instance: reply["instance"].clone(),
    };
    ensure!(
        !met.instance.is_null(),
        "a session's reply names no instance: {reply}"
    );
    result.requests += 1;
    if first.is_none() {
        result.sessions += 1;
    }
    result.sticky += u64::from(*first.get_or_insert_with(|| met.clone()) == met);
    result.counted += u64::from(reply["count"] == u64::from(round) + 1);
    Ok(())
}

async fn keys_plan(
    progress: &Progress,
    function: &str,
    target: SocketAddr,
    (keys, in_flight): (u64, usize),
) -> Result<Summary> {
    let client = connect(target)?;
    let mut series = Series::default();
    let begin = Instant::now();
    let mut all: Vec<KeyResult> = (0..keys)
        .map(|index| KeyResult {
            key: format!("user:{index}"),
            written_by: None,
            read_by: None,
            read_back: false,
        })
        .collect();
    // Never 0, which is what a key that was never written counts.
    let base = u64::from(rand::random::<u16>()) + 1;
    for is_write in [true, false] {
        let mut replies = stream::iter(0..all.len())
            .map(|index| {
                let key = format!("user:{index}");
                let value = base + index as u64;
                let event = if is_write {
                    json!({ "key": key, "add": value })
                } else {
                    json!({ "key": key })
                };
                let call = Call::new(function)
                    .shard_key(&key)
                    .payload(event.to_string())
                    .budget(BUDGET);
                let client = &client;
                async move { (index, value, timed(client, call).await) }
            })
            .buffer_unordered(in_flight);
        while let Some((index, value, (reply, took))) = replies.next().await {
            series.add(&reply, took);
            progress.step();
            let Ok(reply) = reply else { continue };
            let reply = parse(&reply)?;
            let worker = reply["worker"].as_str().map(str::to_owned);
            let key = &mut all[index];
            if is_write {
                key.written_by = worker;
            } else {
                key.read_by = worker;
                key.read_back = reply["value"] == value;
            }
        }
    }
    series.elapsed_us = micros(begin.elapsed());
    series.packets = client.stats().packets_sent;
    Ok(Summary {
        series: vec![series],
        keys: all,
        ..Summary::default()
    })
}

fn parse(reply: &Response) -> Result<Value> {
    serde_json::from_slice(&reply.payload).with_context(|| {
        let text = String::from_utf8_lossy(&reply.payload);
        format!("a reply is not JSON: {text}")
    })
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Microseconds since the Unix epoch.
pub(super) fn now_us() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, micros)
}
