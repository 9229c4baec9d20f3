//! `warmpath fn invoke`: one call through the VIP.

use std::{io::Read, time::Duration};

use anyhow::{Context, Result};
use serde::Serialize;
use warmpath_sdk::{Call, CallError, Client, ClientConfig, Response, session_id, stream::Reply};

use crate::{
    args::InvokeArgs,
    output::{self, Exit},
};

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    status: &'static str,
    fault: &'static str,
    retryable: bool,
    message: String,
    payload: Option<String>,
    worker: Option<u16>,
    attempts: Option<u32>,
    retransmits: Option<u32>,
    elapsed_us: Option<u64>,
}

pub(super) async fn invoke(args: &InvokeArgs) -> Result<Exit> {
    let client = Client::connect(args.vip, ClientConfig::default())?;
    if args.stream {
        let streamed = stream(&client, args).await;
        return streamed.with_context(|| format!("invoke {}", args.name));
    }
    let result = client.call(call(args)?).await;
    if args.output.json {
        output::json(&report(&result))?;
    } else if let Ok(response) = &result {
        output::raw(&response.payload)?;
        output::raw(b"\n")?;
    }
    match result {
        Ok(_) => Ok(Exit::Ok),
        Err(_) if args.output.json => Ok(Exit::Failed),
        Err(error) => Err(error).with_context(|| format!("invoke {}", args.name)),
    }
}

/// Prints what comes while it comes. A reader that goes away hangs up on the handler.
async fn stream(client: &Client, args: &InvokeArgs) -> Result<Exit> {
    let mut streamed = match client.stream(call(args)?, None).await? {
        Reply::Whole(response) => {
            output::raw(&response.payload)?;
            return Ok(Exit::Ok);
        }
        Reply::Stream(streamed) => streamed,
    };
    while let Some(piece) = streamed.body.piece().await? {
        output::raw(&piece)?;
    }
    let status = streamed.head.status;
    if status >= 400 {
        output::talk(format_args!("the handler's status is {status}"));
        return Ok(Exit::Failed);
    }
    Ok(Exit::Ok)
}

fn call(args: &InvokeArgs) -> Result<Call> {
    let mut call = Call::new(&args.name)
        .payload(payload(&args.payload)?)
        .budget(Duration::from_millis(args.budget_ms.into()))
        .idempotent(args.idempotent);
    if let Some(session) = &args.session {
        call = call.session(session_id(session));
    }
    if let Some(key) = &args.shard_key {
        call = call.shard_key(key);
    }
    Ok(call)
}

/// `-` means standard input.
fn payload(argument: &str) -> Result<Vec<u8>> {
    if argument != "-" {
        return Ok(argument.as_bytes().to_vec());
    }
    let mut bytes = Vec::new();
    std::io::stdin()
        .lock()
        .read_to_end(&mut bytes)
        .context("read the payload from standard input")?;
    Ok(bytes)
}

fn report(result: &Result<Response, CallError>) -> Report {
    match result {
        Ok(response) => Report {
            status: "ok",
            fault: "nobody",
            retryable: false,
            message: String::new(),
            payload: Some(String::from_utf8_lossy(&response.payload).into_owned()),
            worker: response.worker().map(|worker| worker.0),
            attempts: Some(response.attempts),
            retransmits: Some(response.retransmits),
            elapsed_us: u64::try_from(response.elapsed.as_micros()).ok(),
        },
        Err(error) => failure(error),
    }
}

fn failure(error: &CallError) -> Report {
    let (status, fault, retryable) = match error {
        CallError::Status { status, .. } => {
            (status.name(), status.fault().name(), status.is_retryable())
        }
        CallError::Timeout { .. } => ("no_reply", "platform", false),
        CallError::PayloadTooLarge { .. } => ("payload_too_large", "caller", false),
        _ => ("not_sent", "platform", true),
    };
    Report {
        status,
        fault,
        retryable,
        message: error.to_string(),
        payload: None,
        worker: None,
        attempts: None,
        retransmits: None,
        elapsed_us: None,
    }
}
