//! Golden bytes of what one program alone writes and reads: its memory between steps, and what the benchmarks' harness is
//! told and tells. No pinned map that is adopted means anything by it, so a change here needs no new `LAYOUT_VERSION`; it is
//! pinned so that it is seen. `layout.rs` has what is promised.

use ebpf_common::{
    maps::SchemaScratch,
    schema::{Scan, SchemaEntry, SchemaTarget},
    traffic::{Arrivals, Template},
};
use zerocopy::IntoBytes;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const SCAN: Scan = Scan {
    state: 1,
    position: 2,
    depth: 3,
    left: 4,
    end: 5,
    shift: 6,
    number: 7,
    session: 8,
    crc: 9,
    tag_crc: 10,
    tag: 11,
    tag_len: 12,
    is_found: 13,
    len: 14,
    reserved: 15,
};
const SCAN_BYTES: &str = concat!(
    "010000000200000003000000040000000500000006000000",
    "07000000000000000800000000000000",
    "090000000a0000000b0000000c0000000d0000000e000000",
    "0f00000000000000",
);

#[test]
fn the_scan_of_a_payload() {
    assert_eq!(hex(SCAN.as_bytes()), SCAN_BYTES);
    let scratch = SchemaScratch {
        schema: SchemaEntry::json(SchemaTarget::Slot, "user").unwrap(),
        scan: SCAN,
        payload: [0xaa; 256],
    };
    let schema = format!(
        "0302040000000000{}75736572{}",
        "00".repeat(24),
        "00".repeat(28)
    );
    let golden = [&schema, SCAN_BYTES, &"aa".repeat(256)].concat();
    assert_eq!(hex(scratch.as_bytes()), golden);
}

#[test]
fn what_a_generator_is_told_and_what_a_sink_has_seen() {
    let template = Template {
        mask: 1,
        session_seed: 2,
        function_seed: 3,
        vary: 4,
        undo: 5,
        carries: 6,
        ip: 7,
        frame_len: 8,
        source: 9,
        port: 10,
        ip_sum: 11,
        head: std::array::from_fn(|word| 0x11 + word as u64),
        udp_sum: 0x21,
        reserved: 0,
    };
    let golden = concat!(
        "010000000000000002000000000000000300000000000000",
        "04000000050000000600000007000000",
        "08000000090000000a0000000b000000",
        "11000000000000001200000000000000",
        "13000000000000001400000000000000",
        "15000000000000001600000000000000",
        "17000000000000001800000000000000",
        "19000000000000001a00000000000000",
        "1b000000000000001c00000000000000",
        "1d000000000000001e00000000000000",
        "1f000000000000002000000000000000",
        "2100000000000000",
    );
    assert_eq!(hex(template.as_bytes()), golden);
    let arrivals = Arrivals {
        mac: 0x0102_0304_0506,
        packets: 2,
        bytes: 3,
        others: 4,
    };
    let golden = concat!(
        "06050403020100000200000000000000",
        "03000000000000000400000000000000",
    );
    assert_eq!(hex(arrivals.as_bytes()), golden);
}
