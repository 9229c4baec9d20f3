//! Code that the control plane wants here before anyone calls: fetched, tried again while it cannot be had, and told of.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use store::CatalogEntry;
use tokio::{sync::Semaphore, time::sleep};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{code::CodeError, pool::chain};

/// When code that cannot be had is asked for again, as a rule.
pub(crate) const AGAIN: Duration = Duration::from_secs(1);
/// Fetched at once: requests that wait for theirs come first.
const AT_ONCE: usize = 2;

/// What is wanted, and how far it is. `F` fetches one.
#[derive(Debug)]
pub(crate) struct CodeAhead<F> {
    fetch: Arc<F>,
    turns: Arc<Semaphore>,
    again: Duration,
    /// By qualified name.
    wanted: BTreeMap<String, Wanted>,
}

/// The code of one function.
#[derive(Debug)]
struct Wanted {
    entry: Arc<CatalogEntry>,
    is_here: Arc<AtomicBool>,
    /// Whoever fetches it ends with this, if not in the middle of it.
    _ended: DropGuard,
}

impl<F, Fetched> CodeAhead<F>
where
    F: Fn(Arc<CatalogEntry>) -> Fetched + Send + Sync + 'static,
    Fetched: Future<Output = Result<(), CodeError>> + Send + 'static,
{
    /// Wants nothing yet. What cannot be had is asked for `again` after so long.
    pub(crate) fn new(fetch: F, again: Duration) -> Self {
        Self {
            fetch: Arc::new(fetch),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            again,
            wanted: BTreeMap::new(),
        }
    }

    /// Has the code of these, and no others, fetched from now on. Needs a runtime.
    pub(crate) fn want<'a>(&mut self, entries: impl Iterator<Item = &'a Arc<CatalogEntry>>) {
        let mut before = std::mem::take(&mut self.wanted);
        for entry in entries {
            let known = before.remove(&entry.qualified);
            let wanted = known
                .filter(|known| is_same_code(&known.entry, entry))
                .unwrap_or_else(|| self.begin(Arc::clone(entry)));
            self.wanted.insert(entry.qualified.clone(), wanted);
        }
    }

    /// Whether the code of `entry` is wanted and here.
    pub(crate) fn has(&self, entry: &CatalogEntry) -> bool {
        let wanted = self.wanted.get(&entry.qualified);
        wanted.is_some_and(|wanted| {
            is_same_code(&wanted.entry, entry) && wanted.is_here.load(Ordering::Acquire)
        })
    }

    fn begin(&self, entry: Arc<CatalogEntry>) -> Wanted {
        let (ended, is_here) = (CancellationToken::new(), Arc::new(AtomicBool::new(false)));
        let fetching = Fetching {
            fetch: Arc::clone(&self.fetch),
            turns: Arc::clone(&self.turns),
            again: self.again,
            entry: Arc::clone(&entry),
            is_here: Arc::clone(&is_here),
            ended: ended.clone(),
        };
        tokio::spawn(fetching.run());
        Wanted {
            entry,
            is_here,
            _ended: ended.drop_guard(),
        }
    }
}

/// One that is being fetched, until it is here or not wanted any more.
struct Fetching<F> {
    fetch: Arc<F>,
    turns: Arc<Semaphore>,
    again: Duration,
    entry: Arc<CatalogEntry>,
    is_here: Arc<AtomicBool>,
    ended: CancellationToken,
}

impl<F, Fetched> Fetching<F>
where
    F: Fn(Arc<CatalogEntry>) -> Fetched,
    Fetched: Future<Output = Result<(), CodeError>>,
{
    async fn run(self) {
        let ended = &self.ended;
        let mut is_told = false;
        while let Some(Ok(turn)) = ended.run_until_cancelled(self.turns.acquire()).await {
            let fetched = (self.fetch)(Arc::clone(&self.entry)).await;
            drop(turn);
            match fetched {
                Ok(()) => return self.is_here.store(true, Ordering::Release),
                Err(error) if !is_told => {
                    is_told = true;
                    let (function, error) = (&self.entry.qualified, chain(&error));
                    tracing::warn!(
                        function,
                        error,
                        "code that was ordered cannot be had; trying again"
                    );
                }
                Err(_told) => (),
            }
            let slept = ended.run_until_cancelled(sleep(self.again)).await;
            if slept.is_none() {
                return;
            }
        }
    }
}

/// Whether both run with the same bundle and layers.
fn is_same_code(one: &CatalogEntry, other: &CatalogEntry) -> bool {
    one.digest == other.digest && one.manifest.layers == other.manifest.layers
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, atomic::AtomicU32};

    use ebpf_common::ids::FunctionId;
    use store::{Digest, Manifest};
    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_millis(5);

    fn entry(name: &str, code: &[u8]) -> Arc<CatalogEntry> {
        Arc::new(CatalogEntry {
            id: FunctionId::of(name),
            name: name.to_owned(),
            qualified: format!("{name}@latest"),
            version: 1,
            digest: Digest::of(code),
            manifest: Manifest::parse(format!("name = '{name}'").as_bytes()).unwrap(),
        })
    }

    async fn here(
        ahead: &CodeAhead<
            impl Fn(Arc<CatalogEntry>) -> std::future::Ready<Result<(), CodeError>>
            + Send
            + Sync
            + 'static,
        >,
        entry: &CatalogEntry,
    ) {
        let wait = async {
            while !ahead.has(entry) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(60), wait).await.unwrap();
    }

    #[tokio::test]
    async fn what_cannot_be_had_is_asked_for_again_until_it_is_here_and_then_no_more() {
        let tries = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&tries);
        let mut ahead = CodeAhead::new(
            move |_entry| {
                let turn = counted.fetch_add(1, Ordering::Relaxed);
                std::future::ready(if turn < 2 {
                    Err(CodeError::Stopping)
                } else {
                    Ok(())
                })
            },
            SOON,
        );
        let one = entry("one", b"1");
        assert!(!ahead.has(&one));
        ahead.want([&one].into_iter());
        assert!(!ahead.has(&one));
        here(&ahead, &one).await;
        ahead.want([&one].into_iter());
        sleep(SOON * 10).await;
        assert!(ahead.has(&one));
        assert_eq!(tries.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn another_version_is_fetched_anew_and_what_is_wanted_no_more_is_not_told_of() {
        let fetched = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&fetched);
        let mut ahead = CodeAhead::new(
            move |entry: Arc<CatalogEntry>| {
                seen.lock().unwrap().push(entry.digest.clone());
                std::future::ready(Ok(()))
            },
            SOON,
        );
        let (old, new, other) = (entry("f", b"1"), entry("f", b"2"), entry("g", b"1"));
        ahead.want([&old, &other].into_iter());
        here(&ahead, &old).await;
        here(&ahead, &other).await;
        ahead.want([&new].into_iter());
        assert!(!ahead.has(&old) && !ahead.has(&new) && !ahead.has(&other));
        here(&ahead, &new).await;
        assert_eq!(fetched.lock().unwrap().len(), 3);
        ahead.want(std::iter::empty());
        assert!(!ahead.has(&new));
    }

    #[tokio::test]
    async fn who_is_not_wanted_any_more_is_not_asked_for_again() {
        let tries = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&tries);
        let mut ahead = CodeAhead::new(
            move |_entry| {
                counted.fetch_add(1, Ordering::Relaxed);
                std::future::ready(Err(CodeError::Stopping))
            },
            SOON,
        );
        ahead.want([&entry("f", b"1")].into_iter());
        while tries.load(Ordering::Relaxed) < 3 {
            sleep(SOON).await;
        }
        ahead.want(std::iter::empty());
        // One may have begun before.
        sleep(SOON * 3).await;
        let before = tries.load(Ordering::Relaxed);
        sleep(SOON * 10).await;
        assert_eq!(tries.load(Ordering::Relaxed), before);
    }
}
