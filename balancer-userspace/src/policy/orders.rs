//! Orders of warmth: an operator who knows what is coming wants so many instances of a function, or its code on so many
//! workers, for so long.
//!
//! Of the orders for a function and its manifest's `min_warm` the largest counts; they are no sum, so that an order
//! that is given twice is the same as one. Orders of code and of instances do not replace each other. Pure: what the time is,
//! the caller says.

use std::collections::BTreeMap;

use ebpf_common::ids::FunctionId;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Instances of one order, at most, as many as a manifest's `min_warm` may be; and workers of one that is about code.
pub const MAX_INSTANCES: u32 = 1_024;
/// Orders at one time, at most: workers report on each function that has one with each heartbeat.
pub const MAX_ORDERS: usize = 256;
/// Seconds that an order may hold, at most: what is wanted for longer belongs into the manifest.
pub const MAX_SECONDS: u32 = 7 * 24 * 3_600;

/// Why an order is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum OrderError {
    /// Too many.
    #[error(
        "{count} instances cannot be ordered: up to {MAX_INSTANCES} can; 0 orders the code alone"
    )]
    Count {
        /// How many were asked for.
        count: u32,
    },
    /// Code on no worker, or on too many.
    #[error(
        "code cannot be ordered onto {workers} workers: onto 1 to {MAX_INSTANCES} can, or onto all by saying no number"
    )]
    Workers {
        /// How many were asked for.
        workers: u32,
    },
    /// Workers are for orders of code.
    #[error(
        "instances are spread over the workers that come first: a number of workers is for orders of code, with 0 instances"
    )]
    Spread,
    /// For no time, or for too long.
    #[error(
        "an order holds for 1 s to {} days, not for {seconds} s; `min_warm` in the manifest holds for ever",
        MAX_SECONDS / (24 * 3_600)
    )]
    Span {
        /// For how long it was asked.
        seconds: u32,
    },
    /// There are as many as there may be.
    #[error("there are {MAX_ORDERS} orders already: `warmpath fn prewarm --list` shows them")]
    Full,
}

/// What is wanted until when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The function's qualified name.
    pub function: String,
    /// How many instances, over all workers; with none, only code and layers.
    pub count: u32,
    /// Of an order of code: on how many workers; on all if it does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<u32>,
    /// When it ends, in milliseconds since 1970: it outlives the control plane.
    pub ends_unix_ms: u64,
}

impl Order {
    /// An order of `count` instances for `seconds`, from `now` on; of none, of code on so many `workers`.
    ///
    /// # Errors
    /// [`OrderError`], but for `Full`.
    pub fn new(
        function: String,
        count: u32,
        workers: Option<u32>,
        seconds: u32,
        now_unix_ms: u64,
    ) -> Result<Self, OrderError> {
        if count > MAX_INSTANCES {
            return Err(OrderError::Count { count });
        }
        match workers {
            Some(_) if count > 0 => return Err(OrderError::Spread),
            Some(workers) if !(1..=MAX_INSTANCES).contains(&workers) => {
                return Err(OrderError::Workers { workers });
            }
            _ => (),
        }
        if !(1..=MAX_SECONDS).contains(&seconds) {
            return Err(OrderError::Span { seconds });
        }
        Ok(Self {
            function,
            count,
            workers,
            ends_unix_ms: now_unix_ms.saturating_add(u64::from(seconds) * 1_000),
        })
    }

    /// The function's id.
    #[must_use]
    pub fn id(&self) -> FunctionId {
        FunctionId::of(&self.function)
    }

    /// On how many workers it wants the code, if it is an order of code.
    #[must_use]
    pub fn code_on(&self) -> Option<u32> {
        (self.count == 0).then(|| self.workers.unwrap_or(u32::MAX))
    }

    /// Whether `other` asks for nothing that this one does not.
    fn covers(&self, other: &Self) -> bool {
        self.function == other.function
            && self.code_on().is_some() == other.code_on().is_some()
            && self.size() >= other.size()
            && self.ends_unix_ms >= other.ends_unix_ms
    }

    /// What is compared with others of its kind.
    fn size(&self) -> u32 {
        self.code_on().unwrap_or(self.count)
    }
}

/// The orders in force. None covers another: of those of one kind for one function, the larger one ends sooner.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Orders(Vec<Order>);

impl Orders {
    /// Takes `order`, unless another covers it; those that it covers are no more.
    ///
    /// # Errors
    /// [`OrderError::Full`].
    pub fn place(&mut self, order: Order) -> Result<(), OrderError> {
        if self.0.iter().any(|other| other.covers(&order)) {
            return Ok(());
        }
        let is_kept = |other: &&Order| !order.covers(other);
        if self.0.iter().filter(is_kept).count() >= MAX_ORDERS {
            return Err(OrderError::Full);
        }
        self.0.retain(|other| !order.covers(other));
        self.0.push(order);
        Ok(())
    }

    /// Takes out those that `ends` says so of.
    pub fn take(&mut self, mut ends: impl FnMut(&Order) -> bool) -> Vec<Order> {
        self.0.extract_if(.., |order| ends(order)).collect()
    }

    /// Takes out those that are over at `now_unix_ms`.
    pub fn expire(&mut self, now_unix_ms: u64) -> Vec<Order> {
        self.take(|order| order.ends_unix_ms <= now_unix_ms)
    }

    /// When the next one ends, in milliseconds since 1970.
    #[must_use]
    pub fn next_end(&self) -> Option<u64> {
        self.0.iter().map(|order| order.ends_unix_ms).min()
    }

    /// All of them, by function, the largest first, those of code last.
    #[must_use]
    pub fn by_function(&self) -> BTreeMap<&str, Vec<&Order>> {
        let mut all: BTreeMap<&str, Vec<&Order>> = BTreeMap::new();
        for order in &self.0 {
            all.entry(&order.function).or_default().push(order);
        }
        for orders in all.values_mut() {
            orders.sort_by_key(|order| std::cmp::Reverse((order.count, order.size())));
        }
        all
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What is to be there of a function before anyone calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// The function.
    pub function: FunctionId,
    /// Instances that are to live, over all workers.
    pub count: u32,
    /// Workers that are to have the code whether or not they have instances.
    pub code_on: u32,
    /// Whether somebody ordered something, and wants to know what is there.
    pub is_ordered: bool,
}

/// What manifests want (`kept`) and what is ordered, each function once.
#[must_use]
pub fn wanted(kept: &[(FunctionId, u32)], orders: &Orders) -> Vec<Wanted> {
    let mut ordered: BTreeMap<FunctionId, (u32, u32)> = BTreeMap::new();
    for order in &orders.0 {
        let (count, code_on) = ordered.entry(order.id()).or_default();
        *count = order.count.max(*count);
        *code_on = order.code_on().unwrap_or(0).max(*code_on);
    }
    let mut all: Vec<Wanted> = kept
        .iter()
        .map(|(function, count)| {
            let order = ordered.remove(function);
            let (ordered, code_on) = order.unwrap_or_default();
            Wanted {
                function: *function,
                count: ordered.max(*count),
                code_on,
                is_ordered: order.is_some(),
            }
        })
        .collect();
    let rest = ordered.into_iter();
    all.extend(rest.map(|(function, (count, code_on))| Wanted {
        function,
        count,
        code_on,
        is_ordered: true,
    }));
    all
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order(function: &str, count: u32, ends_unix_ms: u64) -> Order {
        Order {
            function: function.to_owned(),
            count,
            workers: None,
            ends_unix_ms,
        }
    }

    fn code(function: &str, workers: Option<u32>, ends_unix_ms: u64) -> Order {
        Order {
            workers,
            ..order(function, 0, ends_unix_ms)
        }
    }

    fn counts(orders: &Orders) -> Vec<(u32, u64)> {
        let all = orders.by_function().into_values().flatten();
        all.map(|order| (order.count, order.ends_unix_ms)).collect()
    }

    #[test]
    fn an_order_has_a_number_and_an_end_within_bounds() {
        let new = |count, workers, seconds| {
            Order::new("a@latest".to_owned(), count, workers, seconds, 5_000)
        };
        let made = |count, seconds| new(count, None, seconds);
        assert_eq!(made(3, 2).unwrap(), order("a@latest", 3, 7_000));
        assert_eq!(made(0, 2).unwrap(), code("a@latest", None, 7_000));
        let two = new(0, Some(2), 2).unwrap();
        assert_eq!(two, code("a@latest", Some(2), 7_000));
        for workers in [0, 1_025] {
            let refused = Err(OrderError::Workers { workers });
            assert_eq!(new(0, Some(workers), 2), refused);
        }
        assert_eq!(new(1, Some(1), 2), Err(OrderError::Spread));
        assert_eq!(made(1_025, 2), Err(OrderError::Count { count: 1_025 }));
        assert_eq!(made(1, 0), Err(OrderError::Span { seconds: 0 }));
        assert!(made(1_024, MAX_SECONDS).is_ok());
        let error = made(1, MAX_SECONDS + 1).unwrap_err().to_string();
        assert!(
            error.contains("7 days") && error.contains("min_warm"),
            "{error}"
        );
    }

    #[test]
    fn an_order_that_asks_for_nothing_new_is_no_second_one() {
        let mut orders = Orders::default();
        orders.place(order("a", 3, 100)).unwrap();
        orders.place(order("a", 3, 100)).unwrap();
        orders.place(order("a", 2, 50)).unwrap();
        assert_eq!(counts(&orders), [(3, 100)]);
        orders.place(order("a", 1, 200)).unwrap();
        orders.place(order("a", 5, 60)).unwrap();
        assert_eq!(counts(&orders), [(5, 60), (3, 100), (1, 200)]);
        orders.place(order("a", 5, 200)).unwrap();
        assert_eq!(counts(&orders), [(5, 200)]);
        orders.place(order("b", 1, 10)).unwrap();
        assert_eq!(orders.len(), 2);
    }

    #[test]
    fn orders_of_code_and_of_instances_stand_beside_each_other() {
        let mut orders = Orders::default();
        orders.place(order("a", 3, 100)).unwrap();
        orders.place(code("a", Some(2), 50)).unwrap();
        orders.place(code("a", Some(1), 50)).unwrap();
        orders.place(order("a", 2, 90)).unwrap();
        assert_eq!(counts(&orders), [(3, 100), (0, 50)]);
        let all = wanted(&[(FunctionId::of("a"), 5)], &orders);
        assert_eq!((all.len(), all[0].count, all[0].code_on), (1, 5, 2));
        orders.place(code("a", None, 60)).unwrap();
        assert_eq!(counts(&orders), [(3, 100), (0, 60)]);
        orders.take(|order| order.count > 0);
        let all = wanted(&[], &orders);
        assert_eq!((all[0].count, all[0].code_on), (0, u32::MAX));
        assert!(all[0].is_ordered);
        // As a control plane wrote them that knew no orders of code.
        let read: Order =
            serde_json::from_str(r#"{"function":"a","count":3,"ends_unix_ms":100}"#).unwrap();
        assert_eq!(read, order("a", 3, 100));
        let written = serde_json::to_string(&code("a", Some(2), 7)).unwrap();
        assert_eq!(
            written,
            r#"{"function":"a","count":0,"workers":2,"ends_unix_ms":7}"#
        );
    }

    #[test]
    fn orders_end_when_they_said() {
        let mut orders = Orders::default();
        for (count, end) in [(5, 60), (3, 100)] {
            orders.place(order("a", count, end)).unwrap();
        }
        assert_eq!((orders.expire(59), orders.next_end()), (vec![], Some(60)));
        assert_eq!(orders.expire(60), [order("a", 5, 60)]);
        assert_eq!(orders.next_end(), Some(100));
        assert_eq!(orders.expire(1_000).len(), 1);
        assert!(orders.is_empty() && orders.next_end().is_none());
    }

    #[test]
    fn there_are_so_many_orders_and_no_more() {
        let mut orders = Orders::default();
        for n in 0..MAX_ORDERS {
            orders.place(order(&format!("f{n}"), 1, 100)).unwrap();
        }
        assert_eq!(orders.place(order("one", 1, 1)), Err(OrderError::Full));
        orders.place(order("f0", 2, 100)).unwrap();
        assert_eq!(orders.place(order("f0", 3, 50)), Err(OrderError::Full));
    }

    #[test]
    fn of_manifest_and_orders_the_largest_counts() {
        let id = |name: &str| FunctionId::of(name);
        let mut orders = Orders::default();
        for (name, count, end) in [("a", 5, 60), ("a", 3, 100), ("b", 1, 60), ("c", 2, 60)] {
            orders.place(order(name, count, end)).unwrap();
        }
        let kept = [(id("a"), 4), (id("b"), 2), (id("d"), 7)];
        let mut all: Vec<_> = wanted(&kept, &orders)
            .into_iter()
            .map(|it| (it.function, it.count, it.is_ordered))
            .collect();
        all.sort();
        let mut expected = vec![
            (id("a"), 5, true),
            (id("b"), 2, true),
            (id("c"), 2, true),
            (id("d"), 7, false),
        ];
        expected.sort();
        assert_eq!(all, expected);
    }

    proptest! {
        #[test]
        fn no_order_covers_another_and_the_largest_at_any_time_is_kept(
            given in prop::collection::vec((0..3_u8, 1..6_u32, 1..40_u64), 1..30),
            at in 0..40_u64,
        ) {
            let mut orders = Orders::default();
            for (name, count, end) in &given {
                orders.place(order(&name.to_string(), *count, *end)).unwrap();
            }
            for (place, one) in orders.0.iter().enumerate() {
                for (other_place, other) in orders.0.iter().enumerate() {
                    prop_assert!(place == other_place || !one.covers(other));
                }
            }
            orders.expire(at);
            for name in 0..3_u8 {
                let live = given.iter().filter(|(n, _, end)| *n == name && *end > at);
                let largest = live.map(|(_, count, _)| *count).max();
                let id = FunctionId::of(&name.to_string());
                let all = wanted(&[], &orders);
                let found = all.iter().find(|it| it.function == id).map(|it| it.count);
                prop_assert_eq!(found, largest);
            }
        }
    }
}
