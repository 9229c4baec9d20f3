//! `warmpath police show|set|unset|diff|apply|rollback`: who may send how much, told by what becomes of real packets.

use std::{
    collections::BTreeSet,
    net::{SocketAddr, UdpSocket},
    time::Instant,
};

use ebpf_common::wire::{Kind, RpcHeader, Status};
use serde_json::Value;
use tests::{
    topology::{Layout, VIP, VIP_PORT},
    wait,
};

use crate::{
    bed::{Bed, PATIENCE},
    client::{Answer, Client, request},
};

/// How many a bucket admits at most from `begun` until the last of `answers` came: what it holds, and what flows in.
fn most(answers: &[Answer], begun: Instant, burst: usize, per_second: usize) -> usize {
    let served = answers.iter().filter(|answer| answer.is_served());
    let last = served.map(|answer| answer.at).max().unwrap_or(begun);
    let passed_us = usize::try_from((last - begun).as_micros()).unwrap();
    burst + (passed_us * per_second).div_ceil(1_000_000)
}

fn served(answers: &[Answer]) -> usize {
    answers.iter().filter(|answer| answer.is_served()).count()
}

fn burst(client: &Client, function: &str, len: usize) -> Vec<Answer> {
    client.burst(std::iter::repeat_n(request(function), len))
}

fn change(bed: &Bed, line: &str) {
    assert_eq!(bed.json(line)["is_applied"], true);
    bed.wait_written();
}

fn is_refused_with(answer: &Answer, status: Status) -> bool {
    answer.header.kind == Kind::Error && answer.header.status == status as u16
}

#[test]
fn blocked_sources_get_no_reply_over_either_ip_version() {
    let bed = Bed::new(Layout::OneArm, 2);
    let mut echoes = bed.echoes();
    bed.add_ipv6(&mut echoes);
    let topology = &bed.topology;
    let vips = [(VIP, VIP_PORT).into(), Bed::vip6()];
    let [client4, client6] = vips.map(|vip| Client::to(&topology.client, vip));
    let [gateway4, gateway6] = vips.map(|vip| Client::to(&topology.gateway, vip));
    let all = [&client4, &client6, &gateway4, &gateway6];
    let who_is_served = || all.map(|client| client.call("echo").is_some());
    let blocked = || bed.counter("drop", "blocked");
    assert_eq!(who_is_served(), [true; 4], "{}", bed.diagnosis());

    let file = topology.run.dir().join("police.toml");
    let address = topology.client.address6();
    let text = format!("[police]\nblock = [\"10.80.0.3\", \"{address}/128\"]\n");
    std::fs::write(&file, text).unwrap();
    let file = file.display();
    let diff = bed.says(&format!("police diff {file}"));
    assert!(diff.contains("+ BLOCK4 10.80.0.3/32"), "{diff}");
    assert!(diff.contains(&format!("+ BLOCK6 {address}/128")), "{diff}");
    assert_eq!(who_is_served(), [true; 4]);
    change(&bed, &format!("police apply {file}"));
    assert_eq!(who_is_served(), [false, false, true, true]);
    assert_eq!(blocked(), 2);
    let shown = bed.json("police show");
    let hits = |row: &Value| (row["prefix"].to_string(), row["hits"].as_u64().unwrap());
    let blocks: BTreeSet<_> = shown["blocks"]
        .as_array()
        .unwrap()
        .iter()
        .map(hits)
        .collect();
    let expected = ["\"10.80.0.3/32\"".to_owned(), format!("\"{address}/128\"")];
    assert_eq!(blocks, expected.map(|prefix| (prefix, 1)).into());
    let text = bed.says("police show");
    let mut lines = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    assert!(
        lines.any(|words| words == ["drop", "blocked", "2"]),
        "{text}"
    );

    // A longer prefix of others changes nothing, a shorter one takes all of them in.
    change(&bed, "police set block [\"10.80.0.4/31\",\"fd80::/64\"]");
    assert_eq!(who_is_served(), [true, false, false, false]);
    assert_eq!(blocked(), 5);
    assert_eq!(bed.json("police rollback --dry-run")["is_applied"], false);
    assert_eq!(who_is_served(), [true, false, false, false]);
    change(&bed, "police rollback");
    assert_eq!(who_is_served(), [false, false, true, true]);
    change(&bed, "police rollback 0");
    // Revision 0 did not have the VIP of IPv6 yet.
    assert_eq!(who_is_served(), [true, false, true, false]);
    assert_eq!(bed.json("police show")["blocks"], serde_json::json!([]));
}

#[test]
fn a_source_is_held_to_its_rate_and_nobody_else_is() {
    let bed = Bed::new(Layout::OneArm, 2);
    let mut echoes = bed.echoes();
    bed.add_ipv6(&mut echoes);
    let held = || bed.counter("drop", "source_rate");
    change(&bed, "police set source_rate {per_second=100,burst=40}");
    let vips: [SocketAddr; 2] = [(VIP, VIP_PORT).into(), Bed::vip6()];
    let other = Client::to(&bed.topology.gateway, vips[0]);
    for vip in vips {
        let before = held();
        let client = Client::to(&bed.topology.client, vip);
        let begun = Instant::now();
        let answers = burst(&client, "echo", 150);
        let most = most(&answers, begun, 40, 100);
        let answers = served(&answers);
        assert!((40..=most).contains(&answers), "{answers} to {vip}");
        assert_eq!(held() - before, 150 - answers as u64);
        // Another IPv4 address is another source; another host in the same /64 is the same one.
        if vip.is_ipv4() {
            assert_eq!(served(&burst(&other, "echo", 30)), 30);
        }
    }
    // A bucket that is full again only after three seconds: to read them all takes a slow machine a good part of one.
    change(&bed, "police set source_rate {per_second=10,burst=40}");
    assert_eq!(served(&burst(&other, "echo", 30)), 30);
    let buckets = bed.json("map dump SOURCE_BUCKETS");
    let row = &buckets["entries"][0];
    assert!((1..=4).contains(&row["in_use"].as_u64().unwrap()), "{row}");
    assert_eq!(row["rate"], "10/s burst 40");
    // A change takes hold at once, and so does its end.
    change(
        &bed,
        "police set source_rate {per_second=100000,burst=2000}",
    );
    let client = bed.client();
    let before = held();
    assert_eq!(served(&burst(&client, "echo", 150)), 150);
    change(&bed, "police rollback");
    let answers = served(&burst(&client, "echo", 150));
    assert!(answers < 150, "{answers}");
    change(&bed, "police unset source_rate");
    assert_eq!(served(&burst(&client, "echo", 150)), 150);
    assert_eq!(held() - before, 150 - answers as u64);
}

#[test]
fn a_function_is_held_to_its_rate_and_its_callers_are_told_to_wait() {
    let bed = Bed::new(Layout::OneArm, 2);
    let _echoes = bed.echoes();
    let client = bed.client();
    change(
        &bed,
        "police set functions [{name=\"echo\",per_second=50,burst=20}]",
    );
    let begun = Instant::now();
    let answers = burst(&client, "echo", 150);
    assert_eq!(answers.len(), 150, "each is answered");
    let (ok, most) = (served(&answers), most(&answers, begun, 20, 50));
    assert!((20..=most).contains(&ok), "{ok}");
    let refused: Vec<_> = answers
        .iter()
        .filter(|answer| !answer.is_served())
        .collect();
    for answer in &refused {
        assert!(is_refused_with(answer, Status::RateLimited), "{answer:?}");
        assert!(
            (1..=20).contains(&answer.header.budget_ms),
            "when to come again: {answer:?}"
        );
    }
    assert_eq!(bed.counter("error", "function_rate"), refused.len() as u64);
    let limits = bed.json("map dump FUNCTION_LIMITS");
    assert_eq!(limits["entries"][0]["rate"], "50/s burst 20");
    let bucket = &bed.json("map dump FUNCTION_BUCKETS")["entries"][0];
    assert_eq!(bucket["function"], limits["entries"][0]["function"]);
    assert_ne!(bucket["admits"], 20);
    let rest: Vec<_> = (0..50).map(|_| client.call("talk").unwrap()).collect();
    assert_eq!(served(&rest), 50);
    change(&bed, "police rollback 0");
    assert_eq!(served(&burst(&client, "echo", 150)), 150);
    assert_eq!(
        bed.json("map dump FUNCTION_LIMITS")["entries"],
        serde_json::json!([])
    );
}

#[test]
fn a_worker_with_too_much_in_flight_is_spared_what_it_would_have_to_refuse() {
    let bed = Bed::new(Layout::OneArm, 2);
    let echoes = bed.echoes();
    let client = bed.client();
    let is_w0 = |session: &u64| client.call_session("talk", *session).unwrap().worker == "w0";
    let session = (0..64).find(is_w0).unwrap();
    echoes[0]
        .heartbeat
        .send_modify(|beat| beat.in_flight = 2 * beat.capacity);
    wait::until("the load to be known", PATIENCE, || {
        let workers = bed.worker_statuses();
        Ok(workers
            .iter()
            .any(|worker| worker.in_flight >= 32)
            .then_some(()))
    })
    .unwrap();
    assert!(client.call_session("talk", session).unwrap().is_served());
    change(&bed, "police set shed_percent 150");
    let answer = client.call_session("talk", session).unwrap();
    assert!(is_refused_with(&answer, Status::Overloaded), "{answer:?}");
    assert!(answer.header.budget_ms > 0);
    assert_eq!(bed.counter("error", "overloaded"), 1);
    // Who may go elsewhere does.
    let rest: Vec<_> = (0..50).map(|_| client.call("echo").unwrap()).collect();
    assert!(rest.iter().all(|answer| answer.worker == "w1"));
    change(&bed, "police set shed_percent 400");
    assert!(client.call_session("talk", session).unwrap().is_served());
    change(&bed, "police rollback");
    assert!(!client.call_session("talk", session).unwrap().is_served());
    change(&bed, "police unset shed_percent");
    assert!(client.call_session("talk", session).unwrap().is_served());
}

#[test]
fn answers_have_a_rate_of_their_own() {
    let bed = Bed::new(Layout::OneArm, 1);
    let _echoes = bed.echoes();
    let client = bed.client();
    let ask = || burst(&client, "nobody", 150);
    let is_unknown = |answer: &Answer| is_refused_with(answer, Status::UnknownFunction);
    let all = ask();
    assert!(all.iter().all(is_unknown), "{all:?}");
    assert_eq!(all.len(), 150, "{}", bed.diagnosis());
    change(&bed, "police set answer_rate {per_second=100,burst=20}");
    let before = bed.counter("drop", "answer_rate");
    let answered = ask().len();
    // Each CPU has a bucket.
    assert!((20..150).contains(&answered), "{answered}");
    assert_eq!(
        bed.counter("drop", "answer_rate") - before,
        150 - answered as u64
    );
    assert!(
        client.call("echo").unwrap().is_served(),
        "what is passed on is no answer"
    );
    let buckets = bed.json("map dump CPU_BUCKETS");
    let rows = buckets["entries"].as_array().unwrap();
    assert!(
        rows.iter().all(|row| row["bucket"] == "answer"),
        "{buckets}"
    );
    change(&bed, "police rollback 0");
    assert_eq!(ask().len(), 150);
}

/// Opens a flow from each port of the client's that there is.
fn flood(bed: &Bed) {
    let client = &bed.topology.client;
    let send = || {
        for port in 1_025..=u16::MAX {
            // A port that is taken makes one flow less.
            if let Ok(socket) = UdpSocket::bind((client.address(), port)) {
                socket.send_to(b"first", (VIP, 53)).unwrap();
            }
        }
    };
    client.netns.enter(send).unwrap();
}

#[test]
fn a_flood_of_new_flows_leaves_other_flows_their_entries() {
    let bed = Bed::new(Layout::OneArm, 1);
    let _echoes = bed.echoes();
    change(&bed, &format!("vip add {VIP} 53 --kind l4"));
    change(&bed, "police set eviction_rate {per_second=100,burst=20}");
    let counters = || {
        ["flow_created", "flow_evicted", "flow_not_kept"].map(|label| bed.counter("detail", label))
    };
    let begun = Instant::now();
    flood(&bed);
    let [created, evicted, not_kept] = counters();
    let cpus = std::thread::available_parallelism().unwrap().get();
    let passed_ms = usize::try_from(begun.elapsed().as_millis()).unwrap();
    let most = (cpus * (20 + passed_ms.div_ceil(10))) as u64;
    // The table has 16,384 places, some of whose rows a random key does not fill.
    assert!((12_000..=16_384).contains(&created), "{created}");
    assert!((20..=most).contains(&evicted), "{evicted} of {most}");
    let routed = bed.counter("route", "maglev");
    assert_eq!(created + evicted + not_kept, routed, "each is sent on");
    let buckets = bed.json("map dump CPU_BUCKETS");
    let mut rows = buckets["entries"].as_array().unwrap().iter();
    assert!(rows.all(|row| row["bucket"] == "eviction"), "{buckets}");

    change(&bed, "police unset eviction_rate");
    flood(&bed);
    let [_, evicted_now, not_kept_now] = counters();
    assert_eq!(not_kept_now, not_kept);
    assert!(evicted_now > evicted + 10_000, "{evicted_now}");
}

#[test]
fn a_file_of_police_that_cannot_be_kept_changes_nothing() {
    let bed = Bed::new(Layout::OneArm, 1);
    let _echoes = bed.echoes();
    let file = bed.topology.run.dir().join("police.toml");
    for (text, problem) in [
        (
            "[police]\nblock = [\"10.80.0.3\"]\nshed_percent = 0",
            "police.shed_percent",
        ),
        (
            "[police]\nblock = [\"10.80.0.3\"]\n[[vip]]\naddress = \"10.99.0.9\"\nport = 1",
            "[police]",
        ),
        ("block = [\"10.80.0.3\"]", "[police]"),
    ] {
        std::fs::write(&file, text).unwrap();
        for verb in ["diff", "apply"] {
            let refusal = bed.refused(&format!("police {verb} {}", file.display()));
            assert!(refusal.contains(problem), "{text}: {refusal}");
        }
    }
    assert_eq!(bed.json("map log"), serde_json::json!([]));
    assert!(bed.client().call("echo").is_some());
    let request = RpcHeader {
        budget_ms: 1,
        ..request("echo")
    };
    assert_eq!(served(&bed.client().burst([request])), 1);
}
