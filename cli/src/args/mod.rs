//! The command line: every verb, flag and default.

mod doctor;
mod function;
mod policy;
mod worker;

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};

pub(crate) use self::{
    doctor::{DoctorArgs, DoctorRole},
    function::{
        CostArgs, DeadArgs, FnVerb, InvokeArgs, LogsArgs, PackageArgs, PrewarmArgs, ProfileArgs,
        TriggersArgs,
    },
    policy::{
        ChangeArgs, ChangeVerb, ExplainArgs, MapVerb, PoliceVerb, PolicyArgs, RouteVerb, Transport,
        VipAddArgs, VipVerb,
    },
    worker::{WorkerSocketArgs, WorkerVerb},
};

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
    /// Make new keys of route cookies, address tokens and LOAD packets; those of before stay valid until the next ones
    RotateKeys {
        #[command(flatten)]
        admin: AdminArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Take the program off its interfaces and remove its pins
    Detach {
        #[command(flatten)]
        pins: PinArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
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

    /// Every verb below `command` that prints something, under its path.
    fn verbs(command: &clap::Command, path: &str) -> Vec<(String, bool)> {
        let has = |id: &str| command.get_arguments().any(|arg| arg.get_id() == id);
        // A role prints nothing but logs.
        let is_role = has("config") && !has("json");
        let is_verb = command.get_subcommands().next().is_none() && !is_role;
        let own = is_verb.then(|| (path.to_owned(), has("json")));
        let below = command
            .get_subcommands()
            .flat_map(|verb| verbs(verb, &format!("{path} {}", verb.get_name())));
        own.into_iter().chain(below).collect()
    }

    #[test]
    fn every_verb_prints_json_if_asked() {
        let verbs = verbs(&Args::command(), "warmpath");
        assert!(verbs.len() > 40, "{verbs:?}");
        let without = verbs.iter().filter(|(_, has_json)| !has_json);
        assert_eq!(without.collect::<Vec<_>>(), Vec::<&(String, bool)>::new());
    }

    #[test]
    fn a_role_needs_its_configuration_and_its_verbs_do_not() {
        assert!(Args::try_parse_from(["warmpath", "worker"]).is_err());
        assert!(Args::try_parse_from(["warmpath", "worker", "--config", "w.toml"]).is_ok());
        assert!(Args::try_parse_from(["warmpath", "worker", "drain", "w1"]).is_ok());
    }
}
