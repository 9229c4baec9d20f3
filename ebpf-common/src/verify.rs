//! Loading an XDP program, as patient with the kernel as libbpf is.

use std::io::{self, ErrorKind};

use aya::programs::{ProgramError, Xdp};

/// How often libbpf tries (`PROG_LOAD_ATTEMPTS` in its `bpf.c`).
const ATTEMPTS: usize = 5;

/// Has the kernel verify and load `program`. The verifier gives up with EAGAIN when a signal is pending for this thread
/// (`do_check` of kernel/bpf/verifier.c): nothing is wrong with the program then, and it is tried again.
///
/// # Errors
/// The kernel's, of the last attempt.
pub fn load(program: &mut Xdp) -> Result<(), ProgramError> {
    for _ in 1..ATTEMPTS {
        match program.load() {
            Err(error) if was_interrupted(&error) => {}
            result => return result,
        }
    }
    program.load()
}

fn was_interrupted(error: &ProgramError) -> bool {
    matches!(error, ProgramError::LoadError { io_error, .. } if is_again(io_error))
}

fn is_again(error: &io::Error) -> bool {
    error.kind() == ErrorKind::WouldBlock
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::is_again;

    #[test]
    fn only_an_interrupted_verifier_is_asked_again() {
        const EACCES: i32 = 13;
        const EAGAIN: i32 = 11;
        const EINVAL: i32 = 22;
        for (errno, expected) in [(EAGAIN, true), (EINVAL, false), (EACCES, false)] {
            let error = io::Error::from_raw_os_error(errno);
            assert_eq!(is_again(&error), expected, "{errno}");
        }
    }
}
