//! `warmpath map dump`: the pinned maps, read from the kernel itself, so that it also works while the
//! control plane is down.

use std::collections::BTreeMap;

use anyhow::Result;
use balancer_userspace::{api::types::MapDump, maps};
use serde_json::Value;

use crate::{
    args::{OutputArgs, PinArgs},
    output::{self, Exit, Table},
};

pub(super) fn dump(name: Option<&str>, pins: &PinArgs, output: &OutputArgs) -> Result<Exit> {
    match name {
        None => list(pins, output)?,
        Some(name) => print(&maps::dump(&pins.pin_path, &name.to_uppercase())?, output)?,
    }
    Ok(Exit::Ok)
}

fn list(pins: &PinArgs, output: &OutputArgs) -> Result<()> {
    let maps = maps::list(&pins.pin_path)?;
    if output.json {
        return output::json(&maps);
    }
    let mut table = Table::new(&["map", "id", "key_bytes", "value_bytes", "max_entries"]);
    for map in maps {
        table.row(vec![
            map.name,
            map.id.to_string(),
            map.key_bytes.to_string(),
            map.value_bytes.to_string(),
            map.max_entries.to_string(),
        ]);
    }
    table.print()
}

/// One column for each field that any entry has.
fn print(dump: &MapDump, output: &OutputArgs) -> Result<()> {
    if output.json {
        return output::json(dump);
    }
    let rows: Vec<BTreeMap<String, String>> = dump.entries.iter().map(fields).collect();
    let mut headings: Vec<&str> = rows
        .iter()
        .flat_map(BTreeMap::keys)
        .map(String::as_str)
        .collect();
    headings.sort_unstable();
    headings.dedup();
    let mut table = Table::new(&headings);
    for row in &rows {
        let cell = |heading: &&str| row.get(*heading).map_or("-", String::as_str).to_owned();
        table.row(headings.iter().map(cell).collect());
    }
    table.print()?;
    if dump.left_out > 0 {
        output::talk(format_args!("{} more entries not shown", dump.left_out));
    }
    Ok(())
}

fn fields(entry: &Value) -> BTreeMap<String, String> {
    match entry {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), text(value)))
            .collect(),
        other => BTreeMap::from([("value".to_owned(), text(other))]),
    }
}

/// Strings without their quotes, all else as JSON.
fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}
