//! A sandbox's way out, for functions whose manifest asks for one: a veth pair, and what may pass it.
//!
//! ```text
//! sandbox  eth0 10.213.0.1 ──── 10.213.0.0 wp<worker>-<n>  host ── forward ── masquerade ──▶ uplink
//!                                  │ input: nothing              │ only what the manifest lists
//! ```
//!
//! The pair is made with the sandbox, before its function is known (FACTS §5: a millisecond or ten), and lets nothing
//! through; a cold start adds the function's rules. They stand in a table of nftables' in the worker's network namespace, where
//! no handler can reach them. iproute2 and nft are called as programs, as netavark and the CNI plug-ins call nft: both
//! take a whole script at once, and nft applies it whole or not at all.
//!
//! Invariants: an interface of ours without rules lets nothing through, also when its worker was killed; whatever a
//! manifest lists, nothing reaches this host's own addresses, another sandbox, loopback or link-local addresses; the next
//! worker of the same name removes what a killed one left.

use std::{
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr},
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use store::{Egress, Transport};

/// `[network]`: what functions get that ask for a network.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkConfig {
    /// The interface that their packets leave through; without one there is no network for anybody.
    pub uplink: Option<String>,
    /// The first address of those that sandboxes have, two for each.
    pub first_address: Ipv4Addr,
    /// How many sandboxes may have a network at a time.
    pub links: u16,
    /// Name servers, which every function with a network may ask.
    pub dns: Vec<Ipv4Addr>,
    /// Sandboxes with a network kept ready.
    pub prepared: usize,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            uplink: None,
            first_address: Ipv4Addr::new(10, 213, 0, 0),
            links: 4_096,
            dns: Vec::new(),
            prepared: 1,
        }
    }
}

/// Why a sandbox has no network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A program could not be started.
    #[error("cannot start {program}: install it (Debian: iproute2, nftables, util-linux)")]
    Start {
        /// Which.
        program: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A program refused its script.
    #[error("{program} cannot {doing}: {said}")]
    Refused {
        /// Which.
        program: &'static str,
        /// What was attempted.
        doing: &'static str,
        /// What it said.
        said: String,
    },
    /// There is no such interface.
    #[error("[network] uplink: there is no interface `{0}` here")]
    NoUplink(String),
    /// Answers would not come back.
    #[error(
        "[network] uplink: packets that arrive on `{0}` are not forwarded, and a worker does not change that by itself: \
         sysctl -w net.ipv4.conf.{0}.forwarding=1"
    )]
    NotForwarding(String),
    /// A setting of an interface of ours could not be made.
    #[error("cannot have {name} forward packets")]
    Forwarding {
        /// Which interface.
        name: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The addresses do not suffice.
    #[error("all {0} sandboxes that may have a network have one: raise [network] links")]
    Full(u16),
    /// A manifest asks for IPv6.
    #[error("the function asks for {0}, and sandboxes have no IPv6 addresses")]
    Version6(Egress),
}

/// The networks of one worker's sandboxes.
#[derive(Debug)]
pub struct Network {
    config: NetworkConfig,
    uplink: String,
    /// The table's name, and the beginning of the interfaces'.
    name: String,
    free: Mutex<Vec<u16>>,
}

impl Network {
    /// Makes the table for the worker `worker`, after removing what an earlier one of that name left; `None` when no
    /// uplink is configured.
    ///
    /// # Errors
    /// When the uplink is of no use, or nft is missing or refuses.
    pub fn start(config: &NetworkConfig, worker: &str) -> Result<Option<Arc<Self>>, NetworkError> {
        let Some(uplink) = config.uplink.clone() else {
            return Ok(None);
        };
        let setting = format!("/proc/sys/net/ipv4/conf/{uplink}/forwarding");
        match std::fs::read_to_string(setting) {
            Err(_) => return Err(NetworkError::NoUplink(uplink)),
            Ok(text) if text.trim() == "0" => return Err(NetworkError::NotForwarding(uplink)),
            Ok(_) => {}
        }
        let network = Self {
            name: name_of(worker),
            uplink,
            free: Mutex::new((0..config.links).rev().collect()),
            config: config.clone(),
        };
        network.remove_leftovers()?;
        nft("make its table", &network.table())?;
        Ok(Some(Arc::new(network)))
    }

    /// Name servers for `/etc/resolv.conf`.
    #[must_use]
    pub fn dns(&self) -> &[Ipv4Addr] {
        &self.config.dns
    }

    /// Links that exist.
    #[must_use]
    pub fn links(&self) -> usize {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        usize::from(self.config.links).saturating_sub(free.len())
    }

    /// Gives the network namespace of the process `init` an interface that lets nothing through yet. Blocks.
    ///
    /// # Errors
    /// When all are in use, or ip refuses.
    pub fn attach(self: &Arc<Self>, init: u32) -> Result<Link, NetworkError> {
        let number = self
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
            .ok_or(NetworkError::Full(self.config.links))?;
        // From here on the number is given back, and the interface removed, by a drop.
        let link = Link {
            network: Arc::clone(self),
            number,
        };
        let (host, inside) = link.addresses();
        let name = link.name();
        let out = format!(
            "link add {name} type veth peer name eth0 netns {init}\n\
             address add {host}/31 dev {name}\n\
             link set {name} up\n"
        );
        run(
            Command::new("ip").args(["-batch", "-"]),
            "ip",
            "make a veth pair",
            &out,
        )?;
        let settings = [("ipv4", "forwarding", "1"), ("ipv6", "disable_ipv6", "1")];
        for (version, setting, value) in settings {
            let path = format!("/proc/sys/net/{version}/conf/{name}/{setting}");
            match std::fs::write(path, value) {
                // A kernel without IPv6.
                Err(error) if version == "ipv6" && error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(NetworkError::Forwarding { name, source }),
                Ok(()) => {}
            }
        }
        let own = format!(
            "link set lo up\n\
             address add {inside}/31 dev eth0\n\
             link set eth0 up\n\
             route add default via {host}\n"
        );
        let mut enter = Command::new("nsenter");
        enter.args([&format!("--net=/proc/{init}/ns/net"), "ip", "-batch", "-"]);
        run(
            &mut enter,
            "nsenter",
            "configure a sandbox's interface",
            &own,
        )?;
        Ok(link)
    }

    /// What holds for all sandboxes. An interface of ours that the map does not know lets nothing through.
    fn table(&self) -> String {
        let Self { name, uplink, .. } = self;
        let pool = self.pool();
        format!(
            "table inet {name} {{\n\
               map sandboxes {{ type ifname : verdict; }}\n\
               chain refuse {{ counter reject with icmpx admin-prohibited; }}\n\
               chain input {{ type filter hook input priority -10; policy accept;\n\
                 iifname \"{name}-*\" jump refuse\n\
               }}\n\
               chain forward {{ type filter hook forward priority -10; policy accept;\n\
                 oifname \"{name}-*\" ct state established,related accept\n\
                 oifname \"{name}-*\" jump refuse\n\
                 iifname \"{name}-*\" oifname != \"{uplink}\" jump refuse\n\
                 iifname vmap @sandboxes\n\
                 iifname \"{name}-*\" jump refuse\n\
               }}\n\
               chain postrouting {{ type nat hook postrouting priority srcnat; policy accept;\n\
                 ip saddr {pool} oifname \"{uplink}\" masquerade\n\
               }}\n\
             }}\n"
        )
    }

    /// The addresses of all sandboxes, as nft writes a range.
    fn pool(&self) -> String {
        let first = self.config.first_address.to_bits();
        let last = first.saturating_add(u32::from(self.config.links) * 2 - 1);
        format!(
            "{}-{}",
            self.config.first_address,
            Ipv4Addr::from_bits(last)
        )
    }

    fn remove_leftovers(&self) -> Result<(), NetworkError> {
        // Made first, so that removing it never fails for want of it.
        let name = &self.name;
        nft(
            "remove an old table",
            &format!("table inet {name}\ndelete table inet {name}\n"),
        )?;
        let prefix = format!("{name}-");
        for interface in nix::net::if_::if_nameindex().iter().flatten() {
            let interface = interface.name().to_string_lossy().into_owned();
            if interface.starts_with(&prefix) {
                let delete = format!("link delete {interface}\n");
                run(
                    Command::new("ip").args(["-batch", "-"]),
                    "ip",
                    "remove an old interface",
                    &delete,
                )?;
            }
        }
        Ok(())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let delete = format!("delete table inet {}\n", self.name);
        if let Err(error) = nft("remove its table", &delete) {
            tracing::warn!(%error, "a table of nftables stays behind until the next start");
        }
    }
}

/// One sandbox's interface. Dropped, it goes with its rules.
#[derive(Debug)]
pub struct Link {
    network: Arc<Network>,
    number: u16,
}

impl Link {
    /// Lets through what `egress` lists, and what it asks of the name servers. Blocks for some milliseconds.
    ///
    /// # Errors
    /// When nft refuses; nothing passes then.
    pub fn allow(&self, egress: &[Egress]) -> Result<(), NetworkError> {
        let (table, chain, interface) = (&self.network.name, self.chain(), self.name());
        let mut script = format!("add chain inet {table} {chain}\n");
        let mut rule = |what: &str| {
            script.push_str(&format!("add rule inet {table} {chain} {what}\n"));
        };
        rule("ct state established,related accept");
        for server in &self.network.config.dns {
            rule(&format!("ip daddr {server} udp dport 53 accept"));
            rule(&format!("ip daddr {server} tcp dport 53 accept"));
        }
        for (never, bits) in Egress::never().iter().filter(|(never, _)| never.is_ipv4()) {
            rule(&format!("ip daddr {never}/{bits} jump refuse"));
        }
        rule(&format!("ip daddr {} jump refuse", self.network.pool()));
        for entry in egress {
            let IpAddr::V4(address) = entry.address else {
                return Err(NetworkError::Version6(entry.clone()));
            };
            let transport = match entry.transport {
                Transport::Tcp => "tcp",
                Transport::Udp => "udp",
            };
            let (prefix, (first, last)) = (entry.prefix, entry.ports);
            rule(&format!(
                "ip daddr {address}/{prefix} {transport} dport {first}-{last} accept"
            ));
        }
        rule("jump refuse");
        script.push_str(&format!(
            "add element inet {table} sandboxes {{ \"{interface}\" : goto {chain} }}\n"
        ));
        nft("allow a function's network", &script)
    }

    /// Its address on the host, and the sandbox's.
    fn addresses(&self) -> (Ipv4Addr, Ipv4Addr) {
        let host = self.network.config.first_address.to_bits() + u32::from(self.number) * 2;
        (Ipv4Addr::from_bits(host), Ipv4Addr::from_bits(host + 1))
    }

    fn name(&self) -> String {
        format!("{}-{:x}", self.network.name, self.number)
    }

    fn chain(&self) -> String {
        format!("sandbox-{:x}", self.number)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let (table, chain, interface) = (&self.network.name, self.chain(), self.name());
        // The interface goes with the sandbox's namespace, some milliseconds after that; its number is used again.
        let delete = format!("link delete {interface}\n");
        if let Err(error) = run(
            Command::new("ip").args(["-batch", "-"]),
            "ip",
            "remove an interface",
            &delete,
        ) {
            tracing::debug!(%error, "it went with its namespace");
        }
        // Made first, so that removing them never fails for want of them.
        let remove = format!(
            "add chain inet {table} {chain}\n\
             add element inet {table} sandboxes {{ \"{interface}\" : goto {chain} }}\n\
             delete element inet {table} sandboxes {{ \"{interface}\" }}\n\
             flush chain inet {table} {chain}\n\
             delete chain inet {table} {chain}\n"
        );
        if let Err(error) = nft("remove a function's network", &remove) {
            tracing::warn!(%error, "rules of a sandbox stay behind until the next start");
        }
        let mut free = self
            .network
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        free.push(self.number);
    }
}

/// Fits into an interface's name with a number behind it, whatever the worker is called.
fn name_of(worker: &str) -> String {
    let hash = Sha256::digest(worker.as_bytes());
    format!("wp{:02x}{:02x}{:02x}", hash[0], hash[1], hash[2])
}

fn nft(doing: &'static str, script: &str) -> Result<(), NetworkError> {
    run(Command::new("nft").args(["-f", "-"]), "nft", doing, script)
}

/// Runs `program` with `script` as its input.
fn run(
    command: &mut Command,
    program: &'static str,
    doing: &'static str,
    script: &str,
) -> Result<(), NetworkError> {
    let failed = |source| NetworkError::Start { program, source };
    let mut child = command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    // A program that ends before it has read all says why.
    if let Some(mut input) = child.stdin.take()
        && let Err(error) = input.write_all(script.as_bytes())
    {
        tracing::debug!(program, %error, "it did not read its script");
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(NetworkError::Refused {
        program,
        doing,
        said: said.lines().next().unwrap_or("nothing").to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> Arc<Network> {
        // Never started, so that nothing is to be removed: leaked, or its drop would call nft.
        Arc::new(Network {
            config: NetworkConfig::default(),
            uplink: "eth0".to_owned(),
            name: name_of("w0"),
            free: Mutex::new(vec![1, 0]),
        })
    }

    #[test]
    fn names_fit_into_what_an_interface_may_be_called() {
        let network = network();
        let link = Link {
            network: Arc::clone(&network),
            number: u16::MAX,
        };
        assert!(link.name().len() <= 15, "{}", link.name());
        assert!(link.name().starts_with("wp"));
        assert_ne!(name_of("w0"), name_of("w1"));
        std::mem::forget((link, network));
    }

    #[test]
    fn every_link_has_two_addresses_of_its_own() {
        let network = network();
        let of = |number| {
            let link = Link {
                network: Arc::clone(&network),
                number,
            };
            let addresses = link.addresses();
            std::mem::forget(link);
            addresses
        };
        assert_eq!(
            of(0),
            (Ipv4Addr::new(10, 213, 0, 0), Ipv4Addr::new(10, 213, 0, 1))
        );
        assert_eq!(
            of(4_095),
            (
                Ipv4Addr::new(10, 213, 31, 254),
                Ipv4Addr::new(10, 213, 31, 255)
            )
        );
        assert_eq!(network.pool(), "10.213.0.0-10.213.31.255");
        std::mem::forget(network);
    }
}
