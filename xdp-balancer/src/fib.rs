//! What is asked of the kernel's FIB, its table of routes and neighbours.

use zerocopy::transmute;

/// The two ends of the way to a worker. By reference into the maps, as a copy of them would take as much of the stack again as
/// the kernel's own question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends<'t> {
    /// By IPv4.
    V4 {
        /// Where packets come from.
        source: &'t [u8; 4],
        /// Where they go.
        destination: &'t [u8; 4],
    },
    /// By IPv6.
    V6 {
        /// Where packets come from.
        source: &'t [u8; 16],
        /// Where they go.
        destination: &'t [u8; 16],
    },
}

/// A packet that looks for its next hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FibQuery<'t> {
    /// Where it goes.
    pub ends: Ends<'t>,
    /// Bytes of the IP packet; 0 if its length is not to be looked at.
    pub len: u16,
    /// Its differentiated services and congestion notification.
    pub traffic_class: u8,
}

/// What the FIB says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextHop {
    /// By this interface, to this neighbour.
    Found {
        /// The interface.
        ifindex: u32,
        /// MAC addresses of receiver and sender.
        macs: [[u8; 6]; 2],
    },
    /// There is a way, but the neighbour's MAC address is not known.
    NoNeighbour,
    /// There is a way, but only for packets of so many bytes.
    TooBig {
        /// Bytes of the largest.
        mtu: u16,
    },
    /// There is no way.
    NoRoute,
}

/// The kernel's `struct bpf_fib_lookup` (linux/bpf.h), which is question and answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct FibParams {
    family: u8,
    l4_protocol: u8,
    ports: [u16; 2],
    /// Bytes of the packet; then the MTU.
    len: u16,
    /// The interface of arrival; then that of departure.
    ifindex: u32,
    /// For IPv4 the first byte is the type of service; for IPv6 it is class and flow label, big-endian.
    flow: [u8; 4],
    source: [u32; 4],
    destination: [u32; 4],
    vlan: [u16; 2],
    source_mac: [u8; 6],
    destination_mac: [u8; 6],
}

/// Codes of BPF_FIB_LKUP_RET_*.
const SUCCESS: i64 = 0;
const NO_NEIGHBOUR: i64 = 7;
const FRAGMENTATION_NEEDED: i64 = 8;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

impl FibParams {
    /// The question that `query` asks, for a packet that came in by `ifindex`.
    #[inline(always)]
    #[must_use]
    pub fn new(query: &FibQuery<'_>, ifindex: u32) -> Self {
        let mut params = Self {
            family: 0,
            l4_protocol: 0,
            ports: [0; 2],
            len: query.len,
            ifindex,
            flow: [0; 4],
            source: [0; 4],
            destination: [0; 4],
            vlan: [0; 2],
            source_mac: [0; 6],
            destination_mac: [0; 6],
        };
        let class = query.traffic_class;
        match query.ends {
            Ends::V4 {
                source,
                destination,
            } => {
                params.family = AF_INET;
                params.flow = [class, 0, 0, 0];
                let [first, ..] = &mut params.source;
                *first = u32::from_ne_bytes(*source);
                let [first, ..] = &mut params.destination;
                *first = u32::from_ne_bytes(*destination);
            }
            Ends::V6 {
                source,
                destination,
            } => {
                params.family = AF_INET6;
                params.flow = (u32::from(class) << 20).to_be_bytes();
                params.source = transmute!(*source);
                params.destination = transmute!(*destination);
            }
        }
        params
    }

    /// What the answer with `code` means.
    #[inline(always)]
    #[must_use]
    pub const fn answer(&self, code: i64) -> NextHop {
        match code {
            SUCCESS => NextHop::Found {
                ifindex: self.ifindex,
                macs: [self.destination_mac, self.source_mac],
            },
            NO_NEIGHBOUR => NextHop::NoNeighbour,
            FRAGMENTATION_NEEDED => NextHop::TooBig { mtu: self.len },
            _ => NextHop::NoRoute,
        }
    }
}

const _: () = assert!(size_of::<FibParams>() == 64);
