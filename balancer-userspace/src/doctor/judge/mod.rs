//! From facts to verdicts. Pure: everything here can be tested on machines that we have not.

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

use super::{Facts, Options, Report};

/// Every check that the role needs, in the order in which one would mend things.
pub(super) fn judge(facts: &Facts, options: &Options) -> Report {
    let mut report = Report::default();
    let role = options.role;
    kernel::judge(facts, &mut report);
    if role.has_balancer() {
        bpf::judge(facts, &mut report);
    }
    for interface in &facts.interfaces {
        interface::judge(interface, &mut report);
        if interface.link.is_some() {
            offload::judge(interface, options.vip_mtu, &mut report);
            queues::judge(interface, facts.cpus, &mut report);
            sysctl::judge_interface(interface, facts, role, &mut report);
        }
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
