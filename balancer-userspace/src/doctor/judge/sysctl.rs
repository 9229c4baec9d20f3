//! Switches of the network stack.

use crate::doctor::{Facts, Report, Role, facts::Interface, report::Notes};

/// Linux's own default; a veth or a program in the generic path queues here.
const BACKLOG: u64 = 1_000;

pub(super) fn judge(facts: &Facts, report: &mut Report) {
    let mut notes = Notes::of("sysctl", report);
    const CHECK: &str = "netdev_max_backlog";
    match number(facts, "net.core.netdev_max_backlog") {
        Some(backlog) if backlog >= BACKLOG => notes.ok(CHECK, backlog.to_string()),
        Some(backlog) => notes.warning(
            CHECK,
            format!("{backlog}: bursts into a veth or the generic path are lost"),
            format!("sysctl -w net.core.netdev_max_backlog={BACKLOG}"),
        ),
        // Namespaces other than the first do not show it before Linux 6.?; it is the machine's, not ours.
        None => notes.not_applicable(CHECK, "not visible in this network namespace"),
    }
}

pub(super) fn judge_interface(
    interface: &Interface,
    facts: &Facts,
    role: Role,
    report: &mut Report,
) {
    let name = &interface.name;
    let mut notes = Notes::of(name, report);
    if role.has_balancer() {
        judge_forwarding(name, facts, &mut notes);
    }
    if role.has_worker() {
        judge_direct_return(name, facts, &mut notes);
    }
}

/// `bpf_fib_lookup` answers only for an interface that forwards.
fn judge_forwarding(name: &str, facts: &Facts, notes: &mut Notes<'_>) {
    for (family, check) in [("ipv4", "IPv4 forwarding"), ("ipv6", "IPv6 forwarding")] {
        let sysctl = format!("net.{family}.conf.{name}.forwarding");
        match number(facts, &sysctl) {
            Some(0) => notes.warning(
                check,
                "off: the kernel gives no next hops (bpf_fib_lookup); configured ones work",
                format!("sysctl -w {}=1", escaped(&sysctl, name)),
            ),
            Some(_) => notes.ok(check, "on"),
            None => notes.not_applicable(check, "this namespace has none"),
        }
    }
}

/// A worker holds the VIP and answers from it, but must not answer ARP for it, nor drop what comes for it.
fn judge_direct_return(name: &str, facts: &Facts, notes: &mut Notes<'_>) {
    for (key, least, why) in [
        (
            "arp_ignore",
            1,
            "ARP for a VIP on lo is answered: packets bypass the balancer",
        ),
        (
            "arp_announce",
            2,
            "a VIP is announced as this machine's own address",
        ),
    ] {
        // The kernel takes the larger of `all` and the interface's own.
        let value = largest(facts, name, key);
        let sysctl = format!("net.ipv4.conf.{name}.{key}");
        match value {
            Some(value) if value >= least => notes.ok(key, value.to_string()),
            Some(value) => notes.warning(
                key,
                format!("{value}; on a worker with forward = \"l2\": {why}"),
                format!("sysctl -w {}={least}", escaped(&sysctl, name)),
            ),
            None => notes.not_applicable(key, "this namespace has no IPv4"),
        }
    }
    match largest(facts, name, "rp_filter") {
        Some(1) => notes.warning(
            "rp_filter",
            "strict: a client that would be answered by another interface is dropped",
            format!(
                "sysctl -w net.ipv4.conf.all.rp_filter=0 {}=0",
                escaped(&format!("net.ipv4.conf.{name}.rp_filter"), name)
            ),
        ),
        Some(value) => notes.ok("rp_filter", value.to_string()),
        None => notes.not_applicable("rp_filter", "this namespace has no IPv4"),
    }
}

fn largest(facts: &Facts, name: &str, key: &str) -> Option<u64> {
    let of = |interface: &str| number(facts, &format!("net.ipv4.conf.{interface}.{key}"));
    of(name).max(of("all"))
}

fn number(facts: &Facts, sysctl: &str) -> Option<u64> {
    facts.sysctls.get(sysctl)?.parse().ok()
}

/// sysctl(8) takes a dot in an interface's name as a slash.
fn escaped(sysctl: &str, interface: &str) -> String {
    sysctl.replacen(interface, &interface.replace('.', "/"), 1)
}
