//! A worker that answers after a drawn time, and tells of its load with the product's own sender.
//!
//! It burns no CPU: a request that is served is a timer. So workers of any speed fit on a machine with two cores.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use balancer_userspace::membership::protocol::Assignment;
use ebpf_common::{
    hash::mix64,
    wire::{Kind, RpcHeader},
};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, ppoll},
    sys::time::TimeSpec,
};
use prometheus::Registry;
use testbed::topology::{Host, VIP, VIP_PORT};
use worker::{
    load::{Load, Permit},
    metrics::ReportMetrics,
    report::Reporter,
};

/// Requests served at a time; the others wait.
pub(crate) const PARALLEL: usize = 4;
/// More than ever wait: this is about whom the balancer prefers, not about whom it refuses.
const CAPACITY: u32 = 1 << 30;
/// How often a worker without traffic looks whether it is to stop.
const LOOK_UP: Duration = Duration::from_millis(50);

/// A running worker.
pub(crate) struct Worker {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    metrics: ReportMetrics,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Worker {
    /// Starts it on `host`; its requests take `mean` on average.
    pub(crate) fn start(host: &Host, mean: Duration, assignment: Assignment) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let metrics = ReportMetrics::register(&Registry::new())?;
        let netns = host.netns.clone();
        let thread = {
            let (stop, answered, metrics) =
                (Arc::clone(&stop), Arc::clone(&answered), metrics.clone());
            thread::spawn(move || {
                // Threads that it starts are in the namespace too: so is the sender of LOAD packets.
                netns.enter(|| Server::open(mean, &assignment, metrics)?.serve(&stop, &answered))?
            })
        };
        Ok(Self {
            stop,
            answered,
            metrics,
            thread: Some(thread),
        })
    }

    /// Requests answered so far.
    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// LOAD packets sent so far.
    pub(crate) fn load_packets(&self) -> u64 {
        self.metrics.sent_so_far()
    }

    /// Stops it; what it was doing is forgotten.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => Ok(()),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Request {
    header: RpcHeader,
    from: SocketAddr,
    permit: Permit,
}

struct Server {
    mean: Duration,
    socket: UdpSocket,
    load: Arc<Load>,
    _reporter: Reporter,
    waiting: VecDeque<Request>,
    /// When each running request is done, and which it is.
    running: BinaryHeap<Reverse<(Instant, usize)>>,
    places: [Option<Request>; PARALLEL],
}

impl Server {
    fn open(mean: Duration, assignment: &Assignment, metrics: ReportMetrics) -> Result<Self> {
        let socket = UdpSocket::bind((VIP, VIP_PORT)).context("binding the VIP")?;
        socket.set_nonblocking(true)?;
        let load = Arc::new(Load::new(CAPACITY));
        let reporter = Reporter::start(Arc::clone(&load), metrics)?;
        reporter.assign(std::slice::from_ref(assignment));
        Ok(Self {
            mean,
            socket,
            load,
            _reporter: reporter,
            waiting: VecDeque::new(),
            running: BinaryHeap::new(),
            places: [const { None }; PARALLEL],
        })
    }

    fn serve(mut self, stop: &AtomicBool, answered: &AtomicU64) -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            self.wait()?;
            self.receive()?;
            self.finish(answered)?;
            self.begin();
        }
        Ok(())
    }

    /// Waits for a packet, or until a request is done.
    fn wait(&self) -> Result<()> {
        let now = Instant::now();
        let next = self.running.peek().map(|Reverse((at, _))| *at);
        let patience = next.map_or(LOOK_UP, |at| at.saturating_duration_since(now).min(LOOK_UP));
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut fds, Some(TimeSpec::from_duration(patience)), None) {
            // Woken by a signal: the caller looks at everything anyway.
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error).context("waiting for requests"),
        }
    }

    fn receive(&mut self) -> Result<()> {
        let mut buffer = [0; 2048];
        loop {
            let (len, from) = match self.socket.recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("receiving requests"),
            };
            let Some(Ok((header, _))) = RpcHeader::parse(buffer.get(..len).unwrap_or_default())
            else {
                continue;
            };
            let permit = self.load.admit().context("the capacity is never used up")?;
            self.waiting.push_back(Request {
                header,
                from,
                permit,
            });
        }
    }

    fn finish(&mut self, answered: &AtomicU64) -> Result<()> {
        let now = Instant::now();
        while let Some(Reverse((at, place))) = self.running.peek().copied()
            && at <= now
        {
            self.running.pop();
            let Some(request) = self.places.get_mut(place).and_then(Option::take) else {
                continue;
            };
            // As the product has it: the place is free before the caller can know.
            drop(request.permit);
            let reply = RpcHeader {
                kind: Kind::Response,
                ..request.header
            };
            self.socket
                .send_to(&reply.emit(), request.from)
                .context("sending an answer")?;
            answered.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn begin(&mut self) {
        for (index, place) in self.places.iter_mut().enumerate() {
            if place.is_none()
                && let Some(request) = self.waiting.pop_front()
            {
                let time = self.mean.mul_f64(demand(request.header.request_id));
                self.running.push(Reverse((Instant::now() + time, index)));
                *place = Some(request);
            }
        }
    }
}

/// How much a request asks for, in means: exponentially distributed, and the same wherever it is served.
fn demand(request_id: u64) -> f64 {
    let uniform = (mix64(request_id ^ 0x5eed) >> 11) as f64 / (1_u64 << 53) as f64;
    -(1.0 - uniform).ln()
}
