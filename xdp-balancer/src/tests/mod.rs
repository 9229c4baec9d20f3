//! Floor 1: the pipeline on the host, over fake tables. `tests/prog` runs the loaded program the same way.

mod answer;
mod forward;
mod load;
mod memory;
mod parse;
mod police;
mod route;
mod rows;
mod tunnel;

use std::collections::BTreeMap;

use ebpf_common::{
    ids::{FunctionId, WorkerId},
    maps::{Affinity, Counter, FunctionEntry, WorkerState},
    wire::RpcHeader,
};

use crate::{
    Verdict, balance,
    testing::{
        FakeTables, HostPacket,
        frame::{Frame, VIP, VIP_PORT},
    },
};

const FUNCTION: FunctionId = FunctionId(0xf00d);

/// A VIP, two idle workers 1 and 2, and a function with `affinity` that is warm on both.
fn tables(affinity: Affinity) -> FakeTables {
    let mut tables = FakeTables::default();
    tables.add_vip(VIP, VIP_PORT);
    tables.add_worker(1, WorkerState::Up);
    tables.add_worker(2, WorkerState::Up);
    warm_on(&mut tables, affinity, &[1, 2]);
    tables
}

/// Deploys the function as warm on `workers`, with worker 2 as its only home.
fn warm_on(tables: &mut FakeTables, affinity: Affinity, workers: &[u16]) {
    let warm: Vec<_> = workers.iter().copied().map(WorkerId).collect();
    let entry = FunctionEntry::new(affinity, &warm);
    tables.functions.insert(FUNCTION, entry);
    tables.set_home(FUNCTION, &[WorkerId(2)]);
}

fn request() -> RpcHeader {
    RpcHeader::request(FUNCTION, 0x1234)
}

/// Runs one frame: verdict, the frame afterwards, and every counter that moved.
fn run(tables: &FakeTables, bytes: Vec<u8>) -> (Verdict, Vec<u8>, BTreeMap<Counter, u64>) {
    let mut packet = HostPacket::new(bytes);
    let verdict = balance(&mut packet, tables);
    (verdict, packet.bytes, tables.take_counters())
}

fn run_header(
    tables: &FakeTables,
    header: RpcHeader,
) -> (Verdict, Vec<u8>, BTreeMap<Counter, u64>) {
    run(tables, Frame::rpc(header, b"payload").bytes())
}

/// One packet with `outcome`, and the details given.
fn counted(outcome: Counter, details: &[Counter]) -> BTreeMap<Counter, u64> {
    let mut expected = BTreeMap::from([(Counter::Packets, 1), (outcome, 1)]);
    for detail in details {
        *expected.entry(*detail).or_default() += 1;
    }
    expected
}

/// The worker a frame was sent to, by its MAC address.
fn worker_of(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[4], frame[5]])
}
