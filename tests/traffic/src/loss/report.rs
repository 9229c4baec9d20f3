//! What a run came to, for programs and for the page.

use std::collections::BTreeMap;

use serde::Serialize;

/// One run.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    /// Changes, by what was changed.
    pub(super) changes: BTreeMap<String, u64>,
    pub(super) map_writes: usize,
    /// Programs put in the place of another.
    pub(super) replacements: u64,
    pub(super) seconds: f64,
    #[serde(flatten)]
    pub(super) packets: Packets,
    /// Counters of the program that are not zero.
    pub(super) counters: BTreeMap<String, u64>,
    /// Frames that a veth pair dropped.
    pub(super) frames_dropped: u64,
}

/// What became of the packets.
#[derive(Debug, Serialize)]
pub(super) struct Packets {
    pub(super) packets: usize,
    pub(super) by_kind: BTreeMap<&'static str, u64>,
    /// On their way during a change.
    pub(super) met_a_change: u64,
    pub(super) lost: usize,
    pub(super) twice: usize,
    pub(super) at_a_wrong_worker: usize,
}

impl Row {
    /// As a section of docs/performance.md.
    pub(super) fn markdown(&self) -> String {
        let Packets {
            packets,
            by_kind,
            met_a_change,
            lost,
            twice,
            at_a_wrong_worker,
        } = &self.packets;
        format!(
            "| packets | on their way during a change | lost | twice | at a wrong worker | changes | map writes | programs replaced | s |\n\
             |--:|--:|--:|--:|--:|--:|--:|--:|--:|\n\
             | {packets} | {met_a_change} | {lost} | {twice} | {at_a_wrong_worker} | {} | {} | {} | {:.1} |\n\n\
             Packets by kind: {}. Changes: {}. Frames dropped by wires: {}. Counters that moved: {}.\n",
            self.changes.values().sum::<u64>(),
            self.map_writes,
            self.replacements,
            self.seconds,
            counts(by_kind),
            counts(&self.changes),
            self.frames_dropped,
            counts(&self.counters),
        )
    }
}

/// Counts with their names, in one line.
pub(super) fn counts(counts: &BTreeMap<impl AsRef<str>, u64>) -> String {
    let counts = counts.iter();
    let counts = counts.map(|(name, count)| format!("{} {count}", name.as_ref()));
    counts.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        Row {
            changes: [("Cap".to_owned(), 2), ("Keys".to_owned(), 1)].into(),
            map_writes: 30,
            replacements: 1,
            seconds: 1.25,
            packets: Packets {
                packets: 9,
                by_kind: [("warm", 4), ("session", 5)].into(),
                met_a_change: 3,
                lost: 0,
                twice: 0,
                at_a_wrong_worker: 0,
            },
            counters: [("route warm".to_owned(), 4)].into(),
            frames_dropped: 0,
        }
    }

    #[test]
    fn the_section_has_what_was_lost_beside_what_was_changed() {
        let text = row().markdown();
        assert!(
            text.contains("\n| 9 | 3 | 0 | 0 | 0 | 3 | 30 | 1 | 1.2 |\n"),
            "{text}"
        );
        assert!(text.contains("Packets by kind: session 5, warm 4."));
        assert!(text.contains("Changes: Cap 2, Keys 1."));
    }

    #[test]
    fn the_json_names_each_figure() {
        let json = serde_json::to_value(row()).expect("it is JSON");
        assert_eq!(json["lost"], 0);
        assert_eq!(json["by_kind"]["session"], 5);
        assert_eq!(json["changes"]["Keys"], 1);
    }
}
