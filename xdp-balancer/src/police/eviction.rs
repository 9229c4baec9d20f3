//! The rate at which new flows take the entries of others. A flood of forged first packets would otherwise push out every
//! flow there is within a second, and the next change of workers move them all; Maglev places what is not remembered
//! just as well until then.

use ebpf_common::maps::{CpuBucket, features};

use super::take;
use crate::Tables;

/// Whether one more flow may take the entry of another.
#[inline(always)]
pub(crate) fn check<T: Tables>(tables: &T) -> bool {
    let Some(config) = tables.config() else {
        return false;
    };
    !config.has(features::EVICTION_RATE)
        || tables
            .cpu_bucket(CpuBucket::Eviction)
            .is_some_and(|bucket| take(bucket, &config.eviction_rate, tables.now_ns()))
}
