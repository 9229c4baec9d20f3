//! The rate of answers, of whatever kind: a flood that is refused must not make us send one.

use ebpf_common::maps::{Config, CpuBucket, features};

use super::take;
use crate::{DropReason, Tables};

/// Whether one more packet may be answered.
///
/// # Errors
/// Dropped above the rate.
#[inline(always)]
pub(crate) fn check<T: Tables>(config: &Config, tables: &T) -> Result<(), DropReason> {
    if !config.has(features::ANSWER_RATE) {
        return Ok(());
    }
    let bucket = tables
        .cpu_bucket(CpuBucket::Answer)
        .ok_or(DropReason::NotConfigured)?;
    if take(bucket, &config.answer_rate, tables.now_ns()) {
        Ok(())
    } else {
        Err(DropReason::AnswerRate)
    }
}
