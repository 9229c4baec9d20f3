//! The real eBPF object, loaded, given tables, and run on single frames by BPF_PROG_TEST_RUN.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, DevMapHash, MapData, PerCpuArray, RingBuf},
    programs::{TestRun as _, TestRunOptions, Xdp},
};
use ebpf_common::{
    cuckoo::Cuckoo,
    event::{TraceEvent, TraceFilter},
    ids::{FunctionId, WorkerId},
    limits::VIP_ROWS,
    maps::{
        Config, Counter, CpuBucket, DecapRow, FunctionRow, PktgenInfo, PlaceRow, Traffic, Vip6Row,
        VipRow, WorkerInfo, WorkerLoad, function_hash, name, vip_hash, vip6_hash,
    },
    schema::SchemaEntry,
    verify,
};
use xdp_balancer::{
    Row,
    testing::{FUNCTION_ROWS, FakeTables, PLACE_ROWS},
};
use zerocopy::FromBytes as _;

use crate::police;

/// Rows of `WORKERS` and `WORKER_LOAD` in a test.
pub const WORKERS_LEN: u32 = 256;

/// What the driver is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// XDP_DROP.
    Drop,
    /// XDP_PASS.
    Pass,
    /// XDP_TX.
    Tx,
    /// XDP_REDIRECT.
    Redirect,
}

/// The program, loaded and not attached; its maps are its own and go with it.
#[derive(Debug)]
pub struct Program {
    ebpf: Ebpf,
    program: &'static str,
    buffer: Vec<u8>,
}

impl Program {
    /// Loads `object` with small maps; `sizes` overrides the entries of maps by name.
    ///
    /// # Errors
    /// The kernel refuses it, for want of privilege or because the verifier objects.
    pub fn load(object: &[u8], sizes: &[(&'static str, u32)]) -> Result<Self> {
        Self::load_as("balancer", object, sizes)
    }

    /// As [`Self::load`], another program of the object.
    ///
    /// # Errors
    /// As of [`Self::load`].
    pub fn load_as(
        program: &'static str,
        object: &[u8],
        sizes: &[(&'static str, u32)],
    ) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        loader
            .map_max_entries(name::SESSIONS, PLACE_ROWS)
            .map_max_entries(name::FLOWS, PLACE_ROWS)
            .map_max_entries(name::WORKER_COUNTERS, WORKERS_LEN)
            .map_max_entries(name::VIP_COUNTERS, 64)
            .map_max_entries(name::FUNCTIONS, FUNCTION_ROWS)
            .map_max_entries(name::WORKERS, WORKERS_LEN)
            .map_max_entries(name::WORKER_LOAD, WORKERS_LEN);
        for (map, entries) in sizes {
            loader.map_max_entries(map, *entries);
        }
        let mut ebpf = loader.load(object).context("loading the eBPF object")?;
        let xdp: &mut Xdp = ebpf
            .program_mut(program)
            .with_context(|| format!("the object has no program `{program}`"))?
            .try_into()?;
        verify::load(xdp).with_context(|| format!("loading the program `{program}`"))?;
        Ok(Self {
            ebpf,
            program,
            buffer: vec![0; 4096],
        })
    }

    /// The loaded program.
    ///
    /// # Errors
    /// The object has no such program.
    pub fn xdp(&self) -> Result<&Xdp> {
        let program = self.ebpf.program(self.program);
        Ok(program.context("the program is gone")?.try_into()?)
    }

    /// The loaded program, to be attached.
    ///
    /// # Errors
    /// The object has no such program.
    pub fn xdp_mut(&mut self) -> Result<&mut Xdp> {
        let program = self.ebpf.program_mut("balancer");
        Ok(program
            .context("the object has no program `balancer`")?
            .try_into()?)
    }

    /// Writes `tables` into the maps, which must be fresh: nothing is removed.
    ///
    /// # Errors
    /// A map refuses an entry.
    pub fn apply(&mut self, tables: &FakeTables) -> Result<()> {
        if let Some(config) = tables.config {
            self.array::<Config>(name::CONFIG)?.set(0, config, 0)?;
        }
        if let Some(decap) = tables.decap {
            self.array::<DecapRow>(name::DECAP)?.set(0, decap, 0)?;
        }
        let mut rows = Cuckoo::new(VIP_ROWS, vip_hash);
        for key in tables.vips.keys() {
            for step in rows.insert(*key)? {
                let info = tables.vips[&step.key];
                self.array::<VipRow>(name::VIPS)?
                    .set(step.row, VipRow::new(step.key, info), 0)?;
            }
        }
        let mut rows = Cuckoo::new(VIP_ROWS, vip6_hash);
        for key in tables.vips6.keys() {
            for step in rows.insert(*key)? {
                let info = tables.vips6[&step.key];
                self.array::<Vip6Row>(name::VIPS6)?.set(
                    step.row,
                    Vip6Row::new(step.key, info),
                    0,
                )?;
            }
        }
        let mut filter = self.array::<u64>(name::VIP_FILTER)?;
        for (index, word) in (0..).zip(&tables.vip_filter) {
            filter.set(index, word, 0)?;
        }
        let mut schemas = self.array::<SchemaEntry>(name::SCHEMAS)?;
        for (index, schema) in (0..).zip(&tables.schemas) {
            schemas.set(index, schema, 0)?;
        }
        let mut pktgen = self.array::<PktgenInfo>(name::PKTGEN)?;
        for (index, info) in (0..).zip(&tables.pktgen) {
            pktgen.set(index, info, 0)?;
        }
        let mut workers = self.array::<WorkerInfo>(name::WORKERS)?;
        for (worker, info) in &tables.workers {
            workers.set(u32::from(worker.0), info, 0)?;
        }
        let mut loads = self.array::<WorkerLoad>(name::WORKER_LOAD)?;
        for (worker, load) in tables.loads.borrow().iter() {
            loads.set(u32::from(worker.0), load, 0)?;
        }
        let mut rows = Cuckoo::new(FUNCTION_ROWS, |id: &FunctionId| function_hash(*id));
        for function in tables.functions.keys() {
            for step in rows.insert(*function)? {
                let entry = tables.functions[&step.key];
                self.array::<FunctionRow>(name::FUNCTIONS)?.set(
                    step.row,
                    FunctionRow::new(step.key, entry),
                    0,
                )?;
            }
        }
        for (map, entries) in [(name::SLOTS, &tables.slots), (name::HOME, &tables.home)] {
            let mut array = self.array::<u16>(map)?;
            for (index, worker) in entries {
                array.set(*index, worker.0, 0)?;
            }
        }
        let ports = self.ebpf.map_mut(name::PORTS).context(name::PORTS)?;
        let mut ports = DevMapHash::try_from(ports)?;
        for port in &tables.ports {
            ports.insert(*port, *port, None, 0)?;
        }
        for (map, rows) in [
            (name::SESSIONS, &tables.sessions),
            (name::FLOWS, &tables.flows),
        ] {
            let mut array = self.array::<PlaceRow>(map)?;
            for (index, row) in (0..).zip(rows) {
                array.set(index, place_row(row), 0)?;
            }
        }
        police::apply(&mut self.ebpf, &tables.police)
    }

    /// Runs the program on `frame`; returns what it says, and the frame afterwards.
    ///
    /// # Errors
    /// The kernel refuses the frame (it takes 14 bytes up to about a page), or the program aborts.
    pub fn run(&mut self, frame: &[u8]) -> Result<(Action, &[u8])> {
        let program = self.ebpf.program(self.program);
        let xdp: &Xdp = program.context("the program is gone")?.try_into()?;
        let result = xdp.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut self.buffer),
            ..TestRunOptions::new()
        })?;
        // Numbers of `enum xdp_action`, linux/bpf.h.
        let action = match result.return_value {
            1 => Action::Drop,
            2 => Action::Pass,
            3 => Action::Tx,
            4 => Action::Redirect,
            other => bail!("the program returned {other}"),
        };
        let frame = self.buffer.get(..result.data_size_out as usize);
        Ok((action, frame.context("the frame outgrew the buffer")?))
    }

    /// What the counters hold, summed over CPUs; those at zero are left out.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn counters(&self) -> Result<BTreeMap<Counter, u64>> {
        let map = self.ebpf.map(name::COUNTERS).context(name::COUNTERS)?;
        let map = PerCpuArray::<_, u64>::try_from(map)?;
        let mut counters = BTreeMap::new();
        for counter in Counter::ALL {
            let sum: u64 = map.get(&(*counter as u32), 0)?.iter().sum();
            if sum > 0 {
                counters.insert(*counter, sum);
            }
        }
        Ok(counters)
    }

    /// The rows of `SESSIONS` or `FLOWS`.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn places(&self, map: &'static str) -> Result<Vec<PlaceRow>> {
        let map = Array::<_, PlaceRow>::try_from(self.ebpf.map(map).context(map)?)?;
        Ok(map.iter().collect::<Result<_, _>>()?)
    }

    /// The load row of `worker`.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn load_of(&self, worker: WorkerId) -> Result<WorkerLoad> {
        let map = self
            .ebpf
            .map(name::WORKER_LOAD)
            .context(name::WORKER_LOAD)?;
        let map = Array::<_, WorkerLoad>::try_from(map)?;
        Ok(map.get(&u32::from(worker.0), 0)?)
    }

    /// A row of `VIP_COUNTERS` or `WORKER_COUNTERS`, summed over CPUs.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn traffic(&self, map: &'static str, index: u32) -> Result<Traffic> {
        let map = PerCpuArray::<_, Traffic>::try_from(self.ebpf.map(map).context(map)?)?;
        let mut sum = Traffic {
            packets: 0,
            bytes: 0,
        };
        for part in map.get(&index, 0)?.iter() {
            sum.packets += part.packets;
            sum.bytes += part.bytes;
        }
        Ok(sum)
    }

    /// The hits of each prefix of `BLOCK4`.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn hits4(&self) -> Result<BTreeMap<([u8; 4], u32), u64>> {
        police::hits4(&self.ebpf)
    }

    /// The hits of each prefix of `BLOCK6`.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn hits6(&self) -> Result<BTreeMap<([u8; 16], u32), u64>> {
        police::hits6(&self.ebpf)
    }

    /// The most that one CPU's `bucket` holds.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn cpu_bucket(&self, bucket: CpuBucket) -> Result<u64> {
        police::cpu_bucket(&self.ebpf, bucket)
    }

    /// Sets what a tracer asks for.
    ///
    /// # Errors
    /// The map refuses it.
    pub fn set_filter(&mut self, filter: &TraceFilter) -> Result<()> {
        Ok(self.array::<TraceFilter>(name::TRACE)?.set(0, filter, 0)?)
    }

    /// Takes the events of a tracer out of the ring buffer.
    ///
    /// # Errors
    /// The map cannot be read, or an entry is not an event.
    pub fn take_events(&mut self) -> Result<Vec<TraceEvent>> {
        let map = self.ebpf.map_mut(name::EVENTS).context(name::EVENTS)?;
        let mut ring = RingBuf::try_from(map)?;
        let mut events = Vec::new();
        while let Some(item) = ring.next() {
            let event = TraceEvent::read_from_bytes(&item);
            events.push(event.ok().context("an entry of another length")?);
        }
        Ok(events)
    }

    fn array<V: Pod>(&mut self, map: &'static str) -> Result<Array<&mut MapData, V>> {
        Ok(self.ebpf.map_mut(map).context(map)?.try_into()?)
    }
}

/// A row as the map has it.
#[must_use]
pub fn place_row(row: &Row) -> PlaceRow {
    PlaceRow {
        places: row.each_ref().map(std::cell::Cell::get),
    }
}
