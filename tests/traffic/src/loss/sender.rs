//! The client's end: numbered packets at a steady rate.

use std::{
    net::UdpSocket,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use ebpf_common::cookie::CookieKeys;
use testbed::topology::{Host, VIP, VIP_PORT};

use super::{
    flows::Flows,
    kinds::{Kind, SESSIONS, TUNNEL_PORT, packet},
};

/// Packets that are sent before anything changes: they open the sessions.
pub(super) const PREFACE: u64 = SESSIONS;

/// Sends until it is stopped.
pub(super) struct Sender {
    shared: Arc<Shared>,
    thread: JoinHandle<Result<Vec<Instant>>>,
}

/// What is sent from: a socket for each VIP, and those of the flows.
struct Sockets {
    requests: UdpSocket,
    tunnelled: UdpSocket,
    flows: Flows,
}

struct Shared {
    sent: AtomicU64,
    may_go_on: AtomicBool,
    stop: AtomicBool,
    /// What cookies are made with, in turn.
    keys: Mutex<Vec<CookieKeys>>,
}

impl Sender {
    pub(super) fn start(host: &Host, per_second: u32, keys: CookieKeys) -> Result<Self> {
        let [requests, tunnelled] = [VIP_PORT, TUNNEL_PORT].map(|port| socket_to(host, port));
        let (requests, tunnelled) = (requests?, tunnelled?);
        let shared = Arc::new(Shared {
            sent: AtomicU64::new(0),
            may_go_on: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            keys: Mutex::new(vec![keys]),
        });
        let mut sockets = Sockets {
            requests,
            tunnelled,
            flows: Flows::of(host.address()),
        };
        let of_thread = Arc::clone(&shared);
        // Started inside, so that the sockets that it opens for flows are the client's.
        let thread = host
            .netns
            .enter(|| thread::spawn(move || of_thread.send(&mut sockets, per_second)))?;
        Ok(Self { shared, thread })
    }

    /// Packets sent so far.
    pub(super) fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Acquire)
    }

    /// Sends what comes after the preface.
    pub(super) fn go_on(&self) {
        self.shared.may_go_on.store(true, Ordering::Release);
    }

    /// Makes cookies with each of `keys` in turn; when this returns, none is made otherwise any more.
    pub(super) fn seal_with(&self, keys: Vec<CookieKeys>) {
        *self
            .shared
            .keys
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// Stops; returns when each packet was sent.
    pub(super) fn stop(self) -> Result<Vec<Instant>> {
        self.shared.stop.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(sent) => sent,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

fn socket_to(host: &Host, port: u16) -> Result<UdpSocket> {
    let socket = host
        .netns
        .enter(|| UdpSocket::bind((host.address(), 0)))?
        .context("opening the client's socket")?;
    socket.connect((VIP, port))?;
    Ok(socket)
}

impl Shared {
    fn send(&self, sockets: &mut Sockets, per_second: u32) -> Result<Vec<Instant>> {
        let gap = Duration::from_secs(1) / per_second;
        let mut sent = Vec::new();
        let mut due = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            let number = sent.len() as u64;
            if number >= PREFACE && !self.may_go_on.load(Ordering::Acquire) {
                thread::yield_now();
                due = Instant::now();
                continue;
            }
            thread::sleep(due.saturating_duration_since(Instant::now()));
            due += gap;
            // Held until the packet is sent: see `Sender::seal_with`.
            let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
            let turn = number as usize / Kind::COUNT % keys.len();
            let header = packet(number, *keys.get(turn).context("there are keys")?);
            let socket = match Kind::of(number) {
                Kind::Flow(flow) => sockets.flows.socket(flow)?,
                Kind::Tunnelled => &sockets.tunnelled,
                _ => &sockets.requests,
            };
            sent.push(Instant::now());
            socket.send(&header.emit()).context("sending a packet")?;
            self.sent.fetch_add(1, Ordering::Release);
            drop(keys);
        }
        Ok(sent)
    }
}
