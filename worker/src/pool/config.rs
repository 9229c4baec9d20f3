//! What the pool may use: memory, instances, time; and how its sandboxes are made.

use std::{path::PathBuf, time::Duration};

use serde::Deserialize;

use super::policy::history::Bounds;
use crate::{
    cpu_latency::CpuLatencyConfig,
    rootfs::{self, Choice},
    sandbox::network::NetworkConfig,
    secrets::SecretsConfig,
};

/// However short the gaps between a function's requests are, its instances stay so long.
const KEEP_ALIVE_MIN: Duration = Duration::from_secs(10);

/// Everything that [`super::Pool::start`] needs to know.
#[derive(Debug, Clone)]
pub struct PoolConfig {
    /// The worker's name. It names the parent cgroup too (`warmpath/<worker>`), so two workers of one
    /// host must differ in it.
    pub worker: String,
    /// A directory that this worker owns. The pool keeps the Python library of its sandboxes in it.
    pub state_dir: PathBuf,
    /// The executable that answers to `sandbox-init …` by calling [`crate::sandbox::init_main`].
    pub executable: PathBuf,
    /// `[pool]` of the worker's configuration.
    pub limits: PoolLimits,
    /// `[sandbox]` of the worker's configuration.
    pub sandbox: SandboxConfig,
    /// `[cpu_latency]` of the worker's configuration.
    pub cpu_latency: CpuLatencyConfig,
    /// `[network]` of the worker's configuration.
    pub network: NetworkConfig,
    /// `[secrets]` of the worker's configuration.
    pub secrets: SecretsConfig,
}

impl PoolConfig {
    /// The default configuration of the worker `worker`, which keeps its files in `state_dir`.
    #[must_use]
    pub fn new(worker: impl Into<String>, state_dir: impl Into<PathBuf>) -> Self {
        Self {
            worker: worker.into(),
            state_dir: state_dir.into(),
            executable: PathBuf::from("/proc/self/exe"),
            limits: PoolLimits::default(),
            sandbox: SandboxConfig::default(),
            cpu_latency: CpuLatencyConfig::default(),
            network: NetworkConfig::default(),
            secrets: SecretsConfig::default(),
        }
    }
}

/// `[pool]`: how many instances a worker holds, and for how long.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PoolLimits {
    /// The sum of the memory limits of all instances never exceeds this.
    pub memory_mb: u32,
    /// What zygotes with packages imported may take together; 0 for none of them.
    pub zygote_memory_mb: u32,
    /// Instances that each of them has forked ahead of need.
    pub zygote_prepared: usize,
    /// An instance that served nothing for so long is ended, while too little is known of when its function
    /// is called.
    pub idle_timeout_ms: u64,
    /// The longest that an idle instance is kept because of when its function was called before.
    pub keep_alive_max_ms: u64,
    /// An instance that served nothing for so long is paused: it keeps its memory and takes no CPU. 0: never.
    pub pause_after_ms: u64,
    /// Sandboxes kept ready for functions that have no instance yet.
    pub prepared: usize,
    /// Processes that have become Node ahead of need, of each size of heap that was wanted lately.
    pub node_prepared: usize,
    /// Instances of one function.
    pub instances_per_function: usize,
    /// Requests that wait for an instance; one more is answered `Overloaded`.
    pub queue_len_max: usize,
    /// A request that has waited so long for a busy instance asks for another one: about what a cold
    /// start costs, so that waiting and starting are even.
    pub scale_up_after_us: u64,
    /// Starting an instance (its module's top level runs then) may take so long.
    pub start_timeout_ms: u64,
    /// Sessions remembered for each function; the oldest are forgotten first.
    pub sessions_per_function: usize,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            memory_mb: 4_096,
            zygote_memory_mb: 256,
            zygote_prepared: 2,
            idle_timeout_ms: 60_000,
            keep_alive_max_ms: 600_000,
            pause_after_ms: 1_000,
            prepared: 32,
            node_prepared: 1,
            instances_per_function: 64,
            queue_len_max: 1_024,
            scale_up_after_us: 3_000,
            start_timeout_ms: 10_000,
            sessions_per_function: 65_536,
        }
    }
}

impl PoolLimits {
    /// [`Self::idle_timeout_ms`] as a duration.
    #[must_use]
    pub const fn idle_timeout(&self) -> Duration {
        Duration::from_millis(self.idle_timeout_ms)
    }

    /// [`Self::pause_after_ms`] as a duration; `None`: never.
    #[must_use]
    pub fn pause_after(&self) -> Option<Duration> {
        (self.pause_after_ms > 0).then(|| Duration::from_millis(self.pause_after_ms))
    }

    /// Between what the time to keep an idle instance may lie.
    pub(super) fn stay_bounds(&self) -> Bounds {
        let usual = self.idle_timeout();
        Bounds {
            min: usual.min(KEEP_ALIVE_MIN),
            max: usual.max(Duration::from_millis(self.keep_alive_max_ms)),
            usual,
        }
    }
}

/// `[sandbox]`: how sandboxes are made.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SandboxConfig {
    /// Which system sandboxes have: `host`, `pinned`, a digest, or a path.
    pub rootfs: Choice,
    /// Where built root file systems are kept.
    pub rootfs_dir: PathBuf,
    /// The Python that runs `runtime = "python3"` functions; it must lie under `/usr` of that system.
    pub python: PathBuf,
    /// The first of the host user ids that handlers run as; each live sandbox has one of its own.
    pub uid_first: u32,
    /// How many such user ids there are, and with that how many sandboxes at most.
    pub uid_count: u32,
    /// The cgroup under which all workers keep theirs.
    pub cgroup_parent: String,
    /// Making a sandbox may take so long before it counts as failed.
    pub prepare_timeout_ms: u64,
}

impl Default for SandboxConfig {
    fn default() -> Self {
        Self {
            rootfs: Choice::default(),
            rootfs_dir: PathBuf::from(rootfs::DIR),
            python: PathBuf::from("/usr/bin/python3"),
            // The first id behind those that systemd hands out to containers.
            uid_first: 1_879_048_192,
            uid_count: 65_536,
            cgroup_parent: "warmpath".to_owned(),
            prepare_timeout_ms: 10_000,
        }
    }
}
