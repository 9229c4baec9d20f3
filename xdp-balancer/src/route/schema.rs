//! Session and slot out of the payload, for functions whose requests do not carry them in the header.

use ebpf_common::{
    maps::{Counter, FunctionEntry},
    schema::Key,
    wire::{RpcHeader, flags},
};

use crate::{
    Packet, Tables,
    balance::Arrival,
    parse::{rpc, transport::UDP_HEADER_LEN},
};

/// Sets the session or the slot of `request` by the schema of `function`. A key that is missing, or lies too far behind, is
/// counted, and the request goes on without.
#[inline(always)]
pub(super) fn apply<P: Packet, T: Tables>(
    packet: &P,
    arrival: &Arrival<'_>,
    function: &FunctionEntry,
    request: &mut RpcHeader,
    tables: &T,
) {
    let index = u32::from(function.schema);
    // What the header says goes before. A later fragment has not the payload's beginning, and that of a RESUME is a bitmap.
    let is_wanted = request.fragment_index == 0
        && !request.has(flags::HAS_SESSION)
        && !request.has(flags::HAS_SLOT)
        && !request.has(flags::RESUME);
    let len = held(arrival, request.payload_len);
    if index == 0 || !is_wanted || len == 0 {
        return;
    }
    let offset = rpc::offset(&arrival.headers) + rpc::HEADER_LEN;
    let key = tables
        .schema(index - 1)
        .and_then(|schema| tables.extract(packet, offset, len, schema));
    match key {
        Some(Key::Session(session)) => {
            request.flags |= flags::HAS_SESSION;
            request.session_id = session;
        }
        Some(Key::Slot(slot)) => {
            request.flags |= flags::HAS_SLOT;
            request.slot = slot;
        }
        None => tables.count(Counter::SchemaMissed),
    }
}

/// Bytes of payload in this frame: of a packet in IP fragments it holds the beginning.
#[inline(always)]
const fn held(arrival: &Arrival<'_>, payload_len: u32) -> u32 {
    let network = &arrival.headers.network;
    if network.is_fragment {
        network
            .payload_len
            .saturating_sub(UDP_HEADER_LEN + rpc::HEADER_LEN)
    } else {
        payload_len
    }
}
