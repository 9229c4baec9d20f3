//! The pipeline under a loupe: the same stages over tables that also note what they are asked, and an event of what was seen.
//!
//! `balancer` is compiled without any of this ([`Tables::note`] does nothing there); `traced` is attached in its place while
//! somebody looks.

use ebpf_common::{
    event::{CAPTURE_LEN, TraceFilter, TraceHead, TraceState},
    maps::Counter,
};

use crate::{Outcome, Packet, Tables, Verdict, balance};

/// What a tracer has beside the tables.
pub trait Recorder: Tables {
    /// The row of `TRACE`.
    fn filter(&self) -> Option<&TraceFilter>;
    /// Calls `change` with what this CPU remembers.
    fn state<R>(&self, change: impl FnOnce(&mut TraceState) -> R) -> R;
    /// The kernel's monotonic clock, to the nanosecond.
    fn clock_ns(&self) -> u64;
    /// The CPU that this runs on.
    fn cpu(&self) -> u32;
    /// Sends the event off; false if there is no room for it.
    fn emit(&self) -> bool;
}

/// As [`balance`](crate::balance()), with an event of it if a tracer asks for this packet.
#[inline(always)]
pub fn trace<P: Packet, R: Recorder>(packet: &mut P, recorder: &R) -> Verdict {
    begin(packet, recorder);
    let outcome = balance::decide(packet, recorder);
    end(packet, outcome, recorder);
    outcome.verdict()
}

/// Leaves nothing behind but in memory, where neither the compiler nor the verifier follows it: in a register, it would make
/// two pipelines for the one and a way twice as long for the other.
#[inline(always)]
fn begin<P: Packet, R: Recorder>(packet: &P, recorder: &R) {
    let now_ns = recorder.now_ns();
    let Some(filter) = recorder.filter() else {
        return;
    };
    let is_traced = recorder.state(|state| {
        let is_traced = filter.is_turn(state, now_ns);
        state.is_traced = u64::from(is_traced);
        is_traced
    });
    if is_traced {
        came_in(packet, recorder);
        let began_ns = recorder.clock_ns();
        recorder.note(|event| event.head.time_ns = began_ns);
    }
}

#[inline(always)]
fn end<P: Packet, R: Recorder>(packet: &P, outcome: Outcome, recorder: &R) {
    if recorder.state(|state| state.is_traced) == 0 {
        return;
    }
    let ended_ns = recorder.clock_ns();
    went_out(packet, outcome, recorder);
    let mut is_wanted = false;
    recorder.note(|event| {
        event.head.duration_ns = ended_ns.wrapping_sub(event.head.time_ns);
        is_wanted = recorder
            .filter()
            .is_some_and(|filter| filter.admits(&event.head));
    });
    if is_wanted && !recorder.emit() {
        recorder.count(Counter::TraceLost);
    }
}

#[inline(always)]
fn came_in<P: Packet, R: Recorder>(packet: &P, recorder: &R) {
    recorder.note(|event| {
        event.head.clear();
        event.head.ifindex = packet.ingress_ifindex();
        event.head.cpu = recorder.cpu() as u16;
        (event.head.frame_len, event.head.captured) = packet.capture(&mut event.frame);
    });
}

#[inline(always)]
fn went_out<P: Packet, R: Recorder>(packet: &P, outcome: Outcome, recorder: &R) {
    let (action, out_ifindex) = match outcome.verdict() {
        Verdict::Drop(_) | Verdict::Consumed => (1, 0),
        Verdict::Pass => (2, 0),
        Verdict::Tx => (3, packet.ingress_ifindex()),
        Verdict::Redirect { ifindex } => (4, ifindex),
    };
    recorder.note(|event| {
        event.head.action = action;
        event.head.out_ifindex = out_ifindex;
        if out_ifindex != 0 {
            (event.head.sent_len, event.head.captured_sent) = packet.capture(&mut event.sent);
        }
    });
}

/// How many bytes of a frame of `len` bytes are captured: 1 to `CAPTURE_LEN`, also for an empty frame.
///
/// VERIFIER: the bound comes last, as a sum that cannot be 0; a comparison of `len` itself with 0 is made on a copy of the
/// register that the helper gets: "R4 invalid zero-sized read" (Linux 6.18, rustc 1.96).
#[inline(always)]
#[must_use]
pub const fn capture_len(len: u32) -> u32 {
    const LAST_MAX: u32 = CAPTURE_LEN as u32 - 1;
    let last = len.wrapping_sub(1);
    (if last > LAST_MAX { LAST_MAX } else { last }) + 1
}

/// Sets what is known of an event.
#[inline(always)]
pub(crate) fn known<T: Tables>(tables: &T, field: u8, set: impl FnOnce(&mut TraceHead)) {
    tables.note(|event| {
        event.head.known |= field;
        set(&mut event.head);
    });
}
