//! Single operations, each a program: what it takes longer than `tx` is what the operation costs.
//!
//! Operations with a key take the session id of the presented packet, so that the number of flows of the
//! template decides how many rows are touched.

use aya_ebpf::{
    bindings::xdp_action,
    helpers::generated::{
        bpf_get_prandom_u32, bpf_get_smp_processor_id, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns,
        bpf_ktime_get_tai_ns, bpf_loop,
    },
    macros::xdp,
    programs::XdpContext,
};
use ebpf_common::{
    hash::{SipKey, mix64, siphash24},
    traffic::MAX_FLOWS,
};

use crate::{frame, maps};

/// XDP_TX whatever `value` is, which thus has to be computed.
#[inline(always)]
fn verdict(value: u64) -> u32 {
    if value == 0x5eed_5eed_5eed_5eed {
        xdp_action::XDP_ABORTED
    } else {
        xdp_action::XDP_TX
    }
}

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident($ctx:ident) => $body:expr;)+) => {
        $(
            $(#[$doc])*
            #[xdp]
            fn $name($ctx: XdpContext) -> u32 {
                verdict($body)
            }
        )+
    };
}

operations! {
    /// The key alone: what the operations with a key have in common.
    op_key(ctx) => frame::session4(&ctx);
    /// A MurmurHash3 finaliser.
    op_mix64(ctx) => mix64(frame::session4(&ctx));
    /// SipHash-2-4 of one word.
    op_siphash_1(ctx) => siphash24(SipKey { k0: 1, k1: 2 }, &[frame::session4(&ctx)]);
    /// SipHash-2-4 of three words.
    op_siphash_3(ctx) => siphash24(SipKey { k0: 1, k1: 2 }, &[1, frame::session4(&ctx), 3]);
    /// A row of an array.
    op_array(_ctx) => maps::array(3).unwrap_or(0);
    /// Four rows of an array.
    op_array_4(_ctx) => {
        maps::array(3).unwrap_or(0) ^ maps::array(13).unwrap_or(0) ^ maps::array(23).unwrap_or(0)
            ^ maps::array(33).unwrap_or(0)
    };
    /// A counter of this CPU.
    op_percpu(_ctx) => { maps::percpu_add(3); 0 };
    /// Four counters of this CPU.
    op_percpu_4(_ctx) => {
        maps::percpu_add(3);
        maps::percpu_add(4);
        maps::percpu_add(15);
        maps::percpu_add(36);
        0
    };
    /// A counter of all CPUs.
    op_atomic(_ctx) => { maps::array_add(3); 0 };
    /// A cache line by flow out of an array of a million lines.
    op_line(ctx) => line(frame::session4(&ctx));
    /// Two cache lines by flow, one after the other's address is known.
    op_line_2(ctx) => {
        let key = frame::session4(&ctx);
        line(key) ^ line(mix64(key))
    };
    /// A cache line by flow, read and written.
    op_line_write(ctx) => {
        let key = frame::session4(&ctx);
        let value = line(key);
        maps::line_set(key as u32 & (MAX_FLOWS - 1), value + 1);
        value
    };
    /// A hash map with keys of eight bytes.
    op_hash(ctx) => maps::hash(frame::session4(&ctx)).unwrap_or(0);
    /// The same, rows allocated when they are inserted.
    op_hash_lazy(ctx) => maps::hash_lazy(frame::session4(&ctx)).unwrap_or(0);
    /// A hash map with keys of sixteen bytes.
    op_hash16(ctx) => maps::hash16([7, frame::session4(&ctx)]).unwrap_or(0);
    /// An LRU hash map with keys of sixteen bytes.
    op_lru(ctx) => maps::lru([7, frame::session4(&ctx)]).unwrap_or(0);
    /// An LRU hash map: a row is written over, or inserted where flows never come again.
    op_lru_set(ctx) => u64::from(maps::lru_set([7, frame::session4(&ctx)], 1));
    /// A trie of IPv4 prefixes, for a key that is not in it or is, as it was filled.
    op_lpm4(ctx) => maps::lpm4(frame::session4(&ctx) as u32).unwrap_or(0);
    /// The time in ns.
    op_ktime(_ctx) => ktime();
    /// The time of the last tick.
    op_ktime_coarse(_ctx) => ktime_coarse();
    /// The time that hosts agree on.
    op_ktime_tai(_ctx) => ktime_tai();
    /// A random number.
    op_random(_ctx) => random();
    /// The number of this CPU.
    op_cpu(_ctx) => cpu();
    /// `bpf_loop`, one round.
    op_loop_1(_ctx) => rounds(1);
    /// `bpf_loop`, 64 rounds.
    op_loop_64(_ctx) => rounds(64);
    /// 36 bytes in front (`undo` must say head).
    op_grow(ctx) => u64::from(frame::grow(&ctx, 36));
    /// 36 bytes off the end (`undo` must say tail).
    op_cut(ctx) => u64::from(frame::cut(&ctx, 36));
    /// Swapped MAC addresses.
    op_swap(ctx) => u64::from(frame::swap_macs(&ctx));
}

#[inline(always)]
fn line(key: u64) -> u64 {
    maps::line(key as u32 & (MAX_FLOWS - 1)).map_or(0, |line| line[0] ^ line[7])
}

macro_rules! helpers {
    ($($name:ident => $helper:ident,)+) => {
        $(
            #[inline(always)]
            #[expect(unsafe_code, reason = "helpers are foreign functions")]
            fn $name() -> u64 {
                // SAFETY: the helper takes nothing and only reads.
                unsafe { u64::from($helper()) }
            }
        )+
    };
}

helpers! {
    ktime => bpf_ktime_get_ns,
    ktime_coarse => bpf_ktime_get_coarse_ns,
    ktime_tai => bpf_ktime_get_tai_ns,
    random => bpf_get_prandom_u32,
    cpu => bpf_get_smp_processor_id,
}

extern "C" fn round(_index: u64, _context: *mut core::ffi::c_void) -> i64 {
    0
}

#[inline(always)]
#[expect(unsafe_code, reason = "the helper takes a pointer to a function")]
fn rounds(count: u32) -> u64 {
    // SAFETY: `round` has the type that the helper calls, and touches nothing.
    unsafe {
        bpf_loop(
            count,
            round as *mut core::ffi::c_void,
            core::ptr::null_mut(),
            0,
        ) as u64
    }
}
