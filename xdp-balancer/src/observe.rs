//! Counts each packet: once as seen, once under what became of it; and by VIP, worker and function. What is noted for a
//! tracer is noted here too; in `balancer` that is nothing.

use core::hint::black_box;

use ebpf_common::{
    event::{CAPTURE_LEN, trace_fields as fields},
    ids::{FunctionId, WorkerId},
    maps::Counter,
    wire::{RpcHeader, flags},
};

use crate::{
    Outcome, Tables,
    balance::Arrival,
    parse::{Family, Headers, NotHeaders},
    route::Placement,
    trace::known,
};

/// Counts a packet that ended as `outcome`.
#[inline(always)]
pub(crate) fn count<T: Tables>(tables: &T, outcome: &Outcome) {
    tables.count(Counter::Packets);
    tables.count(outcome.counter());
}

/// Counts a packet for its VIP.
#[inline(always)]
pub(crate) fn vip<T: Tables>(tables: &T, arrival: &Arrival<'_>) {
    tables.count_vip(arrival.vip.vip_id, arrival.frame_len);
    known(tables, fields::VIP, |head| {
        head.vip_id = arrival.vip.vip_id;
    });
}

/// Counts a packet for the worker it is sent to.
#[inline(always)]
pub(crate) fn worker<T: Tables>(tables: &T, arrival: &Arrival<'_>, placement: &Placement<'_>) {
    tables.count_worker(placement.worker, arrival.frame_len);
}

/// Notes the worker that the packet is for, or from.
#[inline(always)]
pub(crate) fn noted_worker<T: Tables>(tables: &T, worker: WorkerId) {
    known(tables, fields::WORKER, |head| head.worker = worker.0);
}

/// Counts a packet for the function it calls.
#[inline(always)]
pub(crate) fn function<T: Tables>(tables: &T, function: FunctionId) {
    tables.count_function(function);
}

/// Notes what the request asks for, whether it may have it or not.
#[inline(always)]
pub(crate) fn request<T: Tables>(tables: &T, request: &RpcHeader) {
    known(tables, fields::FUNCTION, |head| {
        head.function = request.function.0;
        head.request_id = request.request_id;
        if request.has(flags::HAS_SESSION) {
            head.known |= fields::SESSION;
            head.session = request.session_id;
        }
    });
}

/// Notes who sent the packet to whom, before it is rewritten.
#[inline(always)]
pub(crate) fn parsed<T: Tables>(parsed: &Result<Headers, NotHeaders>, tables: &T) {
    match parsed {
        Ok(headers) => {
            addresses(headers.network.family, headers.network.offset, tables);
            known(tables, fields::PORTS, |head| {
                head.protocol = headers.network.protocol;
                head.source_port = headers.source_port;
                head.destination_port = headers.destination_port;
            });
        }
        Err(NotHeaders::Malformed { family, offset, .. }) => {
            addresses(*family, *offset, tables);
        }
        Err(_) => {}
    }
}

/// Taken from the captured frame, where they cannot be missing: a check against the frame's end would send the verifier
/// through all that follows twice.
#[inline(always)]
fn addresses<T: Tables>(family: Family, offset: u32, tables: &T) {
    tables.note(|event| {
        // VERIFIER: a bound that LLVM cannot see through and drop. Ethernet with two tags has 22 bytes.
        let header = (black_box(offset) & 31) as usize;
        let head = &mut event.head;
        // Behind what stands before them: RFC 791, section 3.1, and RFC 8200, section 3.
        match family {
            Family::V4 => {
                head.family = 4;
                copy::<4>(&event.frame, header + 12, &mut head.source);
                copy::<4>(&event.frame, header + 16, &mut head.destination);
            }
            Family::V6 => {
                head.family = 6;
                copy::<16>(&event.frame, header + 8, &mut head.source);
                copy::<16>(&event.frame, header + 24, &mut head.destination);
            }
        }
        head.known |= fields::ADDRESSES;
    });
}

#[inline(always)]
fn copy<const LEN: usize>(frame: &[u8; CAPTURE_LEN], at: usize, into: &mut [u8; 16]) {
    let bytes = frame.get(at..).and_then(<[u8]>::first_chunk::<LEN>);
    if let (Some(bytes), Some(into)) = (bytes, into.first_chunk_mut::<LEN>()) {
        *into = *bytes;
    }
}
