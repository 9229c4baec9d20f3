//! The rows of `xdp_balancer::testing::rows`, through the loaded program. The library's own tests run the same ones on the
//! host.

use std::collections::BTreeMap;

use ebpf_common::maps::{Counter, name};
use prog_tests::program::Program;
use xdp_balancer::{
    balance,
    testing::{
        FakeTables, HostPacket,
        rows::{self, Group, Row},
    },
};

use crate::case::{action_of, assert_same_places, loaded};

fn check(groups: Vec<Group>) {
    let mut is_checked = false;
    for group in groups {
        let mut program = loaded(&group.tables);
        let changed = what_changes(&group.tables);
        for row in &group.rows {
            check_row(&group, row, &mut program);
            if row.may_leave_something() {
                program.apply(&changed).unwrap();
            }
            is_checked = true;
        }
    }
    assert!(is_checked, "a table without rows proves nothing");
}

/// The tables without those that the program only reads: writing the Maglev table again takes long.
fn what_changes(tables: &FakeTables) -> FakeTables {
    FakeTables {
        home: BTreeMap::new(),
        slots: BTreeMap::new(),
        vip_filter: Vec::new(),
        ..tables.clone()
    }
}

fn check_row(group: &Group, row: &Row, program: &mut Program) {
    let name = format!("{}: {}", group.name, row.name);
    let before = program.counters().unwrap();
    let sent_before = to_workers(group, program);
    let (action, after) = program.run(&row.frame).unwrap();
    assert_eq!(action, action_of(row.verdict), "{name}");
    assert_eq!(after, row.after, "{name}");
    let mut expected: BTreeMap<_, _> = before;
    for counter in [Counter::Packets].iter().chain(&row.counters) {
        *expected.entry(*counter).or_default() += 1;
    }
    assert_eq!(program.counters().unwrap(), expected, "{name}");
    let [packets, requests] = to_workers(group, program);
    assert_eq!(packets - sent_before[0], row.is_sent().into(), "{name}");
    assert!(requests - sent_before[1] <= row.is_sent().into(), "{name}");
    if row.may_leave_something() {
        let tables = group.tables.clone();
        let mut packet = HostPacket::new(row.frame.clone());
        assert_eq!(balance(&mut packet, &tables), row.verdict, "{name}");
        assert_same_places(program, &tables, &name);
    }
}

/// Packets and requests that all workers of `group` together were sent.
fn to_workers(group: &Group, program: &Program) -> [u64; 2] {
    let mut sum = [0; 2];
    for worker in group.tables.workers.keys() {
        let traffic = program.traffic(name::WORKER_COUNTERS, worker.0.into());
        sum[0] += traffic.unwrap().packets;
        sum[1] += program.load_of(*worker).unwrap().sent;
    }
    sum
}

#[test]
fn headers_are_read_whatever_stands_between_them() {
    check(rows::headers());
}

#[test]
fn each_rule_holds_over_both_versions_of_ip_and_tags() {
    check(rows::rules());
}

#[test]
fn each_kind_of_vip_takes_every_frame() {
    check(rows::kinds());
}

#[test]
fn each_way_to_a_worker_takes_every_frame() {
    check(rows::ways());
}

#[test]
fn errors_are_sent_to_the_worker_they_concern() {
    check(rows::icmp());
}
