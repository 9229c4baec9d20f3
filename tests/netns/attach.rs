//! How and where the program is attached, and what is said when it cannot be.

use tests::{topology::Layout, wait};

use crate::bed::{Bed, Hosts, PATIENCE, metric};

const LO: &str = "[[interface]]\nname = \"lo\"\n";

#[test]
fn generic_mode_is_taken_only_when_asked_for() {
    let hosts = Hosts::new(Layout::OneArm, 1);
    // The loopback driver cannot run XDP natively.
    hosts.write_config(LO, "");
    let refusal = hosts.refusal();
    assert!(refusal.contains("cannot run XDP natively"), "{refusal}");
    assert!(
        refusal.contains("mode ="),
        "it says how to mend it: {refusal}"
    );

    hosts.write_config(&format!("{LO}mode = \"auto\"\n"), "");
    let mut bed = hosts.start();
    assert_eq!(bed.status().interfaces[0].mode.as_deref(), Some("generic"));
    assert!(
        bed.control
            .log_tail()
            .contains("NATIVE XDP IS NOT POSSIBLE")
    );
    let mode = metric(
        &bed.metrics(),
        "balancer_xdp_mode{interface=\"lo\",mode=\"generic\"}",
    );
    assert!((mode.unwrap() - 1.0).abs() < f64::EPSILON);

    // A restart that no longer allows it does not inherit it.
    bed.control.kill().unwrap();
    let hosts = bed.into_hosts();
    hosts.write_config(LO, "");
    assert!(hosts.refusal().contains("cannot run XDP natively"));
}

#[test]
fn generic_mode_works_when_asked_for() {
    let hosts = Hosts::new(Layout::OneArm, 2);
    hosts.write_config(&hosts.all_interfaces("generic"), "");
    let bed = hosts.start();
    let _echoes = bed.echoes();
    assert_eq!(bed.status().interfaces[0].mode.as_deref(), Some("generic"));
    let client = bed.client();
    for _ in 0..50 {
        client.call("echo").unwrap();
    }
}

#[test]
fn an_interface_that_is_not_there_is_named() {
    let hosts = Hosts::new(Layout::OneArm, 1);
    hosts.write_config("[[interface]]\nname = \"eth7\"\n", "");
    let refusal = hosts.refusal();
    assert!(refusal.contains("no interface `eth7`"), "{refusal}");
}

#[test]
fn another_program_on_the_interface_is_not_pushed_aside() {
    let hosts = Hosts::new(Layout::OneArm, 1);
    let pass = tests::pass::PassProgram::attach(&hosts.topology.balancer.netns, &["eth0"]).unwrap();
    hosts.write_config(&hosts.all_interfaces("native"), "");
    let refusal = hosts.refusal();
    assert!(refusal.contains("another XDP program"), "{refusal}");
    drop(pass);
    let bed = hosts.start();
    assert_eq!(bed.status().interfaces[0].mode.as_deref(), Some("native"));
}

#[test]
fn an_interface_made_anew_gets_the_program_back() {
    let bed = Bed::new(Layout::OneArm, 1);
    let _echoes = bed.echoes();
    let nic = bed.topology.balancer.nic().clone();
    let old_index = bed.status().interfaces[0].ifindex;
    let netns = &bed.topology.balancer.netns;
    netns.ip("link del eth0").unwrap();
    wait::until("the interface to be missed", PATIENCE, || {
        Ok(bed.status().interfaces[0].mode.is_none().then_some(()))
    })
    .unwrap();

    let (switch, name) = (&bed.topology.switch, netns.name());
    let (port, mac) = (&nic.port, nic.mac_text());
    switch
        .ip(&format!(
            "link add {port} type veth peer name eth0 address {mac} netns {name}"
        ))
        .unwrap();
    switch
        .ip(&format!("link set {port} master br0 up"))
        .unwrap();
    let _pass = tests::pass::PassProgram::attach(switch, &[port]).unwrap();
    netns
        .ip(&format!("addr add {}/24 dev eth0", nic.address))
        .unwrap();
    netns.ip("link set eth0 up").unwrap();
    wait::until("the program to be attached again", PATIENCE, || {
        let status = bed.status();
        let interface = &status.interfaces[0];
        Ok((interface.mode.is_some() && interface.ifindex != old_index).then_some(()))
    })
    .unwrap();
    bed.wait_settled(1);
    let client = bed.client();
    wait::until("an answer", PATIENCE, || Ok(client.call("echo"))).unwrap();
}

#[test]
fn a_busy_port_is_named_before_anything_changes() {
    let hosts = Hosts::new(Layout::OneArm, 1);
    hosts.write_config(&hosts.all_interfaces("native"), "");
    let address = hosts.topology.balancer.address();
    let _taken = hosts
        .topology
        .balancer
        .netns
        .enter(|| std::net::TcpListener::bind((address, 7000)))
        .unwrap()
        .unwrap();
    let refusal = hosts.refusal();
    assert!(
        refusal.contains("another process listens there"),
        "{refusal}"
    );
    assert!(!hosts.pin_path().exists());
}
