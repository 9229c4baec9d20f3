//! Requests at a fixed rate, whatever comes back: an open loop, in which a slow answer delays no later request.

use std::{
    net::UdpSocket,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use ebpf_common::{
    cookie::{CookieKeys, CookieScope},
    ids::WorkerId,
    wire::{Kind, RpcHeader, flags},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use testbed::topology::{Host, VIP, VIP_PORT};

use crate::scene::FUNCTION;

/// What is not answered that long after the last request was sent is lost.
const LOST_AFTER: Duration = Duration::from_secs(30);
/// Granularity of the receiver's patience.
const LOOK_UP: Duration = Duration::from_millis(200);

/// Who chooses the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Policy {
    /// The balancer, by the warm rule.
    Warm,
    /// The client, in turn, by a valid route cookie.
    RoundRobin,
    /// The client, at random, by a valid route cookie.
    Random,
}

impl Policy {
    pub(crate) const ALL: [Self; 3] = [Self::Warm, Self::RoundRobin, Self::Random];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Warm => "warm rule",
            Self::RoundRobin => "round robin",
            Self::Random => "random",
        }
    }
}

/// What a client sends.
#[derive(Debug, Clone)]
pub(crate) struct Traffic {
    pub(crate) policy: Policy,
    pub(crate) per_second: f64,
    pub(crate) time: Duration,
    /// The same seed gives the same requests at the same times, under any policy.
    pub(crate) seed: u64,
    pub(crate) workers: u16,
    pub(crate) keys: CookieKeys,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answers {
    /// From the moment a request was due to its answer, ascending.
    pub(crate) latencies: Vec<Duration>,
    pub(crate) sent: u64,
    pub(crate) lost: u64,
}

struct Planned {
    at: Duration,
    header: RpcHeader,
}

/// Sends `traffic` from `host`, and waits for all answers.
pub(crate) fn run(host: &Host, traffic: &Traffic) -> Result<Answers> {
    let plan = plan(traffic);
    let socket = host
        .netns
        .enter(|| UdpSocket::bind((host.address(), 0)))?
        .context("opening the client's socket")?;
    socket.connect((VIP, VIP_PORT))?;
    socket.set_read_timeout(Some(LOOK_UP))?;
    // A moment for the receiver's thread to start.
    let start = Instant::now() + Duration::from_millis(20);
    thread::scope(|scope| {
        let receiver = scope.spawn(|| receive(&socket, &plan, start));
        for planned in &plan {
            let due = start + planned.at;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            socket.send(&planned.header.emit())?;
        }
        match receiver.join() {
            Ok(answers) => answers,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn plan(traffic: &Traffic) -> Vec<Planned> {
    // Apart, so that the policy's draws do not change what is sent when.
    let mut arrivals = StdRng::seed_from_u64(traffic.seed);
    let mut choices = StdRng::seed_from_u64(!traffic.seed);
    let mut plan = Vec::new();
    let mut at = 0.0;
    loop {
        at += -(1.0 - arrivals.random::<f64>()).ln() / traffic.per_second;
        if at > traffic.time.as_secs_f64() {
            return plan;
        }
        let number = plan.len() as u64;
        let worker = match traffic.policy {
            Policy::Warm => None,
            Policy::RoundRobin => Some((number % u64::from(traffic.workers)) as u16),
            Policy::Random => Some(choices.random_range(0..traffic.workers)),
        };
        let header = RpcHeader {
            // A trace id, which comes back with the answer.
            token: number,
            ..RpcHeader::request(FUNCTION, arrivals.random())
        };
        plan.push(Planned {
            at: Duration::from_secs_f64(at),
            header: worker.map_or(header, |worker| with_cookie(header, worker, traffic.keys)),
        });
    }
}

fn with_cookie(header: RpcHeader, worker: u16, keys: CookieKeys) -> RpcHeader {
    let scope = CookieScope {
        function: header.function,
        session: 0,
    };
    RpcHeader {
        flags: header.flags | flags::HAS_COOKIE,
        route_cookie: keys.seal(WorkerId(worker), scope),
        ..header
    }
}

fn receive(socket: &UdpSocket, plan: &[Planned], start: Instant) -> Result<Answers> {
    let mut answered = vec![false; plan.len()];
    let mut latencies = Vec::with_capacity(plan.len());
    let last = plan.last().map_or(Duration::ZERO, |planned| planned.at);
    let given_up = start + last + LOST_AFTER;
    let mut buffer = [0; 2048];
    while latencies.len() < plan.len() && Instant::now() < given_up {
        let Ok(len) = socket.recv(&mut buffer) else {
            continue;
        };
        let now = Instant::now();
        let Some(Ok((header, _))) = RpcHeader::parse(buffer.get(..len).unwrap_or_default()) else {
            bail!("an answer that is none");
        };
        if header.kind != Kind::Response {
            bail!("the request was refused: status {}", header.status);
        }
        let number = usize::try_from(header.token)?;
        let (Some(planned), Some(seen)) = (plan.get(number), answered.get_mut(number)) else {
            bail!("an answer to nothing that was asked");
        };
        if planned.header.request_id == header.request_id && !*seen {
            *seen = true;
            latencies.push(now.saturating_duration_since(start + planned.at));
        }
    }
    latencies.sort_unstable();
    let sent = plan.len() as u64;
    Ok(Answers {
        sent,
        lost: sent - latencies.len() as u64,
        latencies,
    })
}
