//! The report of `bench xdp`: rows as JSON, and a table for people with the targets beside the figures.

use serde::{Deserialize, Serialize};

/// One measured case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    /// Name of the case.
    pub(crate) case: String,
    /// pass, shard, cookie, warm, home, session, session_new, flow, flow_new, quic, answer or floor.
    pub(crate) rule: String,
    /// v4 or v6.
    pub(crate) ip: String,
    /// l2, or the encapsulation and the family of its outer header: ipip4, ipip6, gue4, gue6.
    pub(crate) forward: String,
    /// How many flows, sessions or functions the packets belong to.
    pub(crate) flows: u32,
    /// Median over the rounds, nanoseconds a packet, harness included.
    pub(crate) median_ns: f64,
    /// Median of the harness alone with the same template, in the same rounds.
    pub(crate) floor_ns: f64,
    /// The fastest round.
    pub(crate) min_ns: f64,
    /// The slowest round.
    pub(crate) max_ns: f64,
    /// Measured rounds.
    pub(crate) rounds: u32,
    /// Packets in all measured rounds together.
    pub(crate) packets: u64,
    /// How many of them the program counted under the case's own outcome.
    pub(crate) counted: u64,
}

impl Row {
    /// What the program under test takes: the median, less the floor.
    pub(crate) fn net(&self) -> f64 {
        self.median_ns - self.floor_ns
    }

    /// The target of issue 3 for this case, if there is one: nanoseconds net.
    pub(crate) fn target(&self) -> Option<f64> {
        let by_flows = |limits: [(u32, f64); 2]| {
            let [(few, tight), (many, loose)] = limits;
            if self.flows <= few {
                Some(tight)
            } else {
                (self.flows <= many).then_some(loose)
            }
        };
        if self.forward != "l2" {
            return None;
        }
        match self.rule.as_str() {
            "pass" => Some(30.0),
            "shard" => Some(60.0),
            "cookie" => Some(75.0),
            "warm" => by_flows([(1 << 10, 85.0), (1 << 20, 250.0)]),
            "session" if self.flows > 1 << 17 => Some(340.0),
            "session" => by_flows([(1 << 10, 80.0), (1 << 17, 220.0)]),
            "session_new" => Some(450.0),
            "flow" => by_flows([(1, 90.0), (1 << 17, 300.0)]),
            _ => None,
        }
    }
}

/// The table, and how many targets were met and missed.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut out = format!(
        "{:38} {:>8} {:>8} {:>8} {:>13} {:>8}  {}\n",
        "case", "net ns", "median", "floor", "min–max", "target", "counted"
    );
    let (mut met, mut missed) = (0, 0);
    for row in rows {
        let verdict = row.target().map_or_else(String::new, |target| {
            if row.net() <= target {
                met += 1;
                format!("≤ {target:.0} met")
            } else {
                missed += 1;
                format!("≤ {target:.0} MISSED")
            }
        });
        out += &format!(
            "{:38} {:>8.0} {:>8.0} {:>8.0} {:>13} {:>8}  {}\n",
            row.case,
            row.net(),
            row.median_ns,
            row.floor_ns,
            format!("{:.0}–{:.0}", row.min_ns, row.max_ns),
            verdict,
            if row.counted == row.packets {
                format!("{} of as many", row.counted)
            } else {
                format!("{} of {}", row.counted, row.packets)
            },
        );
    }
    out + &format!("targets: {met} met, {missed} missed\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(rule: &str, flows: u32) -> Row {
        Row {
            case: format!("{rule}/v4/l2/{flows}"),
            rule: rule.to_owned(),
            ip: "v4".to_owned(),
            forward: "l2".to_owned(),
            flows,
            median_ns: 100.0,
            floor_ns: 40.0,
            min_ns: 99.0,
            max_ns: 120.0,
            rounds: 9,
            packets: 9,
            counted: 9,
        }
    }

    #[test]
    fn targets_are_those_of_the_issue() {
        let target = |rule, flows| row(rule, flows).target();
        assert_eq!(target("session", 1 << 10), Some(80.0));
        assert_eq!(target("session", 1 << 17), Some(220.0));
        assert_eq!(target("session", 1 << 20), Some(340.0));
        assert_eq!(target("warm", 1 << 20), Some(250.0));
        assert_eq!(target("flow", 1), Some(90.0));
        assert_eq!(target("flow", 1 << 20), None);
        for rule in ["home", "quic", "flow_new", "answer", "floor"] {
            assert_eq!(target(rule, 1), None, "{rule}");
        }
    }

    #[test]
    fn the_json_has_exactly_the_fields_that_were_asked_for() {
        let json = serde_json::to_value(row("warm", 1)).expect("a row is JSON");
        let fields: Vec<_> = json
            .as_object()
            .expect("an object")
            .keys()
            .cloned()
            .collect();
        let mut expected = [
            "case",
            "rule",
            "ip",
            "forward",
            "flows",
            "median_ns",
            "floor_ns",
            "min_ns",
            "max_ns",
            "rounds",
            "packets",
            "counted",
        ];
        expected.sort_unstable();
        let mut fields = fields;
        fields.sort();
        assert_eq!(fields, expected);
    }

    #[test]
    fn a_missed_target_is_said_to_be_missed() {
        let mut slow = row("shard", 1);
        slow.median_ns = 200.0;
        let table = table(&[slow, row("shard", 1)]);
        assert!(table.contains("MISSED") && table.contains("targets: 1 met, 1 missed"));
    }
}
