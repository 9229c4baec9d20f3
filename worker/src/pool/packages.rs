//! The policy of package zygotes: which of them a cold start is forked from, which is grown next, which goes.
//! Pure: no clock, no process; what happened is told, what is to happen is asked.
//!
//! A zygote is worth the import time that it has saved lately, per MB. One is grown when functions have
//! missed it for long enough, from the zygote that has most of it already; what several functions have in
//! common is grown first, so that it lies between the first zygote and theirs. All of them together stay
//! within a budget of memory, and a newcomer pushes out only what is worth less.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use store::Digest;

use crate::runtime::protocol::Imported;

/// Imports that take less are in the first zygote, or not worth a thought.
const IMPORT_US_MIN: u64 = 300;
/// A zygote is grown when this much time was missed for want of it.
const MISSED_US_MIN: f64 = 10_000.0;
/// Saved and missed time count half after so many seconds.
const HALF_LIFE_S: f64 = 600.0;
/// What a zygote takes, until one like it was measured.
const MEMORY_MB_GUESS: u64 = 24;
/// Functions remembered; the one missed least is forgotten first.
const FUNCTIONS_MAX: usize = 4_096;

/// A module to import. Two of one name from two layers are two.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Import {
    /// Its name.
    pub(super) module: String,
    /// The layer that it comes from; `None` for the standard library.
    pub(super) layer: Option<String>,
}

/// What a zygote has, or what a function wants of one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PackageSet {
    /// Whose: no two tenants share a zygote with packages, for importing them runs their code.
    pub(super) tenant: String,
    /// The layers, in the order in which they are searched.
    pub(super) layers: Vec<String>,
    /// The modules imported.
    pub(super) imports: BTreeSet<Import>,
}

impl PackageSet {
    /// Whether a function that wants `wanted` can be forked from a zygote with this: it has nothing that
    /// the function has not got.
    pub(super) fn serves(&self, wanted: &Self) -> bool {
        self.tenant == wanted.tenant
            && self.imports.is_subset(&wanted.imports)
            && self
                .layers
                .iter()
                .all(|layer| wanted.layers.contains(layer))
    }

    /// What both have.
    fn common(&self, other: &Self) -> Self {
        let both = |layer: &&String| other.layers.contains(layer);
        Self {
            tenant: self.tenant.clone(),
            layers: self.layers.iter().filter(both).cloned().collect(),
            imports: self.imports.intersection(&other.imports).cloned().collect(),
        }
    }
}

/// A number that halves every [`HALF_LIFE_S`].
#[derive(Debug, Clone, Copy, Default)]
struct Fading {
    value: f64,
    at_s: f64,
}

impl Fading {
    fn at(&self, now_s: f64) -> f64 {
        self.value * (-(now_s - self.at_s).max(0.0) / HALF_LIFE_S).exp2()
    }

    fn add(&mut self, amount: f64, now_s: f64) {
        *self = Self {
            value: self.at(now_s) + amount,
            at_s: now_s,
        };
    }
}

/// What is known of a function.
#[derive(Debug, Clone)]
struct Function {
    wants: PackageSet,
    /// Microseconds that each import took when it was not there yet.
    cost_us: BTreeMap<Import, u64>,
    /// Import time that its cold starts could have been spared.
    missed_us: Fading,
}

impl Function {
    fn cost_of(&self, imports: &BTreeSet<Import>) -> u64 {
        let costs = imports.iter().filter_map(|name| self.cost_us.get(name));
        costs.sum()
    }
}

/// A zygote that runs.
#[derive(Debug, Clone)]
struct Node {
    set: PackageSet,
    memory_mb: u64,
    saved_us: Fading,
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// The zygote to grow.
    pub(super) set: PackageSet,
    /// From which; `None`: the first one.
    pub(super) parent: Option<u64>,
    /// The zygotes to end before that.
    pub(super) evict: Vec<u64>,
}

/// A cold start that has come to its end.
#[derive(Debug)]
pub(super) struct Started<'a> {
    /// The function, by its code.
    pub(super) function: &'a Digest,
    /// Whose it is.
    pub(super) tenant: &'a str,
    /// Its layers.
    pub(super) layers: &'a [String],
    /// What it imported.
    pub(super) imports: &'a [Imported],
    /// The zygote that it was forked from; `None`: the first one.
    pub(super) from: Option<u64>,
}

/// The zygotes with packages, as the policy sees them.
#[derive(Debug)]
pub(super) struct Policy {
    budget_mb: u64,
    functions: HashMap<Digest, Function>,
    nodes: BTreeMap<u64, Node>,
    measured_mb: HashMap<PackageSet, u64>,
    /// Sets that cannot be zygotes: they start threads, or end while they import.
    unfit: BTreeSet<PackageSet>,
}

impl Policy {
    pub(super) fn new(budget_mb: u64) -> Self {
        Self {
            budget_mb,
            functions: HashMap::new(),
            nodes: BTreeMap::new(),
            measured_mb: HashMap::new(),
            unfit: BTreeSet::new(),
        }
    }

    /// The zygote to fork an instance of `function` from; `None`: the first one.
    pub(super) fn best(&self, function: &Digest) -> Option<u64> {
        let function = self.functions.get(function)?;
        self.best_for(&function.wants, function)
    }

    fn best_for(&self, wanted: &PackageSet, function: &Function) -> Option<u64> {
        self.nodes
            .iter()
            .filter(|(_, node)| node.set.serves(wanted))
            .max_by_key(|(id, node)| (function.cost_of(&node.set.imports), **id))
            .map(|(id, _)| *id)
    }

    /// Takes note of a cold start.
    pub(super) fn started(&mut self, started: &Started<'_>, now_s: f64) {
        if self.functions.len() >= FUNCTIONS_MAX && !self.functions.contains_key(started.function) {
            self.forget_one(now_s);
        }
        let function = self
            .functions
            .entry(started.function.clone())
            .or_insert_with(|| Function {
                wants: PackageSet {
                    tenant: started.tenant.to_owned(),
                    layers: started.layers.to_vec(),
                    imports: BTreeSet::new(),
                },
                cost_us: BTreeMap::new(),
                missed_us: Fading::default(),
            });
        let slow = |import: &&Imported| import.us >= IMPORT_US_MIN;
        for import in started.imports.iter().filter(slow) {
            // A layer that the function has not got is none of its.
            let layer = import
                .layer
                .clone()
                .filter(|layer| started.layers.contains(layer));
            let key = Import {
                module: import.module.clone(),
                layer,
            };
            let cost = function.cost_us.entry(key.clone()).or_default();
            *cost = (*cost).max(import.us);
            function.wants.imports.insert(key);
        }
        let took = started.imports.iter().map(|import| import.us).sum::<u64>();
        function.missed_us.add(took as f64, now_s);
        let function = function.clone();
        if let Some(node) = started.from.and_then(|id| self.nodes.get_mut(&id)) {
            node.saved_us
                .add(function.cost_of(&node.set.imports) as f64, now_s);
        }
    }

    fn forget_one(&mut self, now_s: f64) {
        let least = self
            .functions
            .iter()
            .min_by(|(_, a), (_, b)| a.missed_us.at(now_s).total_cmp(&b.missed_us.at(now_s)));
        if let Some(digest) = least.map(|(digest, _)| digest.clone()) {
            self.functions.remove(&digest);
        }
    }

    /// What to do next, if anything.
    pub(super) fn next(&self, now_s: f64) -> Option<Plan> {
        let mut missed: Vec<&Function> = self
            .functions
            .values()
            .filter(|function| function.missed_us.at(now_s) >= MISSED_US_MIN)
            .filter(|function| self.is_wanted(&function.wants))
            .collect();
        missed.sort_by(|a, b| {
            let order = b.missed_us.at(now_s).total_cmp(&a.missed_us.at(now_s));
            order.then_with(|| a.wants.cmp(&b.wants))
        });
        missed
            .into_iter()
            .find_map(|function| self.plan_for(function, now_s))
    }

    /// Whether there is no such zygote, and can be one.
    fn is_wanted(&self, set: &PackageSet) -> bool {
        !set.imports.is_empty()
            && !self.unfit.contains(set)
            && self.nodes.values().all(|node| node.set != *set)
    }

    fn plan_for(&self, function: &Function, now_s: f64) -> Option<Plan> {
        let set = self
            .shared_part(function)
            .unwrap_or_else(|| function.wants.clone());
        let worth = function.missed_us.at(now_s);
        let needed_mb = self
            .measured_mb
            .get(&set)
            .copied()
            .unwrap_or(MEMORY_MB_GUESS);
        let evict = self.victims(needed_mb, worth / needed_mb.max(1) as f64, now_s)?;
        let parent = self
            .best_for(&set, function)
            .filter(|id| !evict.contains(id));
        Some(Plan { set, parent, evict })
    }

    /// What `function` has in common with another one, if that is at least half of what it imports: the most
    /// there is.
    fn shared_part(&self, function: &Function) -> Option<PackageSet> {
        let half = function.cost_of(&function.wants.imports) / 2;
        self.functions
            .values()
            .filter(|other| other.wants.tenant == function.wants.tenant)
            .map(|other| function.wants.common(&other.wants))
            .filter(|common| *common != function.wants && self.is_wanted(common))
            .map(|common| (function.cost_of(&common.imports), common))
            .filter(|(cost, _)| *cost >= half)
            .max()
            .map(|(_, common)| common)
    }

    /// The zygotes that have to go for `needed_mb`, each worth less per MB than `worth`; `None` when
    /// that does not make room.
    fn victims(&self, needed_mb: u64, worth: f64, now_s: f64) -> Option<Vec<u64>> {
        let mut free = self.budget_mb.saturating_sub(self.memory_mb());
        let mut nodes: Vec<(f64, u64, u64)> = self
            .nodes
            .iter()
            .map(|(id, node)| (worth_of(node, now_s), *id, node.memory_mb))
            .filter(|(value, ..)| *value < worth)
            .collect();
        nodes.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let mut victims = Vec::new();
        for (_, id, memory_mb) in nodes {
            if free >= needed_mb {
                break;
            }
            free += memory_mb;
            victims.push(id);
        }
        (free >= needed_mb).then_some(victims)
    }

    /// A zygote was grown. Those that have to go for it, now that it is known how much it takes; itself,
    /// if it does not fit at all.
    pub(super) fn grown(
        &mut self,
        id: u64,
        set: PackageSet,
        memory_mb: u64,
        now_s: f64,
    ) -> Vec<u64> {
        self.measured_mb.insert(set.clone(), memory_mb);
        // Worth what its functions have missed, until it has a history of its own.
        let missed: f64 = self
            .functions
            .values()
            .filter(|function| set.serves(&function.wants))
            .map(|function| function.missed_us.at(now_s))
            .sum();
        let mut saved_us = Fading::default();
        saved_us.add(missed, now_s);
        for function in self.functions.values_mut() {
            if function.wants == set {
                function.missed_us = Fading::default();
            }
        }
        let node = Node {
            set,
            memory_mb,
            saved_us,
        };
        self.nodes.insert(id, node);
        let mut gone = Vec::new();
        while self.memory_mb() > self.budget_mb {
            let least = self
                .nodes
                .iter()
                .min_by(|(_, a), (_, b)| worth_of(a, now_s).total_cmp(&worth_of(b, now_s)));
            let Some(id) = least.map(|(id, _)| *id) else {
                break;
            };
            self.nodes.remove(&id);
            gone.push(id);
        }
        gone
    }

    /// There can be no zygote with `set`.
    pub(super) fn is_unfit(&mut self, set: PackageSet) {
        self.unfit.insert(set);
    }

    /// A zygote has ended.
    pub(super) fn ended(&mut self, id: u64) {
        self.nodes.remove(&id);
    }

    /// What all of them take.
    pub(super) fn memory_mb(&self) -> u64 {
        self.nodes.values().map(|node| node.memory_mb).sum()
    }

    /// Milliseconds of import time that a zygote has saved lately.
    pub(super) fn saved_ms(&self, id: u64, now_s: f64) -> u64 {
        let saved = self
            .nodes
            .get(&id)
            .map_or(0.0, |node| node.saved_us.at(now_s));
        (saved / 1_000.0) as u64
    }
}

fn worth_of(node: &Node, now_s: f64) -> f64 {
    node.saved_us.at(now_s) / node.memory_mb.max(1) as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn function(number: usize) -> Digest {
        Digest::of(&(number as u64).to_le_bytes())
    }

    fn names(names: &[&str]) -> BTreeSet<Import> {
        let import = |name: &&str| Import {
            module: (*name).to_owned(),
            layer: Some(format!("layer-{name}")),
        };
        names.iter().map(import).collect()
    }

    fn imported(name: &str, us: u64) -> Imported {
        Imported {
            module: name.to_owned(),
            us,
            layer: Some(format!("layer-{name}")),
        }
    }

    fn start(
        policy: &mut Policy,
        number: usize,
        tenant: &str,
        imports: &[(&str, u64)],
        from: Option<u64>,
    ) {
        let imports: Vec<Imported> = imports
            .iter()
            .map(|(name, us)| imported(name, *us))
            .collect();
        let layers: Vec<String> = imports.iter().filter_map(|one| one.layer.clone()).collect();
        let started = Started {
            function: &function(number),
            tenant,
            layers: &layers,
            imports: &imports,
            from,
        };
        policy.started(&started, 0.0);
    }

    #[test]
    fn one_slow_import_is_reason_enough_and_a_quick_one_is_not() {
        let mut policy = Policy::new(256);
        start(&mut policy, 1, "t", &[("quick", 200)], None);
        assert_eq!(policy.next(0.0), None);
        start(&mut policy, 2, "t", &[("numpy", 100_000)], None);
        let plan = policy.next(0.0).unwrap();
        assert_eq!((plan.set.imports, plan.parent), (names(&["numpy"]), None));
    }

    #[test]
    fn what_is_common_is_grown_first_and_the_rest_from_it() {
        let mut policy = Policy::new(256);
        start(
            &mut policy,
            1,
            "t",
            &[("numpy", 100_000), ("pandas", 90_000)],
            None,
        );
        start(
            &mut policy,
            2,
            "t",
            &[("numpy", 100_000), ("scipy", 80_000)],
            None,
        );
        let first = policy.next(0.0).unwrap();
        assert_eq!(
            (&first.set.imports, first.parent),
            (&names(&["numpy"]), None)
        );
        assert_eq!(first.set.layers, ["layer-numpy"]);
        assert!(policy.grown(1, first.set, 20, 0.0).is_empty());
        let second = policy.next(0.0).unwrap();
        assert_eq!(second.parent, Some(1));
        assert!(policy.grown(2, second.set, 40, 0.0).is_empty());
        let third = policy.next(0.0).unwrap();
        assert_eq!(third.parent, Some(1));
        policy.grown(3, third.set, 40, 0.0);
        assert_eq!(policy.next(0.0), None, "everybody has one");
        let of = |number| policy.best(&function(number)).unwrap();
        assert_ne!(of(1), of(2));
        assert!(of(1) > 1 && of(2) > 1);
    }

    #[test]
    fn modules_of_one_name_from_two_layers_have_nothing_in_common() {
        let mut policy = Policy::new(256);
        for (number, layer) in [(1, "a"), (2, "b")] {
            let import = Imported {
                layer: Some(layer.to_owned()),
                ..imported("lib", 50_000)
            };
            let started = Started {
                function: &function(number),
                tenant: "t",
                layers: &[layer.to_owned()],
                imports: &[import],
                from: None,
            };
            policy.started(&started, 0.0);
        }
        let plan = policy.next(0.0).unwrap();
        assert_eq!(plan.set.layers.len(), 1, "that of one function as a whole");
    }

    #[test]
    fn tenants_share_no_zygote() {
        let mut policy = Policy::new(256);
        start(&mut policy, 1, "a", &[("numpy", 100_000)], None);
        let plan = policy.next(0.0).unwrap();
        policy.grown(1, plan.set, 20, 0.0);
        start(&mut policy, 2, "b", &[("numpy", 100_000)], None);
        assert_eq!(policy.best(&function(1)), Some(1));
        assert_eq!(policy.best(&function(2)), None);
        assert_eq!(policy.next(0.0).unwrap().set.tenant, "b");
    }

    #[test]
    fn what_cannot_be_a_zygote_is_not_tried_again() {
        let mut policy = Policy::new(256);
        start(&mut policy, 1, "t", &[("threads", 100_000)], None);
        let plan = policy.next(0.0).unwrap();
        policy.is_unfit(plan.set);
        assert_eq!(policy.next(0.0), None);
    }

    #[test]
    fn a_newcomer_pushes_out_what_is_worth_less_and_nothing_else() {
        let mut policy = Policy::new(50);
        start(&mut policy, 1, "t", &[("dear", 1_000_000)], None);
        let plan = policy.next(0.0).unwrap();
        policy.grown(1, plan.set, 30, 0.0);
        start(&mut policy, 2, "t", &[("cheap", 20_000)], None);
        assert_eq!(policy.next(0.0), None, "no room, and worth less");
        start(&mut policy, 3, "t", &[("dearer", 9_000_000)], None);
        assert_eq!(policy.next(0.0).unwrap().evict, [1]);
        // Long after, nobody remembers what the first one saved.
        let late = 100.0 * HALF_LIFE_S;
        let again = Started {
            function: &function(2),
            tenant: "t",
            layers: &["layer-cheap".to_owned()],
            imports: &[imported("cheap", 20_000)],
            from: None,
        };
        policy.started(&again, late);
        assert_eq!(policy.next(late).unwrap().evict, [1]);
    }

    proptest! {
        /// Whatever functions come, zygotes stay within the budget, and none serves a function that has not
        /// got all that is in it.
        #[test]
        fn zygotes_keep_to_the_budget_and_serve_only_their_own(
            budget in 0u64..200,
            starts in prop::collection::vec((0usize..12, 0usize..3, prop::collection::vec((0usize..6, 0u64..200_000), 0..5), 1u64..120), 1..60),
        ) {
            let mut policy = Policy::new(budget);
            let mut next_id = 0;
            for (at, (number, tenant, imports, memory_mb)) in starts.into_iter().enumerate() {
                let now = at as f64;
                // A function belongs to one tenant.
                let digest = function(number * 3 + tenant);
                let imports: Vec<Imported> = imports.into_iter().map(|(n, us)| imported(&format!("m{n}"), us)).collect();
                let tenant = format!("t{tenant}");
                let from = policy.best(&digest);
                let layers: Vec<String> = imports.iter().filter_map(|one| one.layer.clone()).collect();
                policy.started(&Started { function: &digest, tenant: &tenant, layers: &layers, imports: &imports, from }, now);
                for _ in 0..3 {
                    let Some(plan) = policy.next(now) else { break };
                    if let Some(parent) = plan.parent {
                        prop_assert!(!plan.evict.contains(&parent));
                        prop_assert!(policy.nodes[&parent].set.serves(&plan.set));
                    }
                    for id in plan.evict {
                        policy.ended(id);
                    }
                    next_id += 1;
                    policy.grown(next_id, plan.set, memory_mb, now);
                    prop_assert!(policy.memory_mb() <= budget);
                }
                for (digest, function) in &policy.functions {
                    if let Some(id) = policy.best(digest) {
                        prop_assert!(policy.nodes[&id].set.serves(&function.wants));
                    }
                }
            }
        }
    }
}
