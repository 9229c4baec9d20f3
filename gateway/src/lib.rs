//! The gateway: HTTP in, RPC to the VIP out.
//!
//! `/run/<function>[/path]` becomes one call of the VIP, with method, path, query and headers in it; a handler that
//! speaks HTTP says status and headers of the answer itself. Of a failure the status code says whose fault it was: 4xx
//! the caller's, 500, 502 and 504 the function's, 503 the platform's.
//!
//! # Layout
//! - `server` accepts connections and stops gracefully; `handler` is one HTTP request's life;
//!   `request` reads headers, `passage` puts HTTP into calls and takes it out of replies, `answer` writes
//!   status codes; `body` is whole or passes through as it comes; `deferred` has calls kept that nobody waits for; `calls` spreads calls over sockets; `caller` says who pays.
//!
//! # Invariants
//! - What a client sends is bounded before it is kept: head, body, time, connections.
//! - A request is called once: the gateway itself never repeats a call, the SDK does by the wire's rules.
//!
//! Deliberately absent: routing, which is the balancer's, and TLS (in this version).

mod answer;
mod body;
mod caller;
mod calls;
mod config;
mod deferred;
mod error;
#[cfg(fuzzing)]
pub mod fuzzing;
mod handler;
mod metrics;
mod passage;
mod request;
mod server;

pub use caller::{Prefix, PrefixError};
pub use config::Config;
pub use error::{ConfigError, RunError};
pub use server::run;
