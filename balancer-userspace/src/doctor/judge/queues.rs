//! Whether packets are spread over CPUs: queues, hash, interrupts, memory nodes.

use std::collections::BTreeSet;

use crate::doctor::{
    Report,
    facts::{Channels, Interface},
    report::Notes,
};

pub(super) fn judge(interface: &Interface, cpus: u32, report: &mut Report) {
    let mut notes = Notes::of(&interface.name, report);
    judge_queues(interface, cpus, &mut notes);
    judge_rss(interface, &mut notes);
    judge_irqs(interface, cpus, &mut notes);
    match interface.numa_node {
        Some(node) if node >= 0 => notes.ok(
            "memory node",
            format!("{node}: packets are cheapest on its CPUs (/sys/devices/system/node/node{node}/cpulist)"),
        ),
        _ => notes.not_applicable("memory node", "the interface belongs to none"),
    }
}

fn judge_queues(interface: &Interface, cpus: u32, notes: &mut Notes<'_>) {
    const CHECK: &str = "queues";
    let name = &interface.name;
    let Some(Channels {
        now,
        max,
        is_combined,
    }) = interface.channels
    else {
        notes.not_applicable(CHECK, "the driver has no channels to set");
        return;
    };
    let wanted = max.min(cpus);
    let finding = format!("{now} of at most {max} receive, on {cpus} CPUs");
    if now >= wanted {
        notes.ok(CHECK, finding);
    } else {
        let kind = if is_combined { "combined" } else { "rx" };
        notes.warning(CHECK, finding, format!("ethtool -L {name} {kind} {wanted}"));
    }
}

fn judge_rss(interface: &Interface, notes: &mut Notes<'_>) {
    const CHECK: &str = "RSS";
    let name = &interface.name;
    let queues = interface.channels.map_or(0, |channels| channels.now);
    if queues <= 1 {
        notes.not_applicable(CHECK, "one queue: nothing to spread over");
        return;
    }
    match &interface.rss_queues {
        None => notes.not_applicable(CHECK, "the driver does not show its table"),
        Some(table) if (table.len() as u64) < u64::from(queues) => notes.warning(
            CHECK,
            format!("the hash reaches {} of {queues} queues", table.len()),
            format!("ethtool -X {name} equal {queues}"),
        ),
        Some(_) => notes.ok(CHECK, format!("the hash reaches all {queues} queues")),
    }
    for (protocol, with_ports) in &interface.hashes_ports {
        if *with_ports {
            notes.ok("RSS fields", format!("{protocol}: addresses and ports"));
        } else {
            notes.warning(
                "RSS fields",
                format!("{protocol}: addresses alone, so a client's flows all meet one queue"),
                format!("ethtool -N {name} rx-flow-hash {protocol} sdfn"),
            );
        }
    }
}

fn judge_irqs(interface: &Interface, cpus: u32, notes: &mut Notes<'_>) {
    const CHECK: &str = "interrupts";
    if interface.irqs.is_empty() {
        notes.not_applicable(CHECK, "none of this interface's own");
        return;
    }
    let reached: BTreeSet<u32> = interface
        .irqs
        .iter()
        .flat_map(|irq| irq.cpus.iter().copied())
        .collect();
    let list = |cpus: &BTreeSet<u32>| {
        let cpus: Vec<_> = cpus.iter().map(u32::to_string).collect();
        cpus.join(",")
    };
    let several = interface.channels.is_some_and(|channels| channels.now > 1);
    if several && cpus > 1 && reached.len() == 1 {
        let mend: Vec<_> = interface
            .irqs
            .iter()
            .zip((0..cpus).cycle())
            .map(|(irq, cpu)| format!("echo {cpu} > /proc/irq/{}/smp_affinity_list", irq.number))
            .collect();
        notes.warning(
            CHECK,
            format!("all {} go to CPU {}", interface.irqs.len(), list(&reached)),
            mend.join("; "),
        );
    } else {
        let each: Vec<_> = interface
            .irqs
            .iter()
            .map(|irq| format!("{} → {}", irq.name, list(&irq.cpus)))
            .collect();
        notes.ok(CHECK, each.join(", "));
    }
}
