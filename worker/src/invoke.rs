//! The seam between RPC and pool: whoever can run one request to its end.

use std::sync::Arc;

use crate::pool::{Invocation, Outcome, Pool};

/// Runs handlers. The pool does; tests script it.
pub trait Invoker: Send + Sync + 'static {
    /// Runs one request to its end.
    fn invoke(&self, invocation: Invocation) -> impl Future<Output = Outcome> + Send;
}

impl Invoker for Arc<Pool> {
    async fn invoke(&self, invocation: Invocation) -> Outcome {
        Pool::invoke(self, invocation).await
    }
}
