//! Writing the next packet over the frame of the last one.
#![expect(
    unsafe_code,
    reason = "the frame is memory between two addresses that the kernel gives"
)]

use aya_ebpf::{
    helpers::generated::{bpf_redirect, bpf_xdp_adjust_head, bpf_xdp_adjust_tail},
    programs::XdpContext,
};
use ebpf_common::traffic::{
    CONNECTION_OFFSET, Fields, HEAD_LEN, HEAD_WORDS, Sum, Template, carries, undo, vary,
};

use crate::maps;

/// Gives the frame the length of the template again, as `undo` says; the helper is called whether there is
/// anything to undo or not, so that the floor pays for it too.
#[inline(always)]
pub(crate) fn restore(ctx: &XdpContext, template: &Template) -> Option<()> {
    let grown_by = len(ctx) as i32 - template.frame_len as i32;
    let done = match template.undo {
        // SAFETY: the helpers take the context of the running program; no address into the frame is kept.
        undo::HEAD => unsafe { bpf_xdp_adjust_head(ctx.ctx, grown_by) },
        // SAFETY: as above.
        undo::TAIL => unsafe { bpf_xdp_adjust_tail(ctx.ctx, -grown_by) },
        _ => 0,
    };
    (done == 0).then_some(())
}

#[inline(always)]
fn len(ctx: &XdpContext) -> usize {
    // VERIFIER: the lengths are compared only once this difference is a number; LLVM would add the template's
    // length to `data` first, in 32 bits: "R3 32-bit pointer arithmetic prohibited" (Linux 6.18, rustc 1.96).
    core::hint::black_box(ctx.data_end() - ctx.data())
}

/// Writes packet `number` of `template` over the frame.
#[inline(always)]
pub(crate) fn present(ctx: &XdpContext, template: &Template, number: u64) -> Option<()> {
    let data = ctx.data();
    if data + HEAD_LEN > ctx.data_end() {
        return None;
    }
    // SAFETY: the check above: `HEAD_LEN` bytes from `data` on are the frame's.
    let head = unsafe { &mut *(data as *mut [[u8; 8]; HEAD_WORDS]) };
    for (place, word) in head.iter_mut().zip(&template.head) {
        *place = word.to_ne_bytes();
    }
    let fields = template.fields(number);
    let cookie = if template.varies(vary::COOKIE) {
        maps::cookie(fields.flow)?
    } else {
        0
    };
    // Two copies, each with constant offsets, which the verifier needs no proof for.
    // SAFETY: `HEAD_LEN` bytes from `data` on are the frame's.
    let head = unsafe { &mut *(data as *mut [u8; HEAD_LEN]) };
    if template.ip == 4 {
        write::<26, 34>(head, template, &fields, cookie)
    } else {
        write::<34, 54>(head, template, &fields, cookie)
    }
}

#[inline(always)]
fn write<const SOURCE: usize, const PORTS: usize>(
    head: &mut [u8; HEAD_LEN],
    template: &Template,
    fields: &Fields,
    cookie: u64,
) -> Option<()> {
    let mut ip_sum = Sum::new(template.ip_sum);
    let mut udp_sum = Sum::new(template.udp_sum);
    if template.varies(vary::SOURCE | vary::NEW_SOURCE) {
        let (source, port) = (fields.source.to_be(), fields.port.to_be());
        put(head, SOURCE, source.to_ne_bytes())?;
        put(head, PORTS, port.to_ne_bytes())?;
        ip_sum.add(u64::from(source));
        udp_sum.add(u64::from(source));
        udp_sum.add(u64::from(port));
    }
    if template.varies(vary::CONNECTION) {
        let id = fields.connection_id().to_be_bytes();
        put(head, PORTS + 8 + CONNECTION_OFFSET, id)?;
    }
    if template.carries != carries::RPC {
        return Some(());
    }
    let rpc = PORTS + 8;
    let mut field = |offset: usize, value: u64| {
        let value = value.to_be();
        udp_sum.add(value);
        put(head, rpc + offset, value.to_ne_bytes())
    };
    field(8, fields.request_id)?;
    if template.varies(vary::FUNCTION) {
        field(16, fields.function)?;
    }
    if template.varies(vary::SESSION | vary::NEW_SESSION) {
        field(24, fields.session)?;
    }
    if template.varies(vary::COOKIE) {
        field(48, cookie)?;
    }
    if template.varies(vary::SLOT) {
        let slot = fields.slot.to_be();
        udp_sum.add(u64::from(slot));
        put(head, rpc + 32, slot.to_ne_bytes())?;
    }
    if template.varies(vary::CHECKSUMS) {
        if PORTS == 34 {
            put(head, 24, ip_sum.checksum().to_ne_bytes())?;
        }
        put(head, PORTS + 6, udp_sum.checksum().to_ne_bytes())?;
    }
    Some(())
}

#[inline(always)]
fn put<const N: usize>(head: &mut [u8; HEAD_LEN], offset: usize, bytes: [u8; N]) -> Option<()> {
    head.get_mut(offset..)?
        .first_chunk_mut()
        .map(|place| *place = bytes)
}

/// The session id of an RPC packet over IPv4, for single operations that need a key by flow.
#[inline(always)]
pub(crate) fn session4(ctx: &XdpContext) -> u64 {
    let data = ctx.data();
    if data + HEAD_LEN > ctx.data_end() {
        return 0;
    }
    // SAFETY: the check above.
    u64::from_be(unsafe { ((data + 66) as *const u64).read_unaligned() })
}

/// The receiver's MAC address, as the lower bytes of a number, and the length of the frame.
#[inline(always)]
pub(crate) fn receiver(ctx: &XdpContext) -> Option<(u64, u64)> {
    let data = ctx.data();
    if data + 14 > ctx.data_end() {
        return None;
    }
    // SAFETY: the check above.
    let [high, middle, low] = unsafe { (data as *const [u16; 3]).read() }.map(u16::from_be);
    let mac = u64::from(high) << 32 | u64::from(middle) << 16 | u64::from(low);
    Some((mac, len(ctx) as u64))
}

/// Sends the frame out of `ifindex`; the verdict.
#[inline(always)]
pub(crate) fn redirect(ifindex: u32) -> u32 {
    // SAFETY: the helper takes numbers.
    unsafe { bpf_redirect(ifindex, 0) as u32 }
}

/// Swaps the MAC addresses.
#[inline(always)]
pub(crate) fn swap_macs(ctx: &XdpContext) -> bool {
    let data = ctx.data();
    if data + 14 > ctx.data_end() {
        return false;
    }
    // SAFETY: the check above.
    let macs = unsafe { &mut *(data as *mut [[u8; 6]; 2]) };
    macs.swap(0, 1);
    true
}

/// Grows the frame by `bytes` in front.
#[inline(always)]
pub(crate) fn grow(ctx: &XdpContext, bytes: i32) -> bool {
    // SAFETY: the helper takes the context of the running program; no address into the frame is kept.
    unsafe { bpf_xdp_adjust_head(ctx.ctx, -bytes) == 0 }
}

/// Cuts `bytes` off the end of the frame.
#[inline(always)]
pub(crate) fn cut(ctx: &XdpContext, bytes: i32) -> bool {
    // SAFETY: the helper takes the context of the running program; no address into the frame is kept.
    unsafe { bpf_xdp_adjust_tail(ctx.ctx, -bytes) == 0 }
}
