//! One instance: a sandbox with a function loaded, its socket, and what it costs.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{io::unix::AsyncFd, sync::mpsc, time::Instant};

use super::{
    budget::Share, connection::Connection, function::FunctionPool, invocation::Path,
    roster::Places, shared::SharedConnection,
};
use crate::{
    bill::{Charge, Gauge, Ticket},
    log::Output,
    sandbox::{Sandbox, SandboxError},
    secrets::Environment,
};

/// What is left of an instance when it is over: to be removed from the host.
#[derive(Debug)]
pub(super) struct Remains {
    /// Dropping it blocks until all is gone.
    pub(super) sandbox: Arc<Sandbox>,
    /// What it has charged so far.
    pub(super) gauge: Gauge,
    /// Given back after that.
    pub(super) share: Share,
    /// Whose instance it was.
    pub(super) function: Arc<FunctionPool>,
    /// Whether its function counts it as one of its own: it was loaded.
    pub(super) counted: bool,
}

/// A function loaded in a sandbox, or some of its places for requests. Whoever holds it may use it; dropped,
/// the instance is ended, whoever has its other places.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) line: Line,
    /// When the last of these places became free.
    pub(super) idle_since: Instant,
    /// Where the clock of evictions stood then.
    pub(super) used_at: f64,
    /// How many places this is; 0 when they were added to others.
    places: u32,
    body: Arc<Body>,
}

/// How requests reach the handler.
#[derive(Debug)]
pub(super) enum Line {
    /// One at a time.
    Alone(Connection),
    /// Several at a time.
    Shared(Arc<SharedConnection>),
}

impl Line {
    /// Whether the instance asks for bodies that follow.
    pub(super) fn streams(&self) -> bool {
        match self {
            Self::Alone(connection) => connection.streams(),
            Self::Shared(shared) => shared.streams(),
        }
    }
}

/// What all places of an instance have in common. Dropped, it ends the sandbox.
#[derive(Debug)]
pub(super) struct Body {
    sandbox: Arc<Sandbox>,
    /// How many requests it serves at a time.
    places: u32,
    output: Arc<Output>,
    /// How it came to be.
    origin: Path,
    /// What it was started with; once it is loaded without the values, which only the instance has.
    pub(super) environment: Environment,
    /// Whether it has served no request yet.
    is_fresh: AtomicBool,
    /// Whether it is ended, or being ended: its places are of no use.
    is_over: AtomicBool,
    /// Whether its function counts it as one of its own.
    counted: AtomicBool,
    /// When it was begun to start it.
    begun: Instant,
    gauge: Gauge,
    /// Present until the drop.
    remains: Option<(Share, Arc<FunctionPool>)>,
    undertaker: mpsc::UnboundedSender<Remains>,
}

/// What a [`Body`] is made of.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) sandbox: Arc<Sandbox>,
    pub(super) begun: Instant,
    pub(super) output: Arc<Output>,
    pub(super) environment: Environment,
    pub(super) share: Share,
    pub(super) origin: Path,
    pub(super) function: Arc<FunctionPool>,
    pub(super) undertaker: mpsc::UnboundedSender<Remains>,
}

impl Body {
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            sandbox: parts.sandbox,
            places: parts.function.entry.manifest.concurrency,
            output: parts.output,
            origin: parts.origin,
            environment: parts.environment,
            is_fresh: AtomicBool::new(true),
            is_over: AtomicBool::new(false),
            counted: AtomicBool::new(false),
            begun: parts.begun,
            gauge: Gauge::default(),
            remains: Some((parts.share, parts.function)),
            undertaker: parts.undertaker,
        }
    }

    /// The instance's number.
    pub(super) fn number(&self) -> u64 {
        self.sandbox.id()
    }

    /// What it prints.
    pub(super) fn output(&self) -> &Output {
        &self.output
    }

    /// When it was begun to start it.
    pub(super) const fn begun(&self) -> Instant {
        self.begun
    }

    /// A request begins.
    pub(super) fn begin(&self) -> Ticket {
        self.gauge.begin(self.sandbox.consumption())
    }

    /// A request ends: its charge, and the most memory since the last one ended, in kilobytes.
    pub(super) fn charge(&self, ticket: Ticket) -> (Charge, u64) {
        let counters = self.sandbox.consumption();
        (
            self.gauge.end(ticket, counters),
            self.gauge.peak_kb(counters),
        )
    }

    /// Whether it is stopped where it stands.
    pub(super) fn is_paused(&self) -> bool {
        self.sandbox.is_paused()
    }

    /// Lets it go on.
    pub(super) fn resume(&self) -> Result<(), SandboxError> {
        self.sandbox.resume()
    }

    /// Whether the kernel killed something in it for want of memory.
    pub(super) fn is_out_of_memory(&self) -> bool {
        self.sandbox.cgroup().oom_kills() > 0
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.sandbox.kill();
        if let Some((share, function)) = self.remains.take() {
            let (sandbox, share) = (Arc::clone(&self.sandbox), share.leave());
            // The undertaker is gone only when the pool is: then dropping here is as good.
            drop(self.undertaker.send(Remains {
                sandbox,
                gauge: std::mem::take(&mut self.gauge),
                share,
                function,
                counted: self.counted.load(Ordering::Acquire),
            }));
        }
    }
}

impl Instance {
    /// An instance whose function is loaded, with all its places.
    pub(super) fn new(body: Body, connection: Connection, used_at: f64) -> Self {
        let line = if body.places > 1 {
            let sandbox = Arc::downgrade(&body.sandbox);
            Line::Shared(SharedConnection::over(connection, sandbox))
        } else {
            Line::Alone(connection)
        };
        Self {
            line,
            idle_since: Instant::now(),
            used_at,
            places: body.places,
            body: Arc::new(body),
        }
    }

    /// Whether it can serve a request, as far as anyone can know.
    pub(super) fn is_sound(&self) -> bool {
        !self.is_over()
            && match &self.line {
                Line::Alone(connection) => connection.is_quiet() && self.is_current(),
                // Its other requests would end with it: it is ended when it is idle.
                Line::Shared(_) => true,
            }
    }

    /// Whether the secrets that it was started with are still those of its function.
    pub(super) fn is_current(&self) -> bool {
        self.body.environment.is_current()
    }

    /// Whether it is ended, or being ended.
    pub(super) fn is_over(&self) -> bool {
        let is_broken = match &self.line {
            Line::Alone(_) => false,
            Line::Shared(shared) => shared.is_broken(),
        };
        is_broken || self.body.is_over.load(Ordering::Acquire)
    }

    /// Whether it has served no request yet.
    pub(super) fn is_fresh(&self) -> bool {
        self.body.is_fresh.load(Ordering::Relaxed)
    }

    /// It serves one from now on.
    pub(super) fn set_used(&self) {
        if self.is_fresh() {
            self.body.is_fresh.store(false, Ordering::Relaxed);
        }
    }

    /// How it came to be.
    pub(super) fn origin(&self) -> Path {
        self.body.origin
    }

    /// Stops it where it stands, to cost nothing but memory. Blocks for some milliseconds on some hosts.
    pub(super) fn pause(&self) -> Result<(), SandboxError> {
        self.body.sandbox.pause()
    }

    /// Its function counts it as one of its own from now on.
    pub(super) fn set_counted(&self) {
        self.body.counted.store(true, Ordering::Release);
    }

    /// What it has in common with the other places of the instance.
    pub(super) fn body(&self) -> &Body {
        &self.body
    }

    /// The same, and its line beside it.
    pub(super) fn parts(&mut self) -> (&mut Line, &Body) {
        (&mut self.line, &self.body)
    }
}

impl Places for Instance {
    fn number(&self) -> u64 {
        self.body.sandbox.id()
    }

    fn is_whole(&self) -> bool {
        self.places == self.body.places
    }

    fn split(&mut self) -> Option<Self> {
        let Line::Shared(shared) = &self.line else {
            return None;
        };
        let line = Line::Shared(Arc::clone(shared));
        self.places = self.places.checked_sub(1).filter(|rest| *rest > 0)?;
        Some(Self {
            line,
            idle_since: self.idle_since,
            used_at: self.used_at,
            places: 1,
            body: Arc::clone(&self.body),
        })
    }

    fn is_paused(&self) -> bool {
        self.body.sandbox.is_paused()
    }

    fn merge(&mut self, mut other: Self) {
        self.places += std::mem::take(&mut other.places);
        self.idle_since = self.idle_since.max(other.idle_since);
        self.used_at = self.used_at.max(other.used_at);
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if self.places == 0 {
            return;
        }
        self.body.is_over.store(true, Ordering::Release);
        if let Line::Shared(shared) = &self.line {
            // Before the kill, so that the other requests here learn why they end.
            shared.abandon();
        }
        self.body.sandbox.kill();
    }
}

/// Follows an instance to its end: drains what it prints, and ends it when its main process has ended.
pub(super) async fn watch(
    output: Arc<Output>,
    sandbox: Weak<Sandbox>,
    function: Weak<FunctionPool>,
) {
    let process = sandbox.upgrade().and_then(|sandbox| {
        let process = sandbox.process()?.as_fd().try_clone_to_owned().ok()?;
        Some((sandbox.id(), follow(process)?))
    });
    let ended = async {
        let Some((number, process)) = process else {
            return;
        };
        if process.readable().await.is_err() {
            return;
        }
        if let Some(function) = function.upgrade() {
            // Idle: it leaves the pool. Busy: whoever it serves sees its socket close, even if another
            // process in the sandbox holds that open.
            drop(function.take_free(number));
        }
        if let Some(sandbox) = sandbox.upgrade() {
            sandbox.kill();
        }
    };
    let drained = async {
        if let Err(error) = output.drain().await {
            tracing::warn!(%error, "cannot read what a handler prints");
        }
    };
    tokio::join!(ended, drained);
}

#[expect(
    deprecated,
    reason = "its safe replacement is for later; an OwnedFd never changes the file it stands for"
)]
fn follow(process: OwnedFd) -> Option<AsyncFd<OwnedFd>> {
    AsyncFd::new(process).ok()
}
