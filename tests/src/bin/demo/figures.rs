//! The figures of the report, in the shape that `--report FILE` promises, and what must hold of them.

use serde::Serialize;

/// Everything that was measured.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Figures {
    pub(crate) rpc: Rpc,
    pub(crate) direct: Latency,
    pub(crate) sessions: Sessions,
    pub(crate) shards: Shards,
    pub(crate) http: Http,
    pub(crate) worker_kill: WorkerKill,
    pub(crate) control_plane_kill: ControlPlaneKill,
    pub(crate) counters: Counters,
    pub(crate) xdp: Xdp,
    /// What else was promised and did not hold; said, not written to the file.
    #[serde(skip)]
    pub(crate) complaints: Vec<String>,
}

/// (a) through the VIP.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Rpc {
    pub(crate) sent: u64,
    pub(crate) answered: u64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) per_second: u64,
}

/// (a) past the balancer.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
}

/// (b)
#[derive(Debug, Default, Serialize)]
pub(crate) struct Sessions {
    pub(crate) count: u64,
    pub(crate) requests: u64,
    /// Requests that met the worker and the instance of their session's first one.
    pub(crate) sticky_ratio: f64,
}

/// (c)
#[derive(Debug, Default, Serialize)]
pub(crate) struct Shards {
    pub(crate) keys: u64,
    /// Requests whose handler ran on the worker that owns the key's slot.
    pub(crate) local_ratio: f64,
    /// Keys whose value was read back as it was written.
    pub(crate) read_back_ratio: f64,
}

/// (d)
#[derive(Debug, Default, Serialize)]
pub(crate) struct Http {
    pub(crate) requests: u64,
    pub(crate) ok: u64,
}

/// (e)
#[derive(Debug, Default, Serialize)]
pub(crate) struct WorkerKill {
    pub(crate) failed: u64,
    pub(crate) retried: u64,
    /// From SIGKILL to the last request that still had to be sent twice, or failed.
    pub(crate) moved_ms: f64,
}

/// (f)
#[derive(Debug, Default, Serialize)]
pub(crate) struct ControlPlaneKill {
    pub(crate) sent: u64,
    pub(crate) lost: u64,
}

/// (g)
#[derive(Debug, Default, Serialize)]
pub(crate) struct Counters {
    pub(crate) packets: u64,
    pub(crate) sum_of_outcomes: u64,
}

/// How the program is attached.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Xdp {
    pub(crate) mode: String,
}

/// `part` of `whole`; 0 of nothing, so that nothing measured never looks like success.
pub(crate) fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

impl Figures {
    /// What was promised and does not hold, in words.
    pub(crate) fn broken_promises(&self) -> Vec<String> {
        let mut broken = self.complaints.clone();
        let mut promise = |holds: bool, words: String| {
            if !holds {
                broken.push(words);
            }
        };
        let Self {
            rpc,
            sessions,
            shards,
            http,
            ..
        } = self;
        promise(
            rpc.sent > 0 && rpc.sent == rpc.answered,
            format!("{} RPCs were sent and {} answered", rpc.sent, rpc.answered),
        );
        promise(
            is_whole(sessions.sticky_ratio),
            format!(
                "only {:.4} of the session requests met their instance",
                sessions.sticky_ratio
            ),
        );
        promise(
            is_whole(shards.local_ratio),
            format!(
                "only {:.4} of the shard requests ran beside their data",
                shards.local_ratio
            ),
        );
        promise(
            is_whole(shards.read_back_ratio),
            format!(
                "only {:.4} of the keys were read back",
                shards.read_back_ratio
            ),
        );
        promise(
            http.requests > 0 && http.requests == http.ok,
            format!(
                "{} of {} HTTP requests were answered with 200",
                http.ok, http.requests
            ),
        );
        let kill = &self.control_plane_kill;
        promise(
            kill.sent > 0 && kill.lost == 0,
            format!(
                "{} of {} requests were lost without a control plane",
                kill.lost, kill.sent
            ),
        );
        let Counters {
            packets,
            sum_of_outcomes,
        } = self.counters;
        promise(
            packets > 0 && packets == sum_of_outcomes,
            format!("the program saw {packets} packets and counted {sum_of_outcomes} outcomes"),
        );
        promise(
            self.xdp.mode == "native",
            format!(
                "the XDP program is attached in mode `{}`, not natively",
                self.xdp.mode
            ),
        );
        broken
    }
}

fn is_whole(ratio: f64) -> bool {
    ratio >= 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_demo_that_measured_nothing_has_kept_no_promise() {
        assert_eq!(Figures::default().broken_promises().len(), 8);
    }

    #[test]
    fn the_report_has_the_promised_keys() {
        let json = serde_json::to_value(Figures::default()).unwrap();
        let keys = |path: &str| -> Vec<String> {
            let mut keys: Vec<_> = json[path].as_object().unwrap().keys().cloned().collect();
            keys.sort();
            keys
        };
        assert_eq!(json.as_object().unwrap().len(), 9);
        assert_eq!(
            keys("rpc"),
            ["answered", "p50_us", "p99_us", "per_second", "sent"]
        );
        assert_eq!(keys("direct"), ["p50_us", "p99_us"]);
        assert_eq!(keys("sessions"), ["count", "requests", "sticky_ratio"]);
        assert_eq!(keys("shards"), ["keys", "local_ratio", "read_back_ratio"]);
        assert_eq!(keys("http"), ["ok", "requests"]);
        assert_eq!(keys("worker_kill"), ["failed", "moved_ms", "retried"]);
        assert_eq!(keys("control_plane_kill"), ["lost", "sent"]);
        assert_eq!(keys("counters"), ["packets", "sum_of_outcomes"]);
        assert_eq!(keys("xdp"), ["mode"]);
    }
}
