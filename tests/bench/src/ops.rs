//! What single operations cost, by the same method as whole packets: for those who design the data plane.

use std::fmt;

use anyhow::Result;
use aya::{
    maps::{HashMap, LpmTrie, lpm_trie::Key},
    programs::ProgramFd,
};
use blast::{Ip, Scene, scene};
use ebpf_common::{
    hash::mix64,
    ids::FunctionId,
    traffic::{undo, vary},
    wire::RpcHeader,
};
use serde::{Deserialize, Serialize};

use crate::{
    harness::{Harness, TX},
    statistics::Summary,
    world,
};

const ONE: &[u32] = &[1];
const MANY: &[u32] = &[1, 1 << 10, 1 << 17, 1 << 20];

/// Operation, numbers of flows, whether sessions never come again.
const OPERATIONS: &[(&str, &[u32], bool)] = &[
    ("swap", ONE, false),
    ("op_key", ONE, false),
    ("op_mix64", ONE, false),
    ("op_siphash_1", ONE, false),
    ("op_siphash_3", ONE, false),
    ("op_array", ONE, false),
    ("op_array_4", ONE, false),
    ("op_percpu", ONE, false),
    ("op_percpu_4", ONE, false),
    ("op_atomic", ONE, false),
    ("op_ktime", ONE, false),
    ("op_ktime_coarse", ONE, false),
    ("op_ktime_tai", ONE, false),
    ("op_random", ONE, false),
    ("op_cpu", ONE, false),
    ("op_loop_1", ONE, false),
    ("op_loop_64", ONE, false),
    ("op_grow", ONE, false),
    ("op_cut", ONE, false),
    ("op_line", MANY, false),
    ("op_line_2", MANY, false),
    ("op_line_write", MANY, false),
    ("op_hash", MANY, false),
    ("op_hash_lazy", MANY, false),
    ("op_hash16", MANY, false),
    ("op_lru", MANY, false),
    ("op_lru_set", MANY, false),
    ("op_lru_set", ONE, true),
    ("op_lpm4", MANY, false),
];

/// What an operation took.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Row {
    operation: String,
    flows: u32,
    median_ns: f64,
    floor_ns: f64,
    min_ns: f64,
    max_ns: f64,
}

struct Op {
    name: String,
    flows: u32,
    target: ProgramFd,
    scene: Scene,
    results: Vec<f64>,
    floors: Vec<f64>,
}

/// Measures all operations whose name contains `filter`.
pub(crate) fn run(filter: &str, rounds: u32, packets: u32) -> Result<Vec<Row>> {
    let mut harness = Harness::load()?;
    let floor = harness.target("tx")?;
    fill(&mut harness)?;
    let mut ops = Vec::new();
    for (name, flows, new) in OPERATIONS.iter().filter(|(name, ..)| name.contains(filter)) {
        let target = harness.target(name)?;
        for flows in *flows {
            ops.push(Op {
                name: format!("{name}{}", if *new { " (new keys)" } else { "" }),
                flows: *flows,
                target: target.try_clone()?,
                scene: scene(name, *flows, *new),
                results: Vec::new(),
                floors: Vec::new(),
            });
        }
    }
    for round in 0..=rounds {
        for op in &mut ops {
            harness.show(&op.scene)?;
            harness.aim(&floor)?;
            let floor = harness.run(&op.scene, packets, TX)?;
            harness.aim(&op.target)?;
            let result = harness.run(&op.scene, packets, TX)?;
            // The first round fills caches and LRU tables.
            if round > 0 {
                op.floors.push(floor);
                op.results.push(result);
            }
        }
    }
    Ok(ops.iter().filter_map(Op::row).collect())
}

impl Op {
    fn row(&self) -> Option<Row> {
        let (result, floor) = (Summary::of(&self.results)?, Summary::of(&self.floors)?);
        Some(Row {
            operation: self.name.clone(),
            flows: self.flows,
            median_ns: result.median,
            floor_ns: floor.median,
            min_ns: result.min,
            max_ns: result.max,
        })
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:24} {:>8} flows: net {:6.1} ns  (median {:6.1}, {:.0}–{:.0}; floor {:.1})",
            self.operation,
            self.flows,
            self.median_ns - self.floor_ns,
            self.median_ns,
            self.min_ns,
            self.max_ns,
            self.floor_ns
        )
    }
}

/// The rows for the document: a line for each operation, a column for each number of flows.
pub(crate) fn markdown(rows: &[Row]) -> String {
    let mut out = String::from("| operation | 1 | 1k | 131k | 1M |\n|---|---|---|---|---|\n");
    let mut names: Vec<&str> = rows.iter().map(|row| row.operation.as_str()).collect();
    names.dedup();
    for name in names {
        let cell = |flows: &u32| {
            let row = rows
                .iter()
                .find(|row| row.operation == name && row.flows == *flows);
            row.map_or_else(String::new, |row| {
                format!("{:.0}", row.median_ns - row.floor_ns)
            })
        };
        let cells: Vec<_> = MANY.iter().map(cell).collect();
        out += &format!(
            "| {} | {} |\n",
            name.trim_start_matches("op_"),
            cells.join(" | ")
        );
    }
    out
}

fn scene(name: &str, flows: u32, new: bool) -> Scene {
    let what = if new {
        vary::NEW_SESSION
    } else {
        vary::SESSION
    };
    let mut scene = scene::rpc(
        Ip::V4,
        world::NOWHERE,
        RpcHeader::request(FunctionId(1), 1),
        64,
        what,
        flows,
    );
    scene.template.session_seed = 0;
    scene.undoing(match name {
        "op_grow" => undo::HEAD,
        "op_cut" => undo::TAIL,
        _ => undo::NOTHING,
    })
}

/// Fills the tables with the keys of a million flows; the trie with one prefix that matches nothing.
fn fill(harness: &mut Harness) -> Result<()> {
    for name in ["OP_HASH", "OP_HASH_LAZY"] {
        let mut map = HashMap::<_, u64, u64>::try_from(harness.map_mut(name)?)?;
        for flow in 0..1u64 << 20 {
            map.insert(mix64(flow), flow, 0)?;
        }
    }
    let mut map = HashMap::<_, [u64; 2], u64>::try_from(harness.map_mut("OP_HASH16")?)?;
    for flow in 0..1u64 << 20 {
        map.insert([7, mix64(flow)], flow, 0)?;
    }
    let mut map = HashMap::<_, [u64; 2], u64>::try_from(harness.map_mut("OP_LRU")?)?;
    for flow in 0..1u64 << 20 {
        map.insert([7, mix64(flow)], flow, 0)?;
    }
    let mut trie = LpmTrie::<_, u32, u64>::try_from(harness.map_mut("OP_LPM4")?)?;
    let nowhere = Key::new(24, u32::from_ne_bytes([203, 0, 113, 0]));
    trie.insert(&nowhere, 1, 0)?;
    Ok(())
}
