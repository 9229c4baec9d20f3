//! A test bed with a control plane in it, as a process.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV4},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Result;
use balancer_userspace::{
    api::types::{Status, WorkerStatus},
    client::AdminClient,
    maps,
};
use ebpf_common::{
    ids::WorkerId,
    maps::{WorkerInfo, WorkerState, name},
};
use tests::{
    process::{Process, Spec},
    topology::{Host, Layout, Topology, VIP, VIP_PORT, VIP6},
    wait,
};
use tokio::runtime::Runtime;

use crate::{client::Client, echo::Echo};

/// The secret of every test bed.
pub(crate) const TOKEN: &str = "netns tests";
/// For whatever should take milliseconds, on a machine that is busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
const MEMBERSHIP_PORT: u16 = 7000;
const METRICS_PORT: u16 = 9100;

/// One test at a time: two test beds at once would take each other's CPU, and leases would run out.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

pub(crate) struct Bed {
    pub(crate) control: Process,
    pub(crate) topology: Topology,
    pub(crate) runtime: Runtime,
    alone: MutexGuard<'static, ()>,
}

/// The bed's hosts, before there is a control plane.
pub(crate) struct Hosts {
    pub(crate) topology: Topology,
    alone: MutexGuard<'static, ()>,
}

impl Hosts {
    pub(crate) fn new(layout: Layout, workers: u8) -> Self {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let hosts = Self {
            topology: Topology::build(layout, workers).unwrap(),
            alone,
        };
        std::fs::write(hosts.dir().join("token"), TOKEN).unwrap();
        hosts
    }

    pub(crate) fn dir(&self) -> &Path {
        self.topology.run.dir()
    }

    pub(crate) fn pin_path(&self) -> PathBuf {
        self.dir().join("bpf")
    }

    /// The configuration with `interfaces` as its `[[interface]]` tables and `more` behind it.
    pub(crate) fn write_config(&self, interfaces: &str, more: &str) -> PathBuf {
        let dir = self.dir().display();
        let address = self.topology.balancer.address();
        let text = format!(
            r#"
            pin_path = "{dir}/bpf"
            admin_socket = "{dir}/balancer.sock"
            metrics_listen = "{address}:{METRICS_PORT}"
            [membership]
            listen = "{address}:{MEMBERSHIP_PORT}"
            token_file = "{dir}/token"
            # A machine that is busy with other things may take a process's CPU for longer than the default.
            lease_ms = 2000
            [limits]
            functions = 1000
            sessions = 10000
            flows = 10000
            [[vip]]
            address = "{VIP}"
            port = {VIP_PORT}
            [[function]]
            name = "echo"
            [[function]]
            name = "talk"
            affinity = "session"
            [[function]]
            name = "store"
            affinity = "shard"
            {interfaces}
            {more}
            "#
        );
        let path = self.dir().join("balancer.toml");
        std::fs::write(&path, text).unwrap();
        path
    }

    pub(crate) fn all_interfaces(&self, mode: &str) -> String {
        let mut text = String::new();
        for nic in &self.topology.balancer.nics {
            let name = &nic.name;
            writeln!(text, "[[interface]]\nname = \"{name}\"\nmode = \"{mode}\"").unwrap();
        }
        text
    }

    pub(crate) fn spawn_control(&self) -> Process {
        let config = self.dir().join("balancer.toml");
        Process::start(
            &self.topology.run,
            &Spec {
                name: "control-plane",
                netns: &self.topology.balancer.netns,
                program: Path::new(env!("CARGO_BIN_EXE_control-plane")),
                args: &[config.to_str().unwrap()],
                piped: false,
            },
        )
        .unwrap()
    }

    /// Starts a control plane that must refuse to run, and returns what it says.
    pub(crate) fn refusal(&self) -> String {
        let mut control = self.spawn_control();
        let status = control.wait_end(PATIENCE).unwrap();
        assert!(!status.success());
        control.log_tail()
    }

    pub(crate) fn start(self) -> Bed {
        let control = self.spawn_control();
        let mut bed = Bed {
            control,
            topology: self.topology,
            runtime: Runtime::new().unwrap(),
            alone: self.alone,
        };
        bed.wait_control();
        bed
    }
}

impl Bed {
    pub(crate) fn new(layout: Layout, workers: u8) -> Self {
        let hosts = Hosts::new(layout, workers);
        hosts.write_config(&hosts.all_interfaces("native"), "");
        hosts.start()
    }

    pub(crate) fn pin_path(&self) -> PathBuf {
        self.topology.run.dir().join("bpf")
    }

    /// The hosts alone again, for another start. The control plane is killed.
    pub(crate) fn into_hosts(self) -> Hosts {
        Hosts {
            topology: self.topology,
            alone: self.alone,
        }
    }

    pub(crate) fn wait_control(&mut self) {
        let admin = self.admin();
        let runtime = &self.runtime;
        self.control
            .wait_ready(PATIENCE, || Ok(runtime.block_on(admin.status()).ok()))
            .unwrap();
    }

    /// Starts another control plane where one was killed or stopped.
    pub(crate) fn restart_control(&mut self) {
        let config = self.topology.run.dir().join("balancer.toml");
        self.control = Process::start(
            &self.topology.run,
            &Spec {
                name: "control-plane",
                netns: &self.topology.balancer.netns,
                program: Path::new(env!("CARGO_BIN_EXE_control-plane")),
                args: &[config.to_str().unwrap()],
                piped: false,
            },
        )
        .unwrap();
        self.wait_control();
    }

    pub(crate) fn admin(&self) -> AdminClient {
        AdminClient::new(&self.topology.run.dir().join("balancer.sock")).unwrap()
    }

    pub(crate) fn status(&self) -> Status {
        self.runtime.block_on(self.admin().status()).unwrap()
    }

    pub(crate) fn worker_statuses(&self) -> Vec<WorkerStatus> {
        self.runtime.block_on(self.admin().workers()).unwrap()
    }

    pub(crate) fn membership_addr(&self) -> SocketAddr {
        (self.topology.balancer.address(), MEMBERSHIP_PORT).into()
    }

    /// The text of `/metrics`, fetched inside the balancer's namespace.
    pub(crate) fn metrics(&self) -> String {
        let address = self.topology.balancer.address();
        let url = format!("http://{address}:{METRICS_PORT}/metrics");
        self.topology
            .balancer
            .netns
            .enter(|| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(async {
                    let client = reqwest::Client::builder().no_proxy().build().unwrap();
                    client.get(url).send().await.unwrap().text().await.unwrap()
                })
            })
            .unwrap()
    }

    /// Starts an echo worker on each worker host, the slots shared out evenly, and waits until the
    /// program routes to all of them.
    pub(crate) fn echoes(&self) -> Vec<Echo> {
        self.echoes_at(|_| None)
    }

    /// The same, of workers that may be reached through a tunnel of IPv6, too.
    pub(crate) fn echoes_at(&self, address6: impl Fn(&Host) -> Option<Ipv6Addr>) -> Vec<Echo> {
        let n = u16::try_from(self.topology.workers.len()).unwrap();
        let share = 16_384 / n;
        let echoes = (0..n)
            .zip(&self.topology.workers)
            .map(|(index, host)| {
                let last = if index + 1 == n {
                    16_383
                } else {
                    (index + 1) * share - 1
                };
                let slots = format!("{}-{last}", index * share);
                Echo::start(host, self.membership_addr(), &slots, address6(host))
            })
            .collect();
        self.wait_settled(usize::from(n));
        wait::until("the first heartbeats", PATIENCE, || {
            let is_heard = |worker: &WorkerStatus| worker.capacity > 0;
            let workers = self.worker_statuses();
            Ok(workers.iter().all(is_heard).then_some(()))
        })
        .unwrap();
        self.wait_settled(usize::from(n));
        echoes
    }

    /// Speaks IPv6 as well: the hosts' addresses, the VIP by `warmpath vip add`, and `echoes` that listen there.
    pub(crate) fn add_ipv6(&self, echoes: &mut [Echo]) {
        self.topology.add_ipv6().unwrap();
        self.json(&format!("vip add {VIP6} {VIP_PORT}"));
        for (echo, host) in echoes.iter_mut().zip(&self.topology.workers) {
            echo.listen(host, Self::vip6());
        }
        self.wait_written();
    }

    /// Waits until what was changed is in the maps.
    pub(crate) fn wait_written(&self) {
        wait::until("tables written", PATIENCE, || {
            Ok((self.status().writes_pending == 0).then_some(()))
        })
        .unwrap();
    }

    /// Waits until `up` workers are up and no write is outstanding.
    pub(crate) fn wait_settled(&self, up: usize) {
        wait::until("workers up and tables written", PATIENCE, || {
            let status = self.status();
            Ok((status.workers_up == up && status.writes_pending == 0).then_some(()))
        })
        .unwrap();
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(&self.topology.client)
    }

    /// What the kernel's own row says of a worker.
    pub(crate) fn row_state(&self, name: &str) -> WorkerState {
        let id = self.worker_id(name);
        self.rows()(id).state()
    }

    pub(crate) fn worker_id(&self, name: &str) -> WorkerId {
        let workers = self.worker_statuses();
        WorkerId(
            workers
                .iter()
                .find(|worker| worker.name == name)
                .unwrap()
                .id,
        )
    }

    /// Reads rows of `WORKERS` straight from the kernel.
    pub(crate) fn rows(&self) -> impl Fn(WorkerId) -> WorkerInfo + use<> {
        let map = aya::maps::MapData::from_pin(self.pin_path().join(name::WORKERS)).unwrap();
        let map = aya::maps::Map::from_map_data(map).unwrap();
        let rows = aya::maps::Array::<_, WorkerInfo>::try_from(map).unwrap();
        move |id| rows.get(&id.0.into(), 0).unwrap()
    }

    pub(crate) fn counter(&self, class: &str, label: &str) -> u64 {
        let counters = maps::counters(&self.pin_path()).unwrap();
        let counter = counters
            .iter()
            .find(|counter| counter.class == class && counter.label == label);
        counter.unwrap().value
    }

    /// Everything that says where a packet may have gone, for a test that is about to fail.
    pub(crate) fn diagnosis(&self) -> String {
        let mut text = String::new();
        for counter in maps::counters(&self.pin_path()).unwrap() {
            if counter.value > 0 {
                let (class, label) = (counter.class, counter.label);
                writeln!(text, "{class} {label} {}", counter.value).unwrap();
            }
        }
        for host in self.topology.hosts() {
            let snmp = host.netns.run("cat", &["/proc/self/net/snmp"]).unwrap();
            let udp: Vec<&str> = snmp
                .lines()
                .filter(|line| line.starts_with("Udp:"))
                .collect();
            let neighbours = host.netns.ip("-s neigh").unwrap();
            writeln!(text, "{}\n{}\n{neighbours}", host.role, udp.join("\n")).unwrap();
        }
        text + &self.control.log_tail()
    }

    /// Packets by outcome class and in all.
    pub(crate) fn sums(&self) -> (u64, u64) {
        let counters = maps::counters(&self.pin_path()).unwrap();
        let packets = counters
            .iter()
            .find(|counter| counter.class == "packets")
            .unwrap();
        let is_outcome = |class: &str| ["pass", "route", "drop", "error"].contains(&class);
        let outcomes = counters.iter().filter(|counter| is_outcome(&counter.class));
        (packets.value, outcomes.map(|counter| counter.value).sum())
    }

    pub(crate) const fn vip() -> SocketAddrV4 {
        SocketAddrV4::new(VIP, VIP_PORT)
    }

    pub(crate) const fn vip6() -> SocketAddr {
        SocketAddr::new(IpAddr::V6(VIP6), VIP_PORT)
    }
}

/// The `warmpath` binary, which lies beside the demo's.
pub(crate) fn warmpath() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_demo")).with_file_name("warmpath");
    assert!(
        path.exists(),
        "{} is not built: run `cargo xtask test`",
        path.display()
    );
    path
}

/// How often `needle` appears in a metrics line that starts so, as its value.
pub(crate) fn metric(text: &str, start: &str) -> Result<f64> {
    let line = text.lines().find(|line| line.starts_with(start));
    let line = line.ok_or_else(|| anyhow::anyhow!("no metric {start} in\n{text}"))?;
    Ok(line.rsplit(' ').next().unwrap_or_default().parse()?)
}
