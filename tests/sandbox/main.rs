//! What a handler can do, and what it can do to others: a pool with real sandboxes, a real store and a real
//! database engine, in this process. Needs root, as the pool does.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "all of this binary is a test: helpers panic where they stand, measurements are printed"
)]

mod bed;
mod bill;
mod builders;
mod cache;
mod concurrency;
mod contained;
mod cpu_latency;
mod escape;
mod http;
mod isolation;
mod layers;
mod leftovers;
mod limits;
mod logs;
mod measure;
mod misbehaving;
mod network;
mod packages;
mod pauses;
mod profile;
mod rootfs;
mod runtimes;
mod secrets;
mod serving;
mod streams;
mod waiting;
mod warmth;
mod zygotes;
