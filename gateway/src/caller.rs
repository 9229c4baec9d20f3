//! Who calls: the client's address, as far as it can be believed.

use std::{net::IpAddr, str::FromStr};

use hyper::{HeaderMap, header::HeaderName};
use serde::Deserialize;

/// What proxies add the address to that they were called from.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Hops that are looked at: a client may write as many into the header as it likes.
const HOPS_MAX: usize = 32;

/// An address, or a range of them: `10.0.0.0/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Prefix {
    address: IpAddr,
    len: u8,
}

/// No prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no address and no prefix such as `10.0.0.0/8`")]
pub struct PrefixError(String);

impl Prefix {
    /// Whether `address` lies in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let (network, address, width) = match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                (network.to_bits().into(), address.to_bits().into(), 32)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                (network.to_bits(), address.to_bits(), 128)
            }
            _ => return false,
        };
        let host_bits = width - u32::from(self.len);
        // All bits are the host's in `/0`.
        let differs: u128 = network ^ address;
        differs.checked_shr(host_bits).unwrap_or(0) == 0
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let wrong = || PrefixError(text.chars().take(64).collect());
        let (address, len) = match text.split_once('/') {
            Some((address, len)) => (address, Some(len)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_not_one| wrong())?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let len = match len {
            Some(len) => len.parse().map_err(|_not_one| wrong())?,
            None => width,
        };
        if len > width {
            return Err(wrong());
        }
        Ok(Self { address, len })
    }
}

impl TryFrom<String> for Prefix {
    type Error = PrefixError;

    fn try_from(text: String) -> Result<Self, PrefixError> {
        text.parse()
    }
}

/// Who calls by a connection from `peer`: that address, or behind trusted proxies the last one in X-Forwarded-For that
/// is none of theirs. Each proxy appends whom it was called from, so what stands before that is the client's own word.
pub(crate) fn caller_of(peer: IpAddr, headers: &HeaderMap, trusted: &[Prefix]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|proxy| proxy.contains(address));
    let mut caller = peer.to_canonical();
    let lines = headers.get_all(FORWARDED_FOR).iter().rev();
    let mut hops = lines
        .flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','))
        .map(|hop| address_of(std::str::from_utf8(hop).ok()?.trim()))
        .take(HOPS_MAX);
    while is_trusted(caller) {
        // What is no address was not written by a proxy that knew one: whoever passed it on calls.
        let Some(Some(before)) = hops.next() else {
            break;
        };
        caller = before;
    }
    caller
}

/// `192.0.2.7`, `192.0.2.7:4711`, `2001:db8::1` or `[2001:db8::1]:4711`: proxies write them all.
fn address_of(hop: &str) -> Option<IpAddr> {
    let bracketed = || hop.strip_prefix('[')?.split_once(']')?.0.parse().ok();
    let with_port = || {
        hop.parse()
            .ok()
            .map(|address: std::net::SocketAddr| address.ip())
    };
    let plain = hop.parse().ok();
    let address: Option<IpAddr> = plain.or_else(with_port).or_else(bracketed);
    address.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(peer: &str, lines: &[&str], trusted: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_FOR, line.parse().unwrap());
        }
        let trusted: Vec<Prefix> = trusted.iter().map(|text| text.parse().unwrap()).collect();
        caller_of(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn whoever_is_no_trusted_proxy_calls_itself_whatever_it_says() {
        let said = ["192.0.2.7"];
        assert_eq!(caller("10.0.0.1", &said, &[]), "10.0.0.1");
        assert_eq!(caller("10.0.0.1", &said, &["10.0.0.2"]), "10.0.0.1");
        assert_eq!(caller("::ffff:10.0.0.1", &[], &[]), "10.0.0.1");
    }

    #[test]
    fn behind_proxies_the_last_address_that_is_none_of_theirs_calls() {
        let proxies = ["10.0.0.0/8", "fd00::/8"];
        for (lines, expected) in [
            (&["192.0.2.7"][..], "192.0.2.7"),
            (&["1.2.3.4, 192.0.2.7"], "192.0.2.7"),
            (&["1.2.3.4, 192.0.2.7, 10.1.1.1,fd00::9"], "192.0.2.7"),
            (&["1.2.3.4", "192.0.2.7", "10.1.1.1"], "192.0.2.7"),
            (&["192.0.2.7:4711"], "192.0.2.7"),
            (&["[2001:db8::1]:4711"], "2001:db8::1"),
            (&["2001:db8::1"], "2001:db8::1"),
            (&["[2001:db8::1]"], "2001:db8::1"),
            (&[], "10.0.0.1"),
            (&[""], "10.0.0.1"),
            (&["192.0.2.7, unknown"], "10.0.0.1"),
            (&["192.0.2.7, unknown, 10.1.1.1"], "10.1.1.1"),
            (&["10.2.2.2, 10.1.1.1"], "10.2.2.2"),
        ] {
            assert_eq!(caller("10.0.0.1", lines, &proxies), expected, "{lines:?}");
        }
    }

    #[test]
    fn more_hops_than_anybody_has_are_not_followed() {
        let long = vec!["10.1.1.1"; 100_000].join(",");
        assert_eq!(caller("10.0.0.1", &[&long], &["10.0.0.0/8"]), "10.1.1.1");
        let hidden = format!("192.0.2.7,{}", vec!["10.1.1.1"; HOPS_MAX].join(","));
        assert_eq!(caller("10.0.0.1", &[&hidden], &["10.0.0.0/8"]), "10.1.1.1");
    }

    #[test]
    fn a_prefix_holds_its_addresses_and_no_others() {
        let holds = |prefix: &str, address: &str| {
            let prefix: Prefix = prefix.parse().unwrap();
            prefix.contains(address.parse().unwrap())
        };
        assert!(holds("10.0.0.0/8", "10.255.0.1") && !holds("10.0.0.0/8", "11.0.0.1"));
        assert!(holds("10.0.0.7", "10.0.0.7") && !holds("10.0.0.7", "10.0.0.6"));
        assert!(holds("0.0.0.0/0", "1.2.3.4") && !holds("0.0.0.0/0", "::1"));
        assert!(holds("::/0", "fd00::1") && holds("fd00::/8", "fdff::1"));
        assert!(holds("10.0.0.0/8", "::ffff:10.1.1.1"));
        for bad in [
            "",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/",
            "10.0.0.0/-1",
            "host",
            "/8",
        ] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
    }
}
