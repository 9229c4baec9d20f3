//! Bodies of the admin API. Nothing inside the control plane passes these around.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

/// `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the binary.
    pub version: String,
    /// `ebpf_common::LAYOUT_VERSION`.
    pub layout_version: u32,
    /// Process id of the control plane.
    pub pid: u32,
    /// Milliseconds since the control plane started.
    pub uptime_ms: u64,
    /// Kernel id of the loaded program.
    pub program_id: u32,
    /// The program's tag: the same for the same code.
    pub program_tag: String,
    /// Whether pinned maps and links of an earlier control plane were taken over.
    pub adopted: bool,
    /// Where the program is attached.
    pub interfaces: Vec<InterfaceStatus>,
    /// Version of the membership; grows with each change.
    pub membership_version: u64,
    /// Revision of the catalog; none until the store has answered once.
    pub catalog_revision: Option<u64>,
    /// Version of the slot map that workers hold.
    pub slots_version: u64,
    /// The epoch that the keys of cookies, tokens and LOAD packets are in.
    pub key_epoch: u32,
    /// Whether other balancers make the same keys of the same secret.
    pub keys_shared: bool,
    /// Workers that take new work.
    pub workers_up: usize,
    /// All workers that are known.
    pub workers: usize,
    /// Functions in the data plane, each version and alias counted.
    pub functions: usize,
    /// VIPs answered for.
    pub vips: usize,
    /// Map writes since the start.
    pub map_writes: u64,
    /// Map writes still to do to reach what is wanted.
    pub writes_pending: usize,
}

/// One interface the program is attached to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Its name.
    pub name: String,
    /// Its index; none while it does not exist.
    pub ifindex: Option<u32>,
    /// `native` or `generic`; none while it is not attached.
    pub mode: Option<String>,
}

/// An element of `GET /v1/workers`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its id in maps and route cookies.
    pub id: u16,
    /// Its name.
    pub name: String,
    /// Address of its interface.
    pub address: Ipv4Addr,
    /// MAC address of its interface.
    pub mac: String,
    /// `up`, `draining` or `down`.
    pub state: String,
    /// Whether an operator asked for the drain (`warmpath` verb), in contrast to the worker itself.
    pub drained_by_operator: bool,
    /// Whether its connection is lost and it counts as alive by its LOAD packets alone.
    #[serde(default)]
    pub presumed: bool,
    /// `heartbeat` or `static`.
    pub source: String,
    /// The balancer's interface that it is reached by.
    pub interface: Option<String>,
    /// Requests received and not answered, as last reported.
    pub in_flight: u32,
    /// Requests it takes at a time.
    pub capacity: u32,
    /// Its share of work; 256 is normal.
    pub weight: u16,
    /// Requests it may have in flight by the operator's word; none for no such cap.
    pub cap: Option<u32>,
    /// Functions it has a warm sandbox of, by qualified name where known.
    pub warm: Vec<String>,
    /// Slots whose shard it claims, as `a-b`.
    pub slots: Vec<String>,
    /// Where its db server listens.
    pub db_url: Option<String>,
}

/// An element of `GET /v1/functions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionStatus {
    /// 16 hexadecimal digits.
    pub id: String,
    /// `hello@latest`; empty for a row whose name is not known (yet).
    pub qualified: String,
    /// `none`, `session` or `shard`.
    pub affinity: String,
    /// Names of the workers in its warm set.
    pub warm: Vec<String>,
    /// Name of the worker at its first place in the Maglev table.
    pub home: Option<String>,
}

/// `GET /v1/slots`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotsStatus {
    /// Version of the slot map.
    pub version: u64,
    /// Who holds which slots.
    pub owners: Vec<SlotOwnerStatus>,
    /// Slots without a live owner, as `a-b`.
    pub unowned: Vec<String>,
    /// Slots that two live workers claim.
    pub conflicts: Vec<SlotConflictStatus>,
}

/// One range of slots and its owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotOwnerStatus {
    /// The slots, as `a-b`.
    pub range: String,
    /// The worker's name.
    pub worker: String,
    /// Where its db server listens.
    pub db_url: Option<String>,
}

/// Slots that two live workers claim; the lower worker id has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotConflictStatus {
    /// The slots, as `a-b`.
    pub range: String,
    /// Name of the worker that has them.
    pub winner: String,
    /// Name of the worker that claims them too.
    pub loser: String,
}

/// An element of `GET /v1/vips`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipStatus {
    /// Number of the VIP: its row in `VIP_COUNTERS`.
    pub vip_id: u32,
    /// Address.
    pub address: IpAddr,
    /// Port; 0 is any that no other VIP of the address has.
    pub port: u16,
    /// `udp` or `tcp`.
    pub protocol: String,
    /// `rpc`, `l4`, `quic`, `pktgen`, or `load` for the LOAD address.
    pub kind: String,
    /// `l2`, `ipip` or `gue`.
    pub forward: String,
    /// Name of its pool; none for all workers.
    pub pool: Option<String>,
}

/// `GET /v1/policy`.
#[cfg(feature = "server")]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// Its revision; 0 is that of `balancer.toml`.
    pub revision: u64,
    /// The policy in force.
    pub policy: crate::config::PolicyFile,
}

/// `POST /v1/policy`, and with `?dry_run=true`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyChange {
    /// The revision in force now.
    pub revision: u64,
    /// False for a dry run.
    pub is_applied: bool,
    /// Rows that change, in the order in which they are written.
    pub rows: Vec<RowChange>,
    /// Entries of `SLOTS` and `HOME` that change.
    pub table_entries: usize,
}

/// `POST /v1/prewarm`: instances that are to live, or code that is to be there, before anyone calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderRequest {
    /// A name, which means its latest version, or a qualified name.
    pub function: String,
    /// Instances, over all workers; with none, only code and layers are fetched.
    pub count: u32,
    /// With no instances: onto how many workers; all of them if it does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<u32>,
    /// For how long, in seconds.
    #[serde(default = "OrderRequest::usual_seconds")]
    pub seconds: u32,
    /// How long the answer may wait for what is ordered, in milliseconds.
    #[serde(default)]
    pub wait_ms: u32,
}

impl OrderRequest {
    /// How long an order holds that does not say so: ten minutes.
    pub const USUAL_SECONDS: u32 = 600;

    const fn usual_seconds() -> u32 {
        Self::USUAL_SECONDS
    }
}

/// An element of `GET /v1/prewarm`, and the answer to `POST` and `DELETE`: a function with orders.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrewarmStatus {
    /// Its qualified name.
    pub function: String,
    /// Instances that are to live: the largest of its orders and of `min_warm`.
    pub count: u32,
    /// What its manifest asks for.
    pub min_warm: u32,
    /// Its orders, the largest first.
    pub orders: Vec<OrderStatus>,
    /// Instances that live on the workers that are to have some.
    pub live: u32,
    /// Those of `count` that do not live yet where they are to.
    pub missing: u32,
    /// Workers that are to have the code, by its orders of code; of those for all workers, as many as there are.
    #[serde(default)]
    pub code_workers: u32,
    /// Those of `code_workers` that have it not yet, or are not there.
    #[serde(default)]
    pub code_missing: u32,
    /// Who is to have how many, and has.
    pub workers: Vec<WarmWorker>,
}

impl PrewarmStatus {
    /// Whether all is there that was ordered.
    #[must_use]
    pub const fn is_met(&self) -> bool {
        self.missing == 0 && self.code_missing == 0
    }
}

/// One order for a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderStatus {
    /// Instances; none in an order of code.
    pub count: u32,
    /// Of an order of code: on how many workers, if not on all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<u32>,
    /// Milliseconds until it ends.
    pub ends_in_ms: u64,
}

/// A worker's part of what is to live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmWorker {
    /// Its name.
    pub worker: String,
    /// Instances that it keeps.
    pub wanted: u32,
    /// Instances that live there, as it last said.
    pub live: u32,
    /// If it is to have the code by an order of code: whether it has, as it last said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<bool>,
}

/// A blocked prefix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockHits {
    /// The prefix.
    pub prefix: String,
    /// Packets dropped because it was the longest prefix of their source.
    pub hits: u64,
}

/// `POST /v1/keys/rotate`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyEpoch {
    /// The epoch that keys are in now.
    pub epoch: u32,
}

/// A row of a map before and after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowChange {
    /// The map.
    pub map: String,
    /// None for a row that is new.
    pub before: Option<String>,
    /// None for a row that goes.
    pub after: Option<String>,
}

/// An element of `GET /v1/policy/log`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// Its number.
    pub revision: u64,
    /// When it was applied, in seconds since 1970.
    pub applied_unix_s: u64,
}

/// An element of `GET /v1/counters`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterValue {
    /// `packets`, `pass`, `route`, `drop`, `error` or `detail`.
    pub class: String,
    /// Rule or reason within the class.
    pub label: String,
    /// Sum over all CPUs.
    pub value: u64,
    /// What it counts, in one sentence.
    pub help: String,
}

/// `warmpath worker decap`: what a worker takes the encapsulation off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecapStatus {
    /// The interface's name; none if it is gone, or of another network namespace.
    pub interface: Option<String>,
    /// Its index.
    pub ifindex: u32,
    /// `native` or `generic`.
    pub mode: String,
    /// Whether the program is on the interface; if not, its worker was killed.
    pub attached: bool,
    /// Addresses that packets are encapsulated to.
    pub addresses: Vec<String>,
    /// Prefixes that they may come from.
    pub sources: Vec<String>,
    /// What the program has counted.
    pub counters: Vec<CounterValue>,
}

/// `GET /v1/traffic`: what was counted since the maps were made, or since the name was given to somebody.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficReport {
    /// By VIP.
    pub vips: Vec<TrafficRow>,
    /// By worker.
    pub workers: Vec<TrafficRow>,
    /// The functions called most; a function that lost its row to a busier one is not among them.
    pub functions: Vec<TrafficRow>,
}

/// Packets to one VIP, worker or function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficRow {
    /// Its name, or its id where no name is known.
    pub name: String,
    /// Packets; of a function, at least so many.
    pub packets: u64,
    /// Bytes of their frames as they came in; functions are counted by packets only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// An element of `GET /v1/maps`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapInfo {
    /// Its name.
    pub name: String,
    /// Kernel id.
    pub id: u32,
    /// Bytes of a key.
    pub key_bytes: u32,
    /// Bytes of a value.
    pub value_bytes: u32,
    /// Most entries it can hold.
    pub max_entries: u32,
}

/// `GET /v1/maps/{name}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MapDump {
    /// The map.
    pub map: MapInfo,
    /// Entries that hold something, with named fields; runs of equal slots or Maglev entries are one element.
    pub entries: Vec<serde_json::Value>,
    /// Entries left out because the dump is limited.
    pub left_out: u64,
}

/// `POST /v1/explain`: a packet to ask the loaded program about. What it carries depends on the kind of the VIP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    /// Destination.
    pub vip: SocketAddr,
    /// What carries it; for a VIP of kind `l4`, anything else is UDP.
    #[serde(default)]
    pub transport: ExplainTransport,
    /// Function name, `hello` or `hello@3`; needed for a VIP of kind `rpc`.
    #[serde(default)]
    pub function: Option<String>,
    /// With it, the request has a session.
    #[serde(default)]
    pub session: Option<u64>,
    /// With it, the request has the slot of this shard key.
    #[serde(default)]
    pub shard_key: Option<String>,
    /// For a VIP of kind `rpc`: what the request carries, in hexadecimal digits. If the function has a schema, session or slot
    /// are found in it. Of one that needs several fragments, the first is sent.
    #[serde(default)]
    pub payload_hex: Option<String>,
    /// With it, the request carries this route cookie.
    #[serde(default)]
    pub cookie: Option<u64>,
    /// With it, the request carries this address token.
    #[serde(default)]
    pub token: Option<u64>,
    /// For a VIP of kind `quic`: the destination connection id, in hexadecimal digits. Without it, the packet is a client's
    /// first one, whose connection id is its own choice.
    #[serde(default)]
    pub connection_id: Option<String>,
    /// For a VIP of kind `pktgen`: the packet's number.
    #[serde(default)]
    pub sequence: Option<u32>,
    /// Source; 192.0.2.1:40000 or [2001:db8::1]:40000 if not given.
    #[serde(default)]
    pub source: Option<SocketAddr>,
}

impl ExplainRequest {
    /// A packet to `vip` without anything in particular.
    #[must_use]
    pub const fn to(vip: SocketAddr) -> Self {
        Self {
            vip,
            transport: ExplainTransport::Udp,
            function: None,
            session: None,
            shard_key: None,
            payload_hex: None,
            cookie: None,
            token: None,
            connection_id: None,
            sequence: None,
            source: None,
        }
    }
}

/// What carries the packet of an [`ExplainRequest`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExplainTransport {
    /// UDP.
    #[default]
    Udp,
    /// TCP, in the middle of a connection.
    Tcp,
    /// TCP, the first packet of a connection.
    TcpSyn,
}

/// What the loaded program did with the packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// `pass`, `route`, `drop` or `error`; empty when live traffic hid the counters.
    pub outcome: String,
    /// The rule or reason within the outcome.
    pub rule: String,
    /// `XDP_TX`, `XDP_REDIRECT`, `XDP_PASS`, `XDP_DROP` or `XDP_ABORTED`.
    pub verdict: String,
    /// The worker that the packet would leave for.
    pub worker: Option<ExplainedWorker>,
    /// Kind of the VIP that the packet is for; none if there is no such VIP.
    pub kind: Option<String>,
    /// What the function's schema made of the payload; none if it was not asked, because the function has no schema, the request
    /// no payload, or its header a session or slot of its own.
    pub key: Option<ExplainedKey>,
    /// Details noticed on the way, such as `cookie_forged`.
    pub details: Vec<String>,
    /// Headers of the packet that would leave; none for pass and drop.
    pub packet_out: Option<PacketOut>,
    /// The packet that went in, in hexadecimal digits.
    pub packet_in_hex: String,
}

/// What a schema makes of a payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedKey {
    /// The schema, as a manifest writes it.
    pub schema: serde_json::Value,
    /// What the key is for: `session` or `slot`.
    pub target: String,
    /// The session that was found, in hexadecimal digits.
    pub session: Option<String>,
    /// The slot that was found.
    pub slot: Option<u16>,
}

/// A worker as [`Explanation`] names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedWorker {
    /// Its id.
    pub id: u16,
    /// Its name, when the control plane was asked (the maps alone do not hold names).
    pub name: Option<String>,
    /// Its MAC address.
    pub mac: String,
}

/// Headers of a packet that leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketOut {
    /// Destination MAC address.
    pub dst_mac: String,
    /// Source MAC address.
    pub src_mac: String,
    /// Addresses of the packet that it is encapsulated in.
    pub outer: Option<OuterHeaders>,
    /// Source address and port.
    pub source: SocketAddr,
    /// Destination address and port.
    pub destination: SocketAddr,
    /// Kind of the RPC header: `request`, `error`, `retry`; without one `udp`, `tcp`, `icmp` or `icmpv6`.
    pub kind: String,
    /// Status of the RPC header, by name; none in requests.
    pub status: Option<String>,
    /// The whole packet in hexadecimal digits.
    pub hex: String,
}

/// What a packet is encapsulated in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OuterHeaders {
    /// `ipip` or `gue`.
    pub mode: String,
    /// Source, which varies by flow (mode `ipip`).
    pub source: IpAddr,
    /// Source port, which varies by flow (mode `gue`).
    pub source_port: Option<u16>,
    /// The worker's address.
    pub destination: IpAddr,
}

/// Body of every answer that is not 2xx.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// What was attempted, on what, and what to do.
    pub error: String,
}
