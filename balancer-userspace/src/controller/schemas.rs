//! The extractors of functions: their rows of `SCHEMAS` are in the kernel before a function's row names them.

use std::collections::{HashSet, VecDeque};

use ebpf_common::schema::SchemaEntry;
use tracing::warn;

use super::{Controller, applier::Applier};
use crate::{maps::MapStore, reconcile::tables::MapWrite, schemas::Schemas};

/// Which rows there should be, and the writes that the kernel has not taken yet.
#[derive(Debug)]
pub(super) struct SchemaRows {
    pub(super) rows: Schemas,
    pending: VecDeque<MapWrite>,
}

impl SchemaRows {
    /// Those that the map holds.
    pub(super) fn held(rows: &[SchemaEntry]) -> Self {
        Self {
            rows: Schemas::from_rows(rows.iter().copied()),
            pending: VecDeque::new(),
        }
    }

    /// Writes what is to be written. Returns false if the kernel refused: then no function's row may be written.
    pub(super) fn write<S: MapStore>(&mut self, applier: &mut Applier<S>) -> bool {
        while let Some(write) = self.pending.front() {
            if !applier.write_now(std::slice::from_ref(write)) {
                return false;
            }
            self.pending.pop_front();
        }
        true
    }
}

impl<S: MapStore> Controller<S> {
    /// Gives the schemas of the catalog their rows. `is_settled`: the rows of all functions were written before it changed.
    pub(super) fn follow_schemas(&mut self, is_settled: bool) {
        let Some(catalog) = &self.catalog else {
            return;
        };
        let functions = catalog.functions.iter();
        let schemas = functions.filter_map(|(id, function)| Some((*id, function.schema?)));
        let wanted = schemas.clone().map(|(_, schema)| schema);
        let (writes, result) = self.schemas.rows.follow(wanted, is_settled);
        if let Err(error) = result {
            let error = &error as &dyn std::error::Error;
            warn!(error, "schemas left out; fewer different ones would fit");
        }
        // Functions that were left out before may have a row now.
        let placed: HashSet<SchemaEntry> = writes.iter().map(|(_, schema)| *schema).collect();
        let has_new = schemas.filter(|(_, schema)| placed.contains(schema));
        self.functions.extend(has_new.map(|(id, _)| id));
        let writes = writes.into_iter();
        self.schemas
            .pending
            .extend(writes.map(|(row, schema)| MapWrite::Schema(row, schema)));
    }
}
