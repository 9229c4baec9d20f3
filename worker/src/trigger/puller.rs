//! One task for each trigger that is wanted here, as the catalog changes.

use std::{collections::BTreeMap, sync::Arc};

use ebpf_common::ids::SlotId;
use tokio::task::JoinSet;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{
    MEND, Site, feed, schedule,
    wanted::{Pull, TriggerId, Wanted, wanted},
};

/// A trigger that is pulled, or whose last traces are being removed.
struct Pulled {
    /// What is pulled; `None` of one that is gone.
    wanted: Option<Wanted>,
    /// Ends it between two calls; so does dropping this.
    ended: DropGuard,
    /// Closed, and empty once the task has ended.
    task: TaskTracker,
}

/// Pulls the triggers whose slot `is_ours`, as the catalog has them at the time. The tasks end with `tasks`.
pub fn serve(
    site: Arc<Site>,
    is_ours: impl Fn(SlotId) -> bool + Send + 'static,
    tasks: &mut JoinSet<()>,
) {
    tasks.spawn(async move {
        let mut revision = site.functions.revision();
        let mut pulled = BTreeMap::new();
        // Before there is a catalog nothing can be said to be gone from it.
        while revision.wait_for(|revision| *revision > 0).await.is_ok() {
            revision.borrow_and_update();
            follow(&site, &mut pulled, wanted(&site.functions, &is_ours));
            if revision.changed().await.is_err() {
                return;
            }
        }
    });
}

/// Ends what is not wanted any more and begins what is.
fn follow(
    site: &Arc<Site>,
    pulled: &mut BTreeMap<TriggerId, Pulled>,
    mut wanted: BTreeMap<TriggerId, Wanted>,
) {
    for (id, before) in std::mem::take(pulled) {
        let successor = wanted.remove(&id);
        if successor == before.wanted {
            if successor.is_some() || !before.task.is_empty() {
                pulled.insert(id, before);
            }
            continue;
        }
        tracing::info!(
            function = id.0,
            trigger = id.1,
            "a trigger changes or is gone"
        );
        pulled.insert(id, begin(site, successor, Some(before)));
    }
    for (id, new) in wanted {
        let version = new.version;
        tracing::info!(
            function = id.0,
            trigger = id.1,
            version,
            "a trigger is pulled here"
        );
        pulled.insert(id, begin(site, Some(new), None));
    }
}

/// Begins `wanted` once `before` has ended, and what was kept of that is removed unless it goes on with it.
fn begin(site: &Arc<Site>, wanted: Option<Wanted>, before: Option<Pulled>) -> Pulled {
    let (ended, task) = (CancellationToken::new(), TaskTracker::new());
    let (site, token, new) = (Arc::clone(site), ended.clone(), wanted.clone());
    task.spawn(async move {
        if let Some(before) = before {
            drop(before.ended);
            before.task.wait().await;
            let key = new.as_ref().map(Wanted::state_key);
            let gone = before.wanted.filter(|gone| key != Some(gone.state_key()));
            if let Some(gone) = gone {
                forget(&site, &gone).await;
            }
        }
        if let Some(new) = new {
            pull(&site, &new, &token).await;
        }
    });
    task.close();
    Pulled {
        wanted,
        ended: ended.drop_guard(),
        task,
    }
}

async fn pull(site: &Arc<Site>, wanted: &Wanted, ended: &CancellationToken) {
    match &wanted.pull {
        Pull::Schedule(trigger) => schedule::pull(site, wanted, trigger, ended).await,
        Pull::Feed(trigger) => feed::pull(site, wanted, trigger, ended).await,
    }
}

/// Forgets what was kept of a trigger that is gone: if it comes again, it is new.
async fn forget(site: &Site, gone: &Wanted) {
    site.shelves.board().remove(&gone.id());
    while let Err(error) = site.shelves.delete(gone.state_key()).await {
        tracing::warn!(function = gone.function, trigger = gone.trigger, %error, "what is kept of a trigger that is gone cannot be removed; trying again");
        tokio::time::sleep(MEND).await;
    }
}
