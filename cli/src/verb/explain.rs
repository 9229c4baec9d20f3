//! `warmpath route explain`: what the loaded program does with a packet, and why.

use anyhow::{Context, Result};
use balancer_userspace::{
    api::types::{ExplainRequest, Explanation},
    maps,
};
use warmpath_sdk::session_id;

use crate::{
    args::ExplainArgs,
    output::{self, Exit},
};

pub(super) fn explain(args: &ExplainArgs) -> Result<Exit> {
    let explanation = maps::explain(&args.pins.pin_path, &request(args)?)?;
    if args.output.json {
        output::json(&explanation)?;
    } else {
        print(&explanation)?;
    }
    Ok(Exit::Ok)
}

fn request(args: &ExplainArgs) -> Result<ExplainRequest> {
    let cookie = args
        .cookie
        .as_deref()
        .map(|digits| u64::from_str_radix(digits, 16).context("--cookie takes hexadecimal digits"))
        .transpose()?;
    Ok(ExplainRequest {
        vip: args.vip,
        function: args.name.clone(),
        session: args.session.as_deref().map(session_id),
        shard_key: args.shard_key.clone(),
        cookie,
        source: Some(args.from),
    })
}

fn print(explanation: &Explanation) -> Result<()> {
    output::line(format_args!(
        "outcome  {} {}",
        explanation.outcome, explanation.rule
    ))?;
    output::line(format_args!("verdict  {}", explanation.verdict))?;
    if let Some(worker) = &explanation.worker {
        let name = worker.name.as_deref().unwrap_or("");
        output::line(format_args!("worker   {} {name} {}", worker.id, worker.mac))?;
    }
    if !explanation.details.is_empty() {
        output::line(format_args!("noticed  {}", explanation.details.join(", ")))?;
    }
    if let Some(out) = &explanation.packet_out {
        let status = out.status.as_deref().unwrap_or("");
        output::line(format_args!("leaves   {} → {}", out.src_mac, out.dst_mac))?;
        output::line(format_args!(
            "         {} → {}",
            out.source, out.destination
        ))?;
        output::line(format_args!("         {} {status}", out.kind))?;
    }
    Ok(())
}
