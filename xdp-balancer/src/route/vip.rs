//! Whether a packet is for a VIP: rule zero, which tells "ours" from "not ours".

use ebpf_common::maps::{Vip6Key, VipInfo, VipKey, VipKind, vip_filter_bit, vip6_filter_bit};
use zerocopy::transmute;

use crate::{
    NotOurs, Outcome, Packet, Tables,
    parse::{Family, Headers, NotHeaders, ethernet, icmp, ipv4::Ipv4Header},
};

/// Protocol number in the key of an address's mark, whose port is 0.
const ADDRESS_MARK: u8 = 0;

/// Lets through the packets that are for a VIP, with its row.
///
/// # Errors
/// What becomes of the others: a broken packet for an address that has a VIP is dropped, because the port
/// that would clear it of suspicion cannot be read or trusted; all else passes.
#[inline(always)]
pub(crate) fn admit<P: Packet, T: Tables>(
    packet: &P,
    parsed: Result<Headers, NotHeaders>,
    tables: &T,
) -> Result<(Headers, VipInfo), Outcome> {
    let not_vip = Outcome::Passed(NotOurs::NotVip);
    match parsed {
        Ok(headers) => {
            let network = &headers.network;
            let address = Address::read(packet, network.family, network.offset).ok_or(not_vip)?;
            // An ICMP error has no port: whether it is about a VIP's packet, its own rule finds out.
            let protocol = if network.protocol == icmp::protocol(network.family) {
                ADDRESS_MARK
            } else {
                network.protocol
            };
            let vip = address
                .vip(headers.destination_port, protocol, tables)
                .ok_or(not_vip)?;
            Ok((headers, *vip))
        }
        Err(NotHeaders::Other(why)) => Err(Outcome::Passed(why)),
        Err(NotHeaders::Unreadable(reason)) => Err(Outcome::Dropped(reason)),
        Err(NotHeaders::Malformed {
            family,
            offset,
            reason,
        }) => match Address::read(packet, family, offset) {
            Some(address) if address.is_marked(tables) => Err(Outcome::Dropped(reason)),
            _ => Err(not_vip),
        },
    }
}

/// An address that may have a VIP, in words as they lie in memory.
#[derive(Clone, Copy)]
pub(crate) enum Address {
    /// Of IPv4.
    V4(u32),
    /// Of IPv6.
    V6([u32; 4]),
}

impl Address {
    /// The destination of the IP header of `family` at `offset`.
    #[inline(always)]
    pub(super) fn read<P: Packet>(packet: &P, family: Family, offset: u32) -> Option<Self> {
        // VERIFIER: the offset may have come by way of the stack, where it lost its bounds.
        let offset = offset & ethernet::IP_OFFSET_MASK;
        match family {
            Family::V4 => {
                let header: Ipv4Header = packet.read(offset)?;
                Some(Self::V4(u32::from_ne_bytes(header.destination)))
            }
            // Behind version, length, next header, hop limit and source (RFC 8200, section 3).
            Family::V6 => packet.read(offset + 24).map(Self::V6),
        }
    }

    /// The row of this address and `port` (0 for any), if there is a VIP.
    #[inline(always)]
    pub(crate) fn vip<'t, T: Tables>(
        &self,
        port: u16,
        protocol: u8,
        tables: &'t T,
    ) -> Option<&'t VipInfo> {
        if !self.may_have_vip(tables) {
            return None;
        }
        self.row(port, protocol, tables)
            .or_else(|| self.row(0, protocol, tables))
    }

    /// Whether this address has a VIP on any port.
    #[inline(always)]
    pub(crate) fn is_marked<T: Tables>(&self, tables: &T) -> bool {
        self.may_have_vip(tables)
            && self
                .row(0, 0, tables)
                .is_some_and(|vip| vip.kind == VipKind::Address as u8)
    }

    #[inline(always)]
    fn may_have_vip<T: Tables>(&self, tables: &T) -> bool {
        let bit = match self {
            Self::V4(addr) => vip_filter_bit(addr.to_ne_bytes()),
            Self::V6(addr) => vip6_filter_bit(*addr),
        };
        tables
            .vip_filter(bit >> 6)
            .is_some_and(|word| word >> (bit & 63) & 1 == 1)
    }

    #[inline(always)]
    fn row<'t, T: Tables>(&self, port: u16, protocol: u8, tables: &'t T) -> Option<&'t VipInfo> {
        match self {
            Self::V4(addr) => tables.vip(&VipKey::new(addr.to_ne_bytes(), port, protocol)),
            Self::V6(addr) => tables.vip6(&Vip6Key::new(transmute!(*addr), port, protocol)),
        }
    }
}
