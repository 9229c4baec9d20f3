//! A whole platform: store, control plane, workers and gateway as processes in a test bed.
//!
//! Everything here goes the ways a user goes: configuration files, the `warmpath` binary, the admin socket.
//! Counters are read from the maps by the control plane, never kept here.

mod ask;
mod config;

use std::{
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::Value;

pub use ask::Counters;
pub use config::{DIRECT_PORT, GATEWAY_PORT, MEMBERSHIP_PORT, METRICS_PORT, Paths};

use crate::{
    process::{Process, Spec},
    topology::{Host, Layout, Topology, VIP, VIP_PORT},
    wait,
};

const READY_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

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
    /// Whether workers believe the gateway about who calls.
    pub trust_gateway: bool,
    /// Another balancer of the same VIP, on the gateway's host, as behind ECMP.
    pub second_balancer: Option<SecondBalancer>,
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
            trust_gateway: false,
            second_balancer: None,
        }
    }
}

/// What the two balancers have in common.
#[derive(Debug, Clone, Copy)]
pub struct SecondBalancer {
    /// How long an epoch of their keys is.
    pub rotate_s: u32,
}

/// A running platform. Dropping it ends and removes all of it.
#[derive(Debug)]
pub struct Cluster {
    gateway: Option<Process>,
    workers: Vec<Option<Process>>,
    balancer: Option<Process>,
    second_balancer: Option<Process>,
    store: Option<Process>,
    runtime: tokio::runtime::Runtime,
    paths: Paths,
    warmpath: PathBuf,
    /// The network it runs in; dropped last.
    pub topology: Topology,
}

impl Cluster {
    /// Builds the network and starts every role, each when the one it needs answers.
    ///
    /// # Errors
    /// The first role that does not come up, with the end of its log.
    pub fn start(options: &Options) -> Result<Self> {
        let topology = Topology::build(options.layout, options.workers)?;
        let paths = Paths::of(&topology);
        config::write_all(&topology, &paths, options)?;
        let mut cluster = Self {
            gateway: None,
            workers: (0..options.workers).map(|_index| None).collect(),
            balancer: None,
            second_balancer: None,
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
        if options.second_balancer.is_some() {
            cluster.start_second_balancer()?;
        }
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
        let roles = std::iter::once(&mut self.gateway).chain(workers).chain([
            &mut self.second_balancer,
            &mut self.balancer,
            &mut self.store,
        ]);
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

    fn start_second_balancer(&mut self) -> Result<()> {
        let mut process = self.start_role("balancer", config::SECOND, &self.topology.gateway)?;
        process.wait_ready(READY_TIMEOUT, || {
            self.second_control_plane().status().map(Some)
        })?;
        self.second_balancer = Some(process);
        Ok(())
    }

    /// Sends what the client calls the VIP by to the balancer on `host` from now on, as ECMP does when its routes change.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn route_by(&self, host: &Host) -> Result<()> {
        let next_hop = host.address();
        let client = &self.topology.client.netns;
        client.ip(&format!("route replace {VIP}/32 via {next_hop}"))?;
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
        self.deploy_with(dir, &[])
    }

    /// [`Self::deploy`] with more arguments.
    ///
    /// # Errors
    /// As [`Self::deploy`].
    pub fn deploy_with(&self, dir: &Path, more: &[&str]) -> Result<Value> {
        let dir_text = dir.display().to_string();
        let store = self.store_url();
        let mut args = vec!["fn", "deploy", &dir_text, "--store", &store, "--json"];
        args.extend(more);
        let published = self.cli(&args)?;
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        let qualified = format!("{name}@latest");
        wait::until(
            &format!("{qualified} in the data plane"),
            READY_TIMEOUT,
            || {
                let functions = self.functions()?;
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

    /// The workers' admin sockets, as the command line takes them.
    #[must_use]
    pub fn worker_sockets(&self) -> String {
        let workers = self.topology.workers.iter();
        let sockets = workers.map(|worker| self.paths.worker_socket(worker).display().to_string());
        sockets.collect::<Vec<_>>().join(",")
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
}

fn wait_listening(process: &mut Process, host: &Host, address: SocketAddr) -> Result<()> {
    process.wait_ready(READY_TIMEOUT, || {
        host.netns.enter(|| TcpStream::connect(address))??;
        Ok(Some(()))
    })
}
