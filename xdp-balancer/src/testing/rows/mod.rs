//! What must become of frames, row by row: tables and frame in → verdict, frame out, counters. The same rows are run through
//! the host library (`tests/rows.rs` here) and through the loaded program (`rows.rs` of package `prog-tests`).
//!
//! What a row expects is built by `etherparse`, or written down; never by the code under test.

mod headers;
mod icmp;
mod kinds;
mod rules;
mod ways;

use ebpf_common::{
    ids::{FunctionId, WorkerId},
    maps::{
        Affinity, Class, Counter, ForwardMode, FunctionEntry, VipInfo, VipKind, WorkerInfo,
        WorkerState, home_index,
    },
    wire::RpcHeader,
};
pub use headers::{headers, shapes};
pub use icmp::icmp;
pub use kinds::kinds;
pub use rules::rules;
pub use ways::ways;

use super::{
    FakeTables,
    extension::{self, Extension},
    frame::{Frame, VIP, VIP_PORT, VIP6},
    tunnel::{encapsulated, forwarded},
};
use crate::{DropReason, NotOurs, Verdict};

/// The function that rows call.
pub const FUNCTION: FunctionId = FunctionId(0xf00d);

/// Rows that share their tables. Each is run on the tables as they are here: none sees what another one left.
#[derive(Debug)]
pub struct Group {
    /// What the rows have in common.
    pub name: String,
    /// The tables.
    pub tables: FakeTables,
    /// The rows.
    pub rows: Vec<Row>,
}

/// A frame, and what must become of it.
#[derive(Debug)]
pub struct Row {
    /// What it shows.
    pub name: String,
    /// The frame.
    pub frame: Vec<u8>,
    /// What the driver is told.
    pub verdict: Verdict,
    /// The frame afterwards.
    pub after: Vec<u8>,
    /// Counters that move by one, beside `Packets`; all others stay as they are.
    pub counters: Vec<Counter>,
}

impl Row {
    /// Whether the tables may be others afterwards: only what is sent, answered or taken in is remembered.
    #[must_use]
    pub const fn may_leave_something(&self) -> bool {
        !matches!(self.verdict, Verdict::Pass | Verdict::Drop(_))
    }

    /// Whether a worker gets it: only then it counts as one of its packets, and may be load on it.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        let is_route = |counter: &Counter| {
            counter.class() == Class::Route || *counter == Counter::PassNoNeighbour
        };
        self.counters.iter().any(is_route)
    }

    /// It is dropped as it is.
    fn dropped(name: impl Into<String>, reason: DropReason, frame: Vec<u8>) -> Self {
        Self {
            name: name.into(),
            verdict: Verdict::Drop(reason),
            after: frame.clone(),
            counters: vec![reason.counter()],
            frame,
        }
    }

    /// It is the kernel's, as it is.
    fn passed(name: impl Into<String>, why: NotOurs, frame: Vec<u8>) -> Self {
        Self {
            name: name.into(),
            verdict: Verdict::Pass,
            after: frame.clone(),
            counters: vec![why.counter()],
            frame,
        }
    }

    /// It is answered by `answer`.
    fn answered(
        name: impl Into<String>,
        frame: Vec<u8>,
        answer: Vec<u8>,
        counters: &[Counter],
    ) -> Self {
        Self {
            name: name.into(),
            frame,
            verdict: Verdict::Tx,
            after: answer,
            counters: counters.to_vec(),
        }
    }

    /// It goes to `worker` of `tables` by `mode`.
    fn sent(
        name: impl Into<String>,
        tables: &FakeTables,
        mode: ForwardMode,
        worker: u16,
        frame: Vec<u8>,
        counters: &[Counter],
    ) -> Self {
        let info: &WorkerInfo = &tables.workers[&WorkerId(worker)];
        let after = match mode {
            ForwardMode::L2 => forwarded(&frame, info),
            mode => encapsulated(&frame, info, mode, &tables.config.expect("configured")),
        };
        let verdict = match info.ifindex {
            0 | 1 => Verdict::Tx,
            ifindex => Verdict::Redirect { ifindex },
        };
        Self {
            name: name.into(),
            frame,
            verdict,
            after,
            counters: counters.to_vec(),
        }
    }
}

/// An RPC VIP of both versions of IP; worker 1, where the function with `affinity` is warm, and worker 2, its home.
#[must_use]
pub fn tables(affinity: Affinity) -> FakeTables {
    let mut tables = FakeTables::default();
    tables.add_worker(1, WorkerState::Up);
    tables.add_worker(2, WorkerState::Up);
    tables
        .functions
        .insert(FUNCTION, FunctionEntry::new(affinity, &[WorkerId(1)]));
    tables.set_home(FUNCTION, &[WorkerId(2)]);
    set_vip(&mut tables, 17, VipInfo::new(3, VipKind::Rpc));
    tables
}

/// Makes `vip` the one of `protocol`, of both versions of IP.
fn set_vip(tables: &mut FakeTables, protocol: u8, vip: VipInfo) {
    tables.add_vip_of(VIP, VIP_PORT, protocol, vip);
    tables.add_vip6_of(VIP6, VIP_PORT, protocol, vip);
}

/// Makes `worker` the only one in the Maglev table.
fn all_at_home(tables: &mut FakeTables, worker: u16) {
    for entry in 0..65_537 {
        let index = home_index(tables.generation(), 0, entry, 0);
        tables.home.insert(index, WorkerId(worker));
    }
}

/// A request.
#[must_use]
pub fn request() -> RpcHeader {
    RpcHeader::request(FUNCTION, 0x1234)
}

/// Frames of both versions of IP with no tag, one and two: what all rules must cope with.
#[must_use]
pub fn envelopes() -> Vec<(String, Frame)> {
    let mut envelopes = Vec::new();
    for (family, frame) in [
        ("IPv4", Frame::udp(vec![])),
        ("IPv6", Frame::udp(vec![]).over_v6()),
    ] {
        for tags in [vec![], vec![7], vec![0x6007, 8]] {
            let name = format!("{family}, {} tags", tags.len());
            let frame = Frame {
                tags,
                ..frame.clone()
            };
            envelopes.push((name, frame));
        }
    }
    envelopes
}

/// The extension headers that are read, one of each kind and length that matters.
fn extensions() -> Vec<(&'static str, Extension)> {
    vec![
        ("hop by hop", Extension::options(extension::HOP_BY_HOP, 0)),
        (
            "long hop by hop",
            Extension::options(extension::HOP_BY_HOP, 3),
        ),
        ("destination", Extension::options(extension::DESTINATION, 0)),
        (
            "the longest destination",
            Extension::options(extension::DESTINATION, 255),
        ),
        ("routing, at its end", Extension::routing(0)),
        ("atomic fragment", Extension::fragment(0, false)),
    ]
}
