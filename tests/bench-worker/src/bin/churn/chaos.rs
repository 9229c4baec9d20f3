//! Random kills: a process in a sandbox every few sandboxes, a zygote now and then. The worker itself is killed by whoever
//! counts its lives.

use std::fmt;

use anyhow::Result;
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};

use crate::host::Host;

/// One process in a sandbox is killed for so many sandboxes, on average; instances and inits alike.
const PER_PROCESS: u64 = 10;
/// One zygote is killed for so many.
const PER_ZYGOTE: u64 = 150;

/// Who is killed when.
pub(crate) struct Chaos {
    random: StdRng,
    processes: u64,
    zygotes: u64,
}

impl Chaos {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            processes: 0,
            zygotes: 0,
        }
    }

    /// Kills what is due after `made` more sandboxes.
    pub(crate) fn strike(&mut self, host: &Host, made: u64) -> Result<()> {
        let sandboxed: Vec<u32> = host.sandboxed().into_iter().collect();
        for _ in 0..made {
            if self.random.random_range(0..PER_PROCESS) == 0
                && let Some(pid) = sandboxed.choose(&mut self.random)
            {
                self.processes += u64::from(end(*pid)?);
            }
            if self.random.random_range(0..PER_ZYGOTE) == 0
                && let Some(pid) = host.zygotes()?.choose(&mut self.random)
            {
                self.zygotes += u64::from(end(*pid)?);
            }
        }
        Ok(())
    }
}

impl fmt::Display for Chaos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} processes in sandboxes, {} zygotes",
            self.processes, self.zygotes
        )
    }
}

/// Kills a process; false when it has ended by itself.
fn end(pid: u32) -> Result<bool> {
    match kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL) {
        Ok(()) => Ok(true),
        Err(Errno::ESRCH) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
