//! Questions to a running platform: the admin API, and the kernel.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use balancer_userspace::{
    api::types::{CounterValue, FunctionStatus, SlotsStatus, Status, WorkerStatus},
    client::{AdminClient, AdminError},
};
use ebpf_common::maps::{Class, Counter};
use serde_json::Value;
use tokio::runtime::Runtime;

use super::Cluster;
use crate::wait;

/// Packets keep coming (heartbeats, ARP), so that two sums are equal only between two of them.
const COUNTERS_TIMEOUT: Duration = Duration::from_secs(3);

/// What becomes of packets that are no client's doing: LOAD packets of a worker that has just come up, before the control
/// plane has entered it; and what a client's kernel says of an answer that came after its socket was closed.
const NOT_OF_CLIENTS: [Counter; 6] = [
    Counter::DropLoadForged,
    Counter::DropLoadStale,
    Counter::DropLoadUnknown,
    Counter::RouteIcmp,
    Counter::DropBadIcmp,
    Counter::DropIcmpUnplaced,
];

/// The counters of the XDP program at one moment between two packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counters {
    /// Each counter.
    pub values: Vec<CounterValue>,
}

impl Counters {
    /// The value of the counter `label` of `class`; 0 if there is no such.
    #[must_use]
    pub fn get(&self, class: Class, label: &str) -> u64 {
        self.values
            .iter()
            .find(|it| it.class == class.name() && it.label == label)
            .map_or(0, |it| it.value)
    }

    /// The sum of a class.
    #[must_use]
    pub fn sum(&self, class: Class) -> u64 {
        self.values
            .iter()
            .filter(|it| it.class == class.name())
            .map(|it| it.value)
            .sum()
    }

    /// All packets the program has seen.
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.sum(Class::Packets)
    }

    /// All outcomes; equal to [`Self::packets`], or a packet was lost to the books.
    #[must_use]
    pub fn outcomes(&self) -> u64 {
        self.sum(Class::Pass) + self.sum(Class::Consume) + self.verdicts()
    }

    /// The outcomes of packets that clients sent to a VIP.
    #[must_use]
    pub fn rpc_outcomes(&self) -> u64 {
        let others = NOT_OF_CLIENTS.map(|it| self.get(it.class(), it.label()));
        self.verdicts() - others.iter().sum::<u64>()
    }

    fn verdicts(&self) -> u64 {
        [Class::Route, Class::Drop, Class::Error, Class::Answer]
            .map(|class| self.sum(class))
            .iter()
            .sum()
    }
}

/// One balancer's control plane, to be asked.
#[derive(Debug)]
pub struct ControlPlane<'a> {
    runtime: &'a Runtime,
    admin_socket: PathBuf,
}

impl ControlPlane<'_> {
    fn ask<T>(&self, ask: impl AsyncFnOnce(AdminClient) -> Result<T, AdminError>) -> Result<T> {
        self.runtime.block_on(async {
            let client = AdminClient::new(&self.admin_socket)?;
            Ok(ask(client).await?)
        })
    }

    /// How it says it is.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(&self) -> Result<Status> {
        self.ask(async |admin: AdminClient| admin.status().await)
    }

    /// How it sees the workers.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn worker_states(&self) -> Result<Vec<WorkerStatus>> {
        self.ask(async |admin: AdminClient| admin.workers().await)
    }

    /// The counters, read between two packets: until the books balance, or the time is up and they do not.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn counters(&self) -> Result<Counters> {
        let mut last = None;
        let balanced = wait::until("the counters to balance", COUNTERS_TIMEOUT, || {
            let values = self.ask(async |admin: AdminClient| admin.counters().await)?;
            let counters = Counters { values };
            let balanced = counters.packets() == counters.outcomes();
            last = Some(counters.clone());
            Ok(balanced.then_some(counters))
        });
        match (balanced, last) {
            (Ok(counters), _) | (Err(_), Some(counters)) => Ok(counters),
            (Err(error), None) => Err(error),
        }
    }
}

impl Cluster {
    pub(super) fn admin<T>(
        &self,
        ask: impl AsyncFnOnce(AdminClient) -> Result<T, AdminError>,
    ) -> Result<T> {
        self.control_plane().ask(ask)
    }

    fn control_plane(&self) -> ControlPlane<'_> {
        ControlPlane {
            runtime: &self.runtime,
            admin_socket: self.paths.admin_socket(),
        }
    }

    /// That of the second balancer.
    #[must_use]
    pub fn second_control_plane(&self) -> ControlPlane<'_> {
        ControlPlane {
            runtime: &self.runtime,
            admin_socket: self.paths.second_admin_socket(),
        }
    }

    /// [`ControlPlane::status`] of the first balancer's.
    ///
    /// # Errors
    /// When the control plane does not answer.
    pub fn status(&self) -> Result<Status> {
        self.control_plane().status()
    }

    /// [`ControlPlane::worker_states`] of the first balancer's.
    ///
    /// # Errors
    /// When the control plane does not answer.
    pub fn worker_states(&self) -> Result<Vec<WorkerStatus>> {
        self.control_plane().worker_states()
    }

    /// [`ControlPlane::counters`] of the first balancer's.
    ///
    /// # Errors
    /// When the control plane does not answer.
    pub fn counters(&self) -> Result<Counters> {
        self.control_plane().counters()
    }

    /// The functions that the data plane's maps hold.
    ///
    /// # Errors
    /// When the control plane does not answer.
    pub fn functions(&self) -> Result<Vec<FunctionStatus>> {
        self.admin(async |admin: AdminClient| admin.functions().await)
    }

    /// Who owns which slots.
    ///
    /// # Errors
    /// When the control plane does not answer.
    pub fn slots(&self) -> Result<SlotsStatus> {
        self.admin(async |admin: AdminClient| admin.slots().await)
    }

    /// How the kernel says the program is attached to the balancer's first interface: `native` or `generic`.
    ///
    /// # Errors
    /// When none is attached.
    pub fn xdp_mode(&self) -> Result<String> {
        let host = &self.topology.balancer;
        let text = host
            .netns
            .ip(&format!("-j link show {}", host.nic().name))?;
        let links: Value = serde_json::from_str(&text).context("reading the output of ip")?;
        // enum xdp_attach_mode of linux/if_link.h
        match links[0]["xdp"]["mode"].as_u64() {
            Some(1) => Ok("native".to_owned()),
            Some(2) => Ok("generic".to_owned()),
            other => bail!("no XDP program is attached to the balancer (mode {other:?})"),
        }
    }
}
