//! Who is alive: sources in, one versioned `Membership` out.

#[cfg(feature = "client")]
pub mod client;
pub mod protocol;
mod slot_range;
