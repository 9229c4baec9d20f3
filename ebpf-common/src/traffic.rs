//! Traffic made by arithmetic: the frame that a benchmark or the generator presents as packet number `n`.
//!
//! Programs that make packets (`harness`, `generate`) and those who must know what they made (reports, tests)
//! compute the same fields from the same [`Template`]. Nothing is read from a table, whose cache misses would
//! be measured with the program under test (FACTS §2); the one exception, route cookies, is read in order.

use crate::{hash::mix64, map_type::map_type};

/// Bytes that are written anew for each packet: the headers of Ethernet, IPv6, UDP and RPC, and some payload.
/// No presented frame is shorter.
pub const HEAD_LEN: usize = 128;
/// The same in words.
pub const HEAD_WORDS: usize = HEAD_LEN / 8;
/// Entries of the table of route cookies, and the most flows a template can have.
pub const MAX_FLOWS: u32 = 1 << 20;

/// Streams that one generator mixes.
pub const MAX_STREAMS: u32 = 16;
/// Entries of the table that says which stream's turn it is; a power of two.
pub const MIX_LEN: u32 = 64;
/// Rows of the table in which a sink counts; a power of two.
pub const ARRIVAL_ROWS: u32 = 1_024;

/// Bits of [`Template::vary`]: what differs from flow to flow.
pub mod vary {
    /// Source address (its last four bytes) and port.
    pub const SOURCE: u32 = 1 << 0;
    /// The session id.
    pub const SESSION: u32 = 1 << 1;
    /// The session id, and no two packets have the same one.
    pub const NEW_SESSION: u32 = 1 << 2;
    /// The function id.
    pub const FUNCTION: u32 = 1 << 3;
    /// The slot.
    pub const SLOT: u32 = 1 << 4;
    /// The route cookie, from the table of cookies; flows then come in order, so that reading it misses no cache.
    pub const COOKIE: u32 = 1 << 5;
    /// Source address and port, and no two packets have the same ones (within 2^32 packets).
    pub const NEW_SOURCE: u32 = 1 << 6;
    /// The checksums of IPv4 and UDP, so that they are right. The harness leaves them: no program under test looks.
    pub const CHECKSUMS: u32 = 1 << 7;
    /// The connection id of a QUIC packet with a short header, and the worker that it names.
    pub const CONNECTION: u32 = 1 << 8;
}

/// What the harness must undo before it writes the next frame.
pub mod undo {
    /// Nothing: the program under test leaves the frame its length.
    pub const NOTHING: u32 = 0;
    /// An encapsulation: bytes in front.
    pub const HEAD: u32 = 1;
    /// An answer: bytes cut off the end.
    pub const TAIL: u32 = 2;
}

/// What a packet carries behind IP.
pub mod carries {
    /// UDP, and an RPC header in it.
    pub const RPC: u32 = 0;
    /// Anything that begins with two ports.
    pub const PORTS: u32 = 1;
}

/// Workers that the connection ids of QUIC packets name: those with an id below this power of two.
pub const CONNECTION_WORKERS: u32 = 16;
/// The configuration id in the connection ids of QUIC packets.
pub const CONNECTION_CONFIG: u8 = 2;
/// Bytes of a QUIC packet with a short header before its connection id, and of the id.
pub const CONNECTION_OFFSET: usize = 1;
/// See [`CONNECTION_OFFSET`].
pub const CONNECTION_LEN: usize = 8;

map_type! {
    /// A frame, and what makes flows of it.
    Template, 192 {
        /// Number of flows − 1; flows are a power of two.
        mask: u64,
        /// From where session ids are computed.
        session_seed: u64,
        /// From where function ids are computed.
        function_seed: u64,
        /// See [`vary`].
        vary: u32,
        /// See [`undo`].
        undo: u32,
        /// See [`carries`].
        carries: u32,
        /// 4 or 6.
        ip: u32,
        /// Bytes of the whole frame.
        frame_len: u32,
        /// Source address of flow 0 (its last four bytes), host byte order.
        source: u32,
        /// Source port of flow 0, host byte order.
        port: u32,
        /// Sum of the IPv4 header's 16-bit words without what differs (see [`Sum`]).
        ip_sum: u32,
        /// The first bytes of the frame, as they lie in memory.
        head: [u64; HEAD_WORDS],
        /// Sum of the words that UDP's checksum is over, without what differs.
        udp_sum: u32,
        /// Unused; zero.
        reserved: u32,
    }
}

/// A one's complement sum (RFC 1071) of 16-bit words as they lie in memory.
#[derive(Debug, Clone, Copy)]
pub struct Sum(u64);

impl Sum {
    /// Begins with `sum`.
    #[inline(always)]
    #[must_use]
    pub const fn new(sum: u32) -> Self {
        Self(sum as u64)
    }

    /// Adds the eight bytes of `word`, as they lie in memory.
    #[inline(always)]
    pub const fn add(&mut self, word: u64) {
        self.0 += (word & 0xffff_ffff) + (word >> 32);
    }

    /// The sum in 16 bits.
    #[inline(always)]
    #[must_use]
    pub const fn fold(self) -> u16 {
        let mut sum = self.0;
        sum = (sum & 0xffff_ffff) + (sum >> 32);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        sum as u16
    }

    /// The checksum field of UDP or IPv4 whose header and data sum up to this: never 0, which UDP takes for none.
    #[inline(always)]
    #[must_use]
    pub const fn checksum(self) -> u16 {
        match !self.fold() {
            0 => 0xffff,
            checksum => checksum,
        }
    }
}

/// The fields of one packet that the template does not fix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fields {
    /// Number of the flow.
    pub flow: u32,
    /// The last four bytes of the source address.
    pub source: u32,
    /// The source port.
    pub port: u16,
    /// The request id.
    pub request_id: u64,
    /// The session id.
    pub session: u64,
    /// The function id.
    pub function: u64,
    /// The slot.
    pub slot: u16,
}

impl Fields {
    /// The connection id of the flow, as a number whose bytes are sent from the highest on: configuration and length, the
    /// worker, five bytes of nonce (draft-ietf-quic-load-balancers, plaintext; see the rule `quic`).
    #[inline(always)]
    #[must_use]
    pub const fn connection_id(&self) -> u64 {
        let head = (CONNECTION_CONFIG << 5) as u64 | (CONNECTION_LEN - 1) as u64;
        let worker = (self.flow & (CONNECTION_WORKERS - 1)) as u64;
        head << 56 | worker << 40 | self.session & 0xff_ffff_ffff
    }
}

impl Template {
    /// Whether `what` (of [`vary`]) differs from flow to flow.
    #[inline(always)]
    #[must_use]
    pub const fn varies(&self, what: u32) -> bool {
        self.vary & what != 0
    }

    /// The fields of packet `number`.
    ///
    /// Flows come in a scattered order (an odd factor permutes the numbers below a power of two), each of
    /// them once before any comes again.
    #[inline(always)]
    #[must_use]
    pub const fn fields(&self, number: u64) -> Fields {
        let flow = if self.varies(vary::COOKIE) {
            number & self.mask
        } else {
            number.wrapping_mul(0x9e37_79b1) & self.mask
        };
        self.fields_of(flow, number)
    }

    /// The fields of packet `number`, which belongs to `flow`.
    #[inline(always)]
    #[must_use]
    pub const fn fields_of(&self, flow: u64, number: u64) -> Fields {
        let of_source = if self.varies(vary::NEW_SOURCE) {
            number
        } else {
            flow
        };
        let of_session = if self.varies(vary::NEW_SESSION) {
            number
        } else {
            flow
        };
        Fields {
            flow: flow as u32,
            source: self.source.wrapping_add((of_source >> 8) as u32),
            port: (self.port as u16).wrapping_add(of_source as u16 & 0xff),
            request_id: number,
            session: mix64(self.session_seed.wrapping_add(of_session)),
            function: mix64(self.function_seed.wrapping_add(flow)),
            slot: flow as u16 & (crate::limits::SLOTS - 1) as u16,
        }
    }

    /// Bytes in front of the ports (UDP or TCP header) in the frame.
    #[inline(always)]
    #[must_use]
    pub const fn ports_offset(&self) -> usize {
        if self.ip == 4 { 34 } else { 54 }
    }

    /// Bytes in front of the last four bytes of the source address.
    #[inline(always)]
    #[must_use]
    pub const fn source_offset(&self) -> usize {
        if self.ip == 4 { 26 } else { 34 }
    }

    /// Bytes in front of the RPC header.
    #[inline(always)]
    #[must_use]
    pub const fn rpc_offset(&self) -> usize {
        self.ports_offset() + 8
    }
}

map_type! {
    /// What a sink has seen for one receiver. The first receiver of a row holds it; others are counted apart.
    Arrivals, 32 {
        /// The MAC address, as the lower bytes of a number; 0 before the first packet.
        mac: u64,
        /// Packets for it.
        packets: u64,
        /// Bytes of them.
        bytes: u64,
        /// Packets for other receivers whose row this would be.
        others: u64,
    }
}

impl Arrivals {
    /// The row that counts packets for `mac`.
    #[inline(always)]
    #[must_use]
    pub const fn row_of(mac: u64) -> u32 {
        mix64(mac) as u32 & (ARRIVAL_ROWS - 1)
    }

    /// Counts a packet of `bytes` for `mac`.
    #[inline(always)]
    pub const fn count(&mut self, mac: u64, bytes: u64) {
        if self.mac == 0 {
            self.mac = mac;
        }
        if self.mac == mac {
            self.packets += 1;
            self.bytes += bytes;
        } else {
            self.others += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const fn template(flows: u64, vary: u32) -> Template {
        Template {
            mask: flows - 1,
            session_seed: 1,
            function_seed: 2,
            vary,
            undo: undo::NOTHING,
            carries: carries::RPC,
            ip: 4,
            frame_len: 138,
            source: 0x0a01_0000,
            port: 1_024,
            ip_sum: 0,
            head: [0; HEAD_WORDS],
            udp_sum: 0,
            reserved: 0,
        }
    }

    #[test]
    fn each_flow_comes_once_before_any_comes_again() {
        for flows in [1u64, 1 << 10, 1 << 17] {
            for vary in [vary::SESSION, vary::COOKIE] {
                let template = template(flows, vary);
                let first: HashSet<_> = (7..7 + flows).map(|n| template.fields(n).flow).collect();
                assert_eq!(first.len() as u64, flows);
                assert_eq!(template.fields(3).flow, template.fields(3 + flows).flow);
            }
        }
    }

    #[test]
    fn different_flows_have_different_fields() {
        let template = template(1 << 17, vary::SESSION);
        let all: Vec<_> = (0..1u64 << 17).map(|n| template.fields(n)).collect();
        let distinct = |len: usize| assert_eq!(len, 1 << 17);
        distinct(
            all.iter()
                .map(|it| (it.source, it.port))
                .collect::<HashSet<_>>()
                .len(),
        );
        distinct(
            all.iter()
                .map(|it| it.session)
                .collect::<HashSet<_>>()
                .len(),
        );
        distinct(
            all.iter()
                .map(|it| it.function)
                .collect::<HashSet<_>>()
                .len(),
        );
        distinct(
            all.iter()
                .map(|it| it.request_id)
                .collect::<HashSet<_>>()
                .len(),
        );
    }

    #[test]
    fn each_flow_has_a_connection_id_of_its_own_that_names_a_worker() {
        let template = template(1 << 17, vary::CONNECTION);
        let ids: HashSet<_> = (0..1u64 << 17)
            .map(|n| template.fields(n).connection_id())
            .collect();
        assert_eq!(ids.len(), 1 << 17);
        let workers: HashSet<_> = ids.iter().map(|id| id >> 40 & 0xffff).collect();
        assert_eq!(workers, (0..16).collect());
        // Configuration 2, and seven bytes behind the first.
        assert!(ids.iter().all(|id| id >> 56 == 0x47));
    }

    #[test]
    fn a_row_counts_for_its_first_receiver_and_others_apart() {
        let mut row = Arrivals {
            mac: 0,
            packets: 0,
            bytes: 0,
            others: 0,
        };
        row.count(7, 100);
        row.count(8, 100);
        row.count(7, 50);
        let expected = Arrivals {
            mac: 7,
            packets: 2,
            bytes: 150,
            others: 1,
        };
        assert_eq!(row, expected);
    }

    #[test]
    fn new_sessions_and_sources_never_come_again() {
        let template = template(1, vary::NEW_SESSION | vary::NEW_SOURCE);
        let all: Vec<_> = (0..1u64 << 17).map(|n| template.fields(n)).collect();
        let sessions: HashSet<_> = all.iter().map(|it| it.session).collect();
        let sources: HashSet<_> = all.iter().map(|it| (it.source, it.port)).collect();
        assert_eq!((sessions.len(), sources.len()), (1 << 17, 1 << 17));
    }
}
