//! The sockets: bound to one address each, so that replies leave from it.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{net::UdpSocket, task::JoinHandle};

use super::{
    Server,
    answer::{MAX_PACKET, Reply},
};
use crate::invoke::Invoker;
use warmpath_sdk::fragment::Held;

/// Packets taken in one turn before other tasks get theirs.
const RECEIVE_BURST: usize = 64;
/// Packets of a reply sent in one turn, so that a long reply neither starves other tasks nor
/// overruns its receiver at once.
const SEND_BURST: u32 = 16;
/// How often old entries are looked for when no request comes.
const EXPIRE_EVERY: Duration = Duration::from_secs(1);

/// Why an address cannot be served.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot receive RPCs at {address}: is the address on this host (a VIP belongs on `lo`) and the port free?"
)]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// What the kernel said.
    pub source: io::Error,
}

impl<I: Invoker> Server<I> {
    /// Serves RPCs at `address` until the task is aborted. Returns the address with its true port.
    ///
    /// # Errors
    /// [`BindError`] when the address cannot be bound.
    pub fn listen(
        self: &Arc<Self>,
        address: SocketAddr,
    ) -> Result<(SocketAddr, JoinHandle<()>), BindError> {
        let refused = |source| BindError { address, source };
        let socket = bind(address, self.limits.socket_buffer_bytes).map_err(refused)?;
        let address = socket.local_addr().map_err(refused)?;
        let task = tokio::spawn(Arc::clone(self).receive(Arc::new(socket)));
        Ok((address, task))
    }

    async fn receive(self: Arc<Self>, socket: Arc<UdpSocket>) {
        // One byte more than any valid packet: a longer datagram is seen as too long, not cut to fit.
        let mut buffer = [0; MAX_PACKET + 1];
        let mut expiry = tokio::time::interval(EXPIRE_EVERY);
        'wait: loop {
            let ready = tokio::select! {
                biased;
                ready = socket.readable() => ready,
                _ = expiry.tick() => {
                    self.table.expire(Instant::now());
                    continue;
                }
            };
            if let Err(error) = ready {
                tracing::error!(%error, "the runtime's I/O driver is gone: no more requests are received");
                return;
            }
            for _ in 0..RECEIVE_BURST {
                match socket.try_recv_from(&mut buffer) {
                    Ok((len, peer)) => {
                        let datagram = buffer.get(..len).unwrap_or_default();
                        self.on_datagram(&socket, peer, datagram);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue 'wait,
                    // An ICMP error about an answer sent earlier.
                    Err(_) => (),
                }
            }
            tokio::task::yield_now().await;
        }
    }
}

/// Sends those packets of `reply` that the client does not hold.
pub(super) async fn send(socket: &UdpSocket, peer: SocketAddr, reply: &Reply, held: Held) {
    let mut missing = Held::all(reply.count()).without(held);
    let mut burst = 0;
    while let Some(index) = missing.first() {
        if burst == SEND_BURST {
            burst = 0;
            tokio::task::yield_now().await;
        }
        match try_send(socket, peer, reply, index) {
            Ok(()) => {
                missing = missing.without(Held::one(index));
                burst += 1;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if socket.writable().await.is_err() {
                    return;
                }
            }
            // The network refuses it just now: as good as lost, and the client repairs loss.
            Err(_) => return,
        }
    }
}

/// Sends one packet of `reply`.
pub(super) fn try_send(
    socket: &UdpSocket,
    peer: SocketAddr,
    reply: &Reply,
    index: u16,
) -> io::Result<()> {
    let mut buffer = [0; MAX_PACKET];
    let len = reply.write(index, &mut buffer);
    socket
        .try_send_to(buffer.get(..len).unwrap_or_default(), peer)
        .map(|_sent| ())
}

fn bind(address: SocketAddr, buffer_bytes: usize) -> io::Result<UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    socket.set_nonblocking(true)?;
    // The kernel caps both at its own maximum.
    socket.set_recv_buffer_size(buffer_bytes)?;
    socket.set_send_buffer_size(buffer_bytes)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}
