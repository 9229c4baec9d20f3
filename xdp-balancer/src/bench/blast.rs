//! The two ends of live traffic: `generate` makes packets out of recycled frames (BPF_F_TEST_XDP_LIVE_FRAMES), `sink`
//! counts by receiver and drops.

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};

use crate::{frame, maps};

/// Writes the next packet of the mix over the frame and sends it out of the chosen interface.
#[xdp]
fn generate(ctx: XdpContext) -> u32 {
    match prepare(&ctx) {
        Some(ifindex) => frame::redirect(ifindex),
        None => xdp_action::XDP_ABORTED,
    }
}

#[inline(always)]
fn prepare(ctx: &XdpContext) -> Option<u32> {
    let stream = maps::stream()?;
    let template = maps::template(stream)?;
    frame::present(ctx, template, maps::next(stream)?)?;
    maps::out()
}

/// Counts the packet for its receiver and drops it.
#[xdp]
fn sink(ctx: XdpContext) -> u32 {
    if let Some((mac, bytes)) = frame::receiver(&ctx) {
        maps::arrived(mac, bytes);
    }
    xdp_action::XDP_DROP
}

/// Passes everything: what the near end of a veth pair needs for its far end to send packets back.
#[xdp]
fn pass(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}
