//! Sandboxes kept ready for any function, each with a forked runtime that waits to be told what to load.

use std::{
    io::{Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::BytesMut;
use tokio_util::task::TaskTracker;

use super::{
    shelf::Shelf,
    turns::{Turn, Turns},
};
use crate::{
    runtime::{
        Exec,
        package_zygote::{Claimed, PackageZygote},
        protocol::{BecomeMeta, HEADER_LEN, Kind, encode},
        zygote::{Zygote, ZygoteError},
    },
    sandbox::{ForkerError, Sandbox, SandboxError, SandboxMaker},
};

/// Sandboxes in the making at one time. Most of the time of each goes by waiting for the kernel.
const MAKING_MAX: usize = 8;
/// Programs that sandboxes are kept for that have become them.
const PROGRAMS_MAX: usize = 4;
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

impl PrepareError {
    const fn is_of_a_lost_order(&self) -> bool {
        matches!(
            self,
            Self::Sandbox(SandboxError::Founder(ForkerError::Lost(_)))
                | Self::Zygote(ZygoteError::First(ForkerError::Lost(_)))
        )
    }
}

/// A sandbox whose process is locked in and waits for a function.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) sandbox: Sandbox,
    pub(super) stream: UnixStream,
    pub(super) outputs: [OwnedFd; 2],
}

/// A program, and the sandboxes whose process is it.
type Executed = (Exec, Arc<Shelf<Prepared>>);

/// What waits on a shelf, and may end there: killed by the kernel for want of memory, or by hand.
trait Mortal: Send + 'static {
    fn is_alive(&self) -> bool;
}

impl Mortal for Sandbox {
    fn is_alive(&self) -> bool {
        Self::is_alive(self)
    }
}

impl Mortal for Prepared {
    fn is_alive(&self) -> bool {
        self.sandbox.is_alive()
    }
}

/// The sandboxes kept ready.
#[derive(Debug)]
pub(super) struct Stock {
    maker: SandboxMaker,
    zygote: Zygote,
    timeout: Duration,
    ready: Arc<Shelf<Prepared>>,
    /// Sandboxes without a process, for package zygotes to fork into; kept from the first use on.
    bare: Arc<Shelf<Sandbox>>,
    /// Sandboxes whose process has become a program already, by that; the one wanted last stands last.
    executed: Mutex<Vec<Executed>>,
    /// How many of each.
    executed_len: usize,
    numbers: AtomicU64,
    turns: Turns,
    stopping: AtomicBool,
    tasks: TaskTracker,
}

impl Stock {
    /// A stock that keeps `ready_len` sandboxes ready, once [`Self::fill`] has been called, `executed_len` of each
    /// program that was wanted lately, and numbers them from behind `first_number` on.
    pub(super) fn new(
        maker: SandboxMaker,
        zygote: Zygote,
        (ready_len, executed_len): (usize, usize),
        first_number: u64,
        tasks: TaskTracker,
    ) -> Arc<Self> {
        Arc::new(Self {
            timeout: maker.timeout,
            maker,
            zygote,
            ready: Arc::new(Shelf::new(ready_len)),
            bare: Arc::new(Shelf::new(ready_len)),
            executed: Mutex::default(),
            executed_len,
            numbers: AtomicU64::new(first_number),
            turns: Turns::new(MAKING_MAX),
            stopping: AtomicBool::new(false),
            tasks,
        })
    }

    /// A ready sandbox; when there is none, one made now.
    pub(super) async fn take(self: &Arc<Self>) -> Result<Prepared, PrepareError> {
        let ready = self.take_live(&self.ready);
        let prepared = match ready {
            Some(prepared) => Ok(prepared),
            None => self.now(Self::prepare_now).await,
        };
        self.fill();
        prepared
    }

    /// A sandbox whose process is `exec` already; `None`: there is none, and from now on one is kept.
    pub(super) fn take_executed(self: &Arc<Self>, exec: &Exec) -> Option<Prepared> {
        let shelf = self.shelf_of(exec)?;
        let ready = self.take_live(&shelf);
        let exec = exec.clone();
        self.fill_shelf(&shelf, move |stock| stock.execute_now(&exec));
        ready
    }

    /// The shelf of `exec`. One of a program that was not wanted for long goes for it.
    fn shelf_of(&self, exec: &Exec) -> Option<Arc<Shelf<Prepared>>> {
        if self.executed_len == 0 || self.stopping.load(Ordering::Acquire) {
            return None;
        }
        let mut all = self.executed();
        let (exec, shelf) = match all.iter().position(|(other, _)| other == exec) {
            Some(at) => all.remove(at),
            None => (exec.clone(), Arc::new(Shelf::new(self.executed_len))),
        };
        if all.len() == PROGRAMS_MAX {
            let (_, oldest) = all.remove(0);
            // Ending what is on it blocks.
            self.tasks.spawn_blocking(move || drop(oldest.close()));
        }
        all.push((exec, Arc::clone(&shelf)));
        Some(shelf)
    }

    /// A sandbox without a process, ready or made now.
    pub(super) async fn take_bare(self: &Arc<Self>) -> Result<Sandbox, PrepareError> {
        let ready = self.take_live(&self.bare);
        let sandbox = match ready {
            Some(sandbox) => Ok(sandbox),
            None => self.now(Self::make_now).await,
        };
        self.fill_shelf(&self.bare, Self::make_now);
        sandbox
    }

    /// A sandbox with a process forked from `zygote`: one of those kept ready on `shelf`, or forked now.
    pub(super) async fn take_from(
        self: &Arc<Self>,
        zygote: &Arc<PackageZygote>,
        shelf: &Arc<Shelf<Prepared>>,
    ) -> Result<Prepared, PrepareError> {
        let prepared = match self.take_live(shelf) {
            Some(prepared) => Ok(prepared),
            None => {
                let sandbox = self.take_bare().await?;
                let zygote = Arc::clone(zygote);
                self.now(move |stock| stock.fork_from(&zygote, sandbox))
                    .await
            }
        };
        if prepared.is_ok() {
            self.fill_from(zygote, shelf);
        }
        prepared
    }

    /// Makes what is missing on the shelf of a package zygote, in the background.
    pub(super) fn fill_from(
        self: &Arc<Self>,
        zygote: &Arc<PackageZygote>,
        shelf: &Arc<Shelf<Prepared>>,
    ) {
        let zygote = Arc::clone(zygote);
        self.fill_shelf(shelf, move |stock| {
            let sandbox = stock.make_now()?;
            stock.fork_from(&zygote, sandbox)
        });
    }

    /// [`Self::tend`] of the shelf of a package zygote.
    pub(super) fn tend_from(
        self: &Arc<Self>,
        zygote: &Arc<PackageZygote>,
        shelf: &Arc<Shelf<Prepared>>,
    ) {
        self.drop_dead(shelf);
        self.fill_from(zygote, shelf);
    }

    /// The first zygote.
    pub(super) const fn zygote(&self) -> &Zygote {
        &self.zygote
    }

    /// A directory of the host that is empty.
    pub(super) fn empty_dir(&self) -> &std::path::Path {
        &self.maker.root.at
    }

    /// Takes back a sandbox that was not used.
    pub(super) fn put_back(&self, prepared: Prepared) {
        // On a closed shelf it is not wanted any more.
        drop(self.ready.put(prepared));
    }

    /// Makes what is missing, in the background.
    pub(super) fn fill(self: &Arc<Self>) {
        self.fill_shelf(&self.ready, Self::prepare_now);
    }

    /// Removes what has ended while it waited, and makes what is missing, in the background.
    pub(super) fn tend(self: &Arc<Self>) {
        self.drop_dead(&self.ready);
        self.fill();
        if self.drop_dead(&self.bare) {
            self.fill_shelf(&self.bare, Self::make_now);
        }
        let executed = self.executed().clone();
        for (exec, shelf) in executed {
            self.drop_dead(&shelf);
            self.fill_shelf(&shelf, move |stock| stock.execute_now(&exec));
        }
    }

    fn fill_shelf<T: Send + 'static>(
        self: &Arc<Self>,
        shelf: &Arc<Shelf<T>>,
        make: impl Fn(&Self) -> Result<T, PrepareError> + Send + Sync + 'static,
    ) {
        let make = Arc::new(make);
        while let Some(claim) = shelf.claim() {
            let (stock, make) = (Arc::clone(self), Arc::clone(&make));
            self.tasks.spawn(async move {
                let turn = stock.turns.spare().await;
                let made = stock.blocking(turn, move |stock| {
                    // What comes too late ends here, where that may block.
                    drop(claim.fill(make(stock)?));
                    Ok(())
                });
                match made.await {
                    Ok(()) | Err(PrepareError::Stopping) => {}
                    // The keeper tries again; whoever asks for one is told why it fails.
                    Err(error) => {
                        tracing::warn!(error = &error as &dyn std::error::Error, "no sandbox");
                    }
                }
            });
        }
    }

    /// One of `shelf` that has not ended.
    fn take_live<T: Mortal>(&self, shelf: &Shelf<T>) -> Option<T> {
        self.drop_dead(shelf);
        shelf.take()
    }

    /// Removes those that have ended; whether there were any.
    fn drop_dead<T: Mortal>(&self, shelf: &Shelf<T>) -> bool {
        let dead = shelf.remove_if(|one| !one.is_alive());
        if dead.is_empty() {
            return false;
        }
        tracing::warn!(
            count = dead.len(),
            "sandboxes ended while they were kept ready"
        );
        // What is left of them blocks until it is gone.
        self.tasks.spawn_blocking(move || drop(dead));
        true
    }

    /// How many are ready.
    pub(super) fn len(&self) -> usize {
        self.ready.len()
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
        drop(self.ready.close());
        drop(self.bare.close());
        for (_, shelf) in self.executed().iter() {
            drop(shelf.close());
        }
        self.zygote.stop();
    }

    /// Does `work`, for which somebody waits.
    async fn now<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, PrepareError> + Send + 'static,
    ) -> Result<T, PrepareError> {
        self.blocking(self.turns.urgent().await, work).await
    }

    /// Does `work` in its turn.
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        turn: Option<Turn<'_>>,
        work: impl FnOnce(&Self) -> Result<T, PrepareError> + Send + 'static,
    ) -> Result<T, PrepareError> {
        let Some(_turn) = turn else {
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

    /// What forks may be killed over an order. The sandbox is of no use then, and another one is made.
    fn prepare_now(&self) -> Result<Prepared, PrepareError> {
        match self.prepare_once() {
            Err(error) if error.is_of_a_lost_order() => self.prepare_once(),
            other => other,
        }
    }

    fn prepare_once(&self) -> Result<Prepared, PrepareError> {
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

    /// A prepared process that has become `exec`.
    fn execute_now(&self, exec: &Exec) -> Result<Prepared, PrepareError> {
        let mut prepared = self.prepare_now()?;
        let mut frame = BytesMut::new();
        encode(&mut frame, Kind::Load, Some(&BecomeMeta { exec }), &[]);
        let told = prepared.stream.write_all(&frame);
        if told.is_err() || !self.is_ready(&mut prepared.stream) {
            prepared.sandbox.kill();
            return Err(PrepareError::NotReady(last_words(prepared.outputs)));
        }
        Ok(prepared)
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

    fn executed(&self) -> MutexGuard<'_, Vec<Executed>> {
        self.executed.lock().unwrap_or_else(PoisonError::into_inner)
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
