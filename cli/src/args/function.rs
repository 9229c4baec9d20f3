//! The verbs of `warmpath fn`.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args as ClapArgs, Subcommand};
use warmpath_sdk::deferred::CallId;
use worker::profile::ProfileRequest;

use super::{AdminArgs, OutputArgs, StoreArgs, WorkerSocketArgs};

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
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Remove a function with all its versions
    Rm {
        /// The function
        name: String,
        #[command(flatten)]
        store: StoreArgs,
        #[command(flatten)]
        output: OutputArgs,
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
    /// Have instances of a function started, or its code fetched, before anyone calls: ordered at the control plane, or on workers of this machine
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
    /// Print the reply as it comes, byte for byte and however long it is; without this, at most 64 KiB once it is whole
    #[arg(long, conflicts_with = "json")]
    pub(crate) stream: bool,
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

/// What is to be there, where and for how long.
#[derive(Debug, ClapArgs)]
pub(crate) struct PrewarmArgs {
    /// The function, with `@alias` or `@version` if not the latest
    #[arg(required_unless_present = "list")]
    pub(crate) name: Option<String>,
    /// Instances: over all workers, or with `--worker` on each; 0 only fetches code and layers
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) count: u32,
    /// With `--count 0`, onto how many workers; onto all that take new work if not said
    #[arg(long, value_name = "N", conflicts_with_all = ["worker", "withdraw", "list"])]
    pub(crate) workers: Option<u32>,
    /// How long the control plane keeps them, whether or not anyone calls: `90s`, `10m`, `2h`, `1d`
    #[arg(long = "for", value_name = "TIME", default_value = "10m", value_parser = seconds)]
    pub(crate) seconds: u32,
    /// How long to wait until they are there; the order stands all the same
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = seconds)]
    pub(crate) timeout: u32,
    /// Show what is ordered, and how far it is
    #[arg(long, conflicts_with_all = ["name", "withdraw", "worker"])]
    pub(crate) list: bool,
    /// End all orders for the function
    #[arg(long, conflicts_with = "worker")]
    pub(crate) withdraw: bool,
    /// Instead of the control plane, a worker's admin socket, `<state_dir>/worker.sock`; may be given again for more
    #[arg(long, value_name = "SOCKET", value_delimiter = ',', conflicts_with_all = ["seconds", "timeout"])]
    pub(crate) worker: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
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

/// `90s`, `10m`, `2h` or `1d` in seconds.
fn seconds(text: &str) -> Result<u32, String> {
    let unit = |last: char| match last {
        's' => Some(1),
        'm' => Some(60),
        'h' => Some(3_600),
        'd' => Some(24 * 3_600),
        _ => None,
    };
    let parsed = text.chars().next_back().and_then(|last| {
        let number = text.strip_suffix(last)?;
        let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
        let number: u32 = is_number.then(|| number.parse().ok()).flatten()?;
        number.checked_mul(unit(last)?)
    });
    parsed.ok_or_else(|| "a number and its unit: `90s`, `10m`, `2h`, `1d`".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        let all = [
            ("0s", 0),
            ("90s", 90),
            ("10m", 600),
            ("2h", 7_200),
            ("1d", 86_400),
        ];
        for (text, expected) in all {
            assert_eq!(seconds(text).unwrap(), expected, "{text}");
        }
        for text in [
            "",
            "m",
            "10",
            "+1m",
            "-1m",
            "1.5h",
            "10 m",
            "4294967295m",
            "10ü",
        ] {
            assert!(seconds(text).unwrap_err().contains("10m"), "{text}");
        }
    }
}
