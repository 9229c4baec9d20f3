//! Root file systems for sandboxes, built of pinned Debian packages: what handlers see instead of the host's `/usr`.
//!
//! | step | file |
//! |---|---|
//! | which packages, by SHA-256; the digest of list and recipe names what is built | `list` |
//! | a new list, by apt | `renew` |
//! | fetch, verify | `fetch` |
//! | unpack, byte-compile, make read-only, publish by one rename | `build`, `unpack`, `finish` |
//! | list, verify, remove what was built | `kept` |
//! | the one that a worker uses | `choice` |
//!
//! Nothing here runs on the way of a request, and no package's own scripts run at all: what they would do that matters
//! (the links of alternatives, the bundle of certificates, the cache of the dynamic linker) is done by `finish`.

mod build;
mod choice;
mod fetch;
mod finish;
mod kept;
mod list;
mod renew;
mod unpack;

pub use self::{
    build::{BuildError, Built, Event, build},
    choice::{Choice, OpenError, System},
    fetch::FetchError,
    kept::{Difference, Kept, KeptError, Stored},
    list::{ARCHITECTURES, List, ListError, Package},
    renew::{RenewError, renew},
    unpack::UnpackError,
};

/// What is done with the packages. Part of the name of what is built: to be changed with any of it.
const RECIPE: &str = "warmpath root file system 1";
/// Where built ones are kept, unless somebody says otherwise.
pub const DIR: &str = "/var/lib/warmpath/rootfs";
