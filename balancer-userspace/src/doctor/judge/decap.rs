//! The worker's XDP program: whether it takes off what balancers put around their packets, and would be shown all of them.

use std::net::IpAddr;

use crate::{
    api::types::DecapStatus,
    decap::DecapConfig,
    doctor::{
        Facts, Report,
        facts::{Decap, Interface},
        report::Notes,
    },
    maps::{row_addresses, row_sources},
};

/// Bytes of the largest outer headers (those of GUE) over IPv4 and IPv6.
const OUTER4: u32 = 28;
const OUTER6: u32 = 48;
/// Prefixes shorter than these are more than one operator's: whoever has an address there may speak for any client.
const SHORTEST4: u8 = 8;
const SHORTEST6: u8 = 32;

/// What the program goes by, or would if it was started.
#[derive(Debug, Default, PartialEq, Eq)]
struct Rules {
    sources: Vec<String>,
    addresses: Vec<String>,
}

pub(super) fn judge(facts: &Facts, vip_mtu: u32, report: &mut Report) {
    let decap = &facts.decap;
    let mut notes = Notes::of("decap", report);
    judge_program(decap, &mut notes);
    let running = decap.running.as_ref().ok().and_then(Option::as_ref);
    let Some(rules) = judge_rules(decap, running, &mut notes) else {
        return;
    };
    judge_sources(&rules, &mut notes);
    judge_addresses(&rules, decap, &mut notes);
    let interface = decap.interface().and_then(|name| {
        let mut interfaces = facts.interfaces.iter();
        interfaces.find(|interface| interface.name == name)
    });
    judge_room(&rules, interface, vip_mtu, &mut notes);
    if let Some(status) = running {
        judge_counts(status, &mut notes);
    }
}

/// Whether it runs, and where in the kernel.
fn judge_program(decap: &Decap, notes: &mut Notes<'_>) {
    const CHECK: &str = "program";
    const START: &str = "warmpath worker --config worker.toml";
    let pin_path = decap.pin_path.display();
    match (&decap.running, &decap.configured) {
        (Err(problem), _) => notes.warning(
            CHECK,
            problem.clone(),
            format!("warmpath worker decap --pin-path {pin_path}"),
        ),
        (Ok(None), None) => notes.not_applicable(
            CHECK,
            format!(
                "no worker takes encapsulations off, at {pin_path}; if one should, name its configuration by --worker-config"
            ),
        ),
        (Ok(None), Some(_)) => notes.warning(
            CHECK,
            format!("not running: nothing is pinned at {pin_path}"),
            START,
        ),
        (Ok(Some(status)), _) if !status.attached => notes.failure(
            CHECK,
            "on no interface: its worker was killed, and only the pins are left",
            START,
        ),
        (Ok(Some(status)), _) => judge_attached(status, notes),
    }
}

fn judge_attached(status: &DecapStatus, notes: &mut Notes<'_>) {
    const CHECK: &str = "program";
    let Some(interface) = &status.interface else {
        notes.warning(
            CHECK,
            format!(
                "on the interface of index {}, which this network namespace has not",
                status.ifindex
            ),
            "warmpath doctor, in the worker's network namespace",
        );
        return;
    };
    if status.mode == "native" {
        notes.ok(CHECK, format!("runs in the driver of {interface}"));
    } else {
        notes.warning(
            CHECK,
            format!("runs in the slow generic path of {interface}"),
            "decap.mode = \"native\" in worker.toml, and start the worker again: it says then what the driver minds",
        );
    }
}

/// The rules that the other checks are about; none if there are none.
fn judge_rules(
    decap: &Decap,
    running: Option<&DecapStatus>,
    notes: &mut Notes<'_>,
) -> Option<Rules> {
    const CHECK: &str = "configuration";
    let running = running.map(|status| Rules {
        sources: status.sources.clone(),
        addresses: status.addresses.clone(),
    });
    let Some(config) = &decap.configured else {
        return running;
    };
    let configured = match rules(config, decap) {
        Ok(rules) => rules,
        Err(problem) => {
            notes.failure(CHECK, problem, "mend it in worker.toml");
            return running;
        }
    };
    match running {
        Some(running) if running != configured => notes.warning(
            CHECK,
            format!(
                "the worker that runs takes from {} at {}; the configuration says from {} at {}",
                running.sources.join(", "),
                running.addresses.join(", "),
                configured.sources.join(", "),
                configured.addresses.join(", "),
            ),
            "start the worker again with this configuration",
        ),
        _ => notes.ok(CHECK, format!("for {}", config.interface)),
    }
    Some(configured)
}

/// What `config` comes to on this host.
fn rules(config: &DecapConfig, decap: &Decap) -> Result<Rules, String> {
    let check = config.check();
    let own = decap.addresses.as_ref();
    let own = own.and_then(|addresses| addresses.get(&config.interface));
    let row = check.and_then(|()| config.row(own.map_or(&[], Vec::as_slice)));
    let row = row.map_err(|problem| problem.to_string())?;
    Ok(Rules {
        sources: row_sources(&row),
        addresses: row_addresses(&row),
    })
}

fn judge_sources(rules: &Rules, notes: &mut Notes<'_>) {
    const CHECK: &str = "sources";
    let wide = rules.sources.iter().find(|source| is_wide(source));
    match wide {
        Some(prefix) => notes.warning(
            CHECK,
            format!(
                "{prefix} is more than balancers: who has an address there may speak for any client"
            ),
            "decap.sources in worker.toml: only the [tunnel] prefixes of the balancers",
        ),
        None => notes.ok(CHECK, rules.sources.join(", ")),
    }
}

/// Whether `prefix` is one that many hosts share.
fn is_wide(prefix: &str) -> bool {
    let Some((address, len)) = prefix.split_once('/') else {
        return false;
    };
    let shortest = if address.contains(':') {
        SHORTEST6
    } else {
        SHORTEST4
    };
    len.parse::<u8>().is_ok_and(|len| len < shortest)
}

/// An address that no interface has is asked for in vain, by ARP or neighbour discovery.
fn judge_addresses(rules: &Rules, decap: &Decap, notes: &mut Notes<'_>) {
    const CHECK: &str = "addresses";
    let Some(own) = &decap.addresses else {
        notes.warning(
            CHECK,
            format!(
                "{}; this host's own cannot be listed",
                rules.addresses.join(", ")
            ),
            "ip address show",
        );
        return;
    };
    let has = |address: &str| {
        let address = address.parse::<IpAddr>();
        address.is_ok_and(|address| own.values().flatten().any(|own| *own == address))
    };
    match rules.addresses.iter().find(|address| !has(address)) {
        Some(address) => {
            let interface = decap.interface().unwrap_or("lo");
            notes.warning(
                CHECK,
                format!("no interface has {address}: what is encapsulated to it does not arrive unless it is routed here"),
                format!("ip address add {address} dev {interface}"),
            );
        }
        None => notes.ok(CHECK, rules.addresses.join(", ")),
    }
}

/// Frames longer than the MTU are dropped by most drivers before any program is asked.
fn judge_room(rules: &Rules, interface: Option<&Interface>, vip_mtu: u32, notes: &mut Notes<'_>) {
    const CHECK: &str = "outer headers";
    let is_v6 = rules.sources.iter().any(|source| source.contains(':'));
    let (outer, family) = if is_v6 {
        (OUTER6, "IPv6")
    } else {
        (OUTER4, "IPv4")
    };
    let Some((name, link)) = interface.and_then(|it| Some((&it.name, it.link.as_ref()?))) else {
        // That it is not there is a check of its own.
        notes.not_applicable(CHECK, "the interface is not there to be asked");
        return;
    };
    let wanted = vip_mtu.saturating_add(outer);
    if link.mtu >= wanted {
        notes.ok(
            CHECK,
            format!(
                "an MTU of {} holds {vip_mtu} + {outer} (gue over {family})",
                link.mtu
            ),
        );
        return;
    }
    let mend = if link.max_mtu.is_none_or(|max| wanted <= max) {
        format!("ip link set dev {name} mtu {wanted}")
    } else {
        let fits = link.mtu.saturating_sub(outer);
        format!(
            "lower the clients' MTU to {fits}, or the balancers' interfaces to {}",
            link.mtu
        )
    };
    notes.warning(
        CHECK,
        format!(
            "an MTU of {} does not hold {vip_mtu} + {outer} (gue over {family}): the driver may drop what balancers with a larger one send",
            link.mtu
        ),
        mend,
    );
}

/// What the program has had to drop so far.
fn judge_counts(status: &DecapStatus, notes: &mut Notes<'_>) {
    const CHECK: &str = "dropped";
    let dropped: Vec<_> = status
        .counters
        .iter()
        .filter(|counter| counter.class == "drop" && counter.value > 0)
        .collect();
    if dropped.is_empty() {
        notes.ok(CHECK, "nothing");
        return;
    }
    let list: Vec<_> = dropped
        .iter()
        .map(|counter| format!("{} {}", counter.value, counter.label))
        .collect();
    let is_foreign = dropped
        .iter()
        .any(|counter| counter.label == "decap_source");
    let mend = if is_foreign {
        "if those are your balancers: their [tunnel] prefixes into decap.sources of worker.toml; else look who sends them: tcpdump -ni any 'ip proto 4 or ip6 proto 41 or udp port 6080'"
    } else {
        "warmpath trace, at the balancers that send to this worker"
    };
    notes.warning(CHECK, list.join(", "), mend);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::types::CounterValue,
        doctor::{
            Verdict,
            judge::tests::{check, good, judged},
        },
    };

    /// Changes the worker's side of the good machine, and expects one check to come out so, with this in finding or command.
    #[track_caller]
    fn expect(change: impl FnOnce(&mut Facts), name: &str, verdict: Verdict, says: &str) {
        let mut facts = good();
        change(&mut facts);
        let report = judged(&facts);
        let mut checks = report.checks.iter();
        let is_it = |check: &&crate::doctor::Check| check.subject == "decap" && check.check == name;
        let check = checks.find(is_it);
        let check = check.unwrap_or_else(|| panic!("no check {name} in {report:#?}"));
        assert_eq!(check.verdict, verdict, "{check:?}");
        let is_wrong = verdict >= Verdict::Warning;
        assert_eq!(check.mend.is_some(), is_wrong, "{check:?}");
        let mend = check.mend.as_deref().unwrap_or_default();
        assert!(
            format!("{} {mend}", check.finding).contains(says),
            "{check:?}"
        );
    }

    fn status(facts: &mut Facts) -> &mut DecapStatus {
        facts.decap.running.as_mut().unwrap().as_mut().unwrap()
    }

    fn config(facts: &mut Facts) -> &mut DecapConfig {
        facts.decap.configured.as_mut().unwrap()
    }

    #[test]
    fn what_runs_is_told_by_pins_link_and_mode() {
        let name = "program";
        expect(|_| {}, name, Verdict::Ok, "driver of eth0");
        let generic = |facts: &mut Facts| status(facts).mode = "generic".to_owned();
        expect(generic, name, Verdict::Warning, "decap.mode = \"native\"");
        let killed = |facts: &mut Facts| status(facts).attached = false;
        expect(killed, name, Verdict::Failure, "warmpath worker --config");
        let elsewhere = |facts: &mut Facts| status(facts).interface = None;
        expect(elsewhere, name, Verdict::Warning, "network namespace");
        let not_started = |facts: &mut Facts| facts.decap.running = Ok(None);
        expect(
            not_started,
            name,
            Verdict::Warning,
            "warmpath worker --config",
        );
        let unknown = |facts: &mut Facts| facts.decap.running = Err("EPERM".to_owned());
        expect(unknown, name, Verdict::Warning, "EPERM");
    }

    #[test]
    fn a_machine_without_a_worker_in_tunnels_has_nothing_to_mend() {
        let mut facts = good();
        facts.decap.configured = None;
        facts.decap.running = Ok(None);
        let report = judged(&facts);
        assert_eq!(check(&report, "program").verdict, Verdict::NotApplicable);
        let of_decap = report
            .checks
            .iter()
            .filter(|check| check.subject == "decap");
        assert_eq!(of_decap.count(), 1);
    }

    #[test]
    fn a_configuration_is_held_against_this_host_and_against_what_runs() {
        let name = "configuration";
        expect(|_| {}, name, Verdict::Ok, "eth0");
        let everybody = |facts: &mut Facts| config(facts).sources = vec!["0.0.0.0/0".to_owned()];
        expect(everybody, name, Verdict::Failure, "decap.sources");
        let no_v6 = |facts: &mut Facts| config(facts).sources = vec!["fd00::/96".to_owned()];
        expect(no_v6, name, Verdict::Failure, "IPv6");
        let changed = |facts: &mut Facts| config(facts).sources.push("10.78.0.0/24".to_owned());
        expect(changed, name, Verdict::Warning, "start the worker again");
        // What is to be is judged, not what is.
        expect(changed, "sources", Verdict::Ok, "10.78.0.0/24");
        // Without one, what runs is.
        let only_running = |facts: &mut Facts| facts.decap.configured = None;
        expect(only_running, "sources", Verdict::Ok, "10.77.0.0/24");
        let not_started = |facts: &mut Facts| facts.decap.running = Ok(None);
        expect(not_started, "sources", Verdict::Ok, "10.77.0.0/24");
    }

    #[test]
    fn peers_and_addresses_that_cannot_be_meant_are_named() {
        let wide = |facts: &mut Facts| {
            config(facts).sources = vec!["10.77.0.0/24".to_owned(), "8.0.0.0/5".to_owned()];
        };
        expect(wide, "sources", Verdict::Warning, "8.0.0.0/5");
        assert!(is_wide("2000::/3") && !is_wide("fd77::/96") && !is_wide("10.0.0.0/8"));
        let foreign =
            |facts: &mut Facts| config(facts).addresses = vec!["10.9.9.9".parse().unwrap()];
        expect(
            foreign,
            "addresses",
            Verdict::Warning,
            "ip address add 10.9.9.9 dev eth0",
        );
        let on_lo = |facts: &mut Facts| {
            foreign(facts);
            let addresses = facts.decap.addresses.as_mut().unwrap();
            addresses.insert("lo".to_owned(), vec!["10.9.9.9".parse().unwrap()]);
        };
        expect(on_lo, "addresses", Verdict::Ok, "10.9.9.9");
        let unknown = |facts: &mut Facts| {
            foreign(facts);
            facts.decap.addresses = None;
        };
        expect(unknown, "addresses", Verdict::Warning, "ip address show");
    }

    #[test]
    fn outer_headers_must_fit_by_the_version_that_they_have() {
        let name = "outer headers";
        let mtu = |mtu: u32, max: Option<u32>| {
            move |facts: &mut Facts| {
                let link = facts.interfaces[0].link.as_mut().unwrap();
                (link.mtu, link.max_mtu) = (mtu, max);
            }
        };
        expect(mtu(1_528, None), name, Verdict::Ok, "1500 + 28");
        expect(
            mtu(1_527, None),
            name,
            Verdict::Warning,
            "ip link set dev eth0 mtu 1528",
        );
        let fixed = mtu(1_500, Some(1_500));
        expect(fixed, name, Verdict::Warning, "clients' MTU to 1472");
        let over_v6 = |facts: &mut Facts| {
            mtu(1_528, None)(facts);
            let addresses = facts.decap.addresses.as_mut().unwrap();
            let own = addresses.get_mut("eth0").unwrap();
            own.push("fd80::b".parse().unwrap());
            config(facts).sources.push("fd77::/96".to_owned());
        };
        expect(over_v6, name, Verdict::Warning, "mtu 1548");
        let gone = |facts: &mut Facts| facts.interfaces[0].link = None;
        expect(gone, name, Verdict::NotApplicable, "");
    }

    #[test]
    fn drops_say_who_or_what_is_to_be_looked_for() {
        let name = "dropped";
        let drops = |label: &'static str| {
            move |facts: &mut Facts| {
                status(facts).counters = vec![CounterValue {
                    class: "drop".to_owned(),
                    label: label.to_owned(),
                    value: 3,
                    help: String::new(),
                }];
            }
        };
        expect(|_| {}, name, Verdict::Ok, "nothing");
        expect(
            drops("decap_source"),
            name,
            Verdict::Warning,
            "decap.sources",
        );
        expect(drops("decap_bad"), name, Verdict::Warning, "3 decap_bad");
    }
}
