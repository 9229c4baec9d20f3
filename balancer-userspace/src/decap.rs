//! `[decap]` of `worker.toml`: from whom a worker takes encapsulated packets, and at which of its addresses.
//!
//! Pure but for [`DecapConfig::row`]'s caller: what is wrong is said before anything in the kernel changes.

use std::{collections::BTreeSet, net::IpAddr, path::PathBuf};

use ebpf_common::maps::{DECAP_ADDRESSES, DECAP_SOURCES, DecapRow, Prefix4, Prefix6, words};
use serde::Deserialize;
use thiserror::Error;

use crate::config::{AttachMode, Prefix};

/// The kernel's limit (IFNAMSIZ), without its final NUL.
const MAX_INTERFACE_NAME: usize = 15;

/// `[decap]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecapConfig {
    /// The interface that encapsulated packets arrive on.
    pub interface: String,
    /// Prefixes of the outer addresses that balancers send from; what comes from elsewhere is dropped.
    pub sources: Vec<String>,
    /// Addresses of this host that packets are encapsulated to; those of the interface if there are none.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// How the program is attached.
    #[serde(default = "auto")]
    pub mode: AttachMode,
    /// Directory on a BPF file system for the program's maps; each worker of a host needs one of its own.
    #[serde(default = "default_pin_path")]
    pub pin_path: PathBuf,
}

/// A worker without the driver's help is slow; one that takes nothing off is none.
const fn auto() -> AttachMode {
    AttachMode::Auto
}

fn default_pin_path() -> PathBuf {
    PathBuf::from(DEFAULT_PIN_PATH)
}

/// Where a worker's maps are pinned if its configuration says nothing else.
pub const DEFAULT_PIN_PATH: &str = "/sys/fs/bpf/warmpath-decap";

/// What of `[decap]` makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("decap.{key} {problem}")]
pub struct DecapProblem {
    /// The key.
    pub key: &'static str,
    /// What is wrong with its value, and what would be right.
    pub problem: String,
}

fn problem<T>(key: &'static str, problem: impl Into<String>) -> Result<T, DecapProblem> {
    Err(DecapProblem {
        key,
        problem: problem.into(),
    })
}

impl DecapConfig {
    /// Whether it makes sense, as far as the configuration alone can tell.
    ///
    /// # Errors
    /// [`DecapProblem`].
    pub fn check(&self) -> Result<(), DecapProblem> {
        if self.interface.is_empty() || self.interface.len() > MAX_INTERFACE_NAME {
            return problem("interface", "must be the name of an interface");
        }
        let name = self.pin_path.file_name();
        // bpffs reserves names with a dot for itself.
        if !self.pin_path.is_absolute()
            || name.is_none_or(|name| name.to_string_lossy().contains('.'))
        {
            return problem(
                "pin_path",
                "must be an absolute path and end in a name without a dot",
            );
        }
        self.prefixes()?;
        local(&self.addresses).map(drop)
    }

    /// The row of `DECAP`, for an interface that has the addresses `own`.
    ///
    /// # Errors
    /// [`DecapProblem`]: one of [`Self::check`], or sources of a family that this host has no address of.
    pub fn row(&self, own: &[IpAddr]) -> Result<DecapRow, DecapProblem> {
        let (sources4, sources6) = self.prefixes()?;
        let (local4, local6) = if self.addresses.is_empty() {
            local(own)?
        } else {
            local(&self.addresses)?
        };
        for (sources, addresses, family) in [
            (sources4.len(), local4.len(), "IPv4"),
            (sources6.len(), local6.len(), "IPv6"),
        ] {
            if sources > 0 && addresses == 0 {
                let interface = &self.interface;
                return problem(
                    "sources",
                    format!(
                        "has {family} prefixes, but `{interface}` has no such address: give it one, or name one in decap.addresses"
                    ),
                );
            }
        }
        Ok(DecapRow {
            local6: filled(local6, [0; 2]),
            sources6: filled(sources6, Prefix6::NONE),
            local4: filled(local4, 0),
            sources4: filled(sources4, Prefix4::NONE),
        })
    }

    fn prefixes(&self) -> Result<(Vec<Prefix4>, Vec<Prefix6>), DecapProblem> {
        let wrong = |text: &str, what: &str| problem("sources", format!("\"{text}\" {what}"));
        let (mut v4, mut v6, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
        for text in &self.sources {
            let prefix: Prefix = match text.parse() {
                Ok(prefix) => prefix,
                Err(error) => return wrong(text, &format!("{error}")),
            };
            if prefix.len == 0 {
                return wrong(
                    text,
                    "is everybody: who could then speak for any client; name the balancers' [tunnel] prefixes",
                );
            }
            if !seen.insert(prefix) {
                return wrong(text, "is there twice");
            }
            match prefix.address {
                IpAddr::V4(address) => v4.push(Prefix4::new(address.octets(), prefix.len)),
                IpAddr::V6(address) => v6.push(Prefix6::new(address.octets(), prefix.len)),
            }
        }
        if seen.is_empty() {
            return problem(
                "sources",
                "must name at least one prefix that balancers send from",
            );
        }
        if v4.len().max(v6.len()) > DECAP_SOURCES {
            return problem(
                "sources",
                format!("may have at most {DECAP_SOURCES} prefixes of each IP version"),
            );
        }
        Ok((v4, v6))
    }
}

/// Addresses as the map has them. Those of the link alone (fe80::/10) are no one's tunnel destination.
fn local(addresses: &[IpAddr]) -> Result<(Vec<u32>, Vec<[u64; 2]>), DecapProblem> {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for address in addresses {
        if address.is_unspecified() || address.is_multicast() {
            return problem(
                "addresses",
                format!("{address} is not the address of a host"),
            );
        }
        match address {
            IpAddr::V4(address) => v4.push(u32::from_ne_bytes(address.octets())),
            IpAddr::V6(address) if address.is_unicast_link_local() => {}
            IpAddr::V6(address) => v6.push(words(address.octets())),
        }
    }
    if v4.len().max(v6.len()) > DECAP_ADDRESSES {
        return problem(
            "addresses",
            format!(
                "must name those that packets are encapsulated to: there are more than {DECAP_ADDRESSES} of one IP version"
            ),
        );
    }
    Ok((v4, v6))
}

fn filled<T: Copy, const N: usize>(values: Vec<T>, none: T) -> [T; N] {
    let mut row = [none; N];
    for (place, value) in row.iter_mut().zip(values) {
        *place = value;
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(more: &str) -> DecapConfig {
        let text = format!("interface = \"eth0\"\n{more}");
        toml::from_str(&text).unwrap()
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_row_holds_what_the_configuration_and_the_interface_say() {
        let config = config(r#"sources = ["172.16.0.0/16", "fd00:beef::/96", "10.1.2.3"]"#);
        assert_eq!(config.check(), Ok(()));
        assert_eq!(config.mode, AttachMode::Auto);
        let own = ips(&["10.80.0.11", "fe80::1", "fd80::b"]);
        let row = config.row(&own).unwrap();
        assert!(row.is_local4(u32::from_ne_bytes([10, 80, 0, 11])));
        let IpAddr::V6(v6) = own[2] else { panic!() };
        assert!(row.is_local6(words(v6.octets())));
        let IpAddr::V6(link) = own[1] else { panic!() };
        assert!(!row.is_local6(words(link.octets())));
        assert!(row.accepts4(u32::from_ne_bytes([172, 16, 200, 7])));
        assert!(row.accepts4(u32::from_ne_bytes([10, 1, 2, 3])));
        assert!(!row.accepts4(u32::from_ne_bytes([10, 1, 2, 4])));
        let from: std::net::Ipv6Addr = "fd00:beef::1234:5678".parse().unwrap();
        assert!(row.accepts6(words(from.octets())));
    }

    #[test]
    fn named_addresses_take_the_place_of_the_interfaces_own() {
        let config = config("sources = [\"172.16.0.0/16\"]\naddresses = [\"10.9.9.9\"]");
        let row = config.row(&ips(&["10.80.0.11"])).unwrap();
        assert!(row.is_local4(u32::from_ne_bytes([10, 9, 9, 9])));
        assert!(!row.is_local4(u32::from_ne_bytes([10, 80, 0, 11])));
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_its_key() {
        let nine: Vec<String> = (0..9).map(|n| format!("\"10.{n}.0.0/16\"")).collect();
        let nine = format!("sources = [{}]", nine.join(", "));
        for (more, key) in [
            ("sources = []", "sources"),
            ("sources = [\"0.0.0.0/0\"]", "sources"),
            ("sources = [\"::/0\"]", "sources"),
            ("sources = [\"10.0.0.1/8\"]", "sources"),
            ("sources = [\"here\"]", "sources"),
            ("sources = [\"10.0.0.0/8\", \"10.0.0.0/8\"]", "sources"),
            (nine.as_str(), "sources"),
            (
                "sources = [\"10.0.0.0/8\"]\npin_path = \"here\"",
                "pin_path",
            ),
            (
                "sources = [\"10.0.0.0/8\"]\npin_path = \"/a/b.c\"",
                "pin_path",
            ),
            (
                "sources = [\"10.0.0.0/8\"]\naddresses = [\"0.0.0.0\"]",
                "addresses",
            ),
            (
                "sources = [\"10.0.0.0/8\"]\naddresses = [\"10.0.0.1\", \"10.0.0.2\", \"10.0.0.3\", \"10.0.0.4\", \"10.0.0.5\"]",
                "addresses",
            ),
        ] {
            let found = config(more).check().unwrap_err();
            assert_eq!(found.key, key, "{more}: {found}");
        }
        let long = DecapConfig {
            interface: "an-interface-name".to_owned(),
            ..config("sources = [\"10.0.0.0/8\"]")
        };
        assert_eq!(long.check().unwrap_err().key, "interface");
    }

    #[test]
    fn sources_of_a_family_need_an_address_of_it() {
        let both = config(r#"sources = ["172.16.0.0/16", "fd00::/96"]"#);
        let found = both.row(&ips(&["10.80.0.11", "fe80::1"])).unwrap_err();
        assert!(found.problem.contains("IPv6"), "{found}");
        let found = both.row(&ips(&["fd80::1"])).unwrap_err();
        assert!(found.problem.contains("IPv4"), "{found}");
    }
}
