//! Exact-match tables in array maps: `VIPS`, `VIPS6`, `FUNCTIONS`. Userspace places the rows, the program only looks.
//!
//! A key may stand in four rows: two neighbours (which one fetch of a memory controller brings) at each of two places that
//! its hash names. Userspace makes room by moving rows to their other places (cuckoo hashing, Pagh and Rodler 2004; with two
//! rows a place, Dietzfelbinger and Weidling 2007, it works until the table is nine tenths full; ours are at most half full).
//! In place of the kernel's hash map, because a look-up there costs 25 ns and more when all is in the caches and 360 to 470 when
//! nothing is; a row here 2 and 141 (measured on the reference machine; docs/performance.md).

/// Rows that a key may stand in.
pub const CANDIDATES: usize = 4;

/// The rows in which a key of hash `hash` may stand, in a table of `mask + 1` rows (a power of two, at least 2), in the order
/// in which they are tried.
#[inline(always)]
#[must_use]
pub const fn candidates(hash: u64, mask: u32) -> [u32; CANDIDATES] {
    let first = hash as u32 & mask;
    let second = (hash >> 32) as u32 & mask;
    [first, first ^ 1, second, second ^ 1]
}

#[cfg(feature = "user")]
pub use placement::{Cuckoo, Full, Step};

#[cfg(feature = "user")]
mod placement {
    use std::{
        collections::{HashMap, HashSet, VecDeque},
        fmt,
    };

    use super::candidates;

    /// Places looked at for one insertion before the table counts as full.
    const SEARCH_MAX: usize = 4_096;

    /// Which key stands in which row.
    #[derive(Debug, Clone)]
    pub struct Cuckoo<Key> {
        rows: Vec<Option<Key>>,
        len: usize,
        hash: fn(&Key) -> u64,
    }

    /// A row to write. Steps are to be carried out in their order: a key that moves is in its new row before its old one is
    /// given to another, so that at any moment the program finds it.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Step<Key> {
        /// The row.
        pub row: u32,
        /// The key whose entry it is to hold.
        pub key: Key,
    }

    /// There is no room for a key, whatever is moved.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Full;

    impl fmt::Display for Full {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("the table is full")
        }
    }

    impl std::error::Error for Full {}

    impl<Key: Copy + Eq> Cuckoo<Key> {
        /// An empty table of `rows` rows, a power of two and at least 2, of keys hashed by `hash`.
        ///
        /// # Panics
        /// If `rows` is something else.
        #[must_use]
        pub fn new(rows: u32, hash: fn(&Key) -> u64) -> Self {
            assert!(rows.is_power_of_two() && rows >= 2, "{rows} rows");
            Self {
                rows: vec![None; rows as usize],
                len: 0,
                hash,
            }
        }

        /// A table of which `rows` is read: the keys by row, as a map holds them. A row that the program does not find its
        /// key in counts as free: somebody stopped between the steps that move a key, which then stands in two rows.
        #[must_use]
        pub fn from_rows(rows: Vec<Option<Key>>, hash: fn(&Key) -> u64) -> Self {
            let mut table = Self { rows, len: 0, hash };
            for row in 0..table.rows.len() {
                let Some(key) = table.rows[row] else { continue };
                if table.row_of(&key) == Some(row as u32) {
                    table.len += 1;
                } else {
                    table.rows[row] = None;
                }
            }
            table
        }

        /// The row of `key`, if it is in the table: the first that the program would find it in.
        #[must_use]
        pub fn row_of(&self, key: &Key) -> Option<u32> {
            self.candidates_of(key)
                .into_iter()
                .find(|row| self.rows[*row as usize].as_ref() == Some(key))
        }

        /// Keys in the table.
        #[must_use]
        pub const fn len(&self) -> usize {
            self.len
        }

        /// Whether there is none.
        #[must_use]
        pub const fn is_empty(&self) -> bool {
            self.len == 0
        }

        /// The keys by row.
        #[must_use]
        pub fn rows(&self) -> &[Option<Key>] {
            &self.rows
        }

        /// Places `key`; the last step is its own. A key that is there already keeps its row.
        ///
        /// # Errors
        /// [`Full`]; nothing has changed then.
        pub fn insert(&mut self, key: Key) -> Result<Vec<Step<Key>>, Full> {
            if let Some(row) = self.row_of(&key) {
                return Ok(vec![Step { row, key }]);
            }
            let path = self.path_to_room(&key).ok_or(Full)?;
            // From the free row back to the key's own: each row's key moves to the row after it.
            let mut steps = Vec::with_capacity(path.len());
            for pair in path.windows(2).rev() {
                let [from, to] = [pair[0], pair[1]];
                let moved = self.rows[from as usize].expect("only the last row of a path is free");
                steps.push(Step {
                    row: to,
                    key: moved,
                });
            }
            steps.push(Step { row: path[0], key });
            for step in &steps {
                self.rows[step.row as usize] = Some(step.key);
            }
            self.len += 1;
            Ok(steps)
        }

        /// Takes back what the last [`Self::insert`] of a new key answered, of which only the first `made` of its `steps` were
        /// carried out: the key is not in, and those that it would have moved are where they are. The row of the step
        /// that failed counts as free, and is returned if the map still has a key there which has moved on.
        pub fn take_back(&mut self, steps: &[Step<Key>], made: usize) -> Option<u32> {
            for (number, step) in steps.iter().enumerate().skip(made).rev() {
                let before = number.checked_sub(1).filter(|_| number > made);
                self.rows[step.row as usize] = before.map(|before| steps[before].key);
            }
            self.len -= 1;
            let failed = steps.get(made)?;
            (made > 0).then_some(failed.row)
        }

        /// Takes `key` out; the row that is now free.
        pub fn remove(&mut self, key: &Key) -> Option<u32> {
            let row = self.row_of(key)?;
            self.rows[row as usize] = None;
            self.len -= 1;
            Some(row)
        }

        /// Rows from a candidate of `key` to a free one, each a candidate of the key in the row before: the shortest such
        /// path, by breadth-first search.
        fn path_to_room(&self, key: &Key) -> Option<Vec<u32>> {
            let mut came_from: HashMap<u32, Option<u32>> = HashMap::new();
            let mut queue = VecDeque::new();
            for row in self.candidates_of(key) {
                came_from.entry(row).or_insert(None);
                queue.push_back(row);
            }
            let mut seen = HashSet::new();
            while let Some(row) = queue.pop_front() {
                if !seen.insert(row) {
                    continue;
                }
                let Some(resident) = self.rows[row as usize] else {
                    return Some(path(row, &came_from));
                };
                if seen.len() > SEARCH_MAX {
                    return None;
                }
                for next in self.candidates_of(&resident) {
                    came_from.entry(next).or_insert(Some(row));
                    queue.push_back(next);
                }
            }
            None
        }

        fn candidates_of(&self, key: &Key) -> [u32; super::CANDIDATES] {
            let mask = self.rows.len() as u32 - 1;
            candidates((self.hash)(key), mask)
        }
    }

    fn path(end: u32, came_from: &HashMap<u32, Option<u32>>) -> Vec<u32> {
        let mut path = vec![end];
        let mut row = end;
        while let Some(Some(before)) = came_from.get(&row) {
            path.push(*before);
            row = *before;
        }
        path.reverse();
        path
    }
}

#[cfg(all(test, feature = "user"))]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::hash::mix64;

    fn hash(key: &u64) -> u64 {
        mix64(*key)
    }

    /// What a map holds after each step; every key must be found at every moment.
    fn find(rows: &[Option<u64>], key: u64) -> bool {
        let mask = rows.len() as u32 - 1;
        candidates(hash(&key), mask)
            .iter()
            .any(|row| rows[*row as usize] == Some(key))
    }

    #[test]
    fn every_key_is_found_after_every_step_until_the_table_is_full() {
        let mut table = Cuckoo::new(256, hash);
        let mut map = vec![None; 256];
        let mut placed: Vec<u64> = Vec::new();
        for key in 1.. {
            let Ok(steps) = table.insert(key) else { break };
            for step in steps {
                map[step.row as usize] = Some(step.key);
                assert!(placed.iter().all(|key| find(&map, *key)));
            }
            placed.push(key);
            assert!(find(&map, key));
        }
        assert_eq!(map, table.rows());
        assert!(placed.len() > 200, "full at {} of 256", placed.len());
    }

    #[test]
    fn an_insertion_that_stopped_at_any_step_is_taken_back() {
        let mut table = Cuckoo::new(64, hash);
        let mut map = vec![None; 64];
        let mut longest = 0;
        for key in 1.. {
            let Ok(steps) = table.clone().insert(key) else {
                break;
            };
            longest = longest.max(steps.len());
            for made in 0..steps.len() {
                let mut table = table.clone();
                let mut map = map.clone();
                table.insert(key).unwrap();
                for step in &steps[..made] {
                    map[step.row as usize] = Some(step.key);
                }
                if let Some(row) = table.take_back(&steps, made) {
                    map[row as usize] = None;
                }
                assert_eq!(map, table.rows());
                assert_eq!(table.len(), (key - 1) as usize);
                assert!((1..key).all(|key| table.row_of(&key).is_some()));
            }
            for step in table.insert(key).unwrap() {
                map[step.row as usize] = Some(step.key);
            }
        }
        assert!(longest >= 3, "{longest} steps at most");
    }

    #[test]
    fn a_key_that_was_being_moved_is_in_the_row_that_the_program_finds_first() {
        let [first, _, second, _] = candidates(hash(&7), 255);
        let mut rows = vec![None; 256];
        rows[first as usize] = Some(7);
        rows[second as usize] = Some(7);
        let mut table = Cuckoo::from_rows(rows, hash);
        assert_eq!((table.len(), table.row_of(&7)), (1, Some(first)));
        assert_eq!(table.rows()[second as usize], None);
        assert_eq!(table.remove(&7), Some(first));
        assert!(table.is_empty());
    }

    proptest! {
        #[test]
        fn holds_what_a_set_holds(changes: Vec<(bool, u8)>) {
            let mut table = Cuckoo::new(512, hash);
            let mut map = vec![None; 512];
            let mut set = std::collections::BTreeSet::new();
            for (is_added, key) in changes {
                let key = u64::from(key);
                if is_added {
                    for step in table.insert(key).unwrap() {
                        map[step.row as usize] = Some(step.key);
                    }
                    set.insert(key);
                } else if let Some(row) = table.remove(&key) {
                    map[row as usize] = None;
                    set.remove(&key);
                }
            }
            prop_assert_eq!(table.len(), set.len());
            for key in 0..=255 {
                prop_assert_eq!(find(&map, key), set.contains(&key));
            }
            prop_assert_eq!(Cuckoo::from_rows(map, hash).len(), set.len());
        }
    }
}
