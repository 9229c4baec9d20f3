//! The code store: immutable bundles named by digest, with versions and aliases over them.
//!
//! A *bundle* is a gzip-compressed tar archive with a manifest (`warmpath.toml`) at its root. Publishing
//! one makes the next version of its function; the alias `latest` always names the newest version.
//! A *layer* is such an archive without a manifest, made of packages that functions share.
//! Workers and the control plane follow the [`Catalog`] and fetch bundles by [`Digest`].
//!
//! Features: `unpack` (opening a bundle safely), `client` ([`StoreClient`], implies `unpack`), `server`
//! (everything). Workers need only `client`.
//!
//! Invariants: a bundle is verified whole before anything is stored; a version never changes and its
//! number is never used again; what a reader gets has the digest it asked for; the server keeps no
//! state that it cannot read again from the object store.
//!
//! Deliberately absent: running code, packets, and any knowledge of who runs what.

pub mod api;
#[cfg(feature = "server")]
mod catalog;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "server")]
mod config;
pub mod digest;
pub mod egress;
pub mod environment;
#[cfg(feature = "server")]
mod fetch;
#[cfg(feature = "server")]
mod gc;
#[cfg(feature = "server")]
mod layers;
pub mod manifest;
#[cfg(feature = "server")]
mod metrics;
#[cfg(feature = "server")]
pub mod publish;
#[cfg(feature = "server")]
mod records;
#[cfg(feature = "server")]
mod repository;
pub mod schema;
#[cfg(feature = "server")]
mod service;
pub mod trigger;
#[cfg(feature = "unpack")]
pub mod unpack;

pub use api::types::{
    Catalog, CatalogEntry, Deleted, ErrorBody, FunctionDetail, FunctionSummary, LATEST, Published,
    StoredLayer, VersionSummary,
};
#[cfg(feature = "client")]
pub use client::{ClientError, StoreClient};
#[cfg(feature = "server")]
pub use config::{Config, ConfigError, LimitsConfig};
pub use digest::{Digest, DigestError};
pub use egress::{Egress, EgressError, Transport};
pub use environment::EnvironmentError;
pub use manifest::{AffinityKind, Interface, Manifest, ManifestError, PayloadKind, Runtime};
#[cfg(feature = "server")]
pub use publish::PublishError;
#[cfg(feature = "server")]
pub use repository::{Repository, RepositoryError};
pub use schema::{Schema, SchemaError};
#[cfg(feature = "server")]
pub use service::{RunError, router, run};
pub use trigger::{Schedule, ScheduleError, TriggerError, Triggers};
#[cfg(feature = "unpack")]
pub use unpack::{Contents, Limits, UnpackError, Unpacked, unpack, unpack_layer};
