//! `warmpath trace` as an operator runs it: what it tells of single packets, what its capture holds, and that the plain
//! program is back in every link whatever becomes of it.

use std::{
    io::Read as _,
    net::{SocketAddr, UdpSocket},
    path::PathBuf,
};

use aya::programs::{
    ProgramInfo,
    links::{FdLink, PinnedLink},
};
use ebpf_common::{
    ids::FunctionId,
    wire::{HEADER_LEN, RpcHeader},
};
use serde_json::Value;
use tests::{
    process::{Process, Spec},
    topology::{Layout, VIP, VIP_PORT},
    wait,
};

use crate::{
    bed::{Bed, PATIENCE, warmpath},
    capture::Capture,
    client::{Load, request},
};

/// Bytes of a request on the wire: Ethernet, IPv4, UDP, RPC.
const REQUEST_LEN: usize = 14 + 20 + 8 + HEADER_LEN;

/// A tracer that may still look.
struct Tracer {
    process: Process,
}

impl Tracer {
    /// Starts `warmpath trace --json` with `args`, split at spaces.
    fn spawn(bed: &Bed, args: &str) -> Self {
        let dir = bed.topology.run.dir().display();
        let line = format!(
            "trace --json --admin {dir}/balancer.sock --pin-path {dir}/bpf --seconds 30 {args}"
        );
        let process = Process::start(
            &bed.topology.run,
            &Spec {
                name: "trace",
                netns: &bed.topology.balancer.netns,
                program: &warmpath(),
                args: &line.split_whitespace().collect::<Vec<_>>(),
                piped: true,
            },
        );
        Self {
            process: process.unwrap(),
        }
    }

    /// The same, and waits until it looks.
    fn start(bed: &Bed, args: &str) -> Self {
        let mut tracer = Self::spawn(bed, args);
        tracer
            .process
            .wait_ready(PATIENCE, || {
                Ok((programs(bed).iter().all(|name| name == "traced")).then_some(()))
            })
            .unwrap();
        tracer
    }

    /// Waits for its end and returns what it printed.
    fn events(mut self) -> Vec<Value> {
        let mut text = String::new();
        let mut stdout = self.process.stdout().unwrap();
        stdout.read_to_string(&mut text).unwrap();
        let status = self.process.wait_end(PATIENCE).unwrap();
        assert!(status.success(), "{}", self.process.log_tail());
        let lines = text.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

/// Names of the programs in the pinned links.
fn programs(bed: &Bed) -> Vec<String> {
    let loaded: Vec<ProgramInfo> = aya::programs::loaded_programs()
        .filter_map(Result::ok)
        .collect();
    let entries = std::fs::read_dir(bed.pin_path()).unwrap();
    let links = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().contains("/link_"));
    let name = |path: PathBuf| {
        let link: FdLink = PinnedLink::from_pin(path).unwrap().into();
        let id = link.info().unwrap().program_id();
        let program = loaded.iter().find(|program| program.id() == id);
        // One that was replaced while we looked.
        program.map_or_else(
            || "?".to_owned(),
            |program| program.name_as_str().unwrap().to_owned(),
        )
    };
    let names: Vec<String> = links.map(name).collect();
    assert_eq!(names.len(), bed.topology.balancer.nics.len());
    names
}

fn is_plain(bed: &Bed) -> bool {
    programs(bed).iter().all(|name| name == "balancer")
}

fn wait_plain(bed: &Bed) {
    wait::until("the plain program in the links", PATIENCE, || {
        Ok(is_plain(bed).then_some(()))
    })
    .unwrap();
}

#[test]
fn a_tracer_tells_who_which_rule_which_worker_and_how_long() {
    let bed = Bed::new(Layout::TwoArms, 2);
    let _echoes = bed.echoes();
    assert!(is_plain(&bed));
    let load = Load::start(bed.client(), |client, _number| {
        client.call_key("store", "foo")
    });
    let pcap = bed.topology.run.dir().join("trace.pcapng");
    let source = bed.topology.client.address();
    let filter = format!(
        "--count 6 --function echo --source {source}/32 --vip {VIP}:{VIP_PORT} --outcome route --pcap {}",
        pcap.display()
    );
    let tracer = Tracer::start(&bed, &filter);
    let client = bed.client();
    let workers: Vec<String> = (0..6)
        .map(|_| client.call("echo").unwrap().worker)
        .collect();
    let events = tracer.events();
    assert!(is_plain(&bed), "the plain program is back when it ends");
    let tally = load.stop();
    assert!(tally.sent > 0);
    assert_eq!(
        (tally.lost, tally.refused),
        (0, 0),
        "{tally:?}\n{}",
        bed.diagnosis()
    );

    let [front, back] = &bed.topology.balancer.nics[..] else {
        panic!("two arms have two interfaces");
    };
    assert_eq!(events.len(), 6, "what others called was left out");
    let told: Vec<&str> = events
        .iter()
        .map(|event| event["worker"].as_str().unwrap())
        .collect();
    assert_eq!(
        told, workers,
        "each packet's worker is the one that answered"
    );
    for event in &events {
        assert_eq!(event["function"], "echo@latest", "{event}");
        assert_eq!(event["outcome"], "route/warm", "{event}");
        assert_eq!(event["destination"], format!("{VIP}:{VIP_PORT}"), "{event}");
        let from: SocketAddr = event["source"].as_str().unwrap().parse().unwrap();
        assert_eq!(from.ip(), source, "{event}");
        assert_eq!(event["frame_len"], REQUEST_LEN, "{event}");
        assert_eq!(event["sent_len"], REQUEST_LEN, "{event}");
        assert_eq!(event["ifindex"], front.ifindex, "{event}");
        assert_eq!(event["out_ifindex"], back.ifindex, "{event}");
        // A machine that is busy with other things may take the CPU away; a second is beyond that.
        let ns = event["ns"].as_u64().unwrap();
        assert!((1..1_000_000_000).contains(&ns), "{event}");
    }
    check_capture(&bed, &Capture::read(&pcap), &workers);
}

/// The capture holds each request as it came in and as it went to its worker.
fn check_capture(bed: &Bed, capture: &Capture, workers: &[String]) {
    assert_eq!(
        capture.interfaces,
        ["eth0", "eth1"],
        "by the balancer's names"
    );
    assert_eq!(capture.frames.len(), 2 * workers.len());
    let balancer = &bed.topology.balancer.nics;
    for (pair, worker) in capture.frames.chunks_exact(2).zip(workers) {
        let [came, left] = pair else { unreachable!() };
        assert_eq!((came.interface, left.interface), (0, 1));
        assert_eq!((came.is_outbound, left.is_outbound), (false, true));
        assert_eq!(
            (came.comment.as_str(), left.comment.as_str()),
            ("route/warm", "route/warm")
        );
        assert_eq!((came.len, left.len), (REQUEST_LEN, REQUEST_LEN));
        assert!(left.time_ns > came.time_ns);
        let hosts = &bed.topology.workers;
        let host = hosts.iter().find(|host| &host.role == worker).unwrap();
        assert_eq!(came.bytes[..6], balancer[0].mac);
        assert_eq!(left.bytes[..6], host.nic().mac);
        assert_eq!(left.bytes[6..12], balancer[1].mac);
        assert_eq!(left.bytes[30..34], VIP.octets(), "forwarded at layer 2");
        assert_eq!(
            came.bytes[34..],
            left.bytes[34..],
            "UDP and RPC are untouched"
        );
        let (header, _payload) = RpcHeader::parse(&left.bytes[42..]).unwrap().unwrap();
        assert_eq!(header.function, FunctionId::of("echo"));
    }
}

#[test]
fn a_filter_on_outcomes_tells_why_packets_were_dropped_or_refused() {
    let bed = Bed::new(Layout::OneArm, 1);
    let _echoes = bed.echoes();
    let tracer = Tracer::start(&bed, "--outcome drop --outcome error --count 2");
    let client = bed.client();
    client.call("echo").unwrap();
    let refusal = client.call("nobody").unwrap();
    assert_eq!(refusal.worker, "", "the program answered, no worker");
    let netns = &bed.topology.client.netns;
    netns
        .enter(|| {
            let mut datagram = request("echo").emit();
            datagram[0] ^= 1;
            let socket = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
            socket.send_to(&datagram, (VIP, VIP_PORT)).unwrap();
        })
        .unwrap();
    let events = tracer.events();
    let outcomes: Vec<&str> = events
        .iter()
        .map(|event| event["outcome"].as_str().unwrap())
        .collect();
    assert_eq!(outcomes, ["error/unknown_function", "drop/bad_magic"]);
    assert!(events.iter().all(|event| event.get("worker").is_none()));
    assert!(
        events[0]["sent_len"].is_u64(),
        "the refusal went back to the client"
    );
    assert!(events[1].get("sent_len").is_none(), "a drop goes nowhere");
}

#[test]
fn a_tracer_that_is_killed_leaves_the_plain_program_behind() {
    let mut bed = Bed::new(Layout::OneArm, 2);
    let _echoes = bed.echoes();
    let load = Load::start(bed.client(), |client, number| match number % 2 {
        0 => client.call("echo"),
        _ => client.call_session("talk", number % 50),
    });
    let mut killed = Tracer::start(&bed, "--function echo --sample 100");
    let second = Tracer::spawn(&bed, "--count 1").refusal();
    assert!(second.contains("only one can at a time"), "{second}");
    killed.process.kill().unwrap();
    wait_plain(&bed);

    // Without a control plane the links wait for `--off`, and packets do not notice either.
    bed.control.kill().unwrap();
    let mut killed = Tracer::start(&bed, "--function echo --sample 100");
    killed.process.kill().unwrap();
    assert!(!is_plain(&bed), "nobody is there to give the links back");
    let packets = bed.counter("packets", "packets");
    wait::until("packets through the orphan", PATIENCE, || {
        Ok((bed.counter("packets", "packets") > packets + 200).then_some(()))
    })
    .unwrap();
    let given_back = Tracer::spawn(&bed, "--off").events();
    assert_eq!(given_back, [serde_json::json!({ "links_given_back": 1 })]);
    assert!(is_plain(&bed));
    let tally = load.stop();
    assert_eq!(
        (tally.lost, tally.refused),
        (0, 0),
        "{tally:?}\n{}",
        bed.diagnosis()
    );
}

impl Tracer {
    /// What one says that must refuse to look.
    fn refusal(mut self) -> String {
        let status = self.process.wait_end(PATIENCE).unwrap();
        assert!(!status.success());
        self.process.log_tail()
    }
}
