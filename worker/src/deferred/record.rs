//! A call as it lies in the database.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use db::DbError;
use serde::{Deserialize, Serialize};
use warmpath_sdk::{
    Call, CallError, Fault, SlotId,
    deferred::Deferred,
    http::{self, Head, HeadError},
};

use super::{limits::Retries, unreadable};

/// What is known of a call that is to be made, or was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) call: Deferred,
    /// Who pays for it. Older records do not say: then whoever makes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) caller: Option<String>,
    /// Attempts that failed.
    pub(crate) attempts: u32,
    /// Not before this time, in milliseconds since 1970.
    pub(crate) next_ms: u64,
    /// The status of the last attempt.
    pub(crate) status: Option<String>,
    /// When it was kept, and later when it was given up.
    pub(crate) at_ms: u64,
}

impl Head for Record {
    fn check(&self) -> Result<(), HeadError> {
        Ok(())
    }
}

impl Record {
    /// A call to be made at once, for which `caller` pays.
    pub(crate) fn new(call: Deferred, caller: Option<String>) -> Self {
        Self {
            call,
            caller,
            attempts: 0,
            next_ms: 0,
            status: None,
            at_ms: now_ms(),
        }
    }

    pub(super) fn join(&self, event: &[u8]) -> Result<Vec<u8>, DbError> {
        let joined = http::join(self, event).map_err(|error| unreadable(&error))?;
        Ok(joined.to_vec())
    }

    pub(super) fn split(value: Vec<u8>) -> Result<(Self, Bytes), DbError> {
        http::split(&value.into()).map_err(|error| unreadable(&error))
    }

    /// One attempt at it. It may run more than once.
    pub(crate) fn attempt(&self, event: &Bytes) -> Call {
        let deferred = &self.call;
        let mut call = Call::new(&deferred.function)
            .payload(event.clone())
            .budget(Duration::from_millis(deferred.budget_ms.into()))
            .idempotent(true);
        call.http = deferred.http;
        call.session = deferred.session;
        call.slot = deferred.slot.map(SlotId);
        call
    }

    /// Takes down an attempt that failed. Says whether another one is to be made, from `next_ms` on.
    pub(crate) fn failed(&mut self, error: &CallError, retries: &Retries) -> bool {
        let status = error.status();
        self.status = Some(status.map_or("timeout", |status| status.name()).to_owned());
        // What is the platform's fault, or a rate's, is not held against the function, however long it lasts.
        let is_counted =
            status.is_none_or(|status| status.fault() == Fault::Function || !status.is_retryable());
        self.attempts += u32::from(is_counted);
        let goes_on = self.attempts < retries.attempts;
        if goes_on {
            self.back_off(retries.backoff, retries.backoff_max);
        }
        goes_on
    }

    /// When to try again after one more failure: twice as long each time, and anywhere in the second half of that, so that
    /// what failed together does not come back together.
    fn back_off(&mut self, first: Duration, most: Duration) {
        let doublings = self.attempts.saturating_sub(1).min(20);
        let wait = first.saturating_mul(1 << doublings).min(most);
        let wait = wait.mul_f64(0.5 + rand::random::<f64>() / 2.0);
        self.next_ms = now_ms() + u64::try_from(wait.as_millis()).unwrap_or(u64::MAX / 2);
    }
}

/// Milliseconds since 1970: what is kept outlives every process, so that no monotonic clock will do.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX / 2)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let call = Deferred {
            function: "f".to_owned(),
            http: true,
            session: Some(u64::MAX),
            slot: None,
            budget_ms: 1,
        };
        Record::new(call, Some("192.0.2.7".to_owned()))
    }

    #[test]
    fn a_record_that_does_not_say_who_pays_is_read_too() {
        let before = Record {
            caller: None,
            ..record()
        };
        let value = before.join(b"event").unwrap();
        assert!(!String::from_utf8_lossy(&value).contains("caller"));
        assert_eq!(record_at(value), before);
    }

    #[test]
    fn a_record_survives_and_a_torn_one_is_refused() {
        let value = record().join(b"event").unwrap();
        let (read, event) = Record::split(value.clone()).unwrap();
        assert_eq!(
            (read, &event[..]),
            (record_at(value.clone()), &b"event"[..])
        );
        let mut torn = value;
        torn.truncate(torn.len() - 5);
        assert!(Record::split(torn).is_err());
    }

    fn record_at(value: Vec<u8>) -> Record {
        Record::split(value).unwrap().0
    }

    #[test]
    fn the_wait_doubles_up_to_its_bound_with_jitter() {
        let (first, most) = (Duration::from_secs(1), Duration::from_secs(60));
        for (attempts, least_ms, most_ms) in
            [(1, 500, 1_000), (3, 2_000, 4_000), (40, 30_000, 60_000)]
        {
            let mut record = record();
            record.attempts = attempts;
            let before = now_ms();
            record.back_off(first, most);
            let wait = record.next_ms - before;
            assert!(
                (least_ms..=most_ms + 50).contains(&wait),
                "{attempts}: {wait}"
            );
        }
    }
}
