//! The block lists: longest prefix of the source, behind a bit that says whether there can be one.

use ebpf_common::{
    maps::{block_filter_bit, features},
    token::SourceAddress,
};

use crate::{DropReason, Tables, balance::Arrival};

#[inline(always)]
pub(super) fn check<T: Tables>(
    source: SourceAddress,
    arrival: &Arrival<'_>,
    tables: &T,
) -> Result<(), DropReason> {
    if !arrival.config.has(features::BLOCK_LIST) {
        return Ok(());
    }
    let bit = block_filter_bit(source);
    let word = tables.block_filter(bit >> 6).unwrap_or(0);
    if word >> (bit & 63) & 1 == 1 && tables.blocked(source) {
        return Err(DropReason::Blocked);
    }
    Ok(())
}
