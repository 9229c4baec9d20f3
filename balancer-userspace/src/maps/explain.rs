//! `route explain`: asks the loaded program itself, by BPF_PROG_TEST_RUN.
//!
//! The verdict, the worker and the packet that leaves are the program's own. The rule is read from the
//! counters of the CPU it ran on; where live traffic moves them at the same time, it is asked again.
//! Each run counts as a packet. A session entry that it made is removed, one that it moved is put back.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    path::Path,
    thread,
};

use aya::{
    maps::{HashMap, MapData, MapError},
    programs::{ProgramError, TestRun, TestRunOptions, Xdp},
};
use aya_obj::programs::XdpAttachType;
use ebpf_common::{
    hash::slot_of_key,
    ids::FunctionId,
    maps::{Class, Counter, SessionEntry, SessionKey, WorkerInfo, name},
    wire::{HEADER_LEN, Kind, RpcHeader, Status, flags},
};
use nix::{
    errno::Errno,
    sched::{CpuSet, sched_getcpu, sched_setaffinity},
    unistd::Pid,
};
use thiserror::Error;

use super::{
    OpenError, open, program_pin,
    read::{Counters, ReadError},
};
use crate::{
    api::types::{ExplainRequest, ExplainedWorker, Explanation, PacketOut},
    mac::MacAddress,
};

/// How often the program is asked until the counters name one rule.
const ATTEMPTS: u32 = 64;
const DEFAULT_SOURCE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 40_000);
/// Room for what an XDP program may put in front of the packet.
const OUT_LEN: usize = 2048;

// Offsets in a frame without VLAN tag and IP options, which is what goes in and comes out.
const IP: usize = 14;
const UDP: usize = IP + 20;
const RPC: usize = UDP + 8;
const FRAME_LEN: usize = RPC + HEADER_LEN;

/// Why the program could not be asked.
#[derive(Debug, Error)]
pub enum ExplainError {
    /// A map cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A map cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A map cannot be read or written.
    #[error("cannot look at map {map}")]
    Map {
        /// The map.
        map: &'static str,
        /// The cause.
        #[source]
        source: Box<MapError>,
    },
    /// The program cannot be run.
    #[error(
        "cannot run the pinned program; are you root, and has `warmpath balancer` been started?"
    )]
    Run(#[source] Box<ProgramError>),
    /// The thread cannot stay on one CPU, and the counters are kept by CPU.
    #[error("cannot stay on one CPU")]
    Pin(#[source] Errno),
    /// The thread died.
    #[error("the thread that asked the program died")]
    Thread,
}

/// What the program pinned at `pin_path` does with the packet that `request` describes.
///
/// # Errors
/// [`ExplainError`].
pub fn explain(pin_path: &Path, request: &ExplainRequest) -> Result<Explanation, ExplainError> {
    // A thread of its own, because it binds itself to one CPU.
    thread::scope(|scope| {
        scope
            .spawn(|| Asker::new(pin_path, request)?.ask())
            .join()
            .map_err(|_panic| ExplainError::Thread)?
    })
}

struct Asker {
    program: Xdp,
    counters: Counters,
    workers: Vec<WorkerInfo>,
    sessions: HashMap<MapData, SessionKey, SessionEntry>,
    session: Option<SessionKey>,
    /// The interface that the packet pretends to come in by: the first port.
    ingress: Option<u32>,
    cpu: usize,
    frame: Vec<u8>,
}

struct Run {
    verdict: u32,
    frame: Vec<u8>,
    moved: Vec<(Counter, u64)>,
}

impl Asker {
    fn new(pin_path: &Path, request: &ExplainRequest) -> Result<Self, ExplainError> {
        let header = header(request);
        let workers = open::array::<WorkerInfo>(pin_path, name::WORKERS)?
            .iter()
            .collect::<Result<_, _>>()
            .map_err(map_error(name::WORKERS))?;
        let ports = open::ports(pin_path)?;
        let program = Xdp::from_pin(program_pin(pin_path), XdpAttachType::Interface)
            .map_err(|source| ExplainError::Run(Box::new(source)))?;
        Ok(Self {
            program,
            counters: Counters::open(pin_path)?,
            workers,
            sessions: open::hash(pin_path, name::SESSIONS)?,
            session: request.session.map(|session| SessionKey {
                function: header.function.0,
                session,
            }),
            ingress: ports.keys().flatten().min(),
            cpu: stay_on_one_cpu()?,
            frame: frame(request, &header),
        })
    }

    fn ask(&mut self) -> Result<Explanation, ExplainError> {
        let mut run = self.run()?;
        for _ in 1..ATTEMPTS {
            if outcome(&run.moved).is_some() {
                break;
            }
            run = self.run()?;
        }
        let outcome = outcome(&run.moved);
        // Where the outcome is not clear, the details are other packets' too.
        let details = run
            .moved
            .iter()
            .filter(|(counter, _)| outcome.is_some() && counter.class() == Class::Detail);
        let packet_out = (matches!(run.verdict, XDP_TX | XDP_REDIRECT))
            .then(|| packet_out(&run.frame))
            .flatten();
        Ok(Explanation {
            outcome: outcome.map_or_else(String::new, |counter| counter.class().name().to_owned()),
            rule: outcome.map_or_else(String::new, |counter| counter.label().to_owned()),
            verdict: verdict_name(run.verdict),
            worker: packet_out.as_ref().and_then(|out| self.worker(out)),
            details: details
                .map(|(counter, _)| counter.label().to_owned())
                .collect(),
            packet_out,
            packet_in_hex: hex(&self.frame),
        })
    }

    /// Runs the program once and leaves the session table as it was.
    fn run(&mut self) -> Result<Run, ExplainError> {
        let session_before = self.session_entry()?;
        let before = self.counts()?;
        let (verdict, frame) = self.run_program()?;
        let after = self.counts()?;
        if let Some(key) = self.session
            && self.session_entry()? != session_before
        {
            let restored = match session_before {
                Some(entry) => self.sessions.insert(key, entry, 0),
                None => self.sessions.remove(&key),
            };
            restored.map_err(map_error(name::SESSIONS))?;
        }
        let moved = Counter::ALL
            .iter()
            .zip(before.iter().zip(&after))
            .filter(|(_, (before, after))| before != after)
            .map(|(counter, (before, after))| (*counter, after.wrapping_sub(*before)))
            .collect();
        Ok(Run {
            verdict,
            frame,
            moved,
        })
    }

    fn run_program(&self) -> Result<(u32, Vec<u8>), ExplainError> {
        let mut out = vec![0; OUT_LEN];
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let len = self.frame.len() as u32;
        let context = |ifindex: u32| -> Vec<u8> {
            [0, len, 0, ifindex, 0, 0]
                .iter()
                .flat_map(|field: &u32| field.to_ne_bytes())
                .collect()
        };
        let mut run = |context: Option<&[u8]>| {
            self.program.test_run(TestRunOptions {
                data_in: Some(&self.frame),
                data_out: Some(&mut out),
                ctx_in: context,
                ..TestRunOptions::new()
            })
        };
        let result = match self.ingress.map(context) {
            // The interface must be in our network namespace; elsewhere the packet comes in by none of the
            // ports, and what would be XDP_TX shows as XDP_REDIRECT.
            Some(context) => run(Some(&context)).or_else(|_elsewhere| run(None)),
            None => run(None),
        }
        .map_err(|source| ExplainError::Run(Box::new(source)))?;
        out.truncate(result.data_size_out as usize);
        Ok((result.return_value, out))
    }

    fn counts(&self) -> Result<Vec<u64>, ExplainError> {
        Counter::ALL
            .iter()
            .map(|counter| {
                let values = self.counters.per_cpu(*counter)?;
                Ok(values.get(self.cpu).copied().unwrap_or(0))
            })
            .collect()
    }

    fn session_entry(&self) -> Result<Option<SessionEntry>, ExplainError> {
        let Some(key) = self.session else {
            return Ok(None);
        };
        match self.sessions.get(&key, 0) {
            Ok(entry) => Ok(Some(entry)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(map_error(name::SESSIONS)(error)),
        }
    }

    fn worker(&self, out: &PacketOut) -> Option<ExplainedWorker> {
        if out.kind != "request" {
            return None;
        }
        let is_it = |info: &WorkerInfo| {
            *info != WorkerInfo::ABSENT && MacAddress::new(info.dst_mac).to_string() == out.dst_mac
        };
        let id = self.workers.iter().position(is_it)?;
        Some(ExplainedWorker {
            id: u16::try_from(id).ok()?,
            name: None,
            mac: out.dst_mac.clone(),
        })
    }
}

/// The outcome, if exactly one packet was counted.
fn outcome(moved: &[(Counter, u64)]) -> Option<Counter> {
    let mut outcomes = moved
        .iter()
        .filter(|(counter, _)| counter.class().is_outcome());
    match (outcomes.next(), outcomes.next()) {
        (Some((counter, 1)), None) => Some(*counter),
        _ => None,
    }
}

fn map_error(map: &'static str) -> impl Fn(MapError) -> ExplainError {
    move |source| ExplainError::Map {
        map,
        source: Box::new(source),
    }
}

fn stay_on_one_cpu() -> Result<usize, ExplainError> {
    let cpu = sched_getcpu().map_err(ExplainError::Pin)?;
    let mut set = CpuSet::new();
    set.set(cpu).map_err(ExplainError::Pin)?;
    sched_setaffinity(Pid::from_raw(0), &set).map_err(ExplainError::Pin)?;
    Ok(cpu)
}

fn header(request: &ExplainRequest) -> RpcHeader {
    let mut header = RpcHeader::request(FunctionId::of(&request.function), rand::random());
    if let Some(session) = request.session {
        header.flags |= flags::HAS_SESSION;
        header.session_id = session;
    }
    if let Some(key) = &request.shard_key {
        header.flags |= flags::HAS_SLOT;
        header.slot = slot_of_key(key.as_bytes());
    }
    if let Some(cookie) = request.cookie {
        header.flags |= flags::HAS_COOKIE;
        header.route_cookie = cookie;
    }
    header
}

/// Ethernet, IPv4 without options, UDP without checksum (RFC 768 allows it), and the header.
fn frame(request: &ExplainRequest, header: &RpcHeader) -> Vec<u8> {
    let source = request.source.unwrap_or(DEFAULT_SOURCE);
    let ip_len = (FRAME_LEN - IP) as u16;
    let udp_len = (FRAME_LEN - UDP) as u16;
    let mut frame = Vec::with_capacity(FRAME_LEN);
    // Locally administered addresses; the program overwrites them.
    frame.extend_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00]);
    frame.extend_from_slice(&[0x45, 0]);
    frame.extend_from_slice(&ip_len.to_be_bytes());
    frame.extend_from_slice(&[0, 0, 0x40, 0, 64, 17, 0, 0]);
    frame.extend_from_slice(&source.ip().octets());
    frame.extend_from_slice(&request.vip.ip().octets());
    let checksum = ipv4_checksum(&frame[IP..]);
    frame[IP + 10..IP + 12].copy_from_slice(&checksum.to_be_bytes());
    frame.extend_from_slice(&source.port().to_be_bytes());
    frame.extend_from_slice(&request.vip.port().to_be_bytes());
    frame.extend_from_slice(&udp_len.to_be_bytes());
    frame.extend_from_slice(&[0, 0]);
    frame.extend_from_slice(&header.emit());
    frame
}

/// RFC 1071, over a header whose checksum field is zero.
fn ipv4_checksum(header: &[u8]) -> u16 {
    let words = header
        .chunks_exact(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

fn packet_out(frame: &[u8]) -> Option<PacketOut> {
    let mac = |at: usize| Some(MacAddress::new(frame.get(at..at + 6)?.try_into().ok()?));
    let address = |ip_at: usize, port_at: usize| {
        let ip: [u8; 4] = frame.get(ip_at..ip_at + 4)?.try_into().ok()?;
        let port: [u8; 2] = frame.get(port_at..port_at + 2)?.try_into().ok()?;
        Some(SocketAddrV4::new(ip.into(), u16::from_be_bytes(port)))
    };
    let (header, _) = RpcHeader::parse(frame.get(RPC..)?)?.ok()?;
    Some(PacketOut {
        dst_mac: mac(0)?.to_string(),
        src_mac: mac(6)?.to_string(),
        source: address(IP + 12, UDP)?,
        destination: address(IP + 16, UDP + 2)?,
        kind: match header.kind {
            Kind::Request => "request",
            Kind::Response => "response",
            Kind::Error => "error",
            Kind::Retry => "retry",
            Kind::Load => "load",
            Kind::Ping => "ping",
        }
        .to_owned(),
        status: (header.kind == Kind::Error).then(|| {
            Status::from_code(header.status).map_or_else(
                || header.status.to_string(),
                |status| status.name().to_owned(),
            )
        }),
        hex: hex(frame),
    })
}

// enum xdp_action of linux/bpf.h.
const XDP_TX: u32 = 3;
const XDP_REDIRECT: u32 = 4;

fn verdict_name(verdict: u32) -> String {
    match verdict {
        0 => "XDP_ABORTED".to_owned(),
        1 => "XDP_DROP".to_owned(),
        2 => "XDP_PASS".to_owned(),
        XDP_TX => "XDP_TX".to_owned(),
        XDP_REDIRECT => "XDP_REDIRECT".to_owned(),
        other => format!("verdict {other}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> ExplainRequest {
        ExplainRequest {
            vip: "10.99.0.1:9000".parse().unwrap(),
            function: "hello".to_owned(),
            session: Some(7),
            shard_key: Some("foo".to_owned()),
            cookie: None,
            source: None,
        }
    }

    #[test]
    fn the_frame_is_what_the_request_says() {
        let request = request();
        let frame = frame(&request, &header(&request));
        assert_eq!(frame.len(), FRAME_LEN);
        let out = packet_out(&frame).unwrap();
        assert_eq!(out.source, DEFAULT_SOURCE);
        assert_eq!(out.destination, request.vip);
        assert_eq!(out.kind, "request");
        let (header, payload) = RpcHeader::parse(&frame[RPC..]).unwrap().unwrap();
        assert_eq!((header.session_id, header.slot.0), (7, 12_182));
        assert_eq!(payload, b"");
    }

    #[test]
    fn an_ipv4_header_with_its_checksum_sums_to_zero() {
        let request = request();
        let frame = frame(&request, &header(&request));
        assert_eq!(ipv4_checksum(&frame[IP..UDP]), 0);
    }

    #[test]
    fn the_outcome_is_only_named_when_one_packet_was_counted() {
        let packets = (Counter::Packets, 1);
        assert_eq!(
            outcome(&[
                packets,
                (Counter::RouteWarm, 1),
                (Counter::SessionCreated, 1)
            ]),
            Some(Counter::RouteWarm)
        );
        assert_eq!(outcome(&[packets, (Counter::RouteWarm, 2)]), None);
        let two = [(Counter::RouteWarm, 1), (Counter::PassNotVip, 1)];
        assert_eq!(outcome(&two), None);
        assert_eq!(outcome(&[]), None);
    }
}
