//! The worker: runs functions in sandboxes, and speaks the RPC on the VIP.

pub mod code;
pub mod pool;
pub mod runtime;
pub mod sandbox;
