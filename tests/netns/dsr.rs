//! Requests through the balancer, replies past it.

use std::{collections::BTreeMap, net::IpAddr};

use ebpf_common::{
    hash::slot_of_key,
    wire::{RpcHeader, flags},
};
use tests::topology::{Layout, VIP};

use crate::{
    bed::{Bed, metric},
    client::request,
    witness::Witness,
};

const CALLS: u64 = 5_000;

#[test]
fn one_arm_sends_requests_back_out_and_replies_never_touch_it() {
    let bed = Bed::new(Layout::OneArm, 3);
    let _echoes = bed.echoes();
    let client = bed.client();
    let witness = Witness::at([&bed.topology.balancer]);
    for number in 0..CALLS {
        let Some(answer) = client.call("echo") else {
            panic!("call {number} was not answered\n{}", bed.diagnosis());
        };
        assert_eq!(
            answer.from,
            Bed::vip().into(),
            "the reply comes from the VIP"
        );
    }
    assert_eq!(bed.counter("route", "warm"), CALLS);
    // Had the replies come back this way, their first few hundred would be among what the balancer's kernel got; there
    // is something, for the workers' heartbeats come this way.
    let mut senders = witness.sources();
    let members: Vec<IpAddr> = (bed.topology.workers.iter())
        .map(|worker| worker.address().into())
        .collect();
    tests::wait::until("heartbeats", crate::bed::PATIENCE, || {
        senders.append(&mut witness.sources());
        let has_come = |member| senders.contains(member);
        Ok(members.iter().all(has_come).then_some(()))
    })
    .unwrap();
    assert!(!senders.contains(&VIP.into()), "{senders:?}");
    let mode = metric(
        &bed.metrics(),
        "balancer_xdp_mode{interface=\"eth0\",mode=\"native\"}",
    );
    assert!((mode.unwrap() - 1.0).abs() < f64::EPSILON);
}

#[test]
fn two_arms_redirect_between_interfaces() {
    let bed = Bed::new(Layout::TwoArms, 2);
    let _echoes = bed.echoes();
    let client = bed.client();
    let mut by_worker = BTreeMap::<String, u32>::new();
    for _ in 0..200 {
        let answer = client.call("echo").unwrap();
        assert_eq!(answer.from, Bed::vip().into());
        *by_worker.entry(answer.worker).or_default() += 1;
    }
    assert_eq!(by_worker.len(), 2, "{by_worker:?}");
    assert_eq!(bed.counter("route", "warm"), 200);
    let workers = bed.worker_statuses();
    assert!(
        workers
            .iter()
            .all(|worker| worker.interface.as_deref() == Some("eth1"))
    );
}

#[test]
fn every_rule_sends_to_the_worker_it_names_and_the_counters_add_up() {
    let bed = Bed::new(Layout::OneArm, 3);
    let _echoes = bed.echoes();
    let client = bed.client();
    for session in 0..20 {
        let first = client.call_session("talk", session).unwrap().worker;
        for _ in 0..5 {
            assert_eq!(client.call_session("talk", session).unwrap().worker, first);
        }
    }
    for number in 0..100 {
        let key = format!("key-{number}");
        let owner = usize::from(slot_of_key(key.as_bytes()).0) / (16_384 / 3);
        let answer = client.call_key("store", &key).unwrap();
        assert_eq!(answer.worker, format!("w{}", owner.min(2)));
    }
    // The cookie that a worker seals leads back to it, by keys that the control plane gave it.
    for _ in 0..20 {
        let answer = client.call("echo").unwrap();
        let again = RpcHeader {
            flags: flags::FIRST | flags::LAST | flags::HAS_COOKIE,
            route_cookie: answer.header.route_cookie,
            ..request("echo")
        };
        assert_eq!(client.send(again).unwrap().worker, answer.worker);
    }
    assert_eq!(bed.counter("route", "cookie"), 20);
    assert_eq!(bed.counter("route", "shard"), 100);
    assert_eq!(bed.counter("route", "session"), 100);
    assert_eq!(bed.counter("detail", "session_created"), 20);
    tests::wait::until("the counters to add up", crate::bed::PATIENCE, || {
        let (packets, outcomes) = bed.sums();
        Ok((packets == outcomes).then_some(()))
    })
    .unwrap();
    let text = bed.metrics();
    let cookie = metric(
        &text,
        "balancer_outcomes_total{class=\"route\",label=\"cookie\"}",
    );
    assert!((cookie.unwrap() - 20.0).abs() < f64::EPSILON);
}

#[test]
fn a_function_that_is_not_deployed_is_answered_by_the_program() {
    let bed = Bed::new(Layout::OneArm, 1);
    let _echoes = bed.echoes();
    let answer = bed.client().call("nobody").unwrap();
    assert_eq!(answer.header.kind, ebpf_common::wire::Kind::Error);
    assert_eq!(bed.counter("error", "unknown_function"), 1);
}
