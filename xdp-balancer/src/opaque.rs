//! Numbers that the kernel's verifier is to know nothing about.
//!
//! It follows every path through the program, and two that meet again become one only if what it knows on the second is
//! implied by what it knew on the first. Two IP versions, three numbers of VLAN tags, five extension headers and eight
//! Maglev probes would multiply. Where all of them meet, the numbers that tell them apart are made opaque, and the rest of
//! the program is checked once for any number.
//!
//! It also matters what is known *before* a call of a sub-program and decides a branch behind it: the verifier of Linux 6.1
//! cannot tell there where that number came from, takes every number of the path for as important, and no two paths become
//! one any more (`backtrack_insn` of kernel/bpf/verifier.c gives ENOTSUPP at the call). So what is asked again behind
//! [`crate::route`], whose home rule is such a call, is made opaque where it is asked.
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
