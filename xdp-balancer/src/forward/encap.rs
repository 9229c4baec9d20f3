//! Modes `ipip` and `gue`: the packet travels to the worker within another IP packet, so that routers may lie between.
//! VLAN tags stay in front.

use ebpf_common::{
    maps::{Config, ForwardMode, WorkerInfo, worker_flags},
    tunnel,
};

use super::{
    Unsent, exit,
    fib::{self, Way},
    hop_limit,
    outer::{Gue4, Gue6, Inner, Ipip4, Ipip6},
    too_big,
};
use crate::{
    DropReason, Packet, Tables,
    balance::Arrival,
    parse::{
        Family,
        ethernet::HEADER_LEN as ETHERNET_LEN,
        icmp,
        transport::{PROTOCOL_IPV4, PROTOCOL_IPV6},
    },
    route::Placement,
};

/// Bytes of two MAC addresses, behind which VLAN tags or the EtherType lie.
pub(super) const MACS_LEN: u32 = 12;
/// What [`Job::link_len`] is masked with: the longest is 22.
pub(super) const MAX_LINK_LEN_MASK: u32 = 0x1f;
/// Where the source lies in an IPv4 and in an IPv6 header.
const IPV4_SOURCE_OFFSET: u32 = 12;
const IPV6_SOURCE_OFFSET: u32 = 8;
/// Bytes of an EtherType.
pub(super) const TYPE_LEN: u32 = 2;

/// What is to be sent, and to whom.
struct Job<'t> {
    family: Family,
    offset: u32,
    /// Bytes of the packet.
    len: u32,
    /// Protocol of its payload.
    protocol: u8,
    ports: u32,
    mode: ForwardMode,
    info: &'t WorkerInfo,
    config: &'t Config,
}

/// Sends the packet to the worker of `placement`, in `mode`; returns the interface to redirect it to, if it is another one.
///
/// # Errors
/// What becomes of it instead.
#[inline(always)]
pub(super) fn rewrite<P: Packet, T: Tables>(
    packet: &mut P,
    arrival: &Arrival<'_>,
    placement: &Placement<'_>,
    mode: ForwardMode,
    tables: &T,
) -> Result<Option<u32>, Unsent> {
    let headers = &arrival.headers;
    let job = Job {
        family: headers.network.family,
        offset: headers.network.offset,
        len: headers.network.len,
        protocol: headers.network.protocol,
        ports: u32::from(headers.source_port) << 16 | u32::from(headers.destination_port),
        mode,
        info: placement.info,
        config: arrival.config,
    };
    if !job.has_addresses() {
        return Err(DropReason::NoTunnelAddress.into());
    }
    let overhead = tunnel::overhead(mode, job.is_outer_v6());
    let mut mtu = u32::from(job.info.mtu_or_default());
    if job.len + overhead <= mtu {
        let way = way(packet, &job, overhead, tables)?;
        if let Way::TooBig(of_route) = way {
            mtu = of_route;
        } else {
            encapsulate(packet, &job, overhead)?;
            return match way {
                Way::Out(redirect) => Ok(redirect),
                _ => Err(Unsent::NoNeighbour),
            };
        }
    }
    Err(too_big(packet, &job, mtu.saturating_sub(overhead), tables))
}

/// The way to the worker of `job`.
#[inline(always)]
fn way<P: Packet, T: Tables>(
    packet: &mut P,
    job: &Job<'_>,
    overhead: u32,
    tables: &T,
) -> Result<Way, DropReason> {
    if !job.is_by_fib() {
        return exit::redirect(packet, job.info.ifindex, tables).map(Way::Out);
    }
    let class = job.traffic_class(packet).ok_or(DropReason::NotRewritten)?;
    let len_and_class = fib::len_and_class(job.len + overhead, class);
    match fib::look_up(packet, job.info, job.config, len_and_class, tables).way()? {
        // The kernel would not know what to do with a packet for the VIP.
        Way::ByKernel if job.mode == ForwardMode::L2 => Err(DropReason::NoRoute),
        way => Ok(way),
    }
}

/// Tells the packet's sender that it may have `mtu` bytes.
#[inline(always)]
fn too_big<P: Packet, T: Tables>(packet: &mut P, job: &Job<'_>, mtu: u32, tables: &T) -> Unsent {
    // An error must not be answered with an error (RFC 1122, section 3.2.2; RFC 4443, section 2.4(e)).
    if job.protocol == icmp::protocol(job.family) {
        return Unsent::Dropped(DropReason::TooBig);
    }
    match too_big::answer(packet, job.offset, job.len, mtu, tables) {
        Ok(()) => Unsent::TooBig,
        Err(reason) => Unsent::Dropped(reason),
    }
}

/// Puts the outer headers around the packet; without any in mode `l2`.
#[inline(always)]
fn encapsulate<P: Packet>(packet: &mut P, job: &Job<'_>, overhead: u32) -> Result<(), DropReason> {
    let inner = inner(packet, job).ok_or(DropReason::NotRewritten)?;
    hop_limit::lower(packet, job.config, job.family, job.link_len())?;
    wrap(packet, job, overhead, &inner).ok_or(DropReason::NotRewritten)
}

impl Job<'_> {
    /// Where the packet begins, behind Ethernet and up to two VLAN tags.
    #[inline(always)]
    const fn link_len(&self) -> u32 {
        // VERIFIER: the bound is lost where the number was handed over in memory.
        self.offset & MAX_LINK_LEN_MASK
    }

    /// Differentiated services and congestion notification of the packet.
    #[inline(always)]
    fn traffic_class<P: Packet>(&self, packet: &P) -> Option<u8> {
        let first = u16::from_be_bytes(packet.read(self.link_len())?);
        Some(match self.family {
            // Version, header length, type of service.
            Family::V4 => first as u8,
            // Version, traffic class, the beginning of the flow label.
            Family::V6 => (first >> 4) as u8,
        })
    }

    /// Whether the next hop is asked of the kernel's FIB.
    #[inline(always)]
    const fn is_by_fib(&self) -> bool {
        self.info.flags & worker_flags::FIB != 0
    }

    /// Whether the worker is reached by IPv6.
    #[inline(always)]
    const fn is_outer_v6(&self) -> bool {
        self.info.flags & worker_flags::OUTER_V6 != 0
    }

    /// Whether both ends of the tunnel are configured; where there is none, only the FIB asks for the worker's.
    #[inline(always)]
    fn has_addresses(&self) -> bool {
        let is_tunnel = self.mode != ForwardMode::L2;
        if self.is_outer_v6() {
            self.info.addr6 != [0; 16] && (!is_tunnel || self.config.tunnel_v6 != [0; 16])
        } else {
            self.info.addr4 != [0; 4] && (!is_tunnel || self.config.tunnel_v4 != [0; 4])
        }
    }
}

/// What the outer headers say of the packet.
#[inline(always)]
fn inner<P: Packet>(packet: &P, job: &Job<'_>) -> Option<Inner> {
    let ports = u64::from(job.ports);
    let (protocol, flow) = match job.family {
        Family::V4 => {
            let source: u32 = packet.read(job.link_len() + IPV4_SOURCE_OFFSET)?;
            (PROTOCOL_IPV4, u64::from(source) << 32 | ports)
        }
        Family::V6 => {
            let [high, low]: [u64; 2] = packet.read(job.link_len() + IPV6_SOURCE_OFFSET)?;
            let source = spread(high).wrapping_add(low);
            (PROTOCOL_IPV6, spread(source) ^ ports)
        }
    };
    Some(Inner {
        len: job.len,
        protocol,
        traffic_class: job.traffic_class(packet)?,
        spread: (spread(flow) >> 32) as u32,
    })
}

/// Multiplicative hashing (Knuth, volume 3, section 6.4): the upper bits depend on all. Not keyed, because nothing but
/// the choice of a queue depends on it.
#[inline(always)]
const fn spread(word: u64) -> u64 {
    word.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Puts the outer headers, of `overhead` bytes, between the frame's header and its packet.
#[inline(always)]
fn wrap<P: Packet>(packet: &mut P, job: &Job<'_>, overhead: u32, inner: &Inner) -> Option<()> {
    let macs: [[u8; 6]; 2] = if job.is_by_fib() {
        // Those that `fib::look_up` has left, or those of arrival for the kernel.
        packet.read(0)?
    } else {
        [job.info.dst_mac, job.info.src_mac]
    };
    if job.mode == ForwardMode::L2 {
        return packet.write(0, macs);
    }
    let link_len = job.link_len();
    let tags = if link_len == ETHERNET_LEN {
        None
    } else {
        // Of two tags, or of one and what the outer headers then cover.
        Some(packet.read::<[u8; 8]>(MACS_LEN)?)
    };
    packet.grow(overhead).ok()?;
    packet.write(0, macs)?;
    if let Some(tags) = tags {
        packet.write(MACS_LEN, tags)?;
    }
    // VERIFIER: `link_len` may be 0 for all it knows.
    let offset = link_len.wrapping_sub(TYPE_LEN) & MAX_LINK_LEN_MASK;
    let (config, info) = (job.config, job.info);
    match (job.mode, job.is_outer_v6()) {
        (ForwardMode::Gue, false) => {
            packet.write(offset, Gue4::new(inner, config.tunnel_v4, info.addr4))
        }
        (ForwardMode::Gue, true) => {
            packet.write(offset, Gue6::new(inner, config.tunnel_v6, info.addr6))
        }
        (_, false) => packet.write(offset, Ipip4::new(inner, config.tunnel_v4, info.addr4)),
        (_, true) => packet.write(offset, Ipip6::new(inner, config.tunnel_v6, info.addr6)),
    }
}
