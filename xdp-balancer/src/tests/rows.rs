//! The rows of `testing::rows`, on the host. Package `prog-tests` runs the same ones through the loaded program.

use std::collections::BTreeMap;

use ebpf_common::maps::Counter;

use super::run;
use crate::{
    DropReason,
    testing::{
        FakeTables, HostPacket,
        rows::{self, Group},
    },
};

fn check(groups: Vec<Group>) {
    assert!(!groups.is_empty());
    for group in groups {
        assert!(!group.rows.is_empty(), "{}", group.name);
        let mut tables = group.tables.clone();
        for row in &group.rows {
            let name = format!("{}: {}", group.name, row.name);
            let before = to_workers(&tables);
            let (verdict, after, counters) = run(&tables, row.frame.clone());
            let [packets, requests] = to_workers(&tables);
            assert_eq!(packets - before[0], row.is_sent().into(), "{name}");
            assert!(requests - before[1] <= row.is_sent().into(), "{name}");
            assert_eq!(verdict, row.verdict, "{name}");
            assert_eq!(after, row.after, "{name}");
            let mut expected = BTreeMap::from([(Counter::Packets, 1)]);
            expected.extend(row.counters.iter().map(|counter| (*counter, 1)));
            assert_eq!(counters, expected, "{name}");
            if row.may_leave_something() {
                tables = group.tables.clone();
            }
        }
    }
}

/// Packets and requests that all workers together were sent.
fn to_workers(tables: &FakeTables) -> [u64; 2] {
    let packets = tables.worker_counters.borrow();
    let loads = tables.loads.borrow();
    [
        packets.values().map(|it| it.packets).sum(),
        loads.values().map(|it| it.sent).sum(),
    ]
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

/// By a link that cuts frames off: the IP length tells, before any header behind it is believed.
#[test]
fn a_frame_of_any_shape_cut_at_any_length_is_dropped() {
    let tables: FakeTables = rows::tables(ebpf_common::maps::Affinity::None);
    for (name, frame) in rows::shapes() {
        let whole = frame.carrying(rows::request(), b"payload").bytes();
        let fixed = frame.ip_offset() + if frame.source.is_ipv4() { 20 } else { 40 };
        for len in 0..whole.len() {
            let reason = match len {
                len if len < frame.ip_offset() => DropReason::TruncatedEthernet,
                len if len < fixed => DropReason::TruncatedIp,
                _ => DropReason::BadIp,
            };
            let mut packet = HostPacket::new(whole[..len].to_vec());
            let verdict = crate::balance(&mut packet, &tables);
            assert_eq!(verdict, crate::Verdict::Drop(reason), "{name}: {len}");
            assert_eq!(packet.bytes, whole[..len], "{name}: {len}");
            let expected = BTreeMap::from([(Counter::Packets, 1), (reason.counter(), 1)]);
            assert_eq!(tables.take_counters(), expected, "{name}: {len}");
        }
    }
}
