//! Who this worker is to the balancer: its id, and the keys of its route cookies.

use std::sync::{PoisonError, RwLock};

use balancer_userspace::membership::protocol::Assignment;
use ebpf_common::{
    cookie::{CookieKeys, CookieScope},
    hash::SipKey,
    ids::WorkerId,
    wire::{RpcHeader, flags},
};

/// The present identity; follows the control plane's assignment.
#[derive(Debug)]
pub struct Identity(RwLock<Seal>);

#[derive(Debug, Clone, Copy)]
struct Seal {
    worker: WorkerId,
    keys: CookieKeys,
}

impl Identity {
    /// Before the first assignment: no id, and keys of our own, so that requests of several fragments
    /// work for clients that call this worker directly. No balancer takes such a cookie for valid.
    #[must_use]
    pub fn unassigned() -> Self {
        let key = || SipKey {
            k0: rand::random(),
            k1: rand::random(),
        };
        Self(RwLock::new(Seal {
            worker: WorkerId::NONE,
            keys: CookieKeys {
                epoch: 0,
                keys: [key(), key()],
            },
        }))
    }

    /// Takes over what the control plane assigned.
    pub fn assign(&self, assignment: &Assignment) {
        let keys = assignment.cookie_keys.map(|[k0, k1]| SipKey { k0, k1 });
        let seal = Seal {
            worker: WorkerId(assignment.worker_id),
            keys: CookieKeys {
                epoch: assignment.key_epoch,
                keys,
            },
        };
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = seal;
    }

    /// The cookie that brings what belongs to `header`'s request back here.
    #[must_use]
    pub fn cookie(&self, header: &RpcHeader) -> u64 {
        let seal = self.now();
        seal.keys.seal(seal.worker, scope(header))
    }

    /// Whether `header` carries a valid cookie of another worker.
    #[must_use]
    pub fn names_another(&self, header: &RpcHeader) -> bool {
        let seal = self.now();
        header.has(flags::HAS_COOKIE)
            && seal
                .keys
                .open(header.route_cookie, scope(header))
                .is_ok_and(|worker| worker != seal.worker)
    }

    fn now(&self) -> Seal {
        *self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What cookies of `header`'s request are bound to; the same as the XDP program reads from it.
fn scope(header: &RpcHeader) -> CookieScope {
    CookieScope {
        function: header.function,
        session: if header.has(flags::HAS_SESSION) {
            header.session_id
        } else {
            0
        },
    }
}

#[cfg(test)]
mod tests {
    use ebpf_common::ids::FunctionId;

    use super::*;

    fn assignment(worker_id: u16) -> Assignment {
        Assignment {
            worker_id,
            key_epoch: 4,
            cookie_keys: [[1, 2], [3, 4]],
            load: None,
            slots_version: 1,
            slots: Vec::new(),
            heartbeat_ms: 20,
            keep_warm: Vec::new(),
        }
    }

    #[test]
    fn a_cookie_of_another_worker_is_known_as_such() {
        let (ours, theirs) = (Identity::unassigned(), Identity::unassigned());
        ours.assign(&assignment(3));
        theirs.assign(&assignment(4));
        let mut header = RpcHeader::request(FunctionId(1), 2);
        let plain = header;
        assert!(!ours.names_another(&header));
        header.flags |= flags::HAS_COOKIE;
        header.route_cookie = theirs.cookie(&plain);
        assert!(ours.names_another(&header));
        header.route_cookie = ours.cookie(&plain);
        assert!(!ours.names_another(&header));
        header.route_cookie = 12_345;
        assert!(!ours.names_another(&header), "a forged cookie names nobody");
    }
}
