//! `route explain`: asks the loaded program itself, by BPF_PROG_TEST_RUN.
//!
//! The verdict, the worker and the packet that leaves are the program's own. The rule is read from the
//! counters of the CPU it ran on; where live traffic moves them at the same time, it is asked again.
//! Each run counts as a packet. An entry of a session or a flow that it made is removed, one that it moved is put back.

mod extracted;
mod frame;
mod leaving;
mod remembered;

use std::{net::IpAddr, path::Path, thread};

use aya::{
    maps::MapError,
    programs::{ProgramError, TestRun, TestRunOptions, Xdp},
};
use aya_obj::programs::XdpAttachType;
use ebpf_common::maps::{
    Class, Config, Counter, Vip6Row, VipInfo, VipKind, VipRow, WorkerInfo, name,
};
use extracted::Extracted;
pub use frame::PacketError;
use frame::Question;
use leaving::packet_out;
use nix::{
    errno::Errno,
    sched::{CpuSet, sched_getcpu, sched_setaffinity},
    unistd::Pid,
};
use remembered::Remembered;
use thiserror::Error;

use super::{
    OpenError, open, placed, program_pin,
    read::{Counters, ReadError},
};
use crate::{
    api::types::{ExplainRequest, ExplainedWorker, Explanation, PacketOut},
    mac::MacAddress,
    reconcile::tables::AnyVipKey,
};

/// How often the program is asked until the counters name one rule.
const ATTEMPTS: u32 = 64;
/// Room for what an XDP program may put in front of the packet.
const OUT_LEN: usize = 2048;

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
    /// There is no such packet.
    #[error(transparent)]
    Packet(#[from] PacketError),
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
    vip: Option<VipInfo>,
    /// What the function's schema finds in the payload.
    extracted: Option<Extracted>,
    /// What the packet may change.
    remembered: Vec<Remembered>,
    /// The interface that the packet pretends to come in by: the first port.
    ingress: Option<u32>,
    cpu: usize,
    question: Question,
}

struct Run {
    verdict: u32,
    frame: Vec<u8>,
    moved: Vec<(Counter, u64)>,
}

impl Asker {
    fn new(pin_path: &Path, request: &ExplainRequest) -> Result<Self, ExplainError> {
        let workers = open::array::<WorkerInfo>(pin_path, name::WORKERS)?
            .iter()
            .collect::<Result<_, _>>()
            .map_err(map_error(name::WORKERS))?;
        let config = open::array::<Config>(pin_path, name::CONFIG)?
            .get(&0, 0)
            .map_err(map_error(name::CONFIG))?;
        let vip = vip_of(pin_path, request)?;
        let mut question = Question::new(request, vip.and_then(|vip| vip.kind()))?;
        let extracted = extracted::of(pin_path, &question)?;
        question.session = question.session.or_else(|| extracted.as_ref()?.session());
        let ports = open::ports(pin_path)?;
        let program = Xdp::from_pin(program_pin(pin_path), XdpAttachType::Interface)
            .map_err(|source| ExplainError::Run(Box::new(source)))?;
        Ok(Self {
            program,
            counters: Counters::open(pin_path)?,
            workers,
            remembered: remembered::of(pin_path, &question, vip.as_ref(), &config)?,
            vip,
            extracted,
            ingress: ports.keys().flatten().min(),
            cpu: stay_on_one_cpu()?,
            question,
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
            .then(|| packet_out(&run.frame, &self.question))
            .flatten();
        let kind = self
            .vip
            .map(|vip| vip.kind().map_or("unknown", VipKind::name));
        Ok(Explanation {
            outcome: outcome.map_or_else(String::new, |counter| counter.class().name().to_owned()),
            rule: outcome.map_or_else(String::new, |counter| counter.label().to_owned()),
            verdict: verdict_name(run.verdict),
            worker: packet_out.as_ref().and_then(|out| self.worker(out)),
            kind: kind.map(str::to_owned),
            key: self.extracted.as_ref().map(Extracted::shown),
            details: details
                .map(|(counter, _)| counter.label().to_owned())
                .collect(),
            packet_out,
            packet_in_hex: frame::hex(&self.question.frame),
        })
    }

    /// Runs the program once and leaves the tables of sessions and flows as they were.
    fn run(&mut self) -> Result<Run, ExplainError> {
        for row in &mut self.remembered {
            row.take()?;
        }
        let before = self.counts()?;
        let (verdict, frame) = self.run_program()?;
        let after = self.counts()?;
        for row in &mut self.remembered {
            row.put_back()?;
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
        let len = self.question.frame.len() as u32;
        let context = |ifindex: u32| -> Vec<u8> {
            [0, len, 0, ifindex, 0, 0]
                .iter()
                .flat_map(|field: &u32| field.to_ne_bytes())
                .collect()
        };
        let mut run = |context: Option<&[u8]>| {
            self.program.test_run(TestRunOptions {
                data_in: Some(&self.question.frame),
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

    /// The worker that `out` leaves for: whose address the outer headers have, or else whose MAC address the frame.
    fn worker(&self, out: &PacketOut) -> Option<ExplainedWorker> {
        if out.destination == self.question.source {
            return None;
        }
        let is_it = |info: &WorkerInfo| {
            let is_there = *info != WorkerInfo::ABSENT;
            is_there
                && match out.outer.as_ref().map(|outer| outer.destination) {
                    Some(IpAddr::V4(address)) => info.addr4 == address.octets(),
                    Some(IpAddr::V6(address)) => info.addr6 == address.octets(),
                    None => MacAddress::new(info.dst_mac).to_string() == out.dst_mac,
                }
        };
        let id = self.workers.iter().position(is_it)?;
        Some(ExplainedWorker {
            id: u16::try_from(id).ok()?,
            name: None,
            mac: MacAddress::new(self.workers[id].dst_mac).to_string(),
        })
    }
}

/// The VIP that the packet is for: that of its port, or that of any.
fn vip_of(pin_path: &Path, request: &ExplainRequest) -> Result<Option<VipInfo>, ExplainError> {
    for port in [request.vip.port(), 0] {
        let key = AnyVipKey::new(request.vip.ip(), port, frame::protocol(request.transport));
        let found = match key {
            AnyVipKey::V4(key) => placed::look_up::<VipRow>(pin_path, name::VIPS, &key),
            AnyVipKey::V6(key) => placed::look_up::<Vip6Row>(pin_path, name::VIPS6, &key),
        };
        if let Some(info) = found? {
            return Ok(Some(info));
        }
    }
    Ok(None)
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

#[cfg(test)]
mod tests {
    use super::*;

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
