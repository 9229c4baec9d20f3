//! What the documentation lists by hand is what there is.

use ebpf_common::maps::{Class, Counter, name};

const MAPS: &str = include_str!("../../docs/maps.md");
const DATA_PATH: &str = include_str!("../../docs/data-path.md");

#[test]
fn every_map_has_a_row_in_its_table() {
    let mut rows: Vec<&str> = Vec::new();
    let tables = MAPS.lines().filter(|line| line.starts_with("| `"));
    for first in tables.filter_map(|line| line.split('|').nth(1)) {
        rows.extend(first.split(',').map(|name| name.trim().trim_matches('`')));
    }
    let mut maps: Vec<&str> = [name::ALL, name::OF_TRACER].concat();
    rows.sort_unstable();
    maps.sort_unstable();
    assert_eq!(rows, maps);
}

#[test]
fn the_sum_of_outcomes_names_every_class_that_is_one() {
    let mut classes: Vec<&str> = Counter::ALL
        .iter()
        .map(|counter| counter.class())
        .filter(|class: &Class| class.is_outcome())
        .map(Class::name)
        .collect();
    let sum = DATA_PATH
        .lines()
        .find_map(|line| line.trim().strip_prefix("packets = "))
        .unwrap();
    let mut named: Vec<&str> = sum
        .split(" + ")
        .map(|term| term.trim_start_matches("Σ "))
        .collect();
    for names in [&mut classes, &mut named] {
        names.sort_unstable();
        names.dedup();
    }
    assert_eq!(named, classes);
}
