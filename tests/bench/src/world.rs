//! The product under test: the object that ships, with its default capacities, and tables that let every case meet
//! the rule it is about.

use std::{
    collections::HashMap,
    hash::Hash,
    net::{Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, MapData, PerCpuArray, PerCpuValues},
    programs::{ProgramFd, Xdp},
    util::nr_cpus,
};
use blast::{
    Destination, Ip,
    scene::{function_of, session_of},
};
use ebpf_common::{
    cookie::CookieScope,
    cuckoo::Cuckoo,
    event::{TraceFilter, trace_fields},
    hash::mix64,
    ids::{FunctionId, WorkerId},
    limits,
    maps::{
        Affinity, Config, Counter, CpuBucket, ForwardMode, FunctionEntry, FunctionRow,
        NORMAL_WEIGHT, PlaceRow, Rate, Vip6Key, Vip6Row, VipInfo, VipKey, VipKind, VipRow,
        WorkerInfo, WorkerLoad, WorkerState, features, function_hash, name, vip_filter_bit,
        vip_hash, vip6_filter_bit, vip6_hash, worker_flags,
    },
    traffic::{CONNECTION_CONFIG, CONNECTION_WORKERS, MAX_FLOWS},
    verify,
};
use nix::time::{ClockId, clock_getres};
use xdp_balancer::testing::frame::{BALANCER_MAC, CLIENT_MAC};

/// Workers, all of them up.
const WORKERS: u16 = 16;
const _: () = assert!(
    CONNECTION_WORKERS == WORKERS as u32,
    "connection ids name each worker"
);
const VIP4: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, 1);
const RPC_PORT: u16 = 9_000;
const L4_PORT: u16 = 9_100;
const QUIC_PORT: u16 = 9_200;
/// IP protocol numbers.
const TCP: u8 = 6;
const UDP: u8 = 17;

/// MAC addresses of client and balancer.
const MACS: [[u8; 6]; 2] = [CLIENT_MAC, BALANCER_MAC];

/// A rate that no case reaches: a packet a nanosecond.
const AMPLE: Rate = Rate {
    interval_ns: 1,
    tolerance_ns: 1_000_000_000,
};
/// A rate that every case exceeds: a packet an hour.
const SCARCE: Rate = Rate {
    interval_ns: 3_600_000_000_000,
    tolerance_ns: 0,
};
/// All that the police stage can do.
const POLICE: u32 = features::BLOCK_LIST
    | features::SOURCE_RATE
    | features::FUNCTION_RATE
    | features::ADDRESS_TOKENS
    | features::SHED
    | features::ANSWER_RATE
    | features::EVICTION_RATE;

/// What the police stage does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Police {
    /// Nothing.
    Off,
    /// Every check, none of which a packet fails.
    On,
    /// Every check, and unknown sources exceed their rate.
    Strict,
}

/// Where the functions of [`function_of`] are warm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Warmth {
    /// On every worker.
    Warm,
    /// Nowhere, so that requests go to their homes.
    Cold,
}

/// A function of which sessions stay with their worker.
pub(crate) const SESSION_FUNCTION: FunctionId = FunctionId(0x5e55_1011_0000_0001);
/// A function whose requests go to the owner of their slot.
pub(crate) const SHARD_FUNCTION: FunctionId = FunctionId(0x54a2_d000_0000_0002);
/// A function that is not deployed.
pub(crate) const UNKNOWN_FUNCTION: FunctionId = FunctionId(0xdead_0000_0000_0003);
/// An address that has no VIP.
pub(crate) const NOWHERE: Destination = Destination {
    v4: Ipv4Addr::new(10, 98, 0, 1),
    v6: Ipv6Addr::new(0xfd00, 0x98, 0, 0, 0, 0, 0, 1),
    port: RPC_PORT,
    macs: MACS,
};

/// The loaded product.
pub(crate) struct World {
    ebpf: Ebpf,
    program: &'static str,
    config: Config,
    /// The functions of flows, each with its row.
    functions: Vec<(u32, FunctionId)>,
    warmth: Warmth,
}

impl World {
    /// Loads `program` of `object` and fills its tables. Those of sessions and flows have `places` each (a power of two),
    /// or what the object says.
    pub(crate) fn load(object: &[u8], program: &'static str, places: Option<u32>) -> Result<Self> {
        let ebpf = loader(places)?
            .load(object)
            .context("loading the object `balancer`")?;
        let mut world = Self {
            ebpf,
            program,
            config: Config::ZERO,
            functions: Vec::new(),
            warmth: Warmth::Warm,
        };
        verify::load(world.program()?)
            .with_context(|| format!("loading the program `{program}`"))?;
        world.configure()?;
        world.add_vips()?;
        world.add_workers()?;
        world.add_functions()?;
        Ok(world)
    }

    /// The program under test, to be attached.
    pub(crate) fn program(&mut self) -> Result<&mut Xdp> {
        let missing = || format!("the object has no program `{}`", self.program);
        let program = self.ebpf.program_mut(self.program);
        Ok(program.with_context(missing)?.try_into()?)
    }

    /// A tracer looks, for as long as we measure, but at packets that nobody sends.
    pub(crate) fn trace_nothing(&mut self) -> Result<()> {
        let filter = TraceFilter {
            fields: trace_fields::PORTS,
            destination_port: 1,
            beat: 1,
            lease_ns: u64::MAX,
            ..TraceFilter::ANY
        };
        Ok(self.array::<TraceFilter>(name::TRACE)?.set(0, filter, 0)?)
    }

    /// The program under test, to be called by the harness.
    pub(crate) fn target(&self) -> Result<ProgramFd> {
        let program = self.ebpf.program(self.program);
        let program: &Xdp = program.context("the program is gone")?.try_into()?;
        Ok(program.fd()?.try_clone()?)
    }

    /// Switches the police stage.
    pub(crate) fn police(&mut self, police: Police) -> Result<()> {
        let config = Config {
            features: if police == Police::Off { 0 } else { POLICE },
            unknown_rate: if police == Police::Strict {
                SCARCE
            } else {
                AMPLE
            },
            ..self.config
        };
        self.array::<Config>(name::CONFIG)?.set(0, config, 0)?;
        // What one rate has used up must not be held against the next.
        let map = self
            .ebpf
            .map_mut(name::CPU_BUCKETS)
            .context(name::CPU_BUCKETS)?;
        let mut buckets = PerCpuArray::<_, u64>::try_from(map)?;
        let cpus = nr_cpus().map_err(|(what, error)| anyhow::anyhow!("{what}: {error}"))?;
        for bucket in 0..CpuBucket::COUNT {
            buckets.set(bucket, PerCpuValues::try_from(vec![0; cpus])?, 0)?;
        }
        Ok(())
    }

    /// Lets encapsulated packets go to the workers' addresses of `outer`.
    pub(crate) fn tunnel_over(&mut self, outer: Ip) -> Result<()> {
        let mut workers = self.array::<WorkerInfo>(name::WORKERS)?;
        for id in 0..WORKERS {
            workers.set(u32::from(id), worker(id, outer), 0)?;
        }
        Ok(())
    }

    /// Makes the functions of flows warm or cold.
    pub(crate) fn warm(&mut self, warmth: Warmth) -> Result<()> {
        if self.warmth == warmth {
            return Ok(());
        }
        let workers = match warmth {
            Warmth::Warm => workers(),
            Warmth::Cold => Vec::new(),
        };
        let entry = FunctionEntry::new(Affinity::None, &workers);
        let map = self
            .ebpf
            .map_mut(name::FUNCTIONS)
            .context(name::FUNCTIONS)?;
        let mut rows = Array::<_, FunctionRow>::try_from(map)?;
        for (row, function) in &self.functions {
            rows.set(*row, FunctionRow::new(*function, entry), 0)?;
        }
        self.warmth = warmth;
        Ok(())
    }

    /// Route cookies, by flow, that the program accepts for the sessions of [`session_of`].
    pub(crate) fn cookies(&self) -> Vec<u64> {
        let keys = self.config.cookie_keys();
        let seal = |flow: u32| {
            let scope = CookieScope {
                function: SESSION_FUNCTION,
                session: session_of(u64::from(flow)),
            };
            keys.seal(WorkerId(flow as u16 % WORKERS), scope)
        };
        (0..MAX_FLOWS).map(seal).collect()
    }

    /// What `counter` has counted, on all CPUs.
    pub(crate) fn counted(&self, counter: Counter) -> Result<u64> {
        let map = self.ebpf.map(name::COUNTERS).context(name::COUNTERS)?;
        let map = PerCpuArray::<_, u64>::try_from(map)?;
        Ok(map.get(&(counter as u32), 0)?.iter().sum())
    }

    fn configure(&mut self) -> Result<()> {
        let session_rows = self.array::<PlaceRow>(name::SESSIONS)?.len();
        let flow_rows = self.array::<PlaceRow>(name::FLOWS)?.len();
        let function_rows = self.array::<FunctionRow>(name::FUNCTIONS)?.len();
        self.config = Config {
            key_epoch: 1,
            session_mask: session_rows - 1,
            flow_mask: flow_rows - 1,
            function_mask: function_rows - 1,
            tick_ns: tick_ns()?,
            source_rate: AMPLE,
            answer_rate: AMPLE,
            eviction_rate: AMPLE,
            shed_percent: 100,
            // Asked for, and never exceeded.
            home_bound: u32::MAX,
            table_secret: [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210],
            cookie_keys: [[1, 2], [3, 4]],
            token_keys: [[7, 8], [9, 10]],
            load_keys: [[11, 12], [13, 14]],
            tunnel_v4: [172, 16, 0, 0],
            tunnel_v6: [0xfd, 0x16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            ..Config::ZERO
        };
        let config = self.config;
        Ok(self.array::<Config>(name::CONFIG)?.set(0, config, 0)?)
    }

    fn add_vips(&mut self) -> Result<()> {
        let mut filter = self.array::<u64>(name::VIP_FILTER)?;
        for bit in [vip_filter_bit(VIP4.octets()), vip6_filter_bit(words(VIP6))] {
            let word = filter.get(&(bit >> 6), 0)? | 1 << (bit & 63);
            filter.set(bit >> 6, word, 0)?;
        }
        let mark = VipInfo::new(0, VipKind::Address);
        let mut vips = vec![(0, 0, mark)];
        for (port, protocol, kind) in [
            (RPC_PORT, UDP, VipKind::Rpc),
            (L4_PORT, TCP, VipKind::L4),
            (L4_PORT, UDP, VipKind::L4),
        ] {
            for forward in [ForwardMode::L2, ForwardMode::Ipip, ForwardMode::Gue] {
                let vip = VipInfo {
                    forward: forward as u8,
                    ..VipInfo::new(1 + vips.len() as u32, kind)
                };
                vips.push((port + forward as u16, protocol, vip));
            }
        }
        let quic = VipInfo {
            quic_config: CONNECTION_CONFIG,
            ..VipInfo::new(1 + vips.len() as u32, VipKind::Quic)
        };
        vips.push((QUIC_PORT, UDP, quic));
        let rows: Vec<_> = vips
            .iter()
            .map(|(port, protocol, vip)| (VipKey::new(VIP4.octets(), *port, *protocol), *vip))
            .collect();
        self.place(name::VIPS, vip_hash, &rows, VipRow::new)?;
        let rows: Vec<_> = vips
            .iter()
            .map(|(port, protocol, vip)| (Vip6Key::new(VIP6.octets(), *port, *protocol), *vip))
            .collect();
        self.place(name::VIPS6, vip6_hash, &rows, Vip6Row::new)?;
        Ok(())
    }

    fn add_workers(&mut self) -> Result<()> {
        self.tunnel_over(Ip::V4)?;
        let mut loads = self.array::<WorkerLoad>(name::WORKER_LOAD)?;
        for id in 0..WORKERS {
            loads.set(u32::from(id), WorkerLoad::new(0, u32::MAX), 0)?;
        }
        let mut slots = self.array::<u16>(name::SLOTS)?;
        for slot in 0..limits::SLOTS {
            slots.set(slot, slot as u16 % WORKERS, 0)?;
        }
        let mut home = self.array::<u16>(name::HOME)?;
        for entry in 0..limits::MAGLEV_TABLE_LEN {
            home.set(entry, mix64(u64::from(entry)) as u16 % WORKERS, 0)?;
        }
        Ok(())
    }

    fn add_functions(&mut self) -> Result<()> {
        let workers = workers();
        let entry = FunctionEntry::new(Affinity::None, &workers);
        let mut rows: Vec<_> = (0..u64::from(MAX_FLOWS))
            .map(|flow| (function_of(flow), entry))
            .collect();
        for (function, affinity) in [
            (SESSION_FUNCTION, Affinity::Session),
            (SHARD_FUNCTION, Affinity::Shard),
        ] {
            rows.push((function, FunctionEntry::new(affinity, &workers)));
        }
        let hash = |id: &FunctionId| function_hash(*id);
        let placed = self.place(name::FUNCTIONS, hash, &rows, FunctionRow::new)?;
        let is_of_flow =
            |function: FunctionId| ![SESSION_FUNCTION, SHARD_FUNCTION].contains(&function);
        let placed = placed.into_iter().map(|(function, row)| (row, function));
        self.functions = placed.filter(|(_row, it)| is_of_flow(*it)).collect();
        // In the order of the table, which is the fastest to write.
        self.functions.sort_unstable();
        Ok(())
    }

    /// Writes `entries` into a table of cuckoo rows; in which row each key stands.
    fn place<Key: Copy + Eq + Hash, Entry: Copy, Row: Pod>(
        &mut self,
        map: &'static str,
        hash: fn(&Key) -> u64,
        entries: &[(Key, Entry)],
        row: impl Fn(Key, Entry) -> Row,
    ) -> Result<HashMap<Key, u32>> {
        let by_key: HashMap<Key, Entry> = entries.iter().copied().collect();
        let mut array = self.array::<Row>(map)?;
        let mut places = Cuckoo::new(array.len(), hash);
        let mut placed = HashMap::new();
        for (key, _entry) in entries {
            for step in places.insert(*key)? {
                let entry = by_key
                    .get(&step.key)
                    .context("a key that was never placed")?;
                array.set(step.row, row(step.key, *entry), 0)?;
                placed.insert(step.key, step.row);
            }
        }
        Ok(placed)
    }

    fn array<V: Pod>(&mut self, map: &'static str) -> Result<Array<&mut MapData, V>> {
        Ok(self.ebpf.map_mut(map).context(map)?.try_into()?)
    }
}

/// Loads an object whose tables of sessions and flows have `places` each, or what it says itself.
fn loader(places: Option<u32>) -> Result<EbpfLoader<'static>> {
    let mut loader = EbpfLoader::new();
    if let Some(places) = places {
        let rows = places / limits::PLACES_PER_ROW;
        ensure!(
            rows.is_power_of_two(),
            "{places} places: a power of two is wanted, and {} at least",
            limits::PLACES_PER_ROW
        );
        for map in [name::SESSIONS, name::FLOWS] {
            loader.map_max_entries(map, rows);
        }
    }
    Ok(loader)
}

/// The RPC VIP with `forward`.
pub(crate) const fn rpc_vip(forward: ForwardMode) -> Destination {
    vip(RPC_PORT + forward as u16)
}

/// The VIP of TCP and UDP flows with `forward`.
pub(crate) const fn l4_vip(forward: ForwardMode) -> Destination {
    vip(L4_PORT + forward as u16)
}

/// The VIP of QUIC connections.
pub(crate) const QUIC_VIP: Destination = vip(QUIC_PORT);

const fn vip(port: u16) -> Destination {
    Destination {
        v4: VIP4,
        v6: VIP6,
        port,
        macs: MACS,
    }
}

fn workers() -> Vec<WorkerId> {
    (0..WORKERS).map(WorkerId).collect()
}

fn worker(id: u16, outer: Ip) -> WorkerInfo {
    let [high, low] = id.to_be_bytes();
    WorkerInfo {
        state: WorkerState::Up as u8,
        flags: match outer {
            Ip::V4 => 0,
            Ip::V6 => worker_flags::OUTER_V6,
        },
        weight: NORMAL_WEIGHT,
        dst_mac: [2, 0, 0, 1, high, low],
        src_mac: [2, 0, 0, 2, 0, 0],
        addr4: [10, 80, high, low],
        addr6: [0xfd, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, high, low],
        ..WorkerInfo::ABSENT
    }
}

/// The step of the kernel's coarse clock.
fn tick_ns() -> Result<u32> {
    let step = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE)?;
    Ok(u32::try_from(step.tv_nsec())?)
}

fn words(addr: Ipv6Addr) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = addr.octets();
    [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]].map(u32::from_ne_bytes)
}
