//! Rates: how often something may happen, in an algorithm whose state is one number.

use crate::map_type::map_type;

/// Longest tick of the kernel's coarse clock, by which the program keeps rates: 10 ms at `CONFIG_HZ=100`. All that comes
/// within a tick comes at one moment, so a rate must bear a burst of at least as long.
pub const CLOCK_TICK_NS: u64 = 10_000_000;

const NS_PER_SECOND: u64 = 1_000_000_000;

map_type! {
    /// A rate as the generic cell rate algorithm has it (ITU-T I.371, annex A), which admits exactly what a token bucket
    /// does, with a state of one number: the time at which the bucket will be full again.
    Rate, 16 {
        /// Nanoseconds between two admitted at the steady rate; 0 admits everything.
        interval_ns: u64,
        /// How far ahead of the steady rate a burst may run, in nanoseconds: (burst − 1) × interval.
        tolerance_ns: u64,
    }
}

/// Why a rate cannot be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateError {
    /// Nothing at all per second: a block list is for that.
    Zero,
    /// More than [`Rate::MAX_PER_SECOND`].
    TooFast,
    /// The burst is shorter than a tick of the clock, so that even what keeps to the rate would be refused.
    BurstTooSmall {
        /// The least that will do.
        burst_min: u32,
    },
}

impl core::fmt::Display for RateError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Zero => f.write_str("a rate of 0 per second would admit nothing"),
            Self::TooFast => write!(
                f,
                "a rate may be at most {} per second",
                Rate::MAX_PER_SECOND
            ),
            Self::BurstTooSmall { burst_min } => write!(
                f,
                "the burst must be at least {burst_min}: the program's clock moves in steps of up to {} ms",
                CLOCK_TICK_NS / 1_000_000
            ),
        }
    }
}

impl core::error::Error for RateError {}

impl Rate {
    /// No rate at all: admits everything.
    pub const NONE: Self = Self {
        interval_ns: 0,
        tolerance_ns: 0,
    };
    /// The fastest that can be kept to within a hundredth, as intervals are whole nanoseconds.
    pub const MAX_PER_SECOND: u32 = 10_000_000;

    /// `per_second` for ever, and `burst` at once.
    ///
    /// # Errors
    /// [`RateError`] for what the program could not keep.
    pub const fn new(per_second: u32, burst: u32) -> Result<Self, RateError> {
        if per_second == 0 {
            return Err(RateError::Zero);
        }
        if per_second > Self::MAX_PER_SECOND {
            return Err(RateError::TooFast);
        }
        let burst_min = Self::burst_min(per_second);
        if burst < burst_min {
            return Err(RateError::BurstTooSmall { burst_min });
        }
        let interval_ns = NS_PER_SECOND / per_second as u64;
        Ok(Self {
            interval_ns,
            tolerance_ns: (burst as u64 - 1) * interval_ns,
        })
    }

    /// The least burst that a rate of `per_second` can be kept with: what comes in one tick of the clock, and one more.
    #[must_use]
    pub const fn burst_min(per_second: u32) -> u32 {
        if per_second == 0 {
            return 1;
        }
        let interval_ns = NS_PER_SECOND / per_second as u64;
        if interval_ns == 0 {
            return u32::MAX;
        }
        // At most 10 M, of one tick at an interval of one nanosecond.
        CLOCK_TICK_NS.div_ceil(interval_ns) as u32 + 1
    }

    /// The burst for who names none: what comes in a tenth of a second.
    #[must_use]
    pub const fn default_burst(per_second: u32) -> u32 {
        let tenth = per_second / 10;
        let least = Self::burst_min(per_second);
        if tenth > least { tenth } else { least }
    }

    /// Whether one more is admitted at `now_ns`, and if so, takes it. `next_ns` is the state: begin with 0.
    ///
    /// No state lies further ahead than one that the rate itself can lead to, so that after a change to a lower burst
    /// nobody waits for what the old one allowed.
    #[inline(always)]
    #[must_use]
    pub const fn admits(&self, next_ns: &mut u64, now_ns: u64) -> bool {
        let ahead = self.ahead_ns(*next_ns, now_ns);
        let is_admitted = ahead <= self.tolerance_ns;
        *next_ns = if is_admitted {
            now_ns.wrapping_add(ahead).wrapping_add(self.interval_ns)
        } else {
            now_ns.wrapping_add(ahead)
        };
        is_admitted
    }

    /// Nanoseconds from `now_ns` until the next one is admitted.
    #[inline(always)]
    #[must_use]
    pub const fn wait_ns(&self, next_ns: u64, now_ns: u64) -> u64 {
        self.ahead_ns(next_ns, now_ns)
            .saturating_sub(self.tolerance_ns)
    }

    #[inline(always)]
    const fn ahead_ns(&self, next_ns: u64, now_ns: u64) -> u64 {
        let ahead = next_ns.saturating_sub(now_ns);
        let most = self.tolerance_ns.wrapping_add(self.interval_ns);
        if ahead < most { ahead } else { most }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A token bucket in the usual form, with its level in fractions of a token (one token is `interval` of them), so
    /// that it is exact.
    struct TokenBucket {
        level: u128,
        last_ns: u64,
    }

    impl TokenBucket {
        fn take(&mut self, interval: u64, burst: u64, now_ns: u64) -> bool {
            let full = u128::from(burst) * u128::from(interval);
            let come = u128::from(now_ns - self.last_ns);
            self.level = (self.level + come).min(full);
            self.last_ns = now_ns;
            let is_admitted = self.level >= u128::from(interval);
            if is_admitted {
                self.level -= u128::from(interval);
            }
            is_admitted
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn admits_what_a_token_bucket_admits(
            interval in 1u64..5_000_000_000,
            burst in 1u64..2_000,
            steps in prop::collection::vec((0u64..4, 0u64..3_000_000_000), 1..400),
        ) {
            let rate = Rate { interval_ns: interval, tolerance_ns: (burst - 1) * interval };
            let mut bucket = TokenBucket { level: u128::MAX / 4, last_ns: 0 };
            let (mut next_ns, mut now_ns) = (0, 5_000_000_000_000);
            for (scale, step) in steps {
                now_ns += step / [1, 1_000, 1_000_000, u64::MAX][scale as usize];
                let expected = bucket.take(interval, burst, now_ns);
                let wait = rate.wait_ns(next_ns, now_ns);
                prop_assert_eq!(wait == 0, expected);
                let after = |wait: u64| {
                    let mut state = next_ns;
                    rate.admits(&mut state, now_ns + wait)
                };
                prop_assert!(after(wait));
                prop_assert!(wait == 0 || !after(wait - 1));
                prop_assert_eq!(rate.admits(&mut next_ns, now_ns), expected);
            }
        }

        /// Whatever the tick and its phase: who keeps to the rate is never refused by a clock that stands still within
        /// a tick.
        #[test]
        fn a_coarse_clock_refuses_nobody_who_keeps_to_the_rate(
            per_second in prop_oneof![1u32..100, 1u32..20_000, 1u32..=Rate::MAX_PER_SECOND],
            tick_ns in 1_000_000u64..=CLOCK_TICK_NS,
            phase in 0u64..CLOCK_TICK_NS,
        ) {
            let rate = Rate::new(per_second, Rate::burst_min(per_second)).unwrap();
            let mut next_ns = 0;
            for packet in 0..3_000 {
                let exact_ns = 1_000_000_000 + phase + packet * rate.interval_ns;
                let coarse_ns = exact_ns - exact_ns % tick_ns;
                prop_assert!(rate.admits(&mut next_ns, coarse_ns), "packet {packet}");
            }
        }

        /// And who sends all the time gets the rate, and at the beginning the burst.
        #[test]
        fn a_flood_gets_the_rate_and_one_burst(
            per_second in 100u32..20_000,
            more in 0u32..1_000,
            tick_ns in 1_000_000u64..=CLOCK_TICK_NS,
        ) {
            let burst = Rate::burst_min(per_second) + more;
            let rate = Rate::new(per_second, burst).unwrap();
            let (mut next_ns, mut admitted) = (0, 0u64);
            let start_ns = 1_000_000_000;
            let span_ns = 200_000_000;
            for step in 0..20_000u64 {
                let exact_ns = start_ns + step * (span_ns / 20_000);
                admitted += u64::from(rate.admits(&mut next_ns, exact_ns - exact_ns % tick_ns));
            }
            let expected = u64::from(burst) + span_ns / rate.interval_ns;
            let offered = 20_000;
            let slack = 2 * tick_ns / rate.interval_ns + 2;
            prop_assert!(admitted <= expected + slack, "{admitted} {expected}");
            prop_assert!(admitted + slack >= expected.min(offered), "{admitted} {expected}");
        }
    }

    #[test]
    fn a_lower_burst_takes_hold_at_once() {
        let generous = Rate::new(1, 1_000).unwrap();
        let strict = Rate::new(1_000, 11).unwrap();
        let mut next_ns = 0;
        let now_ns = 1_000_000_000_000;
        while generous.admits(&mut next_ns, now_ns) {}
        assert_eq!(next_ns, now_ns + 1_000_000_000_000);
        assert!(!strict.admits(&mut next_ns, now_ns));
        assert!(strict.admits(&mut next_ns, now_ns + 1_000_000));
    }

    #[test]
    fn no_rate_admits_everything() {
        let mut next_ns = 0;
        for _ in 0..1_000 {
            assert!(Rate::NONE.admits(&mut next_ns, 5));
        }
        assert_eq!(Rate::NONE.wait_ns(u64::MAX, 5), 0);
    }

    #[test]
    fn what_cannot_be_kept_is_refused_by_name() {
        assert_eq!(Rate::new(0, 1), Err(RateError::Zero));
        assert_eq!(Rate::new(10_000_001, 1), Err(RateError::TooFast));
        for (per_second, burst_min) in [(1, 2), (100, 2), (1_000, 11), (50_000, 501)] {
            assert_eq!(Rate::burst_min(per_second), burst_min);
            assert_eq!(
                Rate::new(per_second, burst_min - 1),
                Err(RateError::BurstTooSmall { burst_min })
            );
            assert!(Rate::new(per_second, burst_min).is_ok());
            assert!(Rate::new(per_second, Rate::default_burst(per_second)).is_ok());
        }
        // The extremes do not overflow.
        let slow = Rate::new(1, u32::MAX).unwrap();
        let mut next_ns = 0;
        assert!(slow.admits(&mut next_ns, u64::MAX >> 2));
    }
}
