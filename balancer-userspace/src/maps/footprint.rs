//! Bytes of kernel memory that a map takes. The arithmetic is the kernel's own (kernel/bpf/arraymap.c, hashtab.c,
//! lpm_trie.c), without its allocator's rounding.

use aya_obj::generated::bpf_map_type as kind;

use super::MapShape;

const F_NO_PREALLOC: u32 = 1;
const F_MMAPABLE: u32 = 1 << 10;
const PAGE: u64 = 4_096;
/// `struct htab_elem` before its key, and `struct bucket`.
const HASH_ELEMENT: u64 = 48;
const HASH_BUCKET: u64 = 16;
/// `struct lpm_trie_node` before its data; a trie of n prefixes has up to n nodes in between.
const TRIE_NODE: u64 = 48;

/// Bytes of a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapSize {
    /// When it is made.
    pub at_once: u64,
    /// When all its entries are there.
    pub full: u64,
}

/// What the kernel takes for `map` on a machine with this many CPUs.
#[must_use]
pub fn map_size(map: &MapShape, cpus: u32) -> MapSize {
    let entries = u64::from(map.max_entries);
    let cpus = u64::from(cpus);
    let key = u64::from(map.key_size).next_multiple_of(8);
    let value = u64::from(map.value_size).next_multiple_of(8);
    let buckets = entries.next_power_of_two() * HASH_BUCKET;
    let (begin, each) = match kind::try_from(map.map_type) {
        Ok(kind::BPF_MAP_TYPE_ARRAY) if map.flags & F_MMAPABLE != 0 => {
            ((entries * value).next_multiple_of(PAGE), 0)
        }
        Ok(kind::BPF_MAP_TYPE_ARRAY) => (entries * value, 0),
        Ok(kind::BPF_MAP_TYPE_PERCPU_ARRAY) => (entries * (value * cpus + 8), 0),
        Ok(kind::BPF_MAP_TYPE_PERCPU_HASH | kind::BPF_MAP_TYPE_LRU_PERCPU_HASH) => {
            (buckets, HASH_ELEMENT + key + 8 + value * cpus)
        }
        Ok(kind::BPF_MAP_TYPE_LPM_TRIE) => (0, 2 * (TRIE_NODE + key + value)),
        Ok(kind::BPF_MAP_TYPE_RINGBUF) => (entries.next_multiple_of(PAGE), 0),
        Ok(
            kind::BPF_MAP_TYPE_HASH | kind::BPF_MAP_TYPE_LRU_HASH | kind::BPF_MAP_TYPE_DEVMAP_HASH,
        ) => (buckets, HASH_ELEMENT + key + value),
        // Arrays of pointers, and whatever else: small.
        _ => (entries * (8 + value), 0),
    };
    let full = begin + entries * each;
    let grows = map.flags & F_NO_PREALLOC != 0;
    MapSize {
        at_once: if grows { begin } else { full },
        full,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(kind: kind, key: u32, value: u32, entries: u32, flags: u32) -> MapShape {
        MapShape {
            name: "MAP".to_owned(),
            map_type: kind as u32,
            key_size: key,
            value_size: value,
            max_entries: entries,
            flags,
        }
    }

    /// `memlock` of /proc/self/fdinfo on Linux 6.18, two CPUs, for maps of these shapes.
    #[test]
    fn sizes_are_near_what_the_kernel_charges() {
        let cases = [
            (shape(kind::BPF_MAP_TYPE_ARRAY, 4, 64, 4_096, 0), 262_456),
            (
                shape(kind::BPF_MAP_TYPE_ARRAY, 4, 64, 4_096, F_MMAPABLE),
                266_240,
            ),
            (
                shape(kind::BPF_MAP_TYPE_PERCPU_ARRAY, 4, 16, 4_096, 0),
                164_152,
            ),
            (shape(kind::BPF_MAP_TYPE_HASH, 8, 36, 65_536, 0), 7_341_136),
            (
                shape(kind::BPF_MAP_TYPE_RINGBUF, 0, 0, 1 << 20, 0),
                1_065_288,
            ),
        ];
        for (shape, memlock) in cases {
            let size = map_size(&shape, 2).full;
            let error = size.abs_diff(memlock);
            assert!(
                error * 20 <= memlock,
                "{shape:?}: {size}, charged {memlock}"
            );
        }
    }

    #[test]
    fn a_map_that_is_not_preallocated_takes_its_buckets_first() {
        let shape = shape(kind::BPF_MAP_TYPE_HASH, 8, 36, 1 << 20, F_NO_PREALLOC);
        let size = map_size(&shape, 2);
        assert_eq!(size.at_once, (1 << 20) * HASH_BUCKET);
        assert_eq!(size.full, (1 << 20) * (HASH_BUCKET + HASH_ELEMENT + 8 + 40));
    }
}
