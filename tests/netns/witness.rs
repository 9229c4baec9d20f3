//! What really arrives at hosts: frames as their interfaces have them.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket},
};
use tests::{topology::Host, wait};

use crate::bed::PATIENCE;

const ETHERNET_LEN: usize = 14;

/// Somebody who looks at some hosts' interfaces.
pub(crate) struct Witness<'h> {
    looks: Vec<(&'h Host, OwnedFd)>,
}

/// A frame at a host that it was sent to, and the packet in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) host: String,
    pub(crate) dst_mac: String,
    pub(crate) src_mac: String,
    /// Source, port where it is GUE, and destination of what it is encapsulated in.
    pub(crate) outer: Option<(IpAddr, Option<u16>, IpAddr)>,
}

impl<'h> Witness<'h> {
    pub(crate) fn at(hosts: impl IntoIterator<Item = &'h Host>) -> Self {
        let open = || {
            let flags = SockFlag::SOCK_NONBLOCK;
            let all = SockProtocol::EthAll;
            socket(AddressFamily::Packet, SockType::Raw, flags, all)
        };
        let look = |host: &'h Host| (host, host.netns.enter(open).unwrap().unwrap());
        Self {
            looks: hosts.into_iter().map(look).collect(),
        }
    }

    /// Where a packet from `source` to `vip` arrives.
    pub(crate) fn sees(&self, source: SocketAddr, vip: SocketAddr) -> Seen {
        wait::until("the packet to arrive", PATIENCE, || {
            Ok(self.looks.iter().find_map(|(host, look)| {
                frames(look).find_map(|frame| Seen::read(&frame, host, source, vip))
            }))
        })
        .unwrap()
    }

    /// Who has sent packets to the hosts since the last look, by the first few hundred of them: more are not kept.
    pub(crate) fn sources(&self) -> BTreeSet<IpAddr> {
        let looks = self.looks.iter();
        looks
            .flat_map(|(host, look)| frames(look).filter(|frame| is_to(frame, host)))
            .filter_map(|frame| source(&frame))
            .collect()
    }
}

fn is_to(frame: &[u8], host: &Host) -> bool {
    let mut nics = host.nics.iter();
    nics.any(|nic| frame.get(..6) == Some(nic.mac.as_slice()))
}

/// The source of the IP packet in `frame`, if it is one.
fn source(frame: &[u8]) -> Option<IpAddr> {
    let packet = frame.get(ETHERNET_LEN..)?;
    match frame.get(12..ETHERNET_LEN)? {
        [0x08, 0x00] => Some(<[u8; 4]>::try_from(packet.get(12..16)?).ok()?.into()),
        [0x86, 0xdd] => Some(<[u8; 16]>::try_from(packet.get(8..24)?).ok()?.into()),
        _ => None,
    }
}

/// Those that wait to be read.
fn frames(look: &OwnedFd) -> impl Iterator<Item = Vec<u8>> {
    std::iter::from_fn(move || {
        let mut frame = vec![0; 2048];
        match recv(look.as_raw_fd(), &mut frame, MsgFlags::empty()) {
            Ok(len) => {
                frame.truncate(len);
                Some(frame)
            }
            Err(Errno::EAGAIN) => None,
            Err(error) => panic!("{error}"),
        }
    })
}

impl Seen {
    /// The packet in `frame`, if it is one from `source` to `vip` and was sent to `host`.
    fn read(frame: &[u8], host: &Host, source: SocketAddr, vip: SocketAddr) -> Option<Self> {
        if !is_to(frame, host) {
            return None;
        }
        // Addresses and ports lie side by side where the IP header has no options; its first byte is so far before them.
        let (before, mut needle) = match (source.ip(), vip.ip()) {
            (IpAddr::V4(source), IpAddr::V4(vip)) => (12, [source.octets(), vip.octets()].concat()),
            (IpAddr::V6(source), IpAddr::V6(vip)) => (8, [source.octets(), vip.octets()].concat()),
            _ => panic!("{source} {vip}"),
        };
        needle.extend([source.port(), vip.port()].map(u16::to_be_bytes).concat());
        let at = frame
            .windows(needle.len())
            .position(|part| part == needle)?;
        let outer = &frame[ETHERNET_LEN..at - before];
        let mac = |at: usize| frame[at..at + 6].iter().map(|byte| format!("{byte:02x}"));
        Some(Self {
            host: host.role.clone(),
            dst_mac: mac(0).collect::<Vec<_>>().join(":"),
            src_mac: mac(6).collect::<Vec<_>>().join(":"),
            outer: (!outer.is_empty()).then(|| read_outer(outer)),
        })
    }
}

/// An IP header without options, and for GUE a UDP header to port 6080.
fn read_outer(outer: &[u8]) -> (IpAddr, Option<u16>, IpAddr) {
    let v4 = |at: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&outer[at..at + 4]).unwrap());
    let v6 = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&outer[at..at + 16]).unwrap());
    let (source, destination, protocol, len): (IpAddr, IpAddr, u8, usize) = match outer[0] >> 4 {
        4 => (v4(12).into(), v4(16).into(), outer[9], 20),
        6 => (v6(8).into(), v6(24).into(), outer[6], 40),
        other => panic!("version {other}"),
    };
    let udp = &outer[len..];
    if udp.is_empty() {
        assert!([4, 41].contains(&protocol), "{protocol}");
        return (source, None, destination);
    }
    assert_eq!((protocol, udp.len()), (17, 8));
    assert_eq!(u16::from_be_bytes([udp[2], udp[3]]), 6080);
    (
        source,
        Some(u16::from_be_bytes([udp[0], udp[1]])),
        destination,
    )
}
