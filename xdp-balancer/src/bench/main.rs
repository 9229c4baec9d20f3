//! The programs of the benchmarks, in an object of their own so that the product's holds nothing but the product.
//!
//! `harness` presents one packet after the other to the program under test; `tx`, `drop` and `swap` are the
//! floors; `generate` and `sink` are the ends of live traffic; `op_…` are single operations, to see what each piece of the data plane costs.
#![no_std]
#![feature(asm_experimental_arch)]
#![no_main]

mod blast;
mod frame;
mod harness;
mod maps;
mod op;

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
