//! The pool of instances: where a request meets a sandbox.

mod config;
mod invocation;

use std::sync::Arc;

use ebpf_common::ids::FunctionId;
use tokio::sync::watch;

pub use self::{
    config::{PoolConfig, PoolLimits, SandboxConfig},
    invocation::{Invocation, Outcome, PoolSnapshot, Usage},
};
use crate::code::CodeCache;

/// Why a pool could not be started.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// This machine or this process cannot make sandboxes.
    #[error(transparent)]
    Sandbox(#[from] crate::sandbox::CheckError),
}

/// All instances of one worker.
#[derive(Debug)]
pub struct Pool {}

impl Pool {
    /// Starts a pool: the zygote, and the first prepared sandboxes.
    ///
    /// # Errors
    /// When sandboxes cannot be made here; the message is one line and says how to mend it.
    pub async fn start(
        config: PoolConfig,
        code: CodeCache,
        db: Arc<db::Router>,
    ) -> Result<Arc<Self>, PoolError> {
        let _ = (config, code, db);
        todo!()
    }

    /// Runs one request to its end. Dropping the future ends the instance that serves it.
    pub async fn invoke(&self, invocation: Invocation) -> Outcome {
        let _ = invocation;
        todo!()
    }

    /// The functions that have an instance, as they change.
    #[must_use]
    pub fn warm(&self) -> watch::Receiver<Vec<FunctionId>> {
        todo!()
    }

    /// The pool's numbers now.
    #[must_use]
    pub fn snapshot(&self) -> PoolSnapshot {
        todo!()
    }

    /// Ends all instances and removes everything the pool made on this host. Requests still running are
    /// cut short; new ones are answered `Draining`.
    pub async fn stop(&self) {
        todo!()
    }
}
