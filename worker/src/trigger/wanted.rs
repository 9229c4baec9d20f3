//! Which triggers are to be pulled here: pure, from the catalog.

use std::{collections::BTreeMap, time::Duration};

use ebpf_common::ids::SlotId;
use sha2::{Digest as _, Sha256};
use store::{
    CatalogEntry,
    trigger::{FeedTrigger, ScheduleTrigger, firing},
};
use warmpath_sdk::{
    deferred::{CallId, Deferred, tag},
    trigger::{TriggerKind, TriggerReport, schedule_slot, shelf},
};

use crate::catalog::Functions;

/// What a call may take beyond the function's own time: its start.
const START: Duration = Duration::from_secs(30);

/// The names of a function and its trigger.
pub(super) type TriggerId = (String, String);

/// One trigger, and what it calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The function's name.
    pub(super) function: String,
    /// The trigger's name.
    pub(super) trigger: String,
    /// What it calls: a qualified name.
    pub(super) target: String,
    /// The version that has it.
    pub(super) version: u32,
    /// How long one attempt may take.
    budget_ms: u32,
    pub(super) pull: Pull,
}

/// What pulls it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Pull {
    Schedule(ScheduleTrigger),
    Feed(FeedTrigger),
}

/// The triggers whose slots are ours, of every function.
pub(super) fn wanted(
    functions: &Functions,
    is_ours: impl Fn(SlotId) -> bool,
) -> BTreeMap<TriggerId, Wanted> {
    let mut wanted = BTreeMap::new();
    for latest in functions.latest() {
        let Some(entry) = firing(&latest.name, |qualified| functions.named(qualified)) else {
            continue;
        };
        let triggers = of(&entry).filter(|trigger| is_ours(trigger.slot()));
        wanted.extend(triggers.map(|trigger| (trigger.id(), trigger)));
    }
    wanted
}

fn of(entry: &CatalogEntry) -> impl Iterator<Item = Wanted> {
    let triggers = &entry.manifest.triggers;
    let schedules = triggers.schedule.iter().cloned().map(Pull::Schedule);
    let feeds = triggers.feed.iter().cloned().map(Pull::Feed);
    schedules.chain(feeds).map(|pull| Wanted {
        function: entry.name.clone(),
        trigger: match &pull {
            Pull::Schedule(trigger) => trigger.name.clone(),
            Pull::Feed(trigger) => trigger.name.clone(),
        },
        target: entry.qualified.clone(),
        version: entry.version,
        budget_ms: entry.manifest.timeout_ms + START.as_millis() as u32,
        pull,
    })
}

impl Wanted {
    pub(super) fn id(&self) -> TriggerId {
        (self.function.clone(), self.trigger.clone())
    }

    /// The slot whose owner pulls it.
    pub(super) fn slot(&self) -> SlotId {
        match &self.pull {
            Pull::Schedule(_) => schedule_slot(&self.function, &self.trigger),
            Pull::Feed(feed) => feed.slot(),
        }
    }

    /// The key of what survives of it, in that slot.
    pub(super) fn state_key(&self) -> Vec<u8> {
        let Self {
            function, trigger, ..
        } = self;
        let key = match &self.pull {
            Pull::Schedule(_) => format!("{}s:{function}/{trigger}", tag(shelf(function, trigger))),
            Pull::Feed(feed) => format!("wp-trigger:{}:{function}/{trigger}", feed.tag()),
        };
        key.into_bytes()
    }

    pub(super) const fn kind(&self) -> TriggerKind {
        match self.pull {
            Pull::Schedule(_) => TriggerKind::Schedule,
            Pull::Feed(_) => TriggerKind::Feed,
        }
    }

    /// The id of its call at `place`: a time, or a place in the feed. The same place, the same call.
    pub(super) fn call_id(&self, place: u64) -> CallId {
        let mut hash = Sha256::new();
        for part in [self.kind().name(), &self.function, &self.trigger] {
            hash.update(part);
            hash.update([0]);
        }
        hash.update(place.to_be_bytes());
        let digest: [u8; 32] = hash.finalize().into();
        let [b1, b2, b3, b4, b5, b6, b7, ..] = digest;
        CallId::of(
            shelf(&self.function, &self.trigger),
            [b1, b2, b3, b4, b5, b6, b7],
        )
        .expect("the shelf of a trigger is one of them")
    }

    /// Its call, on behalf of a key of `slot` or of nobody.
    pub(super) fn call(&self, slot: Option<SlotId>) -> Deferred {
        Deferred {
            function: self.target.clone(),
            http: false,
            session: None,
            slot: slot.map(|slot| slot.0),
            budget_ms: self.budget_ms,
        }
    }

    /// Who pays for its calls, by the name in bills.
    pub(super) fn payer(&self) -> String {
        format!("trigger:{}/{}", self.function, self.trigger)
    }

    /// What is said of it before anything is known.
    pub(super) fn report(&self) -> TriggerReport {
        TriggerReport {
            function: self.function.clone(),
            trigger: self.trigger.clone(),
            kind: self.kind(),
            version: self.version,
            fired: 0,
            last_ms: None,
            last_call: None,
            next_ms: None,
            missed: 0,
            cursor: None,
            lag: 0,
            failures: 0,
            dead: 0,
            error: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ebpf_common::ids::FunctionId;
    use store::{Catalog, Digest, Manifest};

    use super::*;

    const BOTH: &str = "[[triggers.schedule]]\nname = 's'\ncron = '@daily'\n[[triggers.feed]]\nname = 'w'\nprefix = '{a}:'";

    fn entry(name: &str, selector: &str, version: u32, triggers: &str) -> CatalogEntry {
        let qualified = format!("{name}@{selector}");
        CatalogEntry {
            id: FunctionId::of(&qualified),
            name: name.to_owned(),
            qualified,
            version,
            digest: Digest::of(b""),
            manifest: Manifest::parse(format!("name = '{name}'\n{triggers}").as_bytes()).unwrap(),
        }
    }

    fn functions(entries: Vec<CatalogEntry>) -> Arc<Functions> {
        Arc::new(Functions::fixed(Catalog {
            revision: 1,
            entries,
        }))
    }

    #[test]
    fn only_the_triggers_of_the_version_that_fires_and_of_our_slots_are_wanted() {
        let functions = functions(vec![
            entry("f", "latest", 2, BOTH),
            entry("f", "2", 2, BOTH),
            entry("f", "1", 1, BOTH),
            entry("g", "latest", 1, ""),
        ]);
        let all = wanted(&functions, |_| true);
        let ids: Vec<_> = all.keys().map(|(f, t)| format!("{f}/{t}")).collect();
        assert_eq!(ids, ["f/s", "f/w"]);
        assert!(
            all.values()
                .all(|it| it.target == "f@latest" && it.version == 2)
        );
        let [schedule, feed] = [
            &all[&("f".into(), "s".into())],
            &all[&("f".into(), "w".into())],
        ];
        assert_eq!(wanted(&functions, |slot| slot == feed.slot()).len(), 1);
        for trigger in [schedule, feed] {
            let key = trigger.state_key();
            assert_eq!(ebpf_common::hash::slot_of_key(&key), trigger.slot());
        }
        assert!(wanted(&functions, |_| false).is_empty());
    }

    #[test]
    fn calls_go_to_the_alias_and_its_version_when_the_latest_says_so() {
        let aliased = format!("[triggers]\nalias = 'stable'\n{BOTH}");
        let functions = functions(vec![
            entry("f", "latest", 2, &aliased),
            entry("f", "stable", 1, BOTH),
        ]);
        let all = wanted(&functions, |_| true);
        assert_eq!(all.len(), 2);
        assert!(
            all.values()
                .all(|it| it.target == "f@stable" && it.version == 1)
        );
    }

    #[test]
    fn a_place_has_one_call_and_no_other_has_it() {
        let functions = functions(vec![
            entry("f", "latest", 1, BOTH),
            entry("fs", "latest", 1, BOTH),
        ]);
        let all = wanted(&functions, |_| true);
        let ids: std::collections::BTreeSet<_> = all
            .values()
            .flat_map(|it| (0..100).map(|place| it.call_id(place).to_string()))
            .collect();
        assert_eq!(ids.len(), 400);
        let one = &all[&("f".into(), "s".into())];
        assert_eq!(one.call_id(7), one.clone().call_id(7));
    }
}
