//! What is not for a VIP is passed, untouched.

use ebpf_common::maps::Counter;
use prog_tests::program::Action;
use xdp_balancer::testing::frame::{Frame, UDP_OFFSET};

use crate::case::{Case, check_all, edited, request};

fn passed(name: &'static str, counter: Counter, edit: impl Fn(&mut [u8])) -> Case {
    Case::untouched(name, Action::Pass, counter, edited(edit))
}

#[test]
fn passes_what_is_not_ip() {
    check_all([
        passed("ARP", Counter::PassNotIp, |b| b[13] = 6),
        passed("IPv4 that says it is IPv6", Counter::PassNotVip, |b| {
            b[12..14].copy_from_slice(&[0x86, 0xdd])
        }),
        passed("a VLAN tag with no IP behind", Counter::PassNotIp, |b| {
            b[12..14].copy_from_slice(&[0x81, 0])
        }),
    ]);
}

#[test]
fn passes_what_is_not_for_a_vip() {
    let elsewhere = Frame {
        destination: [10, 99, 0, 2].into(),
        ..Frame::rpc(request(), b"")
    };
    let not_vip = Counter::PassNotVip;
    check_all([
        Case::untouched("another address", Action::Pass, not_vip, elsewhere.bytes()),
        passed("another port of the VIP's address", not_vip, |b| {
            b[UDP_OFFSET + 3] = 9
        }),
        passed("TCP to the VIP", not_vip, |b| b[23] = 6),
        passed("a fragment for another address", not_vip, |b| {
            (b[33], b[20]) = (9, 0x20)
        }),
        passed("bad IPv4 for another address", not_vip, |b| {
            (b[33], b[14]) = (9, 0x55)
        }),
        passed("cut-off UDP for another address", not_vip, |b| {
            (b[33], b[17]) = (9, 21)
        }),
    ]);
}
