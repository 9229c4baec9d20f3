//! The rate of one source, whatever it sends and to which VIP.
//!
//! Sources have buckets by hash, so that no flood of new sources can fill a table or push out the old ones. The price is
//! that whoever shares a bucket with a flooder is limited with it: with k flooding sources, one in
//! `SOURCE_BUCKETS` / k of the others.

use ebpf_common::{
    maps::{VipKind, features, source_bucket},
    token::SourceAddress,
};

use super::take;
use crate::{DropReason, Tables, balance::Arrival};

#[inline(always)]
pub(super) fn check<T: Tables>(
    source: SourceAddress,
    arrival: &Arrival<'_>,
    tables: &T,
) -> Result<(), DropReason> {
    let config = arrival.config;
    // LOAD packets prove who sends them, and without them the balancer would not see how busy a worker is.
    if !config.has(features::SOURCE_RATE) || arrival.vip.kind == VipKind::Load as u8 {
        return Ok(());
    }
    let row = source_bucket(config.table_secret(), source);
    let bucket = tables.source_bucket(row).ok_or(DropReason::NotConfigured)?;
    if take(bucket, &config.source_rate, tables.now_ns()) {
        Ok(())
    } else {
        Err(DropReason::SourceRate)
    }
}
