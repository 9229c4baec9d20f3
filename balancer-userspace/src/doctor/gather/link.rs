//! `ip -json -details link show`: one answer for state, MTU, kind, masters and the attached program.

use serde::Deserialize;

use super::output;
use crate::doctor::facts::{AttachedXdp, Link};

/// `enum` of rtnetlink's IFLA_XDP_ATTACHED, as `ip` prints it: 1 driver, 2 generic, 3 hardware, 4 several.
const XDP_DRIVER: u32 = 1;
const XDP_HARDWARE: u32 = 3;
/// Its `link` is its peer, which is neither above nor below it.
const VETH: &str = "veth";

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Answer {
    ifname: String,
    ifindex: u32,
    flags: Vec<String>,
    mtu: u32,
    max_mtu: Option<u32>,
    master: Option<String>,
    link: Option<String>,
    parentbus: Option<String>,
    parentdev: Option<String>,
    linkinfo: LinkInfo,
    xdp: Option<XdpAnswer>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LinkInfo {
    info_kind: Option<String>,
    info_slave_kind: Option<String>,
}

#[derive(Debug, Deserialize)]
struct XdpAnswer {
    mode: u32,
    prog: Option<ProgramAnswer>,
}

#[derive(Debug, Deserialize)]
struct ProgramAnswer {
    id: u32,
}

/// The interface, and the names of those on top of it. Asked of `ip` and not of sysfs, which shows another network
/// namespace's interfaces to whoever entered this one by setns(2).
pub(super) fn link(interface: &str) -> Option<(Link, Vec<String>)> {
    parse(
        &output("ip", &["-json", "-details", "link", "show"])?,
        interface,
    )
}

fn parse(json: &str, interface: &str) -> Option<(Link, Vec<String>)> {
    let answers: Vec<Answer> = serde_json::from_str(json).ok()?;
    let is_on_top = |answer: &&Answer| {
        answer.link.as_deref() == Some(interface)
            && answer.linkinfo.info_kind.as_deref() != Some(VETH)
    };
    let mut uppers: Vec<_> = answers
        .iter()
        .filter(is_on_top)
        .map(|answer| answer.ifname.clone())
        .collect();
    uppers.sort();
    let answer = answers
        .into_iter()
        .find(|answer| answer.ifname == interface)?;
    Some((read(answer), uppers))
}

fn read(answer: Answer) -> Link {
    let kind = answer.linkinfo.info_kind;
    let lower = answer.link.filter(|_| kind.as_deref() != Some(VETH));
    Link {
        index: answer.ifindex,
        is_up: answer.flags.iter().any(|flag| flag == "UP"),
        mtu: answer.mtu,
        max_mtu: answer.max_mtu.filter(|max| *max > 0),
        kind,
        slave_kind: answer.linkinfo.info_slave_kind,
        master: answer.master,
        lower,
        parent: answer.parentdev,
        bus: answer.parentbus,
        xdp: answer.xdp.map(|xdp| AttachedXdp {
            is_native: matches!(xdp.mode, XDP_DRIVER | XDP_HARDWARE),
            program: xdp.prog.map_or(0, |program| program.id),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// iproute2 6.1 on the reference machine, shortened.
    const VIRTIO: &str = r#"[{"ifindex":4,"ifname":"eth0","flags":["BROADCAST","MULTICAST","UP","LOWER_UP"],
        "mtu":1400,"qdisc":"pfifo_fast","operstate":"UP","min_mtu":68,"max_mtu":65535,
        "num_tx_queues":1,"num_rx_queues":1,"parentbus":"virtio","parentdev":"virtio2"},
        {"ifindex":7,"link":"eth0","ifname":"eth0.5","flags":[],"mtu":1400,"linkinfo":{"info_kind":"vlan"}}]"#;
    const VETH_PAIR: &str = r#"[{"ifindex":5,"link":"wpA","ifname":"wpB","flags":[],"mtu":1500,"linkinfo":{"info_kind":"veth"}},
        {"ifindex":6,"link":"wpB","ifname":"wpA","flags":["BROADCAST","MULTICAST","M-DOWN"],
        "mtu":1500,"master":"wpbr","linkinfo":{"info_kind":"veth","info_slave_kind":"bridge"},
        "xdp":{"mode":1,"prog":{"id":41,"tag":"3b185187f1855c4c","jited":1}}}]"#;

    #[test]
    fn hardware_has_a_bus_and_no_kind() {
        let (link, uppers) = parse(VIRTIO, "eth0").unwrap();
        assert_eq!(uppers, ["eth0.5"]);
        assert_eq!((link.index, link.bus.as_deref()), (4, Some("virtio")));
        assert!(link.is_up);
        assert_eq!((link.mtu, link.max_mtu), (1_400, Some(65_535)));
        assert_eq!(link.parent.as_deref(), Some("virtio2"));
        assert_eq!((link.kind, link.master, link.xdp), (None, None, None));
    }

    #[test]
    fn a_veth_has_a_peer_that_is_not_below_it_and_may_have_a_master_and_a_program() {
        let (link, uppers) = parse(VETH_PAIR, "wpA").unwrap();
        assert!(uppers.is_empty());
        assert!(!link.is_up);
        assert_eq!(link.lower, None);
        assert_eq!(link.master.as_deref(), Some("wpbr"));
        assert_eq!(link.slave_kind.as_deref(), Some("bridge"));
        let xdp = AttachedXdp {
            is_native: true,
            program: 41,
        };
        assert_eq!(link.xdp, Some(xdp));
    }

    #[test]
    fn nonsense_is_unknown() {
        assert_eq!(parse("", "eth0"), None);
        assert_eq!(parse(VIRTIO, "eth1"), None);
    }
}
