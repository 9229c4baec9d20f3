//! What `warmpath trace` sees of one packet: the event, the filter that says which packets make one, and the scratch row in
//! which the program builds it.
//!
//! Only the program `traced` makes events: `balancer` under a loupe, which a tracer attaches in its place for as long as it
//! looks, so that nobody pays for tracing while nobody traces. Its maps belong to the tracer and end with it.

use zerocopy::{transmute, transmute_mut};

use crate::{map_type::map_type, maps::Counter};

/// Bytes of a frame that an event holds, from its beginning: Ethernet with two tags, IPv6 and UDP around IPv6, UDP and an
/// RPC header, and the first bytes of its payload.
pub const CAPTURE_LEN: usize = 192;
/// Bytes of the ring buffer: 8,000 events.
pub const EVENTS_LEN: u32 = 4 << 20;
/// Counters that an event can name.
const COUNTERS_MAX: u32 = 128;

const _: () = assert!(Counter::COUNT <= COUNTERS_MAX);

/// Bits of [`TraceHead::known`] and of [`TraceFilter::fields`]: which fields mean something.
pub mod trace_fields {
    /// `vip_id`.
    pub const VIP: u8 = 1 << 0;
    /// `function` and `request_id`.
    pub const FUNCTION: u8 = 1 << 1;
    /// `session`.
    pub const SESSION: u8 = 1 << 2;
    /// `worker`.
    pub const WORKER: u8 = 1 << 3;
    /// `source` and `destination`.
    pub const ADDRESSES: u8 = 1 << 4;
    /// `protocol` and the ports.
    pub const PORTS: u8 = 1 << 5;
}

map_type! {
    /// What became of one packet. Numbers are in the machine's byte order, addresses in the network's; an IPv4 address is in
    /// the first four bytes.
    TraceHead, 128 {
        /// When the packet came, by the kernel's monotonic clock.
        time_ns: u64,
        /// Nanoseconds that the program took for it, without those for the event.
        duration_ns: u64,
        /// The function called.
        function: u64,
        /// The session.
        session: u64,
        /// The request's id.
        request_id: u64,
        /// Every counter that the packet moved: bit i % 64 of word i / 64 is the counter of index i.
        counted: [u64; 2],
        /// Where it came from.
        source: [u8; 16],
        /// Where it was sent to by its sender.
        destination: [u8; 16],
        /// Number of its VIP.
        vip_id: u32,
        /// The interface it came in by.
        ifindex: u32,
        /// The interface it left by; 0 if it did not.
        out_ifindex: u32,
        /// Bytes of its frame when it came in.
        frame_len: u32,
        /// Bytes of its frame when it left.
        sent_len: u32,
        /// Port of the sender.
        source_port: u16,
        /// Port of the receiver.
        destination_port: u16,
        /// The worker it went to.
        worker: u16,
        /// The CPU that it was handled on.
        cpu: u16,
        /// How many bytes of the frame as it came in are held.
        captured: u16,
        /// How many bytes of the frame as it left are held; 0 if it did not leave.
        captured_sent: u16,
        /// 4 or 6; 0 for neither.
        family: u8,
        /// IP protocol number of its payload.
        protocol: u8,
        /// What the driver was told: a number of `enum xdp_action`.
        action: u8,
        /// Which fields are set: see [`trace_fields`].
        known: u8,
        /// Unused; zero.
        reserved: [u8; 4],
    }
}

map_type! {
    /// An entry of `EVENTS`. Captured bytes behind those that the head counts mean nothing.
    TraceEvent, 512 {
        /// What became of the packet.
        head: TraceHead,
        /// The frame as it came in.
        frame: [u8; CAPTURE_LEN],
        /// The frame as it left.
        sent: [u8; CAPTURE_LEN],
    }
}

map_type! {
    /// What one CPU remembers from packet to packet.
    TraceState, 32 {
        /// Packets since the last one that was sampled.
        turn: u64,
        /// The [`TraceFilter::beat`] last seen.
        beat: u64,
        /// When it was first seen, by the coarse clock.
        beat_ns: u64,
        /// 1 while a packet is handled that was its turn.
        is_traced: u64,
    }
}

map_type! {
    /// The row of `TRACE_SCRATCH` of one CPU.
    TraceScratch, 544 {
        /// From packet to packet.
        state: TraceState,
        /// The event of the packet that is being handled.
        event: TraceEvent,
    }
}

map_type! {
    /// The one row of `TRACE`: which packets make an event. All that it asks for must hold.
    TraceFilter, 96 {
        /// The tracer's heartbeat: another number each second or so. With none for `lease_ns` nothing is traced any more, so
        /// that a tracer that was killed is not waited for. 0 is no tracer.
        beat: u64,
        /// How long a heartbeat is good for, in nanoseconds of the coarse clock.
        lease_ns: u64,
        /// The function.
        function: u64,
        /// The counters of which the packet must have moved one: bit i % 64 of word i / 64 is the counter of index i.
        counters: [u64; 2],
        /// The source's prefix, and which of its bits count.
        source: [u8; 16],
        /// One where a bit of `source` counts.
        source_mask: [u8; 16],
        /// One packet in so many is looked at, whatever it is; 0 and 1 mean each.
        every: u32,
        /// The VIP's number.
        vip_id: u32,
        /// The worker.
        worker: u16,
        /// The port that the packet was sent to.
        destination_port: u16,
        /// IP version of `source`.
        family: u8,
        /// Which fields are asked for: see [`trace_fields`]; [`trace_fields::ADDRESSES`] is the source's prefix and
        /// [`trace_fields::PORTS`] the destination port.
        fields: u8,
        /// Unused; zero.
        reserved: [u8; 10],
    }
}

impl TraceHead {
    /// Nothing known yet.
    pub const EMPTY: Self = transmute!([0_u64; 16]);

    /// Forgets all.
    #[inline(always)]
    pub fn clear(&mut self) {
        // VERIFIER: words, one by one: an assignment of `EMPTY` becomes a copy from a constant, for which the object would
        // need a map of its own (rustc 1.96, LLVM 22).
        let words: &mut [u64; 16] = transmute_mut!(self);
        for word in words {
            *word = 0;
        }
    }

    /// Whether the fields of `mask` are set.
    #[inline(always)]
    #[must_use]
    pub const fn knows(&self, mask: u8) -> bool {
        self.known & mask == mask
    }

    /// Notes that the packet has moved the counter of `index`.
    #[inline(always)]
    pub const fn mark(&mut self, index: u32) {
        let [low, high] = &mut self.counted;
        let bit = 1 << (index & 63);
        if index < 64 {
            *low |= bit;
        } else {
            *high |= bit;
        }
    }

    /// Whether the packet has moved `counter`.
    #[inline(always)]
    #[must_use]
    pub const fn moved(&self, counter: Counter) -> bool {
        has_bit(&self.counted, counter as u32)
    }
}

impl TraceEvent {
    /// An event of nothing.
    pub const EMPTY: Self = Self {
        head: TraceHead::EMPTY,
        frame: [0; CAPTURE_LEN],
        sent: [0; CAPTURE_LEN],
    };
}

impl TraceFilter {
    /// Admits every packet, at no time.
    pub const ANY: Self = Self {
        beat: 0,
        lease_ns: 0,
        function: 0,
        counters: [u64::MAX; 2],
        source: [0; 16],
        source_mask: [0; 16],
        every: 1,
        vip_id: 0,
        worker: 0,
        destination_port: 0,
        family: 0,
        fields: 0,
        reserved: [0; 10],
    };

    /// Whether this packet, at `now_ns`, is one to look at: the tracer lives, and it is the packet's turn.
    #[inline(always)]
    #[must_use]
    pub const fn is_turn(&self, state: &mut TraceState, now_ns: u64) -> bool {
        if self.beat != state.beat {
            state.beat = self.beat;
            state.beat_ns = now_ns;
        }
        if self.beat == 0 || now_ns.wrapping_sub(state.beat_ns) > self.lease_ns {
            return false;
        }
        state.turn += 1;
        if state.turn < self.every as u64 {
            return false;
        }
        state.turn = 0;
        true
    }

    /// Whether a packet with `head` is asked for.
    #[inline(always)]
    #[must_use]
    pub fn admits(&self, head: &TraceHead) -> bool {
        // Without branches, each of which would double what the verifier follows from here on.
        let asked = |field| self.asked(field);
        let unknown = self.fields & !head.known;
        let differs = u64::from(unknown)
            | (head.function ^ self.function) & asked(trace_fields::FUNCTION)
            | u64::from(head.vip_id ^ self.vip_id) & asked(trace_fields::VIP)
            | u64::from(head.worker ^ self.worker) & asked(trace_fields::WORKER)
            | u64::from(head.destination_port ^ self.destination_port) & asked(trace_fields::PORTS)
            | self.source_differs(head) & asked(trace_fields::ADDRESSES);
        let ([a, b], [c, d]) = (self.counters, head.counted);
        differs == 0 && a & c | b & d != 0
    }

    /// All ones if `field`, a single bit, is asked for.
    #[inline(always)]
    const fn asked(&self, field: u8) -> u64 {
        0_u64.wrapping_sub((self.fields as u64 >> field.trailing_zeros()) & 1)
    }

    /// Not 0 if the packet is not from the source asked for.
    #[inline(always)]
    fn source_differs(&self, head: &TraceHead) -> u64 {
        let [a, b]: [u64; 2] = transmute!(head.source);
        let [c, d]: [u64; 2] = transmute!(self.source);
        let [m, n]: [u64; 2] = transmute!(self.source_mask);
        u64::from(head.family ^ self.family) | (a ^ c) & m | (b ^ d) & n
    }
}

#[inline(always)]
const fn has_bit(words: &[u64; 2], index: u32) -> bool {
    let [low, high] = *words;
    let word = if index < 64 { low } else { high };
    word >> (index & 63) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> TraceHead {
        TraceHead {
            function: 7,
            vip_id: 3,
            worker: 9,
            destination_port: 9_000,
            family: 4,
            source: [10, 80, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            known: u8::MAX,
            ..counting(&[Counter::Packets, Counter::RouteWarm])
        }
    }

    fn counting(counters: &[Counter]) -> TraceHead {
        let mut head = TraceHead::EMPTY;
        for counter in counters {
            head.mark(*counter as u32);
        }
        head
    }

    fn asking(fields: u8, edit: impl Fn(&mut TraceFilter)) -> TraceFilter {
        let mut filter = TraceFilter {
            fields,
            ..TraceFilter::ANY
        };
        edit(&mut filter);
        filter
    }

    #[test]
    fn a_filter_that_asks_for_nothing_admits_all() {
        assert!(TraceFilter::ANY.admits(&head()));
        assert!(TraceFilter::ANY.admits(&counting(&[Counter::Packets])));
    }

    #[test]
    fn each_field_admits_its_own_value_and_no_other() {
        type Edit = fn(&mut TraceFilter, bool);
        let fields: [(u8, Edit); 5] = [
            (trace_fields::VIP, |f, good| f.vip_id = 3 + u32::from(!good)),
            (trace_fields::FUNCTION, |f, good| {
                f.function = 7 + u64::from(!good);
            }),
            (trace_fields::WORKER, |f, good| {
                f.worker = 9 + u16::from(!good);
            }),
            (trace_fields::PORTS, |f, good| {
                f.destination_port = 9_000 + u16::from(!good);
            }),
            (trace_fields::ADDRESSES, |f, good| {
                f.family = 4;
                f.source[..4].copy_from_slice(&[10, 80 + u8::from(!good), 0, 0]);
                f.source_mask[..2].copy_from_slice(&[0xff, 0xff]);
            }),
        ];
        for (field, edit) in fields {
            assert!(asking(field, |f| edit(f, true)).admits(&head()), "{field}");
            assert!(
                !asking(field, |f| edit(f, false)).admits(&head()),
                "{field}"
            );
            let unknown = TraceHead {
                known: !field,
                ..head()
            };
            assert!(
                !asking(field, |f| edit(f, true)).admits(&unknown),
                "{field}"
            );
        }
    }

    #[test]
    fn a_source_of_the_other_ip_version_is_not_admitted() {
        let filter = asking(trace_fields::ADDRESSES, |f| f.family = 6);
        assert!(!filter.admits(&head()), "::/0 is not 0.0.0.0/0");
    }

    #[test]
    fn a_packet_must_have_moved_one_of_the_counters_asked_for() {
        let wanted = counting(&[Counter::RouteWarm, Counter::TraceLost]).counted;
        let filter = asking(0, |f| f.counters = wanted);
        assert!(filter.admits(&head()));
        let dropped = counting(&[Counter::Packets, Counter::DropBadMagic]);
        assert!(!filter.admits(&dropped));
    }

    #[test]
    fn marked_counters_and_no_others_are_found_again() {
        for marked in Counter::ALL {
            let mut head = TraceHead::EMPTY;
            head.mark(*marked as u32);
            for counter in Counter::ALL {
                assert_eq!(head.moved(*counter), counter == marked);
            }
        }
    }

    const START: TraceState = TraceState {
        turn: 0,
        beat: 0,
        beat_ns: 0,
        is_traced: 0,
    };

    #[test]
    fn one_packet_in_n_has_its_turn() {
        let filter = asking(0, |f| (f.every, f.beat) = (4, 1));
        let mut state = START;
        let turns: Vec<_> = (1..=12).filter(|_| filter.is_turn(&mut state, 7)).collect();
        assert_eq!(turns, [4, 8, 12]);
        let each = asking(0, |f| (f.every, f.beat) = (0, 1));
        assert!(each.is_turn(&mut state, 7) && each.is_turn(&mut state, 7));
    }

    #[test]
    fn a_tracer_without_heartbeat_is_not_waited_for() {
        let mut filter = asking(0, |f| (f.beat, f.lease_ns) = (1, 100));
        let mut state = START;
        assert!(filter.is_turn(&mut state, 1_000));
        assert!(filter.is_turn(&mut state, 1_100));
        assert!(!filter.is_turn(&mut state, 1_101));
        filter.beat = 2;
        assert!(filter.is_turn(&mut state, 1_200));
        filter.beat = 0;
        assert!(!filter.is_turn(&mut state, 1_201), "it has ended");
    }
}
