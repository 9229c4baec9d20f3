//! `VIPS`: the addresses we answer for.

use crate::map_type::map_type;

/// What stands behind a row of the `VIPS` map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum VipKind {
    /// RPC over UDP: the rules of the route stage apply.
    Rpc = 1,
    /// Not a VIP but the mark that this address has one: key with port 0 and protocol 0. It lets the
    /// program refuse IP fragments and cut-off headers, whose port it cannot read.
    Address = 2,
}

map_type! {
    /// An IPv4 VIP.
    VipKey, 8 {
        /// IPv4 address, network byte order.
        addr: [u8; 4],
        /// Port, network byte order.
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
    /// What to do with packets for a VIP.
    VipInfo, 8 {
        /// Number of the VIP in the configuration, for counters by VIP.
        vip_id: u32,
        /// A [`VipKind`] code.
        kind: u8,
        /// Unused; zero.
        reserved: [u8; 3],
    }
}

impl VipInfo {
    /// VIP number `vip_id` of `kind`.
    #[must_use]
    pub const fn new(vip_id: u32, kind: VipKind) -> Self {
        Self {
            vip_id,
            kind: kind as u8,
            reserved: [0; 3],
        }
    }
}
