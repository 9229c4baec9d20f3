//! The store over an object store: reading records into a [`State`], and changing them.
//!
//! Changes within one process are serialised by a lock, and each is followed at once by reading its
//! function again; changes made by another process on the same object store are met by the unique
//! winner of `PutMode::Create`, and seen at the next [`Repository::rescan`].

use std::{
    collections::BTreeMap,
    io,
    path::{Path as FsPath, PathBuf},
    sync::Arc,
};

use futures_util::TryStreamExt;
use object_store::{
    ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, local::LocalFileSystem,
    path::Path,
};
use serde::de::DeserializeOwned;
use tokio::sync::{Mutex, watch};
use tracing::warn;

use crate::{
    api::types::{Catalog, FunctionDetail, FunctionSummary, LATEST},
    catalog::{Function, State},
    digest::Digest,
    records::{self, AliasRecord, Key},
    unpack::Limits,
};

/// Why the store cannot do what was asked, apart from [publishing](crate::PublishError).
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// No such function.
    #[error("there is no function `{name}`; `warmpath fn list` shows those there are")]
    NoFunction {
        /// What was asked for.
        name: String,
    },
    /// No such version.
    #[error(
        "function `{name}` has no version {version}; `warmpath fn show {name}` shows its versions"
    )]
    NoVersion {
        /// The function.
        name: String,
        /// What was asked for.
        version: u32,
    },
    /// No such alias.
    #[error("function `{name}` has no alias `{alias}`")]
    NoAlias {
        /// The function.
        name: String,
        /// What was asked for.
        alias: String,
    },
    /// An alias that breaks the rule.
    #[error(
        "`{alias}` cannot be set as an alias: 1 to 63 of a-z, 0-9 and `-`, beginning with a letter, and not `{LATEST}`, which always is the newest version"
    )]
    BadAlias {
        /// The refused alias.
        alias: String,
    },
    /// No such bundle.
    #[error("there is no bundle {digest}")]
    NoBundle {
        /// What was asked for.
        digest: Digest,
    },
    /// The stored bundle is not what its name says.
    #[error("the stored bundle {digest} is corrupt and is not served: publish it again")]
    CorruptBundle {
        /// What was asked for.
        digest: Digest,
    },
    /// No such layer.
    #[error(
        "there is no layer {digest}: deploy the function from its directory, which makes its layers"
    )]
    NoLayer {
        /// What was asked for.
        digest: Digest,
    },
    /// The stored layer is not what its name says.
    #[error(
        "the stored layer {digest} is corrupt and is not served: deploy a function that uses it again"
    )]
    CorruptLayer {
        /// What was asked for.
        digest: Digest,
    },
    /// The object store's disk is full. Nothing was changed.
    #[error("cannot {action}: the store's disk is full")]
    DiskFull {
        /// What was attempted.
        action: String,
    },
    /// The object store failed.
    #[error("cannot {action}")]
    Storage {
        /// What was attempted, on what.
        action: String,
        /// Why.
        #[source]
        source: object_store::Error,
    },
    /// The folder of the object store cannot be made.
    #[error("cannot make the store's folder {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The store itself, without HTTP.
#[derive(Debug)]
pub struct Repository {
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) limits: Limits,
    pub(crate) layer_limits: Limits,
    /// Held by every change, from its first read to its last write.
    pub(crate) changing: Mutex<()>,
    state: watch::Sender<Arc<State>>,
}

impl Repository {
    /// Opens the store in the folder `path`, which is made when absent, and reads its records.
    ///
    /// # Errors
    /// [`RepositoryError`].
    pub async fn open(path: &FsPath, limits: Limits) -> Result<Self, RepositoryError> {
        std::fs::create_dir_all(path).map_err(|source| RepositoryError::Folder {
            path: path.to_owned(),
            source,
        })?;
        let objects = LocalFileSystem::new_with_prefix(path)
            .map_err(|source| failed(format!("open the store at {}", path.display()), source))?
            .with_fsync(true);
        Self::over(Arc::new(objects), limits).await
    }

    /// A store over `objects`, whose `PutMode::Create` must have exactly one winner.
    ///
    /// # Errors
    /// [`RepositoryError::Storage`] when its records cannot be read.
    pub async fn over(
        objects: Arc<dyn ObjectStore>,
        limits: Limits,
    ) -> Result<Self, RepositoryError> {
        let repository = Self {
            objects,
            limits,
            layer_limits: Limits::LAYER,
            changing: Mutex::new(()),
            state: watch::Sender::new(Arc::new(State::of(BTreeMap::new()))),
        };
        repository.rescan().await?;
        Ok(repository)
    }

    /// The same store, which takes layers as large as `limits` say.
    #[must_use]
    pub const fn with_layer_limits(mut self, limits: Limits) -> Self {
        self.layer_limits = limits;
        self
    }

    /// The catalog as last read.
    #[must_use]
    pub fn catalog(&self) -> Catalog {
        self.state().catalog.clone()
    }

    /// All functions.
    #[must_use]
    pub fn list(&self) -> Vec<FunctionSummary> {
        self.state().summaries()
    }

    /// Everything about one function.
    ///
    /// # Errors
    /// [`RepositoryError::NoFunction`].
    pub fn show(&self, name: &str) -> Result<FunctionDetail, RepositoryError> {
        self.state()
            .function(name)
            .map(|function| function.detail(name))
            .ok_or_else(|| no_function(name))
    }

    /// Makes `name@alias` mean `name@version`.
    ///
    /// # Errors
    /// [`RepositoryError`].
    pub async fn set_alias(
        &self,
        name: &str,
        alias: &str,
        version: u32,
    ) -> Result<FunctionDetail, RepositoryError> {
        if !records::is_alias(alias) {
            return Err(RepositoryError::BadAlias {
                alias: alias.chars().take(64).collect(),
            });
        }
        let _changing = self.changing.lock().await;
        let function = self.refresh_existing(name).await?;
        if !function.versions.contains_key(&version) {
            return Err(RepositoryError::NoVersion {
                name: name.to_owned(),
                version,
            });
        }
        let path = records::key_path(name, &Key::Alias(alias.to_owned()));
        self.put_json(&path, &AliasRecord { version }, PutMode::Overwrite)
            .await
            .map_err(|source| failed(format!("set the alias `{name}@{alias}`"), source))?;
        Ok(self.refresh(name).await?.detail(name))
    }

    /// Removes an alias that was set by hand.
    ///
    /// # Errors
    /// [`RepositoryError`].
    pub async fn remove_alias(
        &self,
        name: &str,
        alias: &str,
    ) -> Result<FunctionDetail, RepositoryError> {
        let _changing = self.changing.lock().await;
        let function = self.refresh_existing(name).await?;
        if !function.aliases.contains_key(alias) {
            return Err(RepositoryError::NoAlias {
                name: name.to_owned(),
                alias: alias.chars().take(64).collect(),
            });
        }
        let path = records::key_path(name, &Key::Alias(alias.to_owned()));
        self.objects
            .delete(&path)
            .await
            .map_err(|source| failed(format!("remove the alias `{name}@{alias}`"), source))?;
        Ok(self.refresh(name).await?.detail(name))
    }

    /// Reads all records again. Records of versions already known are not read twice: they never change.
    ///
    /// # Errors
    /// [`RepositoryError::Storage`]; what was known before stays.
    pub async fn rescan(&self) -> Result<(), RepositoryError> {
        let _changing = self.changing.lock().await;
        let found = self.read(&Path::from(records::FUNCTIONS)).await?;
        self.replace(State::of(found));
        Ok(())
    }

    pub(crate) fn state(&self) -> Arc<State> {
        Arc::clone(&self.state.borrow())
    }

    /// Signals each change of the state.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<State>> {
        self.state.subscribe()
    }

    /// Reads the records of one function again, and makes what they say known.
    pub(crate) async fn refresh(&self, name: &str) -> Result<Function, RepositoryError> {
        let mut found = self.read(&records::function_path(name)).await?;
        let function = found.remove(name).unwrap_or_default();
        let mut functions = self.state().functions.clone();
        if function == Function::default() {
            functions.remove(name);
        } else {
            functions.insert(name.to_owned(), function.clone());
        }
        self.replace(State::of(functions));
        Ok(function)
    }

    pub(crate) async fn refresh_existing(&self, name: &str) -> Result<Function, RepositoryError> {
        // Before it becomes a path.
        if crate::manifest::check_name(name).is_err() {
            return Err(no_function(name));
        }
        let function = self.refresh(name).await?;
        if function.versions.is_empty() {
            return Err(no_function(name));
        }
        Ok(function)
    }

    pub(crate) async fn put_json<T: serde::Serialize>(
        &self,
        path: &Path,
        record: &T,
        mode: PutMode,
    ) -> object_store::Result<()> {
        let json = serde_json::to_vec_pretty(record)
            .expect("a record holds only strings and numbers under string keys");
        let options = PutOptions::from(mode);
        self.objects
            .put_opts(path, PutPayload::from(json), options)
            .await?;
        Ok(())
    }

    fn replace(&self, state: State) {
        // Watchers are woken by a real change only.
        self.state.send_if_modified(|current| {
            let changed = current.functions != state.functions;
            if changed {
                *current = Arc::new(state);
            }
            changed
        });
    }

    /// Reads every record below `prefix`, by function.
    async fn read(&self, prefix: &Path) -> Result<BTreeMap<String, Function>, RepositoryError> {
        let listed = |source| failed(format!("list the records below {prefix}"), source);
        let paths: Vec<Path> = self
            .objects
            .list(Some(prefix))
            .map_ok(|meta| meta.location)
            .try_collect()
            .await
            .map_err(listed)?;
        let known = self.state();
        let mut found: BTreeMap<String, Function> = BTreeMap::new();
        for path in paths {
            let Some((name, key)) = records::parse_path(&path) else {
                continue;
            };
            let function = found.entry(name.clone()).or_default();
            match key {
                Key::Version(version) => {
                    function.highest = function.highest.max(version);
                    let known = known
                        .functions
                        .get(&name)
                        .and_then(|function| function.versions.get(&version));
                    let record = match known {
                        Some(record) => Some(record.clone()),
                        None => self.record(&path).await?,
                    };
                    if let Some(record) = record {
                        function.versions.insert(version, record);
                    }
                }
                Key::Alias(alias) => {
                    if let Some(AliasRecord { version }) = self.record(&path).await? {
                        function.aliases.insert(alias, version);
                    }
                }
                Key::Deleted => {
                    if let Some(records::DeletedRecord { through }) = self.record(&path).await? {
                        function.deleted_through = through;
                    }
                }
            }
        }
        for function in found.values_mut() {
            function.settle();
        }
        Ok(found)
    }

    /// One record. One that is gone since it was listed, or that cannot be understood, is left out: a
    /// single broken file must not take every other function away.
    async fn record<T: DeserializeOwned>(&self, path: &Path) -> Result<Option<T>, RepositoryError> {
        let failed = |source| failed(format!("read the record {path}"), source);
        let bytes = match self.objects.get(path).await {
            Ok(found) => found.bytes().await.map_err(failed)?,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(source) => return Err(failed(source)),
        };
        match serde_json::from_slice(&bytes) {
            Ok(record) => Ok(Some(record)),
            Err(error) => {
                warn!(%path, %error, "a record is corrupt and left out: restore or remove it");
                Ok(None)
            }
        }
    }
}

pub(crate) fn no_function(name: &str) -> RepositoryError {
    RepositoryError::NoFunction {
        name: name.chars().take(64).collect(),
    }
}

/// The error of a failed `action`, told apart by whether the disk is full.
pub(crate) fn failed(action: String, source: object_store::Error) -> RepositoryError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&source);
    while let Some(this) = cause {
        let full = this
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::StorageFull);
        if full {
            return RepositoryError::DiskFull { action };
        }
        cause = this.source();
    }
    RepositoryError::Storage { action, source }
}
