//! A system call's number, looked for by halving.
//!
//! What the compiler makes of a list compares a number with one of the list after the other. The kernel walks that for each
//! of its system calls when a filter is installed, to know which it need not ask the filter about (`seccomp_cache_prepare`,
//! Linux 5.11), so that installing a list of 200 took over a millisecond of each cold start.

use std::collections::BTreeSet;

use seccompiler::{BpfProgram, sock_filter};

/// `BPF_JMP | BPF_JEQ | BPF_K` and so on of linux/bpf_common.h.
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_NOT_LESS: u16 = 0x35;
const JUMP: u16 = 0x05;
const RETURN: u16 = 0x06;
/// `SECCOMP_RET_ALLOW`.
const ALLOW: u32 = 0x7FFF_0000;
/// Where a jump goes that leads behind the end, until the end is known.
const BEHIND: u32 = u32::MAX;

/// How many instructions a program begins with, which check the architecture and load the number of the call.
pub(super) const HEAD: usize = 4;

/// The numbers that a program without conditions compares with.
pub(super) fn numbers(program: &BpfProgram) -> BTreeSet<u32> {
    let body = program.iter().skip(HEAD);
    body.filter(|one| one.code == JUMP_IF_EQUAL)
        .map(|one| one.k)
        .collect()
}

/// Instructions that allow what is one of `numbers`, and go on behind their end with what is not; `None` if a jump would
/// have to lead farther than one can.
pub(super) fn allow(numbers: &BTreeSet<u32>) -> Option<BpfProgram> {
    let mut program = halve(&bounds(numbers), false)?;
    let len = program.len();
    for (at, one) in program.iter_mut().enumerate() {
        if one.code == JUMP && one.k == BEHIND {
            one.k = u32::try_from(len - at - 1).ok()?;
        }
    }
    Some(program)
}

/// Where ranges of consecutive numbers begin and, one behind their last, end: in turn.
fn bounds(numbers: &BTreeSet<u32>) -> Vec<u32> {
    let is_bound = |at: &u32| {
        let before = at.checked_sub(1).is_some_and(|it| numbers.contains(&it));
        numbers.contains(at) != before
    };
    let candidates: BTreeSet<u32> = numbers.iter().flat_map(|it| [*it, it + 1]).collect();
    candidates.into_iter().filter(is_bound).collect()
}

/// Tells on which side of the middle bound a number is, and so on; below the first one, numbers are allowed if `is_inside`.
fn halve(bounds: &[u32], is_inside: bool) -> Option<BpfProgram> {
    let middle = bounds.len() / 2;
    let Some(bound) = bounds.get(middle) else {
        return Some(vec![if is_inside {
            instruction(RETURN, ALLOW, 0)
        } else {
            instruction(JUMP, BEHIND, 0)
        }]);
    };
    let below = halve(&bounds[..middle], is_inside)?;
    let from_it_on = halve(&bounds[middle + 1..], is_inside ^ middle.is_multiple_of(2))?;
    let over = u8::try_from(below.len()).ok()?;
    let mut program = vec![instruction(JUMP_IF_NOT_LESS, *bound, over)];
    program.extend(below);
    program.extend(from_it_on);
    Some(program)
}

const fn instruction(code: u16, k: u32, jt: u8) -> sock_filter {
    sock_filter { code, jt, jf: 0, k }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::tests::run, *};

    /// Whether `number` is allowed, and in how many steps.
    fn ask(program: &BpfProgram, number: u32) -> (bool, usize) {
        let mut whole = vec![instruction(0x20, 0, 0)];
        whole.extend(program.iter().cloned());
        whole.push(instruction(RETURN, 0, 0));
        let (verdict, steps) = run(&whole, number, [0; 6]);
        (verdict == ALLOW, steps)
    }

    proptest! {
        #[test]
        fn allows_the_numbers_of_the_list_and_no_other(
            numbers in prop::collection::btree_set(0_u32..600, 0..250)
        ) {
            // More than a hundred separate ranges lead too far; no list of ours comes near.
            prop_assume!(bounds(&numbers).len() < 200);
            let program = allow(&numbers).unwrap();
            for number in (0..700).chain([0x4000_0000, u32::MAX]) {
                let (is_allowed, steps) = ask(&program, number);
                prop_assert_eq!(is_allowed, numbers.contains(&number), "{}", number);
                prop_assert!(steps <= 12, "{} steps for {}", steps, number);
            }
        }
    }

    #[test]
    fn a_list_that_leads_too_far_is_refused() {
        let every_other = (0..2_000).step_by(2).collect();
        assert!(allow(&every_other).is_none());
    }
}
