//! `WORKERS` and `WORKER_LOAD`: where a worker is, what it takes, and how busy it is.

use crate::{map_type::map_type, tunnel::DEFAULT_MTU};

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

/// Bits of [`WorkerInfo::flags`].
pub mod worker_flags {
    /// Encapsulated packets go to its IPv6 address, otherwise to its IPv4 address.
    pub const OUTER_V6: u8 = 1 << 0;
    /// The next hop and the port are asked of the kernel's FIB, otherwise those of the row are taken.
    pub const FIB: u8 = 1 << 1;
}

/// Weight of a worker that is like any other.
pub const NORMAL_WEIGHT: u16 = 256;

map_type! {
    /// How to reach a worker, and what it takes. A cache line.
    WorkerInfo, 64 {
        /// Interface to leave by; 0 or the interface of arrival mean XDP_TX, another one a redirect.
        ifindex: u32,
        /// A [`WorkerState`] code.
        state: u8,
        /// See [`worker_flags`].
        flags: u8,
        /// Its share of work, as a multiple of a [`NORMAL_WEIGHT`]th; at least 1.
        weight: u16,
        /// MAC address of the worker or of the next hop to it.
        dst_mac: [u8; 6],
        /// MAC address of the interface to leave by.
        src_mac: [u8; 6],
        /// IPv4 address that encapsulated packets go to.
        addr4: [u8; 4],
        /// IPv6 address that encapsulated packets go to.
        addr6: [u8; 16],
        /// Requests it may have in flight by the operator's word, whatever it reports; 0 for no such cap.
        cap: u32,
        /// Bytes of the largest IP packet on the way to it; 0 means 1,500.
        mtu: u16,
        /// Unused; zero.
        reserved: [u8; 18],
    }
}

impl WorkerInfo {
    /// The row of a worker that is not there.
    pub const ABSENT: Self = Self {
        ifindex: 0,
        state: WorkerState::Absent as u8,
        flags: 0,
        weight: 0,
        dst_mac: [0; 6],
        src_mac: [0; 6],
        addr4: [0; 4],
        addr6: [0; 16],
        cap: 0,
        mtu: 0,
        reserved: [0; 18],
    };

    /// Requests it may have in flight: its reported `capacity`, or the operator's cap if that is lower.
    #[inline(always)]
    #[must_use]
    pub const fn cap_over(&self, capacity: u32) -> u32 {
        if self.cap != 0 && self.cap < capacity {
            self.cap
        } else {
            capacity
        }
    }

    /// Bytes of the largest IP packet on the way to it.
    #[inline(always)]
    #[must_use]
    pub const fn mtu_or_default(&self) -> u16 {
        if self.mtu == 0 { DEFAULT_MTU } else { self.mtu }
    }

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
    /// How busy a worker is. The program writes it: `sent` with each request it sends there, the rest with each LOAD
    /// packet. A cache line, so that two workers' rows never share one.
    WorkerLoad, 64 {
        /// Requests sent to it by this balancer, ever.
        sent: u64,
        /// `sent` when the last LOAD packet came.
        sent_at_report: u64,
        /// Sequence number of the last LOAD packet; one that is not higher is old, and ignored.
        sequence: u64,
        /// When the last LOAD packet came: the kernel's timer ticks (`bpf_jiffies64`) times [`super::Config::tick_ns`].
        reported_ns: u64,
        /// Requests it said it has received, ever, from any balancer.
        received: u64,
        /// Requests it said it has answered, ever.
        completed: u64,
        /// Requests it had in flight, as it last said.
        in_flight: u32,
        /// Requests it takes at a time; with as many in flight the warm rule skips it.
        capacity: u32,
        /// Unused; zero.
        reserved: u64,
    }
}

impl WorkerLoad {
    /// A worker that has sent no LOAD packet yet.
    #[must_use]
    pub const fn new(in_flight: u32, capacity: u32) -> Self {
        Self {
            sent: 0,
            sent_at_report: 0,
            sequence: 0,
            reported_ns: 0,
            received: 0,
            completed: 0,
            in_flight,
            capacity,
            reserved: 0,
        }
    }

    /// Requests in flight now: those it last told of, and those sent to it since. A request that is lost on its way,
    /// or a worker that starts again, is put right by the next LOAD packet. Of a worker that has sent no LOAD packet yet
    /// nothing would ever be put right, so only what its heartbeats told counts.
    #[inline(always)]
    #[must_use]
    pub const fn in_flight_now(&self) -> u32 {
        if self.sequence == 0 {
            return self.in_flight;
        }
        // A reader that meets a LOAD packet on another CPU may hold a `sent` from before it.
        let since = self.sent.saturating_sub(self.sent_at_report);
        let now = since.saturating_add(self.in_flight as u64);
        if now < u32::MAX as u64 {
            now as u32
        } else {
            u32::MAX
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_flight_is_what_was_told_of_and_what_was_sent_since() {
        let load = |sent, sent_at_report, in_flight| WorkerLoad {
            sent,
            sent_at_report,
            sequence: 1,
            ..WorkerLoad::new(in_flight, 10)
        };
        assert_eq!(load(9, 6, 2).in_flight_now(), 5);
        assert_eq!(load(5, 6, 2).in_flight_now(), 2, "`sent` from before");
        assert_eq!(load(u64::MAX, 0, 2).in_flight_now(), u32::MAX);
        assert_eq!(load(3, 0, u32::MAX - 2).in_flight_now(), u32::MAX);
        let unheard = WorkerLoad {
            sequence: 0,
            ..load(9, 0, 2)
        };
        assert_eq!(unheard.in_flight_now(), 2);
    }
}
