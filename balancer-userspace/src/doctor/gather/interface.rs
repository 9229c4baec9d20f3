//! All about one interface.

use super::{ethtool, irq, link, read, xdp_features};
use crate::{
    doctor::facts::{Interface, Link},
    maps,
};

/// `trial` is the object whose pass program may be attached for a moment.
pub(super) fn interface(name: &str, trial: Option<&[u8]>) -> Interface {
    let Some((link, around)) = link::link(name) else {
        return Interface {
            name: name.to_owned(),
            ..Interface::default()
        };
    };
    // Never where a program is: the trial would have to replace it.
    let trial = trial.filter(|_| link.xdp.is_none());
    Interface {
        name: name.to_owned(),
        driver: ethtool::driver(name),
        xdp_features: xdp_features::xdp_features(link.index),
        trial: trial.map(|object| maps::try_native(object, name)),
        channels: ethtool::channels(name),
        rss_queues: ethtool::rss_queues(name),
        hashes_ports: ethtool::hashes_ports(name),
        offloads: ethtool::offloads(name),
        numa_node: numa_node(&link),
        irqs: irq::irqs(name, link.parent.as_deref()),
        uppers: around.uppers,
        // No trial there: a bond takes no program while a port has one.
        ports: around
            .ports
            .iter()
            .map(|port| interface(port, None))
            .collect(),
        link: Some(link),
    }
}

/// From the bus, which all network namespaces see.
fn numa_node(link: &Link) -> Option<i32> {
    let (bus, parent) = (link.bus.as_ref()?, link.parent.as_ref()?);
    let file = format!("/sys/bus/{bus}/devices/{parent}/numa_node");
    read(file)?.parse().ok()
}
