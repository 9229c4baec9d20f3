//! The RPC header: parse and emit, the same code in the XDP program, client and worker.

use super::{HEADER_LEN, MAGIC, VERSION};
use crate::{
    ids::{FunctionId, SlotId},
    limits::{MAX_FRAGMENTS, MAX_MESSAGE, SLOTS},
};

/// Bits of [`RpcHeader::flags`].
pub mod flags {
    /// `session_id` is set.
    pub const HAS_SESSION: u16 = 1 << 0;
    /// `slot` is set.
    pub const HAS_SLOT: u16 = 1 << 1;
    /// `route_cookie` is set.
    pub const HAS_COOKIE: u16 = 1 << 2;
    /// `token` is an address token; without this bit it is a trace id.
    pub const HAS_TOKEN: u16 = 1 << 3;
    /// The handler may run more than once for this request.
    pub const IDEMPOTENT: u16 = 1 << 4;
    /// The first fragment (index 0).
    pub const FIRST: u16 = 1 << 5;
    /// The last fragment (index count − 1).
    pub const LAST: u16 = 1 << 6;
    /// This packet was sent before.
    pub const RETRANSMIT: u16 = 1 << 7;
    /// Asks for fragments of a reply that are missing; the payload is an 8-byte bitmap of those held.
    pub const RESUME: u16 = 1 << 8;
    /// The message ends with the head of an HTTP request or response: see `docs/wire-format.md`.
    pub const HTTP: u16 = 1 << 9;
    /// In a request: its caller takes a stream for a reply. In a response: the reply goes on over TCP, from the
    /// [`StreamPlace`](super::StreamPlace) in the payload.
    pub const STREAM: u16 = 1 << 10;
    /// The caller gives the request up; no answer is expected.
    pub const CANCEL: u16 = 1 << 11;
    /// Beside STREAM in a request: its body follows over TCP, once a worker has said where to.
    pub const BODY_FOLLOWS: u16 = 1 << 12;
    /// Every bit that has a meaning in version 1; any other one set is an error.
    pub const ALL: u16 = (1 << 13) - 1;
}

/// What a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Client to VIP: run a function.
    Request = 1,
    /// Worker to client: its reply, or word of progress (`Status::Continue`).
    Response = 2,
    /// Balancer or worker to client: it did not run, and why.
    Error = 3,
    /// Balancer to client: prove your address by the token in it, and send again.
    Retry = 4,
    /// Worker to balancer: load report, see [`crate::load`].
    Load = 5,
    /// Client to VIP: routed like a request, answered by the worker itself without a handler.
    Ping = 6,
}

impl Kind {
    /// The kind of wire number `code`.
    #[inline(always)]
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Request),
            2 => Some(Self::Response),
            3 => Some(Self::Error),
            4 => Some(Self::Retry),
            5 => Some(Self::Load),
            6 => Some(Self::Ping),
            _ => None,
        }
    }

    /// Whether a VIP takes it: only what asks for work is routed, and only that is ever answered with
    /// an ERROR, so that two answering machines cannot talk to each other for ever.
    #[inline(always)]
    #[must_use]
    pub const fn is_routable(self) -> bool {
        matches!(self, Self::Request | Self::Ping)
    }
}

/// Why bytes are not a header. The order is the order of the checks: the first that fails is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HeaderError {
    /// Not our protocol.
    Magic,
    /// Our protocol in a version we do not speak.
    Version,
    /// A kind that version 1 does not have.
    Kind,
    /// A flag that version 1 does not have.
    Flags,
    /// `header_len` is not 64.
    HeaderLen,
    /// Fragment number or count out of range, or FIRST/LAST contradict them.
    Fragment,
    /// `HAS_SLOT` with a slot beyond the last one.
    Slot,
    /// `payload_len` is not what the datagram carries, or longer than a message can be.
    Length,
}

/// The header in host byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RpcHeader {
    /// What the packet is.
    pub kind: Kind,
    /// See [`flags`].
    pub flags: u16,
    /// Chosen at random by the client; the same in every fragment, retransmission and answer.
    pub request_id: u64,
    /// The function called.
    pub function: FunctionId,
    /// With [`flags::HAS_SESSION`]: the session.
    pub session_id: u64,
    /// With [`flags::HAS_SLOT`]: the slot of the request's shard key.
    pub slot: SlotId,
    /// Number of this fragment, from 0.
    pub fragment_index: u16,
    /// Number of fragments of the message, 1 to [`MAX_FRAGMENTS`].
    pub fragment_count: u16,
    /// A [`super::Status`] code in answers, 0 in requests. Kept raw: a newer peer may know more of them.
    pub status: u16,
    /// Request: milliseconds the caller still waits (0: the function's own timeout). ERROR: milliseconds
    /// to wait before trying again. Relative, so that no clocks need agree.
    pub budget_ms: u32,
    /// Payload bytes in this packet.
    pub payload_len: u32,
    /// With [`flags::HAS_COOKIE`]: see [`crate::cookie`].
    pub route_cookie: u64,
    /// Address token with [`flags::HAS_TOKEN`], else a trace id.
    pub token: u64,
}

impl RpcHeader {
    /// A one-fragment REQUEST of `function` with every optional field empty.
    #[must_use]
    pub const fn request(function: FunctionId, request_id: u64) -> Self {
        Self {
            kind: Kind::Request,
            flags: flags::FIRST | flags::LAST,
            request_id,
            function,
            session_id: 0,
            slot: SlotId(0),
            fragment_index: 0,
            fragment_count: 1,
            status: 0,
            budget_ms: 0,
            payload_len: 0,
            route_cookie: 0,
            token: 0,
        }
    }

    /// Whether all bits of `mask` are set.
    #[inline(always)]
    #[must_use]
    pub const fn has(&self, mask: u16) -> bool {
        self.flags & mask == mask
    }

    /// Makes this fragment `index` of `count`, with FIRST and LAST to match.
    #[must_use]
    pub const fn with_fragment(mut self, index: u16, count: u16) -> Self {
        self.fragment_index = index;
        self.fragment_count = count;
        self.flags &= !(flags::FIRST | flags::LAST);
        if index == 0 {
            self.flags |= flags::FIRST;
        }
        if index + 1 == count {
            self.flags |= flags::LAST;
        }
        self
    }

    /// Reads a header from the front of a datagram and checks it against the datagram's length.
    ///
    /// Returns `None` if the datagram is shorter than a header.
    ///
    /// # Errors
    /// The first [`HeaderError`] that applies.
    pub fn parse(datagram: &[u8]) -> Option<Result<(Self, &[u8]), HeaderError>> {
        let (head, payload) = datagram.split_first_chunk::<HEADER_LEN>()?;
        let payload_len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        Some(Self::from_words(words_of(head), payload_len).map(|header| (header, payload)))
    }

    /// Decodes a header from its eight words in wire (big-endian) order, as they lie in memory.
    /// `datagram_payload_len` is the number of bytes behind it.
    ///
    /// Takes words so that the XDP program needs eight loads and not sixty-four.
    ///
    /// # Errors
    /// The first [`HeaderError`] that applies.
    #[inline(always)]
    pub fn from_words(words: [u64; 8], datagram_payload_len: u32) -> Result<Self, HeaderError> {
        let [w0, w1, w2, w3, w4, w5, w6, w7] = words.map(u64::from_be);
        let kind = check_prelude(w0)?;
        let header = Self {
            kind,
            flags: (w0 >> 16) as u16,
            request_id: w1,
            function: FunctionId(w2),
            session_id: w3,
            slot: SlotId((w4 >> 48) as u16),
            fragment_index: (w4 >> 32) as u16,
            fragment_count: (w4 >> 16) as u16,
            status: w4 as u16,
            budget_ms: (w5 >> 32) as u32,
            payload_len: w5 as u32,
            route_cookie: w6,
            token: w7,
        };
        header.check(datagram_payload_len)?;
        Ok(header)
    }

    #[inline(always)]
    fn check(&self, datagram_payload_len: u32) -> Result<(), HeaderError> {
        let is_first = self.fragment_index == 0;
        let is_last = u32::from(self.fragment_index) + 1 == u32::from(self.fragment_count);
        if self.fragment_count > MAX_FRAGMENTS
            || self.fragment_index >= self.fragment_count
            || is_first != self.has(flags::FIRST)
            || is_last != self.has(flags::LAST)
        {
            return Err(HeaderError::Fragment);
        }
        if self.has(flags::HAS_SLOT) && u32::from(self.slot.0) >= SLOTS {
            return Err(HeaderError::Slot);
        }
        if self.payload_len != datagram_payload_len || self.payload_len > MAX_MESSAGE as u32 {
            return Err(HeaderError::Length);
        }
        Ok(())
    }

    /// The header's eight words in wire order, as they must lie in memory.
    #[inline(always)]
    #[must_use]
    pub const fn to_words(&self) -> [u64; 8] {
        let w0 = ((MAGIC as u64) << 48)
            | ((VERSION as u64) << 40)
            | ((self.kind as u64) << 32)
            | ((self.flags as u64) << 16)
            | HEADER_LEN as u64;
        let w4 = ((self.slot.0 as u64) << 48)
            | ((self.fragment_index as u64) << 32)
            | ((self.fragment_count as u64) << 16)
            | self.status as u64;
        let w5 = ((self.budget_ms as u64) << 32) | self.payload_len as u64;
        [
            w0.to_be(),
            self.request_id.to_be(),
            self.function.0.to_be(),
            self.session_id.to_be(),
            w4.to_be(),
            w5.to_be(),
            self.route_cookie.to_be(),
            self.token.to_be(),
        ]
    }

    /// The header's bytes.
    #[must_use]
    pub fn emit(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(self.to_words()) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

/// Checks magic, version, kind, flags and header length, which all stand in the first word.
#[inline(always)]
fn check_prelude(w0: u64) -> Result<Kind, HeaderError> {
    if (w0 >> 48) as u16 != MAGIC {
        return Err(HeaderError::Magic);
    }
    if (w0 >> 40) as u8 != VERSION {
        return Err(HeaderError::Version);
    }
    let kind = Kind::from_code((w0 >> 32) as u8).ok_or(HeaderError::Kind)?;
    if (w0 >> 16) as u16 & !flags::ALL != 0 {
        return Err(HeaderError::Flags);
    }
    if w0 as u16 != HEADER_LEN as u16 {
        return Err(HeaderError::HeaderLen);
    }
    Ok(kind)
}

/// The eight words of a header's bytes, as they lie in memory.
#[must_use]
pub fn words_of(bytes: &[u8; HEADER_LEN]) -> [u64; 8] {
    let mut words = [0; 8];
    for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        let mut buffer = [0; 8];
        buffer.copy_from_slice(chunk);
        *word = u64::from_ne_bytes(buffer);
    }
    words
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_header() -> impl Strategy<Value = [u8; HEADER_LEN]> {
        // Mostly valid preludes, so that the checks behind them are reached.
        (
            any::<[u8; 32]>(),
            any::<[u8; 32]>(),
            1u8..=7,
            0u16..0x2000,
            0u16..70,
            0u16..70,
            0u32..100,
        )
            .prop_map(|(head, tail, kind, flags, index, count, len)| {
                let mut bytes = [0; HEADER_LEN];
                bytes[..32].copy_from_slice(&head);
                bytes[32..].copy_from_slice(&tail);
                bytes[0..2].copy_from_slice(b"WP");
                bytes[2] = VERSION;
                bytes[3] = kind;
                bytes[4..6].copy_from_slice(&flags.to_be_bytes());
                bytes[6..8].copy_from_slice(&64u16.to_be_bytes());
                bytes[34..36].copy_from_slice(&index.to_be_bytes());
                bytes[36..38].copy_from_slice(&count.to_be_bytes());
                bytes[44..48].copy_from_slice(&len.to_be_bytes());
                bytes
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn a_header_that_parses_emits_the_same_bytes(bytes in any_header(), len in 0usize..100) {
            let mut datagram = bytes.to_vec();
            datagram.resize(HEADER_LEN + len, 0xaa);
            if let Some(Ok((header, payload))) = RpcHeader::parse(&datagram) {
                prop_assert_eq!(header.emit(), bytes);
                prop_assert_eq!(payload.len(), len);
            }
        }

        #[test]
        fn a_consistent_header_parses(index in 0u16..64, more in 0u16..64, len in 0usize..2000, id: u64) {
            let count = (index + 1 + more).min(MAX_FRAGMENTS);
            let header = RpcHeader { payload_len: len as u32, ..RpcHeader::request(FunctionId(1), id) }
                .with_fragment(index, count);
            let mut datagram = header.emit().to_vec();
            datagram.resize(HEADER_LEN + len, 0);
            prop_assert_eq!(RpcHeader::parse(&datagram).unwrap().unwrap().0, header);
        }

        #[test]
        fn no_input_panics(bytes: Vec<u8>) {
            let parsed = RpcHeader::parse(&bytes);
            prop_assert_eq!(parsed.is_none(), bytes.len() < HEADER_LEN);
        }
    }

    #[test]
    fn each_lie_has_its_own_error() {
        let good = RpcHeader {
            payload_len: 3,
            ..RpcHeader::request(FunctionId(1), 2)
        };
        let parse = |edit: &dyn Fn(&mut [u8])| {
            let mut datagram = good.emit().to_vec();
            datagram.extend_from_slice(b"abc");
            edit(&mut datagram);
            RpcHeader::parse(&datagram).unwrap().err()
        };
        assert_eq!(parse(&|_| ()), None);
        assert_eq!(parse(&|b| b[0] = 0), Some(HeaderError::Magic));
        assert_eq!(parse(&|b| b[2] = 2), Some(HeaderError::Version));
        assert_eq!(parse(&|b| b[3] = 0), Some(HeaderError::Kind));
        assert_eq!(parse(&|b| b[4] = 0x80), Some(HeaderError::Flags));
        assert_eq!(parse(&|b| b[4] = 0x20), Some(HeaderError::Flags));
        assert_eq!(parse(&|b| b[4] = 0x14), None, "a body that follows");
        assert_eq!(parse(&|b| b[4] = 0x02), None, "HTTP");
        assert_eq!(parse(&|b| b[7] = 72), Some(HeaderError::HeaderLen));
        assert_eq!(parse(&|b| b[35] = 1), Some(HeaderError::Fragment));
        assert_eq!(parse(&|b| b[37] = 0), Some(HeaderError::Fragment));
        assert_eq!(parse(&|b| b[36] = 1), Some(HeaderError::Fragment));
        assert_eq!(
            parse(&|b| (b[5], b[32]) = (0x62, 0x40)),
            Some(HeaderError::Slot)
        );
        assert_eq!(parse(&|b| b[47] = 4), Some(HeaderError::Length));
    }
}
