//! `warmpath route explain`: what the loaded program does with a packet, and why.

use std::fs;

use anyhow::{Context, Result};
use balancer_userspace::{
    api::types::{ExplainRequest, ExplainTransport, ExplainedKey, Explanation},
    maps,
};
use warmpath_sdk::session_id;

use crate::{
    args::{ExplainArgs, Transport},
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
    let word = |digits: &Option<String>, flag: &str| {
        let number = digits
            .as_deref()
            .map(|digits| u64::from_str_radix(digits, 16));
        let number = number.transpose();
        number.with_context(|| format!("{flag} takes hexadecimal digits"))
    };
    Ok(ExplainRequest {
        vip: args.vip,
        transport: match args.protocol {
            Transport::Udp => ExplainTransport::Udp,
            Transport::Tcp => ExplainTransport::Tcp,
            Transport::TcpSyn => ExplainTransport::TcpSyn,
        },
        function: args.name.clone(),
        session: args.session.as_deref().map(session_id),
        shard_key: args.shard_key.clone(),
        payload_hex: args.payload.as_deref().map(payload_hex).transpose()?,
        cookie: word(&args.cookie, "--cookie")?,
        token: word(&args.token, "--token")?,
        connection_id: args.connection_id.clone(),
        sequence: args.sequence,
        source: args.from,
    })
}

/// Hexadecimal digits of the argument itself, or of what the file behind an `@` holds.
fn payload_hex(argument: &str) -> Result<String> {
    let bytes = match argument.strip_prefix('@') {
        Some(path) => {
            fs::read(path).with_context(|| format!("read the payload from the file {path}"))?
        }
        None => argument.as_bytes().to_vec(),
    };
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What the schema found, as in `slot 12182 by {"json":"user"}`.
fn key(key: &ExplainedKey) -> String {
    let found = match (&key.session, key.slot) {
        (Some(session), _) => session.clone(),
        (None, Some(slot)) => slot.to_string(),
        (None, None) => "not found".to_owned(),
    };
    format!("{} {found} by {}", key.target, key.schema)
}

fn print(explanation: &Explanation) -> Result<()> {
    output::line(format_args!(
        "outcome  {} {}",
        explanation.outcome, explanation.rule
    ))?;
    output::line(format_args!("verdict  {}", explanation.verdict))?;
    let kind = explanation.kind.as_deref().unwrap_or("none");
    output::line(format_args!("vip      {kind}"))?;
    if let Some(found) = &explanation.key {
        output::line(format_args!("key      {}", key(found)))?;
    }
    if let Some(worker) = &explanation.worker {
        let name = worker.name.as_deref().unwrap_or("");
        output::line(format_args!("worker   {} {name} {}", worker.id, worker.mac))?;
    }
    if !explanation.details.is_empty() {
        output::line(format_args!("noticed  {}", explanation.details.join(", ")))?;
    }
    if let Some(out) = &explanation.packet_out {
        let status = out.status.as_ref();
        let status = status.map_or_else(String::new, |status| format!(" {status}"));
        output::line(format_args!("leaves   {} → {}", out.src_mac, out.dst_mac))?;
        if let Some(outer) = &out.outer {
            let port = outer
                .source_port
                .map_or_else(String::new, |port| format!(" port {port}"));
            output::line(format_args!(
                "         {} {}{port} → {}",
                outer.mode, outer.source, outer.destination
            ))?;
        }
        output::line(format_args!(
            "         {} → {}",
            out.source, out.destination
        ))?;
        output::line(format_args!("         {}{status}", out.kind))?;
    }
    Ok(())
}
