//! Golden bytes: the layout of the RPC header and of every map type. A change here breaks peers and
//! pinned maps; it needs a new `wire::VERSION` or `LAYOUT_VERSION`.

use ebpf_common::{
    LAYOUT_VERSION,
    cookie::CookieScope,
    ids::{FunctionId, SlotId, WorkerId},
    maps::{
        Affinity, Config, FunctionEntry, SessionEntry, SessionKey, VipInfo, VipKey, VipKind,
        WorkerInfo, WorkerLoad, WorkerState, home_index, slot_index,
    },
    wire::{Kind, RpcHeader, Status, flags},
};
use zerocopy::IntoBytes;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn rpc_header() {
    let header = RpcHeader {
        kind: Kind::Request,
        flags: flags::HAS_SESSION | flags::HAS_SLOT | flags::FIRST,
        request_id: 0x0102_0304_0506_0708,
        function: FunctionId(0x1112_1314_1516_1718),
        session_id: 0x2122_2324_2526_2728,
        slot: SlotId(0x3132),
        fragment_index: 0,
        fragment_count: 3,
        status: 0x4142,
        budget_ms: 0x5152_5354,
        payload_len: 0x6162,
        route_cookie: 0x7172_7374_7576_7778,
        token: 0x8182_8384_8586_8788,
    };
    let golden = concat!(
        "5750010100230040",
        "0102030405060708",
        "1112131415161718",
        "2122232425262728",
        "3132000000034142",
        "5152535400006162",
        "7172737475767778",
        "8182838485868788",
    );
    assert_eq!(hex(&header.emit()), golden);
}

#[test]
fn map_types() {
    assert_eq!(LAYOUT_VERSION, 1);
    let golden = [
        (
            hex(VipKey::new([10, 0, 0, 1], 9000, 17).as_bytes()),
            "0a00000123281100",
        ),
        (
            hex(VipInfo::new(0x0102, VipKind::Rpc).as_bytes()),
            "0201000001000000",
        ),
        (
            hex(SessionKey {
                function: 1,
                session: 2,
            }
            .as_bytes()),
            "01000000000000000200000000000000",
        ),
        (
            hex(SessionEntry {
                worker: 0x0102,
                reserved: 0,
            }
            .as_bytes()),
            "02010000",
        ),
        (
            hex(WorkerLoad {
                in_flight: 1,
                capacity: 2,
            }
            .as_bytes()),
            "0100000002000000",
        ),
        (
            hex(FunctionEntry::new(Affinity::Shard, &[WorkerId(1), WorkerId(2)]).as_bytes()),
            "0202000001000200ffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        ),
        (
            hex(WorkerInfo {
                ifindex: 5,
                state: WorkerState::Draining as u8,
                reserved: [0; 3],
                dst_mac: [1, 2, 3, 4, 5, 6],
                src_mac: [7, 8, 9, 10, 11, 12],
            }
            .as_bytes()),
            "05000000020000000102030405060708090a0b0c",
        ),
        (
            hex(Config {
                generation: 1,
                cookie_epoch: 2,
                cookie_keys: [[3, 4], [5, 6]],
                reserved: 0,
            }
            .as_bytes()),
            concat!(
                "0100000002000000",
                "03000000000000000400000000000000",
                "05000000000000000600000000000000",
                "0000000000000000",
            ),
        ),
    ];
    for (bytes, expected) in golden {
        assert_eq!(bytes, expected);
    }
}

#[test]
fn route_cookie() {
    let config = Config {
        generation: 0,
        cookie_epoch: 1,
        cookie_keys: [[1, 2], [3, 4]],
        reserved: 0,
    };
    let scope = CookieScope {
        function: FunctionId(5),
        session: 6,
    };
    assert_eq!(
        format!("{:016x}", config.cookie_keys().seal(WorkerId(7), scope)),
        "00070105b607cd1e"
    );
}

#[test]
fn table_positions() {
    assert_eq!(slot_index(0, SlotId(5)), 5);
    assert_eq!(slot_index(3, SlotId(5)), 16_389);
    assert_eq!(home_index(1, FunctionId(0), 2), 65_539);
}

#[test]
fn status_codes() {
    let golden = [
        0, 1, 100, 101, 102, 103, 104, 105, 200, 201, 202, 203, 204, 300, 301, 302, 303, 304, 305,
        306,
    ];
    let codes: Vec<u16> = Status::ALL.iter().map(|status| *status as u16).collect();
    assert_eq!(codes, golden);
    for status in Status::ALL {
        assert_eq!(Status::from_code(*status as u16), Some(*status));
    }
}
