//! The pool's decisions, as functions of plain numbers: when to start an instance (here), which to end when
//! memory is needed (`greedy_dual`), and which because nobody comes (`history`).

pub(super) mod greedy_dual;
pub(super) mod history;

/// How things stand with one function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Demand {
    /// Instances that the requests would fill that any instance could serve and none does.
    pub(super) wanted: usize,
    /// Instances being started.
    pub(super) starting: usize,
    /// Instances that live, idle or busy.
    pub(super) live: usize,
}

/// Whether to start one more instance for a function with at most `instances_max` of them: never more
/// than there are requests for.
pub(super) const fn wants_instance(demand: Demand, instances_max: usize) -> bool {
    demand.starting < demand.wanted && demand.live + demand.starting < instances_max
}

/// Whether a request should ask for an instance at once, instead of waiting for a busy one for a while.
pub(super) const fn is_cold(demand: Demand) -> bool {
    demand.live + demand.starting == 0
}

/// What is to happen before an instance of `needed_mb` may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// It fits.
    Enough,
    /// It fits once those that are ending have ended.
    Soon,
    /// It fits once something is evicted, or ends.
    Full,
    /// It will never fit.
    Never,
}

/// Whether `needed_mb` fit beside `used_mb`, of which `leaving_mb` belong to instances that are ending,
/// under `limit_mb`.
pub(super) const fn room(used_mb: u64, leaving_mb: u64, needed_mb: u64, limit_mb: u64) -> Room {
    if needed_mb > limit_mb {
        Room::Never
    } else if used_mb + needed_mb <= limit_mb {
        Room::Enough
    } else if used_mb - leaving_mb + needed_mb <= limit_mb {
        Room::Soon
    } else {
        Room::Full
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn demand(wanted: usize, starting: usize, live: usize) -> Demand {
        Demand {
            wanted,
            starting,
            live,
        }
    }

    #[test]
    fn starts_no_more_instances_than_requests_wait() {
        assert!(wants_instance(demand(1, 0, 3), 8));
        assert!(!wants_instance(demand(1, 1, 3), 8));
        assert!(!wants_instance(demand(0, 0, 0), 8));
    }

    #[test]
    fn keeps_to_the_limit_of_a_function() {
        assert!(wants_instance(demand(9, 1, 6), 8));
        assert!(!wants_instance(demand(9, 1, 7), 8));
    }

    #[test]
    fn only_the_first_instance_is_asked_for_without_waiting() {
        assert!(is_cold(demand(1, 0, 0)));
        assert!(!is_cold(demand(1, 1, 0)));
        assert!(!is_cold(demand(1, 0, 1)));
    }

    #[test]
    fn tells_full_for_now_from_never() {
        assert_eq!(room(64, 0, 64, 128), Room::Enough);
        assert_eq!(room(65, 0, 64, 128), Room::Full);
        assert_eq!(room(0, 0, 129, 128), Room::Never);
    }

    #[test]
    fn evicts_nothing_while_what_was_evicted_is_ending() {
        assert_eq!(room(128, 64, 64, 128), Room::Soon);
        assert_eq!(room(128, 32, 64, 128), Room::Full);
    }
}
