//! LOAD packets: taken in when they are ours and new, otherwise counted and without effect.

use std::collections::BTreeMap;

use ebpf_common::{
    ids::WorkerId,
    load::LoadReport,
    maps::{Affinity, Class, Counter, VipInfo, VipKind, WorkerLoad, WorkerState},
    wire::RpcHeader,
};
use prog_tests::program::{Action, Program};
use xdp_balancer::testing::{
    FakeTables,
    frame::{Frame, RPC_OFFSET},
};

use crate::case::{self, warm_on};

const ADDRESS: [u8; 4] = [10, 80, 0, 2];
const PORT: u16 = 7_001;
const REPORT: LoadReport = LoadReport {
    worker: WorkerId(1),
    sequence: 100,
    received: 57,
    completed: 50,
    capacity: 10,
};

/// Workers 1 and 2, both warm; 1 has less in flight, so that new work goes there.
fn tables() -> FakeTables {
    let mut tables = case::tables(Affinity::None);
    warm_on(&mut tables, Affinity::None, &[1, 2]);
    tables.set_load(1, 2, 10);
    tables.set_load(2, 5, 10);
    tables.add_vip_of(ADDRESS, PORT, 17, VipInfo::new(1, VipKind::Load));
    tables
}

fn program(tables: &FakeTables) -> Program {
    let mut program = Program::load(prog_tests::object(), &[]).unwrap();
    program.apply(tables).unwrap();
    program
}

/// `report` as its worker would send it in `epoch`.
fn sealed(tables: &FakeTables, report: LoadReport, epoch: u8) -> RpcHeader {
    let keys = tables.config.unwrap().load_keys();
    report.seal(epoch, keys.of(report.worker, epoch))
}

/// The frame of `report`, sealed in `epoch`.
fn frame(tables: &FakeTables, report: LoadReport, epoch: u8) -> Vec<u8> {
    Frame {
        destination: ADDRESS.into(),
        port: PORT,
        ..Frame::rpc(sealed(tables, report, epoch), b"")
    }
    .bytes()
}

/// The counters that one packet moves, `Packets` left out.
fn counted(program: &mut Program, frame: &[u8]) -> Vec<Counter> {
    let before = program.counters().unwrap();
    let (action, after) = program.run(frame).unwrap();
    assert_eq!(action, Action::Drop);
    assert_eq!(after, frame, "the frame stays as it is");
    let moved = |(counter, value): (Counter, u64)| {
        let by = value - before.get(&counter).copied().unwrap_or(0);
        assert!(by <= 1);
        (by == 1 && counter != Counter::Packets).then_some(counter)
    };
    program
        .counters()
        .unwrap()
        .into_iter()
        .filter_map(moved)
        .collect()
}

/// Where the warm rule sends a request.
fn goes_to(program: &mut Program) -> u16 {
    let (action, frame) = program.run(&case::frame()).unwrap();
    assert_eq!(action, Action::Tx);
    u16::from_be_bytes([frame[4], frame[5]])
}

#[test]
fn a_report_becomes_the_row_and_counts_from_what_was_sent() {
    let tables = tables();
    let mut program = program(&tables);
    for _ in 0..3 {
        assert_eq!(goes_to(&mut program), 1);
    }
    let before = program.load_of(WorkerId(1)).unwrap();
    // Before its first LOAD packet only the heartbeat's 2 count, not what was sent.
    assert_eq!((before.sent, before.in_flight_now()), (3, 2));
    let report = frame(&tables, REPORT, 1);
    assert_eq!(counted(&mut program, &report), [Counter::ConsumeLoad]);
    let row = program.load_of(WorkerId(1)).unwrap();
    assert!(row.reported_ns > 0);
    let wanted = WorkerLoad {
        sent: 3,
        sent_at_report: 3,
        sequence: 100,
        reported_ns: row.reported_ns,
        received: 57,
        completed: 50,
        in_flight: 7,
        capacity: 10,
        reserved: 0,
    };
    assert_eq!(row, wanted);
    assert_eq!(row.in_flight_now(), 7);
    assert_eq!(goes_to(&mut program), 2, "by now the less loaded one");
    // The other worker's row has the request that it was just sent, and nothing else.
    let other = WorkerLoad {
        sent: 1,
        ..WorkerLoad::new(5, 10)
    };
    assert_eq!(program.load_of(WorkerId(2)).unwrap(), other);
}

#[test]
fn the_epoch_before_is_valid_and_others_are_not() {
    let mut tables = tables();
    tables.config.as_mut().unwrap().key_epoch = 8;
    let mut program = program(&tables);
    for (sequence, epoch, counter) in [
        (1, 8, Counter::ConsumeLoad),
        (2, 7, Counter::ConsumeLoad),
        (3, 6, Counter::DropLoadForged),
        (4, 9, Counter::DropLoadForged),
    ] {
        let report = LoadReport { sequence, ..REPORT };
        let packet = frame(&tables, report, epoch);
        assert_eq!(counted(&mut program, &packet), [counter], "epoch {epoch}");
    }
    assert_eq!(program.load_of(WorkerId(1)).unwrap().sequence, 2);
}

#[test]
fn a_worker_cannot_report_for_another() {
    let tables = tables();
    let mut program = program(&tables);
    let keys = tables.config.unwrap().load_keys();
    let rows = [1, 2].map(|worker| tables.load(worker));
    for key in [keys.of(WorkerId(2), 1), keys.roots[1]] {
        let packet = Frame {
            destination: ADDRESS.into(),
            port: PORT,
            ..Frame::rpc(REPORT.seal(1, key), b"")
        };
        let counters = counted(&mut program, &packet.bytes());
        assert_eq!(counters, [Counter::DropLoadForged]);
        let now = [1, 2].map(|worker| program.load_of(WorkerId(worker)).unwrap());
        assert_eq!(now, rows);
    }
}

#[test]
fn a_replay_and_an_overtaken_report_are_stale() {
    let tables = tables();
    let mut program = program(&tables);
    let now = frame(&tables, REPORT, 1);
    assert_eq!(counted(&mut program, &now), [Counter::ConsumeLoad]);
    let row = program.load_of(WorkerId(1)).unwrap();
    let older = LoadReport {
        sequence: 99,
        received: 70,
        ..REPORT
    };
    for packet in [now, frame(&tables, older, 1)] {
        assert_eq!(counted(&mut program, &packet), [Counter::DropLoadStale]);
        assert_eq!(program.load_of(WorkerId(1)).unwrap(), row);
    }
    // A worker that starts again counts from zero, but numbers on.
    let restarted = LoadReport {
        sequence: 101,
        received: 0,
        completed: 0,
        ..REPORT
    };
    let packet = frame(&tables, restarted, 1);
    assert_eq!(counted(&mut program, &packet), [Counter::ConsumeLoad]);
    assert_eq!(program.load_of(WorkerId(1)).unwrap().in_flight_now(), 0);
}

#[test]
fn a_worker_that_is_not_known_reports_in_vain() {
    let mut tables = tables();
    tables.add_worker(3, WorkerState::Absent);
    let mut program = program(&tables);
    for worker in [3, 4, 255, 256, u16::MAX] {
        let report = LoadReport {
            worker: WorkerId(worker),
            ..REPORT
        };
        let packet = frame(&tables, report, 1);
        assert_eq!(
            counted(&mut program, &packet),
            [Counter::DropLoadUnknown],
            "{worker}"
        );
    }
    let row = WorkerLoad::new(0, 10);
    assert_eq!(program.load_of(WorkerId(3)).unwrap(), row);
}

#[test]
fn no_flipped_bit_of_a_report_changes_routing() {
    let tables = tables();
    let mut program = program(&tables);
    let good = frame(&tables, REPORT, 1);
    let rows = || [1, 2].map(|worker| tables.load(worker));
    let mut by_counter: BTreeMap<Counter, u32> = BTreeMap::new();
    for bit in 0..512 {
        let mut bad = good.clone();
        bad[RPC_OFFSET + bit / 8] ^= 1 << (bit % 8);
        let counters = counted(&mut program, &bad);
        let [counter] = counters[..] else {
            panic!("bit {bit}: {counters:?}");
        };
        assert_eq!(counter.class(), Class::Drop, "bit {bit}: {counter:?}");
        *by_counter.entry(counter).or_default() += 1;
        let now = [1, 2].map(|worker| program.load_of(WorkerId(worker)).unwrap());
        assert_eq!(now, rows(), "bit {bit}");
    }
    println!("{by_counter:?}");
    // Those that the parser lets through. The others make it another protocol, version, kind or length.
    assert!(by_counter[&Counter::DropLoadForged] >= 6 * 64);
    assert_eq!(goes_to(&mut program), 1);
    // The packet itself was good all the time.
    assert_eq!(counted(&mut program, &good), [Counter::ConsumeLoad]);
    assert_eq!(goes_to(&mut program), 2);
}

#[test]
fn the_load_address_takes_nothing_else_and_an_rpc_vip_takes_no_reports() {
    let tables = tables();
    let mut program = program(&tables);
    let elsewhere = Frame {
        destination: ADDRESS.into(),
        port: PORT,
        ..Frame::rpc(case::request(), b"payload")
    };
    let frames = [
        elsewhere.bytes(),
        Frame::rpc(sealed(&tables, REPORT, 1), b"").bytes(),
    ];
    for packet in frames {
        assert_eq!(
            counted(&mut program, &packet),
            [Counter::DropUnexpectedKind]
        );
    }
    let row = tables.load(1);
    assert_eq!(program.load_of(WorkerId(1)).unwrap(), row);
}
