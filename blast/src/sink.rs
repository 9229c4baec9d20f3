//! The sink: counts what arrives at an interface by the receiver's MAC address, and drops it.

use std::collections::BTreeMap;

use aya::{Ebpf, EbpfLoader, maps::PerCpuArray, programs::XdpMode};
use ebpf_common::{
    traffic::{ARRIVAL_ROWS, Arrivals},
    verify,
};
use serde::Serialize;

use crate::{BlastError, object::object, program};

/// What arrived for one receiver.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Receiver {
    /// Packets.
    pub packets: u64,
    /// Bytes of their frames.
    pub bytes: u64,
}

/// Where the sink runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// In the driver.
    Native,
    /// In the kernel's stack, where the driver has no XDP.
    Generic,
}

/// The sink, attached as long as it lives.
#[derive(Debug)]
pub struct Sink {
    ebpf: Ebpf,
}

impl Sink {
    /// Attaches it to `interface` of the caller's network namespace.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn attach(interface: &str, mode: Mode) -> Result<Self, BlastError> {
        let mut loader = EbpfLoader::new();
        for map in [
            "OP_LINES",
            "OP_HASH",
            "OP_HASH_LAZY",
            "OP_HASH16",
            "OP_LRU",
            "COOKIES",
        ] {
            loader.map_max_entries(map, 64);
        }
        let mut ebpf = loader.load(object()?)?;
        let sink = program(&mut ebpf, "sink")?;
        verify::load(sink)?;
        let mode = match mode {
            Mode::Native => XdpMode::Driver,
            Mode::Generic => XdpMode::Skb,
        };
        sink.attach(interface, mode)?;
        Ok(Self { ebpf })
    }

    /// What arrived, by MAC address; under `None` what could not be told apart.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn receivers(&self) -> Result<BTreeMap<Option<[u8; 6]>, Receiver>, BlastError> {
        let map = self
            .ebpf
            .map("ARRIVED")
            .ok_or(BlastError::Missing("ARRIVED"))?;
        let map = PerCpuArray::<_, Arrivals>::try_from(map)?;
        let mut receivers = BTreeMap::new();
        for row in 0..ARRIVAL_ROWS {
            for cpu in map.get(&row, 0)?.iter() {
                if cpu.others > 0 {
                    let others: &mut Receiver = receivers.entry(None).or_default();
                    others.packets += cpu.others;
                }
                if cpu.packets > 0 {
                    let receiver = receivers.entry(Some(mac_of(cpu.mac))).or_default();
                    receiver.packets += cpu.packets;
                    receiver.bytes += cpu.bytes;
                }
            }
        }
        Ok(receivers)
    }

    /// Packets that arrived, all together.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn packets(&self) -> Result<u64, BlastError> {
        Ok(self.receivers()?.values().map(|it| it.packets).sum())
    }
}

const fn mac_of(number: u64) -> [u8; 6] {
    let [_, _, mac @ ..] = number.to_be_bytes();
    mac
}
