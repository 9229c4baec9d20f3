//! Every limit of the data plane, by name. Map capacities are defaults; the control plane may change
//! them when it loads the program (`[limits]` in its configuration), not the others.

/// Parts of the key space, as in Redis Cluster.
pub const SLOTS: u32 = 16_384;
/// Rows of the `WORKERS` and `WORKER_LOAD` maps.
pub const MAX_WORKERS: u32 = 4_096;
/// VIPs of each IP version (one takes a row for its port; its address takes one more), and rows of `VIP_COUNTERS`.
pub const MAX_VIPS: u32 = 4_096;
/// Rows of `VIPS` and of `VIPS6`; a power of two, at least twice what they hold.
pub const VIP_ROWS: u32 = 4 * MAX_VIPS;
/// Bits of the filter over the addresses that have a VIP: with 4,096 of them, one address in seventeen that has
/// none is looked up in vain.
pub const VIP_FILTER_BITS: u32 = 1 << 16;
/// Functions. `FUNCTIONS` has twice as many rows (128 MiB), see [`crate::cuckoo`].
pub const MAX_FUNCTIONS: u32 = 1 << 20;
/// Places of the `SESSIONS` table: 32 MiB.
pub const MAX_SESSIONS: u32 = 4 << 20;
/// Places of the `FLOWS` table: 32 MiB.
pub const MAX_FLOWS: u32 = 4 << 20;
/// Places in one row of `SESSIONS` or `FLOWS`: a cache line of eight bytes each.
pub const PLACES_PER_ROW: u32 = 8;
/// Ports (network interfaces) that packets can leave by.
pub const MAX_PORTS: u32 = 64;
/// Warm workers that the balancer knows of for one function.
pub const MAX_WARM: usize = 16;
/// Length of one Maglev table; prime, as the algorithm asks (Eisenbud et al., NSDI '16, §3.4).
pub const MAGLEV_TABLE_LEN: u32 = 65_537;
/// Entries tried in the Maglev table before a function counts as having no worker.
pub const HOME_PROBES: u32 = 8;
/// Rows of `SCHEMAS`.
pub const MAX_SCHEMAS: u32 = 4_096;
/// Sets of workers that have a Maglev table of their own; pool 0 is all workers.
pub const MAX_POOLS: u32 = 16;
/// Rows of `PKTGEN`: VIPs of that kind.
pub const MAX_PKTGEN: u32 = 16;
/// Functions that one VIP of kind `pktgen` calls; a power of two.
pub const PKTGEN_FUNCTIONS: usize = 16;
/// Rows of `FUNCTION_COUNTERS`; a power of two.
pub const TOP_FUNCTIONS: u32 = 1_024;
/// Prefixes of `BLOCK4`, and as many of `BLOCK6`.
pub const MAX_BLOCKS: u32 = 1 << 16;
/// Bits of `BLOCK_FILTER`: one half for each version of IP.
pub const BLOCK_FILTER_BITS: u32 = 2 << 16;
/// Rows of `BLOCK_FILTER`.
pub const BLOCK_FILTER_WORDS: u32 = BLOCK_FILTER_BITS / 64;
/// Rows of `SOURCE_BUCKETS`, a power of two: 2 MiB. Sources beyond as many share rates for certain; the program's code
/// holds this number, so it is not changed at load.
pub const SOURCE_BUCKETS: u32 = 1 << 18;
/// Rows of `FUNCTION_LIMITS` and `FUNCTION_BUCKETS`, a power of two; nine tenths of them can be used. Not changed at load
/// either.
pub const FUNCTION_LIMITS: u32 = 1 << 12;
/// Double-buffered tables (`SLOTS`, `HOME`) hold this many copies; `Config::generation` says which is live.
pub const GENERATIONS: u32 = 2;

/// Fragments that one request or response may have.
pub const MAX_FRAGMENTS: u16 = 64;
/// Payload bytes in one packet: with the headers of Ethernet, IPv6 and UDP, and 40 + 16 bytes of
/// encapsulation, it still fits an MTU of 1,500.
pub const MAX_FRAGMENT_PAYLOAD: usize = 1_328;
/// Bytes of a whole request or response.
pub const MAX_MESSAGE: usize = 64 * 1024;

const _: () = assert!(
    MAX_WORKERS <= u16::MAX as u32,
    "WorkerId::NONE must not name a worker"
);
const _: () = assert!(MAX_SESSIONS.is_power_of_two() && MAX_FLOWS.is_power_of_two());
const _: () = assert!(PKTGEN_FUNCTIONS.is_power_of_two());
const _: () = assert!(SOURCE_BUCKETS.is_power_of_two() && FUNCTION_LIMITS.is_power_of_two());
const _: () = assert!(MAX_FRAGMENT_PAYLOAD * MAX_FRAGMENTS as usize >= MAX_MESSAGE);
const _: () = assert!(MAX_FRAGMENT_PAYLOAD + crate::wire::HEADER_LEN + 40 + 8 + 40 + 16 <= 1_500);
