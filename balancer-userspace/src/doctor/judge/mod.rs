//! From facts to verdicts. Pure: everything here can be tested on machines that we have not.

mod bond;
mod bpf;
mod decap;
mod idle;
mod interface;
mod kernel;
mod memory;
mod offload;
mod queues;
mod sandbox;
mod sysctl;
#[cfg(test)]
mod tests;

use super::{Facts, Options, Report, facts::Interface};

/// Every check that the role needs, in the order in which one would mend things.
pub(super) fn judge(facts: &Facts, options: &Options) -> Report {
    let mut report = Report::default();
    let role = options.role;
    kernel::judge(facts, &mut report);
    if role.has_balancer() {
        bpf::judge(facts, &mut report);
    }
    for interface in &facts.interfaces {
        judge_interface(interface, facts, options, &mut report);
    }
    sysctl::judge(facts, &mut report);
    if role.has_balancer() {
        memory::judge(&facts.memory, &mut report);
    }
    if role.has_worker() {
        idle::judge(&facts.idle, &mut report);
        decap::judge(facts, options.vip_mtu, &mut report);
        sandbox::judge(&facts.sandbox, &mut report);
    }
    report
}

/// A bond stands before its ports: the program and the addresses are its own, the hardware is theirs.
fn judge_interface(interface: &Interface, facts: &Facts, options: &Options, report: &mut Report) {
    interface::judge(interface, report);
    let Some(link) = &interface.link else {
        return;
    };
    offload::judge_mtu(interface, options.vip_mtu, report);
    if bond::is_bond(link) {
        bond::judge(interface, link, report);
    } else {
        offload::judge(interface, report);
        queues::judge(interface, facts.cpus, report);
    }
    sysctl::judge_interface(interface, facts, options.role, report);
    for port in &interface.ports {
        bond::port::judge(port, interface, report);
        if port.link.is_some() {
            offload::judge(port, report);
            queues::judge(port, facts.cpus, report);
        }
    }
}
