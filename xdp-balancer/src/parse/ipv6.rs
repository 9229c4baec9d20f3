//! IPv6 (RFC 8200) and its extension headers. The frame may be longer than the packet, never shorter.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, network_endian::U16};

use super::{FRAME_MAX, Family, Network, NotHeaders, Packet, transport};
use crate::{DropReason, NotOurs, opaque::opaque};

/// Bytes of the header without extension headers.
pub const HEADER_LEN: u32 = 40;
/// Extension headers that are read at most. More are seen in attacks only (RFC 9098, section 3).
pub const MAX_EXTENSIONS: u32 = 4;

/// Protocol numbers of the extension headers that are read.
pub const HOP_BY_HOP: u8 = 0;
/// Routing header.
pub const ROUTING: u8 = 43;
/// Fragment header.
pub const FRAGMENT: u8 = 44;
/// Destination options.
pub const DESTINATION_OPTIONS: u8 = 60;

/// A fragment's offset, in the field with the "more fragments" flag.
pub(super) const FRAGMENT_OFFSET: u16 = 0xfff8;
/// Bytes of a fragment header.
pub(super) const FRAGMENT_LEN: u32 = 8;
/// More fragments follow.
const MORE_FRAGMENTS: u16 = 1;

/// The header without extension headers.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ipv6Header {
    /// Version (4 bits), traffic class (8), flow label (20).
    pub version_class_flow: [u8; 4],
    /// Bytes of the packet behind this header.
    pub payload_len: U16,
    /// Protocol of the payload, or of the first extension header.
    pub next_header: u8,
    /// Hops that are left.
    pub hop_limit: u8,
    /// Address of the sender.
    pub source: [u8; 16],
    /// Address of the receiver.
    pub destination: [u8; 16],
}

const _: () = assert!(size_of::<Ipv6Header>() == HEADER_LEN as usize);

/// The first eight bytes of any extension header that is read.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Extension {
    next_header: u8,
    /// In units of eight bytes, without the first eight; unused in a fragment header.
    len: u8,
    /// Fragment: offset and flags. Routing: type, and segments that are left.
    fragment: U16,
    _rest: [u8; 4],
}

/// Reads the header at `offset`, and the extension headers behind it.
#[inline(always)]
pub(super) fn parse<P: Packet>(packet: &P, offset: u32) -> Result<Network, NotHeaders> {
    let header: Ipv6Header = packet
        .read(offset)
        .ok_or(NotHeaders::Unreadable(DropReason::TruncatedIp))?;
    let [version_and_class, ..] = header.version_class_flow;
    let len = HEADER_LEN + u32::from(header.payload_len.get());
    if version_and_class >> 4 != 6 || offset + len > packet.len() {
        return Err(NotHeaders::Malformed {
            family: Family::V6,
            offset,
            reason: DropReason::BadIp,
        });
    }
    let end = offset + len;
    let payload = if transport::is_read(header.next_header) {
        Payload {
            protocol: header.next_header,
            offset: offset + HEADER_LEN,
            is_fragment: false,
        }
    } else {
        payload(packet, header.next_header, offset + HEADER_LEN, end).map_err(|not| match not {
            NotPayload::Other => NotHeaders::Other(NotOurs::NotVip),
            NotPayload::Malformed(reason) => NotHeaders::Malformed {
                family: Family::V6,
                offset,
                reason,
            },
        })?
    };
    let payload_offset = payload.offset & (FRAME_MAX - 1);
    Ok(Network {
        family: Family::V6,
        offset,
        len,
        protocol: payload.protocol,
        payload_offset,
        payload_len: end - payload_offset,
        is_fragment: payload.is_fragment,
    })
}

/// What a header is followed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Payload {
    /// Its protocol.
    protocol: u8,
    /// Where it begins.
    offset: u32,
    /// Whether it is the first part of a longer one.
    is_fragment: bool,
}

/// Why extension headers lead to no payload of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NotPayload {
    /// Well-formed, and something else.
    Other,
    /// Not well-formed, or not all of it.
    Malformed(DropReason),
}

/// What is behind the extension headers, of which the first is of `protocol` and begins at `offset`; the packet ends at
/// `end`.
#[inline(always)]
fn payload<P: Packet>(
    packet: &P,
    protocol: u8,
    offset: u32,
    end: u32,
) -> Result<Payload, NotPayload> {
    let cursor = Cursor::new(protocol, offset, 0);
    let cursor = Cursor(opaque(walk(packet, cursor, end).0));
    match cursor.0 >> STATUS_SHIFT {
        FOUND => Ok(Payload {
            protocol: cursor.protocol(),
            offset: cursor.offset(),
            is_fragment: cursor.0 & IS_FRAGMENT != 0,
        }),
        OTHER => Err(NotPayload::Other),
        BAD => Err(NotPayload::Malformed(DropReason::BadIp)),
        LATER_FRAGMENT => Err(NotPayload::Malformed(DropReason::IpFragment)),
        _ => Err(NotPayload::Malformed(DropReason::TooManyHeaders)),
    }
}

/// Where one is in a chain of extension headers: offset (14 bits), whether there was a fragment header that said "more"
/// (1), protocol (8), status (3).
///
/// VERIFIER: one number and not a struct, so that the paths through one header become one again behind it (see
/// [`opaque`]): 170,000 instructions were verified more without.
#[derive(Clone, Copy)]
struct Cursor(u32);

const IS_FRAGMENT: u32 = FRAME_MAX;
const PROTOCOL_SHIFT: u32 = 16;
const STATUS_SHIFT: u32 = 24;
/// The payload is found, or still looked for.
const FOUND: u32 = 0;
/// See [`NotPayload::Other`].
const OTHER: u32 = 1;
/// A header that does not lie within the packet.
const BAD: u32 = 2;
/// The payload is not the first part of a longer one.
const LATER_FRAGMENT: u32 = 3;
/// More headers than are read.
const TOO_MANY: u32 = 4;

impl Cursor {
    #[inline(always)]
    const fn new(protocol: u8, offset: u32, is_fragment: u32) -> Self {
        Self((protocol as u32) << PROTOCOL_SHIFT | is_fragment | offset & (FRAME_MAX - 1))
    }

    #[inline(always)]
    const fn failed(status: u32) -> Self {
        Self(status << STATUS_SHIFT)
    }

    #[inline(always)]
    const fn protocol(self) -> u8 {
        (self.0 >> PROTOCOL_SHIFT) as u8
    }

    #[inline(always)]
    const fn offset(self) -> u32 {
        self.0 & (FRAME_MAX - 1)
    }
}

#[inline(never)]
fn walk<P: Packet>(packet: &P, mut cursor: Cursor, end: u32) -> Cursor {
    for _ in 0..MAX_EXTENSIONS {
        if !is_extension(cursor.protocol()) {
            return cursor;
        }
        let Some(extension) = packet.read::<Extension>(cursor.offset()) else {
            return Cursor::failed(BAD);
        };
        let mut len = 8 * (u32::from(extension.len) + 1);
        let mut is_fragment = cursor.0 & IS_FRAGMENT;
        let field = extension.fragment.get();
        match cursor.protocol() {
            FRAGMENT if field & FRAGMENT_OFFSET != 0 => return Cursor::failed(LATER_FRAGMENT),
            FRAGMENT => {
                is_fragment |= u32::from(field & MORE_FRAGMENTS) * IS_FRAGMENT;
                len = FRAGMENT_LEN;
            }
            // With segments left, the destination is one on the way; the kernel knows what to do.
            ROUTING if field as u8 != 0 => return Cursor::failed(OTHER),
            _ => {}
        }
        let offset = cursor.offset() + len;
        if offset > end {
            return Cursor::failed(BAD);
        }
        let next = Cursor::new(extension.next_header, offset, is_fragment);
        cursor = Cursor(opaque(next.0));
    }
    if is_extension(cursor.protocol()) {
        return Cursor::failed(TOO_MANY);
    }
    cursor
}

#[inline(always)]
const fn is_extension(protocol: u8) -> bool {
    matches!(
        protocol,
        HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS
    )
}
