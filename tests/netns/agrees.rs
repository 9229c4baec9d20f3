//! `warmpath route explain` against the packets themselves: for every kind of VIP, both IP versions and each way of
//! forwarding, what it says is compared with the frame that then arrives at a worker.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use balancer_userspace::maps;
use ebpf_common::{
    hash::slot_of_key,
    maps::name,
    wire::{RpcHeader, flags},
};
use serde_json::{Value, json};
use tests::topology::{Host, Layout, VIP, VIP_PORT, VIP6};
use tokio::net::TcpSocket;

use crate::{
    bed::{Bed, Hosts},
    client::request,
    schema::{FUNCTIONS, json_payload, key, protobuf_payload},
    witness::{Seen, Witness},
};

/// A bed whose client has a way to every VIP of these tests.
struct Scene {
    bed: Bed,
}

/// A client's socket, and what it would be told.
struct Asker<'s> {
    scene: &'s Scene,
    socket: UdpSocket,
    vip: SocketAddr,
    /// More words for `route explain`.
    words: String,
}

impl Scene {
    fn new(bed: Bed) -> Self {
        bed.topology.add_ipv6().unwrap();
        Self { bed }
    }

    fn client(&self) -> &Host {
        &self.bed.topology.client
    }

    fn add(&self, vip: &str) {
        self.bed.json(&format!("vip add {vip}"));
        self.bed.wait_written();
    }

    fn asker(&self, vip: SocketAddr, words: &str) -> Asker<'_> {
        let own: IpAddr = match vip {
            SocketAddr::V4(_) => self.client().address().into(),
            SocketAddr::V6(_) => self.client().address6().into(),
        };
        let socket = self.client().netns.enter(|| UdpSocket::bind((own, 0)));
        Asker {
            scene: self,
            socket: socket.unwrap().unwrap(),
            vip,
            words: words.to_owned(),
        }
    }

    fn explain(&self, vip: SocketAddr, source: SocketAddr, words: &str) -> Value {
        self.bed.json(&format!(
            "route explain {words} --vip {vip} --from {source}"
        ))
    }

    fn witness(&self) -> Witness<'_> {
        Witness::at(&self.bed.topology.workers)
    }

    /// Whether `explained` is what `seen` shows.
    fn assert_agrees(&self, explained: &Value, seen: &Seen) {
        let out = &explained["packet_out"];
        let context = format!("{explained:#}\n{seen:?}");
        assert_eq!(explained["outcome"], "route", "{context}");
        assert_eq!(out["dst_mac"], seen.dst_mac, "{context}");
        assert_eq!(out["src_mac"], seen.src_mac, "{context}");
        let id = self.bed.worker_id(&seen.host);
        assert_eq!(explained["worker"]["id"], id.0, "{context}");
        let Some((source, port, destination)) = seen.outer else {
            assert_eq!(out["outer"], Value::Null, "{context}");
            return;
        };
        let outer = &out["outer"];
        assert_eq!(
            outer["mode"],
            if port.is_some() { "gue" } else { "ipip" },
            "{context}"
        );
        assert_eq!(outer["source"], source.to_string(), "{context}");
        assert_eq!(outer["source_port"], json!(port), "{context}");
        assert_eq!(outer["destination"], destination.to_string(), "{context}");
    }
}

impl Asker<'_> {
    fn source(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    fn explain(&self) -> Value {
        self.scene.explain(self.vip, self.source(), &self.words)
    }

    /// Sends `payload`, and says where it arrived.
    fn send(&self, payload: &[u8]) -> Seen {
        let witness = self.scene.witness();
        self.socket.send_to(payload, self.vip).unwrap();
        witness.sees(self.source(), self.vip)
    }

    /// Explains by `rule`, sends, and compares. What was noticed.
    fn agrees(&self, payload: &[u8], rule: &str) -> Value {
        let explained = self.explain();
        assert_eq!(explained["rule"], rule, "{explained:#}");
        let out = &explained["packet_out"];
        assert_eq!(out["source"], self.source().to_string());
        assert_eq!(out["destination"], self.vip.to_string());
        let seen = self.send(payload);
        self.scene.assert_agrees(&explained, &seen);
        explained["details"].clone()
    }
}

fn in_slot(function: &str, key: &str) -> Vec<u8> {
    let plain = request(function);
    let header = RpcHeader {
        flags: plain.flags | flags::HAS_SLOT,
        slot: slot_of_key(key.as_bytes()),
        ..plain
    };
    header.emit().to_vec()
}

fn in_session(function: &str, session: &str) -> Vec<u8> {
    let plain = request(function);
    let header = RpcHeader {
        flags: plain.flags | flags::HAS_SESSION,
        session_id: warmpath_sdk::session_id(session),
        ..plain
    };
    header.emit().to_vec()
}

fn with_payload(function: &str, payload: &[u8]) -> Vec<u8> {
    let header = RpcHeader {
        payload_len: u32::try_from(payload.len()).unwrap(),
        ..request(function)
    };
    [&header.emit(), payload].concat()
}

fn vips(port: u16) -> [SocketAddr; 2] {
    [(VIP, port).into(), (VIP6, port).into()]
}

/// Entries of `FLOWS` and `SESSIONS`.
fn places(bed: &Bed) -> [Value; 2] {
    [name::FLOWS, name::SESSIONS]
        .map(|name| maps::dump(&bed.pin_path(), name).unwrap().entries[0]["entries"].clone())
}

/// Flows of kind `l4`: the first packet by the Maglev table, the next ones by the flow's entry.
fn flows_agree(scene: &Scene, port: u16) {
    for vip in vips(port) {
        for _ in 0..6 {
            let asker = scene.asker(vip, "");
            let before = places(&scene.bed);
            let details = asker.agrees(b"first", "maglev");
            assert_eq!(details, json!(["flow_created"]));
            asker.agrees(b"second", "flow");
            let after = places(&scene.bed);
            assert_eq!(after[0].as_u64(), before[0].as_u64().map(|flows| flows + 1));
        }
        let unsent = scene.asker(vip, "");
        let before = places(&scene.bed);
        for _ in 0..2 {
            assert_eq!(unsent.explain()["rule"], "maglev");
        }
        assert_eq!(places(&scene.bed), before, "asking leaves no flow behind");
    }
}

fn requests_agree(scene: &Scene) {
    for (number, vip) in vips(VIP_PORT).into_iter().enumerate() {
        for key in ["foo", "bar", "baz", "qux"] {
            let asker = scene.asker(vip, &format!("store --shard-key {key}"));
            asker.agrees(&in_slot("store", key), "shard");
        }
        scene
            .asker(vip, "store")
            .agrees(&request("store").emit(), "home");
        let session = format!("s{number}");
        let asker = scene.asker(vip, &format!("talk --session {session}"));
        let before = places(&scene.bed);
        assert_eq!(asker.explain()["details"], json!(["session_created"]));
        assert_eq!(
            places(&scene.bed),
            before,
            "asking leaves no session behind"
        );
        let first = asker.send(&in_session("talk", &session));
        asker.agrees(&in_session("talk", &session), "session");
        assert_eq!(asker.send(&in_session("talk", &session)).host, first.host);
    }
}

/// Nobody listens: the worker refuses the connection, past the balancer.
fn connect(source: SocketAddr, vip: SocketAddr) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let error = runtime.block_on(async {
        let socket = if vip.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        };
        let socket = socket.unwrap();
        socket.bind(source).unwrap();
        socket.connect(vip).await.unwrap_err()
    });
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}

fn heartbeat_scene(layout: Layout) -> (Scene, Vec<crate::echo::Echo>) {
    let bed = Bed::new(layout, 3);
    let echoes = bed.echoes();
    let scene = Scene::new(bed);
    scene.add("fd99::1 9000");
    (scene, echoes)
}

#[test]
fn requests_and_flows_go_where_it_says_over_either_ip_version() {
    let (scene, _echoes) = heartbeat_scene(Layout::OneArm);
    requests_agree(&scene);
    for vip in ["10.99.0.1 53 --kind l4", "fd99::1 any --kind l4"] {
        scene.add(vip);
    }
    flows_agree(&scene, 53);
    let nowhere = scene.asker((VIP, 54).into(), "").explain();
    assert_eq!(
        (&nowhere["verdict"], &nowhere["kind"]),
        (&"XDP_PASS".into(), &Value::Null)
    );
    let refusal = scene.bed.refused("route explain --vip 10.99.0.1:9000");
    assert!(refusal.contains("name the function"), "{refusal}");
    let refusal = scene
        .bed
        .refused("route explain echo --vip [fd99::1]:9000 --from 10.80.0.3:1");
    assert!(
        refusal.contains("one is IPv4 and the other IPv6"),
        "{refusal}"
    );
    let text = scene.bed.says("route explain --vip 10.99.0.1:53");
    assert!(
        text.contains("vip      l4") && text.contains("route maglev"),
        "{text}"
    );
}

#[test]
fn packets_redirected_to_another_interface_go_where_it_says() {
    let (scene, _echoes) = heartbeat_scene(Layout::TwoArms);
    requests_agree(&scene);
    for vip in ["10.99.0.1 53 --kind l4", "fd99::1 53 --kind l4"] {
        scene.add(vip);
    }
    flows_agree(&scene, 53);
}

#[test]
fn tcp_connections_go_where_it_says() {
    let (scene, _echoes) = heartbeat_scene(Layout::OneArm);
    for vip in [
        "10.99.0.1 80 --kind l4 --protocol tcp",
        "fd99::1 80 --kind l4 --protocol tcp",
    ] {
        scene.add(vip);
    }
    for vip in vips(80) {
        // Taken from a socket that is gone, so that the next one may have it.
        let source = scene.asker(vip, "").source();
        let first = scene.explain(vip, source, "--protocol tcp-syn");
        assert_eq!(first["rule"], "maglev");
        let witness = scene.witness();
        scene.client().netns.enter(|| connect(source, vip)).unwrap();
        let seen = witness.sees(source, vip);
        scene.assert_agrees(&first, &seen);
        let later = scene.explain(vip, source, "--protocol tcp");
        assert_eq!(later["rule"], "flow");
        scene.assert_agrees(&later, &seen);
        let again = scene.explain(vip, source, "--protocol tcp-syn");
        assert_eq!(again["rule"], "maglev", "a first packet begins a new flow");
    }
}

#[test]
fn quic_packets_go_where_their_connection_ids_say() {
    let (scene, _echoes) = heartbeat_scene(Layout::OneArm);
    for address in ["10.99.0.1", "fd99::1"] {
        scene.add(&format!("{address} 443 --kind quic --quic-config 1"));
    }
    for vip in vips(443) {
        for worker in ["w0", "w1", "w2"] {
            let [high, low] = scene.bed.worker_id(worker).0.to_be_bytes();
            // Configuration 1, eight bytes: the server id in two, and a nonce.
            let id = [0x27, high, low, 1, 2, 3, 4, 5];
            let digits: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
            let asker = scene.asker(vip, &format!("--connection-id {digits}"));
            let datagram = [&[0x40], id.as_slice(), &[0; 24]].concat();
            assert_eq!(asker.agrees(&datagram, "quic"), json!([]));
            assert_eq!(asker.send(&datagram).host, worker);
        }
        // A client's first packet has an id of its own choice, and goes by flow.
        let asker = scene.asker(vip, "");
        let mut initial = vec![0xc0, 0, 0, 0, 1, 8, 0xe1, 2, 3, 4, 5, 6, 7, 8];
        initial.resize(1_200, 0);
        let noticed = json!(["flow_created", "quic_unknown_id"]);
        assert_eq!(asker.agrees(&initial, "maglev"), noticed);
        asker.agrees(&initial, "flow");
    }
    let refusal = scene
        .bed
        .refused("route explain --vip 10.99.0.1:443 --connection-id xyz");
    assert!(refusal.contains("no connection id"), "{refusal}");
}

#[test]
fn packets_of_pktgen_go_where_it_says() {
    let (scene, _echoes) = heartbeat_scene(Layout::OneArm);
    let mut policy = scene.bed.says("map show");
    for address in ["10.99.0.1", "fd99::1"] {
        policy += &format!(
            "[[vip]]\naddress = \"{address}\"\nport = 9\nkind = \"pktgen\"\n\
             [vip.pktgen]\nfunctions = [\"talk\", \"store\"]\nsessions = 16\n"
        );
    }
    let file = scene.bed.topology.run.dir().join("pktgen.toml");
    std::fs::write(&file, policy).unwrap();
    scene.bed.json(&format!("map apply {}", file.display()));
    scene.bed.wait_written();
    for (vip, first) in vips(9).into_iter().zip([0, 32]) {
        for sequence in first..first + 8u32 {
            let asker = scene.asker(vip, &format!("--sequence {sequence}"));
            let words = [0xbe9b_e955, sequence, 0, 0];
            let datagram: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
            if sequence % 2 == 0 {
                // The first packet of a session goes to the less loaded of two, drawn each time.
                let before = places(&scene.bed);
                assert_eq!(asker.explain()["outcome"], "route");
                assert_eq!(
                    places(&scene.bed),
                    before,
                    "asking leaves no session behind"
                );
                asker.send(&datagram);
                asker.agrees(&datagram, "session");
            } else {
                asker.agrees(&datagram, "shard");
            }
        }
    }
}

/// VIPs of each mode, l4 and rpc, over both versions.
fn tunnels_agree(scene: &Scene) {
    for (mode, port) in [("ipip", 53), ("gue", 54)] {
        for address in ["10.99.0.1", "fd99::1"] {
            scene.add(&format!("{address} {port} --kind l4 --forward {mode}"));
            scene.add(&format!("{address} {} --forward {mode}", 9_000 + port));
        }
    }
    for port in [53, 54] {
        flows_agree(scene, port);
        for vip in vips(9_000 + port) {
            let asker = scene.asker(vip, "store");
            asker.agrees(&request("store").emit(), "home");
            let explained = asker.explain();
            let mode = &explained["packet_out"]["outer"]["mode"];
            assert_eq!(mode, if port == 53 { "ipip" } else { "gue" });
            assert_eq!(explained["packet_out"]["kind"], "request");
        }
    }
}

#[test]
fn packets_in_an_ipv4_tunnel_go_where_it_says() {
    let hosts = Hosts::new(Layout::OneArm, 3);
    hosts.write_config(
        &hosts.all_interfaces("native"),
        "[tunnel]\nv4 = \"10.77.0.0\"",
    );
    let bed = hosts.start();
    let _echoes = bed.echoes();
    let scene = Scene::new(bed);
    tunnels_agree(&scene);
}

#[test]
fn packets_in_an_ipv6_tunnel_go_where_it_says() {
    let hosts = Hosts::new(Layout::OneArm, 3);
    let workers = hosts.topology.workers.iter().map(|host| {
        let (name, address, mac) = (&host.role, host.address(), host.nic().mac_text());
        let address6 = host.address6();
        format!(
            "[[worker]]\nname = \"{name}\"\naddress = \"{address}\"\nmac = \"{mac}\"\n\
             interface = \"eth0\"\naddress6 = \"{address6}\"\n"
        )
    });
    let more = format!("[tunnel]\nv6 = \"fd77::\"\n{}", workers.collect::<String>());
    hosts.write_config(&hosts.all_interfaces("native"), &more);
    let scene = Scene::new(hosts.start());
    scene.bed.wait_settled(3);
    tunnels_agree(&scene);
}

/// Asks about `payload` by the file that holds it. What was found in it, the packet having gone where it was said to go.
fn payload_agrees(
    scene: &Scene,
    vip: SocketAddr,
    (function, payload): (&str, &[u8]),
    rule: &str,
) -> Value {
    let file = scene.bed.topology.run.dir().join("payload");
    std::fs::write(&file, payload).unwrap();
    let words = format!("{function} --payload @{}", file.display());
    let asker = scene.asker(vip, &words);
    let key = asker.explain()["key"].clone();
    asker.agrees(&with_payload(function, payload), rule);
    key
}

#[test]
fn requests_with_a_key_in_their_payload_go_where_it_says() {
    let hosts = Hosts::new(Layout::OneArm, 3);
    hosts.write_config(&hosts.all_interfaces("native"), FUNCTIONS);
    let bed = hosts.start();
    let _echoes = bed.echoes();
    let scene = Scene::new(bed);
    scene.add("fd99::1 9000");
    for (vip, numbers) in vips(VIP_PORT).into_iter().zip([0..4, 4..8]) {
        for key in numbers.map(key) {
            let slot = json!(slot_of_key(key.as_bytes()).0);
            for (function, payload, schema) in [
                ("by-json", json_payload(&key), json!({ "json": "user" })),
                (
                    "by-protobuf",
                    protobuf_payload(&key),
                    json!({ "protobuf": [3, 1] }),
                ),
                (
                    "by-offset",
                    format!("....{key}....").into_bytes(),
                    json!({ "fixed": { "offset": 4, "size": 7 } }),
                ),
            ] {
                let found = payload_agrees(&scene, vip, (function, &payload), "shard");
                let expected =
                    json!({ "schema": schema, "target": "slot", "session": null, "slot": slot });
                assert_eq!(found, expected, "{function} {key}");
            }
            let session = ("session-by-json", json_payload(&key));
            let session = (session.0, session.1.as_slice());
            let before = places(&scene.bed);
            let words = format!("{} --payload {{\"user\":\"{key}\"}}", session.0);
            let noticed = scene.asker(vip, &words).explain()["details"].clone();
            assert_eq!(noticed, json!(["session_created"]));
            assert_eq!(
                places(&scene.bed),
                before,
                "asking leaves no session behind"
            );
            scene
                .asker(vip, "")
                .send(&with_payload(session.0, session.1));
            let found = payload_agrees(&scene, vip, session, "session");
            assert_eq!(found["session"].as_str().unwrap().len(), 16, "{found}");
        }
    }
    assert_none_found(&scene);
}

/// Payloads without a key, those that are not looked at, and those that cannot be sent.
fn assert_none_found(scene: &Scene) {
    let vip = (VIP, VIP_PORT).into();
    let missed = payload_agrees(scene, vip, ("by-json", b"{}"), "home");
    assert_eq!(
        (&missed["slot"], &missed["session"]),
        (&Value::Null, &Value::Null)
    );
    let noticed = scene.asker(vip, "by-json --payload {}").explain();
    assert_eq!(noticed["details"], json!(["schema_missed"]));
    // The header goes before; a function without a schema is not asked.
    for words in ["by-json --shard-key foo", "store"] {
        let words = format!("{words} --payload {{\"user\":\"ada\"}}");
        assert_eq!(
            scene.asker(vip, &words).explain()["key"],
            Value::Null,
            "{words}"
        );
    }
    let text = scene
        .bed
        .says("route explain by-json --payload {\"user\":\"ada\"}");
    let slot = slot_of_key(b"ada").0;
    let line = format!("key      slot {slot} by {{\"json\":\"user\"}}");
    assert!(text.contains(&line), "{text}");
    let long = scene.bed.topology.run.dir().join("long");
    std::fs::write(&long, [b' '; 65_537]).unwrap();
    for (words, problem) in [
        (
            format!("by-json --payload @{}", long.display()),
            "at most 65536",
        ),
        ("by-json --payload @/nowhere".to_owned(), "/nowhere"),
        (
            "--payload {} --vip 10.99.0.1:1".to_owned(),
            "takes no requests",
        ),
    ] {
        let refusal = scene.bed.refused(&format!("route explain {words}"));
        assert!(refusal.contains(problem), "{words}: {refusal}");
    }
}
