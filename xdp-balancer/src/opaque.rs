//! Numbers that the kernel's verifier is to know nothing about.
//!
//! It follows every path through the program, and two that meet again become one only if what it knows on the second is
//! implied by what it knew on the first. Two IP versions, three numbers of VLAN tags, five extension headers and eight
//! Maglev probes would multiply. Where all of them meet, the numbers that tell them apart are made opaque, and the rest of
//! the program is checked once for any number.
#![cfg_attr(
    target_arch = "bpf",
    expect(
        unsafe_code,
        reason = "two instructions that the compiler does not see through"
    )
)]

/// `value`, of which neither the compiler nor the verifier knows the bounds.
#[inline(always)]
pub(crate) fn opaque(value: u32) -> u32 {
    #[cfg(target_arch = "bpf")]
    let value = swap_twice(value);
    value
}

/// The verifier keeps no bounds of a number whose bytes are swapped.
#[cfg(target_arch = "bpf")]
#[inline(always)]
fn swap_twice(mut value: u32) -> u32 {
    // Not `pure`, lest LLVM move it to where the number is used.
    // SAFETY: the instructions change the register alone.
    unsafe {
        core::arch::asm!(
            "{0} = be32 {0}",
            "{0} = be32 {0}",
            inout(reg) value,
            options(nostack)
        );
    }
    value
}
