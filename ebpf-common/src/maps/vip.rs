//! `VIPS`, `VIPS6`, `VIP_FILTER`: the addresses we answer for.

use zerocopy::transmute;

use crate::{hash::mix64, limits::VIP_FILTER_BITS, map_type::map_type};

/// What stands behind a row of the `VIPS` or `VIPS6` map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum VipKind {
    /// RPC over UDP: the rules of the route stage apply.
    Rpc = 1,
    /// Not a VIP but the mark that this address has one: key with port 0 and protocol 0. It lets the
    /// program refuse IP fragments and cut-off headers, whose port it cannot read.
    Address = 2,
    /// TCP or UDP without a header of ours: by flow.
    L4 = 3,
    /// QUIC: by the server id in the connection id (draft-ietf-quic-load-balancers, plaintext), else by flow.
    Quic = 4,
    /// Packets of the kernel's pktgen, routed like RPC with fields derived from their sequence number.
    Pktgen = 5,
    /// Not a VIP but the address that workers send their LOAD packets to.
    Load = 6,
}

impl VipKind {
    /// The kind of code `code`.
    #[inline(always)]
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Rpc),
            2 => Some(Self::Address),
            3 => Some(Self::L4),
            4 => Some(Self::Quic),
            5 => Some(Self::Pktgen),
            6 => Some(Self::Load),
            _ => None,
        }
    }

    /// Its name in configuration, CLI, JSON and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rpc => "rpc",
            Self::Address => "address",
            Self::L4 => "l4",
            Self::Quic => "quic",
            Self::Pktgen => "pktgen",
            Self::Load => "load",
        }
    }
}

/// How packets of a VIP travel to the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ForwardMode {
    /// As they are, to the worker's MAC address: worker and balancer share a link.
    L2 = 0,
    /// Within an IP packet to the worker (RFC 2003, RFC 2473).
    Ipip = 1,
    /// Within UDP within an IP packet (draft-ietf-intarea-gue, variant 1: the inner packet follows UDP at once).
    Gue = 2,
}

impl ForwardMode {
    /// The mode of code `code`; an unknown code counts as `l2`.
    #[inline(always)]
    #[must_use]
    pub const fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Ipip,
            2 => Self::Gue,
            _ => Self::L2,
        }
    }

    /// Its name in configuration, CLI, JSON and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::L2 => "l2",
            Self::Ipip => "ipip",
            Self::Gue => "gue",
        }
    }
}

map_type! {
    /// An IPv4 VIP.
    VipKey, 8 {
        /// IPv4 address, network byte order.
        addr: [u8; 4],
        /// Port, network byte order; 0 is any port.
        port: [u8; 2],
        /// IP protocol number.
        protocol: u8,
        /// Unused; zero.
        reserved: u8,
    }
}

impl VipKey {
    /// The key of `addr`:`port` (host byte order) over `protocol`.
    #[inline(always)]
    #[must_use]
    pub const fn new(addr: [u8; 4], port: u16, protocol: u8) -> Self {
        Self {
            addr,
            port: port.to_be_bytes(),
            protocol,
            reserved: 0,
        }
    }

    /// The key under which `addr` is marked as having a VIP (see [`VipKind::Address`]).
    #[inline(always)]
    #[must_use]
    pub const fn address_mark(addr: [u8; 4]) -> Self {
        Self::new(addr, 0, 0)
    }
}

map_type! {
    /// An IPv6 VIP.
    Vip6Key, 20 {
        /// IPv6 address, network byte order.
        addr: [u8; 16],
        /// Port, network byte order; 0 is any port.
        port: [u8; 2],
        /// IP protocol number.
        protocol: u8,
        /// Unused; zero.
        reserved: u8,
    }
}

impl Vip6Key {
    /// The key of `addr`:`port` (host byte order) over `protocol`.
    #[inline(always)]
    #[must_use]
    pub const fn new(addr: [u8; 16], port: u16, protocol: u8) -> Self {
        Self {
            addr,
            port: port.to_be_bytes(),
            protocol,
            reserved: 0,
        }
    }

    /// The key under which `addr` is marked as having a VIP (see [`VipKind::Address`]).
    #[inline(always)]
    #[must_use]
    pub const fn address_mark(addr: [u8; 16]) -> Self {
        Self::new(addr, 0, 0)
    }
}

map_type! {
    /// What to do with packets for a VIP.
    VipInfo, 12 {
        /// Number of the VIP, which is its row in `VIP_COUNTERS`.
        vip_id: u32,
        /// A [`VipKind`] code.
        kind: u8,
        /// A [`ForwardMode`] code.
        forward: u8,
        /// The pool whose Maglev table the home rule and flows use; 0 is all workers.
        pool: u8,
        /// Kind `quic`: the configuration id (0 to 6) of the connection ids whose server id is read.
        quic_config: u8,
        /// Kind `pktgen`: row in `PKTGEN`.
        pktgen: u16,
        /// Unused; zero.
        reserved: u16,
    }
}

map_type! {
    /// A row of `VIPS`. All zero is an empty row.
    VipRow, 32 {
        /// Whose row it is.
        key: VipKey,
        /// The VIP; kind 0 in an empty row.
        info: VipInfo,
        /// Unused; zero.
        reserved: [u8; 12],
    }
}

map_type! {
    /// A row of `VIPS6`. All zero is an empty row.
    Vip6Row, 32 {
        /// Whose row it is.
        key: Vip6Key,
        /// The VIP; kind 0 in an empty row.
        info: VipInfo,
    }
}

impl VipRow {
    /// A row without a VIP.
    pub const EMPTY: Self = Self::new(VipKey::new([0; 4], 0, 0), VipInfo::NONE);

    /// The row of `key`.
    #[must_use]
    pub const fn new(key: VipKey, info: VipInfo) -> Self {
        Self {
            key,
            info,
            reserved: [0; 12],
        }
    }
}

impl Vip6Row {
    /// A row without a VIP.
    pub const EMPTY: Self = Self::new(Vip6Key::new([0; 16], 0, 0), VipInfo::NONE);

    /// The row of `key`.
    #[must_use]
    pub const fn new(key: Vip6Key, info: VipInfo) -> Self {
        Self { key, info }
    }
}

/// The hash by which `key` stands in `VIPS` (see [`crate::cuckoo`]).
#[inline(always)]
#[must_use]
pub fn vip_hash(key: &VipKey) -> u64 {
    let word: u64 = transmute!(*key);
    mix64(word)
}

/// The hash by which `key` stands in `VIPS6`.
#[inline(always)]
#[must_use]
pub fn vip6_hash(key: &Vip6Key) -> u64 {
    let [a, b, c, d, port]: [u32; 5] = transmute!(*key);
    let high = (a as u64) << 32 | b as u64;
    let low = (c as u64) << 32 | d as u64;
    mix64(high ^ low.rotate_left(29) ^ (port as u64) << 16)
}

impl VipInfo {
    /// What stands in an empty row.
    const NONE: Self = Self {
        vip_id: 0,
        kind: 0,
        forward: 0,
        pool: 0,
        quic_config: 0,
        pktgen: 0,
        reserved: 0,
    };

    /// VIP number `vip_id` of `kind`, in mode `l2` to all workers.
    #[must_use]
    pub const fn new(vip_id: u32, kind: VipKind) -> Self {
        Self {
            vip_id,
            kind: kind as u8,
            forward: ForwardMode::L2 as u8,
            pool: 0,
            quic_config: 0,
            pktgen: 0,
            reserved: 0,
        }
    }

    /// The kind; `None` for an unknown code.
    #[inline(always)]
    #[must_use]
    pub const fn kind(&self) -> Option<VipKind> {
        VipKind::from_code(self.kind)
    }

    /// How its packets travel.
    #[inline(always)]
    #[must_use]
    pub const fn forward(&self) -> ForwardMode {
        ForwardMode::from_code(self.forward)
    }
}

/// The bit of `VIP_FILTER` for an IPv4 address: an address with a clear bit has no VIP. The filter keeps the
/// packets of others away from the hash maps, at the price of one load. Bit `b` is bit `b % 64` of word `b / 64`.
#[inline(always)]
#[must_use]
pub const fn vip_filter_bit(addr: [u8; 4]) -> u32 {
    spread(u32::from_ne_bytes(addr))
}

/// The bit of `VIP_FILTER` for an IPv6 address.
#[inline(always)]
#[must_use]
pub const fn vip6_filter_bit(words: [u32; 4]) -> u32 {
    let [a, b, c, d] = words;
    spread(a ^ b.rotate_left(7) ^ c.rotate_left(13) ^ d)
}

/// Multiplicative hashing (Knuth, The Art of Computer Programming, 6.4) to the bits of the filter.
#[inline(always)]
const fn spread(word: u32) -> u32 {
    word.wrapping_mul(0x9e37_79b1) >> (32 - VIP_FILTER_BITS.trailing_zeros())
}
