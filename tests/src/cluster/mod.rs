//! A whole platform: store, control plane, workers and gateway as processes in a test bed.
//!
//! Everything here goes the ways a user goes: configuration files, the `warmpath` binary, the admin socket.
//! Counters are read from the maps by the control plane, never kept here.

mod config;

use std::{
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use balancer_userspace::{
    api::types::{CounterValue, SlotsStatus, Status, WorkerStatus},
    client::{AdminClient, AdminError},
};
use ebpf_common::maps::Class;
use serde_json::Value;

pub use config::{DIRECT_PORT, GATEWAY_PORT, METRICS_PORT, Paths};

use crate::{
    process::{Process, Spec},
    topology::{Host, Layout, Topology, VIP, VIP_PORT},
    wait,
};

const READY_TIMEOUT: Duration = Duration::from_secs(20);
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// Packets keep coming (heartbeats, ARP), so that two sums are equal only between two of them.
const COUNTERS_TIMEOUT: Duration = Duration::from_secs(3);

/// What kind of platform to start.
#[derive(Debug, Clone)]
pub struct Options {
    /// The `warmpath` binary.
    pub warmpath: PathBuf,
    /// How the balancer is wired.
    pub layout: Layout,
    /// How many workers.
    pub workers: u8,
    /// Mode of the XDP program: `native`, `generic` or `auto`.
    pub xdp_mode: String,
}

impl Options {
    /// Three workers, one arm, native XDP.
    #[must_use]
    pub fn new(warmpath: impl Into<PathBuf>) -> Self {
        Self {
            warmpath: warmpath.into(),
            layout: Layout::OneArm,
            workers: 3,
            xdp_mode: "native".to_owned(),
        }
    }
}

/// A running platform. Dropping it ends and removes all of it.
#[derive(Debug)]
pub struct Cluster {
    gateway: Option<Process>,
    workers: Vec<Option<Process>>,
    balancer: Option<Process>,
    store: Option<Process>,
    runtime: tokio::runtime::Runtime,
    paths: Paths,
    warmpath: PathBuf,
    /// The network it runs in; dropped last.
    pub topology: Topology,
}

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
        self.sum(Class::Pass) + self.rpc_outcomes()
    }

    /// The outcomes of packets for a VIP.
    #[must_use]
    pub fn rpc_outcomes(&self) -> u64 {
        self.sum(Class::Route) + self.sum(Class::Drop) + self.sum(Class::Error)
    }
}

impl Cluster {
    /// Builds the network and starts every role, each when the one it needs answers.
    ///
    /// # Errors
    /// The first role that does not come up, with the end of its log.
    pub fn start(options: &Options) -> Result<Self> {
        let topology = Topology::build(options.layout, options.workers)?;
        let paths = Paths::of(&topology);
        config::write_all(&topology, &paths, &options.xdp_mode)?;
        let mut cluster = Self {
            gateway: None,
            workers: (0..options.workers).map(|_index| None).collect(),
            balancer: None,
            store: None,
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("starting the async runtime")?,
            paths,
            warmpath: options.warmpath.clone(),
            topology,
        };
        cluster.start_store()?;
        cluster.start_balancer()?;
        for index in 0..cluster.workers.len() {
            cluster.spawn_worker(index)?;
        }
        for index in 0..cluster.workers.len() {
            cluster.wait_worker(index, "up")?;
        }
        cluster.start_gateway()?;
        Ok(cluster)
    }

    /// Where its files are.
    #[must_use]
    pub const fn paths(&self) -> &Paths {
        &self.paths
    }

    /// The base URL of the code store.
    #[must_use]
    pub fn store_url(&self) -> String {
        format!(
            "http://{}:{}",
            self.topology.balancer.address(),
            config::STORE_PORT
        )
    }

    /// Where RPCs go.
    #[must_use]
    pub fn vip(&self) -> SocketAddr {
        SocketAddr::from((VIP, VIP_PORT))
    }

    /// Where worker `index` takes RPCs directly.
    #[must_use]
    pub fn direct(&self, index: usize) -> SocketAddr {
        SocketAddr::from((self.topology.workers[index].address(), DIRECT_PORT))
    }

    /// The base URL of the gateway.
    #[must_use]
    pub fn gateway_url(&self) -> String {
        format!("http://{}:{GATEWAY_PORT}", self.topology.gateway.address())
    }

    /// Ends every role in the order in which they need each other.
    ///
    /// # Errors
    /// When one of them does not end.
    pub fn stop(mut self) -> Result<()> {
        let workers = self.workers.iter_mut();
        let roles = std::iter::once(&mut self.gateway)
            .chain(workers)
            .chain([&mut self.balancer, &mut self.store]);
        for process in roles.flatten() {
            process.stop(STOP_TIMEOUT)?;
        }
        Ok(())
    }

    fn start_role(&self, role: &str, name: &str, host: &Host) -> Result<Process> {
        let config = self.paths.config(name).display().to_string();
        Process::start(
            &self.topology.run,
            &Spec {
                name,
                netns: &host.netns,
                program: &self.warmpath,
                args: &[role, "--config", &config],
                piped: false,
            },
        )
    }

    fn start_store(&mut self) -> Result<()> {
        let mut process = self.start_role("store", "store", &self.topology.balancer)?;
        let address = (self.topology.balancer.address(), config::STORE_PORT);
        wait_listening(&mut process, &self.topology.balancer, address.into())?;
        self.store = Some(process);
        Ok(())
    }

    /// Starts the control plane and waits for its admin socket.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_balancer(&mut self) -> Result<()> {
        let mut process = self.start_role("balancer", "balancer", &self.topology.balancer)?;
        process.wait_ready(READY_TIMEOUT, || self.status().map(Some))?;
        self.balancer = Some(process);
        Ok(())
    }

    /// Kills the control plane with SIGKILL; the data plane stays.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill_balancer(&mut self) -> Result<()> {
        let mut process = self.balancer.take().context("no control plane runs")?;
        process.kill()
    }

    fn start_gateway(&mut self) -> Result<()> {
        let mut process = self.start_role("gateway", "gateway", &self.topology.gateway)?;
        let address = (self.topology.gateway.address(), GATEWAY_PORT);
        wait_listening(&mut process, &self.topology.gateway, address.into())?;
        self.gateway = Some(process);
        Ok(())
    }

    fn spawn_worker(&mut self, index: usize) -> Result<()> {
        let host = &self.topology.workers[index];
        self.workers[index] = Some(self.start_role("worker", &host.role, host)?);
        Ok(())
    }

    /// Starts worker `index` again and waits until it is up.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_worker(&mut self, index: usize) -> Result<()> {
        self.spawn_worker(index)?;
        self.wait_worker(index, "up")
    }

    /// Kills worker `index` with SIGKILL and returns at once; [`Self::wait_worker`] waits for what follows.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill_worker(&mut self, index: usize) -> Result<()> {
        let mut process = self.workers[index]
            .take()
            .context("that worker does not run")?;
        process.kill()
    }

    /// Waits until the control plane sees worker `index` as `state`.
    ///
    /// # Errors
    /// When it does not within the time, or the worker ends meanwhile.
    pub fn wait_worker(&mut self, index: usize, state: &str) -> Result<()> {
        let name = self.topology.workers[index].role.clone();
        let mut process = self.workers[index].take();
        let mut check = || {
            let workers = self.worker_states()?;
            let found = workers.iter().find(|worker| worker.name == name);
            Ok(found
                .filter(|worker| worker.state == state)
                .map(|_worker| ()))
        };
        let result = match &mut process {
            Some(process) => process.wait_ready(READY_TIMEOUT, check),
            None => wait::until(&format!("{name} to be {state}"), READY_TIMEOUT, &mut check),
        };
        self.workers[index] = process;
        result
    }

    /// Packs and publishes the function in `dir`, and waits until the data plane knows it.
    ///
    /// # Errors
    /// When the store refuses it or it does not reach the maps.
    pub fn deploy(&self, dir: &Path) -> Result<Value> {
        let dir_text = dir.display().to_string();
        let store = self.store_url();
        let published = self.cli(&["fn", "deploy", &dir_text, "--store", &store, "--json"])?;
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        let qualified = format!("{name}@latest");
        wait::until(
            &format!("{qualified} in the data plane"),
            READY_TIMEOUT,
            || {
                let functions = self.admin(async |admin: AdminClient| admin.functions().await)?;
                Ok(functions
                    .iter()
                    .any(|it| it.qualified == qualified)
                    .then_some(()))
            },
        )?;
        Ok(published)
    }

    /// Runs `warmpath` with `args` in the client's namespace and returns what it printed as JSON, also when it
    /// says by its exit code that the call failed.
    ///
    /// # Errors
    /// When it prints no JSON.
    pub fn cli(&self, args: &[&str]) -> Result<Value> {
        let output = self
            .topology
            .client
            .netns
            .command(&self.warmpath)
            .args(args)
            .output()
            .context("starting warmpath")?;
        serde_json::from_slice(&output.stdout).with_context(|| {
            let complaint = String::from_utf8_lossy(&output.stderr);
            format!("`warmpath {}`: {}", args.join(" "), complaint.trim())
        })
    }

    /// Calls a function once through the VIP by `warmpath fn invoke`.
    ///
    /// # Errors
    /// As [`Self::cli`].
    pub fn invoke(&self, function: &str, payload: &str, more: &[&str]) -> Result<Value> {
        let mut args = vec!["fn", "invoke", function, payload, "--json"];
        args.extend(more);
        self.cli(&args)
    }

    fn admin<T>(&self, ask: impl AsyncFnOnce(AdminClient) -> Result<T, AdminError>) -> Result<T> {
        self.runtime.block_on(async {
            let client = AdminClient::new(&self.paths.admin_socket())?;
            Ok(ask(client).await?)
        })
    }

    /// How the control plane says it is.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(&self) -> Result<Status> {
        self.admin(async |admin: AdminClient| admin.status().await)
    }

    /// How the control plane sees the workers.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn worker_states(&self) -> Result<Vec<WorkerStatus>> {
        self.admin(async |admin: AdminClient| admin.workers().await)
    }

    /// Who owns which slots.
    ///
    /// # Errors
    /// When the control plane does not answer.
    pub fn slots(&self) -> Result<SlotsStatus> {
        self.admin(async |admin: AdminClient| admin.slots().await)
    }

    /// The counters, read between two packets: until the books balance, or the time is up and they do not.
    ///
    /// # Errors
    /// When the control plane does not answer.
    pub fn counters(&self) -> Result<Counters> {
        let mut last = None;
        let balanced = wait::until("the counters to balance", COUNTERS_TIMEOUT, || {
            let values = self.admin(async |admin: AdminClient| admin.counters().await)?;
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

fn wait_listening(process: &mut Process, host: &Host, address: SocketAddr) -> Result<()> {
    process.wait_ready(READY_TIMEOUT, || {
        host.netns.enter(|| TcpStream::connect(address))??;
        Ok(Some(()))
    })
}
