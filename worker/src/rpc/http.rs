//! HTTP in requests and replies: taken off a request's payload, and put into a reply's.
//!
//! Whether a function takes a method is decided here, before anything runs: the worker is the first that
//! knows the manifest.

use bytes::Bytes;
use ebpf_common::{
    limits::MAX_MESSAGE,
    wire::{RpcHeader, Status, flags},
};
use store::{Interface, Manifest};
use warmpath_sdk::http::{self, RequestHead, ResponseHead};

use crate::pool::Outcome;

/// What a request is made of.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Taken {
    /// For a handler that speaks HTTP.
    pub(super) head: Option<Box<RequestHead>>,
    /// The event or body.
    pub(super) payload: Bytes,
    /// Who calls, as whoever sent it says; not for the handler.
    pub(super) caller: Option<String>,
}

/// Takes a request apart.
pub(super) fn take(
    header: &RpcHeader,
    payload: &Bytes,
    manifest: &Manifest,
) -> Result<Taken, Box<Outcome>> {
    let speaks_http = manifest.interface != Interface::Event;
    if !header.has(flags::HTTP) {
        return Ok(Taken {
            head: speaks_http.then(|| Box::new(RequestHead::of_call(payload.len()))),
            payload: payload.clone(),
            caller: None,
        });
    }
    let (mut head, payload) = http::split::<RequestHead>(payload)
        .map_err(|error| Box::new(Outcome::failed(Status::BadPayload, error.to_string())))?;
    if !manifest.takes(&head.method) {
        let refused = Outcome::failed(Status::MethodNotAllowed, manifest.allow());
        return Err(Box::new(refused));
    }
    let caller = take_caller(&mut head);
    Ok(Taken {
        head: speaks_http.then(|| Box::new(head)),
        payload,
        caller,
    })
}

/// What the head at the end of an event says of its caller.
pub(super) fn caller_in(event: &Bytes) -> Option<String> {
    let (mut head, _) = http::split::<RequestHead>(event).ok()?;
    take_caller(&mut head)
}

/// Takes off what the head says of its caller; of several words none, which is no address.
fn take_caller(head: &mut RequestHead) -> Option<String> {
    let is_caller = |(name, _): &mut http::Header| name.eq_ignore_ascii_case(http::CALLER);
    let mut said = head.headers.extract_if(.., is_caller);
    let (_, first) = said.next()?;
    let is_one = said.count() == 0;
    Some(if is_one { first } else { String::new() })
}

/// The payload of the reply, with its bill if it came by HTTP, and whether it has the flag HTTP.
pub(super) fn put(header: &RpcHeader, outcome: &mut Outcome) -> bool {
    let head = outcome.http.take();
    if !header.has(flags::HTTP) || outcome.wait.is_some() {
        return false;
    }
    if outcome.status != Status::Ok {
        return head.is_some();
    }
    let of_event = head.is_none();
    let mut head = head.unwrap_or_else(|| ResponseHead::of_reply(&outcome.payload));
    head.headers.retain(|(name, _)| name != http::BILL);
    let bill = (http::BILL.to_owned(), outcome.usage.to_string());
    head.headers.push(bill);
    match http::join(&head, &outcome.payload) {
        // An event's reply may be as long as a message: then it goes without a bill.
        Ok(message) if of_event && message.len() > MAX_MESSAGE => return false,
        Ok(message) => outcome.payload = message,
        Err(error) => {
            let usage = outcome.usage;
            *outcome = Outcome {
                usage,
                ..Outcome::failed(Status::BadReply, error.to_string())
            };
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use ebpf_common::ids::FunctionId;

    use super::*;

    fn manifest(more: &str) -> Manifest {
        Manifest::parse(format!("name = 'f'\n{more}").as_bytes()).unwrap()
    }

    fn header(flags: u16) -> RpcHeader {
        let header = RpcHeader::request(FunctionId(1), 2);
        RpcHeader {
            flags: header.flags | flags,
            ..header
        }
    }

    fn request(method: &str) -> Bytes {
        let head = RequestHead {
            method: method.to_owned(),
            ..RequestHead::of_call(0)
        };
        http::join(&head, b"event").unwrap()
    }

    #[test]
    fn an_event_is_the_body_and_comes_by_post() {
        let taken = take(&header(flags::HTTP), &request("POST"), &manifest("")).unwrap();
        assert_eq!((taken.head, &taken.payload[..]), (None, &b"event"[..]));
        let refused = take(&header(flags::HTTP), &request("GET"), &manifest("")).unwrap_err();
        assert_eq!(refused.status, Status::MethodNotAllowed);
        assert_eq!(refused.payload, "POST");
    }

    #[test]
    fn a_handler_that_speaks_http_always_gets_a_head() {
        let manifest = manifest("interface = 'wsgi'");
        let taken = take(&header(flags::HTTP), &request("PUT"), &manifest).unwrap();
        assert_eq!(
            (taken.head.unwrap().method.as_str(), &taken.payload[..]),
            ("PUT", &b"event"[..])
        );
        let plain = Bytes::from_static(b"hi");
        let taken = take(&header(0), &plain, &manifest).unwrap();
        let head = taken.head.unwrap();
        assert_eq!((head.method.as_str(), taken.payload), ("POST", plain));
    }

    #[test]
    fn who_calls_is_for_the_bill_and_not_for_the_handler() {
        let said = |callers: &[&str], interface: &str| {
            let line = |name: &str, value: &str| (name.to_owned(), value.to_owned());
            let callers = callers.iter().map(|caller| line(http::CALLER, caller));
            let head = RequestHead {
                headers: callers.chain([line("x-a", "1")]).collect(),
                ..RequestHead::of_call(0)
            };
            let message = http::join(&head, b"").unwrap();
            let manifest = manifest(&format!("interface = '{interface}'"));
            let taken = take(&header(flags::HTTP), &message, &manifest).unwrap();
            if let Some(head) = taken.head {
                assert_eq!(head.headers, [line("x-a", "1")]);
            }
            taken.caller
        };
        for interface in ["http", "event"] {
            let one = said(&["192.0.2.7"], interface);
            assert_eq!(one.as_deref(), Some("192.0.2.7"));
            assert_eq!(said(&[], interface), None);
            let two = said(&["192.0.2.7", "192.0.2.8"], interface);
            assert_eq!(two.as_deref(), Some(""), "they contradict each other");
        }
        assert_eq!(
            take(&header(0), &Bytes::new(), &manifest(""))
                .unwrap()
                .caller,
            None
        );
    }

    #[test]
    fn a_payload_without_a_head_is_the_callers_fault() {
        let plain = Bytes::from_static(b"[1, 2, 3]");
        let refused = take(&header(flags::HTTP), &plain, &manifest("")).unwrap_err();
        assert_eq!(refused.status, Status::BadPayload);
    }

    #[test]
    fn only_who_asked_by_http_is_answered_in_http() {
        let answered = |value: &str| Outcome {
            payload: Bytes::from_static(b"body"),
            http: Some(ResponseHead {
                status: 201,
                headers: vec![("x".to_owned(), value.to_owned())],
            }),
            ..Outcome::failed(Status::Ok, "")
        };
        let mut outcome = answered("1");
        assert!(!put(&header(0), &mut outcome));
        assert_eq!(outcome.payload, "body");
        let mut outcome = answered("1");
        assert!(put(&header(flags::HTTP), &mut outcome));
        let (head, body) = reply(&outcome);
        assert_eq!((head.status, &body[..]), (201, &b"body"[..]));
        let mut outcome = answered("1\r\nset-cookie: a=b");
        assert!(!put(&header(flags::HTTP), &mut outcome));
        assert_eq!(outcome.status, Status::BadReply);
    }

    fn reply(outcome: &Outcome) -> (ResponseHead, Bytes) {
        http::split(&outcome.payload).unwrap()
    }

    fn bills(head: &ResponseHead) -> Vec<&str> {
        let bills = head.headers.iter().filter(|(name, _)| name == http::BILL);
        bills.map(|(_, bill)| bill.as_str()).collect()
    }

    #[test]
    fn a_reply_by_http_has_the_workers_bill_and_no_other() {
        let mut outcome = Outcome {
            http: Some(ResponseHead {
                status: 200,
                headers: vec![(http::BILL.to_owned(), "cpu_ns=0".to_owned())],
            }),
            ..Outcome::failed(Status::Ok, "body")
        };
        outcome.usage.cpu_ns = 1_234;
        assert!(put(&header(flags::HTTP), &mut outcome));
        let (head, _) = reply(&outcome);
        let [bill] = bills(&head)[..] else {
            panic!("{:?} is not one bill", head.headers);
        };
        assert!(bill.starts_with("cpu_ns=1234, "), "{bill}");
    }

    #[test]
    fn an_events_reply_has_a_bill_unless_it_fills_the_message() {
        let mut outcome = Outcome::failed(Status::Ok, "[1]");
        assert!(put(&header(flags::HTTP), &mut outcome));
        let (head, body) = reply(&outcome);
        assert_eq!((bills(&head).len(), &body[..]), (1, &b"[1]"[..]));
        let kind = ("content-type".to_owned(), "application/json".to_owned());
        assert!(head.headers.contains(&kind));

        let long = "x".repeat(MAX_MESSAGE);
        let mut outcome = Outcome::failed(Status::Ok, long.clone());
        assert!(!put(&header(flags::HTTP), &mut outcome));
        assert_eq!(outcome.payload, long);
    }
}
