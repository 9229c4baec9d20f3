//! `SCHEMA_SCRATCH`: the memory of one scan of a payload, which the program's stack is too small for. Per CPU.

use crate::{
    map_type::map_type,
    schema::{SCAN_MAX, Scan, SchemaEntry},
};

map_type! {
    /// One scan.
    SchemaScratch, 392 {
        /// What is looked for.
        schema: SchemaEntry,
        /// How far the scan is.
        scan: Scan,
        /// The beginning of the payload.
        payload: [u8; SCAN_MAX],
    }
}
