//! LOAD packets of a worker that has its number, its keys and the address from the control plane: the program's row follows
//! them, and routing follows the row. What anybody else sends changes nothing.

use std::{net::UdpSocket, sync::Arc};

use balancer_userspace::membership::protocol::{Assignment, LoadTarget};
use ebpf_common::{
    ids::WorkerId,
    load::LoadReport,
    maps::{WorkerLoad, name},
};
use prometheus::Registry;
use tests::{
    topology::{Host, Layout},
    wait,
};
use worker::{
    load::Load,
    metrics::ReportMetrics,
    report::{EVERY, Reporter},
};

use crate::bed::{Bed, PATIENCE};

/// What the worker of these tests takes at a time; by heartbeat, an echo says 16.
const CAPACITY: u32 = 8;
/// Of a forged packet: nobody else says so.
const FORGED: u32 = 77;

/// Sends LOAD packets from `host`, as a worker with `assignment` does.
fn reporter(host: &Host, load: &Arc<Load>, assignment: &Assignment) -> Reporter {
    let metrics = ReportMetrics::register(&Registry::new()).unwrap();
    // The thread that it starts is in the namespace, too.
    let reporter = host
        .netns
        .enter(|| Reporter::start(Arc::clone(load), metrics));
    let reporter = reporter.unwrap().unwrap();
    reporter.assign(std::slice::from_ref(assignment));
    reporter
}

fn row(bed: &Bed, id: WorkerId) -> WorkerLoad {
    let map = aya::maps::MapData::from_pin(bed.pin_path().join(name::WORKER_LOAD)).unwrap();
    let map = aya::maps::Map::from_map_data(map).unwrap();
    let rows = aya::maps::Array::<_, WorkerLoad>::try_from(map).unwrap();
    rows.get(&id.0.into(), 0).unwrap()
}

/// Waits until the row says what the worker has received, answered and can take.
fn await_row(bed: &Bed, id: WorkerId, (received, completed): (u64, u64)) {
    wait::until("the row to follow the LOAD packets", PATIENCE, || {
        let row = row(bed, id);
        let is = (row.received, row.completed, row.capacity);
        Ok((is == (received, completed, CAPACITY)).then_some(()))
    })
    .unwrap();
}

fn dropped(bed: &Bed) -> u64 {
    let counters = balancer_userspace::maps::counters(&bed.pin_path()).unwrap();
    let drops = counters.iter().filter(|counter| counter.class == "drop");
    drops.map(|counter| counter.value).sum()
}

#[test]
fn the_row_follows_a_worker_that_seals_with_the_keys_it_was_assigned() {
    let bed = Bed::new(Layout::OneArm, 2);
    let echoes = bed.echoes();
    let (host, id) = (&bed.topology.workers[0], bed.worker_id("w0"));
    let client = bed.client();
    assert_eq!(
        row(&bed, id).sequence,
        0,
        "heartbeats alone, until the first packet"
    );
    let load = Arc::new(Load::new(CAPACITY));
    let assignment = echoes[0].assignment();
    let reporter = reporter(host, &load, &assignment);
    await_row(&bed, id, (0, 0));

    let permits: Vec<_> = (0..CAPACITY).map(|_| load.admit().unwrap()).collect();
    await_row(&bed, id, (8, 0));
    for _ in 0..100 {
        let worker = client.call("echo").unwrap().worker;
        assert_eq!(worker, "w1", "w0 has as many in flight as it takes");
    }
    drop(permits);
    await_row(&bed, id, (8, 8));
    let goes_to_w0 = || client.call("echo").filter(|answer| answer.worker == "w0");
    wait::until("w0 to get work again", PATIENCE, || Ok(goes_to_w0())).unwrap();

    // The keys change: the worker is told, and goes on with the new ones.
    bed.runtime.block_on(bed.admin().rotate_keys()).unwrap();
    wait::until("the worker to be told of the new keys", PATIENCE, || {
        let is_new = echoes[0].assignment().key_epoch != assignment.key_epoch;
        Ok(is_new.then_some(()))
    })
    .unwrap();
    reporter.assign(&[echoes[0].assignment()]);
    drop(load.admit().unwrap());
    await_row(&bed, id, (9, 9));
    assert_eq!(bed.counter("drop", "load_forged"), 0);
    assert!(bed.counter("consume", "load") > 0);
}

/// LOAD packets under `assignment`, which is not what the control plane said, until the program has dropped some as `reason`.
fn refused(bed: &Bed, host: &Host, assignment: &Assignment, reason: &str) {
    let before = bed.counter("drop", reason);
    let forged = Arc::new(Load::new(FORGED));
    let _reporter = reporter(host, &forged, assignment);
    wait::until(reason, PATIENCE, || {
        Ok((bed.counter("drop", reason) >= before + 3).then_some(()))
    })
    .unwrap();
}

#[test]
fn packets_with_another_key_number_or_bit_change_no_row() {
    let bed = Bed::new(Layout::OneArm, 2);
    let echoes = bed.echoes();
    let (host, id) = (&bed.topology.workers[0], bed.worker_id("w0"));
    let assignment = echoes[0].assignment();
    let target = assignment.load.unwrap();
    let load = Arc::new(Load::new(CAPACITY));
    let reporter = reporter(host, &load, &assignment);
    drop(load.admit().unwrap());
    await_row(&bed, id, (1, 1));
    drop(reporter);

    let keys = target.keys.map(|[k0, k1]| [k0 ^ 1, k1]);
    let other_keys = Assignment {
        load: Some(LoadTarget { keys, ..target }),
        ..assignment.clone()
    };
    refused(&bed, host, &other_keys, "load_forged");
    let other_epoch = Assignment {
        key_epoch: assignment.key_epoch.wrapping_add(1),
        ..assignment.clone()
    };
    refused(&bed, host, &other_epoch, "load_forged");
    // Its key is its own: with it, it can speak neither for another worker nor for none that there is.
    for worker_id in [bed.worker_id("w1").0, 999] {
        let another = Assignment {
            worker_id,
            ..assignment.clone()
        };
        refused(&bed, host, &another, "load_forged");
    }

    let before = row(&bed, id);
    assert_eq!(before.capacity, CAPACITY);
    flip_every_bit(&bed, host, &assignment);
    // The others go on as if nothing had been sent.
    assert_eq!(row(&bed, bed.worker_id("w1")).sequence, 0);
    assert!(bed.client().call("echo").is_some());
}

/// A packet that would be taken in, 512 times, each with one bit flipped; then as it was, which shows that it would.
fn flip_every_bit(bed: &Bed, host: &Host, assignment: &Assignment) {
    let id = WorkerId(assignment.worker_id);
    let before = row(bed, id);
    let target = assignment.load.unwrap();
    let epoch = assignment.key_epoch;
    let report = LoadReport {
        worker: id,
        sequence: before.sequence + EVERY.as_micros() as u64,
        received: 1_000,
        completed: 0,
        capacity: FORGED,
    };
    let packet = report.seal(epoch, target.key(epoch)).emit();
    let socket = host
        .netns
        .enter(|| UdpSocket::bind((host.address(), 0)))
        .unwrap()
        .unwrap();
    let drops = dropped(bed);
    for bit in 0..packet.len() * 8 {
        let mut flipped = packet;
        flipped[bit / 8] ^= 1 << (bit % 8);
        socket.send_to(&flipped, target.address).unwrap();
    }
    let flips = packet.len() as u64 * 8;
    wait::until("every flipped packet to be dropped", PATIENCE, || {
        Ok((dropped(bed) >= drops + flips).then_some(()))
    })
    .unwrap();
    assert_eq!(
        row(bed, id),
        before,
        "a packet with a flipped bit was taken in"
    );
    socket.send_to(&packet, target.address).unwrap();
    wait::until("the packet as it was to be taken in", PATIENCE, || {
        Ok((row(bed, id).capacity == FORGED).then_some(()))
    })
    .unwrap();
}
