//! The client against the code of the XDP program itself: what it sends over loopback goes through the pipeline in frames
//! of a client elsewhere (nothing is answered to 127.0.0.1), and what the pipeline answers comes back.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

use std::{
    collections::BTreeMap,
    net::{SocketAddr, UdpSocket},
    sync::mpsc,
    thread,
    time::Duration,
};

use ebpf_common::{
    ids::WorkerId,
    maps::{Affinity, Counter, FunctionEntry, Rate, WorkerState, features},
    wire::{Kind, RpcHeader, flags},
};
use warmpath_sdk::{Call, Client, ClientConfig, FunctionId};
use xdp_balancer::{
    balance,
    testing::{
        FakeTables, HostPacket,
        frame::{Frame, RPC_OFFSET, VIP, VIP_PORT},
    },
};

/// Packets after which the keys are changed twice, so that no token is valid any more.
const ROTATED_AFTER: u32 = 12;

/// Longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A VIP and a warm worker, and no room for requests without an address token.
fn tables() -> FakeTables {
    let mut tables = FakeTables::default();
    tables.add_vip(VIP, VIP_PORT);
    tables.add_worker(1, WorkerState::Up);
    tables.set_load(1, 0, u32::MAX);
    let entry = FunctionEntry::new(Affinity::None, &[WorkerId(1)]);
    tables.functions.insert(FunctionId::of("hello"), entry);
    let config = tables.config.as_mut().unwrap();
    config.features = features::ADDRESS_TOKENS;
    config.unknown_rate = Rate {
        interval_ns: 1 << 50,
        tolerance_ns: 0,
    };
    tables
}

/// Balancer and worker in one: routed requests are echoed, until `packets` have come. Tells the counters at the end.
fn serve(packets: u32) -> (SocketAddr, mpsc::Receiver<BTreeMap<Counter, u64>>) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let address = socket.local_addr().unwrap();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut tables = tables();
        let mut buffer = [0; 2_000];
        for packet in 0..packets {
            if packet == ROTATED_AFTER {
                tables.config.as_mut().unwrap().key_epoch += 2;
            }
            let (len, from) = socket.recv_from(&mut buffer).unwrap();
            let datagram = &buffer[..len];
            let mut frame = HostPacket::new(Frame::udp(datagram.to_vec()).bytes());
            let _verdict = balance(&mut frame, &tables);
            let (header, payload) = RpcHeader::parse(&frame.bytes[RPC_OFFSET..])
                .unwrap()
                .unwrap();
            let answer = match header.kind {
                Kind::Request => {
                    let response = RpcHeader {
                        kind: Kind::Response,
                        flags: flags::FIRST | flags::LAST,
                        token: 0,
                        budget_ms: 0,
                        ..header
                    };
                    [&response.emit(), payload].concat()
                }
                _ => frame.bytes[RPC_OFFSET..].to_vec(),
            };
            socket.send_to(&answer, from).unwrap();
        }
        sender.send(tables.take_counters()).unwrap();
    });
    (address, receiver)
}

#[tokio::test]
async fn a_client_behind_retry_gets_its_answers_at_the_price_of_one_packet_a_token() {
    const CALLS: u32 = 20;
    // The first request passes (a bucket is full at first), the second learns a token, and one after the rotation another.
    let (vip, counters) = serve(CALLS + 2);
    // On a machine that is busy with other things a retransmission would be one packet more.
    let patient = ClientConfig {
        initial_retransmit: PATIENCE / 2,
        min_retransmit: PATIENCE / 2,
        max_retransmit: PATIENCE / 2,
        ..ClientConfig::default()
    };
    let client = Client::connect(vip, patient).unwrap();
    for number in 0..CALLS {
        let payload = number.to_be_bytes().to_vec();
        let call = Call::new("hello").payload(payload.clone()).budget(PATIENCE);
        assert_eq!(client.call(call).await.unwrap().payload, payload);
    }
    let stats = client.stats();
    assert_eq!((stats.answered, stats.retries), (u64::from(CALLS), 2));
    let counters = counters.recv().unwrap();
    assert_eq!(counters[&Counter::RouteWarm], u64::from(CALLS));
    assert_eq!(counters[&Counter::AnswerRetry], 2);
    assert_eq!(counters[&Counter::TokenStale], 1);
    assert_eq!(counters.get(&Counter::TokenForged), None);
}
