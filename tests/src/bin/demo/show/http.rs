//! (d) `curl` through the gateway.

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{Stage, grouped};
use crate::figures::Http;

const REQUESTS: u64 = 500;

pub(crate) fn show(stage: &mut Stage<'_>) -> Result<()> {
    let requests = stage.scale.requests(REQUESTS).max(1);
    let hello = format!("{}/run/hello", stage.cluster.gateway_url());
    let codes = stage
        .screen
        .during("(d) curl", || many(stage, &hello, requests))?;
    let ok = codes.iter().filter(|code| *code == "200").count() as u64;
    stage.figures.http = Http { requests, ok };
    let greeting = curl(stage, &["-d", r#"{"name":"Ada"}"#, &hello])?;
    let (first, second) = (session(stage)?, session(stage)?);
    if first["instance"].is_null() || first["instance"] != second["instance"] {
        stage.figures.complaints.push(format!(
            "two HTTP requests of one session met different instances: {first} and {second}"
        ));
    }
    let counter = format!("{}/run/kv-counter", stage.cluster.gateway_url());
    let event = r#"{"key":"from-curl","add":41}"#;
    let shard = curl(
        stage,
        &[
            "-H",
            "X-Warmpath-Shard-Key: from-curl",
            "-d",
            event,
            &counter,
        ],
    )?;
    let code_of = |function: &str| status_code(stage, function);
    let (unknown, failing) = (code_of("no-such-function")?, code_of("failing")?);
    stage.say(&format!(
        "\n(d) HTTP: {} of {} requests by curl answered with 200\n\
         \x20   $ curl -d '{{\"name\":\"Ada\"}}' {hello}\n\
         \x20   {greeting}\n\
         \x20   with `X-Warmpath-Session: ada`, twice: {first} and {second}\n\
         \x20   with `X-Warmpath-Shard-Key: from-curl`: {shard}\n\
         \x20   an unknown function is {unknown}, one that fails is {failing}",
        grouped(ok),
        grouped(requests),
    ));
    Ok(())
}

/// The status codes of `requests` POSTs by one curl, which keeps its connection.
fn many(stage: &Stage<'_>, url: &str, requests: u64) -> Result<Vec<String>> {
    let mut args = vec!["-d", r#"{"name":"Ada"}"#, "-w", "%{http_code}\n"];
    for _request in 0..requests {
        args.extend(["-o", "/dev/null", url]);
    }
    let text = curl(stage, &args)?;
    Ok(text.lines().map(str::to_owned).collect())
}

fn session(stage: &Stage<'_>) -> Result<Value> {
    let url = format!("{}/run/session-counter", stage.cluster.gateway_url());
    let text = curl(
        stage,
        &["-X", "POST", "-H", "X-Warmpath-Session: ada", &url],
    )?;
    serde_json::from_str(&text).with_context(|| format!("session-counter replied `{text}`"))
}

fn status_code(stage: &Stage<'_>, function: &str) -> Result<String> {
    let url = format!("{}/run/{function}", stage.cluster.gateway_url());
    curl(
        stage,
        &["-X", "POST", "-o", "/dev/null", "-w", "%{http_code}", &url],
    )
}

fn curl(stage: &Stage<'_>, args: &[&str]) -> Result<String> {
    let client = &stage.cluster.topology.client;
    let output = client
        .netns
        .command("curl")
        .args(["--silent", "--show-error", "--max-time", "20"])
        .args(args)
        .output()
        .context("starting curl")?;
    if !output.status.success() {
        bail!("curl: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
