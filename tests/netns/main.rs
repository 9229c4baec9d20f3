//! The control plane and the XDP program on real networks of veth pairs: what arrives where, and what
//! happens when workers and control planes come and go.
//!
//! Workers are echo servers that speak the membership protocol with the real client; they say who they
//! are in each reply. Nothing here runs functions: that is the platform's floor.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod adopt;
mod agrees;
mod attach;
mod bed;
mod capture;
mod cli;
mod client;
mod counts;
mod doctor;
mod drain;
mod dsr;
mod echo;
mod end;
mod explain;
mod failover;
mod fib;
mod load;
mod manual;
mod police;
mod policy;
mod restart;
mod retry;
mod schema;
mod shares;
mod trace;
mod tunnel;
mod witness;
