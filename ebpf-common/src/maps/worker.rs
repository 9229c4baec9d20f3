//! `WORKERS` and `WORKER_LOAD`: where a worker is, what it takes, and how busy it is.

use crate::map_type::map_type;

/// What a worker takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum WorkerState {
    /// No such worker.
    Absent = 0,
    /// New and existing work.
    Up = 1,
    /// Existing sessions only.
    Draining = 2,
    /// Nothing: known, but not answering.
    Down = 3,
}

impl WorkerState {
    /// Its name in CLI, JSON and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Up => "up",
            Self::Draining => "draining",
            Self::Down => "down",
        }
    }
}

map_type! {
    /// How to reach a worker in mode `l2`.
    WorkerInfo, 20 {
        /// Interface to leave by; 0 or the interface of arrival mean XDP_TX, another one a redirect.
        ifindex: u32,
        /// A [`WorkerState`] code.
        state: u8,
        /// Unused; zero.
        reserved: [u8; 3],
        /// The worker's MAC address.
        dst_mac: [u8; 6],
        /// MAC address of the interface to leave by.
        src_mac: [u8; 6],
    }
}

impl WorkerInfo {
    /// The row of a worker that is not there.
    pub const ABSENT: Self = Self {
        ifindex: 0,
        state: WorkerState::Absent as u8,
        reserved: [0; 3],
        dst_mac: [0; 6],
        src_mac: [0; 6],
    };

    /// The state; an unknown code counts as down.
    #[inline(always)]
    #[must_use]
    pub const fn state(&self) -> WorkerState {
        match self.state {
            0 => WorkerState::Absent,
            1 => WorkerState::Up,
            2 => WorkerState::Draining,
            _ => WorkerState::Down,
        }
    }

    /// Whether requests that belong nowhere else may be placed here.
    #[inline(always)]
    #[must_use]
    pub const fn takes_new_work(&self) -> bool {
        self.state == WorkerState::Up as u8
    }

    /// Whether requests of a session that lives here may still come.
    #[inline(always)]
    #[must_use]
    pub const fn takes_existing_work(&self) -> bool {
        self.state == WorkerState::Up as u8 || self.state == WorkerState::Draining as u8
    }
}

map_type! {
    /// How busy a worker is, as it last reported.
    WorkerLoad, 8 {
        /// Requests received and not answered.
        in_flight: u32,
        /// Requests it takes at a time; at `in_flight >= capacity` the warm rule skips it.
        capacity: u32,
    }
}

impl WorkerLoad {
    /// Whether the warm rule must skip this worker.
    #[inline(always)]
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.in_flight >= self.capacity
    }
}
