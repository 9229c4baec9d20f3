//! The maps of the police stage: written from tables of a test, and read back.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{Array, LpmTrie, PerCpuArray, lpm_trie::Key},
};
use ebpf_common::{
    cuckoo::Cuckoo,
    ids::FunctionId,
    limits::FUNCTION_LIMITS,
    maps::{BlockEntry, CpuBucket, FunctionLimit, function_hash, name},
};
use xdp_balancer::testing::PoliceTables;

/// Writes what userspace writes; the maps must be fresh. Buckets are the program's own and stay as they are.
///
/// # Errors
/// A map refuses an entry.
pub(crate) fn apply(ebpf: &mut Ebpf, tables: &PoliceTables) -> Result<()> {
    let filter = ebpf
        .map_mut(name::BLOCK_FILTER)
        .context(name::BLOCK_FILTER)?;
    let mut filter: Array<_, u64> = filter.try_into()?;
    for (index, word) in (0..).zip(tables.filter.words()) {
        if *word != 0 {
            filter.set(index, word, 0)?;
        }
    }
    let block4 = ebpf.map_mut(name::BLOCK4).context(name::BLOCK4)?;
    let mut block4: LpmTrie<_, [u8; 4], BlockEntry> = block4.try_into()?;
    for ((addr, len), hits) in tables.block4.borrow().iter() {
        block4.insert(&Key::new(*len, *addr), BlockEntry { hits: *hits }, 0)?;
    }
    let block6 = ebpf.map_mut(name::BLOCK6).context(name::BLOCK6)?;
    let mut block6: LpmTrie<_, [u8; 16], BlockEntry> = block6.try_into()?;
    for ((addr, len), hits) in tables.block6.borrow().iter() {
        block6.insert(&Key::new(*len, *addr), BlockEntry { hits: *hits }, 0)?;
    }
    let limits = ebpf
        .map_mut(name::FUNCTION_LIMITS)
        .context(name::FUNCTION_LIMITS)?;
    let mut limits: Array<_, FunctionLimit> = limits.try_into()?;
    let mut rows = Cuckoo::new(FUNCTION_LIMITS, |id: &FunctionId| function_hash(*id));
    for function in tables.functions.keys() {
        for step in rows.insert(*function)? {
            let (limit, _) = &tables.functions[&step.key];
            limits.set(step.row, limit, 0)?;
        }
    }
    Ok(())
}

/// The hits of each prefix of `BLOCK4`.
///
/// # Errors
/// The map cannot be read.
pub(crate) fn hits4(ebpf: &Ebpf) -> Result<BTreeMap<([u8; 4], u32), u64>> {
    let map = ebpf.map(name::BLOCK4).context(name::BLOCK4)?;
    let map: LpmTrie<_, [u8; 4], BlockEntry> = map.try_into()?;
    map.iter()
        .map(|entry| entry.map(|(key, entry)| ((key.data(), key.prefix_len()), entry.hits)))
        .collect::<Result<_, _>>()
        .map_err(Into::into)
}

/// The hits of each prefix of `BLOCK6`.
///
/// # Errors
/// The map cannot be read.
pub(crate) fn hits6(ebpf: &Ebpf) -> Result<BTreeMap<([u8; 16], u32), u64>> {
    let map = ebpf.map(name::BLOCK6).context(name::BLOCK6)?;
    let map: LpmTrie<_, [u8; 16], BlockEntry> = map.try_into()?;
    map.iter()
        .map(|entry| entry.map(|(key, entry)| ((key.data(), key.prefix_len()), entry.hits)))
        .collect::<Result<_, _>>()
        .map_err(Into::into)
}

/// The most that one CPU's bucket holds.
///
/// # Errors
/// The map cannot be read.
pub(crate) fn cpu_bucket(ebpf: &Ebpf, bucket: CpuBucket) -> Result<u64> {
    let map = ebpf.map(name::CPU_BUCKETS).context(name::CPU_BUCKETS)?;
    let map: PerCpuArray<_, u64> = map.try_into()?;
    let most = map.get(&(bucket as u32), 0)?.iter().copied().max();
    Ok(most.unwrap_or(0))
}
