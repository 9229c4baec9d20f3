//! The control plane alone as a process, for the network tests: `control-plane CONFIG`. SIGTERM stops it.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use balancer_userspace::Config;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line, as `warmpath` itself says it.
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let path = std::env::args()
        .nth(1)
        .context("usage: control-plane CONFIG")?;
    let config = Config::load(&PathBuf::from(path))?;
    let (stop, stopped) = watch::channel(false);
    let mut terminated = signal(SignalKind::terminate()).context("watching for SIGTERM")?;
    tokio::spawn(async move {
        terminated.recv().await;
        stop.send_replace(true);
    });
    Ok(balancer_userspace::run(config, stopped).await?)
}
