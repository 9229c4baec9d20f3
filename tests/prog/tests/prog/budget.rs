//! What the object holds, and what the verifier makes of it.

use std::collections::BTreeSet;

use aya::{
    Ebpf, EbpfLoader,
    maps::Map,
    programs::{ProgramInfo, Xdp},
};
use ebpf_common::maps::name;

const BUDGET: &str = include_str!("../../../../xdp-balancer/verifier-budget.txt");
/// Bytes of an instruction.
const INSTRUCTION_LEN: u32 = 8;

fn load() -> Ebpf {
    EbpfLoader::new()
        .map_max_entries(name::SESSIONS, 1_024)
        .load(prog_tests::object())
        .unwrap()
}

fn verify(ebpf: &mut Ebpf, program: &str) -> ProgramInfo {
    let program: &mut Xdp = ebpf.program_mut(program).unwrap().try_into().unwrap();
    program.load().unwrap();
    program.info().unwrap()
}

/// Major and minor version of the running kernel.
fn kernel() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

#[test]
fn programs_stay_within_their_verifier_budget() {
    let mut ebpf = load();
    let mut checked = BTreeSet::new();
    for line in BUDGET.lines().filter(|line| !line.starts_with('#')) {
        let mut fields = line.split_whitespace();
        let program = fields.next().unwrap();
        let [verified, verified_by_old, translated_max] =
            [(); 3].map(|()| fields.next().unwrap().parse().unwrap());
        let verified_max = if kernel() < (6, 12) {
            verified_by_old
        } else {
            verified
        };
        let info = verify(&mut ebpf, program);
        let verified = info
            .verified_instruction_count()
            .expect("Linux 5.16 or newer");
        let translated = info.size_translated().expect("Linux 4.13 or newer") / INSTRUCTION_LEN;
        println!("{program}: {verified} verified, {translated} translated");
        assert!(
            verified <= verified_max,
            "{program}: {verified} instructions verified"
        );
        assert!(
            translated <= translated_max,
            "{program}: {translated} instructions"
        );
        checked.insert(program.to_owned());
    }
    let programs: BTreeSet<_> = ebpf
        .programs()
        .map(|(program, _)| program.to_owned())
        .collect();
    assert_eq!(checked, programs, "each program has a budget");
}

#[test]
fn the_object_holds_exactly_the_maps_of_the_contract() {
    let ebpf = load();
    // The compiler makes maps of its own for constants, whose names begin with a dot.
    let maps: BTreeSet<_> = ebpf
        .maps()
        .map(|(map, _)| map)
        .filter(|map| !map.starts_with('.'))
        .collect();
    let contract = name::ALL.iter().chain(name::OF_TRACER);
    assert_eq!(maps, contract.copied().collect());
}

/// Ids of the maps that only a tracer has.
fn maps_of_tracer(ebpf: &Ebpf) -> BTreeSet<u32> {
    let id = |name: &&str| match ebpf.map(name).unwrap() {
        Map::Array(data) | Map::PerCpuArray(data) | Map::RingBuf(data) => data.info().unwrap().id(),
        other => panic!("{name} is {other:?}"),
    };
    name::OF_TRACER.iter().map(id).collect()
}

#[test]
fn what_watches_packets_is_in_traced_alone() {
    let mut ebpf = load();
    let of_tracer = maps_of_tracer(&ebpf);
    for (program, expected) in [("balancer", &BTreeSet::new()), ("traced", &of_tracer)] {
        let used = verify(&mut ebpf, program).map_ids().unwrap();
        let used: BTreeSet<u32> = used.expect("Linux 4.15 or newer").into_iter().collect();
        assert!(used.len() > name::ALL.len() / 2, "the kernel says which");
        let both: BTreeSet<u32> = used.intersection(&of_tracer).copied().collect();
        assert_eq!(&both, expected, "{program}");
    }
}
