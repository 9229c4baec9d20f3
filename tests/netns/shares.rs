//! `warmpath vip` and `warmpath worker drain|undrain|weight`: which packets are taken in, and who gets how much of them.

use std::{collections::BTreeMap, net::UdpSocket, time::Duration};

use balancer_userspace::maps;
use ebpf_common::maps::{WorkerState, name};
use serde_json::Value;
use tests::{
    topology::{Layout, VIP, VIP6},
    wait,
};

use crate::{
    bed::{Bed, PATIENCE},
    client::Client,
    echo::Echo,
};

/// Flows that are placed anew by a table of 65,537 entries: enough for shares to show.
const FLOWS: u64 = 400;

/// Sends a datagram from each of [`FLOWS`] ports, and says which worker answered how many.
fn flows(bed: &Bed, port: u16) -> BTreeMap<String, u64> {
    let host = &bed.topology.client;
    let mut by_worker = BTreeMap::new();
    for _ in 0..FLOWS {
        let socket = host.netns.enter(|| UdpSocket::bind((host.address(), 0)));
        let socket = socket.unwrap().unwrap();
        socket.connect((VIP, port)).unwrap();
        if let Some(worker) = asked(&socket) {
            *by_worker.entry(worker).or_default() += 1;
        }
    }
    by_worker
}

/// The worker that answers what is no request by its name.
fn asked(socket: &UdpSocket) -> Option<String> {
    socket
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    socket.send(b"who?").unwrap();
    let mut name = [0; 16];
    let len = socket.recv(&mut name).ok()?;
    Some(String::from_utf8(name[..len].to_vec()).unwrap())
}

fn listen(bed: &Bed, echoes: &mut [Echo], port: u16) {
    for (echo, host) in echoes.iter_mut().zip(&bed.topology.workers) {
        echo.listen(host, (VIP, port).into());
    }
}

#[test]
fn a_vip_is_answered_for_from_when_it_is_added_until_it_is_removed() {
    let bed = Bed::new(Layout::OneArm, 2);
    let mut echoes = bed.echoes();
    listen(&bed, &mut echoes, 53);
    bed.topology.add_ipv6().unwrap();
    for (echo, host) in echoes.iter_mut().zip(&bed.topology.workers) {
        echo.listen(host, Bed::vip6());
    }
    let host = &bed.topology.client;
    let client6 = Client::to(host, Bed::vip6());
    let socket = host.netns.enter(|| UdpSocket::bind((host.address(), 0)));
    let socket = socket.unwrap().unwrap();
    socket.connect((VIP, 53)).unwrap();
    let is_answered = || [asked(&socket).is_some(), client6.call("echo").is_some()];
    assert_eq!(is_answered(), [false, false]);
    assert_eq!(
        bed.json("vip add 10.99.0.1 53 --kind l4 --dry-run")["is_applied"],
        false
    );
    assert_eq!(is_answered(), [false, false]);

    assert_eq!(
        bed.json("vip add 10.99.0.1 53 --kind l4")["is_applied"],
        true
    );
    bed.wait_written();
    assert_eq!(is_answered(), [true, false]);
    assert_eq!(bed.json("vip add fd99::1 9000")["is_applied"], true);
    bed.wait_written();
    assert_eq!(is_answered(), [true, true]);
    // Once more of it is what is there already.
    assert!(
        bed.refused("vip add fd99::1 9000")
            .contains("is there twice")
    );

    let list = bed.json("vip list");
    let kinds = |row: &Value| (row["address"].to_string(), row["kind"].to_string());
    let listed: Vec<_> = list.as_array().unwrap().iter().map(kinds).collect();
    assert!(
        listed.contains(&("\"10.99.0.1\"".to_owned(), "\"l4\"".to_owned())),
        "{list}"
    );
    assert!(
        listed.contains(&(format!("\"{VIP6}\""), "\"rpc\"".to_owned())),
        "{list}"
    );
    let shown = bed.json("vip show 10.99.0.1:53/udp");
    assert_eq!(
        (shown.as_array().unwrap().len(), &shown[0]["port"]),
        (1, &53.into())
    );
    assert_eq!(bed.json("vip show 10.99.0.1").as_array().unwrap().len(), 2);
    assert!(bed.refused("vip show 10.99.0.77").contains("no VIP"));

    assert_eq!(
        bed.json("vip rm [fd99::1]:9000/udp --dry-run")["is_applied"],
        false
    );
    assert_eq!(is_answered(), [true, true]);
    assert_eq!(bed.json("vip rm [fd99::1]:9000/udp")["is_applied"], true);
    bed.wait_written();
    assert_eq!(is_answered(), [true, false]);
    bed.json("vip rm 10.99.0.1:53/udp");
    bed.wait_written();
    assert_eq!(is_answered(), [false, false]);
    assert!(
        bed.refused("vip rm 10.99.0.1:53/udp")
            .contains("there are 10.99.0.1:9000/udp")
    );
    assert!(
        bed.refused("vip add 10.99.0.1 0")
            .contains("port from 1 to 65535")
    );
    assert!(
        bed.client().call("echo").is_some(),
        "the other VIP of the address stays"
    );
    bed.json("map rollback");
    bed.wait_written();
    assert_eq!(is_answered(), [true, false]);
    assert!(
        maps::dump(&bed.pin_path(), name::VIPS6)
            .unwrap()
            .entries
            .is_empty()
    );
}

#[test]
fn a_worker_gets_the_share_that_its_weight_says() {
    let bed = Bed::new(Layout::OneArm, 2);
    let mut echoes = bed.echoes();
    listen(&bed, &mut echoes, 53);
    bed.json("vip add 10.99.0.1 53 --kind l4");
    bed.wait_written();
    let share = |by_worker: &BTreeMap<String, u64>| {
        assert_eq!(by_worker.values().sum::<u64>(), FLOWS, "{by_worker:?}");
        by_worker.get("w0").copied().unwrap_or(0)
    };
    let even = share(&flows(&bed, 53));
    assert!(
        (150..=250).contains(&even),
        "{even} of {FLOWS} at the same weight"
    );

    assert_eq!(
        bed.json("worker weight w0 64 --cap 9 --dry-run")["is_applied"],
        false
    );
    let row = || {
        let row = bed.rows()(bed.worker_id("w0"));
        (row.weight, row.cap)
    };
    assert_eq!(row(), (256, 0));
    bed.json("worker weight w0 64 --cap 9");
    bed.wait_written();
    assert_eq!(row(), (64, 9));
    let light = share(&flows(&bed, 53));
    assert!(
        (45..=115).contains(&light),
        "{light} of {FLOWS} at a fifth of the weight"
    );
    let status = bed.worker_statuses();
    let w0 = status.iter().find(|worker| worker.name == "w0").unwrap();
    assert_eq!((w0.weight, w0.cap), (64, Some(9)));

    bed.json("map rollback");
    bed.wait_written();
    let even = share(&flows(&bed, 53));
    assert!(
        (150..=250).contains(&even),
        "{even} of {FLOWS} after the rollback"
    );
    assert!(bed.refused("worker weight w0 0").contains("at least 1"));
}

#[test]
fn a_worker_gets_no_more_than_its_cap_allows() {
    let bed = Bed::new(Layout::OneArm, 2);
    let echoes = bed.echoes();
    let client = bed.client();
    let at_w0 = || {
        let answers = (0..100).map(|_| client.call("echo").unwrap().worker);
        answers.filter(|worker| worker == "w0").count()
    };
    // Three of sixteen, and the other is idle.
    echoes[0].heartbeat.send_modify(|beat| beat.in_flight = 3);
    echoes[1].heartbeat.send_modify(|beat| beat.in_flight = 15);
    wait::until("the loads to be known", PATIENCE, || {
        let loads = bed.worker_statuses();
        let sum: u32 = loads.iter().map(|worker| worker.in_flight).sum();
        Ok((sum == 18).then_some(()))
    })
    .unwrap();
    assert_eq!(at_w0(), 100, "the less loaded of two");
    bed.json("worker weight w0 256 --cap 3");
    bed.wait_written();
    assert_eq!(at_w0(), 0, "as many in flight as the cap allows");
    bed.json("worker weight w0 256 --cap 200");
    bed.wait_written();
    assert!(at_w0() > 0);
    bed.json("map rollback");
    bed.wait_written();
    assert_eq!(at_w0(), 0, "the cap of before");
    assert!(
        bed.refused("worker weight w0 256 --cap 0")
            .contains("at least 1")
    );
}

#[test]
fn a_worker_is_drained_and_undrained_by_name() {
    let bed = Bed::new(Layout::OneArm, 2);
    let _echoes = bed.echoes();
    let client = bed.client();
    let is_w0 = |session: &u64| client.call_session("talk", *session).unwrap().worker == "w0";
    let session = (0..64).find(is_w0).unwrap();
    let drained = bed.json("worker drain w0");
    assert_eq!(
        (&drained["name"], &drained["state"]),
        (&"w0".into(), &"draining".into())
    );
    assert_eq!(drained["drained_by_operator"], true);
    bed.wait_written();
    assert_eq!(bed.row_state("w0"), WorkerState::Draining);
    assert!((0..50).all(|_| client.call("echo").unwrap().worker == "w1"));
    assert!(is_w0(&session), "what it has stays with it");
    assert_eq!(bed.json("worker undrain w0")["state"], "up");
    bed.wait_settled(2);
    assert_eq!(bed.row_state("w0"), WorkerState::Up);
    assert!((0..50).any(|_| client.call("echo").unwrap().worker == "w0"));
    assert!(
        bed.refused("worker drain nobody")
            .contains("no worker `nobody`")
    );
}
