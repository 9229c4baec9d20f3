//! Stands in for the `warmpath` binary where a test's pool needs one that answers to `sandbox-init`:
//! a test binary cannot, for its `main` belongs to the test harness.

use std::process::ExitCode;

fn main() -> ExitCode {
    worker::sandbox::init_main(std::env::args_os().skip(1)).unwrap_or(ExitCode::FAILURE)
}
