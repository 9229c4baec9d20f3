//! Who is idle, who is busy and who waits, for one function. No I/O, no clock: the order in which
//! requests meet instances is decided here and nowhere else.
//!
//! A request without a session takes the instance that was idle for the shortest time (its caches are
//! warm, and the others may be evicted), or waits in one queue for all. A request of a session that met an
//! instance before takes that one, or waits for it. Among those whom a free instance could serve, the one
//! that came first gets it. A waiter that gave up is passed over.

use std::collections::{HashMap, VecDeque};

use tokio::sync::oneshot;

use super::{policy::Demand, sessions::Sessions};

/// Something with the number of an instance.
pub(super) trait Numbered {
    /// The number.
    fn number(&self) -> u64;
}

/// What a waiting request gets: an instance, or why there is none.
pub(super) type Granted<I, E> = Result<I, E>;

/// What a request meets.
#[derive(Debug)]
pub(super) enum Seat<I, E> {
    /// An idle instance.
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
    /// The one idle for longest first.
    idle: Vec<I>,
    /// Busy instances, each with the requests that wait for just that one.
    busy: HashMap<u64, VecDeque<Waiter<I, E>>>,
    waiting: VecDeque<Waiter<I, E>>,
    starting: usize,
    sessions: Sessions,
    tickets: u64,
}

impl<I: Numbered, E: Clone> Roster<I, E> {
    /// An empty one, which remembers `sessions_max` sessions.
    pub(super) fn new(sessions_max: usize) -> Self {
        Self {
            idle: Vec::new(),
            busy: HashMap::new(),
            waiting: VecDeque::new(),
            starting: 0,
            sessions: Sessions::new(sessions_max),
            tickets: 0,
        }
    }

    /// A request arrives.
    pub(super) fn seat(&mut self, session: Option<u64>) -> Seat<I, E> {
        if let Some(number) = session.and_then(|session| self.sessions.instance(session)) {
            if let Some(instance) = self.take_idle(number) {
                return Seat::Taken(self.occupy(instance, session));
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
        if let Some(instance) = self.idle.pop() {
            return Seat::Taken(self.occupy(instance, session));
        }
        let (waiter, receiver) = self.waiter(session);
        self.waiting.push_back(waiter);
        Seat::Waits(receiver)
    }

    /// A busy instance is free again.
    pub(super) fn release(&mut self, instance: I) {
        let own = self.busy.remove(&instance.number()).unwrap_or_default();
        self.offer(instance, own);
    }

    /// A new instance is there, or could not be started: then the request that waited longest hears of it,
    /// and all of them when nothing else is there or on its way that could serve them.
    pub(super) fn started(&mut self, instance: Granted<I, E>) {
        self.starting = self.starting.saturating_sub(1);
        match instance {
            Ok(instance) => self.offer(instance, VecDeque::new()),
            Err(error) => {
                let is_hopeless =
                    self.starting == 0 && self.idle.is_empty() && self.busy.is_empty();
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

    /// A busy instance has ended: who waited for just that one now takes any.
    pub(super) fn lost(&mut self, number: u64) {
        let Some(own) = self.busy.remove(&number) else {
            return;
        };
        self.waiting.extend(own);
        self.waiting
            .make_contiguous()
            .sort_by_key(|waiter| waiter.ticket);
        while !self.waiting.is_empty()
            && let Some(instance) = self.idle.pop()
        {
            let number = instance.number();
            self.offer(instance, VecDeque::new());
            if self.idle.last().is_some_and(|idle| idle.number() == number) {
                return;
            }
        }
    }

    /// Takes an idle instance out, to end it.
    pub(super) fn take_idle(&mut self, number: u64) -> Option<I> {
        let at = self
            .idle
            .iter()
            .position(|instance| instance.number() == number)?;
        Some(self.idle.remove(at))
    }

    /// Takes out all idle instances that `ends` says yes to.
    pub(super) fn take_idle_if(&mut self, mut ends: impl FnMut(&I) -> bool) -> Vec<I> {
        self.idle
            .extract_if(.., |instance| ends(instance))
            .collect()
    }

    /// All idle instances, the one idle for longest first.
    pub(super) fn idle(&self) -> &[I] {
        &self.idle
    }

    /// How many serve a request.
    pub(super) fn busy_len(&self) -> usize {
        self.busy.len()
    }

    /// The numbers that decisions are made by.
    pub(super) fn demand(&mut self) -> Demand {
        self.waiting.retain(|waiter| !waiter.grant.is_closed());
        Demand {
            waiting: self.waiting.len(),
            starting: self.starting,
            live: self.idle.len() + self.busy.len(),
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

    fn occupy(&mut self, instance: I, session: Option<u64>) -> I {
        self.occupy_with(instance.number(), session, VecDeque::new());
        instance
    }

    fn occupy_with(&mut self, number: u64, session: Option<u64>, own: VecDeque<Waiter<I, E>>) {
        self.busy.insert(number, own);
        if let Some(session) = session {
            self.sessions.bind(session, number);
        }
    }

    /// Gives a free instance to whoever came first among those it may serve, or lets it idle.
    fn offer(&mut self, mut instance: I, mut own: VecDeque<Waiter<I, E>>) {
        let number = instance.number();
        while let Some(waiter) = self.next_for(number, &mut own) {
            let session = waiter.session;
            match waiter.grant.send(Ok(instance)) {
                Ok(()) => return self.occupy_with(number, session, own),
                Err(Ok(unclaimed)) => instance = unclaimed,
                Err(Err(_)) => unreachable!("an instance was sent"),
            }
        }
        self.idle.push(instance);
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
            if let Some(queue) = self.busy.get_mut(&other) {
                queue.push_back(waiter);
            } else if let Some(instance) = self.take_idle(other) {
                let session = waiter.session;
                match waiter.grant.send(Ok(instance)) {
                    Ok(()) => self.occupy_with(other, session, VecDeque::new()),
                    Err(returned) => self.idle.extend(returned.ok()),
                }
            } else {
                return Some(waiter);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Numbered for u64 {
        fn number(&self) -> u64 {
            *self
        }
    }

    type Test = Roster<u64, &'static str>;

    fn roster(idle: &[u64]) -> Test {
        let mut roster = Test::new(100);
        for number in idle {
            roster.starts();
            roster.started(Ok(*number));
        }
        roster
    }

    fn taken(seat: Seat<u64, &'static str>) -> u64 {
        match seat {
            Seat::Taken(number) => number,
            other => panic!("no idle instance: {other:?}"),
        }
    }

    fn waits(seat: Seat<u64, &'static str>) -> oneshot::Receiver<Granted<u64, &'static str>> {
        match seat {
            Seat::Waits(receiver) => receiver,
            other => panic!("does not wait for any: {other:?}"),
        }
    }

    fn waits_for_one(
        seat: Seat<u64, &'static str>,
    ) -> oneshot::Receiver<Granted<u64, &'static str>> {
        match seat {
            Seat::WaitsForOne(receiver) => receiver,
            other => panic!("does not wait for its own: {other:?}"),
        }
    }

    #[test]
    fn takes_the_instance_that_was_used_last() {
        let mut roster = roster(&[1, 2]);
        assert_eq!(taken(roster.seat(None)), 2);
        roster.release(2);
        assert_eq!(taken(roster.seat(None)), 2);
    }

    #[test]
    fn serves_who_came_first() {
        let mut roster = roster(&[1]);
        let one = taken(roster.seat(None));
        let mut first = waits(roster.seat(None));
        let mut second = waits(roster.seat(None));
        roster.release(one);
        assert_eq!(first.try_recv(), Ok(Ok(1)));
        assert!(second.try_recv().is_err());
        roster.release(1);
        assert_eq!(second.try_recv(), Ok(Ok(1)));
    }

    #[test]
    fn passes_over_who_gave_up() {
        let mut roster = roster(&[1]);
        let one = taken(roster.seat(None));
        drop(waits(roster.seat(None)));
        assert_eq!(roster.demand().waiting, 0);
        let mut patient = waits(roster.seat(None));
        roster.release(one);
        assert_eq!(patient.try_recv(), Ok(Ok(1)));
    }

    #[test]
    fn a_session_waits_for_its_own_instance_while_others_are_idle() {
        let mut roster = roster(&[1, 2]);
        let own = taken(roster.seat(Some(7)));
        let mut again = waits_for_one(roster.seat(Some(7)));
        assert_eq!(roster.idle().len(), 1);
        roster.release(own);
        assert_eq!(again.try_recv(), Ok(Ok(own)));
        roster.release(own);
        let other = taken(roster.seat(Some(8)));
        assert_eq!(other, own, "the one used last");
        roster.release(other);
        assert_eq!(taken(roster.seat(Some(7))), own);
    }

    #[test]
    fn requests_of_one_session_that_waited_together_meet_one_instance() {
        let mut roster = roster(&[]);
        let mut first = waits(roster.seat(Some(7)));
        let mut second = waits(roster.seat(Some(7)));
        roster.starts();
        roster.starts();
        roster.started(Ok(1));
        roster.started(Ok(2));
        assert_eq!(first.try_recv(), Ok(Ok(1)));
        assert!(
            second.try_recv().is_err(),
            "instance 2 is not for this session"
        );
        assert_eq!(roster.idle(), [2]);
        roster.release(1);
        assert_eq!(second.try_recv(), Ok(Ok(1)));
    }

    #[test]
    fn a_session_whose_instance_ended_gets_another() {
        let mut roster = roster(&[1]);
        assert_eq!(taken(roster.seat(Some(7))), 1);
        let mut orphan = waits_for_one(roster.seat(Some(7)));
        roster.lost(1);
        assert_eq!(
            roster.demand(),
            Demand {
                waiting: 1,
                starting: 0,
                live: 0
            }
        );
        roster.starts();
        roster.started(Ok(2));
        assert_eq!(orphan.try_recv(), Ok(Ok(2)));
        roster.release(2);
        assert_eq!(taken(roster.seat(Some(7))), 2);
    }

    #[test]
    fn the_one_who_waited_longest_hears_of_a_failed_start() {
        let mut roster = roster(&[]);
        drop(waits(roster.seat(None)));
        let mut first = waits(roster.seat(None));
        let mut second = waits(roster.seat(None));
        roster.starts();
        roster.starts();
        roster.started(Err("no"));
        assert_eq!(first.try_recv(), Ok(Err("no")));
        assert!(second.try_recv().is_err(), "another start is under way");
        roster.dismiss();
        assert_eq!(second.try_recv(), Err(oneshot::error::TryRecvError::Closed));
    }

    #[test]
    fn all_who_wait_hear_of_a_failed_start_when_nothing_else_can_serve_them() {
        let mut roster = roster(&[]);
        let mut first = waits(roster.seat(None));
        let mut second = waits(roster.seat(None));
        roster.starts();
        roster.started(Err("no"));
        assert_eq!(first.try_recv(), Ok(Err("no")));
        assert_eq!(second.try_recv(), Ok(Err("no")));
    }

    #[test]
    fn a_session_whose_instance_ended_meets_one_that_idles() {
        let mut roster = roster(&[1, 2]);
        assert_eq!(taken(roster.seat(Some(7))), 2);
        let mut orphan = waits_for_one(roster.seat(Some(7)));
        let mut next = waits_for_one(roster.seat(Some(7)));
        roster.lost(2);
        assert_eq!(orphan.try_recv(), Ok(Ok(1)));
        roster.release(1);
        assert_eq!(next.try_recv(), Ok(Ok(1)));
        roster.release(1);
        assert_eq!(roster.idle(), [1]);
    }

    #[test]
    fn lets_idle_instances_be_taken_away() {
        let mut roster = roster(&[1, 2, 3]);
        assert_eq!(roster.take_idle(2), Some(2));
        assert_eq!(roster.take_idle(2), None);
        assert_eq!(roster.take_idle_if(|number| *number < 3), [1]);
        assert_eq!(roster.idle(), [3]);
    }
}
