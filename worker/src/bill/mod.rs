//! What each request used, to the last nanosecond.
//!
//! # Layout
//! - [`Usage`] is the bill of one request; [`Meter`] splits what an instance's cgroup has used among the requests
//!   that ran in it; [`Gauge`] feeds it from the cgroup's counters.
//! - [`Line`] is many bills added up; [`Ledger`] has one for each function, version and caller; [`BillReport`] is what the
//!   admin API says of it. [`BillConfig`] says whose word about the caller counts; `payers` for whom the worker itself calls.
//!
//! # Invariants
//! - Nothing falls between two bills: the charges of an instance and its remainder together are what its
//!   cgroup has used, from the making of its sandbox to the end of its last process.
//! - What a handler says of itself is never asked: all figures are the kernel's or the worker's own.
//! - However many callers there are, memory is bounded and the sums stay true.

mod gateways;
mod gauge;
mod ledger;
mod line;
mod meter;
mod payers;
mod report;
mod usage;

pub(crate) use self::payers::{Loan, Payers};
pub use self::{
    gateways::{BillConfig, Word},
    gauge::Gauge,
    ledger::{Account, Caller, Ledger, OTHER, Subject},
    line::{Line, Peak, WhatIf},
    meter::{Charge, Meter, Reading, Ticket},
    report::{BillLine, BillReport, UnbilledLine},
    usage::{DbOps, Usage},
};
