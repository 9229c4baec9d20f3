//! What is sent: each packet's kind follows from its number, so that both ends know it.

use std::net::Ipv4Addr;

use ebpf_common::{
    cookie::{CookieKeys, CookieScope},
    hash::mix64,
    ids::{FunctionId, SlotId, WorkerId},
    limits::SLOTS,
    wire::{RpcHeader, flags},
};

use super::WORKERS;

/// Sessions that are there from the beginning.
pub(super) const SESSIONS: u64 = 256;
/// Functions that are warm nowhere.
pub(super) const COLD: u64 = 64;

/// Called by the warm rule, and by cookie.
pub(super) const WARM: FunctionId = FunctionId(0xa);
/// With session affinity.
pub(super) const SESSION: FunctionId = FunctionId(0xb);
/// With shard affinity.
pub(super) const SHARD: FunctionId = FunctionId(0xc);

/// The port of the VIP that takes what is no RPC, by flow.
pub(super) const FLOW_PORT: u16 = 9001;
/// The port of the VIP whose packets are encapsulated (GUE over IPv4).
pub(super) const TUNNEL_PORT: u16 = 9002;
/// Flows that are under way at a time, and packets of each.
pub(super) const FLOWS: u64 = 64;
pub(super) const FLOW_PACKETS: u64 = 16;
/// The first flow's port; each has its own, so that none meets an entry of another.
const FIRST_SOURCE_PORT: u64 = 20_000;

/// A function that is warm nowhere.
pub(super) const fn cold(number: u64) -> FunctionId {
    FunctionId(0x1000 + number)
}

/// Which rule a packet is for, and what it asks of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Warm,
    Session(u64),
    Shard(SlotId),
    Cold(u64),
    Cookie(WorkerId),
    /// The number of the flow.
    Flow(u64),
    /// As [`Self::Warm`], encapsulated.
    Tunnelled,
}

impl Kind {
    pub(super) const COUNT: usize = 7;
    pub(super) const NAMES: [&'static str; Self::COUNT] = [
        "warm",
        "session",
        "shard",
        "home",
        "cookie",
        "flow",
        "tunnelled",
    ];

    /// The kind of packet `number`; the first ones open the sessions.
    pub(super) fn of(number: u64) -> Self {
        if number < SESSIONS {
            return Self::Session(number);
        }
        let draw = mix64(number);
        match number % Self::COUNT as u64 {
            0 => Self::Warm,
            1 => Self::Session(draw % SESSIONS),
            2 => Self::Shard(SlotId((draw % u64::from(SLOTS)) as u16)),
            3 => Self::Cold(draw % COLD),
            4 => Self::Cookie(WorkerId((draw % u64::from(WORKERS)) as u16)),
            5 => Self::Flow(flow(number / Self::COUNT as u64)),
            _ => Self::Tunnelled,
        }
    }

    /// Its place in [`Self::NAMES`].
    pub(super) const fn index(self) -> usize {
        match self {
            Self::Warm => 0,
            Self::Session(_) => 1,
            Self::Shard(_) => 2,
            Self::Cold(_) => 3,
            Self::Cookie(_) => 4,
            Self::Flow(_) => 5,
            Self::Tunnelled => 6,
        }
    }
}

/// The flow of packet `number` among those of flows: [`FLOWS`] in turn, and new ones when each has had its packets.
const fn flow(number: u64) -> u64 {
    number / (FLOWS * FLOW_PACKETS) * FLOWS + number % FLOWS
}

/// Where a flow comes from; `None` after more of them than there are ports.
pub(super) fn source_port(flow: u64) -> Option<u16> {
    u16::try_from(FIRST_SOURCE_PORT + flow).ok()
}

/// The hash by which the program places a flow of `client`'s in the Maglev table (docs/data-path.md), as written there.
pub(super) fn flow_spread(client: Ipv4Addr, source_port: u16) -> u64 {
    let source = u32::from_ne_bytes(client.octets());
    let ports = u64::from(source_port) << 16 | u64::from(FLOW_PORT);
    mix64(mix64(source.into()) ^ ports)
}

/// Packet `number`; a cookie is made with `keys`.
pub(super) fn packet(number: u64, keys: CookieKeys) -> RpcHeader {
    let request = |function| RpcHeader {
        // A trace id, which tells the other end which packet it has.
        token: number,
        ..RpcHeader::request(function, mix64(!number))
    };
    let with = |header: RpcHeader, flag| RpcHeader {
        flags: header.flags | flag,
        ..header
    };
    match Kind::of(number) {
        // To a flow's VIP it is a payload like any other.
        Kind::Warm | Kind::Flow(_) | Kind::Tunnelled => request(WARM),
        Kind::Session(session_id) => RpcHeader {
            session_id,
            ..with(request(SESSION), flags::HAS_SESSION)
        },
        Kind::Shard(slot) => RpcHeader {
            slot,
            ..with(request(SHARD), flags::HAS_SLOT)
        },
        Kind::Cold(function) => request(cold(function)),
        Kind::Cookie(worker) => {
            let scope = CookieScope {
                function: WARM,
                session: 0,
            };
            RpcHeader {
                route_cookie: keys.seal(worker, scope),
                ..with(request(WARM), flags::HAS_COOKIE)
            }
        }
    }
}
