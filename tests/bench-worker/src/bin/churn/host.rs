//! The worker under churn as a process, and the store beside it.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use testbed::{
    netns::Netns,
    proc,
    process::{Process, Spec},
    run::Run,
};
use tests::pool::{bundle, free_address, serve_store};
use tokio::{runtime::Runtime, sync::watch};

use crate::{executable, load::FUNCTIONS, mentions};

/// Sandboxes kept ready.
pub(crate) const PREPARED: u64 = 4;
/// Just as many as the instances that there can be, those that are ending, and those kept ready.
const UIDS: u32 = 128;
const UID_FIRST: u32 = 1_878_900_000;
const NAME: &str = "churn";
const READY_TIMEOUT: Duration = Duration::from_secs(30);
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// The run's place, its store, and its worker.
pub(crate) struct Host {
    worker: Option<Process>,
    lives: u64,
    /// Sandboxes of earlier lives, and of this one.
    made: (u64, u64),
    http: reqwest::Client,
    runtime: Arc<Runtime>,
    addresses: [SocketAddr; 2],
    /// The store ends with it.
    _stop_store: watch::Sender<bool>,
    /// Network namespaces that sandboxes were seen in.
    namespaces: BTreeSet<PathBuf>,
    /// Dropped last: it removes what is left.
    run: Run,
}

impl Host {
    /// Starts the store, publishes the functions and starts the worker.
    pub(crate) fn start() -> Result<Self> {
        let run = Run::new()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("starting the async runtime")?;
        let (stop_store, stopped) = watch::channel(false);
        let store = run.data_dir().join("store");
        let serving = serve_store(&store, stopped);
        let (url, store) = runtime.block_on(serving)?;
        for function in FUNCTIONS {
            let manifest = format!("name = {:?}\n{}\n", function.name, function.manifest);
            let bundle = bundle(&[("warmpath.toml", &manifest), ("f.py", function.code)])?;
            runtime
                .block_on(store.publish(None, bundle))
                .with_context(|| format!("publishing {}", function.name))?;
        }
        let addresses = [free_address()?, free_address()?];
        let mut host = Self {
            worker: None,
            lives: 0,
            made: (0, 0),
            http: reqwest::Client::new(),
            runtime: Arc::new(runtime),
            addresses,
            _stop_store: stop_store,
            namespaces: BTreeSet::new(),
            run,
        };
        fs::write(host.config(), host.configuration(&url)).context("writing the configuration")?;
        host.start_worker()?;
        Ok(host)
    }

    fn configuration(&self, store_url: &str) -> String {
        let [rpc, metrics] = self.addresses;
        format!(
            r#"name = "{NAME}"
interface = "lo"
address = "127.0.0.1"
direct_listen = "{rpc}"
store_url = "{store_url}"
state_dir = "{}"
metrics_listen = "{metrics}"

[pool]
prepared = {PREPARED}
memory_mb = 2048
instances_per_function = 8
idle_timeout_ms = 300
keep_alive_max_ms = 300
pause_after_ms = 100

[sandbox]
cgroup_parent = "{}"
uid_first = {UID_FIRST}
uid_count = {UIDS}
"#,
            self.run.data_dir().join("worker").display(),
            self.run.id(),
        )
    }

    fn config(&self) -> PathBuf {
        self.run.dir().join("worker.toml")
    }

    pub(crate) const fn rpc(&self) -> SocketAddr {
        self.addresses[0]
    }

    pub(crate) fn runtime(&self) -> Arc<Runtime> {
        Arc::clone(&self.runtime)
    }

    /// Starts the worker and waits until it answers.
    pub(crate) fn start_worker(&mut self) -> Result<()> {
        let config = self.config().display().to_string();
        let mut worker = Process::start(
            &self.run,
            &Spec {
                name: "worker",
                netns: &Netns::own(),
                program: &executable()?,
                args: &["worker", &config],
                piped: false,
            },
        )?;
        worker.wait_ready(READY_TIMEOUT, || self.metric("worker_capacity").map(Some))?;
        self.worker = Some(worker);
        self.lives += 1;
        self.made.0 += std::mem::take(&mut self.made.1);
        Ok(())
    }

    /// Kills it with SIGKILL.
    pub(crate) fn kill_worker(&mut self) -> Result<()> {
        let mut worker = self.worker.take().context("no worker runs")?;
        worker.kill()
    }

    /// Asks it to end, and waits for that.
    pub(crate) fn stop_worker(&mut self) -> Result<()> {
        let mut worker = self.worker.take().context("no worker runs")?;
        worker.stop(STOP_TIMEOUT)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Result<u32> {
        let worker = self.worker.as_ref().context("no worker runs")?;
        Ok(worker.pid().cast_unsigned())
    }

    pub(crate) fn log_tail(&self) -> String {
        self.worker
            .as_ref()
            .map(Process::log_tail)
            .unwrap_or_default()
    }

    /// Reads how many sandboxes there were by now.
    pub(crate) fn look(&mut self) -> Result<()> {
        if let Some(worker) = &mut self.worker {
            worker.check()?;
        }
        let started = ["zygote", "cold"]
            .map(|path| self.metric(&format!("worker_cold_starts_total{{path=\"{path}\"}}")));
        self.made.1 = started.into_iter().sum::<Result<u64>>()?;
        // A sandbox in the making is in our own for a moment.
        let own = fs::read_link("/proc/self/ns/net").context("reading our network namespace")?;
        for pid in self.sandboxed() {
            let namespace = fs::read_link(format!("/proc/{pid}/ns/net"));
            self.namespaces
                .extend(namespace.ok().filter(|namespace| *namespace != own));
        }
        Ok(())
    }

    /// A metric of the worker, summed over its labels.
    pub(crate) fn metric(&self, name: &str) -> Result<u64> {
        let text = self.metrics()?;
        let lines = text.lines().filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with([' ', '{']))
        });
        let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse().ok());
        let values: Vec<u64> = values.collect();
        ensure!(!values.is_empty(), "the worker has no metric {name}");
        Ok(values.iter().sum())
    }

    fn metrics(&self) -> Result<String> {
        let url = format!("http://{}/metrics", self.addresses[1]);
        let text = self.runtime.block_on(async {
            let response = self.http.get(url).send().await?;
            response.text().await
        });
        text.context("asking for the worker's metrics")
    }

    /// Sandboxes that got a function, in all lives.
    pub(crate) const fn made(&self) -> u64 {
        self.made.0 + self.made.1
    }

    pub(crate) const fn lives(&self) -> u64 {
        self.lives
    }

    /// The control groups of its sandboxes, in all hierarchies.
    pub(crate) fn groups(&self) -> Vec<PathBuf> {
        let parent = Path::new(self.run.id()).join(NAME);
        let groups = proc::groups(&parent);
        groups
            .iter()
            .flat_map(|group| proc::children(group))
            .collect()
    }

    /// The processes in its sandboxes.
    pub(crate) fn sandboxed(&self) -> BTreeSet<u32> {
        let groups = self.groups();
        groups
            .iter()
            .flat_map(|group| proc::members(group))
            .collect()
    }

    /// Its zygotes.
    pub(crate) fn zygotes(&self) -> Result<Vec<u32>> {
        let dir = self.run.data_dir().to_string_lossy().into_owned();
        Ok(proc::python_children(self.pid()?, &dir))
    }

    /// Everything of a worker that has ended which is still on the host.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let uids = u64::from(UID_FIRST)..=u64::from(UID_FIRST + UIDS);
        let mut left = Vec::new();
        for pid in proc::pids()
            .into_iter()
            .filter(|pid| *pid != std::process::id())
        {
            let line = proc::command_line(pid);
            let is_ours = mentions(&line, self.run.data_dir())
                || proc::status(pid, "Uid").is_some_and(|uid| uids.contains(&uid));
            if is_ours {
                left.push(format!("process {pid}: {}", line.replace('\0', " ")));
            }
            let namespace = fs::read_link(format!("/proc/{pid}/ns/net"));
            if namespace.is_ok_and(|namespace| self.namespaces.contains(&namespace)) {
                left.push(format!("network namespace of process {pid}"));
            }
        }
        let groups = proc::groups(Path::new(self.run.id()));
        left.extend(
            groups
                .iter()
                .map(|group| format!("control group {}", group.display())),
        );
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let ours = mounts
            .lines()
            .filter(|line| mentions(line, self.run.data_dir()));
        left.extend(ours.map(|line| format!("mount {line}")));
        left
    }
}

/// The worker's process: the role, until SIGTERM.
pub(crate) fn be_the_worker(config: &Path) -> Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into()),
        )
        .with_writer(std::io::stderr)
        .init();
    let config = worker::Config::load(config)?;
    let runtime = tokio::runtime::Runtime::new().context("starting the async runtime")?;
    runtime.block_on(async {
        let (stop, stopped) = watch::channel(false);
        let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::spawn(async move {
            term.recv().await;
            stop.send_replace(true);
        });
        worker::run(config, stopped)
            .await
            .context("running the worker")
    })
}
