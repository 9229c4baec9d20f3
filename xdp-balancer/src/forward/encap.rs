//! Modes `ipip` and `gue`: the packet travels to the worker within another IP packet, so that routers may lie between.
//! VLAN tags stay in front.

use ebpf_common::{
    maps::{Config, ForwardMode, WorkerInfo, worker_flags},
    tunnel,
};

use super::{
    exit::Exit,
    hop_limit,
    outer::{Gue4, Gue6, Inner, Ipip4, Ipip6},
};
use crate::{
    DropReason, Packet, Tables,
    balance::Arrival,
    parse::{
        Family,
        ethernet::HEADER_LEN as ETHERNET_LEN,
        ipv4::Ipv4Header,
        transport::{PROTOCOL_IPV4, PROTOCOL_IPV6},
    },
    route::Placement,
};

/// Bytes of two MAC addresses, behind which VLAN tags or the EtherType lie.
const MACS_LEN: u32 = 12;
/// What [`Job::link_len`] is masked with: the longest is 22.
const MAX_LINK_LEN_MASK: u32 = 0x1f;
/// Bytes of an EtherType.
const TYPE_LEN: u32 = 2;

/// The two ends of the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    V4 { tunnel: [u8; 4], worker: [u8; 4] },
    V6 { tunnel: [u8; 16], worker: [u8; 16] },
}

/// What is to be encapsulated, and for whom: what [`encapsulate`] needs of an arrival and its placement, and no more, because
/// what is handed to a sub-program by reference must lie in memory.
struct Job<'t> {
    family: Family,
    offset: u32,
    len: u32,
    ports: u32,
    mode: ForwardMode,
    info: &'t WorkerInfo,
    config: &'t Config,
}

/// Encapsulates the packet for the worker of `placement`; returns the interface to redirect it to, if it is another one.
///
/// # Errors
/// Why it is dropped.
#[inline(always)]
pub(super) fn rewrite<P: Packet, T: Tables>(
    packet: &mut P,
    arrival: &Arrival<'_>,
    placement: &Placement<'_>,
    mode: ForwardMode,
    tables: &T,
) -> Result<Option<u32>, DropReason> {
    let headers = &arrival.headers;
    let job = Job {
        family: headers.network.family,
        offset: headers.network.offset,
        len: headers.network.len,
        ports: u32::from(headers.source_port) << 16 | u32::from(headers.destination_port),
        mode,
        info: placement.info,
        config: arrival.config,
    };
    encapsulate(packet, &job, tables)
}

/// A sub-program, because each rule that ends here would otherwise carry it all, and the verifier walk it for each.
#[inline(always)]
fn encapsulate<P: Packet, T: Tables>(
    packet: &mut P,
    job: &Job<'_>,
    tables: &T,
) -> Result<Option<u32>, DropReason> {
    let ends = Ends::of(job).ok_or(DropReason::NoTunnelAddress)?;
    let overhead = tunnel::overhead(job.mode, matches!(ends, Ends::V6 { .. }));
    if job.len + overhead > u32::from(job.info.mtu_or_default()) {
        return Err(DropReason::TooBig);
    }
    let exit = Exit::configured(packet, job.info, tables)?;
    let inner = inner(packet, job).ok_or(DropReason::NotRewritten)?;
    hop_limit::lower(packet, job.config, job.family, job.link_len())?;
    wrap(packet, job, &exit, &ends, &inner).ok_or(DropReason::NotRewritten)?;
    Ok(exit.redirect)
}

impl Job<'_> {
    /// Where the packet begins, behind Ethernet and up to two VLAN tags.
    #[inline(always)]
    const fn link_len(&self) -> u32 {
        // VERIFIER: the bound is lost where the number was handed over in memory.
        self.offset & MAX_LINK_LEN_MASK
    }
}

impl Ends {
    /// Those that the worker's row asks for, if both are configured.
    #[inline(always)]
    fn of(job: &Job<'_>) -> Option<Self> {
        if job.info.flags & worker_flags::OUTER_V6 == 0 {
            let (tunnel, worker) = (job.config.tunnel_v4, job.info.addr4);
            return (tunnel != [0; 4] && worker != [0; 4]).then_some(Self::V4 { tunnel, worker });
        }
        let (tunnel, worker) = (job.config.tunnel_v6, job.info.addr6);
        (tunnel != [0; 16] && worker != [0; 16]).then_some(Self::V6 { tunnel, worker })
    }
}

/// What the outer headers say of the packet.
#[inline(always)]
fn inner<P: Packet>(packet: &P, job: &Job<'_>) -> Option<Inner> {
    let ports = u64::from(job.ports);
    let (protocol, traffic_class, flow) = match job.family {
        Family::V4 => {
            let header: Ipv4Header = packet.read(job.link_len())?;
            let source = u64::from(u32::from_ne_bytes(header.source));
            (PROTOCOL_IPV4, header.service, source << 32 | ports)
        }
        Family::V6 => {
            // Version (4 bits), traffic class (8), flow label (20), then length, next header and hop limit; the source.
            let [first, high, low]: [[u8; 8]; 3] = packet.read(job.link_len())?;
            let traffic_class = (u64::from_be_bytes(first) >> 52) as u8;
            let source = spread(u64::from_ne_bytes(high)).wrapping_add(u64::from_ne_bytes(low));
            (PROTOCOL_IPV6, traffic_class, spread(source) ^ ports)
        }
    };
    Some(Inner {
        len: job.len,
        protocol,
        traffic_class,
        spread: (spread(flow) >> 32) as u32,
    })
}

/// Multiplicative hashing (Knuth, volume 3, section 6.4): the upper bits depend on all. Not keyed, because nothing but
/// the choice of a queue depends on it.
#[inline(always)]
const fn spread(word: u64) -> u64 {
    word.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Puts the outer headers between the frame's header and its packet.
#[inline(always)]
fn wrap<P: Packet>(
    packet: &mut P,
    job: &Job<'_>,
    exit: &Exit,
    ends: &Ends,
    inner: &Inner,
) -> Option<()> {
    let link_len = job.link_len();
    let tags = if link_len == ETHERNET_LEN {
        None
    } else {
        // Of two tags, or of one and what the outer headers then cover.
        Some(packet.read::<[u8; 8]>(MACS_LEN)?)
    };
    let is_v6 = matches!(ends, Ends::V6 { .. });
    packet.grow(tunnel::overhead(job.mode, is_v6)).ok()?;
    packet.write(0, exit.macs)?;
    if let Some(tags) = tags {
        packet.write(MACS_LEN, tags)?;
    }
    // VERIFIER: `link_len` may be 0 for all it knows.
    let offset = link_len.wrapping_sub(TYPE_LEN) & 0x1f;
    match (job.mode, *ends) {
        (ForwardMode::Gue, Ends::V4 { tunnel, worker }) => {
            packet.write(offset, Gue4::new(inner, tunnel, worker))
        }
        (ForwardMode::Gue, Ends::V6 { tunnel, worker }) => {
            packet.write(offset, Gue6::new(inner, tunnel, worker))
        }
        (_, Ends::V4 { tunnel, worker }) => packet.write(offset, Ipip4::new(inner, tunnel, worker)),
        (_, Ends::V6 { tunnel, worker }) => packet.write(offset, Ipip6::new(inner, tunnel, worker)),
    }
}
