//! Maps by function id, of which there may be a million: an id is a hash already, so that one more mixing with a secret of
//! this process (ids follow from names, and names are the deployers' choice) is enough.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, Hasher},
};

use ebpf_common::{hash::mix64, ids::FunctionId};

/// By function id.
pub type IdMap<V> = HashMap<FunctionId, V, IdHash>;
/// Of function ids.
pub type IdSet = HashSet<FunctionId, IdHash>;

/// Makes the hashers of one map.
#[derive(Debug, Clone)]
pub struct IdHash(u64);

impl Default for IdHash {
    fn default() -> Self {
        Self(rand::random())
    }
}

impl BuildHasher for IdHash {
    type Hasher = IdHasher;

    fn build_hasher(&self) -> IdHasher {
        IdHasher(self.0)
    }
}

/// The secret, then the hash.
#[derive(Debug)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = mix64(self.0 ^ word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_an_id_is_another_in_another_map() {
        let [one, other] = [IdHash::default(), IdHash::default()];
        let id = FunctionId(7);
        assert_eq!(one.hash_one(id), one.clone().hash_one(id));
        assert_ne!(one.hash_one(id), other.hash_one(id));
        assert_ne!(one.hash_one(id), one.hash_one(FunctionId(8)));
    }
}
