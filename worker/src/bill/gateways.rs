//! Who pays for a call that came through a gateway: whom the gateway names, if it is one of ours.
//!
//! A gateway writes its client's address into the head of the request ([`warmpath_sdk::http::CALLER`]). Anybody could,
//! so it is believed from configured addresses only; whatever else is written there changes nothing and is counted.

use std::net::IpAddr;

use serde::Deserialize;

use super::Caller;

/// Gateways, at most.
const GATEWAYS_MAX: usize = 256;

/// `[bill]`: who is believed about who calls.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BillConfig {
    /// Addresses of gateways, as requests come from them; none by default: then they pay themselves.
    pub gateways: Vec<IpAddr>,
}

/// What became of a name that a request gave for its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// The caller is whom a gateway named.
    Believed,
    /// It came from somebody who is no configured gateway.
    Ignored,
    /// A gateway wrote what is no address.
    Garbled,
}

impl Word {
    /// Its label in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Believed => "believed",
            Self::Ignored => "ignored",
            Self::Garbled => "garbled",
        }
    }
}

impl BillConfig {
    /// What is wrong with the values, if anything.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        if self.gateways.len() > GATEWAYS_MAX {
            return Err("`bill.gateways` must be at most 256");
        }
        let is_host = |address: &IpAddr| !address.is_unspecified() && !address.is_multicast();
        if !self.gateways.iter().all(is_host) {
            return Err("`bill.gateways` are addresses of hosts");
        }
        Ok(())
    }

    /// Who pays for a request of `peer` that names `named`, and what is to be counted of the name.
    pub(crate) fn caller(&self, peer: IpAddr, named: Option<&str>) -> (Caller, Option<Word>) {
        let peer = peer.to_canonical();
        let Some(named) = named else {
            return (Caller::Address(peer), None);
        };
        let mut gateways = self.gateways.iter();
        if !gateways.any(|gateway| gateway.to_canonical() == peer) {
            return (Caller::Address(peer), Some(Word::Ignored));
        }
        match named.parse::<IpAddr>() {
            Ok(address) => {
                let address = address.to_canonical();
                (Caller::Address(address), Some(Word::Believed))
            }
            Err(_not_an_address) => (Caller::Address(peer), Some(Word::Garbled)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn only_a_configured_gateway_is_believed_and_only_an_address() {
        let config = BillConfig {
            gateways: vec![address("10.80.0.3"), address("fd00::3")],
        };
        let told = |peer: &str, named: Option<&str>| {
            let (caller, word) = config.caller(address(peer), named);
            (caller.to_string(), word)
        };
        for (peer, named, caller, word) in [
            ("10.80.0.3", None, "10.80.0.3", None),
            (
                "10.80.0.3",
                Some("192.0.2.7"),
                "192.0.2.7",
                Some(Word::Believed),
            ),
            (
                "::ffff:10.80.0.3",
                Some("::ffff:192.0.2.7"),
                "192.0.2.7",
                Some(Word::Believed),
            ),
            (
                "fd00::3",
                Some("2001:db8::1"),
                "2001:db8::1",
                Some(Word::Believed),
            ),
            (
                "10.80.0.4",
                Some("192.0.2.7"),
                "10.80.0.4",
                Some(Word::Ignored),
            ),
            (
                "10.80.0.3",
                Some("mallory"),
                "10.80.0.3",
                Some(Word::Garbled),
            ),
            (
                "10.80.0.3",
                Some("192.0.2.7, 192.0.2.8"),
                "10.80.0.3",
                Some(Word::Garbled),
            ),
            ("10.80.0.3", Some(""), "10.80.0.3", Some(Word::Garbled)),
        ] {
            assert_eq!(
                told(peer, named),
                (caller.to_owned(), word),
                "{peer} {named:?}"
            );
        }
        let nobody = BillConfig::default();
        let (caller, word) = nobody.caller(address("10.80.0.3"), Some("192.0.2.7"));
        assert_eq!(
            (caller.to_string().as_str(), word),
            ("10.80.0.3", Some(Word::Ignored))
        );
    }

    #[test]
    fn what_can_be_no_gateway_is_refused() {
        let with = |gateways| BillConfig { gateways }.check().is_ok();
        assert!(with(vec![address("10.80.0.3")]));
        assert!(!with(vec![address("0.0.0.0")]));
        assert!(!with(vec![address("ff02::1")]));
        assert!(!with(vec![address("10.80.0.3"); GATEWAYS_MAX + 1]));
    }
}
