//! The gateway: HTTP in, RPC to the VIP out.
//!
//! `POST /run/<function>` becomes one call of the VIP; the answer's status code says whose fault a
//! failure was: 4xx the caller's, 502 and 504 the function's, 503 the platform's.
//!
//! # Layout
//! - `server` accepts connections and stops gracefully; `handler` is one HTTP request's life;
//!   `request` reads headers, `answer` writes status codes; `calls` spreads calls over sockets.
//!
//! # Invariants
//! - What a client sends is bounded before it is kept: head, body, time, connections.
//! - A request is called once: the gateway itself never repeats a call, the SDK does by the wire's rules.
//!
//! Deliberately absent: routing, which is the balancer's, and TLS (in this version).

mod answer;
mod calls;
mod config;
mod error;
#[cfg(fuzzing)]
pub mod fuzzing;
mod handler;
mod metrics;
mod request;
mod server;

pub use config::Config;
pub use error::{ConfigError, RunError};
pub use server::run;
