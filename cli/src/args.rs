//! The command line: every verb, flag and default.

use std::{net::SocketAddrV4, path::PathBuf};

use clap::{Args as ClapArgs, Parser, Subcommand};

/// A serverless platform whose load balancer lives in the kernel.
#[derive(Debug, Parser)]
#[command(
    name = "warmpath",
    version,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run the control plane: load and attach the XDP program, keep its maps true
    #[command(subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
    Balancer {
        #[command(flatten)]
        role: RoleArgs,
        #[command(subcommand)]
        verb: Option<BalancerVerb>,
    },
    /// Run a worker: sandboxes behind the VIPs
    #[command(subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
    Worker {
        #[command(flatten)]
        role: RoleArgs,
        #[command(subcommand)]
        verb: Option<WorkerVerb>,
    },
    /// Run the HTTP gateway
    Gateway(RoleArgs),
    /// Run the code store
    Store(RoleArgs),
    /// Run a database server on its own
    Db(RoleArgs),
    /// Deploy, list, show, remove and invoke functions
    #[command(subcommand)]
    Fn(FnVerb),
    /// Show workers, functions and counters
    Status {
        #[command(flatten)]
        admin: AdminArgs,
        #[command(flatten)]
        pins: PinArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Say what this machine lacks for the balancer or a worker, and the command that mends it
    Doctor(DoctorArgs),
    /// Make traffic at the speed of the kernel, and count what arrives
    #[command(subcommand)]
    Blast(crate::verb::blast::BlastVerb),
    /// Look into the BPF maps
    #[command(subcommand)]
    Map(MapVerb),
    /// Ask the loaded program about a packet
    #[command(subcommand)]
    Route(RouteVerb),
}

/// What every role needs.
#[derive(Debug, ClapArgs)]
pub(crate) struct RoleArgs {
    /// Configuration file (TOML); docs/configuration.md lists its keys
    #[arg(long, value_name = "FILE", required = true)]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BalancerVerb {
    /// Take the program off its interfaces and remove its pins
    Detach {
        #[command(flatten)]
        pins: PinArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum WorkerVerb {
    /// Give a worker no new sessions; those it has may finish
    Drain {
        /// The worker's name
        name: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Give a drained worker new work again
    Undrain {
        /// The worker's name
        name: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum FnVerb {
    /// Pack a directory with a warmpath.toml and publish it as the next version
    Deploy {
        /// The function's directory
        dir: PathBuf,
        /// Publish under this name instead of the manifest's
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        store: StoreArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// List the functions
    List {
        #[command(flatten)]
        store: StoreArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Show a function's versions, aliases and manifest
    Show {
        /// The function
        name: String,
        #[command(flatten)]
        store: StoreArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Point an alias at a version
    Alias {
        /// The function
        name: String,
        /// The alias, for example `stable`
        alias: String,
        /// The version's number
        version: u32,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Remove a function with all its versions
    Rm {
        /// The function
        name: String,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Call a function through its VIP and print its reply
    Invoke(InvokeArgs),
}

/// One call.
#[derive(Debug, ClapArgs)]
pub(crate) struct InvokeArgs {
    /// The function, with `@alias` or `@version` if not the latest
    pub(crate) name: String,
    /// The payload; `-` reads it from standard input
    #[arg(default_value = "")]
    pub(crate) payload: String,
    /// The VIP
    #[arg(long, env = "WARMPATH_VIP", default_value = "10.99.0.1:9000")]
    pub(crate) vip: SocketAddrV4,
    /// Session: requests of one session meet the same instance
    #[arg(long)]
    pub(crate) session: Option<String>,
    /// Shard key: the request goes to the worker that owns its slot
    #[arg(long)]
    pub(crate) shard_key: Option<String>,
    /// How long to wait for the reply, in milliseconds
    #[arg(long, default_value_t = 10_000)]
    pub(crate) budget_ms: u32,
    /// The handler may run more than once
    #[arg(long)]
    pub(crate) idempotent: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MapVerb {
    /// Print the rows of a map, or the list of maps
    Dump {
        /// The map, for example WORKERS
        name: Option<String>,
        #[command(flatten)]
        pins: PinArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RouteVerb {
    /// Build a request's packet, run the loaded program on it, and say what it did and why
    Explain(ExplainArgs),
}

/// The packet to explain.
#[derive(Debug, ClapArgs)]
pub(crate) struct ExplainArgs {
    /// The function
    pub(crate) name: String,
    /// The VIP
    #[arg(long, env = "WARMPATH_VIP", default_value = "10.99.0.1:9000")]
    pub(crate) vip: SocketAddrV4,
    /// Where the packet comes from
    #[arg(long, default_value = "192.0.2.1:40000")]
    pub(crate) from: SocketAddrV4,
    /// The request's session
    #[arg(long)]
    pub(crate) session: Option<String>,
    /// The request's shard key
    #[arg(long)]
    pub(crate) shard_key: Option<String>,
    /// The request's route cookie, 16 hexadecimal digits
    #[arg(long)]
    pub(crate) cookie: Option<String>,
    #[command(flatten)]
    pub(crate) pins: PinArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// What to look at.
#[derive(Debug, ClapArgs)]
pub(crate) struct DoctorArgs {
    /// The interface; without it, those of the configuration
    pub(crate) interface: Option<String>,
    /// The balancer's configuration: its interfaces, and the sizes of its tables
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// What the machine shall be good for
    #[arg(long, value_enum, default_value_t = DoctorRole::All)]
    pub(crate) role: DoctorRole,
    /// Bytes of the largest IP packet that clients send
    #[arg(long, value_name = "BYTES", default_value_t = 1_500)]
    pub(crate) vip_mtu: u32,
    /// Attach a program that passes everything, for a moment and only where none is: some drivers stop for it
    #[arg(long = "try")]
    pub(crate) trial: bool,
    #[command(flatten)]
    pub(crate) pins: PinArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// A part of the platform that a machine can play.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum DoctorRole {
    /// The balancer
    Balancer,
    /// A worker
    Worker,
    /// Both
    All,
}

/// Where the control plane listens.
#[derive(Debug, ClapArgs)]
pub(crate) struct AdminArgs {
    /// The control plane's admin socket
    #[arg(
        long,
        env = "WARMPATH_ADMIN",
        default_value = "/run/warmpath/balancer.sock"
    )]
    pub(crate) admin: PathBuf,
}

/// Where the data plane is pinned.
#[derive(Debug, ClapArgs)]
pub(crate) struct PinArgs {
    /// Directory on a bpffs that holds the pinned program and maps
    #[arg(
        long,
        env = "WARMPATH_PIN_PATH",
        default_value = "/sys/fs/bpf/warmpath"
    )]
    pub(crate) pin_path: PathBuf,
}

/// Where the code store is.
#[derive(Debug, ClapArgs)]
pub(crate) struct StoreArgs {
    /// The code store
    #[arg(long, env = "WARMPATH_STORE", default_value = "http://127.0.0.1:7100")]
    pub(crate) store: String,
}

/// How to print.
#[derive(Debug, ClapArgs)]
pub(crate) struct OutputArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_role_needs_its_configuration_and_its_verbs_do_not() {
        assert!(Args::try_parse_from(["warmpath", "worker"]).is_err());
        assert!(Args::try_parse_from(["warmpath", "worker", "--config", "w.toml"]).is_ok());
        assert!(Args::try_parse_from(["warmpath", "worker", "drain", "w1"]).is_ok());
    }
}
