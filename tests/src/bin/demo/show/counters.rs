//! (g) Every packet is in the books, under one rule or one reason.

use anyhow::Result;
use ebpf_common::maps::Class;

use super::{Entry, Stage, grouped};
use crate::figures::Counters;

const OUTCOMES: &[Class] = &[
    Class::Route,
    Class::Error,
    Class::Answer,
    Class::Drop,
    Class::Consume,
    Class::Pass,
];

pub(crate) fn show(stage: &mut Stage<'_>) -> Result<()> {
    let counters = stage.cluster.counters()?;
    stage.figures.counters = Counters {
        packets: counters.packets(),
        sum_of_outcomes: counters.outcomes(),
    };
    stage.say("\n(g) Counters of the XDP program, read from its map");
    for class in OUTCOMES {
        let of_class = counters.values.iter().filter(|it| it.class == class.name());
        for counter in of_class.filter(|it| it.value > 0) {
            let (class, label) = (&counter.class, &counter.label);
            stage.say(&format!(
                "    {class:<6} {label:<22} {:>12}",
                grouped(counter.value)
            ));
        }
    }
    stage.say(&format!(
        "    all outcomes {:>29}\n    packets seen {:>29}",
        grouped(counters.outcomes()),
        grouped(counters.packets()),
    ));
    let sum = |of: fn(&Entry) -> u64| grouped(stage.books.iter().map(of).sum());
    stage.say(&format!(
        "    of these, the clients of (a), (b), (c), (e), (f) sent {}; {} were counted under a rule or reason,\n\
         \x20   and full queues on the way dropped {} frames",
        sum(|entry| entry.sent),
        sum(|entry| entry.counted),
        sum(|entry| entry.dropped),
    ));
    for entry in stage.books.iter().filter(|entry| !entry.adds_up()) {
        let complaint = format!(
            "in {} the client sent {} packets to the VIP, the program counted {}, and {} frames were dropped",
            entry.part, entry.sent, entry.counted, entry.dropped
        );
        stage.figures.complaints.push(complaint);
    }
    Ok(())
}
