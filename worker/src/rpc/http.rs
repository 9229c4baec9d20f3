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

/// What of a request is for the handler: its head, if the handler speaks HTTP, and the event or body.
pub(super) fn take(
    header: &RpcHeader,
    payload: &Bytes,
    manifest: &Manifest,
) -> Result<(Option<Box<RequestHead>>, Bytes), Box<Outcome>> {
    let speaks_http = manifest.interface != Interface::Event;
    if !header.has(flags::HTTP) {
        let head = speaks_http.then(|| Box::new(RequestHead::of_call(payload.len())));
        return Ok((head, payload.clone()));
    }
    let (head, body) = http::split::<RequestHead>(payload)
        .map_err(|error| Box::new(Outcome::failed(Status::BadPayload, error.to_string())))?;
    if !manifest.takes(&head.method) {
        let refused = Outcome::failed(Status::MethodNotAllowed, manifest.allow());
        return Err(Box::new(refused));
    }
    Ok((speaks_http.then(|| Box::new(head)), body))
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
        let (head, body) = take(&header(flags::HTTP), &request("POST"), &manifest("")).unwrap();
        assert_eq!((head, &body[..]), (None, &b"event"[..]));
        let refused = take(&header(flags::HTTP), &request("GET"), &manifest("")).unwrap_err();
        assert_eq!(refused.status, Status::MethodNotAllowed);
        assert_eq!(refused.payload, "POST");
    }

    #[test]
    fn a_handler_that_speaks_http_always_gets_a_head() {
        let manifest = manifest("interface = 'wsgi'");
        let (head, body) = take(&header(flags::HTTP), &request("PUT"), &manifest).unwrap();
        assert_eq!(
            (head.unwrap().method.as_str(), &body[..]),
            ("PUT", &b"event"[..])
        );
        let plain = Bytes::from_static(b"hi");
        let (head, body) = take(&header(0), &plain, &manifest).unwrap();
        assert_eq!((head.unwrap().method.as_str(), body), ("POST", plain));
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
