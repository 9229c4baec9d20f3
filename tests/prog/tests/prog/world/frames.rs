//! Frames to the VIPs of a world.

use std::net::IpAddr;

use ebpf_common::{
    load::LoadReport,
    maps::VipKind,
    wire::{Kind, RpcHeader},
};
use rand::{Rng as _, rngs::StdRng, seq::IndexedRandom as _};
use xdp_balancer::testing::{
    extension::{self, Extension},
    frame::{Frame, Transport},
};

use super::{NO_VIP, UNMARKED_VIP, Vip, World, any_worker, damage, damage::Spots};

/// Ports of clients: few, so that flows meet again.
const CLIENT_PORTS: u16 = 24;
/// Bytes of a frame: the kernel's test run takes no more than a page, with the room around it.
const FRAME_MAX: usize = 3_000;

impl World {
    /// A random frame, at least 14 bytes long.
    pub(crate) fn frame(&self, rng: &mut StdRng) -> Vec<u8> {
        let vip = self.vip(rng);
        let mut frame = self.content(rng, &vip);
        self.address(rng, &vip, &mut frame);
        wrap(rng, &mut frame);
        if rng.random_ratio(1, 30) {
            fragment(rng, &mut frame);
        }
        if frame.bytes().len() > FRAME_MAX {
            frame.extensions.clear();
        }
        let spots = Spots::of(&frame);
        let mut bytes = frame.bytes();
        if rng.random_ratio(1, 3) {
            damage::damage(&mut bytes, &spots, rng);
        }
        bytes
    }

    /// One of the VIPs; every second time one of kind `rpc`.
    fn vip(&self, rng: &mut StdRng) -> Vip {
        let any = *self.vips.choose(rng).unwrap();
        if rng.random() {
            return any;
        }
        let rpc = self.vips.iter().filter(|vip| vip.kind == VipKind::Rpc);
        **rpc.collect::<Vec<_>>().choose(rng).unwrap()
    }

    /// What the VIP's kind takes; sometimes what another one takes.
    fn content(&self, rng: &mut StdRng, vip: &Vip) -> Frame {
        let kind = match rng.random_range(0..40) {
            0 => VipKind::Rpc,
            1 => VipKind::L4,
            2 => VipKind::Quic,
            3 => VipKind::Load,
            4 => return self.icmp(rng, vip),
            _ => vip.kind,
        };
        match kind {
            VipKind::Rpc => Frame::rpc(self.header(rng, vip), &self.payload(rng)),
            VipKind::Quic => self.quic(rng, vip),
            VipKind::Pktgen => Frame::pktgen(rng.random_range(0..5_000)),
            VipKind::Load => Frame::rpc(self.load(rng), b""),
            VipKind::L4 | VipKind::Address => Frame {
                transport: transport(rng),
                ..Frame::udp(noise(rng))
            },
        }
    }

    /// From a client to the VIP, or nearly there.
    fn address(&self, rng: &mut StdRng, vip: &Vip, frame: &mut Frame) {
        let is_v4 = vip.address.is_ipv4();
        let clients: Vec<_> = self
            .clients
            .iter()
            .filter(|client| client.is_ipv4() == is_v4)
            .collect();
        frame.source = **clients.choose(rng).unwrap();
        frame.destination = vip.address;
        if frame.source_port != 0 {
            frame.source_port = 40_000 + rng.random_range(0..CLIENT_PORTS);
        }
        frame.port = vip.port;
        if is_v4 && rng.random_ratio(1, 20) {
            frame.destination = (*[UNMARKED_VIP, NO_VIP].choose(rng).unwrap()).into();
        }
        if rng.random_ratio(1, 30) {
            // Where only a VIP of any port is, or none.
            frame.port = rng.random_range(0..20);
        }
        if rng.random_ratio(1, 100) {
            frame.source = odd_source(rng, is_v4);
        }
        if rng.random_ratio(1, 200) {
            frame.source_port = 0;
        }
    }

    /// A QUIC packet: of a connection of ours, of another configuration, or noise.
    fn quic(&self, rng: &mut StdRng, vip: &Vip) -> Frame {
        let mut id: Vec<u8> = (0..rng.random_range(0..20)).map(|_| rng.random()).collect();
        if rng.random_ratio(4, 5) {
            id.resize(id.len().max(8), 0);
            let [high, low] = any_worker(rng).0.to_be_bytes();
            let len = id.len() as u8 - 1;
            id[..3].copy_from_slice(&[vip.info.quic_config << 5 | len & 0x1f, high, low]);
        }
        let mut frame = Frame::quic(rng.random(), &id);
        if rng.random_ratio(1, 10) {
            frame
                .datagram
                .truncate(rng.random_range(0..frame.datagram.len()));
        }
        frame
    }

    /// A LOAD packet: good, old, forged, or of a worker that is none.
    fn load(&self, rng: &mut StdRng) -> RpcHeader {
        let config = self.tables.config.unwrap();
        let report = LoadReport {
            worker: any_worker(rng),
            sequence: rng.random_range(0..1 << 41),
            received: rng.random_range(0..50),
            completed: rng.random_range(0..50),
            capacity: rng.random_range(0..5_000),
        };
        let age = *[0, 0, 0, 0, 1, 2].choose(rng).unwrap();
        let epoch = (config.key_epoch as u8).wrapping_sub(age);
        let key = config.load_keys().of(report.worker, epoch);
        let mut header = report.seal(epoch, key);
        if rng.random_ratio(1, 6) {
            header.token ^= 1 << rng.random_range(0..64);
        }
        if rng.random_ratio(1, 30) {
            header.kind = Kind::Request;
        }
        header
    }

    /// An ICMP error about a packet that a worker sent from the VIP, or something like it.
    fn icmp(&self, rng: &mut StdRng, vip: &Vip) -> Frame {
        let client = self
            .clients
            .iter()
            .filter(|client| client.is_ipv4() == vip.address.is_ipv4())
            .collect::<Vec<_>>();
        let client = **client.choose(rng).unwrap();
        let answer = RpcHeader {
            kind: Kind::Response,
            ..self.header(rng, vip)
        };
        let mut quoted = Frame {
            source: vip.address,
            destination: client,
            source_port: vip.port,
            port: 40_000 + rng.random_range(0..CLIENT_PORTS),
            ..Frame::rpc(answer, &noise(rng))
        };
        if rng.random_ratio(1, 5) {
            quoted.transport = transport(rng);
        }
        if rng.random_ratio(1, 8) {
            fragment(rng, &mut quoted);
        }
        if rng.random_ratio(1, 8) {
            wrap(rng, &mut quoted);
        }
        let mut packet = quoted.packet();
        // As much as an error quotes at most (RFC 4443, section 2.4).
        packet.truncate(1_232);
        if rng.random_ratio(1, 3) {
            packet.truncate(rng.random_range(0..=packet.len()));
        }
        if rng.random_ratio(1, 5) && !packet.is_empty() {
            let at = rng.random_range(0..packet.len().min(130));
            packet[at] ^= 1 << rng.random_range(0..8);
        }
        let kinds = if client.is_ipv4() {
            [3, 11, 12, 8]
        } else {
            [1, 2, 3, 128]
        };
        Frame {
            transport: Transport::Icmp {
                kind: *kinds.choose(rng).unwrap(),
                code: rng.random_range(0..5),
                rest: rng.random(),
            },
            ..Frame::udp(packet)
        }
    }
}

fn noise(rng: &mut StdRng) -> Vec<u8> {
    let len = match rng.random_range(0..20) {
        0 => rng.random_range(0..1_400),
        _ => rng.random_range(0..60),
    };
    (0..len).map(|_| rng.random()).collect()
}

fn transport(rng: &mut StdRng) -> Transport {
    match rng.random_range(0..10) {
        0..5 => Transport::Udp,
        5..9 => Transport::Tcp {
            flags: *[2, 16, 18, 17, 4].choose(rng).unwrap(),
        },
        _ => Transport::Other(rng.random()),
    }
}

/// Sources that nothing can be answered to, or hardly.
fn odd_source(rng: &mut StdRng, is_v4: bool) -> IpAddr {
    if is_v4 {
        let first = *[0, 1, 127, 224, 255].choose(rng).unwrap();
        [first, 0, 0, 1].into()
    } else {
        let mut address = [0; 16];
        address[0] = *[0, 0xff, 0xfe].choose(rng).unwrap();
        address[15] = 1;
        address.into()
    }
}

/// Tags, options and extension headers, hops and traffic class.
fn wrap(rng: &mut StdRng, frame: &mut Frame) {
    let tags = *[0, 0, 0, 0, 0, 1, 1, 2, 2, 3].choose(rng).unwrap();
    let tags = if rng.random_ratio(1, 3) {
        tags
    } else {
        tags.min(2)
    };
    frame.tags = (0..tags).map(|_| rng.random()).collect();
    frame.traffic_class = *[0, 0, rng.random()].choose(rng).unwrap();
    frame.hops = match rng.random_range(0..30) {
        0 => rng.random_range(0..3),
        1 => 255,
        _ => 64,
    };
    if rng.random_ratio(1, 6) {
        frame.options = vec![1; rng.random_range(0..=10) * 4];
    }
    if rng.random_ratio(1, 3) {
        frame.extensions = (0..rng.random_range(1..=5))
            .map(|_| extension(rng))
            .collect();
    }
}

fn extension(rng: &mut StdRng) -> Extension {
    match rng.random_range(0..12) {
        0..4 => Extension::options(extension::DESTINATION, rng.random_range(0..4)),
        4..8 => Extension::options(extension::HOP_BY_HOP, rng.random_range(0..4)),
        8 => Extension::routing(u8::from(rng.random_ratio(1, 4))),
        9 => Extension::fragment(0, false),
        10 => Extension::options(extension::DESTINATION, rng.random()),
        // Of a protocol that is none that is read.
        _ => Extension::options(rng.random(), 0),
    }
}

/// The first part of a longer packet, or a later one.
fn fragment(rng: &mut StdRng, frame: &mut Frame) {
    frame.more_fragments = rng.random_ratio(4, 5);
    if rng.random_ratio(1, 3) {
        frame.fragment_offset = rng.random_range(0..8_192);
    }
    if rng.random() {
        frame.held = Some(rng.random_range(0..200));
    }
}
