//! Which instance to end when memory is needed: greedy-dual size-frequency (Cherkasova 1998; for functions: Fuerst
//! and Sharma, `FaasCache`, ASPLOS '21).
//!
//! An instance is worth the time that its cold start takes, times how often its function is called, for each
//! megabyte it holds. The one worth least goes. The clock stands at the worth of the last one that went, and an
//! instance's worth is counted from where the clock stood when it was last used: so what was once called often
//! does not stay for ever.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;

/// What makes an instance worth keeping.
#[derive(Debug, Clone, Copy)]
pub(in crate::pool) struct Worth {
    /// Requests of its function since that had no instance.
    pub(in crate::pool) frequency: u64,
    /// What starting another one would take.
    pub(in crate::pool) cold_start_us: u64,
    /// What it holds.
    pub(in crate::pool) memory_mb: u32,
}

impl Worth {
    fn value(self) -> f64 {
        let [frequency, cold_start_us] =
            [self.frequency, self.cold_start_us].map(|n| n.max(1) as f64);
        frequency * cold_start_us / f64::from(self.memory_mb.max(1))
    }
}

/// An instance that may be ended.
#[derive(Debug, Clone, Copy)]
pub(in crate::pool) struct Candidate {
    /// Where the clock stood when it was last used.
    pub(in crate::pool) used_at: f64,
    pub(in crate::pool) worth: Worth,
    /// Decides between equals.
    pub(in crate::pool) idle_since: Instant,
}

impl Candidate {
    fn priority(&self) -> f64 {
        self.used_at + self.worth.value()
    }
}

/// The ageing clock of one pool. It only goes forward.
#[derive(Debug, Default)]
pub(in crate::pool) struct Clock(AtomicU64);

impl Clock {
    /// Where it stands.
    pub(in crate::pool) fn now(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }

    /// The candidate to end, if there is any; the clock goes on to its priority.
    pub(in crate::pool) fn victim<K>(
        &self,
        candidates: impl IntoIterator<Item = (K, Candidate)>,
    ) -> Option<K> {
        let (key, victim) = candidates.into_iter().min_by(|(_, a), (_, b)| {
            let order = a.priority().total_cmp(&b.priority());
            order.then(a.idle_since.cmp(&b.idle_since))
        })?;
        // Priorities are not negative, and the bits of such numbers have their order.
        self.0
            .fetch_max(victim.priority().to_bits(), Ordering::Relaxed);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn candidate(clock: &Clock, frequency: u64, cold_start_us: u64, memory_mb: u32) -> Candidate {
        Candidate {
            used_at: clock.now(),
            worth: Worth {
                frequency,
                cold_start_us,
                memory_mb,
            },
            idle_since: Instant::now(),
        }
    }

    #[test]
    fn ends_the_rare_the_quick_to_start_and_the_large() {
        let clock = Clock::default();
        let usual = candidate(&clock, 10, 5_000, 128);
        for (other, is_worth_less) in [
            (candidate(&clock, 9, 5_000, 128), true),
            (candidate(&clock, 11, 5_000, 128), false),
            (candidate(&clock, 10, 4_000, 128), true),
            (candidate(&clock, 10, 90_000, 128), false),
            (candidate(&clock, 10, 5_000, 256), true),
            (candidate(&clock, 10, 5_000, 64), false),
        ] {
            let victim = Clock::default().victim([("usual", usual), ("other", other)]);
            assert_eq!(victim == Some("other"), is_worth_less, "{other:?}");
        }
        assert_eq!(clock.victim::<u8>([]), None);
    }

    #[test]
    fn between_equals_the_one_idle_for_longest_goes() {
        let clock = Clock::default();
        let new = candidate(&clock, 1, 1, 1);
        let old = Candidate {
            idle_since: new.idle_since - Duration::from_secs(1),
            ..new
        };
        assert_eq!(clock.victim([("new", new), ("old", old)]), Some("old"));
    }

    #[test]
    fn what_was_called_often_long_ago_goes_in_the_end() {
        let clock = Clock::default();
        let once_hot = candidate(&clock, 1_000, 5_000, 64);
        let mut evicted = 0;
        // Newcomers, each used once at the clock's time, until the hot one of old is worth least.
        while clock.victim([(true, once_hot), (false, candidate(&clock, 1, 5_000, 64))])
            == Some(false)
        {
            evicted += 1;
            assert!(evicted < 2_000, "it stays for ever");
        }
        assert!((900..1_100).contains(&evicted), "{evicted}");
    }

    proptest! {
        #[test]
        fn the_victim_is_worth_least_and_the_clock_never_goes_back(
            worths in prop::collection::vec((0..1_000_u64, 0..1_000_000_u64, 0..10_000_u32), 1..40),
        ) {
            let clock = Clock::default();
            let mut all: Vec<_> = worths
                .into_iter()
                .map(|(frequency, cold, memory)| candidate(&clock, frequency, cold, memory))
                .collect();
            while !all.is_empty() {
                let before = clock.now();
                let victim = clock.victim(all.iter().copied().enumerate()).unwrap();
                let gone = all.swap_remove(victim);
                prop_assert!(all.iter().all(|other| other.priority() >= gone.priority()));
                prop_assert!(clock.now() >= before && clock.now() >= gone.priority());
            }
        }
    }
}
