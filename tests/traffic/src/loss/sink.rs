//! The workers' end: notes which packets arrive, of RPCs, of flows and out of tunnels, and when.

use std::{
    io,
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use ebpf_common::wire::RpcHeader;
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use testbed::topology::{Host, VIP, VIP_PORT};

use super::kinds::{FLOW_PORT, TUNNEL_PORT};

/// How often it looks whether it is to stop.
const LOOK_UP: Duration = Duration::from_millis(100);
/// Holds what arrives while the machine does something else.
const BUFFER_BYTES: usize = 16 << 20;

/// A packet that arrived: its number, and when.
pub(super) type Arrival = (u64, Instant);

/// The sockets of one worker.
pub(super) struct Sink {
    count: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<Vec<Arrival>>>>,
}

impl Sink {
    pub(super) fn start(host: &Host) -> Result<Self> {
        let mut sink = Self {
            count: Arc::new(AtomicU64::new(0)),
            stop: Arc::new(AtomicBool::new(false)),
            threads: Vec::new(),
        };
        for port in [VIP_PORT, FLOW_PORT, TUNNEL_PORT] {
            let socket = host
                .netns
                .enter(|| UdpSocket::bind((VIP, port)))?
                .context("binding the VIP")?;
            socket.set_read_timeout(Some(LOOK_UP))?;
            setsockopt(&socket, RcvBufForce, &BUFFER_BYTES)?;
            let (count, stop) = (Arc::clone(&sink.count), Arc::clone(&sink.stop));
            let thread = thread::spawn(move || receive(&socket, &count, &stop));
            sink.threads.push(thread);
        }
        Ok(sink)
    }

    /// Packets that have arrived.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Closes it; returns what arrived.
    pub(super) fn stop(self) -> Result<Vec<Arrival>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut arrivals = Vec::new();
        for thread in self.threads {
            match thread.join() {
                Ok(arrived) => arrivals.extend(arrived?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(arrivals)
    }
}

fn receive(socket: &UdpSocket, count: &AtomicU64, stop: &AtomicBool) -> Result<Vec<Arrival>> {
    let mut arrivals = Vec::new();
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        match socket.recv(&mut buffer) {
            Ok(len) => {
                let parsed = RpcHeader::parse(buffer.get(..len).unwrap_or_default());
                let Some(Ok((header, _))) = parsed else {
                    anyhow::bail!(
                        "a packet that was not sent so: {parsed:?}, {:02x?}",
                        buffer.get(..len)
                    );
                };
                arrivals.push((header.token, Instant::now()));
                count.fetch_add(1, Ordering::Release);
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock
                        | io::ErrorKind::TimedOut
                        | io::ErrorKind::Interrupted
                ) => {}
            Err(error) => return Err(error).context("receiving packets"),
        }
    }
    Ok(arrivals)
}
