//! `PKTGEN`: what the packets of the kernel's pktgen stand for.

use crate::{ids::FunctionId, limits::PKTGEN_FUNCTIONS, map_type::map_type};

map_type! {
    /// A VIP of kind `pktgen`: packet number n calls function `n % functions_len`, in session `n % sessions`, with slot
    /// `n % 16,384`, as request n.
    PktgenInfo, 136 {
        /// How many of `functions` are set; a power of two.
        functions_len: u32,
        /// Sessions; a power of two, or 0 for requests without one.
        sessions: u32,
        /// Function ids.
        functions: [u64; PKTGEN_FUNCTIONS],
    }
}

impl PktgenInfo {
    /// A mix of the first 16 of `functions`, with `sessions` sessions or none.
    #[must_use]
    pub fn new(functions: &[FunctionId], sessions: u32) -> Self {
        let mut ids = [0; PKTGEN_FUNCTIONS];
        for (id, function) in ids.iter_mut().zip(functions) {
            *id = function.0;
        }
        Self {
            functions_len: functions.len().min(PKTGEN_FUNCTIONS) as u32,
            sessions,
            functions: ids,
        }
    }
}
