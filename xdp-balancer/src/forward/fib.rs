//! The way out that the kernel's FIB knows: for workers behind routers that the kernel has learnt of.

use ebpf_common::maps::{Config, WorkerInfo, worker_flags};

use super::exit;
use crate::{DropReason, Ends, FibQuery, NextHop, Packet, Tables};

/// What the FIB says, in one number: a result of more words would come back by way of the stack, of which there is little.
#[derive(Clone, Copy)]
pub(super) struct Answer(u64);

/// By which way a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Out of this interface; `None` is the one it came in by.
    Out(Option<u32>),
    /// The kernel is to send it, who finds the next hop's MAC address by that.
    ByKernel,
    /// None for more than so many bytes.
    TooBig(u32),
}

const OUT: u32 = 0;
const BY_KERNEL: u32 = 1;
const TOO_BIG: u32 = 2;
const NO_ROUTE: u32 = 3;
const NO_PORT: u32 = 4;
const NOT_REWRITTEN: u32 = 5;

impl Answer {
    #[inline(always)]
    const fn new(code: u32, number: u32) -> Self {
        Self((code as u64) << 32 | number as u64)
    }

    /// What it means.
    ///
    /// # Errors
    /// There is no way.
    #[inline(always)]
    pub(super) const fn way(self) -> Result<Way, DropReason> {
        let number = self.0 as u32;
        match (self.0 >> 32) as u32 {
            OUT => Ok(Way::Out(if number == 0 { None } else { Some(number) })),
            BY_KERNEL => Ok(Way::ByKernel),
            TOO_BIG => Ok(Way::TooBig(number)),
            NO_PORT => Err(DropReason::NoPort),
            NOT_REWRITTEN => Err(DropReason::NotRewritten),
            _ => Err(DropReason::NoRoute),
        }
    }
}

/// Asks the FIB for the way to `worker` for a packet of `len` bytes, the outer headers among them, with `traffic_class`; if
/// there is one, its MAC addresses stand in the frame afterwards.
///
/// A sub-program: the kernel's question alone takes 64 bytes of stack.
#[inline(never)]
pub(super) fn look_up<P: Packet, T: Tables>(
    packet: &mut P,
    worker: &WorkerInfo,
    config: &Config,
    len_and_class: u32,
    tables: &T,
) -> Answer {
    let query = FibQuery {
        ends: ends(worker, config),
        len: (len_and_class >> 8) as u16,
        traffic_class: len_and_class as u8,
    };
    match packet.next_hop(&query) {
        NextHop::Found { ifindex, macs } => {
            let Some(()) = packet.write(0, macs) else {
                return Answer::new(NOT_REWRITTEN, 0);
            };
            match exit::redirect(packet, ifindex, tables) {
                Ok(redirect) => Answer::new(OUT, redirect.unwrap_or(0)),
                Err(_) => Answer::new(NO_PORT, 0),
            }
        }
        NextHop::NoNeighbour => Answer::new(BY_KERNEL, 0),
        NextHop::TooBig { mtu } => Answer::new(TOO_BIG, mtu.into()),
        NextHop::NoRoute => Answer::new(NO_ROUTE, 0),
    }
}

/// The length and the traffic class of a packet, as [`look_up`] takes them: the kernel lets a sub-program have five arguments.
#[inline(always)]
pub(super) const fn len_and_class(len: u32, traffic_class: u8) -> u32 {
    len << 8 | traffic_class as u32
}

/// The two ends of the way that the worker's row asks for.
#[inline(always)]
const fn ends<'t>(worker: &'t WorkerInfo, config: &'t Config) -> Ends<'t> {
    if worker.flags & worker_flags::OUTER_V6 == 0 {
        Ends::V4 {
            source: &config.tunnel_v4,
            destination: &worker.addr4,
        }
    } else {
        Ends::V6 {
            source: &config.tunnel_v6,
            destination: &worker.addr6,
        }
    }
}
