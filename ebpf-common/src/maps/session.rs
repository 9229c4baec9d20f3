//! `SESSIONS`: the worker that a session was placed on.

use crate::map_type::map_type;

map_type! {
    /// A session of one function: two functions may place the same session on different workers.
    SessionKey, 16 {
        /// Function id, host byte order.
        function: u64,
        /// Session id, host byte order.
        session: u64,
    }
}

map_type! {
    /// Where the session lives. Small, because the LRU's cache misses are what a session costs (FACTS §3).
    SessionEntry, 4 {
        /// The worker's id.
        worker: u16,
        /// Unused; zero.
        reserved: u16,
    }
}
