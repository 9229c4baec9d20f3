//! Native executables: a static binary, or a script with a shebang for an interpreter under `/usr`. The entry itself
//! becomes the instance's process, and speaks the protocol on descriptor 3.

use store::Manifest;

use super::{Exec, HANDLER_DIR, Runtime};

/// `runtime = "native"`.
#[derive(Debug)]
pub struct Native;

impl Runtime for Native {
    fn exec(&self, manifest: &Manifest) -> Option<Exec> {
        Some(Exec {
            argv: vec![format!("{HANDLER_DIR}/{}", manifest.entry)],
            env: Vec::new(),
        })
    }
}
