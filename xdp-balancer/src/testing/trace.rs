//! A tracer over [`FakeTables`]: what the maps `TRACE`, `TRACE_SCRATCH` and `EVENTS` are to the program.

use std::cell::{Cell, RefCell};

use ebpf_common::event::{TraceEvent, TraceFilter, TraceState};

use super::FakeTables;
use crate::Recorder;

/// The tracer's maps, and its clock.
#[derive(Debug, Clone)]
pub struct FakeTrace {
    /// `TRACE`.
    pub filter: TraceFilter,
    /// The one in `TRACE_SCRATCH`.
    pub state: Cell<TraceState>,
    /// The one in `TRACE_SCRATCH`.
    pub event: RefCell<TraceEvent>,
    /// `EVENTS`.
    pub events: RefCell<Vec<TraceEvent>>,
    /// Events that `EVENTS` has room for.
    pub events_max: usize,
    /// What the clock says next; it moves by one each time.
    pub clock_ns: Cell<u64>,
}

impl Default for FakeTrace {
    fn default() -> Self {
        Self {
            filter: TraceFilter::ANY,
            state: Cell::new(TraceState {
                turn: 0,
                beat: 0,
                beat_ns: 0,
                is_traced: 0,
            }),
            event: RefCell::new(TraceEvent::EMPTY),
            events: RefCell::default(),
            events_max: usize::MAX,
            clock_ns: Cell::new(0),
        }
    }
}

impl Recorder for FakeTables {
    fn filter(&self) -> Option<&TraceFilter> {
        Some(&self.trace.filter)
    }

    fn state<R>(&self, change: impl FnOnce(&mut TraceState) -> R) -> R {
        let mut state = self.trace.state.get();
        let result = change(&mut state);
        self.trace.state.set(state);
        result
    }

    fn clock_ns(&self) -> u64 {
        self.trace.clock_ns.replace(self.trace.clock_ns.get() + 1)
    }

    fn cpu(&self) -> u32 {
        0
    }

    fn emit(&self) -> bool {
        let mut events = self.trace.events.borrow_mut();
        let has_room = events.len() < self.trace.events_max;
        if has_room {
            events.push(*self.trace.event.borrow());
        }
        has_room
    }
}
