//! HTTP messages, questions about calls that nobody waits for, places of streams, and the names that stand in paths, as a
//! worker, a gateway and a client take them off the wire: what is read is written again as something that reads the same.
#![no_main]

use std::{fmt::Debug, str::FromStr};

use bytes::Bytes;
use ebpf_common::wire::{StreamPlace, Ticket};
use libfuzzer_sys::fuzz_target;
use warmpath_sdk::{
    deferred::{Ask, CallId, DeadCalls, Report},
    http::{self, Head, RequestHead, ResponseHead},
    trigger::TriggerAnswer,
};

fuzz_target!(|data: &[u8]| {
    let [choice, rest @ ..] = data else {
        return;
    };
    let message = if choice & 1 == 0 {
        Bytes::copy_from_slice(rest)
    } else {
        ending_well(rest, choice >> 1)
    };
    comes_back::<RequestHead>(&message);
    comes_back::<ResponseHead>(&message);
    comes_back::<Ask>(&message);
    comes_back::<Report>(&message);
    comes_back::<DeadCalls>(&message);
    comes_back::<TriggerAnswer>(&message);

    if let Some(place) = StreamPlace::parse(rest) {
        assert_eq!(StreamPlace::parse(&place.emit()), Some(place));
        reads_its_own::<Ticket>(&place.ticket.to_string());
    }
    if let Ok(text) = std::str::from_utf8(rest) {
        reads_its_own::<Ticket>(text);
        reads_its_own::<CallId>(text);
    }
});

/// `rest` with the length of a head behind it: all of it, or all but some bytes of a body.
fn ending_well(rest: &[u8], body: u8) -> Bytes {
    let head = rest.len() - usize::from(body).min(rest.len());
    let length = u32::try_from(head).expect("inputs are short").to_be_bytes();
    Bytes::from([rest, &length].concat())
}

fn comes_back<H: Head + PartialEq + Debug>(message: &Bytes) {
    let Ok((head, body)) = http::split::<H>(message) else {
        return;
    };
    let again = http::join(&head, &body).expect("it was read");
    assert_eq!(http::split::<H>(&again), Ok((head, body)));
}

/// What `text` names has one way to be written, but for the case of its digits.
fn reads_its_own<T: FromStr + ToString>(text: &str) {
    if let Ok(name) = text.parse::<T>() {
        assert_eq!(name.to_string(), text.to_ascii_lowercase());
    }
}
