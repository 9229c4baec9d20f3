//! Session and slot out of the payload: the program finds what the host library finds, and places by it.

use ebpf_common::{
    ids::WorkerId,
    maps::{Affinity, Counter, FunctionEntry},
    schema::{Key, SchemaEntry, SchemaTarget},
    wire::{RpcHeader, flags},
};
use prog_tests::program::Program;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use xdp_balancer::{
    balance,
    testing::{FakeTables, HostPacket, frame::Frame},
};

use crate::case::{FUNCTION, action_of, assert_same_places, request, tables};

/// Tables whose function has `affinity` and finds its key by `schema`.
fn tables_with(affinity: Affinity, schema: SchemaEntry) -> FakeTables {
    let mut tables = tables(affinity);
    let entry = FunctionEntry {
        schema: 1,
        ..FunctionEntry::new(affinity, &[WorkerId(1)])
    };
    tables.functions.insert(FUNCTION, entry);
    tables.schemas = vec![schema];
    tables
}

fn check(tables: FakeTables, header: RpcHeader, payload: &[u8], counters: &[Counter]) {
    let mut program = Program::load(prog_tests::object(), &[]).unwrap();
    program.apply(&tables).unwrap();
    let frame = Frame::rpc(header, payload).bytes();
    let mut packet = HostPacket::new(frame.clone());
    let verdict = balance(&mut packet, &tables);
    let (action, after) = program.run(&frame).unwrap();
    assert_eq!(action, action_of(verdict));
    assert_eq!(after, packet.bytes);
    let expected: std::collections::BTreeMap<_, _> = std::iter::once(&Counter::Packets)
        .chain(counters)
        .map(|counter| (*counter, 1))
        .collect();
    assert_eq!(program.counters().unwrap(), expected);
    assert_same_places(&program, &tables, "schema");
}

#[test]
fn a_slot_in_the_payload_leads_to_its_owner() {
    let payload = br#"{"other": 1, "user": "ann"}"#;
    let schema = SchemaEntry::json(SchemaTarget::Slot, "user").unwrap();
    let Some(Key::Slot(slot)) = schema.find(payload) else {
        panic!("the host finds the slot");
    };
    let mut tables = tables_with(Affinity::Shard, schema);
    tables.set_slot(slot, WorkerId(2));
    check(tables, request(), payload, &[Counter::RouteShard]);
}

#[test]
fn a_session_in_the_payload_is_remembered() {
    let payload = [&[1 << 3 | 2, 3], &b"ann"[..]].concat();
    let schema = SchemaEntry::protobuf(SchemaTarget::Session, &[1]).unwrap();
    let Some(Key::Session(session)) = schema.find(&payload) else {
        panic!("the host finds the session");
    };
    let mut tables = tables_with(Affinity::Session, schema);
    tables.set_session(FUNCTION, session, WorkerId(2));
    check(tables, request(), &payload, &[Counter::RouteSession]);
}

#[test]
fn a_missing_key_is_counted_and_the_next_rule_applies() {
    let schema = SchemaEntry::fixed(SchemaTarget::Slot, 100, 8).unwrap();
    let missed = [Counter::SchemaMissed, Counter::RouteWarm];
    check(
        tables_with(Affinity::Shard, schema),
        request(),
        b"short",
        &missed,
    );
    // Without a payload there is nothing to scan, and nothing to count.
    let plain = [Counter::RouteWarm];
    check(tables_with(Affinity::Shard, schema), request(), b"", &plain);
}

#[test]
fn what_the_header_says_goes_before_the_payload() {
    let schema = SchemaEntry::fixed(SchemaTarget::Slot, 0, 3).unwrap();
    let mut tables = tables_with(Affinity::Shard, schema);
    tables.set_slot(ebpf_common::ids::SlotId(9), WorkerId(2));
    let header = RpcHeader {
        flags: request().flags | flags::HAS_SLOT,
        slot: ebpf_common::ids::SlotId(9),
        ..request()
    };
    check(tables, header, b"abc", &[Counter::RouteShard]);
}

/// Random payloads, mostly near to what the schemas look for, through host and program.
#[test]
fn host_and_program_find_the_same_keys() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let schemas = [
        SchemaEntry::json(SchemaTarget::Session, "user").unwrap(),
        SchemaEntry::protobuf(SchemaTarget::Session, &[1, 2]).unwrap(),
        SchemaEntry::fixed(SchemaTarget::Session, 5, 9).unwrap(),
    ];
    let mut found = 0;
    for schema in schemas {
        let tables = tables_with(Affinity::Session, schema);
        let mut program = Program::load(prog_tests::object(), &[]).unwrap();
        program.apply(&tables).unwrap();
        for _ in 0..3_000 {
            let payload = payload(&mut rng);
            found += u32::from(schema.find(&payload).is_some());
            let frame = Frame::rpc(request(), &payload).bytes();
            let mut packet = HostPacket::new(frame.clone());
            let verdict = balance(&mut packet, &tables);
            let (action, after) = program.run(&frame).unwrap();
            assert_eq!(
                (action, after),
                (action_of(verdict), &packet.bytes[..]),
                "{payload:02x?}"
            );
        }
        assert_eq!(program.counters().unwrap(), tables.take_counters());
        assert_same_places(&program, &tables, "random payloads");
    }
    assert!(found > 1_000, "{found} keys found");
}

fn payload(rng: &mut StdRng) -> Vec<u8> {
    let key: String = (0..rng.random_range(0..12))
        .map(|_| rng.random_range('a'..='f'))
        .collect();
    let mut payload = match rng.random_range(0..3) {
        0 => format!(r#"{{"n":[1,{{"user":"x"}}],"user":"{key}"}}"#).into_bytes(),
        1 => {
            let inner = [&[3 << 3, 7, 2 << 3 | 2, key.len() as u8], key.as_bytes()].concat();
            [&[1 << 3 | 2, inner.len() as u8], &inner[..]].concat()
        }
        _ => (0..rng.random_range(0..300))
            .map(|_| rng.random())
            .collect(),
    };
    if rng.random_ratio(1, 3) && !payload.is_empty() {
        let index = rng.random_range(0..payload.len());
        payload[index] ^= 1 << rng.random_range(0..8);
    }
    if rng.random_ratio(1, 8) {
        payload.truncate(rng.random_range(0..=payload.len()));
    }
    payload
}
