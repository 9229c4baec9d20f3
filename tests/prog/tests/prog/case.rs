//! One row of the tables in the other files, and how it is checked.

use std::collections::BTreeMap;

use ebpf_common::{
    ids::{FunctionId, WorkerId},
    maps::{Affinity, Counter, FunctionEntry, WorkerState, home_index, name},
    wire::RpcHeader,
};
use prog_tests::program::{Action, Program, place_row};
use xdp_balancer::{
    Verdict, balance,
    testing::{
        FakeTables, HostPacket,
        frame::{Frame, VIP, VIP_PORT, forwarded},
    },
};

pub(crate) const FUNCTION: FunctionId = FunctionId(0xf00d);

/// What must become of a frame.
pub(crate) struct Expect {
    pub(crate) action: Action,
    pub(crate) frame: Vec<u8>,
    /// Counters that move by one, beside `Packets`; all others stay at zero.
    pub(crate) counters: Vec<Counter>,
}

/// A row: what it shows, the tables, the frame, and what must become of it.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) tables: FakeTables,
    pub(crate) frame: Vec<u8>,
    pub(crate) expect: Expect,
}

impl Case {
    /// The frame stays as it is and is dropped or passed.
    pub(crate) fn untouched(
        name: &'static str,
        action: Action,
        counter: Counter,
        frame: Vec<u8>,
    ) -> Self {
        Self {
            name,
            tables: tables(Affinity::None),
            expect: Expect {
                action,
                frame: frame.clone(),
                counters: vec![counter],
            },
            frame,
        }
    }

    /// The frame goes to `worker` of `tables`.
    pub(crate) fn sent(
        name: &'static str,
        tables: FakeTables,
        header: RpcHeader,
        worker: u16,
        counters: &[Counter],
    ) -> Self {
        let frame = Frame::rpc(header, b"payload").bytes();
        let info = tables.workers[&WorkerId(worker)];
        let redirected = info.ifindex > 1;
        Self {
            name,
            expect: Expect {
                action: if redirected {
                    Action::Redirect
                } else {
                    Action::Tx
                },
                frame: forwarded(&frame, &info),
                counters: counters.to_vec(),
            },
            tables,
            frame,
        }
    }

    /// Loads the program with fresh maps and checks the row, then checks that the host library agrees.
    pub(crate) fn check(&self) {
        self.check_in(&mut loaded(&self.tables));
    }

    pub(crate) fn check_in(&self, program: &mut Program) {
        let before = program.counters().unwrap();
        let (action, frame) = program.run(&self.frame).unwrap();
        assert_eq!(action, self.expect.action, "{}", self.name);
        assert_eq!(hex(frame), hex(&self.expect.frame), "{}", self.name);
        let mut expected = before;
        for counter in [Counter::Packets].iter().chain(&self.expect.counters) {
            *expected.entry(*counter).or_default() += 1;
        }
        assert_eq!(program.counters().unwrap(), expected, "{}", self.name);

        let mut packet = HostPacket::new(self.frame.clone());
        let verdict = balance(&mut packet, &self.tables);
        assert_eq!(action_of(verdict), action, "on the host: {}", self.name);
        assert_eq!(
            hex(&packet.bytes),
            hex(&self.expect.frame),
            "on the host: {}",
            self.name
        );
        assert_same_places(program, &self.tables, self.name);
    }
}

/// The program over `tables`.
pub(crate) fn loaded(tables: &FakeTables) -> Program {
    let mut program = Program::load(prog_tests::object(), &[]).unwrap();
    program.apply(tables).unwrap();
    program
}

/// That the program remembers, row by row, what the host library remembers.
pub(crate) fn assert_same_places(program: &Program, tables: &FakeTables, what: &str) {
    for (map, rows) in [
        (name::SESSIONS, &tables.sessions),
        (name::FLOWS, &tables.flows),
    ] {
        let expected: Vec<_> = rows.iter().map(place_row).collect();
        assert!(program.places(map).unwrap() == expected, "{map}: {what}");
    }
}

/// Checks every row; each has its own program.
pub(crate) fn check_all(cases: impl IntoIterator<Item = Case>) {
    let mut checked = 0;
    for case in cases {
        case.check();
        checked += 1;
    }
    assert_ne!(checked, 0, "a table without rows proves nothing");
}

/// What the driver is told for `verdict`.
pub(crate) const fn action_of(verdict: Verdict) -> Action {
    match verdict {
        Verdict::Pass => Action::Pass,
        Verdict::Drop(_) | Verdict::Consumed => Action::Drop,
        Verdict::Tx => Action::Tx,
        Verdict::Redirect { .. } => Action::Redirect,
    }
}

/// A VIP, two idle workers 1 and 2, and a function with `affinity` that is warm on 1 and at home on 2.
pub(crate) fn tables(affinity: Affinity) -> FakeTables {
    let mut tables = FakeTables::default();
    tables.add_vip(VIP, VIP_PORT);
    tables.add_worker(1, WorkerState::Up);
    tables.add_worker(2, WorkerState::Up);
    warm_on(&mut tables, affinity, &[1]);
    tables.set_home(FUNCTION, &[WorkerId(2)]);
    tables
}

/// Every entry of the Maglev table of `pool` is `worker`.
pub(crate) fn all_at_home(tables: &mut FakeTables, pool: u8, worker: u16) {
    for entry in 0..65_537 {
        let index = home_index(tables.generation(), pool, entry, 0);
        tables.home.insert(index, WorkerId(worker));
    }
}

/// Deploys the function as warm on `workers`.
pub(crate) fn warm_on(tables: &mut FakeTables, affinity: Affinity, workers: &[u16]) {
    let warm: Vec<_> = workers.iter().copied().map(WorkerId).collect();
    let entry = FunctionEntry::new(affinity, &warm);
    tables.functions.insert(FUNCTION, entry);
}

pub(crate) fn request() -> RpcHeader {
    RpcHeader::request(FUNCTION, 0x1234)
}

/// A good request.
pub(crate) fn frame() -> Vec<u8> {
    Frame::rpc(request(), b"payload").bytes()
}

/// A good request with one edit.
pub(crate) fn edited(edit: impl Fn(&mut [u8])) -> Vec<u8> {
    let mut bytes = frame();
    edit(&mut bytes);
    bytes
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One of each of `counters`, with `Packets` at `packets`.
pub(crate) fn counted(packets: u64, counters: &[(Counter, u64)]) -> BTreeMap<Counter, u64> {
    let mut expected = BTreeMap::from([(Counter::Packets, packets)]);
    expected.extend(counters.iter().copied().filter(|(_, count)| *count > 0));
    expected
}
