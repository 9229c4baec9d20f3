//! The sender against a socket that listens.

use std::net::IpAddr;

use balancer_userspace::membership::protocol::LoadTarget;
use ebpf_common::{
    load::LoadKeys,
    wire::{Kind, RpcHeader, words_of},
};
use prometheus::Registry;

use super::*;
use crate::load::Permit;

const PATIENCE: Duration = Duration::from_secs(5);
const COOKIE_KEYS: [[u64; 2]; 2] = [[1, 2], [3, 4]];
const ROOTS: [SipKey; 2] = [SipKey { k0: 11, k1: 12 }, SipKey { k0: 13, k1: 14 }];
const WORKER: WorkerId = WorkerId(7);

/// A worker's load, its reporter, and the balancer that listens.
struct Bench {
    load: Arc<Load>,
    metrics: ReportMetrics,
    reporter: Reporter,
    balancer: UdpSocket,
}

fn listen(ip: IpAddr) -> UdpSocket {
    let socket = UdpSocket::bind((ip, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Of the balancer.
const fn keys(epoch: u8) -> LoadKeys {
    LoadKeys {
        epoch,
        roots: ROOTS,
    }
}

fn assignment(epoch: u8, to: &UdpSocket) -> Assignment {
    assignment_of(WORKER, epoch, to)
}

fn assignment_of(worker: WorkerId, epoch: u8, to: &UdpSocket) -> Assignment {
    Assignment {
        worker_id: worker.0,
        key_epoch: epoch,
        cookie_keys: COOKIE_KEYS,
        load: Some(LoadTarget::of(
            to.local_addr().unwrap(),
            keys(epoch),
            worker,
        )),
        slots_version: 1,
        slots: Vec::new(),
        heartbeat_ms: 20,
        keep_warm: Vec::new(),
    }
}

fn next(balancer: &UdpSocket, epoch: u8) -> LoadReport {
    let mut bytes = [0; 64];
    assert_eq!(balancer.recv(&mut bytes).unwrap(), 64);
    let (header, _) = RpcHeader::parse(&bytes).unwrap().unwrap();
    assert_eq!(header.kind, Kind::Load);
    assert_eq!((header.token >> 56) as u8, epoch);
    keys(epoch).open(&header, words_of(&bytes)).unwrap()
}

impl Bench {
    fn start(ip: IpAddr) -> Self {
        let load = Arc::new(Load::new(16));
        let metrics = ReportMetrics::register(&Registry::new()).unwrap();
        let reporter = Reporter::start(Arc::clone(&load), metrics.clone()).unwrap();
        let balancer = listen(ip);
        reporter.assign(&[assignment(4, &balancer)]);
        Self {
            load,
            metrics,
            reporter,
            balancer,
        }
    }

    /// Reads reports until one has `wanted`.
    fn until(&self, wanted: impl Fn(&LoadReport) -> bool) -> LoadReport {
        let given_up = Instant::now() + PATIENCE;
        loop {
            let report = next(&self.balancer, 4);
            if wanted(&report) {
                return report;
            }
            assert!(Instant::now() < given_up, "{report:?}");
        }
    }
}

#[test]
fn each_change_is_told_and_the_last_packet_says_the_truth() {
    let bench = Bench::start(Ipv4Addr::LOCALHOST.into());
    let first = bench.until(|_| true);
    assert_eq!((first.worker, first.capacity), (WorkerId(7), 16));
    assert_eq!((first.received, first.completed), (0, 0));

    let permits: Vec<Permit> = (0..3).map(|_| bench.load.admit().unwrap()).collect();
    let busy = bench.until(|report| report.in_flight() == 3);
    assert_eq!((busy.received, busy.completed), (3, 0));
    assert!(busy.sequence > first.sequence);
    drop(permits);
    let idle = bench.until(|report| report.in_flight() == 0);
    assert_eq!((idle.received, idle.completed), (3, 3));
    assert!(idle.sequence > busy.sequence);
}

#[test]
fn a_quiet_worker_is_heard_of_and_a_busy_one_does_not_flood() {
    let bench = Bench::start(Ipv4Addr::LOCALHOST.into());
    // By the sender's clock: packets wait for who reads late.
    let first = bench.until(|_| true);
    let mut last = first;
    for _ in 0..5 {
        last = next(&bench.balancer, 4);
    }
    let passed = Duration::from_micros(last.sequence - first.sequence);
    assert!(passed >= 4 * (EVERY - GAP), "{passed:?}");

    let begun = Instant::now();
    let told = bench.metrics.sent_so_far();
    while begun.elapsed() < Duration::from_millis(50) {
        drop(bench.load.admit());
    }
    let told = bench.metrics.sent_so_far() - told;
    let most = begun.elapsed().as_micros() / GAP.as_micros() + 1;
    assert!(u128::from(told) <= most, "{told} packets, at most {most}");
    let (received, _) = bench.load.ever();
    let last = bench.until(|report| report.received == received);
    assert_eq!(last.in_flight(), 0);
}

#[test]
fn new_keys_and_a_new_address_are_used_from_the_next_packet_on() {
    let bench = Bench::start(Ipv4Addr::LOCALHOST.into());
    bench.until(|_| true);
    let other = listen(Ipv6Addr::LOCALHOST.into());
    bench.reporter.assign(&[assignment(5, &other)]);
    let report = next(&other, 5);
    assert_eq!(report.worker, WorkerId(7));
    // Without an address nothing is sent.
    bench.reporter.assign(&[Assignment {
        load: None,
        ..assignment(5, &other)
    }]);
    other.set_read_timeout(Some(3 * EVERY)).unwrap();
    let mut bytes = [0; 64];
    while other.recv(&mut bytes).is_ok() {}
    drop(bench.load.admit());
    assert!(other.recv(&mut bytes).is_err());
}

#[test]
fn each_balancer_is_told_the_same_as_who_the_worker_is_to_it() {
    let bench = Bench::start(Ipv4Addr::LOCALHOST.into());
    let other = listen(Ipv6Addr::LOCALHOST.into());
    let second = assignment_of(WorkerId(9), 5, &other);
    let both = [assignment(4, &bench.balancer), second];
    bench.reporter.assign(&both);
    let permit = bench.load.admit().unwrap();
    let told = bench.until(|report| report.in_flight() == 1);
    let report = loop {
        let report = next(&other, 5);
        if report.in_flight() == 1 {
            break report;
        }
    };
    assert_eq!((told.worker, report.worker), (WorkerId(7), WorkerId(9)));
    assert_eq!(report.received, 1);
    drop(permit);
    // One that is gone does not keep the other from hearing.
    bench.reporter.assign(&both[..1]);
    bench.until(|report| report.completed == 1);
}

#[test]
fn a_worker_that_starts_again_goes_on_with_higher_numbers() {
    let first = Bench::start(Ipv4Addr::LOCALHOST.into());
    drop(first.load.admit());
    let before = first.until(|report| report.completed == 1);
    drop(first);
    let second = Bench::start(Ipv4Addr::LOCALHOST.into());
    let after = second.until(|_| true);
    assert!(after.sequence > before.sequence);
    assert_eq!(after.received, 0);
}

#[test]
fn a_balancer_that_is_not_there_costs_an_error_and_no_request() {
    let bench = Bench::start(Ipv4Addr::LOCALHOST.into());
    let nobody = listen(Ipv4Addr::LOCALHOST.into());
    let assignment = assignment(4, &nobody);
    drop(nobody);
    bench.reporter.assign(&[assignment]);
    let given_up = Instant::now() + PATIENCE;
    while bench.metrics.failed_so_far() == 0 {
        assert!(Instant::now() < given_up);
        drop(bench.load.admit().unwrap());
    }
}
