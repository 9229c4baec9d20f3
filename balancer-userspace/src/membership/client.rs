//! The worker's end of the membership protocol.
//!
//! It never gives up: while the control plane is away the worker goes on with its last assignment,
//! as the data plane goes on with its last tables.

use std::{net::SocketAddr, time::Duration};

use futures_util::{SinkExt, StreamExt};
use thiserror::Error;
use tokio::{
    net::TcpStream,
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::codec::{Framed, LinesCodec, LinesCodecError};
use tracing::{info, warn};

use super::protocol::{Assignment, FromWorker, Heartbeat, Hello, MAX_LINE, REFRESH_MS, ToWorker};

const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// Back-off after a lost connection: short, because the control plane may be restarting under load.
const RECONNECT_AFTER: Duration = Duration::from_millis(50);
/// Back-off after a refusal, which only an operator can cure.
const RETRY_REFUSED_AFTER: Duration = Duration::from_millis(500);
/// Silence of the control plane after which the connection counts as dead.
const PATIENCE: Duration = Duration::from_millis(3 * REFRESH_MS);
/// The same failure is logged at most this often.
const LOG_EVERY: Duration = Duration::from_secs(10);
/// Used until the first assignment says otherwise.
const FIRST_HEARTBEAT: Duration = Duration::from_millis(20);

/// Why a connection ended.
#[derive(Debug, Error)]
enum ConnectionError {
    #[error("cannot connect")]
    Connect(#[source] std::io::Error),
    #[error("no answer to the connection attempt within {} ms", CONNECT_TIMEOUT.as_millis())]
    ConnectTimeout,
    #[error("the connection broke")]
    Line(#[from] LinesCodecError),
    #[error("a line that is not of the membership protocol")]
    Protocol(#[from] serde_json::Error),
    #[error("the control plane refused this worker: {0}")]
    Refused(String),
    #[error("the control plane closed the connection")]
    Closed,
    #[error("nothing heard for {} ms", PATIENCE.as_millis())]
    Silent,
}

/// What a control plane has told last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The assignment.
    pub assignment: Assignment,
    /// Whether it can still say otherwise.
    pub is_connected: bool,
}

/// Keeps a worker a member; see [`MembershipClient::spawn`].
#[derive(Debug)]
pub struct MembershipClient {
    addr: SocketAddr,
    hello: Hello,
    heartbeat: watch::Receiver<Heartbeat>,
    told: watch::Sender<Option<Told>>,
}

impl MembershipClient {
    /// Connects to the control plane at `addr` as `hello`, reconnects for ever, and sends `heartbeat`
    /// on each change and at least as often as the control plane asks.
    ///
    /// Returns what it tells; `None` until the first assignment, which outlives the connection it came by. The task
    /// ends when the sender of `heartbeat` or every receiver of what is told is dropped.
    pub fn spawn(
        addr: SocketAddr,
        hello: Hello,
        heartbeat: watch::Receiver<Heartbeat>,
    ) -> watch::Receiver<Option<Told>> {
        let (told, receiver) = watch::channel(None);
        let client = Self {
            addr,
            hello,
            heartbeat,
            told,
        };
        tokio::spawn(client.run());
        receiver
    }

    async fn run(mut self) {
        let mut last_logged: Option<Instant> = None;
        loop {
            let gone = self.told.clone();
            let error = tokio::select! {
                () = gone.closed() => return,
                ended = self.connection() => match ended {
                    Ok(()) => return,
                    Err(error) => error,
                },
            };
            self.part();
            if last_logged.is_none_or(|at| at.elapsed() >= LOG_EVERY) {
                last_logged = Some(Instant::now());
                warn!(
                    control_plane = %self.addr,
                    error = &error as &dyn std::error::Error,
                    "not a member; trying on"
                );
            }
            sleep(match error {
                ConnectionError::Refused(_) => RETRY_REFUSED_AFTER,
                _ => RECONNECT_AFTER,
            })
            .await;
        }
    }

    /// One connection's life. `Ok` means that the worker itself is going away.
    async fn connection(&mut self) -> Result<(), ConnectionError> {
        let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(self.addr))
            .await
            .map_err(|_elapsed| ConnectionError::ConnectTimeout)?
            .map_err(ConnectionError::Connect)?;
        stream.set_nodelay(true).map_err(ConnectionError::Connect)?;
        let mut lines = Framed::new(stream, LinesCodec::new_with_max_length(MAX_LINE));
        lines
            .send(serde_json::to_string(&FromWorker::Hello(
                self.hello.clone(),
            ))?)
            .await?;

        let mut is_member = false;
        let mut last_heard = Instant::now();
        let mut beat = ticker(FIRST_HEARTBEAT);
        loop {
            tokio::select! {
                line = lines.next() => {
                    let line = line.ok_or(ConnectionError::Closed)??;
                    last_heard = Instant::now();
                    let assignment = read_assignment(&line)?;
                    if !is_member {
                        is_member = true;
                        info!(control_plane = %self.addr, worker_id = assignment.worker_id, "is a member");
                    }
                    let wanted = Duration::from_millis(assignment.heartbeat_ms.max(1).into());
                    if beat.period() != wanted {
                        beat = ticker(wanted);
                    }
                    self.accept(assignment);
                }
                changed = self.heartbeat.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.send_heartbeat(&mut lines).await?;
                    beat.reset();
                }
                _ = beat.tick() => {
                    if last_heard.elapsed() >= PATIENCE {
                        return Err(ConnectionError::Silent);
                    }
                    self.send_heartbeat(&mut lines).await?;
                }
            }
        }
    }

    async fn send_heartbeat(
        &mut self,
        lines: &mut Framed<TcpStream, LinesCodec>,
    ) -> Result<(), ConnectionError> {
        let heartbeat = self.heartbeat.borrow_and_update().clone();
        let line = serde_json::to_string(&FromWorker::Heartbeat(heartbeat))?;
        timeout(PATIENCE, lines.send(line))
            .await
            .map_err(|_elapsed| ConnectionError::Silent)??;
        Ok(())
    }

    /// Publishes `assignment`, waking nobody when it only repeats the last one.
    fn accept(&self, assignment: Assignment) {
        let new = Some(Told {
            assignment,
            is_connected: true,
        });
        self.told.send_if_modified(|current| {
            let is_new = *current != new;
            if is_new {
                *current = new;
            }
            is_new
        });
    }

    /// Publishes that the connection is over.
    fn part(&self) {
        self.told.send_if_modified(|current| {
            let told = current.as_mut().filter(|told| told.is_connected);
            told.map(|told| told.is_connected = false).is_some()
        });
    }
}

fn read_assignment(line: &str) -> Result<Assignment, ConnectionError> {
    match serde_json::from_str(line)? {
        ToWorker::Assignment(assignment) => Ok(assignment),
        ToWorker::Refused { reason } => Err(ConnectionError::Refused(reason)),
    }
}

fn ticker(period: Duration) -> tokio::time::Interval {
    let mut ticker = interval(period);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticker
}
