//! RETRY: above the rate of sources that have not shown who they are, a request is answered by an address token, and passed
//! on when it comes again with it. Over both IP versions, with the client that gateway and `warmpath fn invoke` are made of.

use std::{
    net::SocketAddr,
    process::Output,
    thread::{self, available_parallelism},
    time::Instant,
};

use ebpf_common::wire::{Kind, RpcHeader, flags};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use tests::topology::{Host, Layout, VIP, VIP_PORT};
use warmpath_sdk::{Call, Client as SdkClient, ClientConfig, ClientStats};

use crate::{
    bed::{Bed, warmpath},
    client::{Client, request},
};

/// Requests of sources without a token that the strictest rate has let through at most since `begun`: each CPU a burst of
/// two, and one a second.
fn stray_since(begun: Instant) -> usize {
    let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap() + 1;
    available_parallelism().unwrap().get() * (2 + seconds)
}

fn with_token(token: u64) -> RpcHeader {
    let plain = request("echo");
    RpcHeader {
        flags: plain.flags | flags::HAS_TOKEN,
        token,
        ..plain
    }
}

/// A bed that answers a request from a source without a token by RETRY, but for a stray one.
fn strict_bed() -> (Bed, Vec<crate::echo::Echo>) {
    let bed = Bed::new(Layout::OneArm, 2);
    let mut echoes = bed.echoes();
    bed.add_ipv6(&mut echoes);
    bed.json("police set unknown_rate {per_second=1,burst=2}");
    bed.wait_written();
    (bed, echoes)
}

fn vips() -> [SocketAddr; 2] {
    [(VIP, VIP_PORT).into(), Bed::vip6()]
}

/// Asks until a token comes.
fn token(client: &Client) -> u64 {
    let answers = client.burst(std::iter::repeat_n(request("echo"), 20));
    assert_eq!(answers.len(), 20, "each is answered");
    let retry = answers
        .iter()
        .find(|answer| answer.header.kind == Kind::Retry);
    retry.unwrap().header.token
}

fn served_of(client: &Client, requests: impl IntoIterator<Item = RpcHeader>) -> usize {
    let answers = client.burst(requests);
    answers.iter().filter(|answer| answer.is_served()).count()
}

/// Sends `requests`, of which only strays may be served.
fn only_strays(client: &Client, requests: impl IntoIterator<Item = RpcHeader>, what: &str) {
    let begun = Instant::now();
    let stray = served_of(client, requests);
    assert!(stray <= stray_since(begun), "{stray} {what}");
}

#[test]
fn a_source_that_shows_its_token_is_served_and_a_forged_one_is_none() {
    let (bed, _echoes) = strict_bed();
    for vip in vips() {
        let client = Client::to(&bed.topology.client, vip);
        let stranger = Client::to(&bed.topology.gateway, vip);
        let forged =
            || bed.counter("detail", "token_forged") + bed.counter("detail", "token_stale");
        let token = token(&client);
        only_strays(
            &client,
            std::iter::repeat_n(request("echo"), 100),
            "of 100 without a token",
        );
        assert_eq!(
            served_of(&client, std::iter::repeat_n(with_token(token), 100)),
            100,
            "{vip}: {}",
            bed.diagnosis()
        );
        // The address is proven, not the port.
        let other_port = Client::to(&bed.topology.client, vip);
        assert_eq!(served_of(&other_port, [with_token(token)]), 1);
        let before = forged();
        let flipped = (0..64).map(|bit| with_token(token ^ 1 << bit));
        only_strays(&client, flipped, "of 64 with a bit flipped");
        assert_eq!(forged() - before, 64);
        only_strays(
            &stranger,
            std::iter::repeat_n(with_token(token), 100),
            "of 100 from another address",
        );
        assert_eq!(forged() - before, 164);
    }
    let buckets = bed.json("map dump CPU_BUCKETS");
    let rows = buckets["entries"].as_array().unwrap();
    let is_strict =
        |row: &serde_json::Value| row["bucket"] == "unknown" && row["rate"] == "1/s burst 2";
    assert!(!rows.is_empty() && rows.iter().all(is_strict), "{buckets}");
    assert!(rows.iter().any(|row| row["admits"] == 0), "{buckets}");
    let shown = bed.json("police show");
    let retries = shown["counters"].as_array().unwrap();
    let retries = retries
        .iter()
        .find(|counter| counter["label"] == "retry")
        .unwrap();
    assert_eq!(retries["value"], bed.counter("answer", "retry"));
}

#[test]
fn a_token_outlives_one_rotation_of_the_keys_and_not_two() {
    let (bed, _echoes) = strict_bed();
    for vip in vips() {
        let client = Client::to(&bed.topology.client, vip);
        let token = token(&client);
        let rotate = || {
            let before = bed.json("status")["control_plane"]["key_epoch"].clone();
            let after = bed.json("balancer rotate-keys")["epoch"].clone();
            assert_eq!(after.as_u64(), before.as_u64().map(|epoch| epoch + 1));
            bed.wait_written();
        };
        rotate();
        assert_eq!(
            served_of(&client, std::iter::repeat_n(with_token(token), 50)),
            50
        );
        rotate();
        let before = bed.counter("detail", "token_stale");
        only_strays(
            &client,
            std::iter::repeat_n(with_token(token), 50),
            "of 50 with a token of long ago",
        );
        assert_eq!(bed.counter("detail", "token_stale") - before, 50);
    }
}

/// Calls through the client of the gateway; what it has counted then.
fn sdk_calls(bed: &Bed, host: &Host, vip: SocketAddr, calls: u32) -> ClientStats {
    let client = host.netns.enter(|| {
        let _guard = bed.runtime.enter();
        SdkClient::connect(vip, ClientConfig::default())
    });
    let client = client.unwrap().unwrap();
    bed.runtime.block_on(async {
        for _ in 0..calls {
            let response = client.call(Call::new("echo")).await.unwrap();
            assert!(response.payload.starts_with(b"w"));
        }
        client.stats()
    })
}

fn invoke(host: &Host, vip: SocketAddr) -> Output {
    let words = ["fn", "invoke", "echo", "--json", "--vip"];
    let mut command = host.netns.command(warmpath());
    command.args(words).arg(vip.to_string()).output().unwrap()
}

/// Uses up what strangers may, which is counted on each CPU.
fn exhaust(client: &Client) {
    for cpu in 0..available_parallelism().unwrap().get() {
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut set = CpuSet::new();
                set.set(cpu).unwrap();
                sched_setaffinity(Pid::from_raw(0), &set).unwrap();
                client.burst(std::iter::repeat_n(request("echo"), 5));
            });
        });
    }
}

#[test]
fn the_client_echoes_the_token_and_its_calls_are_answered() {
    let (bed, _echoes) = strict_bed();
    let host = &bed.topology.client;
    for vip in vips() {
        let flood = Client::to(&bed.topology.gateway, vip);
        let [mut by_clients, mut by_invoke] = [0; 2];
        for _ in 0..5 {
            exhaust(&flood);
            let before = bed.counter("answer", "retry");
            let stats = sdk_calls(&bed, host, vip, 100);
            let (answered, retries) = (stats.answered, stats.retries);
            assert_eq!(answered, 100);
            assert!(retries <= 1, "the token is remembered: {retries}");
            // A packet that it sent again before the RETRY came is answered by another one, with the same token.
            let told = bed.counter("answer", "retry") - before;
            let most = retries * (1 + stats.packets_retransmitted);
            assert!((retries..=most).contains(&told), "{told}: {stats:?}");
            by_clients += retries;

            exhaust(&flood);
            let before = bed.counter("answer", "retry");
            let output = invoke(host, vip);
            assert!(output.status.success(), "{output:?}");
            let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(report["status"], "ok");
            by_invoke += bed.counter("answer", "retry") - before;
        }
        // Once a second each CPU lets one through that shows nothing.
        assert!(
            by_clients >= 3 && by_invoke >= 3,
            "{by_clients} {by_invoke}"
        );
    }
    bed.json("police rollback");
    bed.wait_written();
    let before = bed.counter("answer", "retry");
    let stats = sdk_calls(&bed, host, Bed::vip6(), 50);
    let told = bed.counter("answer", "retry") - before;
    assert_eq!((stats.answered, stats.retries, told), (50, 0, 0));
}
