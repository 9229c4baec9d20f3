//! `PKTGEN`: what the packets of the kernel's pktgen stand for.

use crate::{limits::PKTGEN_FUNCTIONS, map_type::map_type};

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
