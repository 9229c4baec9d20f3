//! How long to keep a function's idle instances, from the gaps between its requests so far (Shahrad et al.,
//! "Serverless in the Wild", USENIX ATC '20).
//!
//! A gap begins when the last request that runs ends, and ends with the next one. The gaps are counted in bins
//! whose width grows with the gap. Instances stay for as long as 99 of 100 gaps last, and a tenth more, within
//! bounds. Where gaps are longer than the longest stay, but alike, the instances go early, and one is started
//! again before the earliest 5 of 100 requests would come. Without enough history the fixed time holds.

use std::time::Duration;

use tokio::time::Instant;

/// Bins for each doubling of the gap.
const BINS_PER_DOUBLING: u32 = 8;
/// Doublings from one millisecond on: up to 4.6 hours.
const DOUBLINGS: u32 = 24;
const BINS: usize = (BINS_PER_DOUBLING * DOUBLINGS) as usize;
/// Gaps that must have been seen before they decide anything.
const GAPS_MIN: u32 = 10;
/// When so many gaps are counted, all counts are halved: the past fades.
const GAPS_MAX: u32 = 1_024;
/// The head and the tail of the distribution, in parts of a hundred.
const HEAD_PERCENT: u32 = 5;
const TAIL_PERCENT: u32 = 99;
/// Gaps are alike when the tail is at most so many times the head.
const SPREAD_MAX: u32 = 2;
/// Safety at both ends, as in the paper.
const MARGIN_PERCENT: u32 = 10;

/// Between what the time to keep an instance may lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pool) struct Bounds {
    pub(in crate::pool) min: Duration,
    pub(in crate::pool) max: Duration,
    /// Without history.
    pub(in crate::pool) usual: Duration,
}

/// How long to keep a function's instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pool) struct Stay {
    /// An idle instance that has served a request.
    pub(in crate::pool) used: Duration,
    /// When to start one again that nobody asked for, and how long to keep it then.
    pub(in crate::pool) prewarm: Option<Prewarm>,
}

/// An instance started ahead of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pool) struct Prewarm {
    /// After the last request.
    pub(in crate::pool) after: Duration,
    /// If none comes.
    pub(in crate::pool) keep: Duration,
}

/// The gaps between one function's requests.
#[derive(Debug, Clone)]
pub(in crate::pool) struct History {
    bins: Box<[u16; BINS]>,
    gaps: u32,
    /// Those longer than the last bin.
    beyond: u32,
    idle_since: Option<Instant>,
}

impl Default for History {
    fn default() -> Self {
        Self {
            bins: Box::new([0; BINS]),
            gaps: 0,
            beyond: 0,
            idle_since: None,
        }
    }
}

impl History {
    /// The last request that ran has ended.
    pub(in crate::pool) const fn rests(&mut self, now: Instant) {
        self.idle_since = Some(now);
    }

    /// A request comes while none runs.
    pub(in crate::pool) fn wakes(&mut self, now: Instant) {
        if let Some(since) = self.idle_since.take() {
            self.count(now.saturating_duration_since(since));
        }
    }

    /// Since when no request runs.
    pub(in crate::pool) const fn idle_since(&self) -> Option<Instant> {
        self.idle_since
    }

    fn count(&mut self, gap: Duration) {
        if self.gaps >= GAPS_MAX {
            self.bins.iter_mut().for_each(|count| *count /= 2);
            self.beyond /= 2;
            self.gaps = self.bins.iter().map(|count| u32::from(*count)).sum::<u32>() + self.beyond;
        }
        self.gaps += 1;
        match self.bins.get_mut(bin(gap)) {
            Some(count) => *count += 1,
            None => self.beyond += 1,
        }
    }

    /// What the history says.
    pub(in crate::pool) fn stay(&self, bounds: Bounds) -> Stay {
        let usual = Stay {
            used: bounds.usual,
            prewarm: None,
        };
        if self.gaps < GAPS_MIN {
            return usual;
        }
        let (Some(head), Some(tail)) = (self.quantile(HEAD_PERCENT), self.quantile(TAIL_PERCENT))
        else {
            // Most gaps, or the longest ones, are beyond what is counted.
            return usual;
        };
        let (head, tail) = (lower(head), lower(tail + 1));
        let until = tail * (100 + MARGIN_PERCENT) / 100;
        let from = head * (100 - MARGIN_PERCENT) / 100;
        if until > bounds.max && from > bounds.usual && tail <= head * SPREAD_MAX {
            return Stay {
                used: bounds.min,
                prewarm: Some(Prewarm {
                    after: from,
                    keep: (until - from).clamp(bounds.min, bounds.max),
                }),
            };
        }
        Stay {
            used: until.clamp(bounds.min, bounds.max),
            prewarm: None,
        }
    }

    /// The bin that holds the gap which `percent` of all gaps do not exceed.
    fn quantile(&self, percent: u32) -> Option<usize> {
        let wanted = (self.gaps * percent).div_ceil(100).max(1);
        let mut seen = 0;
        self.bins.iter().position(|count| {
            seen += u32::from(*count);
            seen >= wanted
        })
    }
}

/// Which bin counts `gap`; beyond the last one for those that are too long.
fn bin(gap: Duration) -> usize {
    let ms = u64::try_from(gap.as_millis()).unwrap_or(u64::MAX).max(1);
    let doubling = ms.ilog2();
    let part = (u128::from(ms) * u128::from(BINS_PER_DOUBLING)) >> doubling;
    let part = u32::try_from(part).unwrap_or(u32::MAX) - BINS_PER_DOUBLING;
    (doubling * BINS_PER_DOUBLING + part) as usize
}

/// The shortest gap that `bin` counts.
fn lower(bin: usize) -> Duration {
    let bin = u32::try_from(bin).unwrap_or(u32::MAX);
    let (doubling, part) = (bin / BINS_PER_DOUBLING, bin % BINS_PER_DOUBLING);
    let ms =
        (u64::from(BINS_PER_DOUBLING + part) << doubling).div_ceil(u64::from(BINS_PER_DOUBLING));
    Duration::from_millis(ms)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: Duration = Duration::from_secs(1);
    const BOUNDS: Bounds = Bounds {
        min: Duration::from_secs(10),
        max: Duration::from_secs(600),
        usual: Duration::from_secs(60),
    };

    fn of(gaps: impl IntoIterator<Item = Duration>) -> History {
        let mut history = History::default();
        gaps.into_iter().for_each(|gap| history.count(gap));
        history
    }

    fn between(time: Duration, least: Duration, most: Duration) {
        assert!(
            (least..=most).contains(&time),
            "{time:?} is not within {least:?} to {most:?}"
        );
    }

    #[test]
    fn without_history_the_fixed_time_holds() {
        assert_eq!(of([]).stay(BOUNDS).used, 60 * S);
        assert_eq!(of([S; 9]).stay(BOUNDS).used, 60 * S);
        assert_ne!(of([S; 10]).stay(BOUNDS).used, 60 * S);
    }

    #[test]
    fn a_busy_function_goes_soon_after_it_falls_silent_but_not_at_once() {
        assert_eq!(of([S / 50; 100]).stay(BOUNDS).used, BOUNDS.min);
    }

    #[test]
    fn a_function_called_each_two_minutes_stays_that_long() {
        let stay = of([120 * S; 20]).stay(BOUNDS);
        between(stay.used, 120 * S, 150 * S);
        assert_eq!(stay.prewarm, None);
    }

    #[test]
    fn one_gap_in_a_hundred_may_be_longer() {
        let rare = of((0..200).map(|n| if n == 0 { 500 * S } else { 30 * S }));
        between(rare.stay(BOUNDS).used, 30 * S, 40 * S);
        let not_so_rare = of((0..200).map(|n| if n < 5 { 500 * S } else { 30 * S }));
        between(not_so_rare.stay(BOUNDS).used, 500 * S, 600 * S);
    }

    #[test]
    fn an_hourly_function_goes_and_is_started_again_in_time() {
        let hourly = of((0..24).map(|n| 3_600 * S + n * S));
        let stay = hourly.stay(BOUNDS);
        assert_eq!(stay.used, BOUNDS.min);
        let prewarm = stay.prewarm.unwrap();
        between(prewarm.after, 2_700 * S, 3_600 * S);
        assert!(
            prewarm.after + prewarm.keep >= 3_624 * S,
            "it is there for the latest: {prewarm:?}"
        );
        assert!(prewarm.keep <= BOUNDS.max);
    }

    #[test]
    fn gaps_that_differ_widely_give_the_longest_stay_and_no_forecast() {
        let wild = of((0..100).map(|n| n * 60 * S));
        let stay = wild.stay(BOUNDS);
        assert_eq!((stay.used, stay.prewarm), (BOUNDS.max, None));
    }

    #[test]
    fn gaps_beyond_what_is_counted_say_nothing() {
        assert_eq!(of([100_000 * S; 50]).stay(BOUNDS).used, BOUNDS.usual);
    }

    #[test]
    fn the_past_fades() {
        let mut history = of([3_600 * S; 900]);
        for _ in 0..8_000 {
            history.count(S);
        }
        assert_eq!(history.stay(BOUNDS).used, BOUNDS.min);
        assert!(history.gaps <= GAPS_MAX);
    }

    #[test]
    fn a_gap_lasts_from_rest_to_waking() {
        let mut history = History::default();
        let begin = Instant::now();
        history.wakes(begin);
        assert_eq!(history.gaps, 0, "nothing came before the first request");
        history.rests(begin);
        assert_eq!(history.idle_since(), Some(begin));
        history.wakes(begin + S);
        assert_eq!(history.idle_since(), None);
        assert_eq!((history.gaps, history.bins[bin(S)]), (1, 1));
    }

    proptest! {
        #[test]
        fn a_bin_holds_what_lies_between_its_ends(ms in 1..16_777_216_u64) {
            let gap = Duration::from_millis(ms);
            let bin = bin(gap);
            prop_assert!(bin < BINS);
            prop_assert!(lower(bin) <= gap && gap < lower(bin + 1).max(gap + Duration::from_nanos(1)));
        }

        #[test]
        fn the_stay_is_within_its_bounds(gaps in prop::collection::vec(0..100_000_000_u64, 0..300)) {
            let stay = of(gaps.into_iter().map(Duration::from_millis)).stay(BOUNDS);
            prop_assert!((BOUNDS.min..=BOUNDS.max).contains(&stay.used));
            if let Some(prewarm) = stay.prewarm {
                prop_assert!((BOUNDS.min..=BOUNDS.max).contains(&prewarm.keep));
                prop_assert!(prewarm.after > BOUNDS.usual);
            }
        }
    }
}
