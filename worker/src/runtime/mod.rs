//! How a function's code is started and spoken to inside a sandbox.
//!
//! A runtime is one file that says two things of itself: which library it has in the sandboxes, and what an
//! instance's process becomes when it is told which function to load. Everything else is the same for all: a sandbox is
//! prepared with a process locked into it, forked from the zygote; a cold start mounts the code and sends `load`; from
//! then on the protocol of `docs/runtime-protocol.md` is spoken. Python's own instances load the code then and there;
//! those of every other runtime execute the runtime's program in its place, which inherits all locks.

mod library;
pub mod native;
pub mod node;
pub mod package_zygote;
pub mod protocol;
pub mod python;
pub mod zygote;

use std::fmt::Debug;

use serde::Serialize;
use store::Manifest;

pub use self::library::{InstallError, install};

/// Where a sandbox has the function's code.
pub const HANDLER_DIR: &str = "/handler";
/// Where a sandbox has the libraries of all runtimes.
pub const LIBRARY_DIR: &str = "/warmpath";

/// A file of a library: its name and its text.
pub type File = (&'static str, &'static str);

/// What a runtime must provide.
pub trait Runtime: Debug + Sync {
    /// Its library: the directory below [`LIBRARY_DIR`], and the files in it.
    fn package(&self) -> Option<(&'static str, &'static [File])> {
        None
    }

    /// What an instance's process becomes to load the function of `manifest`; `None` if it loads the function itself.
    fn exec(&self, manifest: &Manifest) -> Option<Exec>;

    /// Whether a process may become that before its function is known: the program is the same for all functions, takes
    /// long to start, and loads what a later `load` says.
    fn is_executed_ahead(&self) -> bool {
        false
    }
}

/// A program to execute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Exec {
    /// Its path, which is its name as well, and its arguments.
    pub argv: Vec<String>,
    /// What it has in its environment beside what every program has.
    pub env: Vec<(String, String)>,
}

/// Every runtime.
pub const ALL: [&dyn Runtime; 3] = [&python::Python, &node::Node, &native::Native];

/// The runtime that a manifest names.
#[must_use]
pub fn of(runtime: store::Runtime) -> &'static dyn Runtime {
    match runtime {
        store::Runtime::Python3 => &python::Python,
        store::Runtime::Node => &node::Node,
        store::Runtime::Native => &native::Native,
    }
}
