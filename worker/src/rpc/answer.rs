//! Answers as packets.

use bytes::Bytes;
use ebpf_common::{
    limits::MAX_FRAGMENT_PAYLOAD,
    wire::{Fault, HEADER_LEN, Kind, RpcHeader, Status, flags},
};
use warmpath_sdk::fragment::{Held, count_of, part};

/// Bytes of the longest packet.
pub(crate) const MAX_PACKET: usize = HEADER_LEN + MAX_FRAGMENT_PAYLOAD;

/// What an answer repeats of its request.
const REPEATED_FLAGS: u16 = flags::HAS_SESSION | flags::HAS_SLOT | flags::IDEMPOTENT;

/// A whole answer: a reply, an error, or word of progress.
#[derive(Debug)]
pub(crate) struct Reply {
    /// Of every packet, but for fragment and length.
    header: RpcHeader,
    pub(crate) payload: Bytes,
}

impl Reply {
    /// The answer to the request of `request` with `status`. An error's message is cut to one packet.
    pub(crate) fn new(request: &RpcHeader, status: Status, payload: Bytes, cookie: u64) -> Self {
        let has_trace = !request.has(flags::HAS_TOKEN);
        let header = RpcHeader {
            kind: kind_of(status),
            flags: request.flags & REPEATED_FLAGS | flags::HAS_COOKIE,
            status: status as u16,
            budget_ms: 0,
            payload_len: 0,
            route_cookie: cookie,
            token: if has_trace { request.token } else { 0 },
            ..*request
        };
        let payload = match status {
            Status::Ok | Status::Continue => payload,
            _ => payload.slice(..message_len(&payload)),
        };
        Self { header, payload }
    }

    /// Word that these fragments of the request are held.
    pub(crate) fn progress(request: &RpcHeader, held: Held, cookie: u64) -> Self {
        let payload = Bytes::copy_from_slice(&held.to_payload());
        Self::new(request, Status::Continue, payload, cookie)
    }

    /// An error that says when to try again.
    pub(crate) fn with_retry_after(mut self, milliseconds: u32) -> Self {
        self.header.budget_ms = milliseconds;
        self
    }

    /// Says that it comes from a handler that speaks HTTP, with its head at the end if it is a reply.
    pub(crate) fn with_http(mut self, is_http: bool) -> Self {
        if is_http {
            self.header.flags |= flags::HTTP;
        }
        self
    }

    /// Says that its payload is where the reply goes on.
    pub(crate) fn with_stream(mut self) -> Self {
        self.header.flags |= flags::STREAM;
        self
    }

    /// Whether it says that the handler has not run: who sends the request again may have it run then.
    pub(crate) fn is_refusal(&self) -> bool {
        Status::from_code(self.header.status)
            .is_some_and(|status| !has_run(status) && status != Status::OutcomeUnknown)
    }

    /// The number of packets it takes.
    pub(crate) fn count(&self) -> u16 {
        count_of(self.payload.len())
    }

    /// Writes packet `index` into `buffer`; returns its length.
    pub(crate) fn write(&self, index: u16, buffer: &mut [u8; MAX_PACKET]) -> usize {
        let payload = part(&self.payload, index);
        let header = RpcHeader {
            // A part is never longer than a fragment may be.
            payload_len: payload.len() as u32,
            ..self.header.with_fragment(index, self.count())
        };
        let (head, rest) = buffer.split_at_mut(HEADER_LEN);
        head.copy_from_slice(&header.emit());
        if let Some(place) = rest.get_mut(..payload.len()) {
            place.copy_from_slice(payload);
        }
        HEADER_LEN + payload.len()
    }
}

/// Whether the handler ran to its end, or may have: then its outcome is kept for repeated requests. Not so
/// where a neighbour cut it short: a function with `concurrency` takes it on itself to be run again then.
pub(crate) const fn has_run(status: Status) -> bool {
    matches!(status.fault(), Fault::Nobody | Fault::Function) && !status.is_retryable()
        || matches!(status, Status::BudgetExceeded)
}

const fn kind_of(status: Status) -> Kind {
    if has_run(status) {
        Kind::Response
    } else {
        Kind::Error
    }
}

/// How much of a message fits one packet without cutting a character in two.
fn message_len(message: &[u8]) -> usize {
    if message.len() <= MAX_FRAGMENT_PAYLOAD {
        return message.len();
    }
    let is_continuation = |index: usize| message.get(index).is_some_and(|byte| byte & 0xc0 == 0x80);
    (0..=MAX_FRAGMENT_PAYLOAD)
        .rev()
        .find(|index| !is_continuation(*index))
        .unwrap_or(MAX_FRAGMENT_PAYLOAD)
}

#[cfg(test)]
mod tests {
    use ebpf_common::ids::FunctionId;

    use super::*;

    fn request() -> RpcHeader {
        RpcHeader {
            flags: flags::FIRST | flags::LAST | flags::HAS_SESSION | flags::RETRANSMIT,
            session_id: 5,
            token: 77,
            budget_ms: 100,
            ..RpcHeader::request(FunctionId(1), 2)
        }
    }

    #[test]
    fn every_packet_of_a_reply_parses_and_says_whose_it_is() {
        let payload = Bytes::from(vec![7; 3 * MAX_FRAGMENT_PAYLOAD + 1]);
        let reply = Reply::new(&request(), Status::Ok, payload, 9);
        let mut buffer = [0; MAX_PACKET];
        let mut bytes = 0;
        for index in 0..reply.count() {
            let len = reply.write(index, &mut buffer);
            let (header, payload) = RpcHeader::parse(&buffer[..len]).unwrap().unwrap();
            assert_eq!(header.kind, Kind::Response);
            assert_eq!((header.request_id, header.function), (2, FunctionId(1)));
            assert_eq!(
                (header.session_id, header.token, header.route_cookie),
                (5, 77, 9)
            );
            assert!(header.has(flags::HAS_COOKIE | flags::HAS_SESSION));
            assert!(!header.has(flags::RETRANSMIT));
            assert_eq!((header.fragment_index, header.budget_ms), (index, 0));
            bytes += payload.len();
        }
        assert_eq!(bytes, 3 * MAX_FRAGMENT_PAYLOAD + 1);
    }

    #[test]
    fn what_did_not_run_is_an_error_packet() {
        let kind = |status| Reply::new(&request(), status, Bytes::new(), 0).header.kind;
        for status in [
            Status::Ok,
            Status::Exception,
            Status::Timeout,
            Status::BudgetExceeded,
        ] {
            assert_eq!(kind(status), Kind::Response, "{status:?}");
        }
        for status in [
            Status::Overloaded,
            Status::BadPayload,
            Status::UnknownFunction,
        ] {
            assert_eq!(kind(status), Kind::Error, "{status:?}");
        }
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let message = "é".repeat(MAX_FRAGMENT_PAYLOAD);
        let reply = Reply::new(&request(), Status::Exception, Bytes::from(message), 0);
        assert_eq!(reply.count(), 1);
        let text = std::str::from_utf8(&reply.payload).unwrap();
        assert!(text.len() > MAX_FRAGMENT_PAYLOAD - 2);
        let ascii = Bytes::from("x".repeat(MAX_FRAGMENT_PAYLOAD + 1));
        let reply = Reply::new(&request(), Status::Exception, ascii, 0);
        assert_eq!(reply.payload.len(), MAX_FRAGMENT_PAYLOAD);
    }
}
