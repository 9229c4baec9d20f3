//! The socket with what is in flight on it: the one place where packets enter and leave.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Instant,
};

use ebpf_common::wire::{Kind, RpcHeader};
use tokio::net::UdpSocket;

use crate::{
    config::ClientConfig,
    cookies::SessionCookies,
    error::CallError,
    exchange::MAX_PACKET,
    flights::{Flight, Flights},
    rtt::RoundTrip,
    stats::Counters,
};

/// Packets taken in one turn before other tasks get theirs.
const RECEIVE_BURST: usize = 64;
/// Packets sent in one turn before other tasks, the receive task among them, get theirs.
const SEND_BURST: usize = 16;

/// What the clones of a client and its receive task share.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) socket: UdpSocket,
    pub(crate) flights: Flights,
    pub(crate) sessions: SessionCookies,
    /// The address token that the VIP told last: it is for this machine's address, and so for every request.
    pub(crate) token: Mutex<Option<u64>>,
    pub(crate) round_trip: RoundTrip,
    pub(crate) counters: Arc<Counters>,
    pub(crate) config: ClientConfig,
}

impl Link {
    /// Sends everything that an exchange has to send, waiting for the socket where it must.
    pub(crate) async fn send_all(&self, flight: &Flight) -> Result<(), CallError> {
        loop {
            match self.try_send_burst(flight) {
                Ok(true) => return Ok(()),
                Ok(false) => tokio::task::yield_now().await,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let ready = self.socket.writable().await;
                    ready.map_err(|source| CallError::Io { source })?;
                }
                Err(source) => return Err(CallError::Io { source }),
            }
        }
    }

    /// Sends up to a burst; `true` when nothing is left.
    fn try_send_burst(&self, flight: &Flight) -> io::Result<bool> {
        let mut buffer = [0; MAX_PACKET];
        let mut exchange = crate::lock(&flight.exchange);
        for _ in 0..SEND_BURST {
            let Some(written) = exchange.next_packet(Instant::now(), &mut buffer) else {
                return Ok(true);
            };
            let bytes = buffer.get(..written.bytes).unwrap_or_default();
            let has_left = match self.try_send(bytes) {
                Ok(has_left) => has_left,
                Err(error) => {
                    exchange.put_back(written);
                    return Err(error);
                }
            };
            self.counters.packets_sent.add(u64::from(has_left));
            if written.again {
                self.counters.packets_retransmitted.add(u64::from(has_left));
            }
        }
        Ok(!exchange.has_packets())
    }

    /// Sends one packet; `false` when the network would not have it (no route just now, a full queue),
    /// which is no error: the retransmission timer deals with loss of any cause.
    ///
    /// Linux reports an ICMP error about an earlier packet instead of sending this one
    /// (udp(7), "Error handling"), once: so the second attempt is about this one.
    fn try_send(&self, bytes: &[u8]) -> io::Result<bool> {
        let mut sent = self.socket.try_send(bytes);
        if sent.as_ref().is_err_and(is_about_the_network) {
            sent = self.socket.try_send(bytes);
        }
        match sent {
            Ok(_) => Ok(true),
            Err(error) if is_about_the_network(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Tells the worker that nobody waits for an exchange any more, unless that has ended. Once: a full socket or a lost
    /// packet let the handler run to its end.
    pub(crate) fn cancel(&self, flight: &Flight) {
        let mut buffer = [0; MAX_PACKET];
        let cancel = crate::lock(&flight.exchange).write_cancel(Instant::now(), &mut buffer);
        let Some(bytes) = cancel.and_then(|len| buffer.get(..len)) else {
            return;
        };
        if self.try_send(bytes).is_ok_and(|has_left| has_left) {
            self.counters.packets_sent.add(1);
            self.counters.cancels.add(1);
        }
    }

    /// Receives for as long as the client lives.
    pub(crate) async fn receive(self: Arc<Self>) {
        // One byte more than any valid packet: a longer datagram is seen as too long, not cut to fit.
        let mut buffer = [0; MAX_PACKET + 1];
        'wait: loop {
            if let Err(error) = self.socket.readable().await {
                tracing::error!(%error, "the runtime's I/O driver is gone: no more answers are received");
                return;
            }
            for _ in 0..RECEIVE_BURST {
                match self.socket.try_recv(&mut buffer) {
                    Ok(len) => self.on_datagram(buffer.get(..len).unwrap_or_default()),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue 'wait,
                    // An ICMP error about a packet sent earlier.
                    Err(_) => (),
                }
            }
            tokio::task::yield_now().await;
        }
    }

    fn on_datagram(&self, datagram: &[u8]) {
        self.counters.packets_received.add(1);
        let Some(Ok((header, payload))) = RpcHeader::parse(datagram) else {
            self.counters.packets_malformed.add(1);
            return;
        };
        let Some(flight) = self.flights.get(header.request_id) else {
            self.counters.packets_unknown.add(1);
            return;
        };
        let (accepted, wake) = {
            let mut exchange = crate::lock(&flight.exchange);
            if exchange.is_over() {
                self.counters.packets_unknown.add(1);
                return;
            }
            let timer = exchange.timer();
            let accepted = exchange.on_packet(&header, payload, Instant::now());
            let wake = exchange.is_over() || exchange.has_packets() || exchange.timer() < timer;
            (accepted, wake)
        };
        if accepted.is_err() {
            self.counters.packets_malformed.add(1);
        } else if header.kind == Kind::Retry {
            self.counters.retries.add(1);
            *crate::lock(&self.token) = Some(header.token);
        }
        if wake {
            flight.wake.notify_one();
        }
    }
}

fn is_about_the_network(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionRefused, HostUnreachable, NetworkDown, NetworkUnreachable, PermissionDenied,
    };
    matches!(
        error.kind(),
        ConnectionRefused | HostUnreachable | NetworkDown | NetworkUnreachable | PermissionDenied
    ) || error.raw_os_error() == Some(ENOBUFS)
}

/// The queue of the network interface is full: to the packet the same as loss.
const ENOBUFS: i32 = 105;
