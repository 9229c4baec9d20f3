//! What may change while the balancer runs: VIPs, pools, weights, caps, police. `balancer.toml` has it to begin with;
//! `warmpath map apply` puts a `policy.toml` in its place.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use ebpf_common::{
    maps::{ForwardMode, NORMAL_WEIGHT, VipKind},
    tunnel,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{TunnelConfig, police::PoliceConfig};

/// Bytes of an IPv4 packet that every link carries whole (RFC 791, section 3.2).
pub(super) const IPV4_MIN_MTU: u16 = 68;
/// Likewise of IPv6 (RFC 8200, section 5); a host that is told less goes on sending as much (RFC 8201, section 4).
const IPV6_MIN_MTU: u16 = 1_280;

/// IP protocol numbers.
const TCP: u8 = 6;
const UDP: u8 = 17;

/// The content of a `policy.toml`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyFile {
    /// The addresses to answer for.
    #[serde(rename = "vip", skip_serializing_if = "Vec::is_empty")]
    pub vips: Vec<VipConfig>,
    /// Sets of workers that VIPs may be kept to.
    #[serde(rename = "pool", skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<PoolConfig>,
    /// Workers that are not like all others.
    #[serde(rename = "worker", skip_serializing_if = "Vec::is_empty")]
    pub workers: Vec<WorkerPolicy>,
    /// Who may send how much.
    #[serde(skip_serializing_if = "PoliceConfig::is_empty")]
    pub police: PoliceConfig,
}

impl PolicyFile {
    /// The weight and the cap of the worker called `name`.
    #[must_use]
    pub fn worker(&self, name: &str) -> WorkerPolicy {
        let named = self.workers.iter().find(|worker| worker.name == name);
        named.cloned().unwrap_or_else(|| WorkerPolicy {
            name: name.to_owned(),
            weight: NORMAL_WEIGHT,
            cap: None,
        })
    }

    /// The VIP that UDP packets to `address` belong to, were there no LOAD address.
    #[must_use]
    pub fn udp_vip_at(&self, address: SocketAddr) -> Option<&VipConfig> {
        self.vips.iter().find(|vip| {
            vip.protocol == Protocol::Udp
                && vip.address == address.ip()
                && (vip.port == VipPort::Any || vip.port.number() == address.port())
        })
    }
}

/// `[[vip]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VipConfig {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: VipPort,
    /// What is carried.
    #[serde(default, skip_serializing_if = "is_default")]
    pub protocol: Protocol,
    /// What its packets are.
    #[serde(default, skip_serializing_if = "is_default")]
    pub kind: Kind,
    /// How its packets travel to the worker.
    #[serde(default, skip_serializing_if = "is_default")]
    pub forward: Forward,
    /// Name of the pool whose workers get what belongs nowhere else; all workers if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Kind `quic`: the configuration id of the connection ids whose server id is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quic_config: Option<u8>,
    /// Kind `pktgen`: what its packets stand for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pktgen: Option<PktgenConfig>,
}

impl VipConfig {
    /// `10.99.0.1:9000/udp`, `[2001:db8::1]:any/tcp`: what people name it by.
    #[must_use]
    pub fn label(&self) -> String {
        let protocol = self.protocol.name();
        match self.address {
            IpAddr::V4(address) => format!("{address}:{}/{protocol}", self.port),
            IpAddr::V6(address) => format!("[{address}]:{}/{protocol}", self.port),
        }
    }

    /// The least that the way to a worker must carry whole, so that its packets get there however short their senders make
    /// them, and how much of it is outer headers.
    pub(super) fn min_mtu(&self, tunnel: &TunnelConfig) -> (u16, u16) {
        let of_ip = |is_v6| if is_v6 { IPV6_MIN_MTU } else { IPV4_MIN_MTU };
        let is_outer_v6 = tunnel.v4.is_none();
        let overhead = tunnel::overhead(self.forward.into(), is_outer_v6) as u16;
        let inner = of_ip(self.address.is_ipv6()) + overhead;
        let outer = if overhead == 0 { 0 } else { of_ip(is_outer_v6) };
        (inner.max(outer), overhead)
    }
}

/// A port, or `"any"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum VipPort {
    /// Every port that no other VIP of the address has.
    Any,
    /// This one.
    Exactly(u16),
}

impl VipPort {
    /// As the maps have it: 0 is any.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::Any => 0,
            Self::Exactly(port) => port,
        }
    }
}

impl fmt::Display for VipPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Exactly(port) => port.fmt(f),
        }
    }
}

impl Serialize for VipPort {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Any => serializer.serialize_str("any"),
            Self::Exactly(port) => serializer.serialize_u16(*port),
        }
    }
}

impl<'de> Deserialize<'de> for VipPort {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = VipPort;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port from 1 to 65535, or \"any\"")
            }

            fn visit_u64<E: de::Error>(self, port: u64) -> Result<VipPort, E> {
                match u16::try_from(port) {
                    Ok(port) if port != 0 => Ok(VipPort::Exactly(port)),
                    _ => Err(E::invalid_value(de::Unexpected::Unsigned(port), &self)),
                }
            }

            fn visit_i64<E: de::Error>(self, port: i64) -> Result<VipPort, E> {
                let wrong = || E::invalid_value(de::Unexpected::Signed(port), &self);
                u64::try_from(port)
                    .map_err(|_negative| wrong())
                    .and_then(|port| self.visit_u64(port))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<VipPort, E> {
                match text {
                    "any" => Ok(VipPort::Any),
                    text => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// What a VIP's packets carry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// UDP.
    #[default]
    Udp,
    /// TCP.
    Tcp,
}

impl Protocol {
    /// Its IP protocol number.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Udp => UDP,
            Self::Tcp => TCP,
        }
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

/// What a VIP's packets are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// RPC over UDP.
    #[default]
    Rpc,
    /// Any TCP or UDP, by flow.
    L4,
    /// QUIC, by connection id.
    Quic,
    /// Of the kernel's pktgen.
    Pktgen,
}

impl From<Kind> for VipKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Rpc => Self::Rpc,
            Kind::L4 => Self::L4,
            Kind::Quic => Self::Quic,
            Kind::Pktgen => Self::Pktgen,
        }
    }
}

/// How a VIP's packets travel to the worker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Forward {
    /// As they are, to the worker's MAC address.
    #[default]
    L2,
    /// Within an IP packet.
    Ipip,
    /// Within UDP within an IP packet.
    Gue,
}

impl From<Forward> for ForwardMode {
    fn from(forward: Forward) -> Self {
        match forward {
            Forward::L2 => Self::L2,
            Forward::Ipip => Self::Ipip,
            Forward::Gue => Self::Gue,
        }
    }
}

/// `[vip.pktgen]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PktgenConfig {
    /// Functions that its packets call, one after another; a power of two of them.
    pub functions: Vec<String>,
    /// Sessions that the packets go round; a power of two, or 0 for requests without one.
    #[serde(default)]
    pub sessions: u32,
}

/// `[[pool]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolConfig {
    /// Its name.
    pub name: String,
    /// Names of its workers; they need not be there yet.
    pub workers: Vec<String>,
}

/// `[[worker]]` of a `policy.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerPolicy {
    /// Its name.
    pub name: String,
    /// Its share of work: 256 is that of any other worker.
    #[serde(default = "normal_weight")]
    pub weight: u16,
    /// Requests it may have in flight, whatever it reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cap: Option<u32>,
}

pub(super) const fn normal_weight() -> u16 {
    NORMAL_WEIGHT
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
