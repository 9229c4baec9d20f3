//! The harness, and the floors.

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};

use crate::{frame, maps};

/// Presents the next packet to the program under test, whose verdict ends the run.
#[xdp]
fn harness(ctx: XdpContext) -> u32 {
    if prepare(&ctx).is_some() {
        maps::run_target(&ctx);
    }
    // There is no target, or the frame is not the template's: no verdict of a program under test.
    xdp_action::XDP_ABORTED
}

#[inline(always)]
fn prepare(ctx: &XdpContext) -> Option<()> {
    let template = maps::template(0)?;
    frame::restore(ctx, template)?;
    frame::present(ctx, template, maps::next(0)?)
}

/// Floor: sends the frame back as it is.
#[xdp]
fn tx(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_TX
}

/// Floor: drops.
#[xdp]
fn drop(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_DROP
}

/// Floor: swaps the MAC addresses and sends the frame back.
#[xdp]
fn swap(ctx: XdpContext) -> u32 {
    if frame::swap_macs(&ctx) {
        xdp_action::XDP_TX
    } else {
        xdp_action::XDP_DROP
    }
}
