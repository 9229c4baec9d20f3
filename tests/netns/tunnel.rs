//! Encapsulated packets on their whole way: client, balancer, the worker's own XDP program, and the reply past the balancer.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::PathBuf,
    time::Duration,
};

use balancer_userspace::{
    api::types::DecapStatus,
    config::AttachMode,
    decap::DecapConfig,
    doctor::{Check, Options, Role, Verdict, examine},
    maps::{Decap, decap_status},
};
use ebpf_common::{
    tunnel::GUE_PORT,
    wire::{HEADER_LEN, RpcHeader},
};
use nix::errno::Errno;
use tests::{
    topology::{Host, Layout, VIP, VIP_PORT, VIP6},
    wait,
};

use crate::{
    bed::{Bed, Hosts, PATIENCE},
    client::{Client, request},
    echo::Echo,
    witness::Witness,
};

/// VIPs of the test beds by their forwarding mode; 9000 is the one of mode `l2` that every bed has.
const MODES: [(u16, &str); 2] = [(9001, "ipip"), (9002, "gue")];
/// Outer sources of packets encapsulated in IPv4 and in IPv6.
const TUNNEL4: &str = "v4 = \"172.16.0.0\"";
const TUNNEL6: &str = "v6 = \"fd16::\"";
/// The same for a worker.
pub(crate) const SOURCES4: &str = "172.16.0.0/16";
const SOURCES6: &str = "fd16::/96";
/// One of them, for packets of the test's own make.
const AS_BALANCER: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);
const CALLS: u64 = 300;
/// What an IP packet may have on every link of a test bed.
const MTU: usize = 1_500;
const SOON: Duration = Duration::from_millis(500);

/// VIPs of each family and mode, encapsulated as `tunnel` says.
pub(crate) fn config(tunnel: &str) -> String {
    let mut text = format!("[tunnel]\n{tunnel}\n");
    for (port, forward) in MODES {
        for address in [IpAddr::V4(VIP), IpAddr::V6(VIP6)] {
            text += &format!(
                "[[vip]]\naddress = \"{address}\"\nport = {port}\nforward = \"{forward}\"\n"
            );
        }
    }
    text
}

/// Two workers that are reached through a tunnel.
struct TunnelBed {
    decaps: Vec<Decap>,
    echoes: Vec<Echo>,
    bed: Bed,
}

impl TunnelBed {
    fn new(tunnel: &str) -> Self {
        let hosts = Hosts::new(Layout::OneArm, 2);
        hosts.topology.add_ipv6().unwrap();
        hosts.write_config(&hosts.all_interfaces("native"), &config(tunnel));
        let bed = hosts.start();
        let workers = &bed.topology.workers;
        let decaps = workers
            .iter()
            .map(|host| decapsulate(&bed, host, &[SOURCES4, SOURCES6]))
            .collect();
        let mut echoes = bed.echoes_at(|host| Some(host.address6()));
        for (echo, host) in echoes.iter_mut().zip(&bed.topology.workers) {
            for vip in vips() {
                echo.listen(host, vip);
            }
        }
        Self {
            decaps,
            echoes,
            bed,
        }
    }

    /// Packets that the workers' programs have counted under `label`.
    fn counted(&self, label: &str) -> Vec<u64> {
        let workers = &self.bed.topology.workers;
        workers
            .iter()
            .map(|host| counted(&status(&self.bed, host), label))
            .collect()
    }
}

fn vips() -> impl Iterator<Item = SocketAddr> {
    MODES.into_iter().flat_map(|(port, _)| {
        [IpAddr::V4(VIP), IpAddr::V6(VIP6)].map(|address| SocketAddr::new(address, port))
    })
}

fn pin_path(bed: &Bed, role: &str) -> PathBuf {
    bed.topology.run.dir().join(format!("decap-{role}"))
}

/// `[decap]` of the worker on `host`.
fn decap_config(bed: &Bed, host: &Host, sources: &[&str]) -> DecapConfig {
    DecapConfig {
        interface: "eth0".to_owned(),
        sources: sources.iter().map(ToString::to_string).collect(),
        addresses: Vec::new(),
        mode: AttachMode::Native,
        pin_path: pin_path(bed, &host.role),
    }
}

/// Takes the encapsulation off on `host`, as its worker would.
fn decapsulate(bed: &Bed, host: &Host, sources: &[&str]) -> Decap {
    let config = decap_config(bed, host, sources);
    host.netns.enter(|| Decap::start(&config)).unwrap().unwrap()
}

fn status(bed: &Bed, host: &Host) -> DecapStatus {
    let pin_path = pin_path(bed, &host.role);
    host.netns
        .enter(|| decap_status(&pin_path))
        .unwrap()
        .unwrap()
}

fn counted(status: &DecapStatus, label: &str) -> u64 {
    let mut counters = status.counters.iter();
    counters
        .find(|counter| counter.label == label)
        .unwrap()
        .value
}

#[test]
fn requests_arrive_through_every_tunnel_and_replies_go_straight_to_the_client() {
    for tunnel in [TUNNEL4, TUNNEL6] {
        let tunnels = TunnelBed::new(tunnel);
        let bed = &tunnels.bed;
        for vip in vips() {
            let client = Client::to(&bed.topology.client, vip);
            let taken_off: u64 = tunnels.counted("decapsulated").iter().sum();
            let routed = bed.counter("route", "warm");
            let witness = Witness::at([&bed.topology.balancer]);
            for number in 0..CALLS {
                let Some(answer) = client.call("echo") else {
                    let counts = tunnels.counted("decapsulated");
                    panic!(
                        "{tunnel}, {vip}: call {number} was not answered, {counts:?}\n{}",
                        bed.diagnosis()
                    );
                };
                assert!(answer.is_served());
                assert_eq!(answer.from, vip, "the reply comes from the VIP");
            }
            let taken_off = tunnels.counted("decapsulated").iter().sum::<u64>() - taken_off;
            assert_eq!(taken_off, CALLS, "{tunnel}, {vip}");
            assert_eq!(bed.counter("route", "warm") - routed, CALLS);
            let senders = witness.sources();
            assert!(!senders.contains(&vip.ip()), "{vip}: {senders:?}");
        }
        let by_worker = tunnels.counted("decapsulated");
        assert!(
            by_worker.iter().all(|packets| *packets > 0),
            "{by_worker:?}"
        );
        for reason in ["decap_source", "decap_nested", "decap_bad"] {
            assert_eq!(tunnels.counted(reason), [0, 0], "{reason}");
        }
    }
}

/// An IPv4 packet from `from` to the first VIP.
fn inner(from: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(20 + payload.len()).unwrap();
    let mut packet = vec![0x45, 0];
    packet.extend(len.to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
    packet.extend(from.octets());
    packet.extend(VIP.octets());
    let sum: u32 = packet
        .chunks_exact(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap();
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// A UDP datagram without a checksum, as IPv4 allows.
fn udp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(8 + payload.len()).unwrap();
    let mut datagram = Vec::new();
    for field in [from, to, len, 0] {
        datagram.extend(field.to_be_bytes());
    }
    datagram.extend(payload);
    datagram
}

#[test]
fn what_no_balancer_sent_and_what_is_encapsulated_twice_is_dropped_and_counted() {
    let tunnels = TunnelBed::new(TUNNEL4);
    let bed = &tunnels.bed;
    let (client, worker) = (&bed.topology.client, &bed.topology.workers[0]);
    client
        .netns
        .ip(&format!("addr add {AS_BALANCER}/32 dev lo"))
        .unwrap();
    let bind = |address: Ipv4Addr| {
        let socket = client.netns.enter(|| UdpSocket::bind((address, 0)));
        let socket = socket.unwrap().unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        socket
    };
    let (own, balancer) = (bind(client.address()), bind(AS_BALANCER));
    let port = own.local_addr().unwrap().port();
    let (vip_port, _) = MODES[0];
    let request = udp(port, vip_port, &request("echo").emit());
    let good = inner(client.address(), 17, &request);
    let gue = SocketAddr::from((worker.address(), GUE_PORT));
    let is_answered = || own.recv_from(&mut [0; 2048]).is_ok();
    let await_count = |label: &str, count: u64| {
        wait::until(label, PATIENCE, || {
            Ok((counted(&status(bed, worker), label) == count).then_some(()))
        })
        .unwrap();
    };

    balancer.send_to(&good, gue).unwrap();
    assert!(is_answered(), "{:?}", status(bed, worker));
    await_count("decapsulated", 1);

    own.send_to(&good, gue).unwrap();
    await_count("decap_source", 1);
    for nested in [
        inner(client.address(), 4, &good),
        inner(client.address(), 41, &good),
        inner(client.address(), 17, &udp(port, GUE_PORT, &good)),
    ] {
        balancer.send_to(&nested, gue).unwrap();
    }
    await_count("decap_nested", 3);
    for bad in [&good[..good.len() - 1], b"not a packet at all"] {
        balancer.send_to(bad, gue).unwrap();
    }
    await_count("decap_bad", 2);
    assert!(!is_answered(), "nothing of it reached the worker's socket");

    balancer.send_to(&good, gue).unwrap();
    assert!(is_answered());
    await_count("decapsulated", 2);
}

/// The MTU of the way from `client` to `vip`, where its kernel has learnt of one.
fn path_mtu(client: &Host, vip: SocketAddr) -> Option<usize> {
    let text = client.netns.ip(&format!("route get {}", vip.ip())).unwrap();
    let mut words = text.split_whitespace();
    words.find(|word| *word == "mtu")?;
    words.next()?.parse().ok()
}

/// A request that makes a datagram of `len` bytes.
fn sized(len: usize) -> Vec<u8> {
    let plain = request("echo");
    let payload = vec![b'x'; len - HEADER_LEN];
    let header = RpcHeader {
        request_id: rand::random(),
        payload_len: u32::try_from(payload.len()).unwrap(),
        ..plain
    };
    [header.emit().to_vec(), payload].concat()
}

#[test]
fn a_request_that_does_not_fit_its_tunnel_tells_the_clients_kernel_what_would() {
    // Outer headers: IPv4 has 20 bytes, IPv6 40, UDP 8.
    for (tunnel, outer) in [(TUNNEL4, 20), (TUNNEL6, 40)] {
        let tunnels = TunnelBed::new(tunnel);
        let bed = &tunnels.bed;
        let client = &bed.topology.client;
        for vip in vips() {
            let headers = if vip.is_ipv4() { 20 + 8 } else { 40 + 8 };
            let gue = if vip.port() == MODES[1].0 { 8 } else { 0 };
            let fits = MTU - outer - gue;
            let own: IpAddr = if vip.is_ipv4() {
                client.address().into()
            } else {
                client.address6().into()
            };
            let socket = client.netns.enter(|| {
                let socket = UdpSocket::bind((own, 0))?;
                socket.connect(vip)?;
                Ok::<_, std::io::Error>(socket)
            });
            let socket = socket.unwrap().unwrap();
            socket.set_read_timeout(Some(SOON)).unwrap();
            let before = path_mtu(client, vip).unwrap_or(MTU);
            assert!(before > fits, "{tunnel}, {vip}: {before}");
            let told = bed.counter("answer", "packet_too_big");
            socket.send(&sized(before - headers)).unwrap();
            let error = socket.recv(&mut [0; 2048]).unwrap_err();
            assert_eq!(
                error.raw_os_error(),
                Some(Errno::EMSGSIZE as i32),
                "{tunnel}, {vip}: {error}\n{}",
                bed.diagnosis()
            );
            assert_eq!(path_mtu(client, vip), Some(fits), "{tunnel}, {vip}");
            assert_eq!(bed.counter("answer", "packet_too_big"), told + 1);
            // What the kernel now knows to fit does.
            socket.send(&sized(fits - headers)).unwrap();
            let len = socket.recv(&mut [0; 2048]);
            assert!(len.is_ok(), "{tunnel}, {vip}: {len:?}\n{}", bed.diagnosis());
        }
    }
}

#[test]
fn a_tunnels_end_lasts_as_long_as_it_is_held() {
    let mut tunnels = TunnelBed::new(TUNNEL4);
    let path = pin_path(&tunnels.bed, "w0");
    let has_program = |tunnels: &TunnelBed| {
        let worker = &tunnels.bed.topology.workers[0];
        let text = worker.netns.ip("link show dev eth0").unwrap();
        text.contains("prog/xdp")
    };
    assert!(has_program(&tunnels));
    assert!(status(&tunnels.bed, &tunnels.bed.topology.workers[0]).attached);
    drop(tunnels.decaps.remove(0));
    assert!(!has_program(&tunnels));
    assert!(!path.exists(), "{} is left", path.display());
    assert_eq!(tunnels.echoes.len(), 2);
    let vip = SocketAddr::from((VIP, VIP_PORT));
    let client = Client::to(&tunnels.bed.topology.client, vip);
    assert!(client.call("echo").is_some(), "mode l2 needs none");
}

/// What the doctor says, on `host`, of the worker's side.
fn diagnosed(host: &Host, decap: Option<DecapConfig>) -> Vec<Check> {
    let options = Options {
        interface: None,
        config: None,
        pin_path: PathBuf::from("/sys/fs/bpf/warmpath"),
        role: Role::Worker,
        vip_mtu: 1_500,
        trial: false,
        decap,
        sandbox: Ok(()),
        rootfs: Ok("host".to_owned()),
        landlock: 0,
    };
    let report = host.netns.enter(|| examine(&options)).unwrap().unwrap();
    report.checks
}

#[test]
fn the_doctor_says_what_a_tunnels_end_lacks() {
    let bed = Bed::new(Layout::OneArm, 1);
    let host = &bed.topology.workers[0];
    let config = decap_config(&bed, host, &[SOURCES4]);
    let checks = || diagnosed(host, Some(config.clone()));
    let expect = |checks: &[Check], name: &str, verdict: Verdict, says: &str| {
        let mut of_decap = checks.iter().filter(|check| check.subject == "decap");
        let check = of_decap.find(|check| check.check == name).unwrap();
        assert_eq!(check.verdict, verdict, "{check:?}");
        let text = format!("{} {}", check.finding, check.mend.as_deref().unwrap_or(""));
        assert!(text.contains(says), "{check:?}");
    };
    let start = "warmpath worker --config";
    expect(&checks(), "program", Verdict::Warning, start);

    let decap = decapsulate(&bed, host, &[SOURCES4]);
    let running = checks();
    expect(&running, "program", Verdict::Ok, "driver of eth0");
    expect(&running, "configuration", Verdict::Ok, "eth0");
    expect(&running, "sources", Verdict::Ok, SOURCES4);
    let own = host.address().to_string();
    expect(&running, "addresses", Verdict::Ok, &own);
    expect(&running, "outer headers", Verdict::Warning, "mtu 1528");
    expect(&running, "dropped", Verdict::Ok, "nothing");
    // The interface is examined with it, though nobody named it.
    let is_looked_at = |check: &Check| check.subject == "eth0" && check.check == "rp_filter";
    assert!(running.iter().any(is_looked_at), "{running:?}");
    let other = decap_config(&bed, host, &["172.18.0.0/16"]);
    let other = diagnosed(host, Some(other));
    expect(&other, "configuration", Verdict::Warning, "172.18.0.0/16");

    // Somebody who is no balancer.
    let client = &bed.topology.client;
    let socket = client
        .netns
        .enter(|| UdpSocket::bind((client.address(), 0)));
    let gue = (host.address(), GUE_PORT);
    let inner = inner(client.address(), 17, b"");
    socket.unwrap().unwrap().send_to(&inner, gue).unwrap();
    wait::until("the foreign packet to be dropped", PATIENCE, || {
        Ok((counted(&status(&bed, host), "decap_source") == 1).then_some(()))
    })
    .unwrap();
    expect(&checks(), "dropped", Verdict::Warning, "decap.sources");

    drop(decap);
    expect(&checks(), "program", Verdict::Warning, start);
}
