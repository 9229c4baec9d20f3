//! The data plane, made and changed by the control plane's own code: its plans, its map writes, its attaching.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::Ipv4Addr,
    path::PathBuf,
    sync::Arc,
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use balancer_userspace::{
    config::{AttachMode, InterfaceConfig, Limits},
    decap::DecapConfig,
    loads::Report,
    maps::{DataPlane, Decap, KernelMaps, MapStore as _, counters},
    policy::{Rules, Settings, maglev},
    ports::Ports,
    reconcile::{
        plan,
        tables::{ActualTables, AnyVipKey, Constants, DesiredTables, Keys, MapWrite},
    },
};
use ebpf_common::{
    cookie::CookieKeys,
    ids::WorkerId,
    limits::{MAX_POOLS, SLOTS},
    maps::{
        Affinity, ForwardMode, FunctionEntry, NORMAL_WEIGHT, VipInfo, VipKind, WorkerInfo,
        WorkerState,
    },
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use testbed::topology::{Host, Topology, VIP, VIP_PORT};

use super::{
    check::{Changed, Right},
    kinds::{COLD, FLOW_PORT, SESSION, SHARD, TUNNEL_PORT, WARM, cold},
};

const PROTOCOL_UDP: u8 = 17;
/// Functions that come and go, and so make others move in their table.
const STRANGERS: u64 = 400;
/// VIPs that come and go.
const OTHER_VIPS: u8 = 20;
/// Numbers of VIPs; those that come and go have one together.
const RPC_VIP: u32 = 0;
const OTHER_VIP: u32 = 1;
const FLOW_VIP: u32 = 2;
const TUNNEL_VIP: u32 = 3;
/// Where encapsulated packets come from; the last two bytes vary by flow.
const TUNNEL_SOURCE: [u8; 4] = [172, 16, 0, 0];
const TUNNEL_SOURCES: &str = "172.16.0.0/16";

/// What is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Change {
    WarmSet,
    Drain,
    Slots,
    Weight,
    Cap,
    Functions,
    Vips,
    Keys,
}

pub(super) struct Plane {
    data_plane: DataPlane,
    /// Those of the workers, which take the encapsulation off.
    _decaps: Vec<Decap>,
    store: KernelMaps,
    actual: ActualTables,
    desired: DesiredTables,
    rules: Rules,
    names: Vec<String>,
    warm: BTreeSet<WorkerId>,
    rng: StdRng,
    balancer: Host,
    client: Ipv4Addr,
    pin_path: PathBuf,
    changed: BTreeMap<String, u64>,
    writes: usize,
    replaced: u64,
}

const LIMITS: Limits = Limits {
    functions: 1_000,
    sessions: 100_000,
    flows: 100_000,
};

impl Plane {
    /// Loads the program, fills the tables and attaches it natively.
    pub(super) fn load(topology: &Topology, seed: u64) -> Result<Self> {
        let pin_path = topology.run.dir().join("bpf");
        let data_plane = DataPlane::open(prog_tests::object(), &pin_path, &LIMITS)?;
        let store = data_plane.maps()?;
        let actual = store.read()?;
        let mut plane = Self {
            data_plane,
            _decaps: topology
                .workers
                .iter()
                .map(|host| decapsulate(topology, host))
                .collect::<Result<_>>()?,
            desired: DesiredTables {
                rules: None,
                workers: workers(topology),
                functions: Some(BTreeMap::new()),
                slots: Arc::default(),
                homes: vec![None; MAX_POOLS as usize],
                ports: BTreeSet::new(),
            },
            rules: Rules {
                vips: vip_rows(VIP, RPC_VIP)
                    .into_iter()
                    .chain([flow_row(), tunnel_row()])
                    .collect(),
                settings: Settings {
                    tunnel_v4: TUNNEL_SOURCE,
                    ..Settings::default()
                },
                ..Rules::default()
            },
            store,
            actual,
            names: topology
                .workers
                .iter()
                .map(|host| host.role.clone())
                .collect(),
            warm: BTreeSet::new(),
            rng: StdRng::seed_from_u64(seed),
            balancer: topology.balancer.clone(),
            client: topology.client.address(),
            pin_path,
            changed: BTreeMap::new(),
            writes: 0,
            replaced: 0,
        };
        plane.configure()?;
        plane.fill()?;
        plane.attach()?;
        Ok(plane)
    }

    fn configure(&mut self) -> Result<()> {
        let rows = self.store.table_rows();
        let (table_secret, cookie) = self.rng.random();
        self.write(MapWrite::Constants(Constants {
            session_mask: rows.sessions - 1,
            flow_mask: rows.flows - 1,
            function_mask: rows.functions - 1,
            tick_ns: 4_000_000,
            table_secret,
        }))?;
        let keys = Keys::of(&self.actual.config);
        self.write(MapWrite::Keys(Keys {
            epoch: 1,
            cookie,
            ..keys
        }))?;
        for id in self.desired.workers.keys() {
            // They send no LOAD here: this is about tables.
            let never_full = Report {
                in_flight: 0,
                capacity: u32::MAX,
            };
            self.store.reset_load(*id, never_full)?;
        }
        Ok(())
    }

    fn fill(&mut self) -> Result<()> {
        let ids: Vec<_> = self.desired.workers.keys().copied().collect();
        self.warm.extend(&ids);
        let share = SLOTS as usize / ids.len();
        let slots = (0..SLOTS as usize)
            .map(|slot| ids[(slot / share).min(ids.len() - 1)])
            .collect();
        self.desired.slots = Arc::new(slots);
        let functions = self.functions()?;
        for number in 0..COLD {
            functions.insert(cold(number).0, FunctionEntry::new(Affinity::None, &[]));
        }
        self.follow_workers()?;
        self.apply()
    }

    /// What the policy makes of the workers' states: homes and warm sets of those that take new work.
    fn follow_workers(&mut self) -> Result<()> {
        let up = self.up();
        let named: Vec<_> = up
            .iter()
            .map(|id| (self.names[usize::from(id.0)].as_str(), *id))
            .collect();
        self.desired.homes[0] = Some(Arc::new(maglev::table(&named)));
        self.warm.retain(|id| up.contains(id));
        if self.warm.is_empty() {
            self.warm.extend(up.choose(&mut self.rng));
        }
        let warm: Vec<_> = self.warm.iter().copied().collect();
        for (function, affinity, warm) in [
            (WARM, Affinity::None, &warm),
            (SESSION, Affinity::Session, &up),
            (SHARD, Affinity::Shard, &up),
        ] {
            let entry = FunctionEntry::new(affinity, warm);
            self.functions()?.insert(function.0, entry);
        }
        Ok(())
    }

    fn functions(&mut self) -> Result<&mut BTreeMap<u64, FunctionEntry>> {
        self.desired
            .functions
            .as_mut()
            .context("the functions are known")
    }

    fn up(&self) -> Vec<WorkerId> {
        let workers = self.desired.workers.iter();
        workers
            .filter(|(_, info)| info.takes_new_work())
            .map(|(id, _)| *id)
            .collect()
    }

    /// What to change next.
    pub(super) fn choose(&mut self) -> Change {
        match self.rng.random_range(0..100) {
            0..25 => Change::WarmSet,
            25..45 => Change::Drain,
            45..65 => Change::Slots,
            65..72 => Change::Weight,
            72..76 => Change::Cap,
            76..91 => Change::Functions,
            91..96 => Change::Vips,
            _ => Change::Keys,
        }
    }

    /// Makes one change, and says when, and whom the tables mean afterwards.
    pub(super) fn change(&mut self, change: Change) -> Result<Changed> {
        match change {
            Change::WarmSet => self.change_warm()?,
            Change::Drain => self.change_state()?,
            Change::Slots => self.move_slots()?,
            Change::Weight => {
                let weight = *[64, 128, NORMAL_WEIGHT, 512]
                    .choose(&mut self.rng)
                    .context("weights")?;
                self.any_worker()?.weight = weight;
            }
            Change::Cap => {
                let cap = *[0, u32::MAX - 1, u32::MAX / 2]
                    .choose(&mut self.rng)
                    .context("caps")?;
                self.any_worker()?.cap = cap;
            }
            Change::Functions => self.change_functions()?,
            Change::Vips => self.change_vips(),
            Change::Keys => (),
        }
        *self.changed.entry(format!("{change:?}")).or_default() += 1;
        let begun = Instant::now();
        if change == Change::Keys {
            self.rotate_keys()?;
        } else {
            self.apply()?;
        }
        Ok(Changed {
            begun,
            done: Instant::now(),
            right: self.right(),
        })
    }

    fn any_worker(&mut self) -> Result<&mut WorkerInfo> {
        let id = self.rng.random_range(0..self.names.len());
        let id = WorkerId(id as u16);
        self.desired.workers.get_mut(&id).context("all are members")
    }

    fn change_warm(&mut self) -> Result<()> {
        let up = self.up();
        self.warm.clear();
        for id in up {
            if self.rng.random() {
                self.warm.insert(id);
            }
        }
        self.follow_workers()
    }

    /// Drains one, or takes it back; two at least take new work.
    fn change_state(&mut self) -> Result<()> {
        let may_drain = self.up().len() > 2;
        let worker = self.any_worker()?;
        if worker.state() == WorkerState::Draining {
            worker.state = WorkerState::Up as u8;
        } else if may_drain {
            worker.state = WorkerState::Draining as u8;
        }
        self.follow_workers()
    }

    fn move_slots(&mut self) -> Result<()> {
        let up = self.up();
        let to = *up.choose(&mut self.rng).context("some are up")?;
        let first = self.rng.random_range(0..SLOTS as usize);
        let last = (first + self.rng.random_range(1..4_000)).min(SLOTS as usize);
        Arc::make_mut(&mut self.desired.slots)[first..last].fill(to);
        Ok(())
    }

    fn change_functions(&mut self) -> Result<()> {
        for _ in 0..20 {
            let id = 0x10_0000 + self.rng.random_range(0..STRANGERS);
            let functions = self.functions()?;
            if functions.remove(&id).is_none() {
                functions.insert(id, FunctionEntry::new(Affinity::None, &[WorkerId(0)]));
            }
        }
        Ok(())
    }

    fn change_vips(&mut self) {
        let address = Ipv4Addr::new(10, 99, 1, self.rng.random_range(0..OTHER_VIPS));
        for (key, info) in vip_rows(address, OTHER_VIP) {
            if self.rules.vips.remove(&key).is_none() {
                self.rules.vips.insert(key, info);
            }
        }
    }

    /// The next epoch: its key takes the place of that of the epoch before the present one, in one write.
    fn rotate_keys(&mut self) -> Result<()> {
        let mut keys = Keys::of(&self.actual.config);
        keys.epoch = keys.epoch.wrapping_add(1);
        keys.cookie[usize::from(keys.epoch & 1)] = self.rng.random();
        self.write(MapWrite::Keys(keys))
    }

    fn apply(&mut self) -> Result<()> {
        self.desired.rules = Some(Arc::new(self.rules.clone()));
        for write in plan(&self.desired, &self.actual) {
            self.write(write)?;
        }
        Ok(())
    }

    fn write(&mut self, write: MapWrite) -> Result<()> {
        self.store.write(&write)?;
        self.actual.apply(&write);
        self.writes += 1;
        Ok(())
    }

    fn attach(&mut self) -> Result<()> {
        let interfaces = [InterfaceConfig {
            name: self.balancer.nic().name.clone(),
            mode: AttachMode::Native,
            mtu: None,
        }];
        let data_plane = &mut self.data_plane;
        self.balancer.netns.enter(|| {
            let ports = Ports::read(&[interfaces[0].name.clone()])?;
            for attachment in data_plane.attach(&interfaces, &ports)? {
                attachment?;
            }
            anyhow::Ok(())
        })?
    }

    /// Loads the program once more over the same maps, and has the link run it instead of the old one.
    pub(super) fn replace_program(&mut self) -> Result<()> {
        let old = self.attached_program()?;
        // Without this pin the control plane takes the program that it carries for another one.
        fs::remove_file(self.pin_path.join("balancer")).context("unpinning the program")?;
        self.data_plane = DataPlane::open(prog_tests::object(), &self.pin_path, &LIMITS)?;
        self.attach()?;
        let new = self.attached_program()?;
        ensure!(
            new != old && new == self.data_plane.program_id(),
            "program {old} was to be replaced by {}, and {new} is attached",
            self.data_plane.program_id()
        );
        self.replaced += 1;
        Ok(())
    }

    /// The id of the program that the interface runs, by the kernel's word.
    fn attached_program(&self) -> Result<u32> {
        let name = &self.balancer.nic().name;
        let text = self.balancer.netns.ip(&format!("-j link show {name}"))?;
        let links: serde_json::Value = serde_json::from_str(&text)?;
        let id = links[0]["xdp"]["prog"]["id"].as_u64();
        Ok(id.context("no XDP program is attached")? as u32)
    }

    /// Whom the tables mean now.
    pub(super) fn right(&self) -> Right {
        Right {
            warm: self.warm.iter().copied().collect(),
            slots: Arc::clone(&self.desired.slots),
            home: self.desired.homes[0].clone().unwrap_or_default(),
            client: self.client,
        }
    }

    /// The keys of the present epoch.
    pub(super) fn keys(&self) -> CookieKeys {
        self.actual.config.cookie_keys()
    }

    /// The keys of both epochs that are valid.
    pub(super) fn valid_keys(&self) -> Vec<CookieKeys> {
        let keys = self.keys();
        let before = CookieKeys {
            epoch: keys.epoch.wrapping_sub(1),
            ..keys
        };
        vec![before, keys]
    }

    /// Changes made, by what was changed.
    pub(super) const fn changed(&self) -> &BTreeMap<String, u64> {
        &self.changed
    }

    /// Replacements of the program so far.
    pub(super) const fn replaced(&self) -> u64 {
        self.replaced
    }

    /// Map writes so far.
    pub(super) const fn writes(&self) -> usize {
        self.writes
    }

    /// The program's counters that are not zero, by class and label.
    pub(super) fn counters(&self) -> Result<BTreeMap<String, u64>> {
        let counters = counters(&self.pin_path)?.into_iter();
        Ok(counters
            .filter(|counter| counter.value > 0)
            .map(|counter| {
                (
                    format!("{} {}", counter.class, counter.label),
                    counter.value,
                )
            })
            .collect())
    }
}

fn workers(topology: &Topology) -> BTreeMap<WorkerId, WorkerInfo> {
    let src_mac = topology.balancer.nic().mac;
    let row = |host: &Host| WorkerInfo {
        state: WorkerState::Up as u8,
        weight: NORMAL_WEIGHT,
        dst_mac: host.nic().mac,
        src_mac,
        addr4: host.address().octets(),
        ..WorkerInfo::ABSENT
    };
    (0..)
        .map(WorkerId)
        .zip(topology.workers.iter().map(row))
        .collect()
}

/// The rows of an RPC VIP.
fn vip_rows(address: Ipv4Addr, number: u32) -> [(AnyVipKey, VipInfo); 2] {
    let address = address.into();
    [
        (AnyVipKey::address_mark(address), VipKind::Address),
        (
            AnyVipKey::new(address, VIP_PORT, PROTOCOL_UDP),
            VipKind::Rpc,
        ),
    ]
    .map(|(key, kind)| (key, VipInfo::new(number, kind)))
}

/// The row of the VIP that takes flows, at the same address.
fn flow_row() -> (AnyVipKey, VipInfo) {
    let key = AnyVipKey::new(VIP.into(), FLOW_PORT, PROTOCOL_UDP);
    (key, VipInfo::new(FLOW_VIP, VipKind::L4))
}

/// The row of the VIP whose packets are encapsulated, likewise.
fn tunnel_row() -> (AnyVipKey, VipInfo) {
    let key = AnyVipKey::new(VIP.into(), TUNNEL_PORT, PROTOCOL_UDP);
    let info = VipInfo {
        forward: ForwardMode::Gue as u8,
        ..VipInfo::new(TUNNEL_VIP, VipKind::Rpc)
    };
    (key, info)
}

/// Has the worker on `host` take the encapsulation off, by the product's own program.
fn decapsulate(topology: &Topology, host: &Host) -> Result<Decap> {
    let config = DecapConfig {
        interface: host.nic().name.clone(),
        sources: vec![TUNNEL_SOURCES.to_owned()],
        addresses: Vec::new(),
        mode: AttachMode::Native,
        pin_path: topology.run.dir().join(format!("decap-{}", host.role)),
    };
    let started = host.netns.enter(|| Decap::start(&config))?;
    started.with_context(|| format!("attaching decap of {}", host.role))
}
