//! The kernel shell: XDP programs `balancer`, `traced` (the same, with a tracer looking on), `decap` for workers, and `pass`
//! for the far ends of veth pairs.
//!
//! Each is inlined into the entry that `#[xdp]` makes: another frame would cost 32 bytes of the 512 of stack (Linux 6.1).
//!
//! All it does is lend the pipeline of the library its packet and its maps. Build it with `cargo xtask build`.
#![no_std]
#![no_main]
// For the atomic add in `maps`; the build sets RUSTC_BOOTSTRAP.
#![feature(asm_experimental_arch)]

mod maps;
mod packet;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use xdp_balancer::{Verdict, balance, decapsulate, trace};

use crate::{
    maps::{KernelTables, NoNotes, Scratch},
    packet::XdpPacket,
};

/// The load balancer.
#[xdp]
#[inline(always)]
fn balancer(ctx: XdpContext) -> u32 {
    action(balance(&mut XdpPacket::new(ctx), &KernelTables(NoNotes)))
}

/// The load balancer under a loupe: what `warmpath trace` attaches in its place.
#[xdp]
#[inline(always)]
fn traced(ctx: XdpContext) -> u32 {
    let Some(scratch) = Scratch::of_this_cpu() else {
        return xdp_action::XDP_PASS;
    };
    action(trace(&mut XdpPacket::new(ctx), &KernelTables(scratch)))
}

#[inline(always)]
const fn action(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Pass => xdp_action::XDP_PASS,
        Verdict::Drop(_) | Verdict::Consumed => xdp_action::XDP_DROP,
        Verdict::Tx => xdp_action::XDP_TX,
        Verdict::Redirect { .. } => xdp_action::XDP_REDIRECT,
    }
}

/// The worker's side of encapsulation.
#[xdp]
fn decap(ctx: XdpContext) -> u32 {
    match decapsulate(&mut XdpPacket::new(ctx), &KernelTables(NoNotes)) {
        Verdict::Pass => xdp_action::XDP_PASS,
        _ => xdp_action::XDP_DROP,
    }
}

/// Passes everything: veth delivers XDP_TX and redirected frames only to a peer that runs XDP itself.
#[xdp]
fn pass(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// What the kernel is told: helpers for GPL programs only, as tracing wants them, are open to MIT code.
#[expect(unsafe_code, reason = "the kernel looks for a section of this name")]
#[unsafe(link_section = "license")]
#[used]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// A panic that can be reached is an endless loop, which the verifier refuses to load.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
