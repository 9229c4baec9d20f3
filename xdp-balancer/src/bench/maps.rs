//! Maps of the harness, and those that single operations are measured on.
#![expect(
    unsafe_code,
    reason = "maps are memory shared with userspace and, in principle, with other CPUs"
)]

use core::arch::asm;

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, lpm_trie::Key},
    programs::XdpContext,
};
use ebpf_common::traffic::{ARRIVAL_ROWS, Arrivals, MAX_FLOWS, MAX_STREAMS, MIX_LEN, Template};

/// What is presented: by the harness the first, by the generator one of several streams.
#[map]
static TEMPLATE: Array<Template> = Array::with_max_entries(MAX_STREAMS, 0);
/// Number of the next packet of each stream, and behind them of all.
#[map]
static NEXT: Array<u64> = Array::with_max_entries(MAX_STREAMS + 1, 0);
/// Which stream a packet is of, by its number: as many entries for each as its share.
#[map]
static MIX: Array<u32> = Array::with_max_entries(MIX_LEN, 0);
/// The interface that the generator's packets leave by.
#[map]
static OUT: Array<u32> = Array::with_max_entries(1, 0);
/// What arrived, by the destination's MAC address.
#[map]
static ARRIVED: PerCpuArray<Arrivals> = PerCpuArray::with_max_entries(ARRIVAL_ROWS, 0);
/// Route cookies by flow.
#[map]
static COOKIES: Array<u64> = Array::with_max_entries(MAX_FLOWS, 0);
/// The program under test.
#[map]
static TARGET: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// One cache line.
pub(crate) type Line = [u64; 8];

#[map]
static OP_ARRAY: Array<u64> = Array::with_max_entries(64, 0);
#[map]
static OP_PERCPU: PerCpuArray<u64> = PerCpuArray::with_max_entries(64, 0);
#[map]
static OP_LINES: Array<Line> = Array::with_max_entries(MAX_FLOWS, 0);
#[map]
static OP_HASH: HashMap<u64, u64> = HashMap::with_max_entries(MAX_FLOWS, 0);
#[map]
static OP_HASH_LAZY: HashMap<u64, u64> = HashMap::with_max_entries(MAX_FLOWS, BPF_F_NO_PREALLOC);
#[map]
static OP_HASH16: HashMap<[u64; 2], u64> = HashMap::with_max_entries(MAX_FLOWS, 0);
#[map]
static OP_LRU: LruHashMap<[u64; 2], u64> = LruHashMap::with_max_entries(MAX_FLOWS * 2, 0);
#[map]
static OP_LPM4: LpmTrie<u32, u64> = LpmTrie::with_max_entries(1 << 17, BPF_F_NO_PREALLOC);

/// The template of `stream`.
#[inline(always)]
pub(crate) fn template(stream: u32) -> Option<&'static Template> {
    TEMPLATE.get(stream)
}

/// The number of the packet of `stream` to present, each number once.
#[inline(always)]
pub(crate) fn next(stream: u32) -> Option<u64> {
    let next = NEXT.get_ptr_mut(stream)?;
    // SAFETY: `get_ptr_mut` gives the address of a row, and one harness or generator runs at a time.
    let next = unsafe { &mut *next };
    let number = *next;
    *next = number + 1;
    Some(number)
}

/// The stream whose turn it is.
#[inline(always)]
pub(crate) fn stream() -> Option<u32> {
    let number = next(MAX_STREAMS)?;
    MIX.get(number as u32 & (MIX_LEN - 1)).copied()
}

/// The interface that the generator's packets leave by.
#[inline(always)]
pub(crate) fn out() -> Option<u32> {
    OUT.get(0).copied()
}

/// Counts a packet of `bytes` for `mac`.
#[inline(always)]
pub(crate) fn arrived(mac: u64, bytes: u64) {
    if let Some(row) = ARRIVED.get_ptr_mut(Arrivals::row_of(mac)) {
        // SAFETY: the row is this CPU's own.
        unsafe { &mut *row }.count(mac, bytes);
    }
}

/// The route cookie of `flow`.
#[inline(always)]
pub(crate) fn cookie(flow: u32) -> Option<u64> {
    COOKIES.get(flow).copied()
}

/// Goes on in the program under test; comes back only if there is none.
#[inline(always)]
pub(crate) fn run_target(ctx: &XdpContext) {
    // SAFETY: nothing here needs dropping when control does not come back.
    unsafe { TARGET.tail_call(ctx, 0) };
}

#[inline(always)]
pub(crate) fn array(index: u32) -> Option<u64> {
    OP_ARRAY.get(index).copied()
}

#[inline(always)]
pub(crate) fn array_add(index: u32) {
    if let Some(row) = OP_ARRAY.get_ptr_mut(index) {
        // SAFETY: the row is aligned to eight bytes and lives as long as the map.
        unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) row, in(reg) 1u64) };
    }
}

#[inline(always)]
pub(crate) fn percpu_add(index: u32) {
    if let Some(row) = OP_PERCPU.get_ptr_mut(index) {
        // SAFETY: the row is this CPU's own.
        unsafe { *row += 1 };
    }
}

#[inline(always)]
pub(crate) fn line(index: u32) -> Option<&'static Line> {
    OP_LINES.get(index)
}

#[inline(always)]
pub(crate) fn line_set(index: u32, value: u64) {
    if let Some(row) = OP_LINES.get_ptr_mut(index) {
        // SAFETY: the row is the map's, and any bytes are valid.
        unsafe { (*row)[0] = value };
    }
}

#[inline(always)]
pub(crate) fn hash(key: u64) -> Option<u64> {
    // SAFETY: eight bytes are read at once.
    unsafe { OP_HASH.get(key) }.copied()
}

#[inline(always)]
pub(crate) fn hash_lazy(key: u64) -> Option<u64> {
    // SAFETY: eight bytes are read at once.
    unsafe { OP_HASH_LAZY.get(key) }.copied()
}

#[inline(always)]
pub(crate) fn hash16(key: [u64; 2]) -> Option<u64> {
    // SAFETY: eight bytes are read at once.
    unsafe { OP_HASH16.get(key) }.copied()
}

#[inline(always)]
pub(crate) fn lru(key: [u64; 2]) -> Option<u64> {
    // SAFETY: eight bytes are read at once.
    unsafe { OP_LRU.get(key) }.copied()
}

#[inline(always)]
pub(crate) fn lru_set(key: [u64; 2], value: u64) -> bool {
    OP_LRU.insert(key, value, 0).is_ok()
}

#[inline(always)]
pub(crate) fn lpm4(address: u32) -> Option<u64> {
    OP_LPM4.get(Key::new(32, address)).copied()
}
