//! The order in which requests meet instances, case by case.

use super::*;

/// An instance with one place.
impl Places for u64 {
    fn number(&self) -> u64 {
        *self
    }

    fn is_whole(&self) -> bool {
        true
    }

    fn split(&mut self) -> Option<Self> {
        None
    }

    fn merge(&mut self, other: Self) {
        unreachable!("{self} has one place, and {other} cannot be another");
    }

    /// The numbers from 100 on are paused.
    fn is_paused(&self) -> bool {
        *self >= 100
    }
}

type Test = Roster<u64, &'static str>;

fn roster(idle: &[u64]) -> Test {
    let mut roster = Test::new(100, 1);
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

fn waits_for_one(seat: Seat<u64, &'static str>) -> oneshot::Receiver<Granted<u64, &'static str>> {
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
    assert_eq!(roster.demand().wanted, 0);
    let mut patient = waits(roster.seat(None));
    roster.release(one);
    assert_eq!(patient.try_recv(), Ok(Ok(1)));
}

#[test]
fn a_session_waits_for_its_own_instance_while_others_are_idle() {
    let mut roster = roster(&[1, 2]);
    let own = taken(roster.seat(Some(7)));
    let mut again = waits_for_one(roster.seat(Some(7)));
    assert_eq!(roster.idle().count(), 1);
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
    assert!(roster.idle().eq(&[2]));
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
            wanted: 1,
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
    assert!(roster.idle().eq(&[1]));
}

#[test]
fn lets_idle_instances_be_taken_away() {
    let mut roster = roster(&[1, 2, 3]);
    assert_eq!(roster.take_idle(2), Some(2));
    assert_eq!(roster.take_idle(2), None);
    assert_eq!(roster.take_idle_if(|number| *number < 3), [1]);
    assert!(roster.idle().eq(&[3]));
}

#[test]
fn takes_a_paused_instance_only_when_no_other_is_free() {
    let mut roster = roster(&[100, 1, 101]);
    assert_eq!(roster.paused_len(), 2);
    assert!(roster.idle().eq(&[100, 101, 1]));
    assert_eq!(taken(roster.seat(None)), 1);
    assert_eq!(taken(roster.seat(None)), 101, "the one paused last");
    assert_eq!(roster.take_idle(100), Some(100), "paused ones can be ended");
}

#[test]
fn what_is_being_paused_counts_as_busy_and_goes_to_who_came_meanwhile() {
    let mut roster = roster(&[1, 2]);
    assert_eq!(roster.take_to_pause(|number| *number == 1), [1]);
    assert_eq!((roster.demand().live, roster.busy_len()), (2, 1));
    assert_eq!(taken(roster.seat(None)), 2);
    let mut waiting = waits(roster.seat(None));
    roster.release(1);
    assert_eq!(waiting.try_recv(), Ok(Ok(1)));
    roster.release(1);
    assert!(roster.idle().eq(&[1]));
}
