//! A table whose rows we place ourselves (`VIPS`, `VIPS6`, `FUNCTIONS`): see [`ebpf_common::cuckoo`].

use std::{fmt, path::Path};

use aya::{
    Pod,
    maps::{Array, MapData, MapError},
};
use ebpf_common::{
    cuckoo::{Cuckoo, Step, candidates},
    ids::FunctionId,
    maps::{
        FunctionEntry, FunctionLimit, FunctionRow, Rate, Vip6Key, Vip6Row, VipInfo, VipKey, VipRow,
        function_hash, vip_hash, vip6_hash,
    },
};

use super::{OpenError, ReadError, WriteError, open, read::read_error};

/// A row that says itself whose it is.
pub(super) trait Row: Pod + Eq {
    type Key: Copy + Eq;
    type Value: Copy;
    const EMPTY: Self;

    fn new(key: Self::Key, value: Self::Value) -> Self;
    fn hash(key: &Self::Key) -> u64;
    /// None for an empty row.
    fn parts(&self) -> Option<(Self::Key, Self::Value)>;
    /// The same row, not yet anybody's.
    fn nobodys(self) -> Self;
}

impl Row for FunctionRow {
    type Key = FunctionId;
    type Value = FunctionEntry;
    const EMPTY: Self = Self::EMPTY;

    fn new(key: FunctionId, entry: FunctionEntry) -> Self {
        Self::new(key, entry)
    }

    fn hash(key: &FunctionId) -> u64 {
        function_hash(*key)
    }

    fn parts(&self) -> Option<(FunctionId, FunctionEntry)> {
        (self.function != 0).then_some((FunctionId(self.function), self.entry))
    }

    fn nobodys(self) -> Self {
        Self {
            function: 0,
            ..self
        }
    }
}

impl Row for FunctionLimit {
    type Key = FunctionId;
    type Value = Rate;
    const EMPTY: Self = Self::EMPTY;

    fn new(key: FunctionId, rate: Rate) -> Self {
        Self::new(key, rate)
    }

    fn hash(key: &FunctionId) -> u64 {
        function_hash(*key)
    }

    fn parts(&self) -> Option<(FunctionId, Rate)> {
        (self.function != 0).then_some((FunctionId(self.function), self.rate))
    }

    fn nobodys(self) -> Self {
        Self {
            function: 0,
            ..self
        }
    }
}

impl Row for VipRow {
    type Key = VipKey;
    type Value = VipInfo;
    const EMPTY: Self = Self::EMPTY;

    fn new(key: VipKey, info: VipInfo) -> Self {
        Self::new(key, info)
    }

    fn hash(key: &VipKey) -> u64 {
        vip_hash(key)
    }

    fn parts(&self) -> Option<(VipKey, VipInfo)> {
        (self.info.kind != 0).then_some((self.key, self.info))
    }

    fn nobodys(self) -> Self {
        Self::EMPTY
    }
}

impl Row for Vip6Row {
    type Key = Vip6Key;
    type Value = VipInfo;
    const EMPTY: Self = Self::EMPTY;

    fn new(key: Vip6Key, info: VipInfo) -> Self {
        Self::new(key, info)
    }

    fn hash(key: &Vip6Key) -> u64 {
        vip6_hash(key)
    }

    fn parts(&self) -> Option<(Vip6Key, VipInfo)> {
        (self.info.kind != 0).then_some((self.key, self.info))
    }

    fn nobodys(self) -> Self {
        Self::EMPTY
    }
}

/// The entry of `key` in the table `name`, looked for as the program does.
pub(super) fn look_up<R: Row>(
    pin_path: &Path,
    name: &'static str,
    key: &R::Key,
) -> Result<Option<R::Value>, ReadError> {
    let map: Array<MapData, R> = open::array(pin_path, name)?;
    let rows = super::apply::usable_rows(pin_path, name)?;
    for row in candidates(R::hash(key), rows - 1) {
        let row = map.get(&row, 0).map_err(read_error(name))?;
        if let Some((found, value)) = row.parts()
            && found == *key
        {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// The rows of a table: a map of the kernel, or a fake in tests.
pub(super) trait Rows<R> {
    fn row(&self, row: u32) -> Result<R, MapError>;
    fn set_row(&mut self, row: u32, value: R) -> Result<(), MapError>;
}

impl<R: Row> Rows<R> for Array<MapData, R> {
    fn row(&self, row: u32) -> Result<R, MapError> {
        self.get(&row, 0)
    }

    fn set_row(&mut self, row: u32, value: R) -> Result<(), MapError> {
        self.set(row, value, 0)
    }
}

/// The map, and which key stands in which row.
pub(super) struct Placed<R: Row, M = Array<MapData, R>> {
    map: M,
    places: Cuckoo<R::Key>,
    /// Rows that hold a key which the program finds in another row: somebody stopped while moving it.
    left_behind: Vec<u32>,
    name: &'static str,
}

// aya's maps have no Debug of their own.
impl<R: Row, M> fmt::Debug for Placed<R, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Placed")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl<R: Row> Placed<R> {
    /// Opens the map and reads who stands where.
    pub(super) fn open(pin_path: &Path, name: &'static str) -> Result<Self, OpenError> {
        let map = open::array(pin_path, name)?;
        let rows = super::apply::usable_rows(pin_path, name)?;
        Self::of(map, rows, name).map_err(|source| OpenError::Type {
            path: pin_path.join(name),
            source: Box::new(source),
        })
    }
}

impl<R: Row, M: Rows<R>> Placed<R, M> {
    fn of(map: M, rows: u32, name: &'static str) -> Result<Self, MapError> {
        let keys = (0..rows).map(|row| Ok(map.row(row)?.parts().map(|(key, _)| key)));
        let keys = keys.collect::<Result<Vec<_>, MapError>>()?;
        let held: Vec<bool> = keys.iter().map(Option::is_some).collect();
        let places = Cuckoo::from_rows(keys, R::hash);
        let left_behind = (0..)
            .zip(held.iter().zip(places.rows()))
            .filter(|(_, (is_held, key))| **is_held && key.is_none())
            .map(|(row, _)| row)
            .collect();
        Ok(Self {
            places,
            map,
            left_behind,
            name,
        })
    }

    /// Rows that the program can use.
    pub(super) fn rows(&self) -> u32 {
        self.places.rows().len() as u32
    }

    /// What it holds.
    pub(super) fn entries(
        &self,
    ) -> impl Iterator<Item = Result<(R::Key, R::Value), MapError>> + '_ {
        (0..)
            .zip(self.places.rows())
            .filter(|(_, key)| key.is_some())
            .filter_map(|(row, _)| self.map.row(row).map(|row| row.parts()).transpose())
    }

    /// Sets the entry of `key`.
    pub(super) fn insert(&mut self, key: R::Key, value: R::Value) -> Result<(), WriteError> {
        self.tidy()?;
        if let Some(row) = self.places.row_of(&key) {
            return self.set(row, R::new(key, value));
        }
        let full = |_full| WriteError::Full { map: self.name };
        let steps = self.places.insert(key).map_err(full)?;
        for made in 0..steps.len() {
            if let Err(error) = self.carry_out(&steps[made..], R::new(key, value)) {
                // Those that were to move and did not are where they were, and nobody may be placed there.
                self.left_behind.extend(self.places.take_back(&steps, made));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Carries out the first of `steps`; `new` is the row that the last one is about.
    fn carry_out(&mut self, steps: &[Step<R::Key>], new: R) -> Result<(), WriteError> {
        let row = match steps {
            // Who moves stands until then in the row that the next step is about.
            [_, next, ..] => self.map.row(next.row).map_err(self.error())?,
            _ => new,
        };
        // Its body first, under nobody's name: the program never reads a mixture of two entries.
        self.set(steps[0].row, row.nobodys())?;
        self.set(steps[0].row, row)
    }

    /// Removes the entry of `key`, if there is one.
    pub(super) fn remove(&mut self, key: &R::Key) -> Result<(), WriteError> {
        self.tidy()?;
        let Some(row) = self.places.row_of(key) else {
            return Ok(());
        };
        self.set(row, R::EMPTY)?;
        self.places.remove(key);
        Ok(())
    }

    /// Empties the rows that were left behind, lest their keys be found there once they are taken from where they are.
    fn tidy(&mut self) -> Result<(), WriteError> {
        while let Some(row) = self.left_behind.last() {
            self.set(*row, R::EMPTY)?;
            self.left_behind.pop();
        }
        Ok(())
    }

    fn set(&mut self, row: u32, value: R) -> Result<(), WriteError> {
        self.map.set_row(row, value).map_err(self.error())
    }

    fn error(&self) -> impl Fn(MapError) -> WriteError + use<R, M> {
        let map = self.name;
        move |source| WriteError::Kernel {
            map,
            source: Box::new(source.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use ebpf_common::maps::Affinity;

    use super::*;

    const ROWS: u32 = 16;

    /// Rows without a kernel, which refuses writes once it has taken `takes`.
    struct FakeRows {
        rows: Vec<FunctionRow>,
        takes: usize,
    }

    impl Rows<FunctionRow> for FakeRows {
        fn row(&self, row: u32) -> Result<FunctionRow, MapError> {
            Ok(self.rows[row as usize])
        }

        fn set_row(&mut self, row: u32, value: FunctionRow) -> Result<(), MapError> {
            self.takes = self.takes.checked_sub(1).ok_or(MapError::KeyNotFound)?;
            self.rows[row as usize] = value;
            Ok(())
        }
    }

    type Table = Placed<FunctionRow, FakeRows>;

    fn table() -> Table {
        let rows = FakeRows {
            rows: vec![FunctionRow::EMPTY; ROWS as usize],
            takes: usize::MAX,
        };
        Placed::of(rows, ROWS, "FUNCTIONS").unwrap()
    }

    /// What the program finds.
    fn found(table: &Table, id: u64) -> bool {
        let hash = FunctionRow::hash(&FunctionId(id));
        let rows = candidates(hash, ROWS - 1);
        rows.iter()
            .any(|row| table.map.rows[*row as usize].function == id)
    }

    fn insert(table: &mut Table, id: u64) -> Result<(), WriteError> {
        table.insert(FunctionId(id), FunctionEntry::new(Affinity::None, &[]))
    }

    #[test]
    fn a_write_that_fails_loses_no_entry_of_another() {
        for failing in 0..400 {
            // Each time a table of other functions, filled until some have to move.
            let first = failing * 1_000 + 1;
            for takes in 0..8 {
                let mut table = table();
                let mut held = Vec::new();
                for id in first..first + 11 {
                    if insert(&mut table, id).is_ok() {
                        held.push(id);
                    }
                }
                table.map.takes = takes;
                let late = first + 100;
                let result = insert(&mut table, late);
                table.map.takes = usize::MAX;
                if result.is_ok() {
                    held.push(late);
                }
                // One that goes is gone, and its row may be given to another.
                let gone = held.remove(0);
                table.remove(&FunctionId(gone)).unwrap();
                assert!(!found(&table, gone), "{gone} after {takes} writes");
                for id in first + 200..first + 203 {
                    if insert(&mut table, id).is_ok() {
                        held.push(id);
                    }
                }
                for id in held {
                    assert!(found(&table, id), "{id} is lost after {takes} writes");
                }
            }
        }
    }
}
