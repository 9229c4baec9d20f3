//! The part of a plan that is about VIPs, settings and police.
//!
//! Filters before the rows they announce, and cleared after them; a feature is switched on when its rows are there, and
//! switched off before they go.

use std::{collections::BTreeSet, net::IpAddr};

use ebpf_common::maps::BlockFilter;

use super::tables::{ActualTables, MapWrite, vip_filter};
use crate::{config::Prefix, policy::Rules};

pub(super) fn additions(rules: &Rules, actual: &ActualTables, writes: &mut Vec<MapWrite>) {
    for (row, info) in (0u32..).zip(&rules.pktgen) {
        if actual.pktgen[row as usize] != *info {
            writes.push(MapWrite::Pktgen(row, *info));
        }
    }
    let mut changed: Vec<_> = rules
        .vips
        .iter()
        .filter(|(key, info)| actual.vips.get(key) != Some(info))
        .collect();
    changed.sort_unstable_by_key(|(key, _)| key.parts());
    let both = vip_filter(actual.vips.keys().chain(rules.vips.keys()));
    words(&both, &actual.vip_filter, MapWrite::VipFilter, writes);
    writes.extend(
        changed
            .into_iter()
            .map(|(key, info)| MapWrite::Vip(*key, *info)),
    );

    let all = actual.blocks.union(&rules.blocks).copied().collect();
    words(
        &block_filter(&all),
        &actual.block_filter,
        MapWrite::BlockFilter,
        writes,
    );
    let new = rules.blocks.difference(&actual.blocks);
    writes.extend(new.copied().map(MapWrite::Block));
    for (function, rate) in &rules.limits {
        if actual.limits.get(function) != Some(rate) {
            writes.push(MapWrite::Limit(*function, *rate));
        }
    }
    if rules.settings.over(actual.config) != actual.config {
        writes.push(MapWrite::Settings(rules.settings));
    }
}

pub(super) fn removals(rules: &Rules, actual: &ActualTables, writes: &mut Vec<MapWrite>) {
    let vips = actual
        .vips
        .keys()
        .filter(|key| !rules.vips.contains_key(key));
    writes.extend(vips.copied().map(MapWrite::RemoveVip));
    // From what `additions` has left.
    let both = vip_filter(actual.vips.keys().chain(rules.vips.keys()));
    words(
        &vip_filter(rules.vips.keys()),
        &both,
        MapWrite::VipFilter,
        writes,
    );

    let gone = actual.blocks.difference(&rules.blocks);
    writes.extend(gone.copied().map(MapWrite::Unblock));
    let both = block_filter(&actual.blocks.union(&rules.blocks).copied().collect());
    words(
        &block_filter(&rules.blocks),
        &both,
        MapWrite::BlockFilter,
        writes,
    );
    let limits = actual
        .limits
        .keys()
        .filter(|function| !rules.limits.contains_key(function));
    writes.extend(limits.copied().map(MapWrite::Unlimit));
}

/// `BLOCK_FILTER` for a set of prefixes.
pub(crate) fn block_filter(prefixes: &BTreeSet<Prefix>) -> Vec<u64> {
    let mut filter = BlockFilter::ZERO;
    for prefix in prefixes {
        match prefix.address {
            IpAddr::V4(address) => filter.add4(address.octets(), prefix.len.into()),
            IpAddr::V6(address) => filter.add6(address.octets(), prefix.len.into()),
        }
    }
    filter.words().to_vec()
}

fn words(
    wanted: &[u64],
    actual: &[u64],
    write: fn(u32, u64) -> MapWrite,
    writes: &mut Vec<MapWrite>,
) {
    for (index, (should, is)) in (0..).zip(wanted.iter().zip(actual)) {
        if should != is {
            writes.push(write(index, *should));
        }
    }
}
