//! The tables that follow from the configuration alone: VIPs, pktgen, settings, police.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    net::SocketAddr,
};

use ebpf_common::{
    ids::FunctionId,
    limits::{MAX_POOLS, MAX_VIPS},
    maps::{Config as ConfigRow, NORMAL_WEIGHT, PktgenInfo, Rate, VipInfo, VipKind, features},
};

use crate::{
    config::{Config, PolicyFile, Prefix, RateConfig, VipConfig},
    reconcile::tables::AnyVipKey,
};

const UDP: u8 = 17;

/// The numbers that pools have in the maps, by name; 0 is all workers.
pub type PoolNumbers = BTreeMap<String, u8>;

/// What the data plane is to do, apart from workers and functions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// Rows of `VIPS` and `VIPS6`.
    pub vips: HashMap<AnyVipKey, VipInfo>,
    /// Rows of `PKTGEN`.
    pub pktgen: Vec<PktgenInfo>,
    /// Fields of `CONFIG`.
    pub settings: Settings,
    /// Prefixes of `BLOCK4` and `BLOCK6`.
    pub blocks: BTreeSet<Prefix>,
    /// Rows of `FUNCTION_LIMITS`.
    pub limits: BTreeMap<FunctionId, Rate>,
    /// Names of the workers of each pool, by its number.
    pub pools: BTreeMap<u8, BTreeSet<String>>,
    /// Weight and cap of the workers that are not like all others.
    pub workers: HashMap<String, (u16, u32)>,
}

/// The fields of `CONFIG` that an operator sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Bits of `features` that follow from the configuration.
    pub features: u32,
    /// Of one source.
    pub source_rate: Rate,
    /// Of requests without an address token.
    pub unknown_rate: Rate,
    /// Of answers.
    pub answer_rate: Rate,
    /// Of flows' entries that new flows take.
    pub eviction_rate: Rate,
    /// Percent of its capacity above which a worker gets no more.
    pub shed_percent: u32,
    /// IPv4 source of encapsulated packets.
    pub tunnel_v4: [u8; 4],
    /// IPv6 source of encapsulated packets.
    pub tunnel_v6: [u8; 16],
}

/// The features that are the configuration's; others (tracing) are somebody else's.
const OURS: u32 = features::BLOCK_LIST
    | features::SOURCE_RATE
    | features::FUNCTION_RATE
    | features::ADDRESS_TOKENS
    | features::SHED
    | features::ANSWER_RATE
    | features::EVICTION_RATE;

impl Default for Settings {
    fn default() -> Self {
        Self {
            features: 0,
            source_rate: Rate::NONE,
            unknown_rate: Rate::NONE,
            answer_rate: Rate::NONE,
            eviction_rate: Rate::NONE,
            shed_percent: 0,
            tunnel_v4: [0; 4],
            tunnel_v6: [0; 16],
        }
    }
}

impl Settings {
    fn of(config: &Config, file: &PolicyFile) -> Self {
        let police = &file.police;
        let rate = |rate: Option<RateConfig>| rate.and_then(|rate| rate.rate().ok());
        let bit = |is_on: bool, bit: u32| if is_on { bit } else { 0 };
        Self {
            features: bit(!police.block.is_empty(), features::BLOCK_LIST)
                | bit(police.source_rate.is_some(), features::SOURCE_RATE)
                | bit(!police.functions.is_empty(), features::FUNCTION_RATE)
                | bit(police.unknown_rate.is_some(), features::ADDRESS_TOKENS)
                | bit(police.shed_percent.is_some(), features::SHED)
                | bit(police.answer_rate.is_some(), features::ANSWER_RATE)
                | bit(police.eviction_rate.is_some(), features::EVICTION_RATE),
            source_rate: rate(police.source_rate).unwrap_or(Rate::NONE),
            unknown_rate: rate(police.unknown_rate).unwrap_or(Rate::NONE),
            answer_rate: rate(police.answer_rate).unwrap_or(Rate::NONE),
            eviction_rate: rate(police.eviction_rate).unwrap_or(Rate::NONE),
            shed_percent: police.shed_percent.unwrap_or(0),
            tunnel_v4: config.tunnel.v4.map_or([0; 4], |address| address.octets()),
            tunnel_v6: config.tunnel.v6.map_or([0; 16], |address| address.octets()),
        }
    }

    /// Those that `row` holds.
    #[must_use]
    pub const fn held_in(row: &ConfigRow) -> Self {
        Self {
            features: row.features & OURS,
            source_rate: row.source_rate,
            unknown_rate: row.unknown_rate,
            answer_rate: row.answer_rate,
            eviction_rate: row.eviction_rate,
            shed_percent: row.shed_percent,
            tunnel_v4: row.tunnel_v4,
            tunnel_v6: row.tunnel_v6,
        }
    }

    /// `row` with these fields in it.
    #[must_use]
    pub const fn over(&self, row: ConfigRow) -> ConfigRow {
        ConfigRow {
            features: row.features & !OURS | self.features,
            source_rate: self.source_rate,
            unknown_rate: self.unknown_rate,
            answer_rate: self.answer_rate,
            eviction_rate: self.eviction_rate,
            shed_percent: self.shed_percent,
            tunnel_v4: self.tunnel_v4,
            tunnel_v6: self.tunnel_v6,
            ..row
        }
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "source_rate {}, unknown_rate {}, answer_rate {}, eviction_rate {}, shed_percent {}, features {:#x}",
            rate_text(&self.source_rate),
            rate_text(&self.unknown_rate),
            rate_text(&self.answer_rate),
            rate_text(&self.eviction_rate),
            self.shed_percent,
            self.features
        )
    }
}

/// A rate as people know it.
#[must_use]
pub fn rate_text(rate: &Rate) -> String {
    if *rate == Rate::NONE {
        return "none".to_owned();
    }
    let per_second = 1_000_000_000 / rate.interval_ns.max(1);
    let burst = rate.tolerance_ns / rate.interval_ns.max(1) + 1;
    format!("{per_second}/s burst {burst}")
}

impl Rules {
    /// The rules of `config` with `file` as its policy. A VIP that is in `before`, the rows as they are, keeps its number;
    /// `numbers` are those of the pools.
    #[must_use]
    pub fn of(
        config: &Config,
        file: &PolicyFile,
        load: Option<SocketAddr>,
        before: &HashMap<AnyVipKey, VipInfo>,
        numbers: &PoolNumbers,
    ) -> Self {
        let mut rules = Self {
            settings: Settings::of(config, file),
            blocks: file.police.prefixes(),
            limits: file.police.function_rates(),
            ..Self::default()
        };
        for pool in &file.pools {
            if let Some(number) = numbers.get(&pool.name) {
                rules
                    .pools
                    .insert(*number, pool.workers.iter().cloned().collect());
            }
        }
        for worker in &file.workers {
            let row = (worker.weight, worker.cap.unwrap_or(0));
            rules.workers.insert(worker.name.clone(), row);
        }
        rules.add_vips(&file.vips, load, before, numbers);
        rules
    }

    fn add_vips(
        &mut self,
        vips: &[VipConfig],
        load: Option<SocketAddr>,
        before: &HashMap<AnyVipKey, VipInfo>,
        numbers: &PoolNumbers,
    ) {
        let load = load.map(|load| AnyVipKey::new(load.ip(), load.port(), UDP));
        let keys: Vec<AnyVipKey> = vips.iter().map(key_of).chain(load).collect();
        let ids = vip_ids(&keys, before);
        for vip in vips {
            let key = key_of(vip);
            let pktgen = vip.pktgen.as_ref().map_or(0, |pktgen| {
                self.pktgen.push(pktgen_row(pktgen));
                self.pktgen.len() - 1
            });
            let pool = vip.pool.as_ref().and_then(|name| numbers.get(name));
            let info = VipInfo {
                forward: ebpf_common::maps::ForwardMode::from(vip.forward) as u8,
                pool: pool.copied().unwrap_or(0),
                quic_config: vip.quic_config.unwrap_or(0),
                pktgen: pktgen as u16,
                ..VipInfo::new(ids[&key], vip.kind.into())
            };
            self.vips
                .entry(AnyVipKey::address_mark(vip.address))
                .or_insert_with(|| VipInfo::new(ids[&key], VipKind::Address));
            self.vips.insert(key, info);
        }
        // Without the mark of an address: what is broken and for the balancer itself is its kernel's affair.
        if let Some(key) = load {
            self.vips
                .insert(key, VipInfo::new(ids[&key], VipKind::Load));
        }
    }

    /// Weight and cap of the worker called `name`.
    #[must_use]
    pub fn worker(&self, name: &str) -> (u16, u32) {
        self.workers
            .get(name)
            .copied()
            .unwrap_or((NORMAL_WEIGHT, 0))
    }

    /// The pools that the worker called `name` is in, 0 included.
    pub fn pools_of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = u8> + 'a {
        let named = self
            .pools
            .iter()
            .filter(move |(_, members)| members.contains(name));
        std::iter::once(0).chain(named.map(|(number, _)| *number))
    }
}

/// The numbers of `file`'s pools: that of `before` for a pool that was there, and for a new one, if possible, none that
/// another one had a moment ago, so that no packet meets the new table under the old VIP's row.
#[must_use]
pub fn pool_numbers(file: &PolicyFile, before: &PoolNumbers) -> PoolNumbers {
    let mut numbers: PoolNumbers = file
        .pools
        .iter()
        .filter_map(|pool| Some((pool.name.clone(), *before.get(&pool.name)?)))
        .collect();
    for pool in &file.pools {
        if numbers.contains_key(&pool.name) {
            continue;
        }
        let is_free = |number: &u8| !numbers.values().any(|taken| taken == number);
        let is_fresh = |number: &u8| !before.values().any(|taken| taken == number);
        let free: Vec<u8> = (1..MAX_POOLS as u8).filter(is_free).collect();
        let number = free
            .iter()
            .copied()
            .find(is_fresh)
            .or_else(|| free.first().copied());
        if let Some(number) = number {
            numbers.insert(pool.name.clone(), number);
        }
    }
    numbers
}

fn key_of(vip: &VipConfig) -> AnyVipKey {
    AnyVipKey::new(vip.address, vip.port.number(), vip.protocol.number())
}

/// Numbers of VIPs, which are their rows in `VIP_COUNTERS` and a part of their flows' keys: that of `before` for a VIP that
/// was there, and for a new one, if possible, none that a VIP which goes still has.
fn vip_ids(keys: &[AnyVipKey], before: &HashMap<AnyVipKey, VipInfo>) -> HashMap<AnyVipKey, u32> {
    let mut kept = BTreeSet::new();
    let mut ids: HashMap<AnyVipKey, u32> = keys
        .iter()
        .filter_map(|key| Some((*key, before.get(key)?.vip_id)))
        .filter(|(_, id)| kept.insert(*id))
        .collect();
    let taken: BTreeSet<u32> = before.values().map(|info| info.vip_id).collect();
    let fresh = (0..MAX_VIPS).filter(|id| !taken.contains(id));
    let leaving = taken.difference(&kept).copied();
    let mut free = fresh.chain(leaving);
    for key in keys {
        ids.entry(*key)
            .or_insert_with(|| free.next().unwrap_or(MAX_VIPS - 1));
    }
    ids
}

fn pktgen_row(pktgen: &crate::config::PktgenConfig) -> PktgenInfo {
    let functions: Vec<_> = pktgen
        .functions
        .iter()
        .map(|name| FunctionId::of(name))
        .collect();
    PktgenInfo::new(&functions, pktgen.sessions)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn keys(numbers: std::ops::Range<u32>) -> Vec<AnyVipKey> {
        let address = |number: u32| IpAddr::from(number.to_be_bytes());
        numbers
            .map(|number| AnyVipKey::new(address(number), 53, UDP))
            .collect()
    }

    fn rows(ids: &HashMap<AnyVipKey, u32>) -> HashMap<AnyVipKey, VipInfo> {
        let row = |id: &u32| VipInfo::new(*id, VipKind::L4);
        ids.iter().map(|(key, id)| (*key, row(id))).collect()
    }

    fn distinct(ids: &HashMap<AnyVipKey, u32>) -> usize {
        ids.values().collect::<BTreeSet<_>>().len()
    }

    #[test]
    fn no_two_vips_have_one_number_however_many_are_replaced() {
        let old = vip_ids(&keys(0..2100), &HashMap::new());
        let new = vip_ids(&keys(2050..4150), &rows(&old));
        assert_eq!(distinct(&new), 2100);
        assert!(new.values().all(|id| *id < MAX_VIPS));
        for key in keys(2050..2100) {
            assert_eq!(new[&key], old[&key], "who stays keeps its number");
        }
        let all = vip_ids(&keys(10_000..10_000 + MAX_VIPS), &rows(&new));
        assert_eq!(distinct(&all), MAX_VIPS as usize);
    }

    #[test]
    fn a_new_vip_gets_a_number_that_no_leaving_one_has_if_there_is_one() {
        let old = vip_ids(&keys(0..3), &HashMap::new());
        let new = vip_ids(&keys(3..5), &rows(&old));
        assert!(new.values().all(|id| (3..5).contains(id)), "{new:?}");
    }

    #[test]
    fn vips_that_had_one_number_are_told_apart() {
        let both = keys(0..2).into_iter().map(|key| (key, 7)).collect();
        assert_eq!(distinct(&vip_ids(&keys(0..2), &rows(&both))), 2);
    }
}
