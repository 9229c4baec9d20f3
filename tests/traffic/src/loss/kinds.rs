//! What is sent: each packet's kind follows from its number, so that both ends know it.

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
}

impl Kind {
    pub(super) const NAMES: [&'static str; 5] = ["warm", "session", "shard", "home", "cookie"];

    /// The kind of packet `number`; the first ones open the sessions.
    pub(super) fn of(number: u64) -> Self {
        if number < SESSIONS {
            return Self::Session(number);
        }
        let draw = mix64(number);
        match number % 5 {
            0 => Self::Warm,
            1 => Self::Session(draw % SESSIONS),
            2 => Self::Shard(SlotId((draw % u64::from(SLOTS)) as u16)),
            3 => Self::Cold(draw % COLD),
            _ => Self::Cookie(WorkerId((draw % u64::from(WORKERS)) as u16)),
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
        }
    }
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
        Kind::Warm => request(WARM),
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
