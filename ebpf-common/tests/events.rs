//! Golden bytes of tracing: what a tracer asks for, the event that it is sent, and what a CPU remembers of it from packet to
//! packet. Filter and event are a promise, as what is in `layout.rs` is; the memory of a CPU is the program's own.

use ebpf_common::event::{TraceEvent, TraceFilter, TraceHead, TraceScratch, TraceState};
use zerocopy::{FromZeros, IntoBytes};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn events_of_a_tracer() {
    let head = TraceHead {
        time_ns: 0x0102_0304_0506_0708,
        duration_ns: 0x1112,
        function: 0x2122,
        session: 0x3132,
        request_id: 0x4142,
        counted: [0x51, 0x52],
        source: [0x61; 16],
        destination: [0x62; 16],
        vip_id: 0x71,
        ifindex: 0x72,
        out_ifindex: 0x73,
        frame_len: 0x74,
        sent_len: 0x75,
        source_port: 0x8182,
        destination_port: 0x8384,
        worker: 0x8586,
        cpu: 0x8788,
        captured: 0x89,
        captured_sent: 0x8a,
        family: 6,
        protocol: 17,
        action: 3,
        known: 0x3f,
        reserved: [0; 4],
    };
    let golden = concat!(
        "0807060504030201",
        "1211000000000000",
        "2221000000000000",
        "3231000000000000",
        "4241000000000000",
        "51000000000000005200000000000000",
        "61616161616161616161616161616161",
        "62626262626262626262626262626262",
        "7100000072000000",
        "7300000074000000",
        "75000000",
        "8281848386858887",
        "89008a00",
        "0611033f",
        "00000000",
    );
    assert_eq!(hex(head.as_bytes()), golden);
    let event = TraceEvent {
        head,
        frame: [0xaa; 192],
        sent: [0xbb; 192],
    };
    let golden = [golden, &"aa".repeat(192), &"bb".repeat(192)].concat();
    assert_eq!(hex(event.as_bytes()), golden);

    let filter = TraceFilter {
        beat: 1,
        lease_ns: 2,
        function: 3,
        counters: [4, 5],
        source: [6; 16],
        source_mask: [7; 16],
        every: 8,
        vip_id: 9,
        worker: 10,
        destination_port: 11,
        family: 4,
        fields: 12,
        reserved: [0; 10],
    };
    let golden = concat!(
        "0100000000000000",
        "0200000000000000",
        "0300000000000000",
        "04000000000000000500000000000000",
        "06060606060606060606060606060606",
        "07070707070707070707070707070707",
        "0800000009000000",
        "0a000b00",
        "040c",
        "00000000000000000000",
    );
    assert_eq!(hex(filter.as_bytes()), golden);
}

#[test]
fn what_a_cpu_remembers_of_tracing() {
    let state = TraceState {
        turn: 1,
        beat: 2,
        beat_ns: 3,
        is_traced: 4,
    };
    let golden = concat!(
        "01000000000000000200000000000000",
        "03000000000000000400000000000000",
    );
    assert_eq!(hex(state.as_bytes()), golden);
    let event = TraceEvent {
        head: TraceHead::new_zeroed(),
        frame: [0xaa; 192],
        sent: [0xbb; 192],
    };
    let golden = [
        golden,
        &"00".repeat(128),
        &"aa".repeat(192),
        &"bb".repeat(192),
    ]
    .concat();
    assert_eq!(hex(TraceScratch { state, event }.as_bytes()), golden);
}
