//! Route cookies: a keyed worker id that the client echoes, so that a session or the fragments of a
//! request stay with one worker without any state in the balancer (the idea of Cheetah, NSDI '20).
//!
//! ```text
//!  63            48 47     40 39                          0
//! +----------------+---------+-----------------------------+
//! |   worker id    |  epoch  | SipHash-2-4, top 40 bits    |
//! +----------------+---------+-----------------------------+
//! ```
//! The hash covers worker, epoch, function and session: a cookie is worth nothing for another one.

use crate::{
    hash::{SipKey, siphash24},
    ids::{FunctionId, WorkerId},
};

const MAC_BITS: u32 = 40;
const MAC_MASK: u64 = (1 << MAC_BITS) - 1;

/// What a cookie is bound to: the function and, where it has one, the session (0 otherwise).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CookieScope {
    /// The function that was called.
    pub function: FunctionId,
    /// The session id, or 0 for a request without a session.
    pub session: u64,
}

/// The keys that are valid now. Two epochs are: the current one and the one before it, so that keys
/// can be rotated without breaking a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CookieKeys {
    /// The epoch new cookies are made in; wraps around.
    pub epoch: u8,
    /// Key of an epoch at index `epoch % 2`.
    pub keys: [SipKey; 2],
}

/// Why a cookie does not route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CookieError {
    /// Of an epoch that is no longer, or not yet, valid.
    Stale,
    /// Not made with our key for this scope.
    Forged,
}

impl CookieKeys {
    /// The cookie that sends `scope` to `worker`.
    #[must_use]
    pub fn seal(&self, worker: WorkerId, scope: CookieScope) -> u64 {
        let head = head_of(worker, self.epoch);
        (head << MAC_BITS) | self.mac(self.epoch, head, scope)
    }

    /// The worker that `cookie` names, if the cookie is ours.
    ///
    /// # Errors
    /// [`CookieError`] says whether it is out of date or was never ours.
    #[inline(always)]
    pub fn open(&self, cookie: u64, scope: CookieScope) -> Result<WorkerId, CookieError> {
        let head = cookie >> MAC_BITS;
        let epoch = (head & 0xff) as u8;
        if epoch != self.epoch && epoch != self.epoch.wrapping_sub(1) {
            return Err(CookieError::Stale);
        }
        if self.mac(epoch, head, scope) != cookie & MAC_MASK {
            return Err(CookieError::Forged);
        }
        Ok(WorkerId((head >> 8) as u16))
    }

    #[inline(always)]
    fn mac(&self, epoch: u8, head: u64, scope: CookieScope) -> u64 {
        let [even, odd] = self.keys;
        let key = if epoch & 1 == 0 { even } else { odd };
        siphash24(key, &[head, scope.function.0, scope.session]) >> (64 - MAC_BITS)
    }
}

#[inline(always)]
const fn head_of(worker: WorkerId, epoch: u8) -> u64 {
    ((worker.0 as u64) << 8) | epoch as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEYS: CookieKeys = CookieKeys {
        epoch: 7,
        keys: [SipKey { k0: 1, k1: 2 }, SipKey { k0: 3, k1: 4 }],
    };
    const SCOPE: CookieScope = CookieScope {
        function: FunctionId(0xabc),
        session: 42,
    };

    #[test]
    fn every_flipped_bit_is_noticed() {
        let cookie = KEYS.seal(WorkerId(3), SCOPE);
        assert_eq!(KEYS.open(cookie, SCOPE), Ok(WorkerId(3)));
        for bit in 0..64 {
            assert!(KEYS.open(cookie ^ (1 << bit), SCOPE).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn the_previous_epoch_is_valid_and_the_one_before_is_stale() {
        let cookie = KEYS.seal(WorkerId(3), SCOPE);
        assert_eq!(
            CookieKeys { epoch: 8, ..KEYS }.open(cookie, SCOPE),
            Ok(WorkerId(3))
        );
        assert_eq!(
            CookieKeys { epoch: 9, ..KEYS }.open(cookie, SCOPE),
            Err(CookieError::Stale)
        );
    }

    #[test]
    fn a_cookie_is_worth_nothing_for_another_scope() {
        let cookie = KEYS.seal(WorkerId(3), SCOPE);
        let other_session = CookieScope {
            session: 43,
            ..SCOPE
        };
        let other_function = CookieScope {
            function: FunctionId(1),
            ..SCOPE
        };
        assert_eq!(KEYS.open(cookie, other_session), Err(CookieError::Forged));
        assert_eq!(KEYS.open(cookie, other_function), Err(CookieError::Forged));
    }

    proptest! {
        #[test]
        fn opens_what_it_sealed(worker: u16, epoch: u8, session: u64) {
            let keys = CookieKeys { epoch, ..KEYS };
            let scope = CookieScope { session, ..SCOPE };
            prop_assert_eq!(keys.open(keys.seal(WorkerId(worker), scope), scope), Ok(WorkerId(worker)));
        }
    }
}
