//! The verbs about maps, VIPs, police and routes.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args as ClapArgs, Subcommand};

use super::{AdminArgs, OutputArgs, PinArgs};

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
    #[command(flatten)]
    Change(ChangeVerb),
    /// List the policies that were applied
    Log {
        #[command(flatten)]
        args: PolicyArgs,
    },
}

/// What changes the policy, or the part of it that `warmpath police` is about.
#[derive(Debug, Subcommand)]
pub(crate) enum ChangeVerb {
    /// Set one key: `map set police.shed_percent 200` is `police set shed_percent 200`
    Set {
        /// The key, with dots; of `police`, within [police]
        key: String,
        /// Its value, as TOML
        value: String,
        #[command(flatten)]
        args: ChangeArgs,
    },
    /// Take one key out: `map unset police.shed_percent` is `police unset shed_percent`
    Unset {
        /// The key, with dots; of `police`, within [police]
        key: String,
        #[command(flatten)]
        args: ChangeArgs,
    },
    /// Say which rows a policy file would change, and change nothing
    Diff {
        /// The file; `police` looks only at its [police]
        file: PathBuf,
        #[command(flatten)]
        args: PolicyArgs,
    },
    /// Put a policy file in force, whole or not at all; `police apply` leaves VIPs, pools and weights as they are
    Apply {
        /// The file; `police` looks only at its [police]
        file: PathBuf,
        #[command(flatten)]
        args: ChangeArgs,
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
    #[command(flatten)]
    Change(ChangeVerb),
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
