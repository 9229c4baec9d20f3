//! Which engine executes an op: the local one for the slots owned here, else the owner's server.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use ebpf_common::ids::SlotId;
use tokio::sync::oneshot;
use tracing::{info, warn};

use crate::{
    client::DbClient,
    engine::Engine,
    error::DbError,
    metrics::Metrics,
    op::{Cursor, Locality, Op, OpKind, Reply},
    slots::{SlotMap, SlotSet},
};

/// An engine, and the slots that it holds.
#[derive(Debug, Clone)]
pub struct Local {
    /// The engine.
    pub engine: Arc<dyn Engine>,
    /// The slots owned here; every other is refused by the server and sent elsewhere by the router.
    pub slots: SlotSet,
}

/// Sends each op to the owner of its slot. What this process owns is fixed; who owns the rest follows the
/// slot map.
#[derive(Debug)]
pub struct Router {
    local: Option<Local>,
    remote: RwLock<Remote>,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct Remote {
    map: SlotMap,
    /// By URL, so that connections survive a change of the map.
    clients: HashMap<String, DbClient>,
}

impl Local {
    /// Executes `op` if its slot is owned here. Point reads run in place (a memory lookup, or one block
    /// from the page cache); scans and feed reads, which may touch many blocks, on a blocking thread.
    ///
    /// # Errors
    /// [`DbError`]; `Moved` when the slot is not owned here.
    pub async fn execute(&self, op: Op) -> Result<Reply, DbError> {
        op.check()?;
        let slot = op.slot();
        if !self.slots.contains(slot) {
            return Err(DbError::Moved {
                slot: slot.0,
                owned: self.slots.clone(),
            });
        }
        if matches!(op.kind(), OpKind::Scan | OpKind::Feed) {
            let engine = Arc::clone(&self.engine);
            return tokio::task::spawn_blocking(move || engine.execute(&op))
                .await
                .unwrap_or(Err(DbError::Stopping));
        }
        let (sender, receiver) = oneshot::channel();
        self.engine.submit(
            op,
            Box::new(move |outcome| {
                // A caller that stopped waiting has no use for the outcome.
                drop(sender.send(outcome));
            }),
        );
        receiver.await.unwrap_or(Err(DbError::Stopping))
    }

    /// Waits until the feed of `slot` is beyond `after`, and says where it is then. Costs nothing meanwhile:
    /// the commit that moves it wakes who waits.
    ///
    /// # Errors
    /// [`DbError`]; `Moved` when the slot is not owned here.
    pub async fn feed_moved(&self, slot: SlotId, after: Cursor) -> Result<Cursor, DbError> {
        Op::Head { slot }.check()?;
        if !self.slots.contains(slot) {
            return Err(DbError::Moved {
                slot: slot.0,
                owned: self.slots.clone(),
            });
        }
        // In this order: a commit between the two is told to the follower.
        let mut heads = self.engine.heads().follow(slot);
        let head = self.engine.feed_head(slot)?;
        if head > after {
            return Ok(head);
        }
        let moved = heads.wait_for(|head| *head > after).await;
        moved.map(|head| *head).or(Err(DbError::Stopping))
    }
}

impl Router {
    /// A router over `local` (if this process owns any slot) that counts into `metrics`.
    #[must_use]
    pub fn new(local: Option<Local>, metrics: Metrics) -> Self {
        Self {
            local,
            remote: RwLock::default(),
            metrics,
        }
    }

    /// Executes `op` where its slot is owned, and says where that was.
    ///
    /// # Errors
    /// [`DbError`]; [`DbError::NoOwner`] (retryable) when no live shard is known to own the slot.
    pub async fn execute(&self, op: Op) -> Result<(Reply, Locality), DbError> {
        let kind = op.kind();
        let slot = op.slot();
        match self.local_of(slot) {
            Some(local) => {
                let outcome = local.execute(op).await;
                self.metrics.count(kind, Locality::Local, outcome.as_ref());
                outcome.map(|reply| (reply, Locality::Local))
            }
            None => {
                let outcome = match self.client_of(slot) {
                    Ok(client) => client.execute(&op).await,
                    Err(error) => Err(error),
                };
                self.metrics.count(kind, Locality::Remote, outcome.as_ref());
                outcome.map(|reply| (reply, Locality::Remote))
            }
        }
    }

    /// Waits until the feed of `slot` is beyond `after`, wherever it is kept, and says where it is then. The owner of a
    /// slot that is kept elsewhere is asked with one long poll after the other; who it is follows the slot map.
    ///
    /// # Errors
    /// [`DbError`]; whether to ask again is the caller's to say.
    pub async fn feed_moved(&self, slot: SlotId, after: Cursor) -> Result<Cursor, DbError> {
        if let Some(local) = self.local_of(slot) {
            return local.feed_moved(slot, after).await;
        }
        loop {
            let head = self.client_of(slot)?.feed_moved(slot, after).await?;
            if head > after {
                return Ok(head);
            }
        }
    }

    /// Takes a newer slot map over. Says whether it was newer; an older one, or one that gives a slot to
    /// two owners, changes nothing.
    pub fn set_slots(&self, map: SlotMap) -> bool {
        let version = map.version;
        let mut remote = self.remote.write().unwrap_or_else(PoisonError::into_inner);
        match remote.map.advance(map) {
            Ok(false) => false,
            Ok(true) => {
                let Remote { map, clients } = &mut *remote;
                clients.retain(|url, _| map.owners.iter().any(|owner| owner.url == *url));
                for owner in &map.owners {
                    if clients.contains_key(&owner.url) {
                        continue;
                    }
                    match DbClient::new(&owner.url) {
                        Ok(client) => drop(clients.insert(owner.url.clone(), client)),
                        Err(error) => warn!(shard = owner.shard, %error, "shard has a bad address"),
                    }
                }
                info!(version, owners = map.owners.len(), "slot map taken over");
                true
            }
            Err(error) => {
                warn!(%error, "slot map refused");
                false
            }
        }
    }

    /// The slot map in use.
    #[must_use]
    pub fn slots(&self) -> SlotMap {
        let remote = self.remote.read().unwrap_or_else(PoisonError::into_inner);
        remote.map.clone()
    }

    /// Its counters.
    #[must_use]
    pub const fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The engine of this process, if it keeps `slot`.
    fn local_of(&self, slot: SlotId) -> Option<&Local> {
        self.local
            .as_ref()
            .filter(|local| local.slots.contains(slot))
    }

    fn client_of(&self, slot: SlotId) -> Result<DbClient, DbError> {
        let remote = self.remote.read().unwrap_or_else(PoisonError::into_inner);
        remote
            .map
            .owner_of(slot)
            .and_then(|owner| remote.clients.get(&owner.url))
            .cloned()
            .ok_or(DbError::NoOwner { slot: slot.0 })
    }
}
