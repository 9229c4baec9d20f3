//! Sandboxes kept ready for any function, each with a forked runtime that waits to be told what to load.

use std::{
    io::Read,
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::{
    runtime::{
        package_zygote::{Claimed, PackageZygote},
        protocol::{HEADER_LEN, Kind},
        zygote::{Zygote, ZygoteError},
    },
    sandbox::{Sandbox, SandboxError, SandboxMaker},
};

/// Sandboxes in the making at one time. Most of the time of each goes by waiting for the kernel.
const MAKING_MAX: usize = 8;
/// What is read of the words of an instance that could not be prepared.
const LAST_WORDS_MAX: u64 = 4_096;

/// Why a sandbox could not be prepared.
#[derive(Debug, thiserror::Error)]
pub(super) enum PrepareError {
    #[error("cannot make a sandbox")]
    Sandbox(#[from] SandboxError),
    #[error("cannot fork an instance")]
    Zygote(#[from] ZygoteError),
    #[error("an instance ended before it was locked in; it said: {0}")]
    NotReady(String),
    #[error("an instance that a package zygote forked does not lock itself in")]
    Unfit,
    #[error("the worker is stopping")]
    Stopping,
}

/// A sandbox whose process is locked in and waits for a function.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) sandbox: Sandbox,
    pub(super) stream: UnixStream,
    pub(super) outputs: [OwnedFd; 2],
}

/// The sandboxes kept ready.
#[derive(Debug)]
pub(super) struct Stock {
    maker: SandboxMaker,
    zygote: Zygote,
    timeout: Duration,
    ready: Mutex<Vec<Prepared>>,
    ready_len: usize,
    filling: AtomicUsize,
    /// Sandboxes without a process, for package zygotes to fork into; kept from the first use on.
    bare: Mutex<Vec<Sandbox>>,
    bare_filling: AtomicUsize,
    numbers: AtomicU64,
    making: Semaphore,
    stopping: AtomicBool,
    tasks: TaskTracker,
}

impl Stock {
    /// A stock that keeps `ready_len` sandboxes ready, once [`Self::fill`] has been called, and numbers them from behind
    /// `first_number` on.
    pub(super) fn new(
        maker: SandboxMaker,
        zygote: Zygote,
        ready_len: usize,
        first_number: u64,
        tasks: TaskTracker,
    ) -> Arc<Self> {
        Arc::new(Self {
            timeout: maker.timeout,
            maker,
            zygote,
            ready: Mutex::default(),
            ready_len,
            filling: AtomicUsize::new(0),
            bare: Mutex::default(),
            bare_filling: AtomicUsize::new(0),
            numbers: AtomicU64::new(first_number),
            making: Semaphore::new(MAKING_MAX),
            stopping: AtomicBool::new(false),
            tasks,
        })
    }

    /// A ready sandbox; when there is none, one made now.
    pub(super) async fn take(self: &Arc<Self>) -> Result<Prepared, PrepareError> {
        self.drop_dead();
        let ready = self.lock().pop();
        let prepared = match ready {
            Some(prepared) => Ok(prepared),
            None => self.prepare().await,
        };
        self.fill();
        prepared
    }

    /// A sandbox without a process, ready or made now.
    pub(super) async fn take_bare(self: &Arc<Self>) -> Result<Sandbox, PrepareError> {
        let ready = self.bare().pop();
        let sandbox = match ready {
            Some(sandbox) => Ok(sandbox),
            None => self.blocking(Self::make_now).await,
        };
        self.fill_bare();
        sandbox
    }

    /// A sandbox with a process forked from `zygote`.
    pub(super) async fn take_from(
        self: &Arc<Self>,
        zygote: Arc<PackageZygote>,
    ) -> Result<Prepared, PrepareError> {
        let sandbox = self.take_bare().await?;
        let fork = move |stock: &Self| stock.fork_from(&zygote, sandbox);
        let stock = Arc::clone(self);
        tokio::task::spawn_blocking(move || fork(&stock))
            .await
            .unwrap_or(Err(PrepareError::Stopping))
    }

    /// The first zygote.
    pub(super) const fn zygote(&self) -> &Zygote {
        &self.zygote
    }

    /// A directory of the host that is empty.
    pub(super) fn empty_dir(&self) -> &std::path::Path {
        &self.maker.root
    }

    fn fill_bare(self: &Arc<Self>) {
        let missing = |stock: &Self| {
            let have = stock.bare().len() + stock.bare_filling.load(Ordering::Relaxed);
            stock.ready_len > have && !stock.stopping.load(Ordering::Acquire)
        };
        while missing(self) {
            self.bare_filling.fetch_add(1, Ordering::Relaxed);
            let stock = Arc::clone(self);
            self.tasks.spawn(async move {
                let made = stock.blocking(Self::make_now).await;
                stock.bare_filling.fetch_sub(1, Ordering::Relaxed);
                match made {
                    Err(error) => {
                        tracing::warn!(error = &error as &dyn std::error::Error, "no sandbox");
                    }
                    Ok(_) if stock.stopping.load(Ordering::Acquire) => {}
                    Ok(sandbox) => stock.bare().push(sandbox),
                }
            });
        }
    }

    /// Takes back a sandbox that was not used.
    pub(super) fn put_back(&self, prepared: Prepared) {
        self.lock().push(prepared);
    }

    /// Makes what is missing, in the background.
    pub(super) fn fill(self: &Arc<Self>) {
        self.drop_dead();
        let missing = |stock: &Self| {
            let have = stock.len() + stock.filling.load(Ordering::Relaxed);
            stock.ready_len > have && !stock.stopping.load(Ordering::Acquire)
        };
        while missing(self) {
            self.filling.fetch_add(1, Ordering::Relaxed);
            let stock = Arc::clone(self);
            self.tasks.spawn(async move {
                let made = stock.prepare().await;
                stock.filling.fetch_sub(1, Ordering::Relaxed);
                match made {
                    // The keeper tries again; whoever asks for one is told why it fails.
                    Err(error) => {
                        tracing::warn!(error = &error as &dyn std::error::Error, "no sandbox");
                    }
                    Ok(_) if stock.stopping.load(Ordering::Acquire) => {}
                    Ok(prepared) => stock.lock().push(prepared),
                }
            });
        }
    }

    /// Removes those that have ended while they waited: killed by the kernel for want of memory, or by hand.
    fn drop_dead(&self) {
        let dead: Vec<_> = self
            .lock()
            .extract_if(.., |prepared| !prepared.sandbox.is_alive())
            .collect();
        if !dead.is_empty() {
            tracing::warn!(
                count = dead.len(),
                "sandboxes ended while they were kept ready"
            );
            // What is left of them blocks until it is gone.
            self.tasks.spawn_blocking(move || drop(dead));
        }
    }

    /// How many are ready.
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Starts of the zygote beyond the first.
    pub(super) fn zygote_restarts(&self) -> u64 {
        self.zygote.restarts()
    }

    /// Sandboxes with a network that exist.
    pub(super) fn networks(&self) -> usize {
        self.maker
            .network
            .as_ref()
            .map_or(0, |network| network.links())
    }

    /// The version of Landlock that instances are behind, 0 for none.
    pub(super) const fn landlock(&self) -> u32 {
        self.zygote.landlock()
    }

    /// Makes no more, and ends the zygote and what is ready. Blocks.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        let ready = std::mem::take(&mut *self.lock());
        drop(ready);
        let bare = std::mem::take(&mut *self.bare());
        drop(bare);
        self.zygote.stop();
    }

    async fn prepare(self: &Arc<Self>) -> Result<Prepared, PrepareError> {
        self.blocking(Self::prepare_now).await
    }

    /// Does `work` when it is its turn.
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: fn(&Self) -> Result<T, PrepareError>,
    ) -> Result<T, PrepareError> {
        let Ok(_turn) = self.making.acquire().await else {
            return Err(PrepareError::Stopping);
        };
        let stock = Arc::clone(self);
        tokio::task::spawn_blocking(move || work(&stock))
            .await
            .unwrap_or(Err(PrepareError::Stopping))
    }

    fn make_now(&self) -> Result<Sandbox, PrepareError> {
        if self.stopping.load(Ordering::Acquire) {
            return Err(PrepareError::Stopping);
        }
        let number = self.numbers.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(self.maker.make(number)?)
    }

    /// A package zygote's word counts for nothing: the process is looked at once it says that it is locked in.
    fn fork_from(
        &self,
        zygote: &PackageZygote,
        sandbox: Sandbox,
    ) -> Result<Prepared, PrepareError> {
        let mut claimed = zygote.fork(&sandbox)?;
        if !self.is_ready(&mut claimed.stream) {
            sandbox.kill();
            // The zygote may hold the pipes open for ever: its words are not waited for.
            return Err(PrepareError::Unfit);
        }
        sandbox.occupy(PackageZygote::confirm(&claimed, &sandbox)?);
        let Claimed {
            stream, outputs, ..
        } = claimed;
        Ok(Prepared {
            sandbox,
            stream,
            outputs,
        })
    }

    fn prepare_now(&self) -> Result<Prepared, PrepareError> {
        let sandbox = self.make_now()?;
        let forked = self.zygote.fork(&sandbox)?;
        sandbox.occupy(forked.pidfd);
        let (mut stream, outputs) = (forked.stream, forked.outputs);
        if !self.is_ready(&mut stream) {
            sandbox.kill();
            return Err(PrepareError::NotReady(last_words(outputs)));
        }
        Ok(Prepared {
            sandbox,
            stream,
            outputs,
        })
    }

    /// Reads the `Ready` that says the process is locked in.
    fn is_ready(&self, stream: &mut UnixStream) -> bool {
        let mut header = [0; HEADER_LEN];
        let read = stream
            .set_read_timeout(Some(self.timeout))
            .and_then(|()| stream.read_exact(&mut header));
        let mut ready = [0; HEADER_LEN];
        ready[0] = Kind::Ready as u8;
        read.is_ok() && header == ready
    }

    fn bare(&self) -> std::sync::MutexGuard<'_, Vec<Sandbox>> {
        self.bare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Prepared>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn last_words([_, stderr]: [OwnedFd; 2]) -> String {
    let mut words = String::new();
    // What cannot be read cannot be told.
    drop(
        std::fs::File::from(stderr)
            .take(LAST_WORDS_MAX)
            .read_to_string(&mut words),
    );
    words
}
