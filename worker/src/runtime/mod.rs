//! How a function's code is started and spoken to inside a sandbox. A runtime is a zygote that forks
//! instances, and what runs in them; both speak the protocol of `docs/runtime-protocol.md`.

pub mod protocol;
pub mod python;
pub mod zygote;
