//! Bytes → [`Datagram`] → RPC header. No map access: whose packet it is, is the route stage's question.

pub mod ethernet;
pub mod ip;
pub mod rpc;
pub mod udp;

pub use rpc::request;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{DropReason, NotOurs};

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
    /// Shortens the frame to `len` bytes.
    ///
    /// # Errors
    /// [`CutError`] if the driver cannot; the frame is as it was.
    fn cut(&mut self, len: u32) -> Result<(), CutError>;
}

/// The frame could not be shortened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CutError;

/// A whole, unfragmented UDP datagram over IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram {
    /// IPv4 address of the receiver.
    pub destination: [u8; 4],
    /// UDP port of the receiver.
    pub port: u16,
    /// Where the UDP header begins in the frame.
    pub udp_offset: u32,
    /// Bytes behind the IPv4 header, as IPv4 has it; at least a UDP header.
    pub ip_payload_len: u32,
    /// Bytes of the datagram with its header, as UDP has it.
    pub udp_len: u32,
}

/// Why a frame is not a [`Datagram`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotDatagram {
    /// Well-formed as far as read, and something else.
    Other(NotOurs),
    /// Cut off before its destination could be read.
    Unreadable(DropReason),
    /// Broken, and for this address: whether that has a VIP decides what becomes of it.
    Malformed {
        /// IPv4 address of the receiver.
        destination: [u8; 4],
        /// What is wrong with it.
        reason: DropReason,
    },
}

/// Reads Ethernet, IPv4 and UDP.
///
/// # Errors
/// [`NotDatagram`] says what it is instead.
#[inline(always)]
pub fn datagram<P: Packet>(packet: &P) -> Result<Datagram, NotDatagram> {
    ethernet::is_ipv4(packet)?;
    let ip = ip::parse(packet)?;
    udp::parse(packet, &ip)
}
