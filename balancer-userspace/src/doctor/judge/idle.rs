//! How long a request may wait for an idle processor.

use crate::doctor::{Report, facts::Idle, report::Notes};

/// What nobody notices beside a warm request, which takes tens of microseconds.
const NOTICEABLE_US: u32 = 10;

const CHECK: &str = "idle processors";
const MEND: &str = "cpu_latency.hold = \"busy\" in the worker's configuration";

pub(super) fn judge(idle: &Idle, report: &mut Report) {
    let mut notes = Notes::of("kernel", report);
    let Some(driver) = &idle.driver else {
        // Not bad news: a virtual machine without a driver halts, as one with haltpoll does.
        notes.not_applicable(CHECK, "no idle driver tells how they wait");
        return;
    };
    match (idle.halt_poll_ns, idle.exit_us) {
        (Some(0), _) => notes.warning(
            CHECK,
            "this virtual machine halts them at once (haltpoll, guest_halt_poll_ns is 0): waking one takes tens of microseconds, \
             more than a warm request's own work",
            MEND,
        ),
        (Some(ns), _) => notes.ok(CHECK, format!("poll for up to {} us before they halt", ns / 1_000)),
        (None, Some(us)) if us > NOTICEABLE_US => notes.warning(
            CHECK,
            format!("waking one from its deepest state takes {us} us ({driver})"),
            MEND,
        ),
        (None, Some(us)) => notes.ok(CHECK, format!("awake within {us} us ({driver})")),
        (None, None) => notes.not_applicable(CHECK, format!("{driver} tells no times")),
    }
}
