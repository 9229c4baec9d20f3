//! Whatever happens, in whatever order: the tables are those of a plan from scratch.

use std::collections::{BTreeSet, HashMap};

use proptest::prelude::*;

use super::*;
use crate::{policy, reconcile};

/// Something that happens to a control plane.
#[derive(Debug, Clone)]
enum Happening {
    Join(u8, bool),
    Close(u8),
    Beat(u8, u32, Vec<u8>),
    Drain(u8, bool),
    Functions(Vec<u8>),
    Interface(bool),
    Policy(Vec<u8>, u16, bool),
    Keys,
    Slice,
}

fn any_happening() -> impl Strategy<Value = Happening> {
    let worker = 0u8..6;
    let functions = prop::collection::vec(0u8..8, 0..6);
    prop_oneof![
        4 => (worker.clone(), any::<bool>()).prop_map(|(worker, slots)| Happening::Join(worker, slots)),
        2 => worker.clone().prop_map(Happening::Close),
        4 => (worker.clone(), 0u32..9, functions.clone())
            .prop_map(|(worker, load, warm)| Happening::Beat(worker, load, warm)),
        1 => (worker.clone(), any::<bool>()).prop_map(|(worker, on)| Happening::Drain(worker, on)),
        2 => functions.prop_map(Happening::Functions),
        1 => any::<bool>().prop_map(Happening::Interface),
        2 => (prop::collection::vec(worker, 1..4), 1u16..600, any::<bool>())
            .prop_map(|(pool, weight, vip)| Happening::Policy(pool, weight, vip)),
        1 => Just(Happening::Keys),
        3 => Just(Happening::Slice),
    ]
}

fn qualified(number: u8) -> String {
    format!("f{number}@latest")
}

impl Bench {
    fn happen(&mut self, happening: Happening, connections: &mut HashMap<u8, ConnectionId>) {
        let controller = &mut self.controller;
        match happening {
            Happening::Join(worker, has_slots) => {
                self.connections += 1;
                let connection = ConnectionId::test(self.connections);
                let first = u16::from(worker) * 100;
                let slots = if has_slots {
                    vec![SlotRange {
                        first,
                        last: first + 150,
                    }]
                } else {
                    Vec::new()
                };
                let identity = Identity {
                    address: Ipv4Addr::new(10, 80, 0, 11 + worker),
                    slots,
                    ..identity(format!("w{worker}"))
                };
                controller.take_beats();
                if controller.join(connection, identity).is_ok() {
                    connections.insert(worker, connection);
                }
            }
            Happening::Close(worker) => {
                if let Some(connection) = connections.remove(&worker) {
                    let closed = ConnectionEvent::Closed {
                        connection,
                        is_silent: worker.is_multiple_of(2),
                    };
                    controller.handle(Event::Connection(closed));
                }
            }
            Happening::Beat(worker, in_flight, warm) => {
                if let Some(connection) = connections.get(&worker) {
                    let warm = warm
                        .iter()
                        .map(|number| FunctionId::of(&qualified(*number)));
                    let heartbeat = Heartbeat {
                        in_flight,
                        capacity: 8,
                        warm: warm.collect(),
                        draining: in_flight == 8,
                        kept: Vec::new(),
                    };
                    let beat = ConnectionEvent::Heartbeat {
                        connection: *connection,
                        heartbeat,
                    };
                    controller.handle(Event::Connection(beat));
                }
            }
            Happening::Drain(worker, is_drained) => {
                let (answer, _status) = oneshot::channel();
                let worker = format!("w{worker}");
                let drain = Command::Drain {
                    worker,
                    is_drained,
                    answer,
                };
                controller.handle(Event::Command(drain));
            }
            Happening::Functions(numbers) => {
                let functions: Vec<_> = numbers
                    .iter()
                    .map(|number| crate::config::StaticFunction {
                        name: qualified(*number),
                        affinity: store::AffinityKind::Session,
                        schema: None,
                    })
                    .collect();
                controller.handle(Event::Catalog(Catalog::of_config(&functions)));
            }
            Happening::Interface(is_there) => {
                let event = if is_there {
                    ports()
                } else {
                    PortsEvent::default()
                };
                controller.handle(Event::Ports(event));
            }
            Happening::Policy(pool, weight, has_vip) => {
                let pool: BTreeSet<u8> = pool.into_iter().collect();
                let names: Vec<String> =
                    pool.iter().map(|number| format!("\"w{number}\"")).collect();
                let mut text = format!(
                    "[[pool]]\nname = \"p{weight}\"\nworkers = [{}]\n[[worker]]\nname = \"w0\"\nweight = {weight}\n",
                    names.join(", ")
                );
                if has_vip {
                    text.push_str(&format!(
                        "[[vip]]\naddress = \"2001:db8::{weight:x}\"\nport = \"any\"\nkind = \"l4\"\npool = \"p{weight}\"\n"
                    ));
                }
                controller
                    .change_policy(toml::from_str(&text).unwrap(), false)
                    .unwrap();
            }
            Happening::Keys => controller.rotate_keys(),
            Happening::Slice => {
                controller.take_beats();
                if !controller.dirty.is_clean() {
                    controller.replan();
                }
                controller.carry_on(Duration::from_micros(20));
            }
        }
    }

    /// The writes by which the maps differ from what they should hold, all of it made anew.
    fn difference(&self) -> Vec<MapWrite> {
        let controller = &self.controller;
        let inputs = inputs!(controller);
        let rules = Arc::clone(&controller.rules);
        let mut homes = Homes::default();
        homes.pools_changed(&Rules::default(), &rules);
        for (id, _) in controller.membership.iter() {
            homes.set(id, inputs.taker(id), &rules);
        }
        homes.refresh(&rules);
        let slots = Slots::assign(&controller.membership);
        let desired = policy::desired(&inputs, &slots.owners, &homes);
        reconcile::plan(&desired, controller.applier.actual())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// What is done by and by, as things happen, is what is right when all is made anew.
    #[test]
    fn changes_lead_to_the_same_tables_as_a_plan_from_scratch(
        happenings in prop::collection::vec(any_happening(), 1..40),
    ) {
        let mut bench = Bench::new();
        let mut connections = HashMap::new();
        for happening in happenings {
            bench.happen(happening, &mut connections);
        }
        bench.settle();
        prop_assert_eq!(bench.difference(), []);
    }
}
