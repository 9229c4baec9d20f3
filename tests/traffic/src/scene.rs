//! Client, balancer and workers as namespaces, and the loaded program between them.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use aya::programs::XdpMode;
use balancer_userspace::membership::protocol::{Assignment, LoadTarget};
use ebpf_common::{
    ids::{FunctionId, WorkerId},
    maps::{Affinity, FunctionEntry, NORMAL_WEIGHT, VipInfo, VipKind, WorkerInfo, WorkerState},
};
use prog_tests::program::Program;
use testbed::topology::{Host, Layout, Topology, VIP, VIP_PORT};
use xdp_balancer::testing::FakeTables;

/// The function that everybody calls.
pub(crate) const FUNCTION: FunctionId = FunctionId(0xf00d);
/// Where LOAD packets go, at the balancer's own address.
const LOAD_PORT: u16 = 7_001;
const PROTOCOL_UDP: u8 = 17;

/// The bed and what its balancer runs.
pub(crate) struct Scene {
    pub(crate) program: Program,
    pub(crate) tables: FakeTables,
    pub(crate) topology: Topology,
}

impl Scene {
    /// Builds the bed with `n_workers`, all warm for [`FUNCTION`], and attaches the program natively.
    pub(crate) fn build(n_workers: u8) -> Result<Self> {
        let topology = Topology::build(Layout::OneArm, n_workers)?;
        let tables = tables_of(&topology);
        let mut program = Program::load(prog_tests::object(), &[])?;
        program.apply(&tables)?;
        let balancer = &topology.balancer;
        let attached = balancer.netns.enter(|| {
            program
                .xdp_mut()?
                .attach(&balancer.nic().name, XdpMode::Driver)
                .context("attaching the program")
        })?;
        attached?;
        Ok(Self {
            program,
            tables,
            topology,
        })
    }

    /// What the control plane would tell the worker of that number.
    pub(crate) fn assignment(&self, worker_id: u16) -> Result<Assignment> {
        let config = self
            .tables
            .config
            .context("the tables have a configuration")?;
        let address = SocketAddr::from((self.topology.balancer.address(), LOAD_PORT));
        Ok(Assignment {
            worker_id,
            key_epoch: config.key_epoch as u8,
            cookie_keys: config.cookie_keys,
            load: Some(LoadTarget::of(
                address,
                config.load_keys(),
                WorkerId(worker_id),
            )),
            slots_version: 1,
            slots: Vec::new(),
            heartbeat_ms: 1_000,
            keep_warm: Vec::new(),
        })
    }
}

fn tables_of(topology: &Topology) -> FakeTables {
    let mut tables = FakeTables::default();
    tables.add_vip(VIP.octets(), VIP_PORT);
    let load = VipInfo::new(1, VipKind::Load);
    let balancer = topology.balancer.nic();
    tables.add_vip_of(balancer.address.octets(), LOAD_PORT, PROTOCOL_UDP, load);
    let mut ids = Vec::new();
    for (id, host) in (0..).zip(&topology.workers) {
        tables
            .workers
            .insert(WorkerId(id), row_of(host, balancer.mac));
        // No room until it has reported.
        tables.set_load(id, 0, 0);
        ids.push(WorkerId(id));
    }
    let entry = FunctionEntry::new(Affinity::None, &ids);
    tables.functions.insert(FUNCTION, entry);
    tables.set_home(FUNCTION, &ids);
    tables
}

fn row_of(host: &Host, src_mac: [u8; 6]) -> WorkerInfo {
    WorkerInfo {
        state: WorkerState::Up as u8,
        weight: NORMAL_WEIGHT,
        dst_mac: host.nic().mac,
        src_mac,
        ..WorkerInfo::ABSENT
    }
}
