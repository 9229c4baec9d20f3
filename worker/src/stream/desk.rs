//! Which tickets are out, which streams are open, and which tickets are good no more.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Instant,
};

use ebpf_common::wire::{StreamPlace, Ticket};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::{Claim, End, StreamLimits, StreamMetrics, port::Carried};

/// Tickets that are remembered after their end, to tell why they are refused.
const SPENT_MAX: usize = 4_096;
/// Streams shown one by one.
const SHOWN_MAX: usize = 100;

/// Where tickets are given out and taken back.
#[derive(Debug)]
pub struct Desk {
    address: SocketAddr,
    limits: StreamLimits,
    metrics: StreamMetrics,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    streams: HashMap<Ticket, Stream>,
    spent: HashMap<Ticket, Refused>,
    /// Oldest first.
    spent_order: VecDeque<Ticket>,
}

/// A stream, from its ticket to its end.
#[derive(Debug)]
struct Stream {
    /// Until somebody comes with the ticket.
    claims: Option<oneshot::Sender<Claim>>,
    carried: Arc<Carried>,
    offered: Offered,
    since: Instant,
}

/// Whose stream it is, for people.
#[derive(Debug, Clone)]
pub(crate) struct Offered {
    pub(crate) request_id: u64,
    pub(crate) function: String,
    pub(crate) peer: SocketAddr,
}

/// A ticket that is out. Dropped, it is good no more.
#[derive(Debug)]
pub(crate) struct Offer {
    desk: Arc<Desk>,
    ticket: Ticket,
    claim: oneshot::Receiver<Claim>,
}

/// Why a ticket is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Never given out, or long over.
    Unknown,
    /// Somebody has come with it before.
    Used,
    /// Nobody came with it in time.
    Expired,
}

impl Refused {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Unknown, Self::Used, Self::Expired];

    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Used => "used",
            Self::Expired => "expired",
        }
    }
}

/// The streams of a worker at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamsReport {
    /// Where they are served; absent if they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
    /// Tickets that are out.
    pub offered: usize,
    /// Streams that go on.
    pub open: usize,
    /// Both, by function.
    pub by_function: BTreeMap<String, usize>,
    /// The oldest of them.
    pub oldest: Vec<OpenStream>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenStream {
    /// The request.
    pub request_id: u64,
    /// Its function.
    pub function: String,
    /// Who asked.
    pub caller: SocketAddr,
    /// Whether the caller has come for it.
    pub open: bool,
    /// Since its ticket was given out.
    pub age_ms: u64,
    /// Of its body.
    pub bytes_in: u64,
    /// Of its reply.
    pub bytes_out: u64,
}

impl Desk {
    /// A desk that sends clients to `address`.
    pub(super) fn new(
        address: SocketAddr,
        limits: StreamLimits,
        metrics: StreamMetrics,
    ) -> Arc<Self> {
        Arc::new(Self {
            address,
            limits,
            metrics,
            state: Mutex::default(),
        })
    }

    pub(crate) const fn limits(&self) -> &StreamLimits {
        &self.limits
    }

    pub(crate) const fn metrics(&self) -> &StreamMetrics {
        &self.metrics
    }

    /// Gives a ticket out.
    pub(crate) fn offer(self: &Arc<Self>, offered: Offered) -> Offer {
        let (sender, claim) = oneshot::channel();
        let ticket = Ticket(rand::random());
        let stream = Stream {
            claims: Some(sender),
            carried: Arc::default(),
            offered,
            since: Instant::now(),
        };
        self.state().streams.insert(ticket, stream);
        Offer {
            desk: Arc::clone(self),
            ticket,
            claim,
        }
    }

    /// Takes a ticket back: to whom the claim goes, and where its bytes are counted.
    pub(super) fn take(
        &self,
        ticket: Ticket,
    ) -> Result<(oneshot::Sender<Claim>, Arc<Carried>), Refused> {
        let mut state = self.state();
        let taken = match state.streams.get_mut(&ticket) {
            Some(stream) => {
                let claims = stream.claims.take().ok_or(Refused::Used);
                claims.map(|claims| (claims, Arc::clone(&stream.carried)))
            }
            None => Err(state
                .spent
                .get(&ticket)
                .copied()
                .unwrap_or(Refused::Unknown)),
        };
        drop(state);
        if let Err(refused) = &taken {
            self.metrics.refused(*refused);
        }
        taken
    }

    /// Where clients are sent.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What is offered and open.
    #[must_use]
    pub fn report(&self) -> StreamsReport {
        let now = Instant::now();
        let state = self.state();
        let mut report = StreamsReport {
            listen: Some(self.address),
            ..StreamsReport::default()
        };
        for stream in state.streams.values() {
            let is_open = stream.claims.is_none();
            *(if is_open {
                &mut report.open
            } else {
                &mut report.offered
            }) += 1;
            let function = stream.offered.function.clone();
            *report.by_function.entry(function.clone()).or_default() += 1;
            let age = now.saturating_duration_since(stream.since);
            report.oldest.push(OpenStream {
                request_id: stream.offered.request_id,
                function,
                caller: stream.offered.peer,
                open: is_open,
                age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
                bytes_in: stream.carried.bytes_in.load(Ordering::Relaxed),
                bytes_out: stream.carried.bytes_out.load(Ordering::Relaxed),
            });
        }
        drop(state);
        report
            .oldest
            .sort_by_key(|stream| std::cmp::Reverse(stream.age_ms));
        report.oldest.truncate(SHOWN_MAX);
        report
    }

    /// How many tickets are out, and streams open.
    pub(crate) fn size(&self) -> (usize, usize) {
        let state = self.state();
        let offered = state.streams.values().filter(|it| it.claims.is_some());
        let offered = offered.count();
        (offered, state.streams.len() - offered)
    }

    fn forget(&self, ticket: Ticket) {
        let mut state = self.state();
        let Some(stream) = state.streams.remove(&ticket) else {
            return;
        };
        let why = if stream.claims.is_some() {
            Refused::Expired
        } else {
            Refused::Used
        };
        state.spent.insert(ticket, why);
        state.spent_order.push_back(ticket);
        if state.spent_order.len() > SPENT_MAX
            && let Some(oldest) = state.spent_order.pop_front()
        {
            state.spent.remove(&oldest);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Offer {
    /// What the client is told.
    pub(crate) fn place(&self) -> StreamPlace {
        StreamPlace {
            ticket: self.ticket,
            address: self.desk.address,
        }
    }

    /// Waits until somebody comes with the ticket; `None` if nobody does until `deadline`, or as long as the limits say.
    pub(crate) async fn claimed(&mut self, deadline: tokio::time::Instant) -> Option<Claim> {
        let patience = tokio::time::Instant::now() + self.desk.limits.claim();
        let claim = tokio::time::timeout_at(patience.min(deadline), &mut self.claim).await;
        claim.ok()?.ok()
    }

    /// Counts how the stream ended, and what it carried.
    pub(crate) fn ended(&self, end: End, bytes_in: u64, bytes_out: u64) {
        self.desk.metrics.ended(end, bytes_in, bytes_out);
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        self.desk.forget(self.ticket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desk() -> Arc<Desk> {
        let address = "10.80.0.11:9200".parse().unwrap();
        let metrics = StreamMetrics::register(&prometheus::Registry::new()).unwrap();
        Desk::new(address, StreamLimits::default(), metrics)
    }

    fn offer(desk: &Arc<Desk>) -> Offer {
        desk.offer(Offered {
            request_id: 7,
            function: "f@1".to_owned(),
            peer: "10.0.0.1:1".parse().unwrap(),
        })
    }

    #[test]
    fn a_ticket_is_good_once_and_not_after_its_end() {
        let desk = desk();
        let one = offer(&desk);
        let ticket = one.place().ticket;
        assert_eq!(desk.take(Ticket([0; 16])).unwrap_err(), Refused::Unknown);
        assert!(desk.take(ticket).is_ok());
        assert_eq!(desk.take(ticket).unwrap_err(), Refused::Used);
        drop(one);
        assert_eq!(desk.take(ticket).unwrap_err(), Refused::Used);

        let other = offer(&desk);
        let ticket = other.place().ticket;
        drop(other);
        assert_eq!(desk.take(ticket).unwrap_err(), Refused::Expired);
        let count = |refused| desk.metrics.refusals(refused);
        assert_eq!(Refused::ALL.map(count), [1, 2, 1]);
    }

    #[test]
    fn no_two_tickets_are_alike_and_the_oldest_spent_are_forgotten() {
        let desk = desk();
        let first = offer(&desk).place().ticket;
        let mut all = std::collections::HashSet::from([first]);
        for _ in 0..SPENT_MAX {
            assert!(all.insert(offer(&desk).place().ticket));
        }
        assert_eq!(desk.take(first).unwrap_err(), Refused::Unknown);
        assert_eq!(desk.state().spent.len(), SPENT_MAX);
    }

    #[test]
    fn people_see_what_is_offered_and_what_is_open() {
        let desk = desk();
        let (_one, other) = (offer(&desk), offer(&desk));
        let (_claims, carried) = desk.take(other.place().ticket).unwrap();
        carried.bytes_out.store(5, Ordering::Relaxed);
        let report = desk.report();
        assert_eq!((report.offered, report.open), (1, 1));
        assert_eq!(report.by_function["f@1"], 2);
        let open = report.oldest.iter().find(|stream| stream.open).unwrap();
        assert_eq!((open.request_id, open.bytes_out), (7, 5));
        assert_eq!(desk.size(), (1, 1));
    }
}
