//! Our end of the membership protocol: one task for each connection, one event for each thing it says.
//!
//! What comes from the network is bounded before it is believed: the number of connections, the time
//! until a hello, the length of a line, the silence between heartbeats. A peer that breaks a bound loses
//! its connection and costs at most one line of log a second.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ebpf_common::{
    ids::WorkerId,
    limits::{MAX_WORKERS, SLOTS},
    load::LoadKeys,
};
use futures_util::{SinkExt, StreamExt};
use subtle::ConstantTimeEq;
use thiserror::Error;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, oneshot, watch},
    time::{MissedTickBehavior, interval, sleep, timeout, timeout_at},
};
use tokio_util::{
    codec::{Framed, LinesCodec, LinesCodecError},
    sync::CancellationToken,
};
use tracing::{debug, warn};

use super::{
    protocol::{
        Assignment, FromWorker, Heartbeat, Hello, LoadTarget, MAX_LINE, REFRESH_MS, SlotOwner,
        ToWorker,
    },
    state::Identity,
};
use crate::{config::is_name, mac::MacAddress, policy::keep_warm::Kept, rate_limit::RateLimit};

/// Connections at one time: every worker, and as many again that reconnect before the old one is noticed.
const MAX_CONNECTIONS: usize = 2 * MAX_WORKERS as usize;
/// A connection that has not said who it is by then is closed.
const HELLO_TIMEOUT: Duration = Duration::from_secs(1);
/// Ranges of slots in one hello.
const MAX_SLOT_RANGES: usize = SLOTS as usize / 4;
/// Pause after `accept` failed, as it does when the process has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const LOG_EVERY: Duration = Duration::from_secs(1);

/// Names one connection for as long as the process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u64);

impl ConnectionId {
    /// That of a connection that there is not, for tests and benchmarks.
    pub(crate) const fn made_up(number: u64) -> Self {
        Self(number)
    }

    #[cfg(test)]
    pub(crate) const fn test(number: u64) -> Self {
        Self::made_up(number)
    }
}

/// What connections tell the controller.
#[derive(Debug)]
pub enum ConnectionEvent {
    /// A worker with the right token says who it is.
    Hello {
        /// By which connection.
        connection: ConnectionId,
        /// Who it is.
        identity: Identity,
        /// Whether it may join, and as whom.
        reply: oneshot::Sender<Result<Welcome, String>>,
    },
    /// A worker says how it is.
    Heartbeat {
        /// By which connection.
        connection: ConnectionId,
        /// How it is.
        heartbeat: Heartbeat,
    },
    /// The connection is closed, whoever closed it.
    Closed {
        /// Which connection.
        connection: ConnectionId,
        /// Whether it ended in silence, as it does when the network between us is gone, rather than by a word of the
        /// worker or its kernel.
        is_silent: bool,
    },
}

/// What a worker that may join is told.
#[derive(Debug)]
pub struct Welcome {
    /// Its id.
    pub worker_id: u16,
    /// What all workers are told.
    pub shared: watch::Receiver<Arc<Shared>>,
    /// Fires when another connection took this worker's place.
    pub superseded: CancellationToken,
}

/// Whom workers tell how busy they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadSink {
    /// The balancer's LOAD address.
    pub address: SocketAddr,
    /// What each worker's key is made of.
    pub keys: LoadKeys,
}

/// What assignments are made of: the same for every worker but for what each keeps warm.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shared {
    /// Epoch that new cookies and LOAD packets are made in.
    pub key_epoch: u8,
    /// Cookie keys by parity of their epoch.
    pub cookie_keys: [[u64; 2]; 2],
    /// Where LOAD packets go.
    pub load: Option<LoadSink>,
    /// Version of `slots`.
    pub slots_version: u64,
    /// Who holds which slots.
    pub slots: Vec<SlotOwner>,
    /// What each worker keeps warm: all that is not the same for all of them.
    pub keep_warm: Arc<Kept>,
}

/// Why a connection was closed.
#[derive(Debug, Error)]
enum CloseReason {
    #[error("no hello within {} ms", HELLO_TIMEOUT.as_millis())]
    NoHello,
    #[error("the first line was not a hello")]
    NotHello,
    #[error("another token than ours")]
    Token,
    #[error("refused: {0}")]
    Refused(String),
    #[error("a line that is not of the membership protocol")]
    Garbage(#[source] serde_json::Error),
    #[error("a second hello")]
    SecondHello,
    #[error("the connection broke, or sent a line of more than {MAX_LINE} bytes")]
    Line(#[source] LinesCodecError),
    #[error("no heartbeat within its lease")]
    Lease,
    #[error("closed by the worker")]
    Closed,
    #[error("the same worker connected again")]
    Superseded,
    #[error("the control plane is stopping")]
    Stopping,
}

impl CloseReason {
    fn is_silent(&self) -> bool {
        use std::io::ErrorKind;
        match self {
            Self::Lease => true,
            Self::Line(LinesCodecError::Io(error)) => matches!(
                error.kind(),
                ErrorKind::TimedOut | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable
            ),
            _ => false,
        }
    }
}

/// Terms that workers have to keep.
#[derive(Debug, Clone)]
pub struct Terms {
    /// The secret.
    pub token: Vec<u8>,
    /// How often to send heartbeats.
    pub heartbeat_ms: u32,
    /// How long to be silent at most.
    pub lease: Duration,
}

/// The listening end.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    terms: Terms,
    events: mpsc::Sender<ConnectionEvent>,
    slots: Arc<Semaphore>,
    log: Mutex<RateLimit>,
}

impl Server {
    /// Listens at `addr`; connections are accepted by [`Self::run`].
    ///
    /// # Errors
    /// Those of binding.
    pub async fn bind(
        addr: SocketAddr,
        terms: Terms,
        events: mpsc::Sender<ConnectionEvent>,
    ) -> io::Result<Self> {
        Ok(Self {
            listener: TcpListener::bind(addr).await?,
            terms,
            events,
            slots: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            log: Mutex::new(RateLimit::new(LOG_EVERY)),
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves for ever.
    pub async fn run(self) {
        let server = Arc::new(self);
        for number in 0.. {
            let (stream, peer) = match server.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    server.log(None, &error);
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(slot) = Arc::clone(&server.slots).try_acquire_owned() else {
                server.log(Some(peer), &TooMany);
                continue;
            };
            let server = Arc::clone(&server);
            tokio::spawn(async move {
                server.serve(ConnectionId(number), stream, peer).await;
                drop(slot);
            });
        }
    }

    async fn serve(&self, id: ConnectionId, stream: TcpStream, peer: SocketAddr) {
        // Heartbeats are small and must not wait for each other; without it they are only later.
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%peer, %error, "no TCP_NODELAY");
        }
        let mut lines = Framed::new(stream, LinesCodec::new_with_max_length(MAX_LINE));
        let reason = match self.greet(id, &mut lines).await {
            Ok(welcome) => {
                let reason = self.follow(id, &mut lines, welcome).await;
                // The controller is told of exactly those connections that said hello.
                let closed = ConnectionEvent::Closed {
                    connection: id,
                    is_silent: reason.is_silent(),
                };
                if self.events.send(closed).await.is_err() {
                    return;
                }
                reason
            }
            Err(reason) => reason,
        };
        match reason {
            CloseReason::Closed | CloseReason::Superseded | CloseReason::Stopping => {
                debug!(%peer, %reason, "membership connection closed");
            }
            reason => self.log(Some(peer), &reason),
        }
    }

    async fn greet(
        &self,
        id: ConnectionId,
        lines: &mut Framed<TcpStream, LinesCodec>,
    ) -> Result<Welcome, CloseReason> {
        let line = timeout(HELLO_TIMEOUT, lines.next())
            .await
            .map_err(|_elapsed| CloseReason::NoHello)?
            .ok_or(CloseReason::Closed)?
            .map_err(CloseReason::Line)?;
        let FromWorker::Hello(hello) = serde_json::from_str(&line).map_err(CloseReason::Garbage)?
        else {
            return Err(CloseReason::NotHello);
        };
        if !bool::from(hello.token.as_bytes().ct_eq(&self.terms.token)) {
            let reason = "the token is not the one of the control plane's token_file".to_owned();
            refuse(lines, reason).await;
            return Err(CloseReason::Token);
        }
        match self.admit(id, hello).await {
            Ok(welcome) => Ok(welcome),
            Err(reason) => {
                refuse(lines, reason.clone()).await;
                Err(CloseReason::Refused(reason))
            }
        }
    }

    async fn admit(&self, connection: ConnectionId, hello: Hello) -> Result<Welcome, String> {
        let identity = check(hello)?;
        let (reply, answer) = oneshot::channel();
        let stopping = "the control plane is stopping".to_owned();
        let hello = ConnectionEvent::Hello {
            connection,
            identity,
            reply,
        };
        if self.events.send(hello).await.is_err() {
            return Err(stopping);
        }
        answer.await.unwrap_or(Err(stopping))
    }

    /// Takes heartbeats and sends assignments until one side has enough.
    async fn follow(
        &self,
        id: ConnectionId,
        lines: &mut Framed<TcpStream, LinesCodec>,
        mut welcome: Welcome,
    ) -> CloseReason {
        let mut deadline = tokio::time::Instant::now() + self.terms.lease;
        let mut refresh = interval(Duration::from_millis(REFRESH_MS));
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = welcome.superseded.cancelled() => return CloseReason::Superseded,
                line = timeout_at(deadline, lines.next()) => {
                    let heartbeat = match line {
                        Err(_elapsed) => return CloseReason::Lease,
                        Ok(None) => return CloseReason::Closed,
                        Ok(Some(Err(error))) => return CloseReason::Line(error),
                        Ok(Some(Ok(line))) => match serde_json::from_str(&line) {
                            Ok(FromWorker::Heartbeat(heartbeat)) => heartbeat,
                            Ok(FromWorker::Hello(_)) => return CloseReason::SecondHello,
                            Err(error) => return CloseReason::Garbage(error),
                        },
                    };
                    deadline = tokio::time::Instant::now() + self.terms.lease;
                    let event = ConnectionEvent::Heartbeat { connection: id, heartbeat };
                    if self.events.send(event).await.is_err() {
                        return CloseReason::Stopping;
                    }
                }
                changed = welcome.shared.changed() => {
                    if changed.is_err() {
                        return CloseReason::Stopping;
                    }
                    if let Err(reason) = self.assign(lines, &mut welcome).await {
                        return reason;
                    }
                }
                _ = refresh.tick() => {
                    if let Err(reason) = self.assign(lines, &mut welcome).await {
                        return reason;
                    }
                }
            }
        }
    }

    async fn assign(
        &self,
        lines: &mut Framed<TcpStream, LinesCodec>,
        welcome: &mut Welcome,
    ) -> Result<(), CloseReason> {
        let shared = Arc::clone(&welcome.shared.borrow_and_update());
        let worker = WorkerId(welcome.worker_id);
        let line = serde_json::to_string(&ToWorker::Assignment(Assignment {
            worker_id: worker.0,
            key_epoch: shared.key_epoch,
            cookie_keys: shared.cookie_keys,
            load: shared
                .load
                .map(|LoadSink { address, keys }| LoadTarget::of(address, keys, worker)),
            slots_version: shared.slots_version,
            slots: shared.slots.clone(),
            heartbeat_ms: self.terms.heartbeat_ms,
            keep_warm: shared
                .keep_warm
                .get(&welcome.worker_id)
                .cloned()
                .unwrap_or_default(),
        }))
        .map_err(CloseReason::Garbage)?;
        // A worker that does not read for a whole lease is as good as silent.
        timeout(self.terms.lease, lines.send(line))
            .await
            .map_err(|_elapsed| CloseReason::Lease)?
            .map_err(CloseReason::Line)
    }

    fn log(&self, peer: Option<SocketAddr>, error: &(dyn std::error::Error + 'static)) {
        let allowed = self
            .log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .allow();
        if let Some(suppressed) = allowed {
            warn!(?peer, error, suppressed, "membership connection closed");
        }
    }
}

#[derive(Debug, Error)]
#[error("there are {MAX_CONNECTIONS} connections already")]
struct TooMany;

async fn refuse(lines: &mut Framed<TcpStream, LinesCodec>, reason: String) {
    let Ok(line) = serde_json::to_string(&ToWorker::Refused { reason }) else {
        return;
    };
    // Whether it arrives makes no difference to us: the connection is closed anyway.
    if let Ok(Err(error)) = timeout(HELLO_TIMEOUT, lines.send(line)).await {
        debug!(%error, "refusal not delivered");
    }
}

/// Checks what a worker says of itself; the answer to it says what is wrong.
fn check(hello: Hello) -> Result<Identity, String> {
    if !is_name(&hello.name) {
        return Err(format!(
            "`{}` is not a worker name: letters, digits, `-`, `_` and `.`, at most 64",
            hello.name.escape_default().take(80).collect::<String>()
        ));
    }
    let mac: MacAddress = hello
        .mac
        .parse()
        .map_err(|error: crate::mac::MacError| error.to_string())?;
    if hello.address.is_unspecified() || hello.address.is_multicast() {
        return Err(format!("{} is not the address of a host", hello.address));
    }
    if let Some(address6) = hello.address6
        && (address6.is_unspecified() || address6.is_multicast())
    {
        return Err(format!("{address6} is not the address of a host"));
    }
    if hello.slots.len() > MAX_SLOT_RANGES {
        return Err(format!("more than {MAX_SLOT_RANGES} ranges of slots"));
    }
    Ok(Identity {
        name: hello.name,
        address: hello.address,
        mac,
        address6: hello.address6,
        own_id: hello.id.map(WorkerId),
        interface: None,
        slots: hello.slots,
        db_url: hello.db_url,
    })
}

#[cfg(test)]
mod tests;
