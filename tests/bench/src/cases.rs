//! The cases of `bench xdp`: rule × IP version × forwarding mode × number of flows.

use blast::{
    Ip, Scene,
    scene::{self, function_of},
};
use ebpf_common::{
    ids::FunctionId,
    maps::{Counter, ForwardMode},
    traffic::{undo, vary},
    wire::{RpcHeader, flags},
};

use crate::{
    harness::{DROP, PASS, TX},
    world::{self, Police, SESSION_FUNCTION, SHARD_FUNCTION, UNKNOWN_FUNCTION},
};

/// Bytes behind the RPC header.
const PAYLOAD_LEN: usize = 64;
/// Numbers of flows: caches of every level, and none.
pub(crate) const FLOWS: [u32; 4] = [1, 1 << 10, 1 << 17, 1 << 20];
/// Numbers of flows where encapsulation is measured: one, and so many that rows are not in the caches.
const FLOWS_ENCAPSULATED: [u32; 2] = [1, 1 << 17];

/// Floors: name, program of the harness's object, what the harness undoes, what packets end as.
pub(crate) const FLOORS: &[(&str, &str, u32, u32)] = &[
    ("harness", "tx", undo::NOTHING, TX),
    ("undo_encapsulation", "tx", undo::HEAD, TX),
    ("undo_answer", "tx", undo::TAIL, TX),
    ("drop", "drop", undo::NOTHING, DROP),
    ("swap", "swap", undo::NOTHING, TX),
];

/// How packets leave, as reports name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) mode: ForwardMode,
    pub(crate) outer: Ip,
}

impl Way {
    const L2: Self = Self {
        mode: ForwardMode::L2,
        outer: Ip::V4,
    };
    const ENCAPSULATED: [Self; 4] = [
        Self::new(ForwardMode::Ipip, Ip::V4),
        Self::new(ForwardMode::Ipip, Ip::V6),
        Self::new(ForwardMode::Gue, Ip::V4),
        Self::new(ForwardMode::Gue, Ip::V6),
    ];

    const fn new(mode: ForwardMode, outer: Ip) -> Self {
        Self { mode, outer }
    }

    /// Its name.
    pub(crate) const fn name(self) -> &'static str {
        match (self.mode, self.outer) {
            (ForwardMode::L2, _) => "l2",
            (ForwardMode::Ipip, Ip::V4) => "ipip4",
            (ForwardMode::Ipip, Ip::V6) => "ipip6",
            (ForwardMode::Gue, Ip::V4) => "gue4",
            (ForwardMode::Gue, Ip::V6) => "gue6",
        }
    }
}

/// One thing to measure.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    /// Its name, unique.
    pub(crate) name: String,
    /// The rule it is about, as reports name it.
    pub(crate) rule: &'static str,
    pub(crate) ip: Ip,
    pub(crate) way: Way,
    pub(crate) flows: u32,
    pub(crate) scene: Scene,
    /// What every packet must be counted under.
    pub(crate) counter: Counter,
    /// What every packet must end as.
    pub(crate) verdict: u32,
    /// What the police stage does meanwhile.
    pub(crate) police: Police,
}

impl Case {
    /// Whether its packets leave entries behind that nobody looks up again.
    pub(crate) const fn floods(&self) -> bool {
        self.scene
            .template
            .varies(vary::NEW_SESSION | vary::NEW_SOURCE)
    }
}

/// A kind of packet: its rule, what it carries, what differs from flow to flow, where it must be counted.
struct Kind {
    rule: &'static str,
    name: &'static str,
    header: RpcHeader,
    vary: u32,
    counter: Counter,
}

/// All cases.
pub(crate) fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for ip in [Ip::V4, Ip::V6] {
        for flows in FLOWS {
            cases.push(pass(ip, flows));
            cases.extend(kinds().iter().map(|kind| rpc(kind, ip, Way::L2, flows)));
            cases.push(flow(ip, Way::L2, flows));
        }
        for way in Way::ENCAPSULATED {
            for flows in FLOWS_ENCAPSULATED {
                cases.extend(kinds().iter().map(|kind| rpc(kind, ip, way, flows)));
                cases.push(flow(ip, way, flows));
            }
        }
        cases.push(new_session(ip));
        cases.push(error(ip));
        cases.push(retry(ip));
    }
    cases
}

fn kinds() -> [Kind; 4] {
    let request = |function| RpcHeader::request(function, 1);
    let with = |function, flag| RpcHeader {
        flags: flags::FIRST | flags::LAST | flag,
        ..request(function)
    };
    let kind = |rule, header, vary, counter| Kind {
        rule,
        name: rule,
        header,
        vary,
        counter,
    };
    [
        kind(
            "shard",
            with(SHARD_FUNCTION, flags::HAS_SLOT),
            vary::SLOT,
            Counter::RouteShard,
        ),
        kind(
            "cookie",
            with(SESSION_FUNCTION, flags::HAS_SESSION | flags::HAS_COOKIE),
            vary::SESSION | vary::COOKIE,
            Counter::RouteCookie,
        ),
        kind(
            "warm",
            request(FunctionId(0)),
            vary::FUNCTION,
            Counter::RouteWarm,
        ),
        kind(
            "session",
            with(SESSION_FUNCTION, flags::HAS_SESSION),
            vary::SESSION,
            Counter::RouteSession,
        ),
    ]
}

fn rpc(kind: &Kind, ip: Ip, way: Way, flows: u32) -> Case {
    let vip = world::rpc_vip(way.mode);
    let scene = scene::rpc(ip, vip, kind.header, PAYLOAD_LEN, kind.vary, flows);
    case(kind.rule, kind.name, ip, way, flows, scene, kind.counter)
}

fn flow(ip: Ip, way: Way, flows: u32) -> Case {
    let scene = scene::tcp(ip, world::l4_vip(way.mode), flows);
    case("flow", "flow", ip, way, flows, scene, Counter::RouteFlow)
}

/// The first packet of a session that was never seen; the table is full by then.
fn new_session(ip: Ip) -> Case {
    let [.., session] = kinds();
    let what = vary::NEW_SESSION;
    let flows = FLOWS[3];
    let mut scene = scene::rpc(
        ip,
        world::rpc_vip(ForwardMode::L2),
        session.header,
        PAYLOAD_LEN,
        what,
        flows,
    );
    // Far from the sessions of the other cases.
    scene.template.session_seed = 1 << 60;
    case(
        "session_new",
        "session_new",
        ip,
        Way::L2,
        flows,
        scene,
        Counter::SessionCreated,
    )
}

fn pass(ip: Ip, flows: u32) -> Case {
    let header = RpcHeader::request(SHARD_FUNCTION, 1);
    let scene = scene::rpc(ip, world::NOWHERE, header, PAYLOAD_LEN, 0, flows);
    let counter = Counter::PassNotVip;
    Case {
        verdict: PASS,
        ..case("pass", "pass", ip, Way::L2, flows, scene, counter)
    }
}

fn error(ip: Ip) -> Case {
    let header = RpcHeader::request(UNKNOWN_FUNCTION, 1);
    let vip = world::rpc_vip(ForwardMode::L2);
    let scene = scene::rpc(ip, vip, header, PAYLOAD_LEN, 0, 1).undoing(undo::TAIL);
    // It goes as far as the rule for functions, and is answered there.
    case(
        "warm",
        "error_unknown_function",
        ip,
        Way::L2,
        1,
        scene,
        Counter::ErrorUnknownFunction,
    )
}

/// A source that is to prove its address first.
fn retry(ip: Ip) -> Case {
    let header = RpcHeader::request(function_of(0), 1);
    let vip = world::rpc_vip(ForwardMode::L2);
    let scene = scene::rpc(ip, vip, header, PAYLOAD_LEN, 0, 1).undoing(undo::TAIL);
    let counter = Counter::AnswerRetry;
    Case {
        police: Police::Strict,
        ..case("warm", "retry", ip, Way::L2, 1, scene, counter)
    }
}

/// The case of a floor. Its packets go nowhere, and no counter of the product knows them.
pub(crate) fn floor(name: &str, ip: Ip, what: u32, verdict: u32) -> Case {
    let header = RpcHeader::request(SHARD_FUNCTION, 1);
    let scene = scene::rpc(ip, world::NOWHERE, header, PAYLOAD_LEN, 0, 1).undoing(what);
    Case {
        name: format!("floor_{name}/{}", ip.name()),
        verdict,
        ..case("floor", name, ip, Way::L2, 1, scene, Counter::Packets)
    }
}

fn case(
    rule: &'static str,
    name: &str,
    ip: Ip,
    way: Way,
    flows: u32,
    scene: Scene,
    counter: Counter,
) -> Case {
    let undoes = scene.template.undo;
    let scene = match way.mode {
        ForwardMode::L2 => scene.undoing(undoes),
        ForwardMode::Ipip | ForwardMode::Gue => scene.undoing(undo::HEAD),
    };
    Case {
        name: format!("{name}/{}/{}/{flows}", ip.name(), way.name()),
        rule,
        ip,
        way,
        flows,
        scene,
        counter,
        verdict: TX,
        police: Police::On,
    }
}
