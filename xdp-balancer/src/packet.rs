//! The frame in the driver's memory: the only raw pointers into it.
#![expect(
    unsafe_code,
    reason = "the frame is memory between two addresses that the driver gives"
)]

use core::{arch::asm, hint::black_box, mem::MaybeUninit};

use aya_ebpf::{
    bindings::{bpf_fib_lookup as bpf_fib_lookup_params, xdp_md},
    helpers::generated::{
        bpf_fib_lookup, bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len,
        bpf_xdp_load_bytes,
    },
    programs::XdpContext,
};
use ebpf_common::{event::CAPTURE_LEN, schema::SCAN_MAX};
use xdp_balancer::{CutError, FibParams, FibQuery, NextHop, Packet, trace::capture_len};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The frame that the program was called for.
pub(crate) struct XdpPacket {
    ctx: XdpContext,
}

impl XdpPacket {
    pub(crate) fn new(ctx: XdpContext) -> Self {
        Self { ctx }
    }

    /// The end of the frame.
    ///
    /// VERIFIER: a volatile read, so that LLVM takes it for a new value each time. Otherwise it drops a check
    /// at a constant offset that an earlier one at a variable offset (behind IPv4 options) implies, which the
    /// verifier does not see: "invalid access to packet" (Linux 6.18, rustc 1.96).
    #[inline(always)]
    fn end(&self) -> usize {
        let end = &raw const self.context().data_end;
        // SAFETY: `end` comes from a reference.
        unsafe { end.read_volatile() as usize }
    }

    #[inline(always)]
    fn context(&self) -> &xdp_md {
        // SAFETY: the kernel calls the program with a context that lives as long as the call.
        unsafe { &*self.ctx.ctx }
    }

    /// The address of `size` bytes at `offset`, if they lie within the frame.
    ///
    /// VERIFIER: what a check proves of a pointer it proves of no other that was made of the same sum. The assembly keeps
    /// LLVM from making the sum again behind the check: "invalid access to packet" (Linux 6.18, rustc 1.96). One instruction and not
    /// none, because the kernel refuses line information that names the same instruction twice.
    #[inline(always)]
    fn address(&self, offset: u32, size: usize) -> Option<usize> {
        let mut start = self.ctx.data() + offset as usize;
        // SAFETY: `start` stays what it is.
        unsafe { asm!("{0} = {0}", inout(reg) start, options(pure, nomem, nostack)) };
        (start + size <= self.end()).then_some(start)
    }

    /// Moves the beginning of the frame, backwards if `by` is below zero.
    #[inline(always)]
    fn move_start(&mut self, by: i32) -> Result<(), CutError> {
        // SAFETY: the helper takes the context of the running program, which `ctx` is. All addresses into the frame
        // are void after it; none is kept.
        match unsafe { bpf_xdp_adjust_head(self.ctx.ctx, by) } {
            0 => Ok(()),
            _ => Err(CutError),
        }
    }
}

impl Packet for XdpPacket {
    #[inline(always)]
    fn len(&self) -> u32 {
        (self.end() - self.ctx.data()) as u32
    }

    #[inline(always)]
    fn ingress_ifindex(&self) -> u32 {
        self.ctx.ingress_ifindex() as u32
    }

    #[inline(always)]
    fn read<T: FromBytes>(&self, offset: u32) -> Option<T> {
        // VERIFIER: LLVM makes `start < end` of the check for one byte, from which the verifier learns nothing about a
        // pointer without a constant offset: "invalid access to packet" (Linux 6.18).
        const { assert!(size_of::<T>() > 1, "read two bytes and take one") };
        let packet = self.address(offset, size_of::<T>())? as *const u8;
        let mut value = Aligned(MaybeUninit::<T>::uninit());
        // SAFETY: `address` has checked that all of `T` lies between data and data_end, which is readable, and `value` is
        // as long.
        unsafe { copy_by_words(packet, (&raw mut value).cast(), size_of::<T>()) };
        // SAFETY: all bytes have just been written, and any bytes are a `T` (FromBytes).
        Some(unsafe { value.0.assume_init() })
    }

    #[inline(always)]
    fn write<T: IntoBytes + Immutable>(&mut self, offset: u32, value: T) -> Option<()> {
        let packet = self.address(offset, size_of::<T>())? as *mut u8;
        let value = Aligned(MaybeUninit::new(value));
        // SAFETY: as in `read`; the driver gives the frame to this program alone, and no reference into
        // it is ever handed out.
        unsafe { copy_by_words((&raw const value).cast(), packet, size_of::<T>()) };
        Some(())
    }

    #[inline(always)]
    fn copy_out(&self, offset: u32, len: u32, buffer: &mut [u8; SCAN_MAX]) -> Option<()> {
        // VERIFIER: bounds that LLVM cannot see through and drop; the helper takes no length of 0.
        let len = (black_box(len - 1) & (SCAN_MAX as u32 - 1)) + 1;
        // SAFETY: the helper checks the frame's bounds, and writes `len` bytes, at most as many as `buffer` has.
        match unsafe { bpf_xdp_load_bytes(self.ctx.ctx, offset, buffer.as_mut_ptr().cast(), len) } {
            0 => Some(()),
            _ => None,
        }
    }

    #[inline(always)]
    fn cut(&mut self, len: u32) -> Result<(), CutError> {
        // VERIFIER: a length that LLVM cannot take apart: it would subtract `len` from the pointer, in 32 bits.
        let shrink_by = black_box(self.len()) as i32 - len as i32;
        if shrink_by < 0 {
            return Err(CutError);
        }
        // SAFETY: the helper takes the context of the running program, which `ctx` is. All addresses into
        // the frame are void after it; none is kept.
        match unsafe { bpf_xdp_adjust_tail(self.ctx.ctx, -shrink_by) } {
            0 => Ok(()),
            _ => Err(CutError),
        }
    }

    #[inline(always)]
    fn grow(&mut self, bytes: u32) -> Result<(), CutError> {
        self.move_start(-(bytes as i32))
    }

    #[inline(always)]
    fn strip(&mut self, bytes: u32) -> Result<(), CutError> {
        self.move_start(bytes as i32)
    }

    #[inline(always)]
    fn capture(&self, into: &mut [u8; CAPTURE_LEN]) -> (u32, u16) {
        // VERIFIER: asked of the kernel, because the difference of the two addresses makes LLVM spill half of one across the
        // calls around it: "invalid size of register spill" (Linux 6.18, rustc 1.96).
        // SAFETY: the helper takes the context of the running program, which `ctx` is.
        let len = unsafe { bpf_xdp_get_buff_len(self.ctx.ctx) } as u32;
        let captured = capture_len(len);
        let into = into.as_mut_ptr().cast();
        // An empty frame has fewer bytes than are asked for, which the helper refuses.
        // SAFETY: the helper writes `captured` bytes to `into`, which has room for `CAPTURE_LEN`: not less.
        match unsafe { bpf_xdp_load_bytes(self.ctx.ctx, 0, into, captured) } {
            0 => (len, captured as u16),
            _ => (len, 0),
        }
    }

    #[inline(always)]
    fn next_hop(&self, query: &FibQuery<'_>) -> NextHop {
        let mut params = FibParams::new(query, self.ingress_ifindex());
        let size = size_of::<FibParams>() as i32;
        // SAFETY: the helper takes the context of the running program and the struct that its header names, of `size` bytes.
        let code = unsafe {
            bpf_fib_lookup(
                self.ctx.ctx.cast(),
                (&raw mut params).cast::<bpf_fib_lookup_params>(),
                size,
                0,
            )
        };
        params.answer(code)
    }
}

/// A value where the words of [`copy_by_words`] are aligned on the stack, as the verifier wants them there.
#[repr(C, align(8))]
struct Aligned<T>(MaybeUninit<T>);

/// Copies `size` bytes by the widest words that fit, where a copy of a `T` would go byte by byte: LLVM takes nothing for
/// aligned that its type does not say. The alternative, its feature `allows-misaligned-mem-access`, also makes it copy
/// misaligned words on the stack, which the verifier refuses.
///
/// # Safety
/// `size` bytes can be read at `from` and written at `to`.
#[inline(always)]
unsafe fn copy_by_words(from: *const u8, to: *mut u8, size: usize) {
    let mut done = 0;
    while done + 8 <= size {
        // SAFETY: see `copy`; within `size`.
        unsafe { copy::<u64>(from, to, done) };
        done += 8;
    }
    if done + 4 <= size {
        // SAFETY: as above.
        unsafe { copy::<u32>(from, to, done) };
        done += 4;
    }
    if done + 2 <= size {
        // SAFETY: as above.
        unsafe { copy::<u16>(from, to, done) };
        done += 2;
    }
    if done < size {
        // SAFETY: as above.
        unsafe { copy::<u8>(from, to, done) };
    }
}

/// Copies one word at `offset` of both.
///
/// # Safety
/// It can be read and written there. That the address within the packet is a multiple of its size is claimed to LLVM and not
/// true: what it makes of the claim for this target is the width of the instruction and nothing else, and the kernel takes
/// such loads and stores in packets on every machine that makes them (x86-64, arm64); C programs do the same.
#[inline(always)]
unsafe fn copy<Word>(from: *const u8, to: *mut u8, offset: usize) {
    let from = from.wrapping_add(offset).cast::<Word>();
    let to = to.wrapping_add(offset).cast::<Word>();
    // SAFETY: the caller's, above.
    unsafe { core::ptr::copy_nonoverlapping(from, to, 1) };
}
