//! VIPs of kind `l4`: TCP and UDP without a header of ours, by flow. A flow's entry names its worker; a flow without one is
//! placed by the Maglev table of the VIP's pool (Eisenbud et al., NSDI '16), which places it the same on another balancer.

use ebpf_common::{
    hash::{TableHash, mix64},
    maps::{Config, flow_hash, row_index},
};
use zerocopy::transmute;

use super::{
    Placement, for_existing_work, home,
    places::{self, Key},
};
use crate::{
    DropReason, Packet, Rule, Stop, Tables,
    balance::Arrival,
    parse::{Family, Headers, ipv4::Ipv4Header, transport::PROTOCOL_TCP},
};

/// Offset and flags of the TCP header (two bytes), and which flags tell the first packet of a connection (RFC 9293, 3.1).
const TCP_FLAGS_OFFSET: u32 = 12;
const TCP_SYN: u8 = 0x02;
const TCP_ACK: u8 = 0x10;

/// Where a packet of the flow goes.
///
/// # Errors
/// Dropped: no worker takes new work.
#[inline(always)]
pub(crate) fn place<'t, P: Packet, T: Tables>(
    packet: &P,
    arrival: &Arrival<'_>,
    tables: &'t T,
) -> Result<Placement<'t>, Stop> {
    let key = FlowKey::of(packet, &arrival.headers).ok_or(Stop::Drop(DropReason::TruncatedUdp))?;
    let hash = key.hash(arrival.config, arrival.vip.vip_id);
    let row = tables.flow_row(row_index(hash, arrival.config.flow_mask));
    // A client that uses its port again opens a new connection, which is free to go elsewhere.
    if !is_first(packet, &arrival.headers)
        && let Some(worker) = row.and_then(|row| places::find(row, hash))
        && let Some(info) = for_existing_work(worker, tables)
    {
        return Ok(Placement {
            rule: Rule::Flow,
            worker,
            info,
        });
    }
    let placement = home::place(
        key.spread(),
        arrival,
        Rule::Maglev,
        Stop::Drop(DropReason::NoWorker),
        tables,
    )?;
    places::remember_in_flows(Key::Flow, hash, placement.worker, tables);
    Ok(placement)
}

/// The client's side of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FlowKey {
    /// Words of the source address as they lie in memory; the second one is 0 for IPv4.
    source: [u64; 2],
    /// Ports of source and destination.
    ports: u32,
}

impl FlowKey {
    /// The key of a packet from a client.
    #[inline(always)]
    pub(crate) fn of<P: Packet>(packet: &P, headers: &Headers) -> Option<Self> {
        let network = &headers.network;
        let source = match network.family {
            Family::V4 => {
                let header: Ipv4Header = packet.read(network.offset)?;
                [u64::from(u32::from_ne_bytes(header.source)), 0]
            }
            // Behind version, length, next header and hop limit (RFC 8200, section 3).
            Family::V6 => {
                let source: [u8; 16] = packet.read(network.offset + 8)?;
                transmute!(source)
            }
        };
        Some(Self::new(
            source,
            headers.source_port,
            headers.destination_port,
        ))
    }

    /// The key of a client's address, as its words lie in memory, and the two ports.
    #[inline(always)]
    pub(crate) const fn new(source: [u64; 2], source_port: u16, destination_port: u16) -> Self {
        Self {
            source,
            ports: (source_port as u32) << 16 | destination_port as u32,
        }
    }

    /// Where the flow stands in the table; the VIP's number stands for its address and protocol.
    #[inline(always)]
    pub(crate) fn hash(&self, config: &Config, vip_id: u32) -> TableHash {
        flow_hash(config.table_secret(), vip_id, self.source, self.ports)
    }

    /// A hash that is the same on every balancer: for the Maglev table, and for what varies by flow.
    #[inline(always)]
    pub(crate) const fn spread(&self) -> u64 {
        let [high, low] = self.source;
        mix64(mix64(high).wrapping_add(low) ^ self.ports as u64)
    }
}

#[inline(always)]
fn is_first<P: Packet>(packet: &P, headers: &Headers) -> bool {
    if headers.network.protocol != PROTOCOL_TCP {
        return false;
    }
    let flags: Option<[u8; 2]> = packet.read(headers.network.payload_offset + TCP_FLAGS_OFFSET);
    flags.is_some_and(|[_, flags]| flags & (TCP_SYN | TCP_ACK) == TCP_SYN)
}
