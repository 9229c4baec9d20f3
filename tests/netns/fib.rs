//! Next hops from the kernel's routes: a worker behind a router, whose MAC address the balancer does not know at first.

use std::net::Ipv4Addr;

use balancer_userspace::{config::AttachMode, decap::DecapConfig, maps::Decap};
use tests::{
    netns::Netns,
    topology::{Host, Layout, Nic, VIP},
};

use crate::{
    bed::{Bed, Hosts},
    client::Client,
    echo::Echo,
    tunnel::{SOURCES4, config},
};

const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 80, 0, 50);
const FAR: Ipv4Addr = Ipv4Addr::new(10, 90, 0, 2);
const CALLS: u64 = 300;

/// A worker in a network of its own, behind a router on the balancer's: client and balancer ── router ── far.
fn far_worker(hosts: &Hosts) -> Host {
    let topology = &hosts.topology;
    let router = Netns::create(&topology.run, "router").unwrap();
    let far = Netns::create(&topology.run, "far").unwrap();
    let (inside, beyond) = (router.name(), far.name());
    let switch = |line: String| topology.switch.ip(&line).unwrap();
    switch(format!(
        "link add router-0 type veth peer name eth0 netns {inside}"
    ));
    switch("link set router-0 master br0 up".to_owned());
    for line in [
        format!("link add eth1 type veth peer name eth0 netns {beyond}"),
        format!("addr add {ROUTER}/24 dev eth0"),
        "addr add 10.90.0.1/24 dev eth1".to_owned(),
        "link set eth0 up".to_owned(),
        "link set eth1 up".to_owned(),
    ] {
        router.ip(&line).unwrap();
    }
    for line in [
        format!("addr add {FAR}/24 dev eth0"),
        "link set eth0 up".to_owned(),
        "route add default via 10.90.0.1".to_owned(),
        format!("addr add {VIP}/32 dev lo"),
    ] {
        far.ip(&line).unwrap();
    }
    for (netns, interfaces) in [
        (&router, &["all", "eth0", "eth1"][..]),
        (&far, &["all", "eth0"]),
    ] {
        for interface in interfaces {
            let key = format!("net.ipv4.conf.{interface}.rp_filter");
            netns.sysctl(&key, "0").unwrap();
        }
    }
    router.sysctl("net.ipv4.ip_forward", "1").unwrap();
    far.run("ethtool", &["-K", "eth0", "tx", "off"]).unwrap();
    let balancer = &topology.balancer.netns;
    balancer.sysctl("net.ipv4.ip_forward", "1").unwrap();
    balancer
        .ip(&format!("route add 10.90.0.0/24 via {ROUTER}"))
        .unwrap();
    let index = far.enter(|| nix::net::if_::if_nametoindex("eth0"));
    Host {
        role: "far".to_owned(),
        netns: far,
        nics: vec![Nic {
            name: "eth0".to_owned(),
            address: FAR,
            mac: [2, 0, 0, 0, 0, 9],
            ifindex: index.unwrap().unwrap(),
            port: "eth1".to_owned(),
        }],
    }
}

/// A bed whose only worker is far away, and is asked of the kernel's routes.
fn bed() -> (Bed, Host, Decap, Echo) {
    let hosts = Hosts::new(Layout::OneArm, 0);
    let far = far_worker(&hosts);
    // The MAC address is that of nobody: only the kernel's routes lead there.
    let worker =
        format!("[[worker]]\nname = \"far\"\naddress = \"{FAR}\"\nmac = \"02:00:00:00:00:09\"\n");
    let more = config("v4 = \"172.16.0.0\"") + &worker;
    let path = hosts.write_config(&hosts.all_interfaces("native"), &more);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("fib = true\n{text}")).unwrap();
    let bed = hosts.start();
    bed.wait_settled(1);
    let decap = DecapConfig {
        interface: "eth0".to_owned(),
        sources: vec![SOURCES4.to_owned()],
        addresses: Vec::new(),
        mode: AttachMode::Native,
        pin_path: bed.topology.run.dir().join("decap-far"),
    };
    let decap = far.netns.enter(|| Decap::start(&decap)).unwrap().unwrap();
    let echo = Echo::alone(&far, (VIP, 9001).into());
    (bed, far, decap, echo)
}

#[test]
fn a_worker_behind_a_router_is_found_by_the_kernels_routes_even_before_its_neighbour_is_known() {
    let (bed, far, _decap, mut echo) = bed();
    echo.listen(&far, (VIP, 9002).into());
    let balancer = &bed.topology.balancer.netns;
    let neighbours = |text: &str| text.contains(&ROUTER.to_string());
    balancer.ip("neigh flush dev eth0").unwrap();
    assert!(!neighbours(&balancer.ip("neigh show dev eth0").unwrap()));
    for port in [9001, 9002] {
        let client = Client::to(&bed.topology.client, (VIP, port).into());
        for number in 0..CALLS {
            let Some(answer) = client.call("echo") else {
                panic!(
                    "{port}: call {number} was not answered\n{}",
                    bed.diagnosis()
                );
            };
            assert_eq!(answer.worker, "far");
            assert_eq!(answer.from, (VIP, port).into());
        }
    }
    let unknown = bed.counter("pass", "no_neighbour");
    assert!(unknown >= 1, "the first packet is passed to the kernel");
    assert!(neighbours(&balancer.ip("neigh show dev eth0").unwrap()));
    assert_eq!(
        bed.counter("route", "home") + unknown,
        2 * CALLS,
        "from then on the program sends for itself\n{}",
        bed.diagnosis()
    );
    println!("{unknown} of {} packets went by the kernel", 2 * CALLS);
}

#[test]
fn a_worker_that_no_route_leads_to_is_counted() {
    let (bed, ..) = bed();
    let balancer = &bed.topology.balancer.netns;
    balancer.ip("route del 10.90.0.0/24").unwrap();
    let client = Client::to(&bed.topology.client, (VIP, 9001).into());
    assert!(client.call("echo").is_none());
    assert_eq!(bed.counter("drop", "no_route"), 1);
}
