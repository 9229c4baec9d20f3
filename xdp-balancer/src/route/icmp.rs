//! ICMP errors about packets that a worker sent from a VIP ("destination unreachable", "packet too big", …): they come back
//! to the VIP, that is to the balancer, and belong to the worker whose packet it was, which the error quotes. Without them
//! path MTU discovery (RFC 1191, RFC 8201) would hang behind every narrow link.
//!
//! Of an RPC packet its route cookie names the worker, or else its session; of all else the flow does, as it does for the
//! client's packets.

use ebpf_common::{
    cookie::CookieScope,
    hash::table_hash,
    ids::{FunctionId, WorkerId},
    maps::{Config, VipInfo, VipKind, row_index},
    wire::{MAGIC, VERSION, flags},
};

use super::{Placement, flow::FlowKey, for_existing_work, home, places, vip::Address};
use crate::{
    DropReason, NotOurs, Outcome, Packet, Rule, Tables,
    balance::Arrival,
    parse::{
        FRAME_MAX, Family, ethernet,
        icmp::{self, NotQuoted, Quoted},
        rpc,
        transport::UDP_HEADER_LEN,
    },
};

/// The worker that the error is for, and the VIP it concerns, in whose mode it is forwarded.
///
/// # Errors
/// What becomes of an error that is about no packet of a VIP, or of no worker.
#[inline(always)]
pub(crate) fn place<'t, P: Packet, T: Tables>(
    packet: &P,
    arrival: &Arrival<'_>,
    tables: &'t T,
) -> Result<(VipInfo, Placement<'t>), Outcome> {
    let network = &arrival.headers.network;
    let job = Job {
        family: network.family,
        offset: network.offset,
        start: network.payload_offset + icmp::HEADER_LEN,
        end: network.payload_offset + network.payload_len,
    };
    let found = Found(about(packet, &job, arrival.config, tables));
    let unplaced = Outcome::Dropped(DropReason::IcmpUnplaced);
    match found.status() {
        Found::PLACED => {}
        Found::OTHER => return Err(Outcome::Passed(NotOurs::NotVip)),
        Found::BAD => return Err(Outcome::Dropped(DropReason::BadIcmp)),
        _ => return Err(unplaced),
    }
    let worker = found.worker();
    let info = for_existing_work(worker, tables).ok_or(unplaced)?;
    let vip = VipInfo {
        vip_id: found.vip_id(),
        forward: found.forward(),
        ..arrival.vip
    };
    let rule = Rule::Icmp;
    Ok((vip, Placement { rule, worker, info }))
}

/// Where the packet lies that is looked into.
struct Job {
    family: Family,
    /// Where the error's IP header begins.
    offset: u32,
    /// Where what it quotes begins.
    start: u32,
    /// Where it ends.
    end: u32,
}

/// Whose packet an error is about: status (8 bits), [`VipInfo::forward`] (8), worker (16), [`VipInfo::vip_id`] (32).
///
/// VERIFIER: one number, because it is what a sub-program returns.
#[derive(Clone, Copy)]
struct Found(u64);

impl Found {
    /// About a packet of a VIP.
    const PLACED: u64 = 0;
    /// About a packet of the kernel's own.
    const OTHER: u64 = 1;
    /// About nothing, or nothing that was sent from there.
    const BAD: u64 = 2;
    /// About a packet of which no worker is known.
    const UNPLACED: u64 = 3;

    #[inline(always)]
    const fn nothing(status: u64) -> Self {
        Self(status << 56)
    }

    #[inline(always)]
    const fn new(vip: &VipInfo, worker: WorkerId) -> Self {
        Self(
            Self::PLACED << 56
                | (vip.forward as u64) << 48
                | (worker.0 as u64) << 32
                | vip.vip_id as u64,
        )
    }

    #[inline(always)]
    const fn status(self) -> u64 {
        self.0 >> 56
    }

    #[inline(always)]
    const fn forward(self) -> u8 {
        (self.0 >> 48) as u8
    }

    #[inline(always)]
    const fn worker(self) -> WorkerId {
        WorkerId((self.0 >> 32) as u16)
    }

    #[inline(always)]
    const fn vip_id(self) -> u32 {
        self.0 as u32
    }
}

/// A sub-program: rare, and too much for the fast path's stack.
#[inline(never)]
fn about<P: Packet, T: Tables>(packet: &P, job: &Job, config: &Config, tables: &T) -> u64 {
    match icmp::quoted(packet, job.family, job.start & MASK, job.end & MASK) {
        Ok(quoted) => origin(packet, job, &quoted, config, tables),
        Err(NotQuoted::Other) => Found::nothing(Found::OTHER),
        Err(NotQuoted::NoPorts) => Found::nothing(Found::UNPLACED),
        Err(NotQuoted::Bad) => Found::nothing(Found::BAD),
    }
    .0
}

/// Magic and version lead the RPC header's first word, behind which are kind, flags and length (`ebpf_common::wire`).
const VERSION_SHIFT: u32 = 40;
const FLAGS_SHIFT: u32 = 16;
const MAGIC_AND_VERSION: u64 = (MAGIC as u64) << 8 | VERSION as u64;

/// VERIFIER: the bounds are lost where the numbers were handed over in memory.
const MASK: u32 = FRAME_MAX - 1;

/// Who sent the packet that is quoted.
#[inline(always)]
fn origin<P: Packet, T: Tables>(
    packet: &P,
    job: &Job,
    quoted: &Quoted,
    config: &Config,
    tables: &T,
) -> Found {
    let offset = job.offset & ethernet::IP_OFFSET_MASK;
    let Some(client) = client(packet, job.family, offset, quoted.addresses) else {
        return Found::nothing(Found::BAD);
    };
    let vip = Address::read(packet, job.family, offset)
        .and_then(|address| address.vip(quoted.source_port, quoted.protocol, tables));
    let Some(vip) = vip else {
        return Found::nothing(Found::OTHER);
    };
    let worker = match vip.kind() {
        Some(VipKind::Rpc) => by_request(packet, quoted, job.end & MASK, config, tables),
        Some(VipKind::L4 | VipKind::Quic) => {
            let flow = FlowKey::new(client, quoted.destination_port, quoted.source_port);
            by_flow(flow, vip, config, tables)
        }
        _ => None,
    };
    worker.map_or(Found::nothing(Found::UNPLACED), |worker| {
        Found::new(vip, worker)
    })
}

/// The words of the address that the quoted packet was sent to, if it was sent from where the error goes.
#[inline(always)]
fn client<P: Packet>(packet: &P, family: Family, offset: u32, addresses: u32) -> Option<[u64; 2]> {
    match family {
        Family::V4 => {
            let vip: u32 = packet.read(offset + 16)?;
            let [source, client]: [u32; 2] = packet.read(addresses)?;
            (source == vip).then_some([u64::from(client), 0])
        }
        Family::V6 => {
            let vip: [u64; 2] = packet.read(offset + 24)?;
            let [source, client]: [[u64; 2]; 2] = packet.read(addresses)?;
            (source == vip).then_some(client)
        }
    }
}

/// By the route cookie of the RPC packet that is quoted, or its session.
#[inline(always)]
fn by_request<P: Packet, T: Tables>(
    packet: &P,
    quoted: &Quoted,
    end: u32,
    config: &Config,
    tables: &T,
) -> Option<WorkerId> {
    let start = quoted.transport + UDP_HEADER_LEN;
    if start + rpc::HEADER_LEN > end {
        return None;
    }
    let [first, _, function, session, _, _, cookie, _] =
        packet.read::<[u64; 8]>(start)?.map(u64::from_be);
    if first >> VERSION_SHIFT != MAGIC_AND_VERSION {
        return None;
    }
    let flags = (first >> FLAGS_SHIFT) as u16;
    let session = (flags & flags::HAS_SESSION != 0).then_some(session);
    let by_cookie = if flags & flags::HAS_COOKIE == 0 {
        None
    } else {
        let scope = CookieScope {
            function: FunctionId(function),
            session: session.unwrap_or(0),
        };
        config.cookie_keys().open(cookie, scope).ok()
    };
    by_cookie.or_else(|| {
        let hash = table_hash(config.table_secret(), session?, function);
        places::find(
            tables.session_row(row_index(hash, config.session_mask))?,
            hash,
        )
    })
}

/// By the flow's entry, or where its pool's Maglev table places it.
#[inline(always)]
fn by_flow<T: Tables>(
    flow: FlowKey,
    vip: &VipInfo,
    config: &Config,
    tables: &T,
) -> Option<WorkerId> {
    let hash = flow.hash(config, vip.vip_id);
    let row = tables.flow_row(row_index(hash, config.flow_mask));
    row.and_then(|row| places::find(row, hash))
        .or_else(|| home::of_flow(flow.spread(), vip.pool, tables))
}
