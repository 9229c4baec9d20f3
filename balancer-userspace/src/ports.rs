//! The balancer's own interfaces: index, MAC address and subnets, and which of them reaches a worker.

use std::{collections::BTreeMap, fs, net::Ipv4Addr};

use nix::ifaddrs::getifaddrs;
use thiserror::Error;

use crate::{config::InterfaceConfig, mac::MacAddress};

const ETHERNET_MTU: u16 = 1_500;

/// The kernel did not list our interfaces.
#[derive(Debug, Error)]
#[error("cannot list the network interfaces")]
pub struct PortsError(#[source] nix::Error);

/// An IPv4 subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    address: Ipv4Addr,
    mask: Ipv4Addr,
}

impl Subnet {
    /// The subnet that `address` lies in under `mask`.
    #[must_use]
    pub const fn new(address: Ipv4Addr, mask: Ipv4Addr) -> Self {
        Self { address, mask }
    }

    fn contains(&self, other: Ipv4Addr) -> bool {
        other & self.mask == self.address & self.mask
    }

    fn prefix_len(&self) -> u32 {
        u32::from(self.mask).leading_ones()
    }
}

/// One interface that packets come and go by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Its index; a new one when the interface is made anew.
    pub ifindex: u32,
    /// Its MAC address.
    pub mac: MacAddress,
    /// Bytes of the largest IP packet that fits.
    pub mtu: u16,
    /// Its subnets.
    pub subnets: Vec<Subnet>,
}

impl Port {
    /// Its first IPv4 address.
    #[must_use]
    pub fn address(&self) -> Option<Ipv4Addr> {
        self.subnets.first().map(|subnet| subnet.address)
    }
}

/// The configured interfaces that exist now, in the order of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ports(pub Vec<Port>);

impl Ports {
    /// Asks the kernel about the interfaces with these `names`; those that do not exist are left out.
    ///
    /// # Errors
    /// [`PortsError`].
    pub fn read(names: &[String]) -> Result<Self, PortsError> {
        let mut links = BTreeMap::new();
        let mut subnets: BTreeMap<String, Vec<Subnet>> = BTreeMap::new();
        for entry in getifaddrs().map_err(PortsError)? {
            let Some(address) = entry.address else {
                continue;
            };
            if let Some(link) = address.as_link_addr() {
                let ifindex = u32::try_from(link.ifindex()).unwrap_or(0);
                links.insert(entry.interface_name, (ifindex, link.addr()));
            } else if let (Some(ip), Some(mask)) = (
                address.as_sockaddr_in(),
                entry
                    .netmask
                    .as_ref()
                    .and_then(|mask| mask.as_sockaddr_in()),
            ) {
                subnets
                    .entry(entry.interface_name)
                    .or_default()
                    .push(Subnet::new(ip.ip(), mask.ip()));
            }
        }
        let port = |name: &String| {
            let (ifindex, mac) = links.get(name)?;
            Some(Port {
                name: name.clone(),
                ifindex: *ifindex,
                mac: MacAddress::new((*mac)?),
                mtu: mtu(name, *ifindex),
                subnets: subnets.get(name).cloned().unwrap_or_default(),
            })
        };
        Ok(Self(names.iter().filter_map(port).collect()))
    }

    /// Takes the MTU that the configuration gives for an interface in place of the interface's own, as what lies
    /// behind it may let less through.
    #[must_use]
    pub fn with_mtus(mut self, interfaces: &[InterfaceConfig]) -> Self {
        for port in &mut self.0 {
            let configured = interfaces
                .iter()
                .find(|interface| interface.name == port.name)
                .and_then(|interface| interface.mtu);
            port.mtu = configured.unwrap_or(port.mtu);
        }
        self
    }

    /// The first IPv4 address of the first interface.
    #[must_use]
    pub fn own_address(&self) -> Option<Ipv4Addr> {
        self.0.first().and_then(Port::address)
    }

    /// The interface of this name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Port> {
        self.0.iter().find(|port| port.name == name)
    }

    /// The interface whose subnet holds `address`; of several, the one with the longest prefix.
    #[must_use]
    pub fn reaching(&self, address: Ipv4Addr) -> Option<&Port> {
        let prefix_len = |port: &Port| {
            let holding = port.subnets.iter().filter(|net| net.contains(address));
            holding.map(Subnet::prefix_len).max()
        };
        // The first of equals, as the configuration orders them.
        self.0
            .iter()
            .rev()
            .filter_map(|port| Some((prefix_len(port)?, port)))
            .max_by_key(|(len, _)| *len)
            .map(|(_, port)| port)
    }
}

/// The interface's MTU; the row's field has 16 bits, and a larger packet than that does not exist.
///
/// Of the files that tell it, IPv6's are those of this process's network namespace; sysfs shows the one that it was mounted
/// in, and is asked only about an interface that has the same index there.
fn mtu(name: &str, ifindex: u32) -> u16 {
    let number = |path: String| -> Option<u32> {
        let text = fs::read_to_string(path).ok()?;
        text.trim().parse().ok()
    };
    let sysfs = |file: &str| number(format!("/sys/class/net/{name}/{file}"));
    number(format!("/proc/sys/net/ipv6/conf/{name}/mtu"))
        .or_else(|| sysfs("mtu").filter(|_| sysfs("ifindex") == Some(ifindex)))
        // Unknown: what Ethernet has.
        .map_or(ETHERNET_MTU, |mtu| u16::try_from(mtu).unwrap_or(u16::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AttachMode;

    fn port(name: &str, ifindex: u32, nets: &[(&str, &str)]) -> Port {
        Port {
            name: name.to_owned(),
            ifindex,
            mac: MacAddress::new([2, 0, 0, 0, 0, 1]),
            mtu: ETHERNET_MTU,
            subnets: nets
                .iter()
                .map(|(ip, mask)| Subnet::new(ip.parse().unwrap(), mask.parse().unwrap()))
                .collect(),
        }
    }

    #[test]
    fn a_worker_is_reached_by_the_interface_whose_subnet_holds_it() {
        let ports = Ports(vec![
            port("eth0", 2, &[("10.80.0.2", "255.255.255.0")]),
            port(
                "eth1",
                3,
                &[
                    ("10.81.0.2", "255.255.0.0"),
                    ("10.80.0.129", "255.255.255.128"),
                ],
            ),
        ]);
        let reaching = |ip: &str| ports.reaching(ip.parse().unwrap()).map(|port| port.ifindex);
        assert_eq!(reaching("10.80.0.11"), Some(2));
        assert_eq!(reaching("10.81.0.11"), Some(3));
        assert_eq!(reaching("10.80.0.200"), Some(3), "the longer prefix wins");
        assert_eq!(reaching("10.82.0.11"), None);
    }

    #[test]
    fn a_configured_mtu_takes_the_place_of_the_interfaces_own() {
        let config = |name: &str, mtu| InterfaceConfig {
            name: name.to_owned(),
            mode: AttachMode::Native,
            mtu,
        };
        let ports = Ports(vec![port("a", 2, &[]), port("b", 3, &[])]);
        let ports = ports.with_mtus(&[config("b", Some(1_400)), config("a", None)]);
        let mtus: Vec<_> = ports.0.iter().map(|port| port.mtu).collect();
        assert_eq!(mtus, [ETHERNET_MTU, 1_400]);
    }

    #[test]
    fn an_interface_that_is_not_there_is_left_out() {
        let names = ["lo".to_owned(), "wp-no-such".to_owned()];
        let ports = Ports::read(&names).unwrap();
        assert!(ports.named("wp-no-such").is_none());
    }
}
