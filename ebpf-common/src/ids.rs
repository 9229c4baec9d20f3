//! Identifiers as types, so that two bare integers never meet in one signature.

use core::fmt;

/// Index of a worker in the `WORKERS` map; [`WorkerId::NONE`] marks an empty table entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u16);

impl WorkerId {
    /// The entry of a slot, home or warm table that names no worker.
    pub const NONE: Self = Self(u16::MAX);

    /// Whether this names a worker at all.
    #[inline(always)]
    #[must_use]
    pub const fn is_some(self) -> bool {
        self.0 != Self::NONE.0
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One of the [`crate::limits::SLOTS`] parts of the key space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(pub u16);

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The 64-bit name of a function on the wire: the first eight bytes, big-endian, of the SHA-256 of
/// its qualified name (`hello@latest`, `hello@3`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FunctionId(pub u64);

impl fmt::Display for FunctionId {
    /// Sixteen hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The function that workers have besides those of the store: it keeps calls that nobody waits for, in the slot that its
/// header names. Clients, workers and control plane know it by this name, which no deployed one can have.
#[cfg(feature = "user")]
pub const DEFERRED_FUNCTION: &str = "warmpath.async";

#[cfg(feature = "user")]
impl FunctionId {
    /// The id of `name`, which is `function` or `function@alias-or-version`; a bare function means
    /// `function@latest`.
    #[must_use]
    pub fn of(name: &str) -> Self {
        use sha2::{Digest, Sha256};
        let mut hasher = Sha256::new();
        hasher.update(name);
        if !name.contains('@') {
            hasher.update("@latest");
        }
        let digest: [u8; 32] = hasher.finalize().into();
        let (first, _) = digest
            .split_first_chunk::<8>()
            .expect("a digest has 32 bytes");
        Self(u64::from_be_bytes(*first))
    }
}

#[cfg(all(test, feature = "user"))]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_means_its_latest_alias() {
        assert_eq!(FunctionId::of("hello"), FunctionId::of("hello@latest"));
        assert_ne!(FunctionId::of("hello"), FunctionId::of("hello@1"));
    }

    #[test]
    fn function_id_is_the_head_of_the_sha256() {
        // printf %s hello@latest | sha256sum
        assert_eq!(FunctionId::of("hello").to_string(), "eee128df9f87b0bc");
    }
}
