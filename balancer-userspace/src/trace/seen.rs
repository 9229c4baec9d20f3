//! What became of one packet, in words.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use ebpf_common::{
    event::{TraceEvent, TraceHead, trace_fields},
    maps::{Class, Counter},
};
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::clock::since_1970;

/// What ids are called; without names the ids themselves are shown.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// Workers by id.
    pub workers: BTreeMap<u16, String>,
    /// Functions by id.
    pub functions: BTreeMap<u64, String>,
}

/// An event as people and JSON have it. A field that is not known is left out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Seen {
    /// Seconds since 1970.
    pub time: f64,
    /// Nanoseconds in the program.
    pub ns: u64,
    /// The sender; its port is 0 where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<SocketAddr>,
    /// Whom it was sent to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<SocketAddr>,
    /// IP protocol number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u8>,
    /// The VIP's number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vip_id: Option<u32>,
    /// The function's name, or its id in hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    /// The request's id, in hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The session, in hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// `route/warm`, `drop/bad_magic`: class and label of its outcome.
    pub outcome: String,
    /// What else was noticed.
    pub details: Vec<&'static str>,
    /// The worker's name, or its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// Index of the interface it came in by.
    pub ifindex: u32,
    /// Index of the interface it left by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out_ifindex: Option<u32>,
    /// Bytes of its frame when it came in.
    pub frame_len: u32,
    /// Bytes of its frame when it left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent_len: Option<u32>,
    /// The CPU that it was handled on.
    pub cpu: u16,
}

impl Seen {
    /// The words for `event`.
    #[must_use]
    pub fn new(event: &TraceEvent, names: &Names) -> Self {
        let head = &event.head;
        let known = |field, value| head.knows(field).then_some(value);
        let left = head.out_ifindex != 0;
        let hex = |number: u64| format!("{number:016x}");
        Self {
            time: wall_clock(head.time_ns).as_secs_f64(),
            ns: head.duration_ns,
            source: address(head, &head.source, head.source_port),
            destination: address(head, &head.destination, head.destination_port),
            protocol: head.knows(trace_fields::PORTS).then_some(head.protocol),
            vip_id: head.knows(trace_fields::VIP).then_some(head.vip_id),
            function: known(trace_fields::FUNCTION, head.function)
                .map(|id| names.functions.get(&id).cloned().unwrap_or_else(|| hex(id))),
            request_id: known(trace_fields::FUNCTION, head.request_id).map(hex),
            session: known(trace_fields::SESSION, head.session).map(hex),
            outcome: outcome(head).map_or_else(|| "-".to_owned(), name),
            details: moved(head, |class| class == Class::Detail)
                .map(Counter::label)
                .collect(),
            worker: head.knows(trace_fields::WORKER).then(|| {
                let worker = names.workers.get(&head.worker).cloned();
                worker.unwrap_or_else(|| head.worker.to_string())
            }),
            ifindex: head.ifindex,
            out_ifindex: left.then_some(head.out_ifindex),
            frame_len: head.frame_len,
            sent_len: left.then_some(head.sent_len),
            cpu: head.cpu,
        }
    }

    /// The headings over [`Self`]'s lines.
    #[must_use]
    pub fn headings() -> String {
        format!(
            "{:<15}  {:<21}  {:<21}  {:<24}  {:<16}  {:<24}  {:<12}  {:>6}",
            "TIME", "SOURCE", "DESTINATION", "FUNCTION", "SESSION", "OUTCOME", "WORKER", "NS"
        )
    }
}

impl fmt::Display for Seen {
    /// One line of the live table.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dash = || "-".to_owned();
        let address = |address: Option<SocketAddr>| address.map_or_else(dash, |a| a.to_string());
        let word = |word: &Option<String>| word.clone().unwrap_or_else(dash);
        write!(
            f,
            "{}  {:<21}  {:<21}  {:<24}  {:<16}  {:<24}  {:<12}  {:>6}",
            time_of_day(self.time),
            address(self.source),
            address(self.destination),
            word(&self.function),
            word(&self.session),
            self.outcome,
            word(&self.worker),
            self.ns,
        )?;
        if !self.details.is_empty() {
            write!(f, "  {}", self.details.join(","))?;
        }
        Ok(())
    }
}

/// The counter of the packet's outcome.
pub(super) fn outcome(head: &TraceHead) -> Option<Counter> {
    moved(head, Class::is_outcome).next()
}

/// Class and label of a counter.
pub(super) fn name(counter: Counter) -> String {
    format!("{}/{}", counter.class().name(), counter.label())
}

fn moved(head: &TraceHead, of: impl Fn(Class) -> bool) -> impl Iterator<Item = Counter> {
    Counter::ALL
        .iter()
        .copied()
        .filter(move |counter| of(counter.class()) && head.moved(*counter))
}

fn address(head: &TraceHead, bytes: &[u8; 16], port: u16) -> Option<SocketAddr> {
    if !head.knows(trace_fields::ADDRESSES) {
        return None;
    }
    let address = if head.family == 4 {
        let [a, b, c, d, ..] = *bytes;
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    } else {
        IpAddr::V6(Ipv6Addr::from(*bytes))
    };
    Some(SocketAddr::new(address, port))
}

/// The time of the kernel's monotonic clock as time since 1970, as the two clocks stand now.
pub(super) fn wall_clock(monotonic_ns: u64) -> Duration {
    let monotonic = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Into::into);
    let age = monotonic.saturating_sub(Duration::from_nanos(monotonic_ns));
    since_1970().saturating_sub(age)
}

/// `hh:mm:ss.uuuuuu`, UTC.
fn time_of_day(since_1970: f64) -> String {
    let micros = (since_1970 * 1e6) as u64;
    let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
    let (hours, minutes) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}.{micros:06}", seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> TraceEvent {
        let mut event = TraceEvent::EMPTY;
        event.head = TraceHead {
            duration_ns: 212,
            function: 7,
            session: 0x5e55,
            request_id: 1,
            source: [10, 80, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            destination: [10, 99, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            source_port: 40_000,
            destination_port: 9_000,
            worker: 1,
            family: 4,
            protocol: 17,
            known: u8::MAX,
            ..TraceHead::EMPTY
        };
        for counter in [
            Counter::Packets,
            Counter::RouteWarm,
            Counter::SessionCreated,
        ] {
            event.head.mark(counter as u32);
        }
        event
    }

    #[test]
    fn a_line_says_who_what_which_rule_which_worker_and_how_long() {
        let names = Names {
            workers: BTreeMap::from([(1, "w1".to_owned())]),
            functions: BTreeMap::from([(7, "hello@latest".to_owned())]),
        };
        let line = Seen::new(&event(), &names).to_string();
        let (_time, rest) = line.split_once("  ").unwrap();
        assert_eq!(
            rest.split_whitespace().collect::<Vec<_>>(),
            [
                "10.80.0.3:40000",
                "10.99.0.1:9000",
                "hello@latest",
                "0000000000005e55",
                "route/warm",
                "w1",
                "212",
                "session_created"
            ]
        );
    }

    #[test]
    fn what_is_not_known_is_a_dash_and_left_out_of_json() {
        let mut unknown = TraceEvent::EMPTY;
        unknown.head.mark(Counter::PassNotIp as u32);
        let seen = Seen::new(&unknown, &Names::default());
        let line = seen.to_string();
        assert_eq!(
            line.split_whitespace().skip(1).collect::<Vec<_>>(),
            ["-", "-", "-", "-", "pass/not_ip", "-", "0"]
        );
        let json = serde_json::to_value(&seen).unwrap();
        assert!(json.get("source").is_none() && json.get("worker").is_none());
    }

    #[test]
    fn ids_stand_in_for_names() {
        let seen = Seen::new(&event(), &Names::default());
        assert_eq!(seen.function.as_deref(), Some("0000000000000007"));
        assert_eq!(seen.worker.as_deref(), Some("1"));
    }

    #[test]
    fn the_time_of_day_is_utc() {
        assert_eq!(time_of_day(86_400.0 + 3_661.25), "01:01:01.250000");
    }
}
