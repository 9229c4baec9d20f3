//! Every map of the program, and [`Tables`] over them. Capacities are the defaults of
//! `ebpf_common::limits`; names are those of `ebpf_common::maps::name`; who pins them, and where, is for
//! the control plane to say.
#![expect(
    unsafe_code,
    reason = "maps are memory shared with other CPUs and with userspace"
)]

use core::{
    arch::asm, cell::Cell, ffi::c_void, hint::black_box, ptr::null_mut, sync::atomic::AtomicU64,
};

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_RB_NO_WAKEUP},
    helpers::generated::{bpf_get_smp_processor_id, bpf_jiffies64, bpf_ktime_get_ns, bpf_loop},
    macros::map,
    maps::{Array, DevMapHash, LpmTrie, PerCpuArray, RingBuf, lpm_trie::Key as Prefix},
};
use ebpf_common::{
    cuckoo::{CANDIDATES, candidates},
    event::{EVENTS_LEN, TraceEvent, TraceFilter, TraceScratch, TraceState},
    hash::{TableHash, mix64},
    ids::{FunctionId, WorkerId},
    limits,
    maps::{
        Config, Counter, CpuBucket, DecapRow, FunctionEntry, FunctionLimit, FunctionRow,
        PktgenInfo, PlaceRow, SchemaScratch, TopFunction, Traffic, Vip6Key, Vip6Row, VipInfo,
        VipKey, VipRow, WorkerInfo, WorkerLoad, function_hash, vip_hash, vip6_hash,
    },
    schema::{Key, SCAN_MAX, Scan, SchemaEntry},
    token::{SourceAddress, SourceWords},
};
use xdp_balancer::{
    Packet, Recorder, Row, Tables,
    route::{home, places},
};

/// Written by userspace, read by userspace; the program only carries it.
#[map]
static LAYOUT: Array<u32> = Array::with_max_entries(1, 0);
#[map]
static CONFIG: Array<Config> = Array::with_max_entries(1, 0);
#[map]
static VIPS: Array<VipRow> = Array::with_max_entries(limits::VIP_ROWS, BPF_F_MMAPABLE);
#[map]
static VIPS6: Array<Vip6Row> = Array::with_max_entries(limits::VIP_ROWS, BPF_F_MMAPABLE);
#[map]
static VIP_FILTER: Array<u64> = Array::with_max_entries(limits::VIP_FILTER_BITS / 64, 0);
#[map]
static WORKERS: Array<WorkerInfo> = Array::with_max_entries(limits::MAX_WORKERS, BPF_F_MMAPABLE);
#[map]
static WORKER_LOAD: Array<WorkerLoad> =
    Array::with_max_entries(limits::MAX_WORKERS, BPF_F_MMAPABLE);
#[map]
static FUNCTIONS: Array<FunctionRow> =
    Array::with_max_entries(2 * limits::MAX_FUNCTIONS, BPF_F_MMAPABLE);
/// Mappable like all tables of whole cache lines, because the kernel then lets the rows begin at a page: each is one
/// cache line and not parts of two.
#[map]
static SESSIONS: Array<PlaceRow> = Array::with_max_entries(
    limits::MAX_SESSIONS / limits::PLACES_PER_ROW,
    BPF_F_MMAPABLE,
);
#[map]
static FLOWS: Array<PlaceRow> =
    Array::with_max_entries(limits::MAX_FLOWS / limits::PLACES_PER_ROW, BPF_F_MMAPABLE);
#[map]
static SLOTS: Array<u16> = Array::with_max_entries(limits::GENERATIONS * limits::SLOTS, 0);
#[map]
static HOME: Array<u16> = Array::with_max_entries(
    limits::GENERATIONS * limits::MAX_POOLS * limits::MAGLEV_TABLE_LEN,
    0,
);
#[map]
static SCHEMAS: Array<SchemaEntry> = Array::with_max_entries(limits::MAX_SCHEMAS, BPF_F_MMAPABLE);
#[map]
static SCHEMA_SCRATCH: PerCpuArray<SchemaScratch> = PerCpuArray::with_max_entries(1, 0);
#[map]
static PKTGEN: Array<PktgenInfo> = Array::with_max_entries(limits::MAX_PKTGEN, 0);
/// Of [`ebpf_common::maps::BlockEntry`], whose only field the program adds to.
#[map]
static BLOCK4: LpmTrie<u32, AtomicU64> = LpmTrie::with_max_entries(limits::MAX_BLOCKS, 0);
#[map]
static BLOCK6: LpmTrie<[u64; 2], AtomicU64> = LpmTrie::with_max_entries(limits::MAX_BLOCKS, 0);
#[map]
static BLOCK_FILTER: Array<u64> = Array::with_max_entries(limits::BLOCK_FILTER_WORDS, 0);
#[map]
static SOURCE_BUCKETS: Array<u64> = Array::with_max_entries(limits::SOURCE_BUCKETS, 0);
#[map]
static FUNCTION_LIMITS: Array<FunctionLimit> =
    Array::with_max_entries(limits::FUNCTION_LIMITS, BPF_F_MMAPABLE);
#[map]
static FUNCTION_BUCKETS: Array<u64> = Array::with_max_entries(limits::FUNCTION_LIMITS, 0);
#[map]
static CPU_BUCKETS: PerCpuArray<u64> = PerCpuArray::with_max_entries(CpuBucket::COUNT, 0);
#[map]
static DECAP: Array<DecapRow> = Array::with_max_entries(1, 0);
#[map]
static PORTS: DevMapHash = DevMapHash::with_max_entries(limits::MAX_PORTS, 0);
/// What [`Tables::opaque`] goes by way of.
#[map]
static OPAQUE: PerCpuArray<[u32; OPAQUE_WORDS]> = PerCpuArray::with_max_entries(1, 0);
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::COUNT, 0);
#[map]
static VIP_COUNTERS: PerCpuArray<Traffic> = PerCpuArray::with_max_entries(limits::MAX_VIPS, 0);
#[map]
static WORKER_COUNTERS: PerCpuArray<Traffic> =
    PerCpuArray::with_max_entries(limits::MAX_WORKERS, 0);
#[map]
static FUNCTION_COUNTERS: PerCpuArray<TopFunction> =
    PerCpuArray::with_max_entries(limits::TOP_FUNCTIONS, 0);

#[map]
static TRACE: Array<TraceFilter> = Array::with_max_entries(1, 0);
#[map]
static TRACE_SCRATCH: PerCpuArray<TraceScratch> = PerCpuArray::with_max_entries(1, 0);
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(EVENTS_LEN, 0);
/// Words that [`Tables::opaque`] takes at most.
const OPAQUE_WORDS: usize = 8;

/// The maps of the loaded program, in which `N` says whether anything is noted for a tracer.
pub(crate) struct KernelTables<N>(pub(crate) N);

/// Where an event is noted.
pub(crate) trait Notes {
    /// Calls `note` with the event of this packet, if there is one.
    fn note(&self, note: impl FnOnce(&mut TraceEvent));
    /// Marks `counter` as moved in it.
    fn mark(&self, counter: Counter);
}

/// Of `balancer`: nowhere.
pub(crate) struct NoNotes;

/// Of `traced`: in this CPU's scratch row, also for packets that make no event, because a test at each note would double
/// what the verifier has to follow.
pub(crate) struct Scratch {
    row: *mut TraceScratch,
}

impl Scratch {
    /// The row of this CPU, which is always there.
    #[inline(always)]
    pub(crate) fn of_this_cpu() -> Option<Self> {
        let row = TRACE_SCRATCH.get_ptr_mut(0)?;
        Some(Self { row })
    }
}

impl Notes for NoNotes {
    #[inline(always)]
    fn note(&self, note: impl FnOnce(&mut TraceEvent)) {
        drop(note);
    }

    #[inline(always)]
    fn mark(&self, _counter: Counter) {}
}

impl Notes for Scratch {
    #[inline(always)]
    fn note(&self, note: impl FnOnce(&mut TraceEvent)) {
        // SAFETY: as in `count`.
        note(unsafe { &mut (*self.row).event });
    }

    #[inline(always)]
    fn mark(&self, counter: Counter) {
        self.note(|event| event.head.mark(counter as u32));
    }
}

impl Recorder for KernelTables<Scratch> {
    #[inline(always)]
    fn filter(&self) -> Option<&TraceFilter> {
        TRACE.get(0)
    }

    #[inline(always)]
    fn state<R>(&self, change: impl FnOnce(&mut TraceState) -> R) -> R {
        // SAFETY: as in `count`.
        change(unsafe { &mut (*self.0.row).state })
    }

    #[inline(always)]
    fn clock_ns(&self) -> u64 {
        // SAFETY: the helper takes nothing and returns a number.
        unsafe { bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn cpu(&self) -> u32 {
        // SAFETY: the helper takes nothing and returns a number.
        unsafe { bpf_get_smp_processor_id() }
    }

    #[inline(always)]
    fn emit(&self) -> bool {
        // SAFETY: as in `count`.
        let event = unsafe { &(*self.0.row).event };
        // Nobody is woken: a wakeup would cost more than the event, and the reader looks every few milliseconds.
        EVENTS
            .output::<TraceEvent>(event, u64::from(BPF_RB_NO_WAKEUP))
            .is_ok()
    }
}

impl<N: Notes> Tables for KernelTables<N> {
    #[inline(always)]
    fn config(&self) -> Option<&Config> {
        CONFIG.get(0)
    }

    #[inline(always)]
    fn vip_filter(&self, index: u32) -> Option<u64> {
        VIP_FILTER.get(index).copied()
    }

    #[inline(always)]
    fn vip(&self, key: &VipKey) -> Option<&VipInfo> {
        let rows = candidates(vip_hash(key), limits::VIP_ROWS - 1);
        let row = find(rows, |row| VIPS.get(row), |row| row.key == *key)?;
        (row.info.kind != 0).then_some(&row.info)
    }

    #[inline(always)]
    fn vip6(&self, key: &Vip6Key) -> Option<&VipInfo> {
        let rows = candidates(vip6_hash(key), limits::VIP_ROWS - 1);
        let row = find(rows, |row| VIPS6.get(row), |row| row.key == *key)?;
        (row.info.kind != 0).then_some(&row.info)
    }

    #[inline(always)]
    fn worker(&self, worker: WorkerId) -> Option<&WorkerInfo> {
        WORKERS.get(u32::from(worker.0))
    }

    #[inline(always)]
    fn worker_load(&self, worker: WorkerId) -> Option<WorkerLoad> {
        let load = WORKER_LOAD.get_ptr(u32::from(worker.0))?;
        // SAFETY: the pointer is to a row of the map; any bytes are valid, whoever writes them meanwhile.
        Some(unsafe { load.read() })
    }

    #[inline(always)]
    fn change_load<R>(
        &self,
        worker: WorkerId,
        change: impl FnOnce(&mut WorkerLoad) -> R,
    ) -> Option<R> {
        let load = WORKER_LOAD.get_ptr_mut(u32::from(worker.0))?;
        // SAFETY: the pointer is to a row of the map, and any bytes are valid. Another CPU may write the row too: by
        // `count_sent`, whose field `change` does not write, or by a LOAD packet of the same worker, which its sequence
        // number decides and the next one repairs.
        Some(change(unsafe { &mut *load }))
    }

    #[inline(always)]
    fn count_sent(&self, worker: WorkerId, requests: u32) {
        if let Some(load) = WORKER_LOAD.get_ptr_mut(u32::from(worker.0)) {
            // SAFETY: the pointer is to a row of the map.
            let sent = unsafe { &raw mut (*load).sent };
            add(sent, requests.into());
        }
    }

    #[inline(always)]
    fn function(&self, function: FunctionId) -> Option<&FunctionEntry> {
        let rows = candidates(function_hash(function), CONFIG.get(0)?.function_mask);
        let [first, beside_first, second, beside_second] = rows.map(|row| FUNCTIONS.get_ptr(row));
        // Both places are fetched before either is compared: among a million functions both are cache misses, and
        // those of the functions that stand at their second place would otherwise follow one another.
        let ids = [function_of(first?), function_of(second?)];
        let row = match ids {
            [id, _] if id == function.0 => first?,
            [_, id] if id == function.0 => second?,
            _ if function_of(beside_first?) == function.0 => beside_first?,
            _ if function_of(beside_second?) == function.0 => beside_second?,
            _ => return None,
        };
        // SAFETY: the pointer is to a row of the map, and any bytes are valid, whoever writes them meanwhile.
        let row = unsafe { &*row };
        // Id 0 is that of an empty row.
        (function.0 != 0).then_some(&row.entry)
    }

    #[inline(always)]
    fn schema(&self, index: u32) -> Option<&SchemaEntry> {
        SCHEMAS.get(index)
    }

    #[inline(always)]
    fn extract<P: Packet>(
        &self,
        packet: &P,
        offset: u32,
        len: u32,
        schema: &SchemaEntry,
    ) -> Option<Key> {
        let scratch = SCHEMA_SCRATCH.get_ptr_mut(0)?;
        // SAFETY: the row is this CPU's own, and the loop below, which uses it too, has not begun.
        let scratch = unsafe { &mut *scratch };
        // LLVM 22 takes a header's word, whose lower half `len` is, for a number of 32 bits where all of this is inlined into
        // `traced`, and compares both halves. A round trip by way of the stack leaves the lower one.
        let len = black_box(len).min(SCAN_MAX as u32);
        packet.copy_out(offset, len, &mut scratch.payload)?;
        scratch.schema = *schema;
        scratch.scan = Scan::START;
        // SAFETY: `scan_byte` has the signature that the helper calls, and looks at no context.
        unsafe { bpf_loop(len, scan_byte as *mut c_void, null_mut(), 0) };
        let scratch = SCHEMA_SCRATCH.get(0)?;
        scratch.scan.key(&scratch.schema)
    }

    #[inline(always)]
    fn session_row(&self, index: u32) -> Option<&Row> {
        row(&SESSIONS, index)
    }

    #[inline(always)]
    fn flow_row(&self, index: u32) -> Option<&Row> {
        row(&FLOWS, index)
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<WorkerId> {
        SLOTS.get(index).copied().map(WorkerId)
    }

    #[inline(always)]
    fn home(&self, index: u32) -> Option<WorkerId> {
        HOME.get(index).copied().map(WorkerId)
    }

    #[inline(always)]
    fn search_home(&self, hash: u64, pool: u8, bound: home::Bound) -> home::Found {
        home::Found(search_home(hash, pool, bound as u8))
    }

    #[inline(always)]
    fn store_place(&self, key: places::Key, hash: TableHash, worker: WorkerId) -> places::Stored {
        places::Stored::from_code(store_place(key as u8, hash.row, hash.fingerprint, worker.0))
    }

    #[inline(always)]
    fn pktgen(&self, index: u32) -> Option<&PktgenInfo> {
        PKTGEN.get(index)
    }

    #[inline(always)]
    fn block_filter(&self, index: u32) -> Option<u64> {
        BLOCK_FILTER.get(index).copied()
    }

    #[inline(always)]
    fn blocked(&self, source: SourceAddress) -> bool {
        let hits = match source.words() {
            SourceWords::V4(addr) => BLOCK4.get(Prefix::new(u32::BITS, addr)),
            SourceWords::V6(addr) => BLOCK6.get(Prefix::new(u128::BITS, addr)),
        };
        if let Some(hits) = hits {
            add(hits.as_ptr(), 1);
        }
        hits.is_some()
    }

    #[inline(always)]
    fn source_bucket(&self, index: u32) -> Option<&Cell<u64>> {
        bucket(SOURCE_BUCKETS.get_ptr(index))
    }

    #[inline(always)]
    fn function_limit(&self, function: FunctionId) -> Option<(&FunctionLimit, &Cell<u64>)> {
        for row in candidates(function_hash(function), limits::FUNCTION_LIMITS - 1) {
            let limit = FUNCTION_LIMITS.get(row)?;
            if limit.function == function.0 {
                return Some((limit, bucket(FUNCTION_BUCKETS.get_ptr(row))?));
            }
        }
        None
    }

    #[inline(always)]
    fn cpu_bucket(&self, which: CpuBucket) -> Option<&Cell<u64>> {
        bucket(CPU_BUCKETS.get_ptr(which as u32))
    }

    #[inline(always)]
    fn now_ns(&self) -> u64 {
        let tick_ns = CONFIG.get(0).map_or(0, |config| config.tick_ns);
        // SAFETY: the helper takes nothing and returns a number. The verifier makes a load of it, where the helpers that
        // return nanoseconds cost 20 to 36 ns.
        let ticks = unsafe { bpf_jiffies64() };
        ticks.wrapping_mul(u64::from(tick_ns))
    }

    #[inline(always)]
    fn opaque<const LEN: usize>(&self, words: [u32; LEN]) -> [u32; LEN] {
        const { assert!(LEN <= OPAQUE_WORDS) };
        let Some(scratch) = OPAQUE.get_ptr_mut(0) else {
            return words;
        };
        let scratch = scratch.cast::<[u32; LEN]>();
        // SAFETY: the row is this CPU's own, at least as long as `words`, and aligned as they are.
        unsafe { scratch.write_volatile(words) };
        // SAFETY: as above; any bytes are words.
        unsafe { scratch.read_volatile() }
    }

    #[inline(always)]
    fn decap(&self) -> Option<&DecapRow> {
        DECAP.get(0)
    }

    #[inline(always)]
    fn redirect(&self, ifindex: u32) -> bool {
        PORTS.redirect(ifindex, 0).is_ok()
    }

    #[inline(always)]
    fn note(&self, note: impl FnOnce(&mut TraceEvent)) {
        self.0.note(note);
    }

    #[inline(always)]
    fn count(&self, counter: Counter) {
        self.0.mark(counter);
        if let Some(count) = COUNTERS.get_ptr_mut(counter as u32) {
            // SAFETY: the row is this CPU's own, and XDP programs of one CPU do not interrupt each other.
            unsafe { *count += 1 };
        }
    }

    #[inline(always)]
    fn count_vip(&self, vip_id: u32, bytes: u32) {
        count_traffic(&VIP_COUNTERS, vip_id, bytes);
    }

    #[inline(always)]
    fn count_worker(&self, worker: WorkerId, bytes: u32) {
        count_traffic(&WORKER_COUNTERS, u32::from(worker.0), bytes);
    }

    #[inline(always)]
    fn count_function(&self, function: FunctionId) {
        let index = mix64(function.0) as u32 & (limits::TOP_FUNCTIONS - 1);
        if let Some(row) = FUNCTION_COUNTERS.get_ptr_mut(index) {
            // SAFETY: as in `count`.
            unsafe { &mut *row }.vote(function);
        }
    }
}

/// The function whose row this is, read here and now.
#[inline(always)]
fn function_of(row: *const FunctionRow) -> u64 {
    // SAFETY: the pointer is to a row of the map.
    let function = unsafe { &raw const (*row).function };
    // SAFETY: as above; any bytes are valid.
    unsafe { function.read_volatile() }
}

/// [`home::search`], verified by itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn search_home(hash: u64, pool: u8, bound: u8) -> u64 {
    home::search(
        hash,
        pool,
        home::Bound::from_code(bound),
        &KernelTables(NoNotes),
    )
    .0
}

/// [`places::store`], verified by itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn store_place(key: u8, row: u32, fingerprint: u64, worker: u16) -> u8 {
    places::store(
        places::Key::from_code(key),
        TableHash { row, fingerprint },
        WorkerId(worker),
        &KernelTables(NoNotes),
    ) as u8
}

/// One round of the loop over a payload, which the verifier looks at once; 1 ends the loop.
extern "C" fn scan_byte(index: u32, _context: *mut c_void) -> i64 {
    let Some(scratch) = SCHEMA_SCRATCH.get_ptr_mut(0) else {
        return 1;
    };
    // SAFETY: the row is this CPU's own, and `extract` holds no reference to it while the loop runs.
    let scratch = unsafe { &mut *scratch };
    let byte = scratch.payload.get(index as usize & (SCAN_MAX - 1));
    let progress = scratch
        .scan
        .step(&scratch.schema, byte.copied().unwrap_or(0));
    i64::from(progress.is_over())
}

/// The first of the `candidates` that is the one looked for.
#[inline(always)]
fn find<Row>(
    candidates: [u32; CANDIDATES],
    get: impl Fn(u32) -> Option<&'static Row>,
    is_it: impl Fn(&Row) -> bool,
) -> Option<&'static Row> {
    for candidate in candidates {
        if let Some(row) = get(candidate)
            && is_it(row)
        {
            return Some(row);
        }
    }
    None
}

/// Adds `count` to a word of a map's row, whatever other CPUs do. Written as assembly because core's atomics have no
/// `fetch_add` for this target.
#[inline(always)]
fn add(word: *mut u64, count: u64) {
    // SAFETY: the callers' words lie in rows of maps, aligned.
    unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) word, in(reg) count) };
}

#[inline(always)]
fn bucket<'m>(row: Option<*const u64>) -> Option<&'m Cell<u64>> {
    let row = row?.cast::<Cell<u64>>();
    // SAFETY: the pointer is to a row of a map, which lives as long as the program; other CPUs write it whole.
    Some(unsafe { &*row })
}

#[inline(always)]
fn row(map: &Array<PlaceRow>, index: u32) -> Option<&Row> {
    let row = map.get_ptr(index)?.cast::<Row>();
    // SAFETY: the pointer is to a row of the map, of the same size and alignment as eight words; other CPUs write it by
    // whole words only, and any bytes are valid.
    Some(unsafe { &*row })
}

#[inline(always)]
fn count_traffic(map: &PerCpuArray<Traffic>, index: u32, bytes: u32) {
    if let Some(traffic) = map.get_ptr_mut(index) {
        // SAFETY: as in `count`.
        let traffic = unsafe { &mut *traffic };
        traffic.packets += 1;
        traffic.bytes += u64::from(bytes);
    }
}
