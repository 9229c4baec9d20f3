//! Pins: taken over, refused by name when they are of another layout, and taken down.

use std::path::Path;

use aya::{
    EbpfLoader,
    maps::{Array, Map, MapData},
    programs::{
        ProgramInfo, Xdp,
        links::{FdLink, PinnedLink},
    },
};
use balancer_userspace::maps;
use ebpf_common::{LAYOUT_VERSION, maps::name};
use tests::topology::Layout;

use crate::{
    bed::{Bed, PATIENCE},
    client::Load,
};

fn set_layout(pin_path: &Path, version: u32) {
    let map = Map::from_map_data(MapData::from_pin(pin_path.join(name::LAYOUT)).unwrap()).unwrap();
    Array::<_, u32>::try_from(map)
        .unwrap()
        .set(0, version, 0)
        .unwrap();
}

#[test]
fn maps_of_another_layout_are_refused_by_name_and_go_on_working() {
    let mut bed = Bed::new(Layout::OneArm, 1);
    let _echoes = bed.echoes();
    bed.control.kill().unwrap();
    set_layout(&bed.pin_path(), 999);
    let mut bed = {
        let hosts = bed.into_hosts();
        let refusal = hosts.refusal();
        assert!(refusal.contains("layout 999"), "{refusal}");
        assert!(
            refusal.contains(&format!("layout {LAYOUT_VERSION}")),
            "{refusal}"
        );
        assert!(
            refusal.contains("balancer detach"),
            "it says how to mend it: {refusal}"
        );
        set_layout(&hosts.pin_path(), LAYOUT_VERSION);
        hosts.start()
    };
    assert!(bed.status().adopted);
    bed.wait_settled(1);
    bed.client().call("echo").unwrap();
    bed.control.check().unwrap();
}

#[test]
fn another_versions_program_is_replaced_without_losing_a_packet() {
    let mut bed = Bed::new(Layout::OneArm, 2);
    let _echoes = bed.echoes();
    let link_path = link_pin(&bed.pin_path());
    let link_id = link_info(&link_path).0;
    let load = Load::start(bed.client(), |client, _| client.call("echo"));
    bed.control.kill().unwrap();

    // Stands in for an older version's program: the same maps, other code. The links' program is that one.
    let mut loader = EbpfLoader::new();
    for name in name::ALL {
        loader.map_pin_path(name, bed.pin_path().join(name));
    }
    let mut ebpf = loader.load(balancer_userspace::object().unwrap()).unwrap();
    let other: &mut Xdp = ebpf.program_mut("pass").unwrap().try_into().unwrap();
    other.load().unwrap();
    let pin = bed.pin_path().join("balancer");
    std::fs::remove_file(&pin).unwrap();
    other.pin(&pin).unwrap();

    bed.restart_control();
    bed.wait_settled(2);
    let tally = load.stop();
    assert_eq!((tally.lost, tally.refused), (0, 0), "{tally:?}");
    let (id, program) = link_info(&link_path);
    assert_eq!(id, link_id, "the link was updated, not made anew");
    assert_eq!(program, ProgramInfo::from_pin(&pin).unwrap().id());
    assert_eq!(program, bed.status().program_id);
    bed.client().call("echo").unwrap();
}

fn link_pin(pin_path: &Path) -> std::path::PathBuf {
    let entries = std::fs::read_dir(pin_path).unwrap().flatten();
    let mut links = entries.map(|entry| entry.path()).filter(|path| {
        path.file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with("link_")
    });
    links.next().unwrap()
}

fn link_info(path: &Path) -> (u32, u32) {
    let link = FdLink::from(PinnedLink::from_pin(path).unwrap());
    let info = link.info().unwrap();
    (info.id(), info.program_id())
}

#[test]
fn detach_takes_everything_down() {
    let mut bed = Bed::new(Layout::TwoArms, 1);
    bed.control.stop(PATIENCE).unwrap();
    let pin_path = bed.pin_path();
    assert!(pin_path.join("balancer").exists());
    let detached = maps::detach(&pin_path).unwrap();
    assert_eq!(detached.links, 2);
    assert_eq!(detached.objects, name::ALL.len() + 1);
    assert!(detached.unmounted);
    assert!(!pin_path.exists());
    // Nothing is attached any more: another program finds the interfaces free.
    let nics = ["eth0", "eth1"];
    let _pass = tests::pass::PassProgram::attach(&bed.topology.balancer.netns, &nics).unwrap();
    assert!(
        maps::detach(&pin_path).is_err(),
        "the second time there is nothing"
    );
}

#[test]
fn an_unfinished_load_is_done_again() {
    let mut bed = Bed::new(Layout::OneArm, 1);
    bed.control.kill().unwrap();
    // As if it had been killed before its last pin.
    std::fs::remove_file(bed.pin_path().join(name::LAYOUT)).unwrap();
    bed.restart_control();
    assert!(!bed.status().adopted);
    let _echoes = bed.echoes();
    bed.client().call("echo").unwrap();
}
