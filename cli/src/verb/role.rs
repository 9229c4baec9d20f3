//! Runs a role until SIGTERM or SIGINT, or until it fails.

use std::path::Path;

use anyhow::{Context, Result};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use crate::{args::RoleArgs, output::Exit};

/// Declares the function of each role: load the configuration, then run.
macro_rules! roles {
    ($($(#[$meta:meta])* $role:ident => $library:ident;)+) => {$(
        $(#[$meta])*
        pub(super) async fn $role(args: &RoleArgs) -> Result<Exit> {
            let config = ::$library::Config::load(config_path(args)?)?;
            ::$library::run(config, stop_signal()?).await?;
            Ok(Exit::Ok)
        }
    )+};
}

roles! {
    /// The control plane.
    balancer => balancer_userspace;
    /// A worker.
    worker => worker;
    /// The HTTP gateway.
    gateway => gateway;
    /// The code store.
    store => store;
    /// A database server.
    db => db;
}

fn config_path(args: &RoleArgs) -> Result<&Path> {
    args.config
        .as_deref()
        .context("--config FILE is needed to run the role")
}

/// Becomes true on the first SIGTERM or SIGINT. The second one ends the process at once, for whoever
/// does not want to wait for requests in flight.
pub(super) fn stop_signal() -> Result<watch::Receiver<bool>> {
    let mut term = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        for _ in 0..2 {
            tokio::select! {
                _ = term.recv() => {}
                _ = interrupt.recv() => {}
            }
            if stop.send_replace(true) {
                std::process::exit(1);
            }
        }
    });
    Ok(stopped)
}
