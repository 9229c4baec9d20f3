//! Which row of `SCHEMAS` holds which extractor. Functions with the same schema share a row.
//!
//! A row is never changed while a function's row may name it: one that no function wants any more is free for another
//! schema only from the next call on that finds the functions' rows written.

use std::collections::{HashMap, HashSet};

use ebpf_common::{limits::MAX_SCHEMAS, schema::SchemaEntry};
use thiserror::Error;

/// There are more schemas than rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "more than {MAX_SCHEMAS} different schemas: {left_out} functions are routed by their headers alone"
)]
pub struct Full {
    /// Schemas that got no row.
    pub left_out: usize,
}

/// The rows and what is in them.
#[derive(Debug, Default)]
pub struct Schemas {
    rows: Vec<Option<SchemaEntry>>,
    places: HashMap<SchemaEntry, u16>,
    /// Rows that nobody wanted at the last call.
    leaving: Vec<u16>,
}

impl Schemas {
    /// Rows as a map holds them: those that are not empty stay where they are.
    #[must_use]
    pub fn from_rows(rows: impl IntoIterator<Item = SchemaEntry>) -> Self {
        let rows: Vec<_> = rows
            .into_iter()
            .map(|row| (row != SchemaEntry::EMPTY).then_some(row))
            .collect();
        let places = (0..)
            .zip(&rows)
            .filter_map(|(index, row)| Some(((*row)?, index)))
            .collect();
        Self {
            rows,
            places,
            leaving: Vec::new(),
        }
    }

    /// Gives every one of `wanted` a row. The writes are to be carried out before those of the functions. `is_settled`: the
    /// functions' rows are those of the call before, in the kernel too; otherwise no row is given to another schema.
    ///
    /// # Errors
    /// [`Full`] beside the writes if some got none.
    pub fn follow(
        &mut self,
        wanted: impl IntoIterator<Item = SchemaEntry>,
        is_settled: bool,
    ) -> (Vec<(u16, SchemaEntry)>, Result<(), Full>) {
        let wanted: HashSet<_> = wanted.into_iter().collect();
        if is_settled {
            self.free_rows(&wanted);
        }
        let mut writes = Vec::new();
        let mut left_out = 0;
        for schema in wanted {
            if self.places.contains_key(&schema) {
                continue;
            }
            match self.free_row() {
                Some(index) => {
                    self.rows[usize::from(index)] = Some(schema);
                    self.places.insert(schema, index);
                    writes.push((index, schema));
                }
                None => left_out += 1,
            }
        }
        let result = if left_out == 0 {
            Ok(())
        } else {
            Err(Full { left_out })
        };
        (writes, result)
    }

    /// What a function's row says of `schema`: the row's number plus one; 0 without a row.
    #[must_use]
    pub fn reference(&self, schema: &SchemaEntry) -> u16 {
        self.places.get(schema).map_or(0, |index| index + 1)
    }

    /// Frees the rows that nobody wanted before and nobody wants now, and notes those that nobody wants for the first time.
    fn free_rows(&mut self, wanted: &HashSet<SchemaEntry>) {
        let leaving = std::mem::take(&mut self.leaving);
        for (schema, index) in &self.places {
            if !wanted.contains(schema) {
                self.leaving.push(*index);
            }
        }
        for index in leaving {
            if self.leaving.contains(&index)
                && let Some(schema) = self.rows[usize::from(index)].take()
            {
                self.places.remove(&schema);
            }
        }
        self.leaving
            .retain(|index| self.rows[usize::from(*index)].is_some());
    }

    fn free_row(&mut self) -> Option<u16> {
        if let Some(index) = self.rows.iter().position(Option::is_none) {
            return u16::try_from(index).ok();
        }
        let index = u16::try_from(self.rows.len()).ok()?;
        if u32::from(index) >= MAX_SCHEMAS {
            return None;
        }
        self.rows.push(None);
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use ebpf_common::schema::SchemaTarget;

    use super::*;

    fn schema(offset: u16) -> SchemaEntry {
        SchemaEntry::fixed(SchemaTarget::Slot, offset % 200, 1 + offset / 200).unwrap()
    }

    #[test]
    fn a_schema_keeps_its_row_and_functions_share_it() {
        let mut schemas = Schemas::default();
        let (writes, _) = schemas.follow([schema(1), schema(1)], true);
        assert_eq!(writes, [(0, schema(1))]);
        let (writes, _) = schemas.follow([schema(2), schema(1)], true);
        assert_eq!(writes, [(1, schema(2))]);
        assert_eq!(schemas.reference(&schema(1)), 1);
        assert_eq!(schemas.reference(&schema(3)), 0);
    }

    #[test]
    fn a_row_is_given_away_only_when_no_function_can_name_it_any_more() {
        let mut schemas = Schemas::default();
        schemas.follow([schema(1)], true).1.unwrap();
        // The plan of this call still has to tell the functions.
        assert_eq!(schemas.follow([schema(2)], true).0, [(1, schema(2))]);
        assert_eq!(
            schemas.follow([schema(2), schema(3)], true).0,
            [(0, schema(3))]
        );
        // One that comes back in time keeps its row.
        assert!(schemas.follow([schema(3)], true).0.is_empty());
        assert!(schemas.follow([schema(2), schema(3)], true).0.is_empty());
        assert_eq!(schemas.reference(&schema(2)), 2);
    }

    #[test]
    fn schemas_beyond_the_last_row_are_counted_and_the_others_work() {
        let mut schemas = Schemas::default();
        let (writes, result) = schemas.follow((0..5_000).map(schema), true);
        assert_eq!(writes.len(), MAX_SCHEMAS as usize);
        assert_eq!(
            result,
            Err(Full {
                left_out: 5_000 - MAX_SCHEMAS as usize
            })
        );
    }

    #[test]
    fn rows_that_a_map_holds_stay_where_they_are() {
        let mut schemas = Schemas::from_rows([schema(1), SchemaEntry::EMPTY, schema(3)]);
        assert!(schemas.follow([schema(1), schema(3)], true).0.is_empty());
        assert_eq!(
            schemas.follow([schema(1), schema(3), schema(4)], true).0,
            [(1, schema(4))]
        );
    }
}
