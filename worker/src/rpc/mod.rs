//! The RPC server: REQUEST and PING packets in on the VIP, answers out from the VIP.
//!
//! # Layout
//! - `socket` binds and reads; `intake` decides what a packet means; `table` remembers requests;
//!   `serve` runs one request, `parked` has it wait; `stream` has it go on over TCP; `http` takes heads off and puts them on; `answer` writes packets;
//!   `limits` bounds it all.
//!
//! # Invariants
//! - A packet costs at most one task, and memory only within [`RpcLimits`].
//! - For one request id of one client a handler runs at most once here, until its reply is forgotten.
//! - Every answer leaves from the address that its request came to, so that it reaches the client
//!   without passing the balancer again (direct server return).

mod answer;
#[cfg(fuzzing)]
pub mod fuzzing;
mod http;
mod intake;
mod limits;
mod parked;
mod serve;
mod socket;
mod stream;
mod table;

use std::sync::{Arc, OnceLock};

pub use limits::RpcLimits;
pub use socket::BindError;
pub(crate) use table::TableSize;

use crate::{
    bill::BillConfig,
    catalog::Functions,
    deferred::Shelves,
    identity::Identity,
    invoke::Invoker,
    load::Load,
    metrics::RpcMetrics,
    park::{ParkLimits, Parking},
    stream::Desk,
};

/// What the RPC server is made of; see [`Server::new`].
#[derive(Debug)]
pub struct Parts<I> {
    /// Runs handlers.
    pub invoker: I,
    /// Which functions there are.
    pub functions: Arc<Functions>,
    /// Whose cookies to give out.
    pub identity: Arc<Identity>,
    /// How much to take in.
    pub load: Arc<Load>,
    /// What to count.
    pub metrics: RpcMetrics,
    /// The feeds that handlers wait for.
    pub feeds: Arc<db::Router>,
    /// How many of them may wait.
    pub park: ParkLimits,
}

/// The RPC server of one worker, for any number of sockets.
#[derive(Debug)]
pub struct Server<I> {
    parts: Parts<I>,
    limits: RpcLimits,
    table: table::Table,
    parking: Arc<Parking<serve::Job>>,
    larder: parked::Larder,
    /// Absent until [`Server::keep_calls`].
    shelves: OnceLock<Arc<Shelves>>,
    /// Absent until [`Server::open_streams`].
    desk: OnceLock<Arc<Desk>>,
    /// Absent until [`Server::believe`]: whoever sends a request pays for it.
    bill: OnceLock<BillConfig>,
}

impl<I: Invoker> Server<I> {
    /// A server that listens nowhere yet. Needs a runtime, for those that will wait.
    #[must_use]
    pub fn new(parts: Parts<I>, limits: RpcLimits) -> Arc<Self> {
        let (parking, woken) = Parking::new(&parts.park, Arc::clone(&parts.feeds));
        let server = Arc::new(Self {
            parts,
            table: table::Table::new(limits.clone()),
            limits,
            parking,
            larder: parked::Larder::default(),
            shelves: OnceLock::new(),
            desk: OnceLock::new(),
            bill: OnceLock::new(),
        });
        tokio::spawn(Self::resume(Arc::downgrade(&server), woken));
        server
    }

    /// From now on, takes calls that nobody waits for and keeps them on `shelves`. Only the first ones count.
    pub fn keep_calls(&self, shelves: Arc<Shelves>) {
        self.shelves.get_or_init(|| shelves);
    }

    /// From now on, the gateways of `bill` say who calls. Only the first ones count.
    pub fn believe(&self, bill: BillConfig) {
        self.bill.get_or_init(|| bill);
    }

    /// How many requests are parked, and the bytes that they hold.
    #[must_use]
    pub fn parked(&self) -> (usize, usize) {
        self.parking.size()
    }

    /// How much the server holds.
    pub(crate) fn size(&self) -> TableSize {
        self.table.size()
    }
}
