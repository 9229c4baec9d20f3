//! `ip -json -details link show`: one answer for state, MTU, kind, masters and the attached program.

use serde::Deserialize;

use super::output;
use crate::doctor::facts::{AttachedXdp, Bond, Link};

/// `enum` of rtnetlink's IFLA_XDP_ATTACHED, as `ip` prints it: 1 driver, 2 generic, 3 hardware, 4 several.
const XDP_DRIVER: u32 = 1;
const XDP_HARDWARE: u32 = 3;
/// Its `link` is its peer, which is neither above nor below it.
const VETH: &str = "veth";
const BOND: &str = "bond";

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
    /// Each kind has its own.
    info_data: serde_json::Value,
}

/// A bond's `info_data`.
#[derive(Debug, Deserialize)]
struct BondAnswer {
    mode: String,
    xmit_hash_policy: Option<String>,
    #[serde(default)]
    miimon: u32,
    #[serde(default)]
    arp_interval: u32,
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

/// The names of those around an interface, in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Around {
    /// On top of it.
    pub(super) uppers: Vec<String>,
    /// What it is made of, if it is a bond.
    pub(super) ports: Vec<String>,
}

/// The interface, and what is around it. Asked of `ip` and not of sysfs, which shows another network
/// namespace's interfaces to whoever entered this one by setns(2).
pub(super) fn link(interface: &str) -> Option<(Link, Around)> {
    parse(
        &output("ip", &["-json", "-details", "link", "show"])?,
        interface,
    )
}

fn parse(json: &str, interface: &str) -> Option<(Link, Around)> {
    let answers: Vec<Answer> = serde_json::from_str(json).ok()?;
    let is_on_top = |answer: &&Answer| {
        answer.link.as_deref() == Some(interface)
            && answer.linkinfo.info_kind.as_deref() != Some(VETH)
    };
    let is_port = |answer: &&Answer| {
        answer.master.as_deref() == Some(interface)
            && answer.linkinfo.info_slave_kind.as_deref() == Some(BOND)
    };
    let sorted = |names: &mut dyn Iterator<Item = &Answer>| {
        let mut names: Vec<_> = names.map(|answer| answer.ifname.clone()).collect();
        names.sort();
        names
    };
    let around = Around {
        uppers: sorted(&mut answers.iter().filter(is_on_top)),
        ports: sorted(&mut answers.iter().filter(is_port)),
    };
    let answer = answers
        .into_iter()
        .find(|answer| answer.ifname == interface)?;
    Some((read(answer), around))
}

fn read(answer: Answer) -> Link {
    let kind = answer.linkinfo.info_kind;
    let lower = answer.link.filter(|_| kind.as_deref() != Some(VETH));
    let has_flag = |flag| answer.flags.iter().any(|is| is == flag);
    let bond = kind.as_deref().filter(|kind| *kind == BOND);
    let bond = bond.and_then(|_| bond_settings(answer.linkinfo.info_data));
    Link {
        index: answer.ifindex,
        is_up: has_flag("UP"),
        lacks_carrier: has_flag("NO-CARRIER"),
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
        bond,
    }
}

fn bond_settings(data: serde_json::Value) -> Option<Bond> {
    let answer: BondAnswer = serde_json::from_value(data).ok()?;
    Some(Bond {
        mode: answer.mode,
        xmit_hash_policy: answer.xmit_hash_policy,
        miimon_ms: answer.miimon,
        arp_interval_ms: answer.arp_interval,
    })
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

    /// The same on Debian's 6.12, shortened: two veths in a bond that nobody told to look at carriers, one peer down.
    const BONDED: &str = r#"[{"ifindex":2,"ifname":"bond0","flags":["BROADCAST","MULTICAST","MASTER","UP","LOWER_UP"],
        "mtu":1500,"linkinfo":{"info_kind":"bond","info_data":{"mode":"balance-rr","miimon":0,"updelay":0,
        "arp_interval":0,"arp_validate":null,"xmit_hash_policy":"layer2","min_links":0,"ad_select":"stable"}}},
        {"ifindex":6,"link":"wpy","ifname":"wpb","flags":["NO-CARRIER","BROADCAST","MULTICAST","SLAVE","UP","M-DOWN"],
        "mtu":1500,"master":"bond0","linkinfo":{"info_kind":"veth","info_slave_kind":"bond",
        "info_slave_data":{"state":"ACTIVE","mii_status":"UP","link_failure_count":0}}},
        {"ifindex":4,"link":"wpx","ifname":"wpa","flags":["BROADCAST","MULTICAST","SLAVE","UP","LOWER_UP"],
        "mtu":1500,"master":"bond0","linkinfo":{"info_kind":"veth","info_slave_kind":"bond",
        "info_slave_data":{"state":"ACTIVE","mii_status":"UP","link_failure_count":0}}}]"#;

    #[test]
    fn hardware_has_a_bus_and_no_kind() {
        let (link, around) = parse(VIRTIO, "eth0").unwrap();
        assert_eq!(around.uppers, ["eth0.5"]);
        assert_eq!((link.index, link.bus.as_deref()), (4, Some("virtio")));
        assert!(link.is_up);
        assert_eq!((link.mtu, link.max_mtu), (1_400, Some(65_535)));
        assert_eq!(link.parent.as_deref(), Some("virtio2"));
        assert_eq!((link.kind, link.master, link.xdp), (None, None, None));
    }

    #[test]
    fn a_veth_has_a_peer_that_is_not_below_it_and_may_have_a_master_and_a_program() {
        let (link, around) = parse(VETH_PAIR, "wpA").unwrap();
        assert_eq!(around, Around::default());
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
    fn a_bond_has_settings_and_ports_and_a_port_may_lack_its_carrier() {
        let (link, around) = parse(BONDED, "bond0").unwrap();
        assert_eq!(around.ports, ["wpa", "wpb"]);
        assert!(around.uppers.is_empty());
        let bond = Bond {
            mode: "balance-rr".to_owned(),
            xmit_hash_policy: Some("layer2".to_owned()),
            miimon_ms: 0,
            arp_interval_ms: 0,
        };
        assert_eq!((link.bond, link.lacks_carrier), (Some(bond), false));
        let (port, around) = parse(BONDED, "wpb").unwrap();
        assert_eq!(around, Around::default());
        assert_eq!((port.is_up, port.lacks_carrier), (true, true));
        assert_eq!((port.master.as_deref(), port.bond), (Some("bond0"), None));
    }

    #[test]
    fn settings_that_are_not_a_bonds_are_none() {
        // Of another kind, and of a bond that says something else than we know.
        let other =
            r#"[{"ifname":"mv","linkinfo":{"info_kind":"macvlan","info_data":{"mode":"bridge"}}}]"#;
        assert_eq!(parse(other, "mv").unwrap().0.bond, None);
        let odd = r#"[{"ifname":"b","linkinfo":{"info_kind":"bond","info_data":{"mode":1,"miimon":"x"}}}]"#;
        assert_eq!(parse(odd, "b").unwrap().0.bond, None);
    }

    #[test]
    fn nonsense_is_unknown() {
        assert_eq!(parse("", "eth0"), None);
        assert_eq!(parse(VIRTIO, "eth1"), None);
    }
}
