//! The command line: every verb, flag and default.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args as ClapArgs, Parser, Subcommand};
use warmpath_sdk::deferred::CallId;
use worker::profile::ProfileRequest;

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
        /// Instead: packets a second and in all, by VIP, worker, function and outcome, the N busiest of each
        #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "10")]
        top: Option<usize>,
        /// How long to count for the rates of `--top`
        #[arg(long, default_value_t = 1.0, requires = "top")]
        seconds: f64,
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
    /// List, add and remove VIPs
    #[command(subcommand)]
    Vip(VipVerb),
    /// Show and change who may send how much
    #[command(subcommand)]
    Police(PoliceVerb),
    /// Ask the loaded program about a packet
    #[command(subcommand)]
    Route(RouteVerb),
    /// Watch single packets: who sent what, which rule, which worker, how long in the program
    Trace(TraceArgs),
}

/// Which packets to watch, and how.
#[derive(Debug, ClapArgs)]
pub(crate) struct TraceArgs {
    /// Only packets for this VIP: ADDRESS:PORT, or its number
    #[arg(long)]
    pub(crate) vip: Option<String>,
    /// Only requests for this function: its name, or 16 hexadecimal digits of its id
    #[arg(long)]
    pub(crate) function: Option<String>,
    /// Only packets to this worker: its name or its id
    #[arg(long)]
    pub(crate) worker: Option<String>,
    /// Only packets from this address or prefix
    #[arg(long, value_name = "PREFIX")]
    pub(crate) source: Option<String>,
    /// Only packets sent to this port
    #[arg(long)]
    pub(crate) port: Option<u16>,
    /// Only packets with this outcome: `drop`, `warm`, `drop/bad_magic`; may be given again for more
    #[arg(long)]
    pub(crate) outcome: Vec<String>,
    /// Look at one packet in N
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) sample: u32,
    /// Stop after so many packets
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
    /// Stop after so long
    #[arg(long)]
    pub(crate) seconds: Option<f64>,
    /// Also write the first 192 bytes of each frame, as it came in and as it left, to this pcapng file
    #[arg(long, value_name = "FILE")]
    pub(crate) pcap: Option<PathBuf>,
    /// Only give links back that a tracer had when it was killed; `warmpath balancer` does so by itself
    #[arg(long)]
    pub(crate) off: bool,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    #[command(flatten)]
    pub(crate) pins: PinArgs,
    /// Print a JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
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
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Show what a worker on this machine takes the encapsulation off, and what its XDP program has counted
    Decap {
        /// Where its maps are pinned: `[decap] pin_path` of its configuration
        #[arg(long, default_value = balancer_userspace::decap::DEFAULT_PIN_PATH)]
        pin_path: PathBuf,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Show the instances of a worker on this machine: by function and state, how long they stay, what was evicted
    Pool {
        /// The worker's admin socket, `<state_dir>/worker.sock`
        #[arg(
            long,
            env = "WARMPATH_WORKER",
            default_value = "/var/lib/warmpath/worker.sock"
        )]
        worker: PathBuf,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Show which requests wait on a worker of this machine without an instance
    Parked {
        /// The worker's admin socket: `worker.sock` in its `state_dir`
        #[arg(
            long,
            env = "WARMPATH_WORKER",
            default_value = "/var/lib/warmpath/worker.sock"
        )]
        worker: PathBuf,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Show the streams that a worker on this machine has offered and that go on
    Streams {
        /// The worker's admin socket: `worker.sock` in its `state_dir`
        #[arg(
            long,
            env = "WARMPATH_WORKER",
            default_value = "/var/lib/warmpath/worker.sock"
        )]
        worker: PathBuf,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Build, list and check the root file systems that sandboxes can have instead of the host's
    #[command(subcommand)]
    Rootfs(crate::verb::rootfs::RootfsVerb),
    /// Show the zygotes with packages of a worker on this machine
    Zygotes {
        /// The worker's admin socket, `<state_dir>/worker.sock`
        #[arg(
            long,
            env = "WARMPATH_WORKER",
            default_value = "/var/lib/warmpath/worker.sock"
        )]
        worker: PathBuf,
        #[command(flatten)]
        output: OutputArgs,
    },
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
    Undrain {
        /// The worker's name
        name: String,
        #[command(flatten)]
        admin: AdminArgs,
        #[command(flatten)]
        output: OutputArgs,
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
        packages: PackageArgs,
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
    /// Say what functions used and what that comes to, by version and caller
    Cost(CostArgs),
    /// Say where a function that is being called spends its time, as a flame graph
    Profile(ProfileArgs),
    /// List a function's calls that nobody waited for and that were given up, or try one once more
    Dead(DeadArgs),
    /// Print what a function printed, by request
    Logs(LogsArgs),
    /// Fetch a function's code on workers of this machine, and start instances there, before anyone calls
    Prewarm(PrewarmArgs),
    /// Say how a function's triggers are doing: when they are due, how far they are, what failed
    Triggers(TriggersArgs),
}

/// Which output to show.
#[derive(Debug, ClapArgs)]
pub(crate) struct LogsArgs {
    /// The function
    pub(crate) name: String,
    /// Go on with what comes
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only this request: its id, 16 hexadecimal digits
    #[arg(long, value_name = "ID", value_parser = crate::verb::parse_request)]
    pub(crate) request: Option<String>,
    #[command(flatten)]
    pub(crate) workers: WorkerSocketArgs,
    /// Print a JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}

/// How `requirements.txt` and `package.json` become layers.
#[derive(Debug, ClapArgs)]
pub(crate) struct PackageArgs {
    /// Resolve anew what `requirements.lock` or `package-lock.json` has locked
    #[arg(long)]
    pub(crate) upgrade: bool,
    /// Seconds that resolving and fetching packages may take
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub(crate) resolve_timeout: u64,
    /// The package index, instead of the one that pip or npm is configured to
    #[arg(long, value_name = "URL")]
    pub(crate) index_url: Option<String>,
    /// A host, besides the configured index, that packages may come from; may be given again
    #[arg(long, value_name = "HOST[:PORT]")]
    pub(crate) index_host: Vec<String>,
    /// The Python that workers run functions with; its pip resolves
    #[arg(long, value_name = "PATH", default_value = "/usr/bin/python3")]
    pub(crate) python: PathBuf,
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

/// Which bills to add up, and how.
#[derive(Debug, ClapArgs)]
pub(crate) struct CostArgs {
    /// Only this function
    pub(crate) name: Option<String>,
    /// Only this version of it
    #[arg(long, value_name = "N")]
    pub(crate) version: Option<u32>,
    /// Only this caller: an address, or the name that the gateway gave it
    #[arg(long)]
    pub(crate) caller: Option<String>,
    /// Only the last so many seconds, rounded up to whole minutes; an hour at most
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) window: Option<u64>,
    /// Also say what another memory limit would have come to, for example `memory_mb=64`
    #[arg(long, value_name = "memory_mb=N", value_parser = crate::verb::parse_what_if)]
    pub(crate) what_if: Option<u32>,
    /// A TOML file with prices; docs/cost.md lists its keys
    #[arg(long, value_name = "FILE")]
    pub(crate) prices: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) workers: WorkerSocketArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// What to profile, and how.
#[derive(Debug, ClapArgs)]
pub(crate) struct ProfileArgs {
    /// The function: all its versions, or one with `@alias` or `@version`
    pub(crate) name: String,
    /// How long to look
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=i64::from(ProfileRequest::SECONDS_MAX)))]
    pub(crate) seconds: u32,
    /// How often a second to look at each running call
    #[arg(long, value_name = "N", default_value_t = 99, value_parser = clap::value_parser!(u32).range(1..=i64::from(ProfileRequest::HZ_MAX)))]
    pub(crate) hz: u32,
    /// Write the flame graph to this file (SVG)
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) workers: WorkerSocketArgs,
    /// Print the stacks and their samples as JSON
    #[arg(long)]
    pub(crate) json: bool,
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
    pub(crate) vip: SocketAddr,
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

#[derive(Debug, ClapArgs)]
pub(crate) struct DeadArgs {
    /// The function
    pub(crate) name: String,
    /// Try this call once more, from the beginning
    #[arg(long, value_name = "ID")]
    pub(crate) retry: Option<CallId>,
    /// The VIP
    #[arg(long, env = "WARMPATH_VIP", default_value = "10.99.0.1:9000")]
    pub(crate) vip: SocketAddr,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// What is to be there, and where.
#[derive(Debug, ClapArgs)]
pub(crate) struct PrewarmArgs {
    /// The function, with `@alias` or `@version` if not the latest
    pub(crate) name: String,
    /// Instances on each worker; 0 only fetches code and layers
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) count: u32,
    #[command(flatten)]
    pub(crate) workers: WorkerSocketArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Whose triggers to show.
#[derive(Debug, ClapArgs)]
pub(crate) struct TriggersArgs {
    /// The function
    pub(crate) name: String,
    /// The VIP
    #[arg(long, env = "WARMPATH_VIP", default_value = "10.99.0.1:9000")]
    pub(crate) vip: SocketAddr,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
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
    /// Print the policy in force: VIPs, pools, weights, police
    Show {
        #[command(flatten)]
        args: PolicyArgs,
    },
    /// Set one key of the policy, for example `police.shed_percent 200`
    Set {
        /// The key, with dots
        key: String,
        /// Its value, as TOML
        value: String,
        #[command(flatten)]
        args: ChangeArgs,
    },
    /// Take one key out of the policy, for example `police.shed_percent`
    Unset {
        /// The key, with dots
        key: String,
        #[command(flatten)]
        args: ChangeArgs,
    },
    /// Say which rows a policy file would change, and change nothing
    Diff {
        /// The file
        file: PathBuf,
        #[command(flatten)]
        args: PolicyArgs,
    },
    /// Put a policy file in force, whole or not at all
    Apply {
        /// The file
        file: PathBuf,
        #[command(flatten)]
        args: ChangeArgs,
    },
    /// List the policies that were applied
    Log {
        #[command(flatten)]
        args: PolicyArgs,
    },
    /// Put an earlier policy in force again
    Rollback {
        /// Its revision; the one before this one if left out
        revision: Option<u64>,
        #[command(flatten)]
        args: ChangeArgs,
    },
}

/// What every verb about the policy needs.
#[derive(Debug, ClapArgs)]
pub(crate) struct PolicyArgs {
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// What every verb that changes the policy needs.
#[derive(Debug, ClapArgs)]
pub(crate) struct ChangeArgs {
    /// Only say what it would change
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum VipVerb {
    /// List all VIPs
    List {
        #[command(flatten)]
        args: PolicyArgs,
    },
    /// Show the VIPs of an address, or one of them
    Show {
        /// The address, or a VIP as 10.99.0.1:9000/udp
        vip: String,
        #[command(flatten)]
        args: PolicyArgs,
    },
    /// Add a VIP
    Add {
        #[command(flatten)]
        vip: VipAddArgs,
        #[command(flatten)]
        args: ChangeArgs,
    },
    /// Remove a VIP
    Rm {
        /// As 10.99.0.1:9000/udp or [2001:db8::1]:any/tcp
        vip: String,
        #[command(flatten)]
        args: ChangeArgs,
    },
}

/// A new VIP.
#[derive(Debug, ClapArgs)]
pub(crate) struct VipAddArgs {
    /// Its address
    pub(crate) address: std::net::IpAddr,
    /// Its port, or `any`
    pub(crate) port: String,
    /// `udp` or `tcp`
    #[arg(long)]
    pub(crate) protocol: Option<String>,
    /// `rpc`, `l4` or `quic`
    #[arg(long)]
    pub(crate) kind: Option<String>,
    /// `l2`, `ipip` or `gue`
    #[arg(long)]
    pub(crate) forward: Option<String>,
    /// The pool that it is kept to
    #[arg(long)]
    pub(crate) pool: Option<String>,
    /// Kind `quic`: the configuration id of its connection ids
    #[arg(long)]
    pub(crate) quic_config: Option<u8>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PoliceVerb {
    /// Print block lists with hits, rates and what was counted
    Show {
        #[command(flatten)]
        args: PolicyArgs,
        #[command(flatten)]
        pins: PinArgs,
    },
    /// Set one key, for example `shed_percent 200`
    Set {
        /// The key within [police]
        key: String,
        /// Its value, as TOML
        value: String,
        #[command(flatten)]
        args: ChangeArgs,
    },
    /// Take one key out, for example `shed_percent`
    Unset {
        /// The key within [police]
        key: String,
        #[command(flatten)]
        args: ChangeArgs,
    },
    /// Say which rows a file with [police] would change
    Diff {
        /// The file
        file: PathBuf,
        #[command(flatten)]
        args: PolicyArgs,
    },
    /// Put a file with [police] in force; VIPs, pools and weights stay
    Apply {
        /// The file
        file: PathBuf,
        #[command(flatten)]
        args: ChangeArgs,
    },
    /// Put the policy of an earlier revision in force again
    Rollback {
        /// Its revision; the one before this one if left out
        revision: Option<u64>,
        #[command(flatten)]
        args: ChangeArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RouteVerb {
    /// Build a packet for a VIP, run the loaded program on it, and say what it did and why
    Explain(ExplainArgs),
}

/// The packet to explain. What it carries depends on the kind of the VIP.
#[derive(Debug, ClapArgs)]
pub(crate) struct ExplainArgs {
    /// The function, for a VIP of kind `rpc`
    pub(crate) name: Option<String>,
    /// The VIP, 10.99.0.1:9000 or [2001:db8::1]:9000
    #[arg(long, env = "WARMPATH_VIP", default_value = "10.99.0.1:9000")]
    pub(crate) vip: SocketAddr,
    /// Where the packet comes from; 192.0.2.1:40000 or [2001:db8::1]:40000 if left out
    #[arg(long)]
    pub(crate) from: Option<SocketAddr>,
    /// The request's session
    #[arg(long)]
    pub(crate) session: Option<String>,
    /// The request's shard key
    #[arg(long)]
    pub(crate) shard_key: Option<String>,
    /// The request's payload, in which the function's schema looks for session or slot; `@FILE` reads it from a file
    #[arg(long, value_name = "TEXT|@FILE")]
    pub(crate) payload: Option<String>,
    /// The request's route cookie, 16 hexadecimal digits
    #[arg(long)]
    pub(crate) cookie: Option<String>,
    /// The request's address token, 16 hexadecimal digits
    #[arg(long)]
    pub(crate) token: Option<String>,
    /// What carries the packet; `tcp` is a packet of an open connection, `tcp-syn` the first one
    #[arg(long, value_enum, default_value_t = Transport::Udp)]
    pub(crate) protocol: Transport,
    /// VIP of kind `quic`: the destination connection id, in hexadecimal digits; without it, a client's first packet
    #[arg(long)]
    pub(crate) connection_id: Option<String>,
    /// VIP of kind `pktgen`: the packet's number
    #[arg(long)]
    pub(crate) sequence: Option<u32>,
    #[command(flatten)]
    pub(crate) pins: PinArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// What carries a packet to explain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Transport {
    /// UDP
    Udp,
    /// TCP, in the middle of a connection
    Tcp,
    /// TCP, the first packet of a connection
    TcpSyn,
}

/// What to look at.
#[derive(Debug, ClapArgs)]
pub(crate) struct DoctorArgs {
    /// The interface; without it, those of the configuration
    pub(crate) interface: Option<String>,
    /// The balancer's configuration: its interfaces, and the sizes of its tables
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// A worker's configuration: what it takes encapsulations off
    #[arg(long, value_name = "FILE")]
    pub(crate) worker_config: Option<PathBuf>,
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
