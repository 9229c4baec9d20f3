//! IPv6 extension headers, as a sender writes them.

/// An extension header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension {
    /// Its number, which stands in the header before it.
    pub protocol: u8,
    /// Its bytes; the first is written when it is known what follows.
    pub bytes: Vec<u8>,
}

/// Number of the header with options for each hop.
pub const HOP_BY_HOP: u8 = 0;
/// Number of the routing header.
pub const ROUTING: u8 = 43;
/// Number of the fragment header.
pub const FRAGMENT: u8 = 44;
/// Number of the header with options for the destination.
pub const DESTINATION: u8 = 60;

impl Extension {
    /// Options for each hop, or for the destination, that say nothing (PadN), in 8 × (`units` + 1) bytes.
    #[must_use]
    pub fn options(protocol: u8, units: u8) -> Self {
        let len = 8 * (usize::from(units) + 1);
        let mut bytes = vec![0; len];
        // PadN holds up to 255 bytes; what is left is of Pad1.
        bytes[1..4].copy_from_slice(&[units, 1, (len - 4).min(255) as u8]);
        Self { protocol, bytes }
    }

    /// A routing header of type 4 with room for one address, of which `segments_left` are still to be visited.
    #[must_use]
    pub fn routing(segments_left: u8) -> Self {
        let mut bytes = vec![0; 24];
        bytes[1..4].copy_from_slice(&[2, 4, segments_left]);
        Self {
            protocol: ROUTING,
            bytes,
        }
    }

    /// A fragment header: `offset` is in units of eight bytes.
    #[must_use]
    pub fn fragment(offset: u16, more: bool) -> Self {
        let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
        Self {
            protocol: FRAGMENT,
            bytes: vec![0, 0, high, low, 0, 0, 0, 9],
        }
    }

    /// The number of the first of `chain`, and all their bytes; `protocol` follows them.
    #[must_use]
    pub fn chained(chain: &[Self], protocol: u8) -> (u8, Vec<u8>) {
        let mut bytes = Vec::new();
        let mut next = protocol;
        for extension in chain.iter().rev() {
            let mut header = extension.bytes.clone();
            header[0] = next;
            next = extension.protocol;
            bytes.splice(..0, header);
        }
        (next, bytes)
    }
}
