//! `CONFIG`: what the program must know that is not in a table.

use crate::{cookie::CookieKeys, hash::SipKey, map_type::map_type};

map_type! {
    /// The one row of the `CONFIG` map. A field is written only while the program cannot be using it:
    /// a table copy before `generation` names it, a key before `cookie_epoch` reaches it.
    Config, 48 {
        /// Which copy of the double-buffered tables is live (its lowest bit).
        generation: u32,
        /// Current epoch of route cookies, 0 to 255.
        cookie_epoch: u32,
        /// SipHash keys of route cookies as `[k0, k1]`, by the parity of their epoch.
        cookie_keys: [[u64; 2]; 2],
        /// Unused; zero.
        reserved: u64,
    }
}

impl Config {
    /// The cookie keys in the form that [`CookieKeys`] works with.
    #[inline(always)]
    #[must_use]
    pub const fn cookie_keys(&self) -> CookieKeys {
        let [[even0, even1], [odd0, odd1]] = self.cookie_keys;
        CookieKeys {
            epoch: self.cookie_epoch as u8,
            keys: [
                SipKey {
                    k0: even0,
                    k1: even1,
                },
                SipKey { k0: odd0, k1: odd1 },
            ],
        }
    }
}
