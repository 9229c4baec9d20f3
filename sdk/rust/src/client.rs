//! The client: one socket, its receive task, and the requests in flight.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use ebpf_common::{
    ids::FunctionId,
    limits::MAX_MESSAGE,
    wire::{Status, flags},
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{net::UdpSocket, runtime::Handle, task::JoinHandle};

use crate::{
    call::{Call, Response},
    config::ClientConfig,
    cookies::SessionCookies,
    error::{CallError, ConnectError},
    exchange::{End, Exchange, Request, Timing},
    flights::{Flight, Flights},
    link::Link,
    rtt::RoundTrip,
    stats::ClientStats,
};

/// A connection to one VIP. Clones share the socket; it closes with the last of them.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Owner>,
}

/// Ends the receive task with the last clone of the client.
#[derive(Debug)]
struct Owner {
    link: Arc<Link>,
    receiver: JoinHandle<()>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.receiver.abort();
    }
}

impl Client {
    /// Opens a socket to `vip`. No packet is sent: whether anybody answers, [`Client::ping`] tells.
    ///
    /// # Errors
    /// [`ConnectError`] says what the kernel refused.
    pub fn connect(vip: SocketAddr, config: ClientConfig) -> Result<Self, ConnectError> {
        let runtime = Handle::try_current().map_err(|_not_async| ConnectError::NoRuntime)?;
        let link = Arc::new(Link {
            socket: open(vip, &config)?,
            flights: Flights::new(config.max_in_flight),
            sessions: SessionCookies::new(config.max_sessions),
            token: Mutex::new(None),
            round_trip: RoundTrip::default(),
            counters: Arc::default(),
            config,
        });
        let receiver = runtime.spawn(Arc::clone(&link).receive());
        Ok(Self {
            inner: Arc::new(Owner { link, receiver }),
        })
    }

    /// Calls a function and waits for its reply, at most for the call's budget.
    ///
    /// Dropping the future gives the call up: the worker is told once, and ends what it runs of it. That packet may be
    /// lost, and the handler run all the same.
    ///
    /// # Errors
    /// [`CallError`] says what failed, whose fault it was and whether to try again.
    pub async fn call(&self, call: Call) -> Result<Response, CallError> {
        self.run_checked(call, 0)
            .await
            .map(|(response, _)| response)
    }

    /// As [`Client::call`]; and whether the reply's payload only says where it goes on.
    pub(crate) async fn run_checked(
        &self,
        call: Call,
        stream_flags: u16,
    ) -> Result<(Response, bool), CallError> {
        let bytes = call.payload.len();
        if bytes > MAX_MESSAGE {
            return Err(CallError::PayloadTooLarge { bytes });
        }
        self.run(call, false, stream_flags).await
    }

    /// The round trip to a worker that would serve `function`, without running its handler.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn ping(
        &self,
        function: FunctionId,
        timeout: Duration,
    ) -> Result<Duration, CallError> {
        let call = Call::by_id(function).idempotent(true).budget(timeout);
        let (response, _) = self.run(call, true, 0).await?;
        Ok(response.elapsed)
    }

    /// The counters now.
    #[must_use]
    pub fn stats(&self) -> ClientStats {
        self.inner.link.counters.read()
    }

    async fn run(
        &self,
        call: Call,
        ping: bool,
        stream_flags: u16,
    ) -> Result<(Response, bool), CallError> {
        let link = &*self.inner.link;
        // A slot decides for itself where a request goes. The cookie rule comes before the shard rule, so a
        // cookie of another key's owner would send the request away from its data.
        let scope =
            (call.session.filter(|_| call.slot.is_none())).map(|session| (call.function, session));
        let budget = call.budget;
        let cookie = scope.and_then(|scope| link.sessions.get(scope));
        let token = *crate::lock(&link.token);
        let timing = Timing {
            first: link.round_trip.retransmit_after(&link.config),
            max: link.config.max_retransmit,
        };
        let admitted = link.flights.admit(|id| {
            let request = Request {
                id,
                ping,
                call,
                stream_flags,
            };
            Exchange::begin(request, cookie, timing, Instant::now()).with_token(token)
        });
        let Some((id, flight)) = admitted else {
            let limit = link.config.max_in_flight;
            return Err(CallError::TooManyInFlight { limit });
        };
        let landing = Landing { link, id, flight };
        let flight = &landing.flight;
        link.counters.requests.add(1);
        let end = fly(link, flight).await?;
        let exchange = crate::lock(&flight.exchange);
        if let Some(scope) = scope
            && exchange.cookie() != cookie
        {
            link.sessions.set(scope, exchange.cookie());
        }
        link.conclude(&exchange, end, budget)
    }
}

/// Takes a request out of the table however its future ends, and tells its worker if that is before its time.
struct Landing<'a> {
    link: &'a Link,
    id: u64,
    flight: Arc<Flight>,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        self.link.flights.remove(self.id);
        self.link.cancel(&self.flight);
    }
}

/// Sends, and wakes for timers, until the exchange has ended. Answers are dealt with by the receive
/// task; it notifies when one ends the exchange, or moves the timer forward.
async fn fly(link: &Link, flight: &Flight) -> Result<End, CallError> {
    loop {
        link.send_all(flight).await?;
        let timer = {
            let mut exchange = crate::lock(&flight.exchange);
            if let Some(end) = exchange.take_end() {
                return Ok(end);
            }
            exchange.timer()
        };
        tokio::select! {
            biased;
            () = flight.wake.notified() => (),
            () = tokio::time::sleep_until(timer.into()) => {
                crate::lock(&flight.exchange).on_timer(Instant::now());
            }
        }
    }
}

impl Link {
    fn conclude(
        &self,
        exchange: &Exchange,
        end: End,
        budget: Duration,
    ) -> Result<(Response, bool), CallError> {
        let elapsed = exchange.elapsed(Instant::now());
        let attempts = exchange.attempts();
        let retransmits = exchange.retransmits();
        self.counters.attempts_repeated.add(u64::from(attempts - 1));
        match end {
            End::Answered {
                status: Status::Ok,
                payload,
                flags,
                ..
            } => {
                self.counters.answered.add(1);
                let is_one_round_trip =
                    attempts == 1 && retransmits == 0 && exchange.retries() == 0;
                if is_one_round_trip && !exchange.acknowledged() {
                    self.round_trip.sample(elapsed);
                }
                let response = Response {
                    payload,
                    http: flags & flags::HTTP != 0,
                    cookie: exchange.cookie(),
                    attempts,
                    retransmits,
                    elapsed,
                };
                Ok((response, flags & flags::STREAM != 0))
            }
            End::Answered {
                status,
                payload,
                flags,
                retry_after,
            } => {
                self.counters.failed.add(1);
                Err(CallError::Status {
                    status,
                    message: String::from_utf8_lossy(&payload).into_owned(),
                    retry_after,
                    attempts,
                    http: flags & flags::HTTP != 0,
                })
            }
            End::TimedOut => {
                self.counters.timed_out.add(1);
                Err(CallError::Timeout {
                    budget,
                    attempts,
                    retransmits,
                    acknowledged: exchange.acknowledged(),
                })
            }
        }
    }
}

/// A non-blocking socket that takes datagrams from the VIP only (the kernel sees to that).
fn open(vip: SocketAddr, config: &ClientConfig) -> Result<UdpSocket, ConnectError> {
    let any: IpAddr = match vip {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let address = config.bind.unwrap_or_else(|| SocketAddr::new(any, 0));
    let bind = |source| ConnectError::Bind { address, source };
    let socket =
        Socket::new(Domain::for_address(vip), Type::DGRAM, Some(Protocol::UDP)).map_err(bind)?;
    socket.set_nonblocking(true).map_err(bind)?;
    // The kernel caps both at its own maximum; smaller buffers cost retransmissions, nothing else.
    socket
        .set_recv_buffer_size(config.socket_buffer_bytes)
        .map_err(bind)?;
    socket
        .set_send_buffer_size(config.socket_buffer_bytes)
        .map_err(bind)?;
    socket.bind(&address.into()).map_err(bind)?;
    socket
        .connect(&vip.into())
        .map_err(|source| ConnectError::Connect { vip, source })?;
    UdpSocket::from_std(socket.into()).map_err(bind)
}
