//! Whether a policy makes sense: each check names the key and what would be right.

use std::collections::{BTreeMap, BTreeSet};

use ebpf_common::limits::{MAX_PKTGEN, MAX_POOLS, MAX_VIPS, PKTGEN_FUNCTIONS};

use super::{
    Config, Forward, Kind, PolicyFile, Protocol, TunnelConfig, VipConfig, VipPort, check::is_name,
};

/// Highest configuration id of a QUIC connection id (draft-ietf-quic-load-balancers, section 3.1; 7 says "unroutable").
const MAX_QUIC_CONFIG: u8 = 6;

type Problem = (String, String);

impl PolicyFile {
    /// Checks it, for a balancer with this `config`, whose own policy does not matter.
    ///
    /// # Errors
    /// The key, and what is wrong with its value.
    pub fn check(&self, config: &Config) -> Result<(), Problem> {
        self.check_pools()?;
        self.check_workers()?;
        self.check_vips(&config.tunnel)?;
        self.check_mtus(config)?;
        self.police.check()
    }

    fn check_pools(&self) -> Result<(), Problem> {
        let mut names = BTreeSet::new();
        for pool in &self.pools {
            let distinct: BTreeSet<_> = pool.workers.iter().collect();
            let problem = if !is_name(&pool.name) {
                "must have a name of letters, digits, `-`, `_` or `.`"
            } else if !names.insert(&pool.name) {
                "is there twice"
            } else if pool.workers.is_empty() {
                "has no workers: its VIPs could send nothing anywhere"
            } else if distinct.len() != pool.workers.len() {
                "names a worker twice"
            } else if !pool.workers.iter().all(|name| is_name(name)) {
                "names something that cannot be a worker"
            } else {
                continue;
            };
            return Err((format!("pool \"{}\"", pool.name), problem.to_owned()));
        }
        // Pool 0 is all workers.
        let most = MAX_POOLS as usize - 1;
        if self.pools.len() > most {
            return Err(("pool".to_owned(), format!("at most {most}")));
        }
        Ok(())
    }

    fn check_workers(&self) -> Result<(), Problem> {
        let mut names = BTreeSet::new();
        for worker in &self.workers {
            let problem = if !is_name(&worker.name) {
                "must have a name of letters, digits, `-`, `_` or `.`"
            } else if !names.insert(&worker.name) {
                "is there twice"
            } else if worker.weight == 0 {
                "must have a weight of at least 1 (256 is normal); to give it no work, drain it"
            } else if worker.cap == Some(0) {
                "must have a cap of at least 1; to give it no work, drain it"
            } else {
                continue;
            };
            return Err((format!("worker \"{}\"", worker.name), problem.to_owned()));
        }
        Ok(())
    }

    fn check_vips(&self, tunnel: &TunnelConfig) -> Result<(), Problem> {
        let mut seen = BTreeSet::new();
        let mut rows: BTreeMap<bool, usize> = BTreeMap::new();
        let mut addresses = BTreeSet::new();
        for vip in &self.vips {
            let wrong = |problem: String| Err((format!("vip {}", vip.label()), problem));
            if let Err(problem) = self.check_vip(vip, tunnel) {
                return wrong(problem);
            }
            if !seen.insert((vip.address, vip.port, vip.protocol)) {
                return wrong("is there twice".to_owned());
            }
            // A VIP takes one row for its port, and its address one more.
            let is_new = addresses.insert(vip.address);
            *rows.entry(vip.address.is_ipv6()).or_default() += 1 + usize::from(is_new);
        }
        let pktgen = self.vips.iter().filter(|vip| vip.kind == Kind::Pktgen);
        if pktgen.count() > MAX_PKTGEN as usize {
            return Err((
                "vip".to_owned(),
                format!("at most {MAX_PKTGEN} of kind pktgen"),
            ));
        }
        // One row is for the LOAD address.
        match rows.values().find(|rows| **rows >= 2 * MAX_VIPS as usize) {
            Some(rows) => Err((
                "vip".to_owned(),
                format!("needs {rows} rows of {}", 2 * MAX_VIPS - 1),
            )),
            None if self.vips.len() >= MAX_VIPS as usize => {
                Err(("vip".to_owned(), format!("at most {}", MAX_VIPS - 1)))
            }
            None => Ok(()),
        }
    }

    /// What an interface's configured MTU must hold. Its own is the machine's affair: `warmpath doctor` looks at it.
    fn check_mtus(&self, config: &Config) -> Result<(), Problem> {
        let narrow = |least: u16| {
            let mut interfaces = config.interfaces.iter();
            interfaces.find_map(|interface| {
                let mtu = interface.mtu.filter(|mtu| *mtu < least)?;
                Some((interface.name.as_str(), mtu))
            })
        };
        for vip in &self.vips {
            let (least, overhead) = vip.min_mtu(&config.tunnel);
            if let Some((name, mtu)) = narrow(least) {
                let problem = format!(
                    "needs an mtu of {least} ({overhead} of it for outer headers), and [[interface]] \"{name}\" has mtu = {mtu}: \
                     raise it, or leave it out"
                );
                return Err((format!("vip {}", vip.label()), problem));
            }
        }
        Ok(())
    }

    fn check_vip(&self, vip: &VipConfig, tunnel: &TunnelConfig) -> Result<(), String> {
        let is_group = vip.address.is_multicast() || vip.address.is_unspecified();
        let is_broadcast = vip.address == std::net::IpAddr::V4(std::net::Ipv4Addr::BROADCAST);
        if is_group || is_broadcast {
            return Err("must be the address of a host".to_owned());
        }
        if vip.kind != Kind::L4 && vip.protocol != Protocol::Udp {
            return Err("must have protocol \"udp\": only kind \"l4\" may have another".to_owned());
        }
        if let Some(pool) = &vip.pool
            && !self.pools.iter().any(|known| known.name == *pool)
        {
            return Err(format!(
                "names the pool \"{pool}\", which is in no [[pool]]"
            ));
        }
        if vip.forward != Forward::L2 && *tunnel == TunnelConfig::default() {
            return Err("encapsulates, and [tunnel] has neither v4 nor v6".to_owned());
        }
        match (vip.kind, vip.quic_config) {
            (Kind::Quic, None) => return Err("must have a quic_config".to_owned()),
            (Kind::Quic, Some(id)) if id > MAX_QUIC_CONFIG => {
                return Err(format!("must have a quic_config of 0 to {MAX_QUIC_CONFIG}"));
            }
            (Kind::Quic, _) | (_, None) => {}
            (_, Some(_)) => return Err("has a quic_config and is not of kind \"quic\"".to_owned()),
        }
        check_pktgen(vip)
    }
}

fn check_pktgen(vip: &VipConfig) -> Result<(), String> {
    let Some(pktgen) = &vip.pktgen else {
        return match vip.kind {
            Kind::Pktgen => Err("must have [vip.pktgen]".to_owned()),
            _ => Ok(()),
        };
    };
    let len = pktgen.functions.len();
    if vip.kind != Kind::Pktgen {
        Err("has [vip.pktgen] and is not of kind \"pktgen\"".to_owned())
    } else if vip.port == VipPort::Any {
        Err("must have a port: pktgen sends to one".to_owned())
    } else if !len.is_power_of_two() || len > PKTGEN_FUNCTIONS {
        Err(format!(
            "must call 1, 2, 4, … or {PKTGEN_FUNCTIONS} functions"
        ))
    } else if pktgen.functions.iter().any(String::is_empty) {
        Err("must name its functions".to_owned())
    } else if pktgen.sessions != 0 && !pktgen.sessions.is_power_of_two() {
        Err("must have a power of two sessions, or 0".to_owned())
    } else {
        Ok(())
    }
}
