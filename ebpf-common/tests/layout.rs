//! Golden bytes: the layout of the RPC header, of a LOAD packet, and of every map type that both sides of the kernel boundary or
//! two programs write and read. A change here breaks peers and pinned maps; it needs a new `wire::VERSION` or `LAYOUT_VERSION`.
//!
//! Elsewhere: what a tracer is told and asks (`events.rs`); what the program keeps for itself, and what the benchmarks'
//! generator and sink hold (`scratch.rs`).

use ebpf_common::{
    LAYOUT_VERSION,
    cookie::CookieScope,
    cuckoo::candidates,
    hash::{SipKey, TableSecret, table_hash},
    ids::{FunctionId, SlotId, WorkerId},
    load::LoadReport,
    maps::{
        Affinity, BlockEntry, Config, CpuBucket, DecapRow, ForwardMode, FunctionEntry,
        FunctionLimit, FunctionRow, PktgenInfo, Place, PlaceRow, Prefix4, Prefix6, Rate,
        TopFunction, Traffic, Vip6Key, Vip6Row, VipInfo, VipKey, VipKind, VipRow, WorkerInfo,
        WorkerLoad, WorkerState, block_filter_bit, function_hash, home_hash, home_index, row_index,
        slot_index, source_bucket, vip_filter_bit, vip_hash, vip6_filter_bit, vip6_hash, words,
        worker_flags,
    },
    schema::{SchemaEntry, SchemaTarget},
    token::SourceAddress,
    wire::{Kind, RpcHeader, Status, StreamPlace, Ticket, flags},
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
    let http = RpcHeader {
        flags: header.flags | flags::HTTP,
        ..header
    };
    assert_eq!(hex(&http.emit()[..8]), "5750010102230040");
}

/// The token was computed by another implementation of SipHash-2-4, in Python, which gives its authors' own vectors.
#[test]
fn load_packet() {
    let report = LoadReport {
        worker: WorkerId(0x0102),
        sequence: 0x1112_1314_1516_1718,
        received: 0x3132_3334_3536_3738,
        completed: 0x2122_2324_2526_2728,
        capacity: 0x4142_4344,
    };
    // The bytes 00 to 0f.
    let key = SipKey {
        k0: 0x0706_0504_0302_0100,
        k1: 0x0f0e_0d0c_0b0a_0908,
    };
    let golden = concat!(
        "5750010500600040",
        "1112131415161718",
        "0000000000000102",
        "2122232425262728",
        "0000000000010000",
        "4142434400000000",
        "3132333435363738",
        "073d3d2a499bd69d",
    );
    assert_eq!(hex(&report.seal(7, key).emit()), golden);
}

#[test]
fn map_types() {
    assert_eq!(LAYOUT_VERSION, 3);
    let golden = [
        (
            hex(VipKey::new([10, 0, 0, 1], 9000, 17).as_bytes()),
            "0a00000123281100",
        ),
        (
            hex(Vip6Key::new([0xfd; 16], 9000, 6).as_bytes()),
            "fdfdfdfdfdfdfdfdfdfdfdfdfdfdfdfd23280600",
        ),
        (
            hex(VipInfo {
                forward: ForwardMode::Gue as u8,
                pool: 3,
                quic_config: 4,
                pktgen: 0x0506,
                ..VipInfo::new(0x0102, VipKind::Quic)
            }
            .as_bytes()),
            "020100000402030406050000",
        ),
        (
            hex(VipRow::new(
                VipKey::new([10, 0, 0, 1], 9000, 17),
                VipInfo::new(3, VipKind::Rpc),
            )
            .as_bytes()),
            "0a00000123281100030000000100000000000000000000000000000000000000",
        ),
        (
            hex(Vip6Row::new(
                Vip6Key::new([0xfd; 16], 9000, 6),
                VipInfo::new(3, VipKind::Rpc),
            )
            .as_bytes()),
            "fdfdfdfdfdfdfdfdfdfdfdfdfdfdfdfd23280600030000000100000000000000",
        ),
        (
            hex(
                FunctionRow::new(FunctionId(5), FunctionEntry::new(Affinity::Shard, &[]))
                    .as_bytes(),
            ),
            &format!(
                "050000000000000002000000{}{}",
                "ff".repeat(32),
                "00".repeat(20)
            ),
        ),
        (
            hex(SchemaEntry::fixed(SchemaTarget::Session, 0xf0, 0x10)
                .unwrap()
                .as_bytes()),
            &format!("01010000f0001000{}", "00".repeat(24 + 32)),
        ),
        (
            hex(SchemaEntry::json(SchemaTarget::Slot, "user")
                .unwrap()
                .as_bytes()),
            &format!(
                "0302040000000000{}75736572{}",
                "00".repeat(24),
                "00".repeat(28)
            ),
        ),
        (
            hex(SchemaEntry::protobuf(SchemaTarget::Session, &[5, 6])
                .unwrap()
                .as_bytes()),
            &format!("02010200000000000500000006000000{}", "00".repeat(16 + 32)),
        ),
        (
            hex(PlaceRow {
                places: [1, 2, 3, 4, 5, 6, 7, 8],
            }
            .as_bytes()),
            concat!(
                "01000000000000000200000000000000",
                "03000000000000000400000000000000",
                "05000000000000000600000000000000",
                "07000000000000000800000000000000",
            ),
        ),
        (
            hex(WorkerLoad {
                sent: 1,
                sent_at_report: 2,
                sequence: 3,
                reported_ns: 4,
                received: 5,
                completed: 6,
                in_flight: 7,
                capacity: 8,
                reserved: 0,
            }
            .as_bytes()),
            concat!(
                "01000000000000000200000000000000",
                "03000000000000000400000000000000",
                "05000000000000000600000000000000",
                "07000000080000000000000000000000",
            ),
        ),
        (
            hex(FunctionEntry {
                schema: 0x0304,
                ..FunctionEntry::new(Affinity::Shard, &[WorkerId(1), WorkerId(2)])
            }
            .as_bytes()),
            "0202040301000200ffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        ),
        (
            hex(WorkerInfo {
                ifindex: 5,
                state: WorkerState::Draining as u8,
                flags: worker_flags::OUTER_V6 | worker_flags::FIB,
                weight: 0x0100,
                dst_mac: [1, 2, 3, 4, 5, 6],
                src_mac: [7, 8, 9, 10, 11, 12],
                addr4: [10, 0, 0, 1],
                addr6: [0xfd; 16],
                cap: 6,
                mtu: 1_500,
                reserved: [0; 18],
            }
            .as_bytes()),
            concat!(
                "0500000002030001",
                "010203040506",
                "0708090a0b0c",
                "0a000001",
                "fdfdfdfdfdfdfdfdfdfdfdfdfdfdfdfd",
                "06000000dc05",
                "000000000000000000000000000000000000",
            ),
        ),
        (
            hex(PktgenInfo {
                functions_len: 1,
                sessions: 2,
                functions: [3; 16],
            }
            .as_bytes()),
            &format!("0100000002000000{}", "0300000000000000".repeat(16)),
        ),
        (
            hex(Traffic {
                packets: 1,
                bytes: 2,
            }
            .as_bytes()),
            "01000000000000000200000000000000",
        ),
        (
            hex(TopFunction {
                function: 1,
                packets: 2,
                votes: 3,
            }
            .as_bytes()),
            "010000000000000002000000000000000300000000000000",
        ),
        (
            hex(Config {
                generation: 1,
                key_epoch: 2,
                features: 3,
                home_bound: 4,
                session_mask: 5,
                flow_mask: 6,
                function_mask: 7,
                tick_ns: 8,
                table_secret: [9, 10],
                cookie_keys: [[11, 12], [13, 14]],
                token_keys: [[15, 16], [17, 18]],
                load_keys: [[19, 20], [21, 22]],
                source_rate: Rate {
                    interval_ns: 23,
                    tolerance_ns: 24,
                },
                unknown_rate: Rate {
                    interval_ns: 25,
                    tolerance_ns: 26,
                },
                answer_rate: Rate {
                    interval_ns: 27,
                    tolerance_ns: 28,
                },
                eviction_rate: Rate {
                    interval_ns: 29,
                    tolerance_ns: 30,
                },
                shed_percent: 31,
                tunnel_v4: [172, 16, 0, 0],
                tunnel_v6: [0xfd; 16],
            }
            .as_bytes()),
            &config_bytes(),
        ),
    ];
    for (bytes, expected) in golden {
        assert_eq!(bytes, expected);
    }
}

/// Eight words of four bytes, 22 of eight, then the rest of the configuration.
fn config_bytes() -> String {
    let short = (1..=8u32).map(|field| hex(&field.to_le_bytes()));
    let long = (9..=30u64).map(|field| hex(&field.to_le_bytes()));
    let rest = [
        "1f000000".to_owned(),
        "ac100000".to_owned(),
        "fd".repeat(16),
    ];
    short.chain(long).chain(rest).collect()
}

#[test]
fn places_of_sessions_and_flows() {
    let hash = table_hash(TableSecret([1, 2]), 3, 4);
    assert_eq!(row_index(hash, 0xffff), 36_449);
    assert_eq!(
        format!("{:016x}", Place::new(hash, WorkerId(5)).0),
        "190f1e45f6020005"
    );
}

#[test]
fn hashes_of_exact_tables() {
    assert_eq!(function_hash(FunctionId(1)), 0xb456_bcfc_34c2_cb2c);
    assert_eq!(
        vip_hash(&VipKey::new([10, 99, 0, 1], 9000, 17)),
        15_002_118_287_455_716_278
    );
    assert_eq!(
        vip6_hash(&Vip6Key::new([0xfd; 16], 9000, 17)),
        4_932_010_701_536_676_951
    );
    assert_eq!(candidates(0x8000_0005_0000_0002, 7), [2, 3, 5, 4]);
}

#[test]
fn vip_filter_bits() {
    assert_eq!(vip_filter_bit([10, 99, 0, 1]), 21_306);
    assert_eq!(vip6_filter_bit([1, 2, 3, 4]), 7_217);
}

#[test]
fn route_cookie() {
    let config = Config {
        key_epoch: 1,
        cookie_keys: [[1, 2], [3, 4]],
        ..Config::ZERO
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
    assert_eq!(home_hash(FunctionId(0)), 0);
    assert_eq!(home_index(1, 0, 0, 2), 16 * 65_537 + 2);
    assert_eq!(home_index(0, 3, 65_537, 2), 3 * 65_537 + 2);
}

#[test]
fn status_codes() {
    let golden = [
        0, 1, 100, 101, 102, 103, 104, 105, 106, 107, 200, 201, 202, 203, 204, 205, 300, 301, 302,
        303, 304, 305, 306,
    ];
    let codes: Vec<u16> = Status::ALL.iter().map(|status| *status as u16).collect();
    assert_eq!(codes, golden);
    for status in Status::ALL {
        assert_eq!(Status::from_code(*status as u16), Some(*status));
    }
}

#[test]
fn police_types() {
    let rate = Rate {
        interval_ns: 0x0102,
        tolerance_ns: 0x0304,
    };
    let golden = [
        (hex(BlockEntry { hits: 5 }.as_bytes()), "0500000000000000"),
        (
            hex(FunctionLimit::new(FunctionId(0x0506), rate).as_bytes()),
            "0605000000000000020100000000000004030000000000000000000000000000",
        ),
    ];
    for (bytes, expected) in golden {
        assert_eq!(bytes, expected);
    }
    assert_eq!(CpuBucket::Unknown as u32, 0);
    assert_eq!(CpuBucket::Answer as u32, 1);
    assert_eq!(CpuBucket::Eviction as u32, 2);
}

#[test]
fn decap_types() {
    let prefix4 = Prefix4::new([172, 16, 0, 0], 12);
    assert_eq!(hex(prefix4.as_bytes()), "ac100000fff00000");
    let prefix6 = Prefix6::new([0xfd; 16], 60);
    let golden = concat!(
        "fdfdfdfdfdfdfdfdfdfdfdfdfdfdfdfd",
        "fffffffffffffff00000000000000000"
    );
    assert_eq!(hex(prefix6.as_bytes()), golden);
    let row = DecapRow {
        local6: [words([1; 16]); 4],
        sources6: [prefix6; 8],
        local4: [u32::from_ne_bytes([10, 0, 0, 1]); 4],
        sources4: [prefix4; 8],
    };
    let expected = [
        "01010101010101010101010101010101".repeat(4),
        golden.repeat(8),
        "0a000001".repeat(4),
        "ac100000fff00000".repeat(8),
    ];
    assert_eq!(hex(row.as_bytes()), expected.concat());
}

/// Computed by another implementation of SipHash and of the mixer, in Python.
#[test]
fn tokens_and_places_of_sources() {
    let v4 = SourceAddress::v4([192, 0, 2, 1]);
    let v6 = SourceAddress::v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    let keys = Config {
        key_epoch: 7,
        token_keys: [[1, 2], [3, 4]],
        ..Config::ZERO
    }
    .token_keys();
    assert_eq!(format!("{:016x}", keys.seal(v4)), "07ea7dd28929cfbf");
    assert_eq!(format!("{:016x}", keys.seal(v6)), "07b93c5ce1e214e5");
    let secret = TableSecret([5, 6]);
    assert_eq!(source_bucket(secret, v4), 117_316);
    assert_eq!(source_bucket(secret, v6), 131_700);
    assert_eq!(block_filter_bit(v4), 49_152);
    assert_eq!(block_filter_bit(v6), 74_430);
}

#[test]
fn places_of_streams() {
    let place = |address: &str| StreamPlace {
        ticket: Ticket(*b"0123456789abcdef"),
        address: address.parse().unwrap(),
    };
    assert_eq!(
        hex(&place("10.80.0.11:9200").emit()),
        concat!(
            "30313233343536373839616263646566",
            "00000000000000000000ffff0a50000b",
            "23f0",
        )
    );
    assert_eq!(
        hex(&place("[2001:db8::1]:256").emit()),
        concat!(
            "30313233343536373839616263646566",
            "20010db8000000000000000000000001",
            "0100",
        )
    );
}
