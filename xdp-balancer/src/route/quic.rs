//! VIPs of kind `quic`: by the server id in the destination connection id, which the worker chose
//! (draft-ietf-quic-load-balancers-19, section 5.2, plaintext; server ids of two bytes, which are worker ids), so that a
//! connection outlives a change of the client's address. All else is routed by flow.
//!
//! ```text
//! connection id:  | config id (3 bits) | length (5 bits) | worker id (16 bits) | nonce … |
//! ```
//! The encrypted forms of the draft need AES, which BPF programs have not.

use ebpf_common::{ids::WorkerId, maps::Counter};

use super::{Placement, flow, for_existing_work};
use crate::{
    Packet, Rule, Stop, Tables,
    balance::Arrival,
    parse::{transport::PROTOCOL_UDP, transport::UDP_HEADER_LEN},
};

/// Set in the first byte of a long header (RFC 8999, section 5.1).
const LONG_HEADER: u8 = 0x80;
/// Bytes of a long header before its destination connection id: flags, version, length of the id.
const LONG_PREFIX_LEN: u32 = 6;
/// Bytes of a connection id that holds a server id: the first one, the id, and a nonce of at least four.
const ID_LEN_MIN: u8 = 7;

/// Where a QUIC packet goes.
///
/// # Errors
/// Dropped: no worker takes new work.
#[inline(always)]
pub(crate) fn place<'t, P: Packet, T: Tables>(
    packet: &P,
    arrival: &Arrival<'_>,
    tables: &'t T,
) -> Result<Placement<'t>, Stop> {
    if arrival.headers.network.protocol == PROTOCOL_UDP {
        let worker = server_id(packet, arrival);
        if let Some(worker) = worker
            && let Some(info) = for_existing_work(worker, tables)
        {
            return Ok(Placement {
                rule: Rule::Quic,
                worker,
                info,
            });
        }
        tables.count(Counter::QuicUnknownId);
    }
    flow::place(packet, arrival, tables)
}

/// The server id in the packet's destination connection id, if that is of our configuration.
#[inline(always)]
fn server_id<P: Packet>(packet: &P, arrival: &Arrival<'_>) -> Option<WorkerId> {
    let start = arrival.headers.network.payload_offset + UDP_HEADER_LEN;
    let [first, _]: [u8; 2] = packet.read(start)?;
    let id = if first & LONG_HEADER == 0 {
        start + 1
    } else {
        let [_, len]: [u8; 2] = packet.read(start + LONG_PREFIX_LEN - 2)?;
        if len < ID_LEN_MIN {
            return None;
        }
        start + LONG_PREFIX_LEN
    };
    let [head, high, low, _]: [u8; 4] = packet.read(id)?;
    // In a short header the id's length is not told; the worker writes it here (section 3.3, "self-encoding").
    let is_ours = head >> 5 == arrival.vip.quic_config && (head & 0x1f) + 1 >= ID_LEN_MIN;
    is_ours.then_some(WorkerId(u16::from_be_bytes([high, low])))
}
