//! Who is idle, who is busy and who waits, for one function. No I/O, no clock: the order in which
//! requests meet instances is decided here and nowhere else.
//!
//! An instance has one place for a request, or several. A request without a session takes a free place of
//! an instance that serves others already, or else the instance that was idle for the shortest time (its
//! caches are warm, and the others may be paused and evicted), or one that is paused, or waits in one queue
//! for all. A request of a session
//! that met an instance before takes a place there, or waits for one. Among those whom a free place could
//! serve, the one that came first gets it. A waiter that gave up is passed over.
//!
//! Invariants: a place is in one list here, or with one request; while anyone waits, no place that could
//! serve him is free.

use std::collections::{HashMap, VecDeque};

use tokio::sync::oneshot;

use super::{policy::Demand, sessions::Sessions};

/// Some of the places of one instance: those that are free, or the one that a request has.
pub(super) trait Places: Sized {
    /// The number of the instance.
    fn number(&self) -> u64;
    /// Whether these are all places of the instance: it serves nobody.
    fn is_whole(&self) -> bool;
    /// Takes one place off; `None` when there is but one.
    fn split(&mut self) -> Option<Self>;
    /// Adds other places of the same instance.
    fn merge(&mut self, other: Self);
    /// Whether the instance is stopped, and has to be thawed before it can serve.
    fn is_paused(&self) -> bool;
}

/// What a waiting request gets: an instance, or why there is none.
pub(super) type Granted<I, E> = Result<I, E>;

/// What a request meets.
#[derive(Debug)]
pub(super) enum Seat<I, E> {
    /// A free place.
    Taken(I),
    /// A place in the queue for any instance.
    Waits(oneshot::Receiver<Granted<I, E>>),
    /// A place in the queue for the session's own instance.
    WaitsForOne(oneshot::Receiver<Granted<I, E>>),
}

#[derive(Debug)]
struct Waiter<I, E> {
    ticket: u64,
    session: Option<u64>,
    grant: oneshot::Sender<Granted<I, E>>,
}

/// The instances of one function, and the requests for them.
#[derive(Debug)]
pub(super) struct Roster<I, E> {
    /// Instances that serve nobody, the one idle for longest first.
    idle: Vec<I>,
    /// Those of them that are paused.
    paused: Vec<I>,
    /// The free places of instances that serve someone.
    partly: Vec<I>,
    /// Instances that serve someone, each with the requests that wait for just that one.
    busy: HashMap<u64, VecDeque<Waiter<I, E>>>,
    waiting: VecDeque<Waiter<I, E>>,
    starting: usize,
    sessions: Sessions,
    tickets: u64,
    places: usize,
}

impl<I: Places, E: Clone> Roster<I, E> {
    /// An empty one, which remembers `sessions_max` sessions, for instances with `places` places each.
    pub(super) fn new(sessions_max: usize, places: usize) -> Self {
        Self {
            idle: Vec::new(),
            paused: Vec::new(),
            partly: Vec::new(),
            busy: HashMap::new(),
            waiting: VecDeque::new(),
            starting: 0,
            sessions: Sessions::new(sessions_max),
            tickets: 0,
            places: places.max(1),
        }
    }

    /// A request arrives.
    pub(super) fn seat(&mut self, session: Option<u64>) -> Seat<I, E> {
        if let Some(number) = session.and_then(|session| self.sessions.instance(session)) {
            if let Some(free) = self.take_free(number) {
                return Seat::Taken(self.occupy(free, session));
            }
            if self.busy.contains_key(&number) {
                let (waiter, receiver) = self.waiter(session);
                self.busy.entry(number).or_default().push_back(waiter);
                return Seat::WaitsForOne(receiver);
            }
            // That instance has ended.
            session
                .into_iter()
                .for_each(|session| self.sessions.forget(session));
        }
        if let Some(free) = self.best() {
            return Seat::Taken(self.occupy(free, session));
        }
        let (waiter, receiver) = self.waiter(session);
        self.waiting.push_back(waiter);
        Seat::Waits(receiver)
    }

    /// A place is free again.
    pub(super) fn release(&mut self, place: I) {
        let free = self.gather(place);
        self.offer(free);
    }

    /// A new instance is there, or could not be started: then the request that waited longest hears of it,
    /// and all of them when nothing else is there or on its way that could serve them.
    pub(super) fn started(&mut self, instance: Granted<I, E>) {
        self.starting = self.starting.saturating_sub(1);
        match instance {
            Ok(instance) => self.offer(instance),
            Err(error) => {
                let is_hopeless = self.starting == 0 && self.live() == 0;
                while let Some(waiter) = self.waiting.pop_front() {
                    // One that gave up does not hear it: the next one is told.
                    let is_heard = waiter.grant.send(Err(error.clone())).is_ok();
                    if is_heard && !is_hopeless {
                        return;
                    }
                }
            }
        }
    }

    /// One instance is being started.
    pub(super) const fn starts(&mut self) {
        self.starting += 1;
    }

    /// An instance that was to be started is not.
    pub(super) const fn cancelled(&mut self) {
        self.starting = self.starting.saturating_sub(1);
    }

    /// An instance has ended, and none of its places is left: who waited for just that one now takes any.
    pub(super) fn lost(&mut self, number: u64) {
        let Some(own) = self.busy.remove(&number) else {
            return;
        };
        self.waiting.extend(own);
        self.waiting
            .make_contiguous()
            .sort_by_key(|waiter| waiter.ticket);
        while !self.waiting.is_empty()
            && let Some(free) = self.best()
        {
            let number = free.number();
            self.offer(free);
            let came_back =
                |list: &[I]| list.last().is_some_and(|free: &I| free.number() == number);
            if [&self.partly, &self.idle, &self.paused]
                .into_iter()
                .any(|list| came_back(list))
            {
                return;
            }
        }
    }

    /// Takes an instance out that serves nobody, to end it.
    pub(super) fn take_idle(&mut self, number: u64) -> Option<I> {
        take(&mut self.idle, number).or_else(|| take(&mut self.paused, number))
    }

    /// Takes out the running ones among those that serve nobody and that `pauses` says yes to. They count as
    /// busy until they are released, so that no other instance is started in their place.
    pub(super) fn take_to_pause(&mut self, mut pauses: impl FnMut(&I) -> bool) -> Vec<I> {
        let taken: Vec<I> = self.idle.extract_if(.., |free| pauses(free)).collect();
        for free in &taken {
            self.busy.entry(free.number()).or_default();
        }
        taken
    }

    /// Takes out all free places of an instance.
    pub(super) fn take_free(&mut self, number: u64) -> Option<I> {
        take(&mut self.partly, number).or_else(|| self.take_idle(number))
    }

    /// Takes out all idle instances that `ends` says yes to.
    pub(super) fn take_idle_if(&mut self, mut ends: impl FnMut(&I) -> bool) -> Vec<I> {
        let mut taken: Vec<I> = self.paused.extract_if(.., |free| ends(free)).collect();
        taken.extend(self.idle.extract_if(.., |free| ends(free)));
        taken
    }

    /// All instances that serve nobody: the paused ones, then the others; the one idle for longest first.
    pub(super) fn idle(&self) -> impl Iterator<Item = &I> {
        self.paused.iter().chain(&self.idle)
    }

    /// How many of them are paused.
    pub(super) fn paused_len(&self) -> usize {
        self.paused.len()
    }

    /// How many instances there are.
    fn live(&self) -> usize {
        self.idle.len() + self.paused.len() + self.busy.len()
    }

    /// How many serve a request.
    pub(super) fn busy_len(&self) -> usize {
        self.busy.len()
    }

    /// The numbers that decisions are made by.
    pub(super) fn demand(&mut self) -> Demand {
        self.waiting.retain(|waiter| !waiter.grant.is_closed());
        Demand {
            wanted: self.waiting.len().div_ceil(self.places),
            starting: self.starting,
            live: self.live(),
        }
    }

    /// Sends everyone away who waits: their receivers close.
    pub(super) fn dismiss(&mut self) {
        self.waiting.clear();
        self.busy.values_mut().for_each(VecDeque::clear);
    }

    fn waiter(&mut self, session: Option<u64>) -> (Waiter<I, E>, oneshot::Receiver<Granted<I, E>>) {
        self.tickets += 1;
        let (grant, receiver) = oneshot::channel();
        (
            Waiter {
                ticket: self.tickets,
                session,
                grant,
            },
            receiver,
        )
    }

    /// The free places that the next request is to have one of.
    fn best(&mut self) -> Option<I> {
        let running = self.partly.pop().or_else(|| self.idle.pop());
        running.or_else(|| self.paused.pop())
    }

    /// Keeps free places for whoever comes next.
    fn keep(&mut self, free: I) {
        if !free.is_whole() {
            self.partly.push(free);
        } else if free.is_paused() {
            self.paused.push(free);
        } else {
            self.idle.push(free);
        }
    }

    /// One place of those that were free; the others stay so.
    fn occupy(&mut self, mut free: I, session: Option<u64>) -> I {
        let number = free.number();
        self.busy.entry(number).or_default();
        self.bind(session, number);
        let Some(place) = free.split() else {
            return free;
        };
        self.partly.push(free);
        place
    }

    fn bind(&mut self, session: Option<u64>, number: u64) {
        if let Some(session) = session {
            self.sessions.bind(session, number);
        }
    }

    /// All free places of the instance that `place` belongs to, out of the lists.
    fn gather(&mut self, place: I) -> I {
        match take(&mut self.partly, place.number()) {
            Some(mut free) => {
                free.merge(place);
                free
            }
            None => place,
        }
    }

    /// Gives free places to those who came first among whom they may serve, and keeps the rest.
    fn offer(&mut self, mut free: I) {
        let number = free.number();
        let mut own = self.busy.remove(&number).unwrap_or_default();
        while let Some(waiter) = self.next_for(number, &mut own) {
            let (place, rest) = match free.split() {
                Some(place) => (place, Some(free)),
                None => (free, None),
            };
            match (waiter.grant.send(Ok(place)), rest) {
                (Ok(()), rest) => {
                    self.bind(waiter.session, number);
                    let Some(rest) = rest else {
                        self.busy.insert(number, own);
                        return;
                    };
                    free = rest;
                }
                (Err(Ok(unclaimed)), Some(mut rest)) => {
                    rest.merge(unclaimed);
                    free = rest;
                }
                (Err(Ok(unclaimed)), None) => free = unclaimed,
                (Err(Err(_)), _) => unreachable!("a place was sent"),
            }
        }
        if !free.is_whole() {
            self.busy.insert(number, own);
        }
        self.keep(free);
    }

    fn next_for(&mut self, number: u64, own: &mut VecDeque<Waiter<I, E>>) -> Option<Waiter<I, E>> {
        loop {
            let first = self.waiting.front().map(|waiter| waiter.ticket);
            let first_own = own.front().map(|waiter| waiter.ticket);
            if first_own.is_some_and(|own| first.is_none_or(|first| own < first)) {
                return own.pop_front();
            }
            let waiter = self.waiting.pop_front()?;
            // While it waited, another request of its session may have been given an instance.
            let own = waiter
                .session
                .and_then(|session| self.sessions.instance(session));
            let Some(other) = own.filter(|other| *other != number) else {
                return Some(waiter);
            };
            if let Some(free) = self.take_free(other) {
                let place = self.occupy(free, waiter.session);
                if let Err(Ok(unclaimed)) = waiter.grant.send(Ok(place)) {
                    self.put_back(unclaimed);
                }
            } else if let Some(queue) = self.busy.get_mut(&other) {
                queue.push_back(waiter);
            } else {
                return Some(waiter);
            }
        }
    }

    /// Takes back a place that nobody else waits for.
    fn put_back(&mut self, place: I) {
        let free = self.gather(place);
        if free.is_whole() {
            self.busy.remove(&free.number());
        }
        self.keep(free);
    }
}

fn take<I: Places>(list: &mut Vec<I>, number: u64) -> Option<I> {
    let at = list.iter().position(|free| free.number() == number)?;
    Some(list.remove(at))
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
