//! One stream of requests, as an operator describes it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ebpf_common::{
    ids::FunctionId,
    traffic::{MAX_FLOWS, vary},
    wire::{RpcHeader, flags},
};

use crate::{Destination, Ip, Scene, scene};

/// Requests of one function by many clients.
#[derive(Debug, Clone)]
pub struct Stream {
    /// The VIP.
    pub to: SocketAddr,
    /// MAC addresses of sender and receiver.
    pub macs: [[u8; 6]; 2],
    /// Address of the first client; over IPv6 it is the end of one in fd00::/96.
    pub from: Ipv4Addr,
    /// The function.
    pub function: FunctionId,
    /// Clients, each with an address and a port of its own; rounded up to a power of two, 1,048,576 at most.
    pub clients: u32,
    /// Whether each client has a session.
    pub sessions: bool,
    /// Whether requests name a slot, another one for each client.
    pub slots: bool,
    /// Bytes of payload; at least [`scene::PAYLOAD_MIN`].
    pub payload_len: usize,
}

impl Stream {
    /// The stream as the programs present it, with right checksums.
    #[must_use]
    pub fn scene(&self) -> Scene {
        let (ip, v4, v6) = match self.to.ip() {
            IpAddr::V4(to) => (Ip::V4, to, Ipv6Addr::UNSPECIFIED),
            IpAddr::V6(to) => (Ip::V6, Ipv4Addr::UNSPECIFIED, to),
        };
        let destination = Destination {
            v4,
            v6,
            port: self.to.port(),
            macs: self.macs,
        };
        let chosen = |is: bool, value: u32| if is { value } else { 0 };
        let what = chosen(self.sessions, vary::SESSION) | chosen(self.slots, vary::SLOT);
        let mut header = RpcHeader::request(self.function, 0);
        if self.sessions {
            header.flags |= flags::HAS_SESSION;
        }
        if self.slots {
            header.flags |= flags::HAS_SLOT;
        }
        let clients = self.clients.clamp(1, MAX_FLOWS).next_power_of_two();
        let mut scene = scene::rpc(ip, destination, header, self.payload_len, what, clients);
        scene.template.source = self.from.to_bits();
        scene.with_checksums()
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    use super::*;

    #[test]
    fn a_stream_becomes_the_request_that_was_described() {
        let stream = Stream {
            to: "10.99.0.1:9000".parse().expect("an address"),
            macs: [[2; 6], [4; 6]],
            from: Ipv4Addr::new(10, 7, 0, 0),
            function: FunctionId::of("hello"),
            clients: 1_000,
            sessions: true,
            slots: false,
            payload_len: 100,
        };
        let scene = stream.scene();
        assert_eq!(scene.template.mask, 1_023);
        assert_eq!(scene.template.fields(0).source, 0x0a07_0000);
        assert!(scene.template.varies(vary::SESSION) && !scene.template.varies(vary::SLOT));
        let packet = SlicedPacket::from_ethernet(&scene.frame).expect("a frame");
        let Some(NetSlice::Ipv4(ip)) = packet.net else {
            panic!("not IPv4");
        };
        assert_eq!(ip.header().destination(), [10, 99, 0, 1]);
        let Some(TransportSlice::Udp(udp)) = packet.transport else {
            panic!("not UDP");
        };
        let (rpc, payload) = RpcHeader::parse(udp.payload())
            .expect("long enough")
            .expect("a header");
        assert_eq!((rpc.function, payload.len()), (stream.function, 100));
        assert!(rpc.has(flags::HAS_SESSION) && !rpc.has(flags::HAS_SLOT));
    }
}
