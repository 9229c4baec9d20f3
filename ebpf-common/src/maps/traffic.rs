//! `VIP_COUNTERS`, `WORKER_COUNTERS`, `FUNCTION_COUNTERS`: packets and bytes by where they belong. Per CPU.

use crate::{ids::FunctionId, map_type::map_type};

map_type! {
    /// What went to one VIP or to one worker.
    Traffic, 16 {
        /// Packets.
        packets: u64,
        /// Bytes of their frames, as they came in.
        bytes: u64,
    }
}

map_type! {
    /// A row of `FUNCTION_COUNTERS`, which the function that is called most of those that share it holds (the majority
    /// vote of Boyer and Moore, 1981; Misra and Gries, 1982): each call of the holder is a vote for it, each call of
    /// another one against it, and who comes when no votes are left takes over.
    TopFunction, 24 {
        /// The holder's id; 0 before the first.
        function: u64,
        /// Packets of the holder since it took over.
        packets: u64,
        /// Votes that it has left.
        votes: u64,
    }
}

impl TopFunction {
    /// Counts a call of `function`.
    #[inline(always)]
    pub const fn vote(&mut self, function: FunctionId) {
        if self.function == function.0 {
            self.packets += 1;
            self.votes += 1;
        } else if self.votes > 0 {
            self.votes -= 1;
        } else {
            *self = Self {
                function: function.0,
                packets: 1,
                votes: 1,
            };
        }
    }
}
