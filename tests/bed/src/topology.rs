//! The test bed's networks: hosts as namespaces, each with a veth pair into a bridge in the "switch".
//!
//! ```text
//! one arm:   client gateway w0 w1 w2        two arms:  client gateway        w0 w1 w2
//!               │      │    │  │  │                       │      │            │  │  │
//!             ──┴──────┴─ br0 ┴──┴── 10.80.0.0/24       ──┴─ br0 ┴──        ──┴ br1 ┴── 10.81.0.0/24
//!                         │ pass                             │ pass            │ pass
//!                      balancer                              └──── balancer ───┘
//! ```
//! The VIP 10.99.0.1 is on `lo` of each worker; everybody's route to it leads to the balancer. Ports that face
//! the balancer carry the program `pass`; the other hosts send full checksums (`ethtool -K tx off`), because
//! partial ones do not survive being forwarded by XDP.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result};

use crate::{netns::Netns, pass::PassProgram, run::Run};

/// The virtual address of every test bed.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// The virtual IPv6 address of test beds with [`Topology::add_ipv6`].
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 1);
/// The port that RPCs go to at the VIP.
pub const VIP_PORT: u16 = 9000;

/// How the balancer is wired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// One interface: what comes in leaves by the same one (XDP_TX).
    OneArm,
    /// One interface towards the clients and one towards the workers (redirect).
    TwoArms,
}

/// One network interface of a host.
#[derive(Debug, Clone)]
pub struct Nic {
    /// Its name inside the namespace: `eth0`, `eth1`.
    pub name: String,
    /// Its address; the prefix has 24 bits.
    pub address: Ipv4Addr,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Its index inside the namespace.
    pub ifindex: u32,
    /// Name of the switch port that it is wired to.
    pub port: String,
}

impl Nic {
    /// Its IPv6 address, where [`Topology::add_ipv6`] gave it one: fd80::3 beside 10.80.0.3. The prefix has 64 bits.
    #[must_use]
    pub const fn address6(&self) -> Ipv6Addr {
        let [_, network, _, number] = self.address.octets();
        Ipv6Addr::new(
            0xfd00 + network as u16 - 80 + 0x80,
            0,
            0,
            0,
            0,
            0,
            0,
            number as u16,
        )
    }

    /// The MAC address as text.
    #[must_use]
    pub fn mac_text(&self) -> String {
        self.mac.map(|byte| format!("{byte:02x}")).join(":")
    }
}

/// A host of the test bed.
#[derive(Debug, Clone)]
pub struct Host {
    /// `balancer`, `client`, `gateway`, `w0`, …
    pub role: String,
    /// Where it lives.
    pub netns: Netns,
    /// Its interfaces, besides `lo`.
    pub nics: Vec<Nic>,
}

impl Host {
    /// Its first interface.
    #[must_use]
    pub fn nic(&self) -> &Nic {
        &self.nics[0]
    }

    /// The address of its first interface.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.nic().address
    }

    /// The IPv6 address of its first interface.
    #[must_use]
    pub fn address6(&self) -> Ipv6Addr {
        self.nic().address6()
    }
}

/// All hosts of a test bed. Dropping it removes them.
#[derive(Debug)]
pub struct Topology {
    _pass: PassProgram,
    /// Which layout it has.
    pub layout: Layout,
    /// Where the bridges are.
    pub switch: Netns,
    /// The host with the XDP program.
    pub balancer: Host,
    /// Where requests come from.
    pub client: Host,
    /// The host of the HTTP gateway.
    pub gateway: Host,
    /// `w0`, `w1`, …
    pub workers: Vec<Host>,
    /// What all of it is recorded in; dropped last.
    pub run: Run,
}

/// A /24 network and its bridge.
#[derive(Debug, Clone, Copy)]
struct Network {
    bridge: &'static str,
    third_byte: u8,
}

const FRONT: Network = Network {
    bridge: "br0",
    third_byte: 0,
};
const BACK: Network = Network {
    bridge: "br1",
    third_byte: 1,
};

impl Network {
    const fn address(self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 80 + self.third_byte, 0, host)
    }
}

impl Topology {
    /// Builds the hosts and wires with `n_workers` workers, and attaches `pass` where veth needs it.
    ///
    /// # Errors
    /// Not root, a missing tool (`cargo xtask setup`), or the eBPF object is not built (`cargo xtask build`).
    pub fn build(layout: Layout, n_workers: u8) -> Result<Self> {
        let run = Run::new()?;
        let switch = Netns::create(&run, "switch")?;
        let worker_net = match layout {
            Layout::OneArm => FRONT,
            Layout::TwoArms => BACK,
        };
        add_bridge(&switch, FRONT)?;
        if layout == Layout::TwoArms {
            add_bridge(&switch, BACK)?;
        }
        let wiring = Wiring {
            run: &run,
            switch: &switch,
        };
        let mut balancer = wiring.host("balancer", FRONT, 2)?;
        if layout == Layout::TwoArms {
            wiring.plug(&mut balancer, BACK, 2)?;
            // Replies cross the two networks by the kernel's own way; DSR needs no XDP there.
            balancer.netns.sysctl("net.ipv4.ip_forward", "1")?;
        }
        let client = wiring.host("client", FRONT, 3)?;
        let gateway = wiring.host("gateway", FRONT, 4)?;
        for host in [&client, &gateway] {
            route_vip(host, FRONT)?;
        }
        let mut workers = Vec::new();
        for index in 0..n_workers {
            let worker = wiring.host(&format!("w{index}"), worker_net, 11 + index)?;
            make_worker(&worker)?;
            workers.push(worker);
        }
        if layout == Layout::TwoArms {
            for host in [&client, &gateway] {
                route_network(host, BACK, FRONT)?;
            }
            for host in &workers {
                route_network(host, FRONT, BACK)?;
            }
        }
        let ports: Vec<&str> = balancer.nics.iter().map(|nic| nic.port.as_str()).collect();
        Ok(Self {
            _pass: PassProgram::attach(&switch, &ports)?,
            layout,
            switch: switch.clone(),
            balancer,
            client,
            gateway,
            workers,
            run,
        })
    }

    /// Gives every interface an IPv6 address, the workers [`VIP6`], and everybody routes: what [`Self::build`] did for IPv4.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn add_ipv6(&self) -> Result<()> {
        for host in self.hosts() {
            // An address that is still looked for elsewhere (RFC 4862, section 5.4) asks for no neighbours: for a second
            // nobody would be answered.
            for nic in &host.nics {
                let key = format!("net.ipv6.conf.{}.accept_dad", nic.name);
                host.netns.sysctl(&key, "0")?;
            }
            // Namespaces begin without, so that no test has neighbour discovery in its counters that did not ask for it.
            host.netns.sysctl("net.ipv6.conf.all.disable_ipv6", "0")?;
            for nic in &host.nics {
                let (address, name) = (nic.address6(), &nic.name);
                host.netns
                    .ip(&format!("addr add {address}/64 dev {name} nodad"))?;
            }
        }
        let balancer = &self.balancer;
        let front = balancer.nics[0].address6();
        for host in [&self.client, &self.gateway] {
            host.netns
                .ip(&format!("route add {VIP6}/128 via {front}"))?;
        }
        for host in &self.workers {
            host.netns
                .ip(&format!("addr add {VIP6}/128 dev lo nodad"))?;
        }
        if let Some(back) = balancer.nics.get(1).map(Nic::address6) {
            balancer.netns.sysctl("net.ipv6.conf.all.forwarding", "1")?;
            for host in [&self.client, &self.gateway] {
                host.netns
                    .ip(&format!("route add {}/64 via {front}", network6(back)))?;
            }
            for host in &self.workers {
                host.netns
                    .ip(&format!("route add {}/64 via {back}", network6(front)))?;
            }
        }
        Ok(())
    }

    /// Frames that the wires between client and balancer have dropped so far, because a queue was full.
    ///
    /// # Errors
    /// When an interface cannot be asked.
    pub fn frames_dropped(&self) -> Result<u64> {
        let (client, balancer) = (self.client.nic(), self.balancer.nic());
        let interfaces = [
            (&self.client.netns, &client.name),
            (&self.switch, &client.port),
            (&self.switch, &balancer.port),
            (&self.balancer.netns, &balancer.name),
        ];
        let mut dropped = 0;
        for (netns, interface) in interfaces {
            let text = netns.ip(&format!("-j -s link show {interface}"))?;
            let links: serde_json::Value =
                serde_json::from_str(&text).context("reading the output of ip")?;
            for direction in ["rx", "tx"] {
                let count = &links[0]["stats64"][direction]["dropped"];
                dropped += count.as_u64().context("ip shows no dropped frames")?;
            }
        }
        Ok(dropped)
    }

    /// Every host, in the order in which people list them.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        [&self.client, &self.balancer, &self.gateway]
            .into_iter()
            .chain(&self.workers)
    }
}

struct Wiring<'a> {
    run: &'a Run,
    switch: &'a Netns,
}

impl Wiring<'_> {
    fn host(&self, role: &str, network: Network, number: u8) -> Result<Host> {
        let mut host = Host {
            role: role.to_owned(),
            netns: Netns::create(self.run, role)?,
            nics: Vec::new(),
        };
        self.plug(&mut host, network, number)?;
        Ok(host)
    }

    /// Adds an interface to `host`, wired to `network`.
    fn plug(&self, host: &mut Host, network: Network, number: u8) -> Result<()> {
        let index = host.nics.len();
        let name = format!("eth{index}");
        let port = format!("{}-{index}", host.role);
        let address = network.address(number);
        let mac = [0x02, b'w', b'p', network.third_byte, 0, number];
        let mac_text = mac.map(|byte| format!("{byte:02x}")).join(":");
        let inside = host.netns.name();
        self.switch.ip(&format!(
            "link add {port} type veth peer name {name} address {mac_text} netns {inside}"
        ))?;
        self.switch
            .ip(&format!("link set {port} master {} up", network.bridge))?;
        host.netns
            .ip(&format!("addr add {address}/24 dev {name}"))?;
        host.netns.ip(&format!("link set {name} up"))?;
        for interface in ["all", name.as_str()] {
            let key = format!("net.ipv4.conf.{interface}.rp_filter");
            host.netns.sysctl(&key, "0")?;
        }
        host.netns.run("ethtool", &["-K", &name, "tx", "off"])?;
        let ifindex = interface_index(&host.netns, &name)?;
        host.nics.push(Nic {
            name,
            address,
            mac,
            ifindex,
            port,
        });
        Ok(())
    }
}

const fn network6(address: Ipv6Addr) -> Ipv6Addr {
    let [first, ..] = address.segments();
    Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0)
}

fn add_bridge(switch: &Netns, network: Network) -> Result<()> {
    let bridge = network.bridge;
    switch.ip(&format!(
        "link add {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
    ))?;
    switch.ip(&format!("link set {bridge} up"))?;
    Ok(())
}

fn interface_index(netns: &Netns, name: &str) -> Result<u32> {
    let index = netns.enter(|| nix::net::if_::if_nametoindex(name))?;
    index.with_context(|| format!("looking up {name} in {}", netns.name()))
}

fn route_vip(host: &Host, network: Network) -> Result<()> {
    let balancer = network.address(2);
    host.netns
        .ip(&format!("route add {VIP}/32 via {balancer}"))?;
    Ok(())
}

fn route_network(host: &Host, to: Network, via: Network) -> Result<()> {
    let (to, via) = (to.address(0), via.address(2));
    host.netns.ip(&format!("route add {to}/24 via {via}"))?;
    Ok(())
}

/// The VIP on `lo`, never told to anybody by ARP: only the balancer answers for the way to it.
fn make_worker(host: &Host) -> Result<()> {
    host.netns.sysctl("net.ipv4.conf.all.arp_ignore", "1")?;
    host.netns.sysctl("net.ipv4.conf.all.arp_announce", "2")?;
    host.netns.ip(&format!("addr add {VIP}/32 dev lo"))?;
    Ok(())
}
