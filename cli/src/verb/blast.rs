//! `warmpath blast send|sink`: requests out of live frames, and a counter of what arrives.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use blast::{Generator, Interface, Limits, Mode, Receiver, Sink, Stream, Summary, interface};
use clap::{Args, Subcommand};
use ebpf_common::ids::FunctionId;
use serde::Serialize;

use crate::output::{self, Exit, Table};

#[derive(Debug, Subcommand)]
pub(crate) enum BlastVerb {
    /// Send requests; runs in the network namespace of the interface
    Send(SendArgs),
    /// Count what arrives at an interface by the receiver's MAC address, and drop it
    Sink(SinkArgs),
}

#[derive(Debug, Args)]
pub(crate) struct SendArgs {
    /// The interface they leave by
    #[arg(long)]
    interface: String,
    /// The VIP: address and port; given twice, requests go to both in turn
    #[arg(long, required = true)]
    to: Vec<SocketAddr>,
    /// MAC address of the balancer, or of the next hop to it
    #[arg(long)]
    to_mac: String,
    /// Address of the first client; over IPv6 the end of one in fd00::/96
    #[arg(long, default_value_t = blast::scene::CLIENT)]
    from: Ipv4Addr,
    /// A function, and its share of the requests: `hello` or `hello=3`; up to 16
    #[arg(long = "function", value_name = "NAME[=SHARE]", required = true)]
    functions: Vec<String>,
    /// Clients, rounded up to a power of two, each with an address and port of its own
    #[arg(long, default_value_t = 1)]
    clients: u32,
    /// Each client has a session
    #[arg(long)]
    sessions: bool,
    /// Each request names its client's slot
    #[arg(long)]
    slots: bool,
    /// Bytes of payload, 24 at least
    #[arg(long, default_value_t = 64)]
    payload: usize,
    /// Packets a second [default: as many as one CPU makes]
    #[arg(long)]
    rate: Option<u64>,
    /// Packets in all
    #[arg(long)]
    count: Option<u64>,
    /// Seconds in all [default: until Ctrl-C]
    #[arg(long, value_name = "SECONDS")]
    duration: Option<f64>,
    /// The CPU to stay on
    #[arg(long)]
    cpu: Option<usize>,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SinkArgs {
    /// The interface to count at
    #[arg(long)]
    interface: String,
    /// In the kernel's stack instead of the driver, where the driver has no XDP
    #[arg(long)]
    generic: bool,
    /// Seconds [default: until Ctrl-C]
    #[arg(long, value_name = "SECONDS")]
    duration: Option<f64>,
    /// Print the counts as JSON
    #[arg(long)]
    json: bool,
}

/// Set by Ctrl-C: both verbs stop, say what they counted, and leave nothing behind.
static STOPPED: AtomicBool = AtomicBool::new(false);

pub(super) async fn run(verb: BlastVerb) -> Result<Exit> {
    tokio::spawn(async {
        if tokio::signal::ctrl_c().await.is_ok() {
            STOPPED.store(true, Ordering::Relaxed);
        }
    });
    let job = move || match verb {
        BlastVerb::Send(args) => send(&args),
        BlastVerb::Sink(args) => sink(&args),
    };
    tokio::task::spawn_blocking(job).await??;
    Ok(Exit::Ok)
}

fn send(args: &SendArgs) -> Result<()> {
    if let Some(cpu) = args.cpu {
        interface::pin(cpu)?;
    }
    let interface = Interface::find(&args.interface)?;
    let limits = Limits {
        rate: args.rate,
        count: args.count,
        duration: seconds(args.duration)?,
    };
    let mut generator = Generator::load(interface.index, &streams(args, interface.mac)?)?;
    let summary = generator.run(&limits, |progress| {
        output::talk(format_args!("{}", told(progress)));
        !STOPPED.load(Ordering::Relaxed)
    })?;
    if args.json {
        return output::json(&summary);
    }
    output::line(format_args!("sent {}", told(&summary)))
}

fn streams(args: &SendArgs, mac: [u8; 6]) -> Result<Vec<(blast::Scene, u32)>> {
    let to_mac = interface::mac(&args.to_mac)?;
    let mut streams = Vec::new();
    for function in &args.functions {
        let (name, share) = match function.split_once('=') {
            Some((name, share)) => (name, share.parse().context("a share is a number")?),
            None => (function.as_str(), 1),
        };
        for to in &args.to {
            let stream = Stream {
                to: *to,
                macs: [mac, to_mac],
                from: args.from,
                function: FunctionId::of(name),
                clients: args.clients,
                sessions: args.sessions,
                slots: args.slots,
                payload_len: args.payload,
            };
            streams.push((stream.scene(), share));
        }
    }
    Ok(streams)
}

fn told(summary: &Summary) -> String {
    format!(
        "{} packets, {} bytes in {:.1} s: {:.0} packets/s",
        summary.packets, summary.bytes, summary.seconds, summary.packets_per_second
    )
}

/// What arrived for one MAC address.
#[derive(Serialize)]
struct Arrived {
    /// `null`: receivers that could not be told apart.
    mac: Option<String>,
    #[serde(flatten)]
    receiver: Receiver,
}

fn sink(args: &SinkArgs) -> Result<()> {
    let mode = if args.generic {
        Mode::Generic
    } else {
        Mode::Native
    };
    let sink = Sink::attach(&args.interface, mode)?;
    output::talk(format_args!("counting at {}", args.interface));
    let until = seconds(args.duration)?.map(|duration| Instant::now() + duration);
    let is_over =
        || STOPPED.load(Ordering::Relaxed) || until.is_some_and(|until| Instant::now() >= until);
    let (mut told, mut before) = (Instant::now(), 0);
    while !is_over() {
        std::thread::sleep(Duration::from_millis(20));
        if told.elapsed() >= Duration::from_secs(1) {
            let packets = sink.packets()?;
            let rate = (packets - before) as f64 / told.elapsed().as_secs_f64();
            output::talk(format_args!("{packets} packets, {rate:.0} packets/s"));
            (told, before) = (Instant::now(), packets);
        }
    }
    print(&sink, args.json)
}

fn print(sink: &Sink, json: bool) -> Result<()> {
    let text = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
    let arrived: Vec<_> = sink
        .receivers()?
        .into_iter()
        .map(|(mac, receiver)| Arrived {
            mac: mac.map(text),
            receiver,
        })
        .collect();
    if json {
        return output::json(&arrived);
    }
    let mut table = Table::new(&["receiver", "packets", "bytes"]);
    for it in arrived {
        table.row(vec![
            it.mac.unwrap_or_else(|| "(others)".to_owned()),
            it.receiver.packets.to_string(),
            it.receiver.bytes.to_string(),
        ]);
    }
    table.print()
}

fn seconds(seconds: Option<f64>) -> Result<Option<Duration>> {
    seconds
        .map(|seconds| Duration::try_from_secs_f64(seconds).context("not a number of seconds"))
        .transpose()
}
