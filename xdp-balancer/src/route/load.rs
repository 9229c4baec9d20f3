//! LOAD packets: taken in here, so that the warm rule sees loads that are microseconds old.
//!
//! Self-correcting: each report replaces what was counted since the one before, so a request that was lost on its way, a
//! worker that started again and a balancer that did are right with the next report. What is on its way to the worker at
//! the moment of a report is not counted, until the report after it.

use ebpf_common::{
    load::LoadReport,
    maps::{WorkerLoad, WorkerState},
    wire::{Kind, RpcHeader},
};

use crate::{
    DropReason, Outcome, Packet, Stop, Tables,
    balance::Arrival,
    parse::{rpc, transport::PROTOCOL_UDP},
};

/// Takes a packet for the LOAD address in, or drops it.
#[inline(always)]
pub(crate) fn take_in<P: Packet, T: Tables>(
    packet: &P,
    arrival: &Arrival<'_>,
    tables: &T,
) -> Outcome {
    match report(packet, arrival).and_then(|report| apply(&report, tables)) {
        Ok(()) => Outcome::Consumed,
        Err(reason) => Outcome::Dropped(reason),
    }
}

#[inline(always)]
fn report<P: Packet>(packet: &P, arrival: &Arrival<'_>) -> Result<LoadReport, DropReason> {
    if arrival.headers.network.protocol != PROTOCOL_UDP {
        return Err(DropReason::UnexpectedKind);
    }
    let payload_len = rpc::payload_len(packet, &arrival.headers).map_err(|stop| match stop {
        Stop::Drop(reason) => reason,
        _ => DropReason::TruncatedRpc,
    })?;
    let words: [u64; 8] = packet
        .read(rpc::offset(&arrival.headers))
        .ok_or(DropReason::TruncatedRpc)?;
    let header = match RpcHeader::from_words(words, payload_len) {
        Ok(header) if header.kind as u8 == Kind::Load as u8 => header,
        _ => return Err(DropReason::UnexpectedKind),
    };
    let keys = arrival.config.load_keys();
    keys.open(&header, words).or(Err(DropReason::LoadForged))
}

#[inline(always)]
fn apply<T: Tables>(report: &LoadReport, tables: &T) -> Result<(), DropReason> {
    let known = tables
        .worker(report.worker)
        .is_some_and(|info| info.state() != WorkerState::Absent);
    if !known {
        return Err(DropReason::LoadUnknown);
    }
    let now_ns = tables.now_ns();
    tables
        .change_load(report.worker, |load| change(load, report, now_ns))
        .unwrap_or(Err(DropReason::LoadUnknown))
}

#[inline(always)]
fn change(load: &mut WorkerLoad, report: &LoadReport, now_ns: u64) -> Result<(), DropReason> {
    if report.sequence <= load.sequence {
        return Err(DropReason::LoadStale);
    }
    load.sequence = report.sequence;
    load.sent_at_report = load.sent;
    load.reported_ns = now_ns;
    load.received = report.received;
    load.completed = report.completed;
    load.in_flight = report.in_flight();
    load.capacity = report.capacity;
    Ok(())
}
