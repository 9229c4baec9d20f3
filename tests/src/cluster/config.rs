//! The configuration files of a test bed's roles.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{Options, SecondBalancer};
use crate::topology::{Host, Topology, VIP, VIP_PORT};

/// Ports of the roles, each on its own host's address.
pub(super) const STORE_PORT: u16 = 7100;
/// Where a control plane takes workers in.
pub const MEMBERSHIP_PORT: u16 = 7000;
const DB_PORT: u16 = 7200;
/// Where a worker takes RPCs that did not come through the balancer.
pub const DIRECT_PORT: u16 = VIP_PORT;
/// Where the gateway serves HTTP.
pub const GATEWAY_PORT: u16 = 8080;
/// Where every role serves its metrics.
pub const METRICS_PORT: u16 = 9100;
/// Name of the second balancer's files, and where its metrics are: the gateway, on whose host it lives, has the usual port.
pub(super) const SECOND: &str = "balancer-2";
const SECOND_METRICS_PORT: u16 = 9102;
/// Metrics of the store, which lives on the balancer's host.
pub(super) const STORE_METRICS_PORT: u16 = 9101;

const SLOTS: u32 = ebpf_common::limits::SLOTS;
/// Enough for every test, and quick to allocate.
const MAP_FUNCTIONS: u32 = 1_024;
const MAP_SESSIONS: u32 = 131_072;
/// Host user ids of sandboxes: each worker has as many as its range is long.
const UIDS_PER_WORKER: u32 = 4_096;
const UID_FIRST: u32 = 1_878_982_656;

/// Where the files of a cluster are.
#[derive(Debug, Clone)]
pub struct Paths {
    dir: PathBuf,
    data: PathBuf,
}

impl Paths {
    pub(super) fn of(topology: &Topology) -> Self {
        Self {
            dir: topology.run.dir().to_owned(),
            data: topology.run.data_dir().to_owned(),
        }
    }

    /// The configuration of `role`.
    #[must_use]
    pub fn config(&self, role: &str) -> PathBuf {
        self.dir.join(format!("{role}.toml"))
    }

    /// The control plane's admin socket.
    #[must_use]
    pub fn admin_socket(&self) -> PathBuf {
        self.dir.join("balancer.sock")
    }

    /// The directory with the pinned program, maps and links.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        self.dir.join("bpf")
    }

    /// The admin socket of the worker on `host`.
    #[must_use]
    pub fn worker_socket(&self, host: &Host) -> PathBuf {
        self.data.join(&host.role).join("worker.sock")
    }

    /// The second balancer's admin socket.
    pub(super) fn second_admin_socket(&self) -> PathBuf {
        self.dir.join("balancer-2.sock")
    }

    fn token(&self) -> PathBuf {
        self.dir.join("token")
    }

    fn key_secret(&self) -> PathBuf {
        self.dir.join("key-secret")
    }
}

/// Slots of worker `index` of `count`: as equal parts as there can be, without a gap.
pub(super) fn slots_of(index: usize, count: usize) -> (u16, u16) {
    let bound = |part: usize| part * SLOTS as usize / count;
    let narrow = |slot: usize| u16::try_from(slot).unwrap_or(u16::MAX);
    (narrow(bound(index)), narrow(bound(index + 1) - 1))
}

/// Writes the configuration of every role.
pub(super) fn write_all(topology: &Topology, paths: &Paths, options: &Options) -> Result<()> {
    let token = format!("{:032x}", rand::random::<u128>());
    write_secret(&paths.token(), &token)?;
    write(paths, "store", &store(topology.balancer.address(), paths))?;
    write_balancers(topology, paths, options)?;
    write(paths, "gateway", &gateway(topology.gateway.address()))?;
    let count = topology.workers.len();
    for (index, host) in topology.workers.iter().enumerate() {
        let slots = slots_of(index, count);
        let mut text = worker(host, index, slots, topology, paths, options);
        if options.trust_gateway {
            let gateway = topology.gateway.address();
            text.push_str(&format!("\n[bill]\ngateways = [\"{gateway}\"]\n"));
        }
        write(paths, &host.role, &text)?;
    }
    Ok(())
}

fn write(paths: &Paths, role: &str, text: &str) -> Result<()> {
    let path = paths.config(role);
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
}

fn write_secret(path: &Path, text: &str) -> Result<()> {
    use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
    fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("writing {}", path.display()))
}

fn store(address: Ipv4Addr, paths: &Paths) -> String {
    let path = paths.data.join("store");
    format!(
        r#"listen = "{address}:{STORE_PORT}"
path = "{}"
metrics_listen = "{address}:{STORE_METRICS_PORT}"
"#,
        path.display()
    )
}

fn write_balancers(topology: &Topology, paths: &Paths, options: &Options) -> Result<()> {
    let first = Balancer {
        host: &topology.balancer,
        pins: paths.pins(),
        admin_socket: paths.admin_socket(),
        metrics_port: METRICS_PORT,
        xdp_mode: &options.xdp_mode,
    };
    let mut first_text = first.text(topology, paths);
    if let Some(SecondBalancer { rotate_s }) = options.second_balancer {
        let secret = format!("{:032x}", rand::random::<u128>());
        write_secret(&paths.key_secret(), &secret)?;
        let shared = format!(
            "\n[keys]\nrotate_s = {rotate_s}\nsecret_file = \"{}\"\n",
            paths.key_secret().display()
        );
        first_text.push_str(&shared);
        let second = Balancer {
            host: &topology.gateway,
            pins: paths.dir.join("bpf-2"),
            admin_socket: paths.second_admin_socket(),
            metrics_port: SECOND_METRICS_PORT,
            // Its port of the switch has no program, which veth would want.
            xdp_mode: "generic",
        };
        write(paths, SECOND, &(second.text(topology, paths) + &shared))?;
    }
    write(paths, "balancer", &first_text)
}

/// What one balancer has for itself.
struct Balancer<'a> {
    host: &'a Host,
    pins: PathBuf,
    admin_socket: PathBuf,
    metrics_port: u16,
    xdp_mode: &'a str,
}

impl Balancer<'_> {
    fn text(&self, topology: &Topology, paths: &Paths) -> String {
        let address = self.host.address();
        let metrics_port = self.metrics_port;
        let store = topology.balancer.address();
        let xdp_mode = self.xdp_mode;
        let interfaces: String = self
            .host
            .nics
            .iter()
            .map(|nic| {
                format!(
                    "\n[[interface]]\nname = \"{}\"\nmode = \"{xdp_mode}\"\n",
                    nic.name
                )
            })
            .collect();
        format!(
            r#"pin_path = "{}"
admin_socket = "{}"
metrics_listen = "{address}:{metrics_port}"
store_url = "http://{store}:{STORE_PORT}"

[membership]
listen = "{address}:{MEMBERSHIP_PORT}"
token_file = "{}"
# Whatever the machine is busy with: a worker that is killed closes its connection, and nobody waits for a lease.
lease_ms = 1000

[limits]
functions = {MAP_FUNCTIONS}
sessions = {MAP_SESSIONS}

[[vip]]
address = "{VIP}"
port = {VIP_PORT}
{interfaces}"#,
            self.pins.display(),
            self.admin_socket.display(),
            paths.token().display(),
        )
    }
}

fn gateway(address: Ipv4Addr) -> String {
    format!(
        r#"listen = "{address}:{GATEWAY_PORT}"
vip = "{VIP}:{VIP_PORT}"
metrics_listen = "{address}:{METRICS_PORT}"
"#
    )
}

fn worker(
    host: &Host,
    index: usize,
    (first, last): (u16, u16),
    topology: &Topology,
    paths: &Paths,
    options: &Options,
) -> String {
    let address = host.address();
    let interface = &host.nic().name;
    let role = &host.role;
    let front = topology.balancer.address();
    let uid_first = UID_FIRST + UIDS_PER_WORKER * u32::try_from(index).unwrap_or_default();
    let mut balancers = vec![&topology.balancer];
    let mut own_id = String::new();
    if options.second_balancer.is_some() {
        balancers.push(&topology.gateway);
        own_id = format!("id = {}\n", 100 + 7 * index);
    }
    let control_planes: Vec<String> = balancers
        .iter()
        .map(|host| format!("{}:{MEMBERSHIP_PORT}", host.address()))
        .collect();
    format!(
        r#"name = "{role}"
{own_id}interface = "{interface}"
address = "{address}"
vips = ["{VIP}:{VIP_PORT}"]
direct_listen = "{address}:{DIRECT_PORT}"
control_plane = {control_planes:?}
token_file = "{}"
store_url = "http://{front}:{STORE_PORT}"
state_dir = "{}"
metrics_listen = "{address}:{METRICS_PORT}"
capacity = 64

[db]
slots = ["{first}-{last}"]
listen = "{address}:{DB_PORT}"

[pool]
memory_mb = 1024

[sandbox]
cgroup_parent = "{}"
uid_first = {uid_first}
uid_count = {UIDS_PER_WORKER}
"#,
        paths.token().display(),
        paths.data.join(role).display(),
        topology.run.id(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_split_without_gap_or_overlap() {
        for count in 1..=5 {
            let parts: Vec<_> = (0..count).map(|index| slots_of(index, count)).collect();
            assert_eq!(parts.first().map(|part| part.0), Some(0));
            assert_eq!(parts.last().map(|part| part.1), Some(16_383));
            for pair in parts.windows(2) {
                assert_eq!(pair[0].1 + 1, pair[1].0);
            }
        }
    }
}
