//! The generator itself: runs inside the client's namespace, on one thread.

mod keys;
mod rate;
mod sessions;

use std::{
    cell::Cell,
    io::Write as _,
    net::SocketAddr,
    process::ExitCode,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use serde_json::Value;
use tokio::task::LocalSet;
use warmpath_sdk::{Call, CallError, Client, ClientConfig, Response};

use super::{Message, Plan, Summary};

const PROGRESS_EVERY: Duration = Duration::from_millis(50);
/// Handlers start cold when many come at once: patience beyond the client's default.
const BUDGET: Duration = Duration::from_secs(10);

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
        } => rate::latency(&progress, function, targets, (*rounds, *requests)).await,
        Plan::Closed {
            function,
            target,
            requests,
            in_flight,
        } => rate::closed(&progress, function, *target, (*requests, *in_flight)).await,
        Plan::Paced {
            function,
            target,
            per_second,
            requests,
        } => rate::paced(progress, function, *target, (*per_second, *requests)).await,
        Plan::Sessions {
            function,
            target,
            sessions,
            rounds,
            in_flight,
            fresh,
        } => {
            let counts = (*sessions, *rounds, *in_flight);
            sessions::run(&progress, function, *target, counts, *fresh).await
        }
        Plan::Keys {
            function,
            target,
            keys,
            in_flight,
        } => keys::run(&progress, function, *target, (*keys, *in_flight)).await,
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
