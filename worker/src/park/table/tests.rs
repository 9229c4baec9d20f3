//! The table against a list that is searched from end to end.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

const MOST: usize = 12;
const MOST_BYTES: usize = 100;

#[derive(Debug, Clone)]
enum Step {
    Park {
        feed: Option<(u16, u64)>,
        after: u64,
        bytes: usize,
    },
    Moved(u16, u64),
    Pass(u64),
    Take(usize),
    LookAt(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let feed = proptest::option::of((0u16..3, 0u64..8));
    let step = prop_oneof![
        6 => (feed, 0u64..20, 0usize..20)
            .prop_map(|(feed, after, bytes)| Step::Park { feed, after, bytes }),
        3 => (0u16..3, 0u64..10).prop_map(|(slot, head)| Step::Moved(slot, head)),
        2 => (0u64..6).prop_map(Step::Pass),
        1 => (0usize..MOST).prop_map(Step::Take),
        1 => (0u16..3).prop_map(Step::LookAt),
    ];
    proptest::collection::vec(step, 1..80)
}

/// One that waits, as the model has it.
#[derive(Debug, Clone)]
struct Waiting {
    ticket: Ticket,
    feed: Option<(u16, u64)>,
    time: Instant,
    bytes: usize,
    item: u32,
}

/// The table as it should be.
#[derive(Debug, Default)]
struct Model {
    waiting: Vec<Waiting>,
    /// Of the feeds that are followed.
    heads: HashMap<u16, u64>,
}

impl Model {
    /// Removes those that `is_over` picks, and names their items in order.
    fn leave(&mut self, is_over: impl Fn(&Waiting) -> bool) -> Vec<u32> {
        let (over, rest) = self.waiting.iter().cloned().partition(is_over);
        self.waiting = rest;
        let mut items: Vec<u32> = over.iter().map(|waiting: &Waiting| waiting.item).collect();
        items.sort_unstable();
        items
    }

    fn bytes(&self) -> usize {
        self.waiting.iter().map(|waiting| waiting.bytes).sum()
    }
}

fn sorted(mut items: Vec<u32>) -> Vec<u32> {
    items.sort_unstable();
    items
}

fn park(
    table: &mut ParkTable<u32>,
    model: &mut Model,
    feed: Option<(u16, u64)>,
    time: Instant,
    (bytes, item): (usize, u32),
) {
    let until = Until {
        feed: feed.map(|(slot, cursor)| (SlotId(slot), Cursor(cursor))),
        time,
    };
    let is_full = model.waiting.len() >= MOST || model.bytes() + bytes > MOST_BYTES;
    let head = feed.and_then(|(slot, _)| model.heads.get(&slot).copied());
    match table.park(until, bytes, item) {
        Placed::Full(back) => assert!(is_full && back == item),
        Placed::Moved {
            item: back,
            head: at,
        } => {
            assert!(!is_full && back == item && Some(at.0) == head);
            assert!(at.0 > feed.unwrap().1);
        }
        Placed::Waits { ticket, follow } => {
            assert!(!is_full);
            assert!(feed.is_none_or(|(_, cursor)| head.unwrap_or(0) <= cursor));
            let unfollowed = feed.filter(|_| head.is_none());
            assert_eq!(follow, unfollowed.map(|(slot, _)| SlotId(slot)));
            if let Some((slot, _)) = unfollowed {
                model.heads.insert(slot, 0);
            }
            model.waiting.push(Waiting {
                ticket,
                feed,
                time,
                bytes,
                item,
            });
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn everybody_is_woken_once_by_what_he_waits_for(steps in steps()) {
        let mut table = ParkTable::new(MOST, MOST_BYTES);
        let mut model = Model::default();
        let mut now = Instant::now();
        for (item, step) in (0u32..).zip(steps) {
            match step {
                Step::Park { feed, after, bytes } => {
                    let time = now + Duration::from_secs(after);
                    park(&mut table, &mut model, feed, time, (bytes, item));
                }
                Step::Moved(slot, head) => {
                    let woken = sorted(table.moved(SlotId(slot), Cursor(head)));
                    let at = model.heads.get_mut(&slot).map(|at| {
                        *at = (*at).max(head);
                        *at
                    });
                    let due = model.leave(|waiting| {
                        waiting.feed.is_some_and(|(of, cursor)| {
                            of == slot && at.is_some_and(|at| cursor < at)
                        })
                    });
                    prop_assert_eq!(woken, due);
                }
                Step::Pass(seconds) => {
                    now += Duration::from_secs(seconds);
                    let due = table.due(now, usize::MAX);
                    let due = sorted(due.into_iter().map(|(_, item)| item).collect());
                    prop_assert_eq!(due, model.leave(|waiting| waiting.time <= now));
                }
                Step::Take(index) => {
                    let Some(ticket) = model.waiting.get(index).map(|waiting| waiting.ticket) else {
                        continue;
                    };
                    let taken: Vec<u32> = table.take(ticket).into_iter().collect();
                    prop_assert_eq!(taken, model.leave(|waiting| waiting.ticket == ticket));
                    prop_assert_eq!(table.take(ticket), None);
                }
                Step::LookAt(slot) => {
                    let waits = |waiting: &Waiting| waiting.feed.is_some_and(|(of, _)| of == slot);
                    let awaited = model.waiting.iter().any(waits);
                    prop_assert_eq!(table.is_awaited(SlotId(slot)), awaited);
                    if !awaited {
                        model.heads.remove(&slot);
                    }
                }
            }
            prop_assert_eq!(table.len(), model.waiting.len());
            prop_assert_eq!(table.bytes(), model.bytes());
            let next = model.waiting.iter().map(|waiting| waiting.time).min();
            prop_assert_eq!(table.next_due(), next);
        }
        let left = sorted(table.take_all());
        prop_assert_eq!(left, model.leave(|_| true));
        prop_assert!(table.is_empty() && table.bytes() == 0 && table.next_due().is_none());
    }
}

#[test]
fn the_due_come_in_portions_and_in_the_order_of_their_times() {
    let mut table = ParkTable::new(10, 10);
    let now = Instant::now();
    for item in [3u64, 1, 2] {
        let time = now + Duration::from_secs(item);
        let feed = (item == 2).then_some((SlotId(5), Cursor(7)));
        table.park(Until { feed, time }, 1, item);
    }
    let late = now + Duration::from_secs(9);
    assert_eq!(table.due(late, 2), [(Cursor::START, 1), (Cursor(7), 2)]);
    assert_eq!(table.due(late, 2), [(Cursor::START, 3)]);
}
