//! What all workers are told: who owns which slots, and what to keep warm.

use super::*;

#[test]
fn the_slot_map_names_live_owners_and_its_version_only_grows() {
    let mut bench = Bench::new();
    let (first, welcome) = bench.join("w0", "0-99");
    let shared = welcome.unwrap().shared;
    bench.join("w1", "100-199").1.unwrap();
    let owners = |shared: &Shared| -> Vec<String> {
        shared
            .slots
            .iter()
            .map(|owner| format!("{} {}", owner.range, owner.worker))
            .collect()
    };
    let before = shared.borrow().clone();
    assert_eq!(owners(&before), ["0-99 w0", "100-199 w1"]);
    bench.close(first);
    bench.settle();
    let after = shared.borrow().clone();
    assert_eq!(owners(&after), ["100-199 w1"]);
    assert!(after.slots_version > before.slots_version);

    let restarted = bench.restart();
    let version = restarted.controller.shared.borrow().slots_version;
    assert!(version >= after.slots_version);
}

#[test]
fn workers_are_told_what_to_keep_warm_and_take_over_from_one_that_goes() {
    let mut bench = Bench::new();
    let function = FunctionId::of("hello");
    let catalog = Catalog {
        kept: vec![(function, 3)],
        ..Catalog::default()
    };
    bench.controller.follow_catalog(catalog);
    assert!(bench.controller.shared.borrow().keep_warm.is_empty());
    let (first, _) = bench.join("a", "0-99");
    bench.join("b", "100-199").1.unwrap();
    let kept = |bench: &Bench| -> Vec<u32> {
        let shared = bench.controller.shared.borrow();
        let kept = shared.keep_warm.values().flatten();
        kept.map(|kept| kept.instances).collect()
    };
    let mut both = kept(&bench);
    both.sort_unstable();
    assert_eq!(both, [1, 2]);
    bench.close(first);
    bench.settle();
    assert_eq!(kept(&bench), [3]);
    bench.controller.follow_catalog(Catalog::default());
    assert!(kept(&bench).is_empty());
}

#[test]
fn workers_are_told_where_load_packets_go_when_the_address_of_an_interface_changes() {
    let mut bench = Bench::new();
    let shared = bench.join("w0", "0-99").1.unwrap().shared;
    let told = || {
        shared
            .borrow()
            .load
            .map(|load| load.address.ip().to_string())
    };
    assert_eq!(told().unwrap(), "10.80.0.2");
    let mut event = ports();
    let mask = Ipv4Addr::new(255, 255, 255, 0);
    event.ports.0[0].subnets = vec![Subnet::new(Ipv4Addr::new(10, 80, 0, 3), mask)];
    bench.controller.handle(Event::Ports(event.clone()));
    bench.settle();
    assert_eq!(told().unwrap(), "10.80.0.3");
    event.ports.0[0].subnets.clear();
    bench.controller.handle(Event::Ports(event));
    bench.settle();
    assert_eq!(told(), None);
    bench.controller.handle(Event::Ports(ports()));
    bench.settle();
    assert_eq!(told().unwrap(), "10.80.0.2");
}
