//! The host library and the loaded program are the same code behind two compilers, two sets of maps and
//! two ways to touch memory. A million random frames through both must not tell them apart.

use std::{collections::BTreeMap, env, process::Command};

use ebpf_common::{
    ids::WorkerId,
    maps::{Class, Counter, Traffic, WorkerLoad, name},
};
use nix::{
    net::if_::if_nametoindex,
    sched::{CloneFlags, CpuSet, sched_setaffinity, unshare},
    unistd::Pid,
};
use prog_tests::program::{Action, Program};
use rand::{SeedableRng as _, rngs::StdRng};
use xdp_balancer::{
    balance,
    testing::{FakeTables, HostPacket},
};

use crate::{
    case::{action_of, assert_same_places, hex},
    world::World,
};

/// How many frames are compared; a long run sets it.
const FRAMES_VARIABLE: &str = "WARMPATH_TEST_FRAMES";
/// As many as CI compares.
const FRAMES: u64 = 1_050_000;
/// Frames of one world, in a run of up to [`WORLDS_MAX`] worlds.
const FRAMES_PER_WORLD: u64 = 10_500;
/// A longer run has longer worlds: tables take time to write.
const WORLDS_MAX: u64 = 1_000;

/// Set it to repeat a run that failed.
const SEED_VARIABLE: &str = "WARMPATH_TEST_SEED";

#[test]
fn host_library_and_loaded_program_agree_on_a_million_frames() {
    let seed: u64 = number(SEED_VARIABLE).unwrap_or_else(rand::random);
    let frames = number(FRAMES_VARIABLE).unwrap_or(FRAMES).max(1);
    println!("{SEED_VARIABLE}={seed}");
    let worlds = frames.div_ceil(FRAMES_PER_WORLD).min(WORLDS_MAX);
    stay_on_one_cpu();
    let port = other_port();
    let mut seen = BTreeMap::new();
    let mut actions = BTreeMap::new();
    for index in 0..worlds {
        // The first worlds take what does not divide evenly.
        let frames = frames / worlds + u64::from(index < frames % worlds);
        let mut rng = StdRng::seed_from_u64(seed.wrapping_add(index));
        let world = World::random(&mut rng, port);
        let mut program = Program::load(prog_tests::object(), &[]).unwrap();
        program.apply(&world.tables).unwrap();
        for frame in 0..frames {
            let bytes = world.frame(&mut rng);
            let action = agree(&world, &mut program, &bytes)
                .unwrap_or_else(|what| panic!("seed {seed}, world {index}, frame {frame}: {what}"));
            *actions.entry(format!("{action:?}")).or_insert(0_u64) += 1;
        }
        let what = format!("seed {seed}, world {index}");
        for (counter, count) in assert_same_maps(&program, &world.tables, &what) {
            *seen.entry(counter).or_insert(0) += count;
        }
    }
    println!("frames={}\n{actions:?}\n{seen:#?}", seen[&Counter::Packets]);
    assert_eq!(seen[&Counter::Packets], frames);
    if frames >= FRAMES {
        assert_covers(&seen);
    }
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable)
        .ok()
        .map(|value| value.parse().expect("a number"))
}

/// Runs one frame through both.
fn agree(world: &World, program: &mut Program, bytes: &[u8]) -> Result<Action, String> {
    let mut packet = HostPacket::new(bytes.to_vec());
    let verdict = balance(&mut packet, &world.tables);
    let (action, frame) = program.run(bytes).map_err(|error| format!("{error:#}"))?;
    if action_of(verdict) != action || packet.bytes != frame {
        return Err(format!(
            "in {}\nhost {verdict:?} {}\nprogram {action:?} {}",
            hex(bytes),
            hex(&packet.bytes),
            hex(frame)
        ));
    }
    Ok(action)
}

/// That all that the program counts and remembers is what the host library does; returns the counters.
fn assert_same_maps(program: &Program, tables: &FakeTables, what: &str) -> BTreeMap<Counter, u64> {
    let counters = tables.take_counters();
    assert_eq!(program.counters().unwrap(), counters, "{what}");
    assert_same_places(program, tables, what);
    let none = Traffic {
        packets: 0,
        bytes: 0,
    };
    let vips = tables.vip_counters.borrow();
    for vip in 0..64 {
        let expected = vips.get(&vip).copied().unwrap_or(none);
        let traffic = program.traffic(name::VIP_COUNTERS, vip).unwrap();
        assert_eq!(traffic, expected, "{what}: VIP {vip}");
    }
    let workers = tables.worker_counters.borrow();
    for (worker, load) in tables.loads.borrow().iter() {
        let expected = workers.get(worker).copied().unwrap_or(none);
        let index = u32::from(worker.0);
        let traffic = program.traffic(name::WORKER_COUNTERS, index).unwrap();
        assert_eq!(traffic, expected, "{what}: {worker:?}");
        assert_same_load(program, *worker, load, what);
    }
    let (blocked4, blocked6) = (&tables.police.block4, &tables.police.block6);
    assert_eq!(program.hits4().unwrap(), *blocked4.borrow(), "{what}");
    assert_eq!(program.hits6().unwrap(), *blocked6.borrow(), "{what}");
    counters
}

/// All of it but the time of the last LOAD packet: their clocks differ.
fn assert_same_load(program: &Program, worker: WorkerId, load: &WorkerLoad, what: &str) {
    let of_program = WorkerLoad {
        reported_ns: load.reported_ns,
        ..program.load_of(worker).unwrap()
    };
    assert_eq!(of_program, *load, "{what}: {worker:?}");
}

/// Counters that no frame of a world moves.
const NOT_REACHED: &[Counter] = &[
    // On a worker only.
    Counter::PassNotEncapsulated,
    Counter::PassDecapsulated,
    Counter::DropDecapSource,
    Counter::DropDecapNested,
    Counter::DropDecapBad,
    // The kernel's FIB would have to be the same on the host: it has tests of its own.
    Counter::PassNoNeighbour,
    Counter::DropNoRoute,
    // No worker's row asks for what would fail, and all tables are there.
    Counter::DropNotConfigured,
    Counter::DropNotRewritten,
    // No tracer is there.
    Counter::TraceLost,
];

/// The run proves something only if it has been everywhere: every counter that a frame can move has moved,
/// and routed packets are not a rare case.
fn assert_covers(seen: &BTreeMap<Counter, u64>) {
    let missing: Vec<_> = Counter::ALL
        .iter()
        .filter(|counter| !seen.contains_key(counter) && !NOT_REACHED.contains(counter))
        .collect();
    assert!(missing.is_empty(), "{missing:?} did not move");
    let packets = seen[&Counter::Packets];
    let sum = |keep: &dyn Fn(Class) -> bool| -> u64 {
        seen.iter()
            .filter(|(counter, _)| keep(counter.class()))
            .map(|(_, count)| count)
            .sum()
    };
    assert_eq!(sum(&Class::is_outcome), packets);
    assert!(sum(&|class| class == Class::Route) > packets / 8);
}

/// Some buckets are the CPU's own.
fn stay_on_one_cpu() {
    let mut cpus = CpuSet::new();
    cpus.set(0).unwrap();
    sched_setaffinity(Pid::from_raw(0), &cpus).unwrap();
}

/// An interface other than the one of arrival, in a network of this thread alone.
fn other_port() -> u32 {
    unshare(CloneFlags::CLONE_NEWNET).expect("needs root");
    let made = Command::new("ip")
        .args(["link", "add", "wpa", "type", "veth", "peer", "name", "wpb"])
        .status()
        .unwrap();
    assert!(made.success(), "ip link add: {made}");
    if_nametoindex("wpa").unwrap()
}
