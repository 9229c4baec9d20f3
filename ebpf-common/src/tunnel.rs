//! Encapsulation: what balancer and worker must agree on, and what it costs of a packet's length.

use crate::maps::ForwardMode;

/// UDP port that GUE packets are sent to (IANA: gue).
pub const GUE_PORT: u16 = 6_080;
/// Lowest UDP port that GUE packets are sent from; the bits below it vary by flow.
pub const GUE_SOURCE_PORTS: u16 = 0xc000;
/// Hops that an encapsulated packet may take.
pub const OUTER_HOP_LIMIT: u8 = 64;
/// Bytes of the largest IP packet on the way to a worker, where the worker's row does not say.
pub const DEFAULT_MTU: u16 = 1_500;

const IPV4_LEN: u32 = 20;
const IPV6_LEN: u32 = 40;
const UDP_LEN: u32 = 8;

/// Bytes that `mode` puts in front of an IP packet; `outer_v6` says whether the worker is reached by IPv6.
#[inline(always)]
#[must_use]
pub const fn overhead(mode: ForwardMode, outer_v6: bool) -> u32 {
    let ip = if outer_v6 { IPV6_LEN } else { IPV4_LEN };
    match mode {
        ForwardMode::L2 => 0,
        ForwardMode::Ipip => ip,
        ForwardMode::Gue => ip + UDP_LEN,
    }
}
