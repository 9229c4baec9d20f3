//! The way of one packet through the stages, by the kind of its VIP.

use core::cell::Cell;

use ebpf_common::{
    ids::WorkerId,
    maps::{Config, VipInfo, VipKind},
    wire::{RpcHeader, flags},
};

use crate::{
    DropReason, NotOurs, Outcome, Packet, Stop, Tables, Verdict, forward, observe,
    opaque::opaque,
    parse::{self, Family, Headers, Network, ethernet, ipv4},
    police,
    route::{self, Placement},
};

/// Bytes in front of the first payload there can be.
const FRAME_HEADERS_MIN: u32 = ethernet::HEADER_LEN + ipv4::HEADER_LEN;

/// Decides what becomes of `packet`, rewrites it for that, and counts it.
#[inline(always)]
pub fn balance<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Verdict {
    decide(packet, tables).verdict()
}

/// As [`balance`], and says why.
#[inline(always)]
pub(crate) fn decide<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Outcome {
    let outcome = process(packet, tables);
    observe::count(tables, &outcome);
    outcome
}

/// A packet for a VIP, and all that the stages need to know of where it is and what it is for.
#[derive(Clone, Copy)]
pub(crate) struct Arrival<'t> {
    /// What its headers say.
    pub(crate) headers: Headers,
    /// Its VIP.
    pub(crate) vip: VipInfo,
    /// The program's configuration.
    pub(crate) config: &'t Config,
    /// Bytes of its frame when it came in.
    pub(crate) frame_len: u32,
    /// Milliseconds after which its sender is to try again, where the stage that refused it knows better than
    /// [`crate::Refusal::retry_after_ms`]; 0 where not. Here and not in [`Stop`], as LLVM would keep the unset half of an
    /// enum on the stack, which the verifier refuses ("R1 !read_ok").
    pub(crate) retry_after_ms: &'t Cell<u32>,
    /// Requests that its worker has to do if it gets it: 1 for the first packet of one, 0 for any other.
    pub(crate) requests: &'t Cell<u32>,
}

#[inline(always)]
fn process<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Outcome {
    let parsed = parse::headers(packet);
    observe::parsed(&parsed, tables);
    let (headers, vip) = match route::vip::admit(packet, parsed, tables) {
        Ok(admitted) => admitted,
        Err(outcome) => return outcome,
    };
    let Some(config) = tables.config() else {
        return Outcome::Dropped(DropReason::NotConfigured);
    };
    let (retry_after_ms, requests) = (Cell::new(0), Cell::new(0));
    let mut arrival = Arrival {
        headers: one_way(headers, tables),
        vip,
        config,
        frame_len: packet.len(),
        retry_after_ms: &retry_after_ms,
        requests: &requests,
    };
    let kind = arrival.vip.kind();
    // Of an ICMP error it is not known yet which of the address's VIPs it is about.
    if kind != Some(VipKind::Address) {
        observe::vip(tables, &arrival);
    }
    if let Err(reason) = police::source(packet, &arrival, tables) {
        return Outcome::Dropped(reason);
    }
    let placement = match kind {
        Some(VipKind::Rpc | VipKind::Pktgen) => by_request(packet, &arrival, kind, tables),
        Some(VipKind::L4) => route::flow::place(packet, &arrival, tables),
        Some(VipKind::Quic) => route::quic::place(packet, &arrival, tables),
        Some(VipKind::Load) => return route::load::take_in(packet, &arrival, tables),
        Some(VipKind::Address) => match route::icmp::place(packet, &arrival, tables) {
            Ok((vip, placement)) => {
                arrival.vip = vip;
                observe::vip(tables, &arrival);
                Ok(placement)
            }
            Err(outcome) => return outcome,
        },
        None => return Outcome::Passed(NotOurs::NotVip),
    };
    match placement {
        Ok(placement) => forward::to_worker(packet, &arrival, &placement, tables),
        Err(stop) => stopped(packet, &arrival, stop, tables),
    }
}

/// The same headers, by one way through the verifier whatever was read (see [`Tables::opaque`]). The masks are wider than
/// what `parse` lets through.
#[inline(always)]
fn one_way<T: Tables>(headers: Headers, tables: &T) -> Headers {
    let network = headers.network;
    let bits = network.family as u32
        | u32::from(network.is_fragment) << 1
        | u32::from(network.protocol) << 8;
    let [offset, payload_offset, len, payload_len] = tables.opaque([
        network.offset,
        network.payload_offset,
        network.len,
        network.payload_len,
    ]);
    // In a register: of all five, this one makes fewer ways on Linux 6.1 so (376,000 instructions and not 698,000).
    let bits = opaque(bits);
    Headers {
        network: Network {
            offset: within(ethernet::HEADER_LEN, offset, 0xf),
            payload_offset: within(FRAME_HEADERS_MIN, payload_offset, 0x3fff),
            len: len & 0xffff,
            payload_len: payload_len & 0xffff,
            // By one bit each, where a comparison would make two ways again.
            family: match bits & 1 {
                0 => Family::V4,
                _ => Family::V6,
            },
            is_fragment: bits >> 1 & 1 == 1,
            protocol: (bits >> 8) as u8,
        },
        ..headers
    }
}

/// `value`, of which the verifier then knows that it is from `min` to `min + mask`.
#[inline(always)]
const fn within(min: u32, value: u32, mask: u32) -> u32 {
    min + (value.wrapping_sub(min) & mask)
}

/// A packet with an RPC header, or one of pktgen's that stands for it.
#[inline(always)]
fn by_request<'t, P: Packet, T: Tables>(
    packet: &P,
    arrival: &Arrival<'_>,
    kind: Option<VipKind>,
    tables: &'t T,
) -> Result<Placement<'t>, Stop> {
    let request = match kind {
        Some(VipKind::Rpc) => parse::request(packet, &arrival.headers)?,
        _ => route::pktgen::request(packet, arrival, tables)?,
    };
    place(packet, arrival, &request, tables)
}

#[inline(always)]
fn place<'t, P: Packet, T: Tables>(
    packet: &P,
    arrival: &Arrival<'_>,
    request: &RpcHeader,
    tables: &'t T,
) -> Result<Placement<'t>, Stop> {
    observe::request(tables, request);
    police::address(packet, arrival, request, tables)?;
    let cookie = route::cookie::worker(request, arrival.config, tables);
    // Fetched before the rates are looked up, and looked at behind them: among a million functions all of it is cache
    // misses, which the processor waits for together only if they are near each other.
    let function = match cookie {
        WorkerId::NONE => tables.function(request.function),
        _ => None,
    };
    let is_new = is_new(request, cookie);
    if is_new {
        police::function(arrival, request, tables)?;
    }
    let placement = route::route(packet, arrival, request, cookie, function, tables)?;
    observe::function(tables, request.function);
    // VERIFIER: it was asked before the home rule too; see [`crate::opaque`].
    let is_new = opaque(is_new.into());
    if is_new != 0 {
        police::shed(arrival, &placement, tables)?;
    }
    arrival.requests.set(is_new & 1);
    Ok(placement)
}

/// Whether the packet brings its worker work that it has not. The first fragment of a message has been admitted: without
/// the others it would hold its place for nothing. So has a call that its caller asks about, or gives up: refused, it would
/// run to its end all the same, or a second time. That this is true shows the cookie, which the worker gave
/// out; and no worker begins anything for such a packet.
#[inline(always)]
const fn is_new(request: &RpcHeader, cookie: WorkerId) -> bool {
    let is_about_a_call = request.has(flags::RESUME) || request.has(flags::CANCEL);
    request.fragment_index == 0 && !(is_about_a_call && cookie.0 != WorkerId::NONE.0)
}

/// What stops a request is answered where it may be: only an RPC header can be answered by one.
#[inline(always)]
fn stopped<P: Packet, T: Tables>(
    packet: &mut P,
    arrival: &Arrival<'_>,
    stop: Stop,
    tables: &T,
) -> Outcome {
    let is_answered = opaque(arrival.vip.kind.into()) == VipKind::Rpc as u32;
    match stop {
        Stop::Drop(reason) => Outcome::Dropped(reason),
        Stop::Refuse(refusal) if is_answered => forward::refuse(packet, arrival, refusal, tables),
        Stop::Retry if is_answered => forward::retry(packet, arrival, tables),
        Stop::Refuse(refusal) => Outcome::Dropped(refusal.silent()),
        Stop::Retry => Outcome::Dropped(DropReason::AnswerRate),
    }
}
