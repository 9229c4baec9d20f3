//! What `fuzz/` reaches of the client: one request, and the datagrams that answer it. Only in builds for it.

use std::time::{Duration, Instant};

use ebpf_common::{
    ids::FunctionId,
    limits::MAX_MESSAGE,
    wire::{HEADER_LEN, RpcHeader},
};

use crate::{
    call::Call,
    exchange::{Exchange, MAX_PACKET, Request, Timing},
};

const FUNCTION: FunctionId = FunctionId(7);
const TIMING: Timing = Timing {
    first: Duration::from_millis(20),
    max: Duration::from_millis(200),
};

/// Lives a request by `script`: length of its payload (two bytes), then steps. A step is a byte that says what happens:
/// its timer, or a datagram of as many bytes as the next byte says behind a header of 64.
///
/// # Panics
/// What must not be has happened: a packet that does not parse, or more of them than the request has fragments.
pub fn exchange(script: &[u8]) {
    let [high, low, rest @ ..] = script else {
        return;
    };
    let payload = vec![5; usize::from(u16::from_be_bytes([*high, *low])) % (MAX_MESSAGE + 1)];
    let request = Request {
        id: 1,
        ping: false,
        call: Call::by_id(FUNCTION).payload(payload),
        stream_flags: 0,
    };
    let mut now = Instant::now();
    let mut exchange = Exchange::begin(request, None, TIMING, now);
    let mut rest = rest;
    while let [step, next @ ..] = rest {
        rest = next;
        if step & 1 == 0 {
            now = now.max(exchange.timer());
            exchange.on_timer(now);
        } else if let Some((datagram, next)) = datagram(rest) {
            rest = next;
            // Those that do not parse end here, as in `link`.
            if let Some(Ok((header, payload))) = RpcHeader::parse(&datagram) {
                let _is_rejected = exchange.on_packet(&header, payload, now);
            }
        }
        send(&mut exchange, now);
        if exchange.is_over() {
            return;
        }
    }
}

/// A datagram as the script has it, with a magic, a header length, a payload length and a function that fit.
fn datagram(script: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let (len, rest) = script.split_first()?;
    let len = HEADER_LEN + usize::from(*len);
    let (bytes, rest) = rest.split_at_checked(len)?;
    let mut datagram = bytes.to_vec();
    let good = RpcHeader::request(FUNCTION, 1).emit();
    for range in [0..3, 6..24] {
        datagram
            .get_mut(range.clone())?
            .copy_from_slice(good.get(range)?);
    }
    let payload_len = u32::try_from(len - HEADER_LEN).ok()?;
    datagram
        .get_mut(44..48)?
        .copy_from_slice(&payload_len.to_be_bytes());
    Some((datagram, rest))
}

fn send(exchange: &mut Exchange, now: Instant) {
    let mut buffer = [0; MAX_PACKET];
    let mut sent = 0;
    while let Some(written) = exchange.next_packet(now, &mut buffer) {
        let packet = buffer.get(..written.bytes);
        assert!(packet.is_some_and(|packet| matches!(RpcHeader::parse(packet), Some(Ok(_)))));
        sent += 1;
        assert!(
            sent <= 65,
            "an exchange sends no more than its fragments and a RESUME at once"
        );
    }
}
