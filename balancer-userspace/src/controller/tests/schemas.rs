//! Extractors are in the kernel before a function's row names them.

use ebpf_common::{
    ids::FunctionId,
    schema::{SchemaEntry, SchemaTarget},
};
use store::{AffinityKind, Schema};

use super::*;
use crate::{catalog::Catalog, config::StaticFunction};

/// `functions` of affinity `shard`, each with the JSON key that holds its shard key.
fn catalog(functions: &[(&str, &str)]) -> Event {
    let functions: Vec<_> = functions
        .iter()
        .map(|(name, key)| StaticFunction {
            name: (*name).to_owned(),
            affinity: AffinityKind::Shard,
            schema: Some(Schema::Json((*key).to_owned())),
        })
        .collect();
    Event::Catalog(Catalog::of_config(&functions))
}

fn json(key: &str) -> SchemaEntry {
    SchemaEntry::json(SchemaTarget::Slot, key).unwrap()
}

impl Bench {
    /// The extractor that the row of function `name` leads to.
    fn schema(&self, name: &str) -> Option<SchemaEntry> {
        let row = self.tables().functions[&FunctionId::of(name).0].schema;
        Some(self.tables().schemas[usize::from(row.checked_sub(1)?)])
    }

    fn follow(&mut self, functions: &[(&str, &str)]) {
        self.controller.handle(catalog(functions));
        self.settle();
    }
}

#[test]
fn a_functions_row_leads_to_its_schema_and_equal_ones_share_a_row() {
    let mut bench = Bench::new();
    bench.follow(&[("a", "user"), ("b", "user"), ("c", "cart")]);
    assert_eq!(bench.schema("a"), Some(json("user")));
    assert_eq!(bench.schema("b"), Some(json("user")));
    assert_eq!(bench.schema("c"), Some(json("cart")));
    let used = bench.tables().schemas.iter();
    assert_eq!(used.filter(|row| **row != SchemaEntry::EMPTY).count(), 2);
}

#[test]
fn a_schema_that_changes_gets_another_row_than_the_one_that_packets_may_be_reading() {
    let mut bench = Bench::new();
    bench.follow(&[("a", "user")]);
    let before = bench.tables().functions[&FunctionId::of("a").0].schema;
    bench.follow(&[("a", "cart")]);
    assert_eq!(bench.schema("a"), Some(json("cart")));
    let after = bench.tables().functions[&FunctionId::of("a").0].schema;
    assert_ne!(before, after);
    assert_eq!(
        bench.tables().schemas[usize::from(before - 1)],
        json("user")
    );
}

#[test]
fn no_functions_row_is_written_before_its_schema() {
    let mut bench = Bench::new();
    bench.controller.applier.store_mut().refuse = |write| matches!(write, MapWrite::Schema(..));
    bench.follow(&[("a", "user")]);
    assert!(
        !bench
            .tables()
            .functions
            .contains_key(&FunctionId::of("a").0)
    );

    bench.controller.applier.store_mut().refuse = |_| false;
    bench.controller.applier.retries();
    let refused = std::mem::take(&mut bench.controller.refused);
    bench.controller.functions.extend(refused);
    bench.settle();
    assert_eq!(bench.schema("a"), Some(json("user")));
}

#[test]
fn a_restart_finds_the_schemas_where_they_are() {
    let mut bench = Bench::new();
    bench.follow(&[("a", "user"), ("b", "cart")]);
    let schemas = bench.tables().schemas.clone();
    let mut bench = bench.restart();
    bench.follow(&[("b", "cart"), ("a", "user"), ("c", "new")]);
    assert_eq!(bench.tables().schemas[..2], schemas[..2]);
    assert_eq!(bench.schema("c"), Some(json("new")));
}
