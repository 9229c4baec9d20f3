//! What a driver says of itself: `xdp-features` of the generic netlink family `netdev`
//! (Documentation/netlink/specs/netdev.yaml, since Linux 6.3).

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};
use std::os::fd::AsRawFd as _;

const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
/// Bytes of nlmsghdr and genlmsghdr together.
const HEADERS_LEN: usize = 16 + 4;
const REPLY_LEN: usize = 8_192;

/// The features of the interface with this index; none if this kernel cannot say.
pub(super) fn xdp_features(ifindex: u32) -> Option<u64> {
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkGeneric,
    )
    .ok()?;
    let ask = |request: &[u8]| {
        let mut reply = vec![0; REPLY_LEN];
        send(netlink.as_raw_fd(), request, MsgFlags::empty()).ok()?;
        let len = recv(netlink.as_raw_fd(), &mut reply, MsgFlags::empty()).ok()?;
        reply.truncate(len);
        Some(reply)
    };
    let family = message(
        GENL_ID_CTRL,
        CTRL_CMD_GETFAMILY,
        CTRL_ATTR_FAMILY_NAME,
        b"netdev\0",
    );
    let family = attribute(&ask(&family)?, GENL_ID_CTRL, CTRL_ATTR_FAMILY_ID)?;
    let family = u16::from_ne_bytes(family.try_into().ok()?);
    let device = message(
        family,
        NETDEV_CMD_DEV_GET,
        NETDEV_A_DEV_IFINDEX,
        &ifindex.to_ne_bytes(),
    );
    let features = attribute(&ask(&device)?, family, NETDEV_A_DEV_XDP_FEATURES)?;
    Some(u64::from_ne_bytes(features.try_into().ok()?))
}

/// A request with one attribute.
fn message(family: u16, command: u8, attribute: u16, value: &[u8]) -> Vec<u8> {
    let padded = value.len().next_multiple_of(4);
    let len = (HEADERS_LEN + 4 + padded) as u32;
    let mut bytes = Vec::with_capacity(len as usize);
    bytes.extend(len.to_ne_bytes());
    bytes.extend(family.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST.to_ne_bytes());
    // Sequence number and port, which one question at a time does not need.
    bytes.extend([0; 8]);
    bytes.extend([command, 1, 0, 0]);
    bytes.extend((4 + value.len() as u16).to_ne_bytes());
    bytes.extend(attribute.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(len as usize, 0);
    bytes
}

/// The value of an attribute in the answer of `family`; an error message is of another type.
fn attribute(reply: &[u8], family: u16, wanted: u16) -> Option<Vec<u8>> {
    let u16_at = |at: usize| -> Option<u16> {
        let bytes = reply.get(at..at + 2)?;
        Some(u16::from_ne_bytes(bytes.try_into().ok()?))
    };
    if u16_at(4)? != family {
        return None;
    }
    let mut at = HEADERS_LEN;
    loop {
        let len = usize::from(u16_at(at)?);
        let value = reply.get(at + 4..at + len)?;
        if u16_at(at + 2)? == wanted {
            return Some(value.to_vec());
        }
        at += len.max(4).next_multiple_of(4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_found_behind_padded_others_and_only_in_the_familys_answer() {
        let mut reply = message(28, 1, 7, b"abc");
        let features = message(28, 1, NETDEV_A_DEV_XDP_FEATURES, &0x7f_u64.to_ne_bytes());
        reply.extend(&features[HEADERS_LEN..]);
        let found = attribute(&reply, 28, NETDEV_A_DEV_XDP_FEATURES).unwrap();
        assert_eq!(found, 0x7f_u64.to_ne_bytes());
        assert_eq!(attribute(&reply, 28, 9), None);
        assert_eq!(attribute(&reply, 2, 7), None);
        assert_eq!(attribute(&[], 28, 7), None);
    }

    #[test]
    fn the_loopback_has_no_xdp_in_its_driver_and_an_interface_that_is_none_has_no_features() {
        // On a kernel before 6.3 both are unknown.
        assert!(matches!(xdp_features(1), Some(0) | None));
        assert_eq!(xdp_features(u32::MAX >> 1), None);
    }
}
