//! The maps of police, read for people: block lists with their hits, rates, and how far each bucket is used up now.
//!
//! A bucket holds the time at which it will be full again ([`Rate`]), on the clock that the program reads, so that what
//! is in it now follows from the time. Where that cannot be read, it is not said.

use std::{net::IpAddr, path::Path};

use aya::maps::{MapError, lpm_trie::Key};
use ebpf_common::maps::{BlockEntry, Config, CpuBucket, FunctionLimit, Rate, features, name};
use serde_json::{Value, json};

use super::{
    ReadError,
    apply::prefix,
    open,
    read::{Rows, array, per_cpu, read_error},
};
use crate::{api::types::BlockHits, policy::rate_text};

/// Whether `name` is one of the maps of police.
pub(super) fn is_ours(name: &str) -> bool {
    [
        name::BLOCK4,
        name::BLOCK6,
        name::BLOCK_FILTER,
        name::SOURCE_BUCKETS,
        name::FUNCTION_LIMITS,
        name::FUNCTION_BUCKETS,
        name::CPU_BUCKETS,
    ]
    .contains(&name)
}

/// Every blocked prefix of the data plane at `pin_path`, and how often it was hit.
///
/// # Errors
/// [`ReadError`].
pub fn blocks(pin_path: &Path) -> Result<Vec<BlockHits>, ReadError> {
    let mut all = hits::<[u8; 4]>(pin_path, name::BLOCK4)?;
    all.extend(hits::<[u8; 16]>(pin_path, name::BLOCK6)?);
    Ok(all)
}

fn hits<K: aya::Pod + Into<IpAddr>>(
    pin_path: &Path,
    name: &'static str,
) -> Result<Vec<BlockHits>, ReadError> {
    let trie = open::trie::<K, BlockEntry>(pin_path, name)?;
    let row = |row: Result<(Key<K>, BlockEntry), MapError>| {
        let (key, entry) = row.map_err(read_error(name))?;
        Ok(BlockHits {
            prefix: prefix(key.data(), key.prefix_len()).to_string(),
            hits: entry.hits,
        })
    };
    trie.iter().map(row).collect()
}

/// The rows of map `name`, which [`is_ours`].
pub(super) fn dump(pin_path: &Path, name: &str, rows: &mut Rows) -> Result<(), ReadError> {
    match name {
        name::BLOCK4 => blocked::<[u8; 4]>(pin_path, name::BLOCK4, rows),
        name::BLOCK6 => blocked::<[u8; 16]>(pin_path, name::BLOCK6, rows),
        name::BLOCK_FILTER => {
            let words = array::<u64>(pin_path, name)?;
            let bits: u32 = words.iter().map(|word| word.count_ones()).sum();
            rows.push(json!({ "bits": words.len() * 64, "set": bits }));
            Ok(())
        }
        name::SOURCE_BUCKETS => sources(pin_path, rows),
        name::FUNCTION_LIMITS => {
            for limit in array::<FunctionLimit>(pin_path, name)? {
                if limit.function != 0 {
                    rows.push(json!({
                        "function": format!("{:016x}", limit.function),
                        "rate": rate_text(&limit.rate),
                    }));
                }
            }
            Ok(())
        }
        name::FUNCTION_BUCKETS => functions(pin_path, rows),
        _ => cpus(pin_path, rows),
    }
}

fn blocked<K: aya::Pod + Into<IpAddr>>(
    pin_path: &Path,
    name: &'static str,
    rows: &mut Rows,
) -> Result<(), ReadError> {
    for block in hits::<K>(pin_path, name)? {
        rows.push(json!({ "prefix": block.prefix, "hits": block.hits }));
    }
    Ok(())
}

/// What the buckets of sources come to, and those that admit nothing now. Which sources they are of is not kept.
fn sources(pin_path: &Path, rows: &mut Rows) -> Result<(), ReadError> {
    let config = config(pin_path)?;
    let rate = config.source_rate;
    // First the time: reading so many rows takes longer than many a bucket takes to fill.
    let now_ns = now_ns(&config);
    let buckets = array::<u64>(pin_path, name::SOURCE_BUCKETS)?;
    let level = |next_ns: &u64| Some(Level::of(&rate, *next_ns, now_ns?));
    let levels = (0u32..).zip(buckets.iter().map(level));
    let used: Vec<(u32, Level)> = levels
        .filter_map(|(row, level)| Some((row, level?)))
        .filter(|(_, level)| level.taken > 0)
        .collect();
    let refusing = used.iter().filter(|(_, level)| level.wait_ns > 0);
    rows.push(json!({
        "rate": rate_text(&rate),
        "buckets": buckets.len(),
        "in_use": now_ns.map(|_| used.len()),
        "refusing": now_ns.map(|_| refusing.clone().count()),
    }));
    for (row, level) in refusing {
        rows.push(json!({ "row": row, "admits": level.admits, "wait_ms": level.wait_ms() }));
    }
    Ok(())
}

fn functions(pin_path: &Path, rows: &mut Rows) -> Result<(), ReadError> {
    let limits = array::<FunctionLimit>(pin_path, name::FUNCTION_LIMITS)?;
    let buckets = array::<u64>(pin_path, name::FUNCTION_BUCKETS)?;
    let now_ns = now_ns(&config(pin_path)?);
    for (limit, next_ns) in limits.iter().zip(buckets) {
        if limit.function != 0 {
            let function = ("function", json!(format!("{:016x}", limit.function)));
            rows.push(level_row(function, &limit.rate, next_ns, now_ns));
        }
    }
    Ok(())
}

fn cpus(pin_path: &Path, rows: &mut Rows) -> Result<(), ReadError> {
    let config = config(pin_path)?;
    let buckets = per_cpu::<u64>(pin_path, name::CPU_BUCKETS)?;
    let now_ns = now_ns(&config);
    for (bucket, of, feature, rate) in [
        (
            CpuBucket::Unknown,
            "unknown",
            features::ADDRESS_TOKENS,
            config.unknown_rate,
        ),
        (
            CpuBucket::Answer,
            "answer",
            features::ANSWER_RATE,
            config.answer_rate,
        ),
        (
            CpuBucket::Eviction,
            "eviction",
            features::EVICTION_RATE,
            config.eviction_rate,
        ),
    ] {
        let states = buckets.get(bucket as usize).into_iter().flatten();
        for (cpu, next_ns) in (0u32..).zip(states) {
            if config.has(feature) {
                let mut row = level_row(("bucket", json!(of)), &rate, *next_ns, now_ns);
                row["cpu"] = json!(cpu);
                rows.push(row);
            }
        }
    }
    Ok(())
}

fn level_row((key, value): (&str, Value), rate: &Rate, next_ns: u64, now_ns: Option<u64>) -> Value {
    let level = now_ns.map(|now_ns| Level::of(rate, next_ns, now_ns));
    json!({
        key: value,
        "rate": rate_text(rate),
        "admits": level.map(|level| level.admits),
        "wait_ms": level.map(|level| level.wait_ms()),
    })
}

/// What is in a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Level {
    /// How many it admits at once.
    admits: u64,
    /// How many it would admit more if it were full.
    taken: u64,
    /// Until it admits one.
    wait_ns: u64,
}

impl Level {
    fn of(rate: &Rate, next_ns: u64, now_ns: u64) -> Self {
        let interval_ns = rate.interval_ns.max(1);
        let burst = rate.tolerance_ns / interval_ns + 1;
        let wait_ns = rate.wait_ns(next_ns, now_ns);
        // The state lies as far ahead as what was taken takes to come again.
        let ahead_ns = next_ns.saturating_sub(now_ns);
        let room_ns = rate.tolerance_ns.saturating_sub(ahead_ns);
        let admits = if wait_ns > 0 {
            0
        } else {
            room_ns / interval_ns + 1
        };
        Self {
            admits,
            taken: burst - admits.min(burst),
            wait_ns,
        }
    }

    /// Rounded up: who waits as long is not too early.
    const fn wait_ms(&self) -> u64 {
        self.wait_ns.div_ceil(1_000_000)
    }
}

fn config(pin_path: &Path) -> Result<Config, ReadError> {
    open::array::<Config>(pin_path, name::CONFIG)?
        .get(&0, 0)
        .map_err(read_error(name::CONFIG))
}

/// The program's clock, which counts ticks of the kernel's timer: jiffies begin somewhere of the kernel's own choosing, and
/// this is where it tells. None where it does not, without root.
fn now_ns(config: &Config) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/timer_list").ok()?;
    let jiffies = text
        .lines()
        .find_map(|line| line.strip_prefix("jiffies: "))?;
    let ticks: u64 = jiffies.trim().parse().ok()?;
    Some(ticks.wrapping_mul(config.tick_ns.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_says_what_the_program_would_admit() {
        let rate = Rate::new(100, 5).unwrap();
        let now_ns = 1_000_000_000_000;
        let mut next_ns = 0;
        for taken in 0..5 {
            let level = Level::of(&rate, next_ns, now_ns);
            assert_eq!(
                (level.admits, level.taken, level.wait_ns),
                (5 - taken, taken, 0)
            );
            assert!(rate.admits(&mut next_ns, now_ns));
        }
        let empty = Level::of(&rate, next_ns, now_ns);
        assert_eq!((empty.admits, empty.taken, empty.wait_ms()), (0, 5, 10));
        assert!(!rate.admits(&mut next_ns, now_ns));
        let later = Level::of(&rate, next_ns, now_ns + 10_000_000);
        assert_eq!((later.admits, later.taken, later.wait_ns), (1, 4, 0));
    }
}
