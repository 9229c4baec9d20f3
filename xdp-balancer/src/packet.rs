//! The frame in the driver's memory: the only raw pointers into it.
#![expect(
    unsafe_code,
    reason = "the frame is memory between two addresses that the driver gives"
)]

use aya_ebpf::{bindings::xdp_md, helpers::generated::bpf_xdp_adjust_tail, programs::XdpContext};
use xdp_balancer::{CutError, Packet};
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
    #[inline(always)]
    fn address(&self, offset: u32, size: usize) -> Option<usize> {
        let start = self.ctx.data() + offset as usize;
        (start + size <= self.end()).then_some(start)
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
        let pointer = self.address(offset, size_of::<T>())? as *const T;
        // SAFETY: `address` has checked that all of `T` lies between data and data_end, which is readable;
        // any bytes are a `T` (FromBytes); the read asks for no alignment.
        Some(unsafe { pointer.read_unaligned() })
    }

    #[inline(always)]
    fn write<T: IntoBytes + Immutable>(&mut self, offset: u32, value: T) -> Option<()> {
        let pointer = self.address(offset, size_of::<T>())? as *mut T;
        // SAFETY: as in `read`; the driver gives the frame to this program alone, and no reference into
        // it is ever handed out. The write asks for no alignment.
        unsafe { pointer.write_unaligned(value) };
        Some(())
    }

    #[inline(always)]
    fn cut(&mut self, len: u32) -> Result<(), CutError> {
        let shrink_by = self.len() as i32 - len as i32;
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
}
