//! Whether a packet is for a VIP: rule zero, which tells "ours" from "not ours".

use ebpf_common::maps::{VipInfo, VipKey, VipKind};

use crate::{
    NotOurs, Outcome, Tables,
    parse::{Datagram, NotDatagram, ip},
};

/// Lets through the datagrams that are for an RPC VIP.
///
/// # Errors
/// What becomes of the others: a broken packet for an address that has a VIP is dropped, because the port
/// that would clear it of suspicion cannot be read or trusted; all else passes.
#[inline(always)]
pub fn admit<T: Tables>(
    parsed: Result<Datagram, NotDatagram>,
    tables: &T,
) -> Result<Datagram, Outcome> {
    match parsed {
        Ok(datagram) => {
            let key = VipKey::new(datagram.destination, datagram.port, ip::PROTOCOL_UDP);
            if is_kind(tables.vip(&key), VipKind::Rpc) {
                Ok(datagram)
            } else {
                Err(Outcome::Passed(NotOurs::NotVip))
            }
        }
        Err(NotDatagram::Other(why)) => Err(Outcome::Passed(why)),
        Err(NotDatagram::Unreadable(reason)) => Err(Outcome::Dropped(reason)),
        Err(NotDatagram::Malformed {
            destination,
            reason,
        }) => {
            let mark = VipKey::address_mark(destination);
            if is_kind(tables.vip(&mark), VipKind::Address) {
                Err(Outcome::Dropped(reason))
            } else {
                Err(Outcome::Passed(NotOurs::NotVip))
            }
        }
    }
}

#[inline(always)]
fn is_kind(vip: Option<&VipInfo>, kind: VipKind) -> bool {
    vip.is_some_and(|vip| vip.kind == kind as u8)
}
