//! What only `ethtool` tells: driver, channels, hash, offloads.

use std::collections::{BTreeMap, BTreeSet};

use super::output;
use crate::doctor::facts::{Channels, Offload};

/// The protocols of RPC packets, as `ethtool --show-nfc` names them.
const HASHED: [&str; 2] = ["udp4", "udp6"];

pub(super) fn driver(interface: &str) -> Option<String> {
    value(&output("ethtool", &["--driver", interface])?, "driver").map(str::to_owned)
}

pub(super) fn channels(interface: &str) -> Option<Channels> {
    parse_channels(&output("ethtool", &["--show-channels", interface])?)
}

pub(super) fn rss_queues(interface: &str) -> Option<BTreeSet<u32>> {
    let queues = parse_rss(&output("ethtool", &["--show-rxfh", interface])?);
    (!queues.is_empty()).then_some(queues)
}

pub(super) fn hashes_ports(interface: &str) -> BTreeMap<&'static str, bool> {
    let ask = |protocol: &'static str| {
        let args = ["--show-nfc", interface, "rx-flow-hash", protocol];
        Some((protocol, parse_hash(&output("ethtool", &args)?)?))
    };
    HASHED.into_iter().filter_map(ask).collect()
}

pub(super) fn offloads(interface: &str) -> BTreeMap<String, Offload> {
    let args = ["--show-features", interface];
    parse_offloads(&output("ethtool", &args).unwrap_or_default())
}

/// The value behind `key:`.
fn value<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then_some(value.trim())
    })
}

fn parse_channels(text: &str) -> Option<Channels> {
    let (max, now) = text.split_once("Current hardware settings:")?;
    let number = |part, key| value(part, key).and_then(|value| value.parse().ok());
    let of = |key, is_combined| {
        Some(Channels {
            now: number(now, key)?,
            max: number(max, key)?,
            is_combined,
        })
        .filter(|channels: &Channels| channels.max > 0)
    };
    of("Combined", true).or_else(|| of("RX", false))
}

/// The table's rows: `    0:      0     1     2     3`.
fn parse_rss(text: &str) -> BTreeSet<u32> {
    text.lines()
        .take_while(|line| !line.starts_with("RSS"))
        .filter_map(|line| {
            let (row, queues) = line.split_once(':')?;
            row.trim().parse::<u32>().ok()?;
            Some(queues)
        })
        .flat_map(str::split_whitespace)
        .filter_map(|queue| queue.parse().ok())
        .collect()
}

/// Whether the fields that are hashed include the ports; none if it does not say what is hashed.
fn parse_hash(text: &str) -> Option<bool> {
    text.contains("flows use these fields")
        .then(|| text.contains("L4 bytes"))
}

fn parse_offloads(text: &str) -> BTreeMap<String, Offload> {
    text.lines()
        .filter_map(|line| {
            let (name, state) = line.trim().split_once(':')?;
            let mut words = state.split_whitespace();
            let is_on = match words.next()? {
                "on" => true,
                "off" => false,
                _ => return None,
            };
            let is_fixed = words.next() == Some("[fixed]");
            Some((name.to_owned(), Offload { is_on, is_fixed }))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ethtool 6.1; the first of a virtio interface, the second of a veth, the third of an Intel E810.
    const COMBINED: &str = "\
Channel parameters for eth0:
Pre-set maximums:
RX:\t\tn/a
TX:\t\tn/a
Other:\t\tn/a
Combined:\t8
Current hardware settings:
RX:\t\tn/a
TX:\t\tn/a
Other:\t\tn/a
Combined:\t2
";
    const RX: &str = "\
Channel parameters for wpA:
Pre-set maximums:
RX:\t\t4
TX:\t\t4
Other:\t\tn/a
Combined:\tn/a
Current hardware settings:
RX:\t\t1
TX:\t\t1
Other:\t\tn/a
Combined:\tn/a
";

    #[test]
    fn channels_are_combined_or_not() {
        let combined = Channels {
            now: 2,
            max: 8,
            is_combined: true,
        };
        assert_eq!(parse_channels(COMBINED), Some(combined));
        let rx = Channels {
            now: 1,
            max: 4,
            is_combined: false,
        };
        assert_eq!(parse_channels(RX), Some(rx));
        assert_eq!(parse_channels(""), None);
    }

    #[test]
    fn queues_of_the_hash_are_those_in_its_table() {
        let text = "RX flow hash indirection table for eth0 with 4 RX ring(s):\n    0:      0     1     0     1\n    \
                    4:      0     1     2     1\nRSS hash key:\n6d:5a:56\nRSS hash function:\n    toeplitz: on\n";
        assert_eq!(parse_rss(text), BTreeSet::from([0, 1, 2]));
        let unsupported = "RX flow hash indirection table for eth0 with 1 RX ring(s):\nOperation not supported\n\
                           RSS hash key:\nOperation not supported\n";
        assert!(parse_rss(unsupported).is_empty());
    }

    #[test]
    fn ports_are_hashed_if_the_fields_say_so() {
        let addresses =
            "UDP over IPV4 flows use these fields for computing Hash flow key:\nIP SA\nIP DA\n";
        assert_eq!(parse_hash(addresses), Some(false));
        let ports = format!("{addresses}L4 bytes 0 & 1 [TCP/UDP src port]\nL4 bytes 2 & 3\n");
        assert_eq!(parse_hash(&ports), Some(true));
        assert_eq!(parse_hash(""), None);
    }

    #[test]
    fn offloads_are_on_or_off_and_may_be_fixed() {
        let text = "Features for eth0:\nrx-checksumming: on [fixed]\ntx-checksumming: on\n\t\
                    tx-checksum-ipv4: off [fixed]\nlarge-receive-offload: off [fixed]\n";
        let offloads = parse_offloads(text);
        let on = Offload {
            is_on: true,
            is_fixed: false,
        };
        assert_eq!(offloads["tx-checksumming"], on);
        assert!(offloads["rx-checksumming"].is_fixed);
        assert!(!offloads["large-receive-offload"].is_on);
        assert_eq!(offloads.len(), 4);
    }

    #[test]
    fn the_driver_is_named() {
        assert_eq!(
            value("driver: veth\nversion: 1.0\n", "driver"),
            Some("veth")
        );
    }
}
