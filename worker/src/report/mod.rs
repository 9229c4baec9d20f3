//! LOAD packets: tells each balancer how busy this worker is, on each change and at least each [`EVERY`].
//!
//! A thread of its own, not a task: changes are gathered for [`GAP`], which is finer than tokio's timers tick, and a
//! request costs no more than an atomic swap, or a wake-up when the thread sleeps. The packets may be lost, repeated or
//! overtaken: each says everything, and the balancer ignores one that is not newer than the last.

use std::{
    collections::{HashMap, hash_map::Entry},
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use balancer_userspace::membership::protocol::Assignment;
use ebpf_common::{hash::SipKey, ids::WorkerId, load::LoadReport};

use crate::{load::Load, metrics::ReportMetrics};

/// Packets are at least this far apart; what changes in between is told by the next one.
pub const GAP: Duration = Duration::from_micros(200);
/// They are at most this far apart, so that a loss is repaired when nothing changes.
pub const EVERY: Duration = Duration::from_millis(10);
/// A balancer that cannot be reached is worth a line of log this often.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// Tells the balancer of one worker's load, until it is dropped.
#[derive(Debug)]
pub struct Reporter {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    load: Arc<Load>,
    metrics: ReportMetrics,
    targets: Mutex<Arc<[Target]>>,
    is_over: AtomicBool,
}

/// Whom to tell, as whom, and with which key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Target {
    address: SocketAddr,
    worker: WorkerId,
    epoch: u8,
    key: SipKey,
}

impl Target {
    fn of(assignment: &Assignment) -> Option<Self> {
        let load = assignment.load?;
        Some(Self {
            address: load.address,
            worker: WorkerId(assignment.worker_id),
            epoch: assignment.key_epoch,
            key: load.key(assignment.key_epoch),
        })
    }
}

impl Reporter {
    /// Starts to watch `load`. Nothing is sent before the first [`Self::assign`].
    ///
    /// # Errors
    /// When there can be no more threads.
    pub fn start(load: Arc<Load>, metrics: ReportMetrics) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            load: Arc::clone(&load),
            metrics,
            targets: Mutex::new(Arc::default()),
            is_over: AtomicBool::new(false),
        });
        let sender = Sender::new(Arc::clone(&shared));
        let thread = thread::Builder::new()
            .name("load".to_owned())
            .spawn(|| sender.run())?;
        load.wake_on_change(thread.thread().clone());
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Takes over where to send to, and the keys: one balancer by each assignment.
    pub fn assign<'a>(&self, assignments: impl IntoIterator<Item = &'a Assignment>) {
        *self.shared.targets() = assignments.into_iter().filter_map(Target::of).collect();
        self.wake();
    }

    fn wake(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Release);
        self.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that sends LOAD packets has panicked");
        }
    }
}

impl Shared {
    fn targets(&self) -> MutexGuard<'_, Arc<[Target]>> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the thread owns.
struct Sender {
    shared: Arc<Shared>,
    sockets: HashMap<SocketAddr, UdpSocket>,
    sequence: u64,
    logged: Option<Instant>,
}

impl Sender {
    fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            sockets: HashMap::new(),
            sequence: 0,
            logged: None,
        }
    }

    fn run(mut self) {
        while !self.shared.is_over.load(Ordering::Acquire) {
            let targets = Arc::clone(&self.shared.targets());
            self.sockets
                .retain(|address, _| targets.iter().any(|target| target.address == *address));
            for target in targets.iter() {
                self.tell(target);
            }
            if !targets.is_empty() {
                thread::sleep(GAP);
            }
            // Returns at once if anything has changed since the load was read.
            thread::park_timeout(EVERY - GAP);
        }
    }

    fn tell(&mut self, target: &Target) {
        let packet = self.report(target).seal(target.epoch, target.key).emit();
        let sent = self.socket_to(target.address).and_then(|socket| {
            // The kernel takes it or refuses it: the socket does not block.
            socket.send(&packet)
        });
        match sent {
            Ok(_) => self.shared.metrics.sent(),
            Err(error) => {
                self.shared.metrics.failed();
                self.log(target.address, &error);
            }
        }
    }

    fn report(&mut self, target: &Target) -> LoadReport {
        // The clock in microseconds is ahead of any count of packets, so it also grows over a restart.
        self.sequence = unix_us().max(self.sequence + 1);
        let (received, completed) = self.shared.load.ever();
        LoadReport {
            worker: target.worker,
            sequence: self.sequence,
            received,
            completed,
            capacity: self.shared.load.capacity(),
        }
    }

    fn socket_to(&mut self, address: SocketAddr) -> io::Result<&UdpSocket> {
        Ok(match self.sockets.entry(address) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(place) => place.insert(connect(address)?),
        })
    }

    fn log(&mut self, address: SocketAddr, error: &io::Error) {
        if self.logged.is_none_or(|at| at.elapsed() >= LOG_EVERY) {
            self.logged = Some(Instant::now());
            tracing::warn!(%address, %error, "a LOAD packet was not sent; trying on");
        }
    }
}

fn connect(address: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.set_nonblocking(true)?;
    socket.connect(address)?;
    Ok(socket)
}

fn unix_us() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
