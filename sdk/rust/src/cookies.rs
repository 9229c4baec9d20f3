//! The route cookies of sessions: which worker a session was last answered by.

use std::{collections::HashMap, mem, sync::Mutex};

use ebpf_common::ids::FunctionId;

/// A session of one function; cookies of one are worth nothing for another.
pub(crate) type Scope = (FunctionId, u64);

/// A bounded map from session to cookie. Two generations of half the size approximate "least
/// recently used": what is read or written moves to the young one, and the old one is forgotten whole.
#[derive(Debug)]
pub(crate) struct SessionCookies {
    half: usize,
    generations: Mutex<Generations>,
}

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Scope, u64>,
    old: HashMap<Scope, u64>,
}

impl SessionCookies {
    pub(crate) fn new(max_sessions: usize) -> Self {
        Self {
            half: max_sessions.div_ceil(2),
            generations: Mutex::default(),
        }
    }

    pub(crate) fn get(&self, scope: Scope) -> Option<u64> {
        let mut generations = crate::lock(&self.generations);
        if let Some(cookie) = generations.young.get(&scope) {
            return Some(*cookie);
        }
        let cookie = generations.old.remove(&scope)?;
        self.insert(&mut generations, scope, cookie);
        Some(cookie)
    }

    /// Remembers `cookie`, or forgets the session if it is `None`.
    pub(crate) fn set(&self, scope: Scope, cookie: Option<u64>) {
        let mut generations = crate::lock(&self.generations);
        generations.old.remove(&scope);
        match cookie {
            Some(cookie) => self.insert(&mut generations, scope, cookie),
            None => {
                generations.young.remove(&scope);
            }
        }
    }

    fn insert(&self, generations: &mut Generations, scope: Scope, cookie: u64) {
        if self.half == 0 {
            return;
        }
        if generations.young.len() >= self.half && !generations.young.contains_key(&scope) {
            generations.old = mem::take(&mut generations.young);
        }
        generations.young.insert(scope, cookie);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const F: FunctionId = FunctionId(1);

    #[test]
    fn a_session_in_use_is_not_forgotten() {
        let cookies = SessionCookies::new(10);
        cookies.set((F, 0), Some(7));
        for session in 1..100 {
            cookies.set((F, session), Some(session));
            assert_eq!(cookies.get((F, 0)), Some(7), "after {session}");
        }
        assert_eq!(cookies.get((F, 1)), None);
    }

    #[test]
    fn the_map_is_bounded() {
        let cookies = SessionCookies::new(10);
        for session in 0..1_000 {
            cookies.set((F, session), Some(session));
        }
        let generations = crate::lock(&cookies.generations);
        assert!(generations.young.len() + generations.old.len() <= 10);
    }

    #[test]
    fn a_forgotten_cookie_is_gone_from_both_generations() {
        let cookies = SessionCookies::new(2);
        cookies.set((F, 1), Some(1));
        cookies.set((F, 2), Some(2));
        cookies.set((F, 1), None);
        assert_eq!(cookies.get((F, 1)), None);
        assert_eq!(cookies.get((F, 2)), Some(2));
    }
}
