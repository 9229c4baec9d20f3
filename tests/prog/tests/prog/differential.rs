//! The host library and the loaded program are the same code behind two compilers, two sets of maps and
//! two ways to touch memory. A million random frames through both must not tell them apart.

use std::{collections::BTreeMap, env, process::Command};

use ebpf_common::maps::{Class, Counter};
use nix::{
    net::if_::if_nametoindex,
    sched::{CloneFlags, unshare},
};
use prog_tests::program::{Action, Program};
use rand::{SeedableRng as _, rngs::StdRng};
use xdp_balancer::{balance, testing::HostPacket};

use crate::{
    case::{action_of, assert_same_places},
    world::World,
};

const WORLDS: u64 = 100;
const FRAMES_PER_WORLD: u64 = 10_500;

/// Set it to repeat a run that failed.
const SEED_VARIABLE: &str = "WARMPATH_TEST_SEED";

#[test]
fn host_library_and_loaded_program_agree_on_a_million_frames() {
    let seed: u64 = env::var(SEED_VARIABLE)
        .map_or_else(|_| rand::random(), |seed| seed.parse().expect("a number"));
    println!("{SEED_VARIABLE}={seed}");
    let port = other_port();
    let mut seen = BTreeMap::new();
    let mut actions = BTreeMap::new();
    for index in 0..WORLDS {
        let mut rng = StdRng::seed_from_u64(seed.wrapping_add(index));
        let world = World::random(&mut rng, port);
        let mut program = Program::load(prog_tests::object(), &[]).unwrap();
        program.apply(&world.tables).unwrap();
        for frame in 0..FRAMES_PER_WORLD {
            let bytes = world.frame(&mut rng);
            let action = agree(&world, &mut program, &bytes)
                .unwrap_or_else(|what| panic!("seed {seed}, world {index}, frame {frame}: {what}"));
            *actions.entry(format!("{action:?}")).or_insert(0) += 1;
        }
        let counters = world.tables.take_counters();
        assert_eq!(
            program.counters().unwrap(),
            counters,
            "seed {seed}, world {index}"
        );
        assert_same_places(
            &program,
            &world.tables,
            &format!("seed {seed}, world {index}"),
        );
        for (counter, count) in counters {
            *seen.entry(counter).or_insert(0) += count;
        }
    }
    assert_covers(&seen);
    println!("{actions:?}\n{seen:#?}");
}

/// Runs one frame through both.
fn agree(world: &World, program: &mut Program, bytes: &[u8]) -> Result<Action, String> {
    let mut packet = HostPacket::new(bytes.to_vec());
    let verdict = balance(&mut packet, &world.tables);
    let (action, frame) = program.run(bytes).map_err(|error| format!("{error:#}"))?;
    if action_of(verdict) != action || packet.bytes != frame {
        return Err(format!(
            "in {bytes:02x?}\nhost {verdict:?} {:02x?}\nprogram {action:?} {frame:02x?}",
            packet.bytes
        ));
    }
    Ok(action)
}

/// Counters that the worlds must move.
const REACHED: &[Counter] = &[
    Counter::PassNotIp,
    Counter::PassNotVip,
    Counter::RouteCookie,
    Counter::RouteSession,
    Counter::RouteShard,
    Counter::RouteWarm,
    Counter::RouteHome,
    Counter::DropIpFragment,
    Counter::ErrorNoWorker,
    Counter::SessionCreated,
    Counter::SessionMoved,
    Counter::FlowCreated,
];

/// The run proves something only if it has been everywhere: every counter that a frame can move has moved,
/// and routed packets are not a rare case.
fn assert_covers(seen: &BTreeMap<Counter, u64>) {
    for counter in REACHED {
        assert!(seen.contains_key(counter), "{counter:?}");
    }
    let packets = seen[&Counter::Packets];
    assert_eq!(packets, WORLDS * FRAMES_PER_WORLD);
    assert!(packets >= 1_000_000);
    let sum = |keep: &dyn Fn(Class) -> bool| -> u64 {
        seen.iter()
            .filter(|(counter, _)| keep(counter.class()))
            .map(|(_, count)| count)
            .sum()
    };
    assert_eq!(sum(&Class::is_outcome), packets);
    assert!(sum(&|class| class == Class::Route) > packets / 4);
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
