//! Bytes → [`Headers`] → RPC header. No map access: whose packet it is, is the route stage's question.

pub mod ethernet;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
pub mod rpc;
pub mod transport;

use ebpf_common::event::CAPTURE_LEN;
use ebpf_common::schema::SCAN_MAX;
pub use rpc::request;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{DropReason, FibQuery, NextHop, NotOurs};

/// The frame, as the program may touch it: every access is checked against its end.
pub trait Packet {
    /// Bytes of the frame, from the Ethernet header on.
    fn len(&self) -> u32;
    /// Whether the frame has no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The interface it came in by.
    fn ingress_ifindex(&self) -> u32;
    /// The `T` at `offset`, or `None` if it does not lie within the frame.
    fn read<T: FromBytes>(&self, offset: u32) -> Option<T>;
    /// Writes `value` at `offset`, or nothing and `None` if it does not lie within the frame.
    #[must_use]
    fn write<T: IntoBytes + Immutable>(&mut self, offset: u32, value: T) -> Option<()>;
    /// Copies the first `len` bytes at `offset`, at least one and at most all of `buffer`; `None` if they do not lie within the
    /// frame.
    fn copy_out(&self, offset: u32, len: u32, buffer: &mut [u8; SCAN_MAX]) -> Option<()>;
    /// Shortens the frame to `len` bytes.
    ///
    /// # Errors
    /// [`CutError`] if the driver cannot; the frame is as it was.
    fn cut(&mut self, len: u32) -> Result<(), CutError>;
    /// Puts `bytes` bytes, of any value, in front of the frame; every offset moves by as many.
    ///
    /// # Errors
    /// [`CutError`] if there is no room in front; the frame is as it was.
    fn grow(&mut self, bytes: u32) -> Result<(), CutError>;
    /// Takes the first `bytes` bytes off the frame; every offset moves by as many.
    ///
    /// # Errors
    /// [`CutError`] if not even an Ethernet header would be left; the frame is as it was.
    fn strip(&mut self, bytes: u32) -> Result<(), CutError>;
    /// Copies the beginning of the frame; returns how many bytes the frame has, and how many were copied.
    fn capture(&self, into: &mut [u8; CAPTURE_LEN]) -> (u32, u16);
    /// What the kernel's FIB says of the next hop.
    fn next_hop(&self, query: &FibQuery<'_>) -> NextHop;
}

/// Offsets into a frame are below this power of two: the part of a frame that a program sees is one page at most.
///
/// VERIFIER: what comes back from a sub-program by way of the stack is a number without bounds, and is masked with this
/// less one before it is added to the packet's address. On Linux 6.1 only 64-bit words keep their bounds there.
pub(crate) const FRAME_MAX: u32 = 1 << 14;

/// The frame could not be made longer or shorter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CutError;

/// Version of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What the network header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// The version.
    pub family: Family,
    /// Where the header begins in the frame: behind Ethernet and its VLAN tags.
    pub offset: u32,
    /// Bytes of the packet with this header, as IP has it; the frame holds at least as many.
    pub len: u32,
    /// Protocol of the payload, behind any extension headers.
    pub protocol: u8,
    /// Where the payload begins in the frame.
    pub payload_offset: u32,
    /// Bytes of the payload.
    pub payload_len: u32,
    /// Whether it is the first fragment of a packet that is longer.
    pub is_fragment: bool,
}

impl Network {
    /// The packet is broken for `reason`; the first part of a longer one may be whole, behind what it lacks.
    #[inline(always)]
    const fn malformed(&self, reason: DropReason) -> NotHeaders {
        NotHeaders::Malformed {
            family: self.family,
            offset: self.offset,
            reason: if self.is_fragment {
                DropReason::IpFragment
            } else {
                reason
            },
        }
    }
}

/// What the headers of a packet say, down to its ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers {
    /// The network header.
    pub network: Network,
    /// Port of the sender; 0 for ICMP.
    pub source_port: u16,
    /// Port of the receiver; 0 for ICMP.
    pub destination_port: u16,
}

/// Why a frame has no [`Headers`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotHeaders {
    /// Well-formed as far as read, and something else.
    Other(NotOurs),
    /// Cut off before its destination could be read.
    Unreadable(DropReason),
    /// Broken, with a destination that can be read: whether that has a VIP decides what becomes of it.
    Malformed {
        /// Of its IP header.
        family: Family,
        /// Where that begins.
        offset: u32,
        /// What is wrong with it.
        reason: DropReason,
    },
}

/// Reads Ethernet, IP, and the ports of UDP or TCP, or that it is an ICMP error.
///
/// # Errors
/// [`NotHeaders`] says what it is instead.
#[inline(always)]
pub fn headers<P: Packet>(packet: &P) -> Result<Headers, NotHeaders> {
    let (family, offset) = ethernet::parse(packet)?;
    let network = match family {
        Family::V4 => ipv4::parse(packet, offset)?,
        Family::V6 => ipv6::parse(packet, offset)?,
    };
    transport::parse(packet, &network)
}
