//! The cases of `bench xdp`: rule × IP version × forwarding mode × number of flows.

use blast::{
    Destination, Ip, Scene,
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
    world::{self, Police, SESSION_FUNCTION, SHARD_FUNCTION, UNKNOWN_FUNCTION, Warmth},
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
    /// Where the functions of flows are warm.
    pub(crate) warmth: Warmth,
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
        cases.extend(FLOWS.map(|flows| quic(ip, flows)));
        cases.push(new_session(ip));
        cases.push(new_flow(ip, "flow_new", scene::tcp_new));
        cases.push(new_flow(ip, "flow_new_udp", scene::udp_new));
        cases.push(error(ip));
        cases.push(retry(ip));
    }
    // Together, because a million rows are written anew before the first and after the last of them.
    for ip in [Ip::V4, Ip::V6] {
        cases.extend(FLOWS.map(|flows| home(ip, flows)));
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

/// Functions that are warm nowhere.
fn home(ip: Ip, flows: u32) -> Case {
    let [_shard, _cookie, warm, _session] = kinds();
    let kind = Kind {
        rule: "home",
        name: "home",
        counter: Counter::RouteHome,
        ..warm
    };
    Case {
        warmth: Warmth::Cold,
        ..rpc(&kind, ip, Way::L2, flows)
    }
}

/// Connections whose ids name their workers.
fn quic(ip: Ip, flows: u32) -> Case {
    let scene = scene::quic(ip, world::QUIC_VIP, flows);
    case(
        "quic",
        "quic",
        ip,
        Way::L2,
        flows,
        scene,
        Counter::RouteQuic,
    )
}

/// The first packet of a flow that was never seen, as `scene` makes it; the table is full by then.
fn new_flow(ip: Ip, name: &str, scene: fn(Ip, Destination) -> Scene) -> Case {
    let scene = scene(ip, world::l4_vip(ForwardMode::L2));
    let counter = Counter::RouteMaglev;
    case("flow_new", name, ip, Way::L2, FLOWS[3], scene, counter)
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
        "answer",
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
        ..case("answer", "retry", ip, Way::L2, 1, scene, counter)
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
        warmth: Warmth::Warm,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_case_has_a_name_of_its_own() {
        let all = all();
        let names: HashSet<_> = all.iter().map(|case| &case.name).collect();
        assert_eq!(names.len(), all.len());
    }

    #[test]
    fn a_rule_s_rows_are_of_packets_that_it_places() {
        for case in all() {
            let expected = match case.counter {
                Counter::PassNotVip => "pass",
                Counter::RouteShard => "shard",
                Counter::RouteCookie => "cookie",
                Counter::RouteWarm => "warm",
                Counter::RouteHome => "home",
                Counter::RouteSession => "session",
                Counter::SessionCreated => "session_new",
                Counter::RouteFlow => "flow",
                Counter::RouteMaglev => "flow_new",
                Counter::RouteQuic => "quic",
                Counter::ErrorUnknownFunction | Counter::AnswerRetry => "answer",
                other => panic!("{}: no rule for {other:?}", case.name),
            };
            assert_eq!(case.rule, expected, "{}", case.name);
        }
    }

    #[test]
    fn every_rule_is_measured_over_both_versions_of_ip() {
        let all = all();
        for rule in [
            "pass", "shard", "cookie", "warm", "home", "session", "flow", "quic",
        ] {
            for ip in [Ip::V4, Ip::V6] {
                let of_rule = all
                    .iter()
                    .filter(|case| (case.rule, case.ip, case.way) == (rule, ip, Way::L2));
                let flows: Vec<_> = of_rule.map(|case| case.flows).collect();
                assert_eq!(flows, FLOWS, "{rule} {}", ip.name());
            }
        }
    }
}
