//! Whether a configuration makes sense: each check names the key and what would be right.

use std::{
    collections::{BTreeSet, HashSet},
    ops::RangeInclusive,
};

use ebpf_common::{
    ids::{DEFERRED_FUNCTION, FunctionId},
    limits::{MAX_FUNCTIONS, MAX_PORTS, MAX_SCHEMAS, MAX_WORKERS},
};

use super::{Config, MembershipConfig, policy::IPV4_MIN_MTU};
use crate::membership::protocol::MAX_NAME;

/// The kernel's limit (IFNAMSIZ), without its final NUL.
const MAX_INTERFACE_NAME: usize = 15;
/// Shorter, and a session is cut off while its client thinks; longer than a year is never.
const ROTATE_S: RangeInclusive<u32> = 10..=31_536_000;
const MAX_BOUND_PERCENT: u32 = 10_000;
/// A table of places larger than this, 2 GiB, is a slip of the pen.
const MAX_PLACES_EVER: u32 = 1 << 28;

impl Config {
    pub(super) fn check(&self) -> Result<(), (String, String)> {
        let value = |key: &str, problem: &str| Err((key.to_owned(), problem.to_owned()));
        if !self.pin_path.is_absolute() {
            return value("pin_path", "must be an absolute path");
        }
        // bpffs reserves names with a dot for itself.
        if self
            .pin_path
            .file_name()
            .is_none_or(|name| name.to_string_lossy().contains('.'))
        {
            return value("pin_path", "must end in a name without a dot");
        }
        if !self.admin_socket.is_absolute() {
            return value("admin_socket", "must be an absolute path");
        }
        if self.interfaces.is_empty() {
            return value("interface", "is missing: at least one interface is needed");
        }
        self.check_interfaces()?;
        self.check_workers()?;
        self.check_addresses()?;
        self.policy().check(self)?;
        self.check_times()?;
        if let Some(membership) = &self.membership {
            membership.check()?;
        }
        if !(1..=MAX_FUNCTIONS).contains(&self.limits.functions) {
            return value("limits.functions", &format!("must be 1 to {MAX_FUNCTIONS}"));
        }
        for (key, places) in [
            ("limits.sessions", self.limits.sessions),
            ("limits.flows", self.limits.flows),
        ] {
            if !(1..=MAX_PLACES_EVER).contains(&places) {
                return value(key, &format!("must be 1 to {MAX_PLACES_EVER}"));
            }
        }
        self.check_functions()
    }

    fn check_interfaces(&self) -> Result<(), (String, String)> {
        let mut names = BTreeSet::new();
        for interface in &self.interfaces {
            let name = interface.name.as_str();
            let problem = if name.is_empty() || name.len() > MAX_INTERFACE_NAME {
                "must be the name of an interface".to_owned()
            } else if !names.insert(name) {
                "is there twice".to_owned()
            } else if interface.mtu.is_some_and(|mtu| mtu < IPV4_MIN_MTU) {
                format!(
                    "must have an mtu of at least {IPV4_MIN_MTU}, or none: then it is the interface's own"
                )
            } else {
                continue;
            };
            return Err((format!("interface \"{name}\""), problem));
        }
        if names.len() > MAX_PORTS as usize {
            return Err(("interface".to_owned(), format!("at most {MAX_PORTS}")));
        }
        Ok(())
    }

    fn check_addresses(&self) -> Result<(), (String, String)> {
        let value = |key: &str, problem: &str| Err((key.to_owned(), problem.to_owned()));
        let v4 = self.tunnel.v4.map(|address| address.octets());
        if v4.is_some_and(|[a, _, c, d]| a == 0 || c != 0 || d != 0) {
            return value(
                "tunnel.v4",
                "must end in .0.0: the last two bytes are varied by flow",
            );
        }
        let v6 = self.tunnel.v6.map(|address| address.segments());
        if v6.is_some_and(|[a, .., g, h]| a == 0 || g != 0 || h != 0) {
            return value(
                "tunnel.v6",
                "must end in four bytes of zeros, which are varied by flow",
            );
        }
        if self.load.port == 0 {
            return value("load.port", "must be a UDP port");
        }
        // Where it is our own address, that is not known here: the role looks when it starts.
        if let Some(load) = self.load_address(None)
            && let Some(vip) = self.policy().udp_vip_at(load)
        {
            let problem = format!("is the address of vip {} too", vip.label());
            return value("load", &problem);
        }
        Ok(())
    }

    fn check_times(&self) -> Result<(), (String, String)> {
        if self.keys.rotate_s != 0 && !ROTATE_S.contains(&self.keys.rotate_s) {
            let (least, most) = ROTATE_S.into_inner();
            let problem = format!("must be {least} to {most}, or 0 for never");
            return Err(("keys.rotate_s".to_owned(), problem));
        }
        if self.home.bound_percent > MAX_BOUND_PERCENT {
            let problem = format!("must be at most {MAX_BOUND_PERCENT}, or 0 for no bound");
            return Err(("home.bound_percent".to_owned(), problem));
        }
        Ok(())
    }

    fn check_workers(&self) -> Result<(), (String, String)> {
        let mut names = BTreeSet::new();
        for worker in &self.workers {
            let unknown_interface = worker
                .interface
                .as_ref()
                .is_some_and(|name| !self.interfaces.iter().any(|known| known.name == *name));
            let problem = if !is_name(&worker.name) {
                "must have a name of letters, digits, `-`, `_` or `.`"
            } else if !names.insert(&worker.name) {
                "is there twice"
            } else if worker.weight == 0 || worker.cap == Some(0) {
                "must have a weight and a cap of at least 1; to give it no work, drain it"
            } else if unknown_interface {
                "names an interface that is in no [[interface]]"
            } else {
                continue;
            };
            return Err((format!("worker \"{}\"", worker.name), problem.to_owned()));
        }
        if names.len() > MAX_WORKERS as usize {
            return Err(("worker".to_owned(), format!("at most {MAX_WORKERS}")));
        }
        Ok(())
    }

    fn check_functions(&self) -> Result<(), (String, String)> {
        let mut seen = BTreeSet::from([FunctionId::of(DEFERRED_FUNCTION)]);
        let mut schemas = HashSet::new();
        for function in &self.functions {
            let wrong = |problem: String| Err((format!("function \"{}\"", function.name), problem));
            if function.name.is_empty() {
                return Err(("function".to_owned(), "must have a name".to_owned()));
            }
            let id = FunctionId::of(&function.name);
            if id == FunctionId::of(DEFERRED_FUNCTION) {
                return wrong("is the platform's own: give it another name".to_owned());
            }
            if !seen.insert(id) {
                return wrong("is there twice".to_owned());
            }
            let schema = function.schema.as_ref();
            match schema.map(|schema| schema.compile(function.affinity)) {
                Some(Ok(entry)) => drop(schemas.insert(entry)),
                Some(Err(error)) => return wrong(error.to_string()),
                None => {}
            }
        }
        if schemas.len() > MAX_SCHEMAS as usize {
            let problem = format!("at most {MAX_SCHEMAS} different schemas");
            return Err(("function".to_owned(), problem));
        }
        // With the platform's own, which is there whatever is configured.
        let needed = seen.len();
        if !self.functions.is_empty() && needed > self.limits.functions as usize {
            let problem = format!(
                "must be at least {needed}: for each [[function]], and one of the platform's own"
            );
            return Err(("limits.functions".to_owned(), problem));
        }
        Ok(())
    }
}

impl MembershipConfig {
    fn check(&self) -> Result<(), (String, String)> {
        if !(1..=60_000).contains(&self.heartbeat_ms) {
            return Err((
                "membership.heartbeat_ms".to_owned(),
                "must be 1 to 60000".to_owned(),
            ));
        }
        if self.lease_ms < self.heartbeat_ms.saturating_mul(2) || self.lease_ms > 600_000 {
            return Err((
                "membership.lease_ms".to_owned(),
                "must be at least twice heartbeat_ms, or one late heartbeat takes a worker out"
                    .to_owned(),
            ));
        }
        Ok(())
    }
}

/// Whether `name` can name a worker: it appears in paths, metrics and logs.
#[must_use]
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}
