//! The contract between the XDP program and userspace: wire formats, map types, hashes, counters, limits.
//!
//! Who reads what: [`wire`] is read by everyone who speaks RPC over UDP (client SDK, gateway, worker,
//! XDP program); [`maps`] by the XDP program and the control plane only; [`hash`] and [`cookie`] by
//! the program, the client and the worker, which must agree to the bit; [`traffic`] by the programs that make
//! packets for benchmarks, and by those who run them.
//!
//! Invariants: no allocation, no panic on any input, no padding in any map type, byte order written
//! in the wire code and nowhere else. Each type is defined here once; `tests/layout.rs` pins its bytes.
//!
//! Deliberately absent: policy (control plane), packet parsing beyond the RPC header (`xdp-balancer`).
#![cfg_attr(not(any(test, feature = "user")), no_std)]

pub mod cookie;
pub mod cuckoo;
#[expect(
    missing_debug_implementations,
    reason = "zerocopy 0.8's IntoBytes derive writes helper types without it"
)]
pub mod event;
pub mod hash;
pub mod ids;
pub mod limits;
pub mod load;
mod map_type;
#[expect(
    missing_debug_implementations,
    reason = "zerocopy 0.8's IntoBytes derive writes helper types without it"
)]
pub mod maps;
#[expect(missing_debug_implementations, reason = "as in `maps`")]
pub mod schema;
pub mod token;
#[expect(missing_debug_implementations, reason = "as in `maps`")]
pub mod traffic;
pub mod tunnel;
#[cfg(feature = "user")]
pub mod verify;
pub mod wire;

/// Version of every map type in [`maps`] taken together. The control plane stores it in the `LAYOUT`
/// map when it loads the program, and refuses, by name, to adopt pinned maps of another version.
pub const LAYOUT_VERSION: u32 = 3;
