//! The calls: handlers that answer, raise, end, hang, take memory, and leave daemons behind.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::{runtime::Runtime, task::JoinHandle};
use warmpath_sdk::{Call, CallError, Client, ClientConfig};

use crate::host::Host;

/// Callers at once.
const CALLERS: u64 = 8;
/// A worker that was killed answers its callers when its successor does not know their requests.
const BUDGET: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(20);

/// A handler, and how often of a hundred calls it is called.
pub(crate) struct Function {
    pub(crate) name: &'static str,
    pub(crate) manifest: &'static str,
    pub(crate) code: &'static str,
    share: u32,
}

/// What misbehaves in which way.
pub(crate) const FUNCTIONS: [Function; 7] = [
    Function {
        name: "fine",
        manifest: "memory_mb = 64",
        code: "def f(event):\n    return 1\n",
        share: 20,
    },
    Function {
        name: "raises",
        manifest: "memory_mb = 64",
        code: "def f(event):\n    raise ValueError('no')\n",
        share: 5,
    },
    Function {
        name: "ends",
        manifest: "memory_mb = 64",
        code: "import os\ndef f(event):\n    os._exit(0)\n",
        share: 50,
    },
    Function {
        name: "hangs",
        manifest: "memory_mb = 64\ntimeout_ms = 100",
        code: "import time\ndef f(event):\n    time.sleep(60)\n",
        share: 3,
    },
    Function {
        name: "hogs",
        manifest: "memory_mb = 32",
        code: "def f(event):\n    return len(bytearray(200 << 20))\n",
        share: 2,
    },
    Function {
        name: "daemon",
        manifest: "memory_mb = 64",
        code: "\
import os, time
def f(event):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(3600)
        os._exit(0)
    os._exit(0)
",
        share: 15,
    },
    Function {
        name: "litters",
        manifest: "memory_mb = 64\ntmp_mb = 4",
        code: "\
import os, socket
def f(event):
    global kept
    kept = [open(f'/tmp/{n}', 'wb') for n in range(50)] + list(socket.socketpair())
    kept[0].write(bytes(1 << 20))
    os._exit(1)
",
        share: 5,
    },
];

/// How calls ended, by what they ended with.
#[derive(Debug, Clone, Default)]
pub(crate) struct Calls(BTreeMap<String, u64>);

impl Calls {
    /// Ends that are the worker's own fault, and never due.
    pub(crate) fn faults(&self) -> Vec<String> {
        let unavailable = ["overloaded", "code_unavailable"];
        let found = self.0.iter().filter(|(end, _)| {
            unavailable
                .iter()
                .any(|name| end.ends_with(&format!(": {name}")))
        });
        found
            .map(|(end, count)| format!("{count} calls ended with {end}"))
            .collect()
    }
}

impl fmt::Display for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<_> = self
            .0
            .iter()
            .map(|(end, count)| format!("{end} {count}"))
            .collect();
        f.write_str(&parts.join(", "))
    }
}

#[derive(Debug, Default)]
struct Shared {
    paused: AtomicBool,
    stopped: AtomicBool,
    calls: Mutex<Calls>,
}

/// Callers at work.
pub(crate) struct Load {
    shared: Arc<Shared>,
    callers: Vec<JoinHandle<()>>,
    runtime: Arc<Runtime>,
}

impl Load {
    pub(crate) fn start(host: &Host, seed: u64) -> Result<Self> {
        let runtime = host.runtime();
        let shared = Arc::new(Shared::default());
        let callers = (0..CALLERS).map(|caller| {
            let _inside = runtime.enter();
            let client = Client::connect(host.rpc(), ClientConfig::default())?;
            let random = StdRng::seed_from_u64(seed.wrapping_add(caller));
            Ok(runtime.spawn(call(client, random, Arc::clone(&shared))))
        });
        let callers = callers.collect::<Result<Vec<_>>>()?;
        Ok(Self {
            shared,
            callers,
            runtime,
        })
    }

    pub(crate) fn pause(&self) {
        self.shared.paused.store(true, Ordering::Release);
    }

    pub(crate) fn resume(&self) {
        self.shared.paused.store(false, Ordering::Release);
    }

    /// Fails when a caller has ended, which none does by itself.
    pub(crate) fn check(&self) -> Result<()> {
        if self.callers.iter().any(JoinHandle::is_finished) {
            bail!("a caller has ended");
        }
        Ok(())
    }

    /// Ends the callers; how their calls ended.
    pub(crate) fn stop(self) -> Result<Calls> {
        self.shared.stopped.store(true, Ordering::Release);
        for caller in self.callers {
            self.runtime.block_on(caller).context("a caller failed")?;
        }
        let calls = self.shared.calls.lock();
        Ok(calls.unwrap_or_else(PoisonError::into_inner).clone())
    }
}

async fn call(client: Client, mut random: StdRng, shared: Arc<Shared>) {
    let all: u32 = FUNCTIONS.iter().map(|function| function.share).sum();
    while !shared.stopped.load(Ordering::Acquire) {
        if shared.paused.load(Ordering::Acquire) {
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        let mut place = random.random_range(0..all);
        let chosen = FUNCTIONS.iter().find(|function| {
            let is_it = place < function.share;
            place = place.saturating_sub(function.share);
            is_it
        });
        let Some(function) = chosen else { continue };
        let answer = client.call(Call::new(function.name).budget(BUDGET)).await;
        let end = match answer {
            Ok(_) => "ok".to_owned(),
            Err(CallError::Status { status, .. }) => status.name().to_owned(),
            Err(CallError::Timeout { .. }) => "no reply".to_owned(),
            Err(error) => error.to_string(),
        };
        let mut calls = shared.calls.lock().unwrap_or_else(PoisonError::into_inner);
        *calls
            .0
            .entry(format!("{}: {end}", function.name))
            .or_default() += 1;
    }
}
