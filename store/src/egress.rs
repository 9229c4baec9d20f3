//! Where a function may connect to: `network = ["10.0.0.0/8:443", "[fd00::/8]:5432", "10.0.0.53/32:53/udp"]`.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// Most entries of one function.
pub const EGRESS_MAX: usize = 64;

/// Why an entry of `network` is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EgressError {
    /// Not of the form.
    #[error(
        "`{given}` is no address to connect to: write `10.0.0.0/8:443`, `[fd00::/8]:443`, a range of ports as `8000-8100`, \
         and `/udp` behind it for UDP"
    )]
    Form {
        /// What was written.
        given: String,
    },
    /// Bits behind the prefix.
    #[error("`{given}` has bits behind its prefix: write `{meant}`")]
    Host {
        /// What was written.
        given: String,
        /// The network that it lies in.
        meant: String,
    },
    /// An address that is the host's own or nobody's.
    #[error(
        "`{given}` reaches into addresses that are never let through: loopback, link-local (a cloud's metadata), multicast"
    )]
    Never {
        /// What was written.
        given: String,
    },
    /// More than a worker takes.
    #[error("`network` has {given} entries, and {EGRESS_MAX} are the most")]
    TooMany {
        /// How many there are.
        given: usize,
    },
}

/// The protocol of an [`Egress`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// One entry: a network, a range of ports, a protocol.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Egress {
    /// The network's address, without bits behind the prefix.
    pub address: IpAddr,
    /// How many bits of it count.
    pub prefix: u8,
    /// The first and the last port.
    pub ports: (u16, u16),
    /// The protocol.
    pub transport: Transport,
}

/// Networks that no entry may touch, whole or in part, but for the whole of a version of IP: those are never let
/// through whatever a manifest says, so that naming one is a mistake.
const NEVER: [(IpAddr, u8); 6] = [
    (IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8),
    (IpAddr::V4(Ipv4Addr::new(169, 254, 0, 0)), 16),
    (IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)), 3),
    (IpAddr::V6(Ipv6Addr::LOCALHOST), 128),
    (IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10),
    (IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)), 8),
];

impl Egress {
    /// Networks that are never let through.
    #[must_use]
    pub const fn never() -> &'static [(IpAddr, u8)] {
        &NEVER
    }

    fn check(self, given: &str) -> Result<Self, EgressError> {
        let network = masked(self.address, self.prefix);
        if network != self.address {
            let meant = Self {
                address: network,
                ..self
            };
            return Err(EgressError::Host {
                given: given.to_owned(),
                meant: meant.to_string(),
            });
        }
        let is_inside = |(never, bits): &(IpAddr, u8)| {
            never.is_ipv4() == network.is_ipv4()
                && self.prefix >= *bits
                && masked(network, *bits) == *never
        };
        if NEVER.iter().any(is_inside) {
            return Err(EgressError::Never {
                given: given.to_owned(),
            });
        }
        Ok(self)
    }
}

/// `address` without the bits behind `prefix`.
fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask))
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
        }
    }
}

impl FromStr for Egress {
    type Err = EgressError;

    fn from_str(text: &str) -> Result<Self, EgressError> {
        parse(text)
            .ok_or_else(|| EgressError::Form {
                given: text.chars().take(80).collect(),
            })?
            .check(text)
    }
}

fn parse(text: &str) -> Option<Egress> {
    let (text, transport) = match text.strip_suffix("/udp") {
        Some(rest) => (rest, Transport::Udp),
        None => (text.strip_suffix("/tcp").unwrap_or(text), Transport::Tcp),
    };
    let (network, ports) = text.rsplit_once(':')?;
    let bracketed = network
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let is_v6 = bracketed.is_some();
    let (address, prefix) = match bracketed.unwrap_or(network).split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (bracketed.unwrap_or(network), None),
    };
    let address: IpAddr = address.parse().ok()?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.map_or(Some(bits), |prefix| prefix.parse().ok())?;
    let ports = match ports.split_once('-') {
        Some((first, last)) => (first.parse().ok()?, last.parse().ok()?),
        None => (ports.parse().ok()?, ports.parse().ok()?),
    };
    let is_good = address.is_ipv6() == is_v6 && prefix <= bits && 0 < ports.0 && ports.0 <= ports.1;
    is_good.then_some(Egress {
        address,
        prefix,
        ports,
        transport,
    })
}

impl fmt::Display for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            address, prefix, ..
        } = self;
        match address {
            IpAddr::V4(_) => write!(f, "{address}/{prefix}:")?,
            IpAddr::V6(_) => write!(f, "[{address}/{prefix}]:")?,
        }
        let (first, last) = self.ports;
        write!(f, "{first}")?;
        if last > first {
            write!(f, "-{last}")?;
        }
        match self.transport {
            Transport::Tcp => Ok(()),
            Transport::Udp => f.write_str("/udp"),
        }
    }
}

impl TryFrom<String> for Egress {
    type Error = EgressError;

    fn try_from(text: String) -> Result<Self, EgressError> {
        text.parse()
    }
}

impl From<Egress> for String {
    fn from(egress: Egress) -> Self {
        egress.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_written_again() {
        for (text, again) in [
            ("10.0.0.0/8:443", "10.0.0.0/8:443"),
            ("10.1.2.3:80", "10.1.2.3/32:80"),
            ("0.0.0.0/0:443/tcp", "0.0.0.0/0:443"),
            ("10.0.0.53/32:53/udp", "10.0.0.53/32:53/udp"),
            ("[fd00::/8]:8000-8100", "[fd00::/8]:8000-8100"),
            ("[::/0]:1-65535", "[::/0]:1-65535"),
        ] {
            let egress: Egress = text.parse().unwrap();
            assert_eq!(egress.to_string(), again);
            assert_eq!(again.parse::<Egress>().unwrap(), egress);
        }
    }

    #[test]
    fn what_is_no_network_with_ports_is_refused() {
        for bad in [
            "",
            "10.0.0.0/8",
            "10.0.0.0/8:",
            "10.0.0.0/8:0",
            "10.0.0.0/33:80",
            "example.com:443",
            "*:443",
            "fd00::1:443",
            "[10.0.0.1]:443",
            "10.0.0.0/8:90-80",
            "10.0.0.0/8:65536",
            "[fd00::/129]:1",
            "10.0.0.0/8:80/sctp",
            "10.0.0.0/-1:80",
            " 10.0.0.1:80",
        ] {
            let error = bad.parse::<Egress>().unwrap_err();
            assert!(matches!(error, EgressError::Form { .. }), "{bad}: {error}");
        }
    }

    #[test]
    fn bits_behind_the_prefix_are_shown_as_what_is_meant() {
        let error = "10.1.2.3/8:443".parse::<Egress>().unwrap_err();
        assert!(
            error.to_string().contains("write `10.0.0.0/8:443`"),
            "{error}"
        );
        assert!("10.1.2.3/0:443".parse::<Egress>().is_err());
        assert!("[fd00::1/64]:443".parse::<Egress>().is_err());
    }

    #[test]
    fn the_hosts_own_addresses_are_refused() {
        for bad in [
            "127.0.0.1:80",
            "127.0.0.0/8:80",
            "169.254.169.254:80",
            "169.254.0.0/16:1-65535",
            "224.0.0.1:5",
            "255.255.255.255:5",
            "[::1]:80",
            "[fe80::/10]:80",
            "[ff02::1]:80",
        ] {
            let error = bad.parse::<Egress>().unwrap_err();
            assert!(matches!(error, EgressError::Never { .. }), "{bad}: {error}");
        }
    }
}
