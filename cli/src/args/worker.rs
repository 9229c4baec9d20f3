//! The verbs of `warmpath worker`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};

use super::{AdminArgs, ChangeArgs, OutputArgs};

#[derive(Debug, Subcommand)]
pub(crate) enum WorkerVerb {
    /// Give a worker no new sessions; those it has may finish
    Drain(NamedWorkerArgs),
    /// Show what a worker on this machine takes the encapsulation off, and what its XDP program has counted
    Decap {
        /// Where its maps are pinned: `[decap] pin_path` of its configuration
        #[arg(long, default_value = balancer_userspace::decap::DEFAULT_PIN_PATH)]
        pin_path: PathBuf,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Show the instances of a worker on this machine: by function and state, how long they stay, what was evicted
    Pool(OneWorkerArgs),
    /// Show which requests wait on a worker of this machine without an instance
    Parked(OneWorkerArgs),
    /// Show the streams that a worker on this machine has offered and that go on
    Streams(OneWorkerArgs),
    /// Build, list and check the root file systems that sandboxes can have instead of the host's
    #[command(subcommand)]
    Rootfs(crate::verb::rootfs::RootfsVerb),
    /// Show the zygotes with packages of a worker on this machine
    Zygotes(OneWorkerArgs),
    /// Change a worker's share of work
    Weight {
        /// The worker's name
        name: String,
        /// Its share: 256 is that of any other worker
        weight: u16,
        /// Requests it may have in flight, whatever it reports
        #[arg(long)]
        cap: Option<u32>,
        #[command(flatten)]
        args: ChangeArgs,
    },
    /// Give a drained worker new work again
    Undrain(NamedWorkerArgs),
}

/// A worker that the control plane knows by its name.
#[derive(Debug, ClapArgs)]
pub(crate) struct NamedWorkerArgs {
    /// The worker's name
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// A worker on this machine.
#[derive(Debug, ClapArgs)]
pub(crate) struct OneWorkerArgs {
    /// The worker's admin socket, `<state_dir>/worker.sock`
    #[arg(
        long,
        env = "WARMPATH_WORKER",
        default_value = "/var/lib/warmpath/worker.sock"
    )]
    pub(crate) worker: PathBuf,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Which workers to ask.
#[derive(Debug, ClapArgs)]
pub(crate) struct WorkerSocketArgs {
    /// A worker's admin socket, `<state_dir>/worker.sock`; may be given again for more
    #[arg(
        long,
        env = "WARMPATH_WORKER",
        value_delimiter = ',',
        default_value = "/var/lib/warmpath/worker.sock"
    )]
    pub(crate) worker: Vec<PathBuf>,
}
