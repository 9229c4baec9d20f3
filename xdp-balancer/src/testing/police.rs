//! The tables of the police stage, as tests have them.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
};

use ebpf_common::{
    ids::FunctionId,
    limits,
    maps::{BlockFilter, CpuBucket, FunctionLimit, Rate},
    token::{SourceAddress, SourceWords},
};

/// The block lists and the buckets.
#[derive(Debug, Clone)]
pub struct PoliceTables {
    /// `BLOCK4`: address and length of each prefix, with its hits.
    pub block4: RefCell<BTreeMap<([u8; 4], u32), u64>>,
    /// `BLOCK6`, likewise.
    pub block6: RefCell<BTreeMap<([u8; 16], u32), u64>>,
    /// `BLOCK_FILTER`.
    pub filter: BlockFilter,
    /// `SOURCE_BUCKETS`.
    pub sources: Vec<Cell<u64>>,
    /// `FUNCTION_LIMITS` and `FUNCTION_BUCKETS`.
    pub functions: BTreeMap<FunctionId, (FunctionLimit, Cell<u64>)>,
    /// `CPU_BUCKETS` of the one CPU that there is.
    pub cpu: [Cell<u64>; CpuBucket::COUNT as usize],
}

impl Default for PoliceTables {
    fn default() -> Self {
        Self {
            block4: RefCell::default(),
            block6: RefCell::default(),
            filter: BlockFilter::ZERO,
            sources: vec![Cell::new(0); limits::SOURCE_BUCKETS as usize],
            functions: BTreeMap::new(),
            cpu: Default::default(),
        }
    }
}

impl PoliceTables {
    /// Blocks the sources whose first `prefix_len` bits are those of `addr`; the others are to be zero.
    pub fn block4(&mut self, addr: [u8; 4], prefix_len: u32) {
        self.block4.get_mut().insert((addr, prefix_len), 0);
        self.filter.add4(addr, prefix_len);
    }

    /// Blocks the sources whose first `prefix_len` bits are those of `addr`; the others are to be zero.
    pub fn block6(&mut self, addr: [u8; 16], prefix_len: u32) {
        self.block6.get_mut().insert((addr, prefix_len), 0);
        self.filter.add6(addr, prefix_len);
    }

    /// Limits `function` to `rate`.
    pub fn limit(&mut self, function: FunctionId, rate: Rate) {
        let limit = FunctionLimit::new(function, rate);
        self.functions.insert(function, (limit, Cell::new(0)));
    }

    pub(super) fn blocked(&self, source: SourceAddress) -> bool {
        match source.words() {
            SourceWords::V4(addr) => longest(&mut self.block4.borrow_mut(), 32, |len| {
                let mask = u32::MAX.checked_shl(32 - len).unwrap_or(0);
                (u32::from_be(addr) & mask).to_be_bytes()
            }),
            SourceWords::V6([net, host]) => longest(&mut self.block6.borrow_mut(), 128, |len| {
                let mask = u128::MAX.checked_shl(128 - len).unwrap_or(0);
                let addr = u128::from(u64::from_be(net)) << 64 | u128::from(u64::from_be(host));
                (addr & mask).to_be_bytes()
            }),
        }
    }
}

/// Whether there is a prefix of up to `bits` bits; counts a hit of the longest.
fn longest<A: Ord>(
    list: &mut BTreeMap<(A, u32), u64>,
    bits: u32,
    prefix: impl Fn(u32) -> A,
) -> bool {
    for len in (0..=bits).rev() {
        if let Some(hits) = list.get_mut(&(prefix(len), len)) {
            *hits += 1;
            return true;
        }
    }
    false
}
