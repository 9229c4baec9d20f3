//! Stands in for the `warmpath` binary where a test needs one that answers to `sandbox-init` or
//! `package-cell`: a test binary cannot, for its `main` belongs to the test harness.

use std::process::ExitCode;

fn main() -> ExitCode {
    let args = || std::env::args_os().skip(1);
    worker::sandbox::init_main(args())
        .or_else(|| packages::cell::cell_main(args()))
        .unwrap_or(ExitCode::FAILURE)
}
