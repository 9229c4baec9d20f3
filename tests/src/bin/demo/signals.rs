//! Ctrl-C, SIGTERM and SIGHUP: remove everything first, then end.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use ::tests::run;
use anyhow::{Context as _, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Exit code of a program ended by Ctrl-C, as shells write it.
const INTERRUPTED_CODE: i32 = 130;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Starts the thread that waits for signals.
pub(crate) fn watch() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the signal thread's runtime")?;
    let guard = runtime.enter();
    let mut signals = Vec::new();
    for kind in [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ] {
        signals.push(signal(kind).context("asking for signals")?);
    }
    drop(guard);
    thread::spawn(move || {
        runtime.block_on(any(&mut signals));
        INTERRUPTED.store(true, Ordering::SeqCst);
        run::close_all();
        std::process::exit(INTERRUPTED_CODE);
    });
    Ok(())
}

async fn any(signals: &mut [Signal]) {
    let each = signals.iter_mut().map(|signal| Box::pin(signal.recv()));
    futures_util::future::select_all(each).await;
}

/// Does not return once a signal has come: the thread above ends the process when all is removed.
pub(crate) fn yield_to_removal() {
    while INTERRUPTED.load(Ordering::SeqCst) {
        thread::park();
    }
}
