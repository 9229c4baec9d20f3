//! Floor 2: the loaded program, frame by frame. Each case: tables and frame in → verdict, frame out, and
//! exactly which counters moved. Needs root; leaves nothing behind (maps are not pinned, namespaces are
//! unnamed).
#![expect(
    clippy::unwrap_used,
    clippy::tests_outside_test_module,
    reason = "all of this binary is a test; clippy knows only functions and modules that say so"
)]

mod answer;
mod budget;
mod case;
mod decap;
mod differential;
mod drop;
mod fib;
mod forward;
mod icmp;
mod kinds;
mod load;
mod pass;
mod police;
mod route;
mod rows;
mod schema;
mod session;
mod too_big;
mod trace;
mod truncate;
mod world;
