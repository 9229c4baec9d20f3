//! Orders of warmth: taken, withdrawn, ended by the clock, and how far the workers have come with them.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use ebpf_common::ids::{DEFERRED_FUNCTION, FunctionId, WorkerId};
use tracing::info;

use super::{CommandError, Controller, SAVE_AFTER};
use crate::{
    api::types::{OrderRequest, OrderStatus, PrewarmStatus, WarmWorker},
    clock::unix_ms,
    maps::MapStore,
    policy::orders::{Order, wanted},
};

impl<S: MapStore> Controller<S> {
    /// Takes an order, and says how far it is.
    pub(super) fn order(&mut self, request: &OrderRequest) -> Result<PrewarmStatus, CommandError> {
        let taken = self.take_order(request);
        let event = if taken.is_ok() { "placed" } else { "refused" };
        self.metrics.order_events.with_label_values(&[event]).inc();
        let function = taken?;
        self.orders_changed();
        let status = self.prewarm_of(&function);
        status.ok_or(CommandError::NoOrder { name: function })
    }

    fn take_order(&mut self, request: &OrderRequest) -> Result<String, CommandError> {
        let OrderRequest {
            function,
            count,
            workers,
            seconds,
            ..
        } = request;
        let function = self.known(function)?;
        let order = Order::new(function.clone(), *count, *workers, *seconds, unix_ms())?;
        if self.homes.takers().next().is_none() {
            return Err(CommandError::NoWorker);
        }
        self.orders.place(order)?;
        info!(function, count, workers, seconds, "prewarming ordered");
        Ok(function)
    }

    /// The qualified name of a function that workers can have instances of.
    fn known(&self, name: &str) -> Result<String, CommandError> {
        let catalog = self.catalog.as_ref().ok_or(CommandError::NoCatalog)?;
        let id = FunctionId::of(name);
        let function = catalog.functions.get(&id);
        function
            // The platform's own has no code.
            .filter(|_| id != FunctionId::of(DEFERRED_FUNCTION))
            .map(|function| function.qualified.clone())
            .ok_or_else(|| CommandError::UnknownFunction {
                name: name.escape_default().take(SHOWN).collect(),
            })
    }

    /// Ends all orders of a function, and says what they were.
    pub(super) fn withdraw(&mut self, name: &str) -> Result<PrewarmStatus, CommandError> {
        let id = FunctionId::of(name);
        let before = self.prewarm_of(name);
        let gone = self.orders.take(|order| order.id() == id);
        self.orders_ended(&gone, "withdrawn");
        before.ok_or_else(|| CommandError::NoOrder {
            name: name.escape_default().take(SHOWN).collect(),
        })
    }

    /// Ends the orders whose time is over.
    pub(super) fn expire_orders(&mut self) {
        let gone = self.orders.expire(unix_ms());
        self.orders_ended(&gone, "expired");
    }

    /// Ends the orders of functions that are no more.
    pub(super) fn drop_orders_of_the_gone(&mut self) {
        if let Some(catalog) = &self.catalog {
            let is_gone = |order: &Order| !catalog.functions.contains_key(&order.id());
            let gone = self.orders.take(is_gone);
            self.orders_ended(&gone, "function_gone");
        }
    }

    fn orders_ended(&mut self, gone: &[Order], event: &str) {
        if gone.is_empty() {
            return;
        }
        for Order {
            function, count, ..
        } in gone
        {
            info!(function, count, event, "order to prewarm ended");
            self.metrics.order_events.with_label_values(&[event]).inc();
        }
        self.orders_changed();
    }

    fn orders_changed(&mut self) {
        self.share_keep_warm();
        self.publish_orders();
        let soon = Instant::now() + SAVE_AFTER;
        self.save_at = Some(self.save_at.map_or(soon, |at| at.min(soon)));
    }

    /// When the next order ends.
    pub(super) fn orders_end_at(&self) -> Option<Instant> {
        let end = self.orders.next_end()?;
        let left = Duration::from_millis(end.saturating_sub(unix_ms()));
        // Looked at again, as the wall clock may be set.
        Some(Instant::now() + left.min(LOOK_AT_CLOCK))
    }

    /// All functions with orders, and how far each is.
    pub(super) fn prewarms(&self) -> Vec<PrewarmStatus> {
        if self.orders.is_empty() {
            return Vec::new();
        }
        let mut parts = self.parts();
        let functions = self.orders.by_function().into_iter();
        functions
            .map(|(function, orders)| {
                let parts = parts.remove(&FunctionId::of(function));
                self.prewarm_status(function, &orders, parts.unwrap_or_default())
            })
            .collect()
    }

    /// How far one function is, by its name.
    fn prewarm_of(&self, name: &str) -> Option<PrewarmStatus> {
        let id = FunctionId::of(name);
        let mut all = self.prewarms().into_iter();
        all.find(|status| FunctionId::of(&status.function) == id)
    }

    fn prewarm_status(
        &self,
        function: &str,
        orders: &[&Order],
        workers: Vec<WarmWorker>,
    ) -> PrewarmStatus {
        let id = FunctionId::of(function);
        let kept = self.catalog.iter().flat_map(|catalog| &catalog.kept);
        let kept = kept.filter(|(kept, _)| *kept == id);
        let min_warm = kept.map(|(_, count)| *count).max().unwrap_or(0);
        let largest = orders.iter().map(|order| order.count).max().unwrap_or(0);
        let count = largest.max(min_warm);
        let there: u32 = workers.iter().map(|part| part.live.min(part.wanted)).sum();
        let code_workers = self.code_workers(orders);
        let has_code = workers.iter().filter(|part| part.code == Some(true));
        let has_code = u32::try_from(has_code.count()).unwrap_or(u32::MAX);
        let now = unix_ms();
        let status_of = |order: &&Order| OrderStatus {
            count: order.count,
            workers: order.workers,
            ends_in_ms: order.ends_unix_ms.saturating_sub(now),
        };
        PrewarmStatus {
            function: function.to_owned(),
            count,
            min_warm,
            orders: orders.iter().map(status_of).collect(),
            live: workers.iter().map(|part| part.live).sum(),
            missing: count.saturating_sub(there),
            code_workers,
            code_missing: code_workers.saturating_sub(has_code),
            workers,
        }
    }

    /// How many workers are to have the code by these orders. All are those there are.
    fn code_workers(&self, orders: &[&Order]) -> u32 {
        let orders = orders.iter().filter(|order| order.code_on().is_some());
        let named = |order: &&Order| {
            let all = || u32::try_from(self.homes.takers().count()).unwrap_or(u32::MAX);
            order.workers.unwrap_or_else(all)
        };
        orders.map(named).max().unwrap_or(0)
    }

    /// Which workers keep instances or code of what was ordered, and what is there: in one pass, as there may be thousands
    /// of workers and hundreds of orders.
    fn parts(&self) -> BTreeMap<FunctionId, Vec<WarmWorker>> {
        let keep_warm = Arc::clone(&self.shared.borrow().keep_warm);
        let mut parts: BTreeMap<FunctionId, Vec<WarmWorker>> = BTreeMap::new();
        for (worker, kept) in keep_warm.iter() {
            let worker = WorkerId(*worker);
            let Some(member) = self.membership.get(worker) else {
                continue;
            };
            for kept in kept.iter().filter(|kept| kept.tell) {
                parts.entry(kept.function).or_default().push(WarmWorker {
                    worker: member.identity.name.clone(),
                    wanted: kept.instances,
                    live: self.loads.live(worker, kept.function),
                    code: (kept.code).then(|| self.loads.has_code(worker, kept.function)),
                });
            }
        }
        parts
    }

    /// Brings the gauges of orders up to date if workers have said something new.
    pub(super) fn publish_orders_if_stale(&mut self) {
        if std::mem::take(&mut self.orders_stale) {
            self.publish_orders();
        }
    }

    /// Brings the gauges of orders up to date.
    pub(super) fn publish_orders(&self) {
        let prewarms = self.prewarms();
        let sum = |of: fn(&PrewarmStatus) -> u32| prewarms.iter().map(of).map(i64::from).sum();
        let orders = i64::try_from(self.orders.len()).unwrap_or(i64::MAX);
        self.metrics.orders.set(orders);
        self.metrics.ordered_instances.set(sum(|it| it.count));
        self.metrics.ordered_missing.set(sum(|it| it.missing));
        self.metrics.ordered_code.set(sum(|it| it.code_workers));
        self.metrics
            .ordered_code_missing
            .set(sum(|it| it.code_missing));
    }

    /// What workers are to keep, whoever wants it.
    pub(super) fn wanted(&self) -> Vec<crate::policy::orders::Wanted> {
        let kept = self.catalog.as_ref();
        let kept = kept.map_or(&[][..], |catalog| &catalog.kept);
        wanted(kept, &self.orders)
    }
}

/// Characters of a name that was not understood, in the answer.
const SHOWN: usize = 80;
/// The wall clock may be set: an end that is far away is looked at again.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(10);
