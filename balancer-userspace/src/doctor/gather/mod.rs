//! Asking the machine. A question that cannot be put leaves its fact unknown; it never ends the examination.

mod cgroups;
mod decap;
mod ethtool;
mod idle;
mod interface;
mod irq;
mod link;
mod xdp_features;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::{Command, Stdio},
};

use super::{
    DoctorError, Options,
    facts::{Facts, Kernel, Memory, Sandbox},
};
use crate::{
    config::Config,
    maps::{self, MapShape},
};

/// Sysctls that matter wherever the interface is; see [`super::judge`].
const SYSCTLS: [&str; 5] = [
    "net.core.bpf_jit_enable",
    "net.core.bpf_jit_harden",
    "net.core.netdev_max_backlog",
    "kernel.unprivileged_bpf_disabled",
    "net.ipv4.ip_forward",
];
/// Those that exist for each interface, below `net.<family>.conf.<interface>`.
const INTERFACE_SYSCTLS: [(&str, &str); 5] = [
    ("ipv4", "rp_filter"),
    ("ipv4", "arp_ignore"),
    ("ipv4", "arp_announce"),
    ("ipv4", "forwarding"),
    ("ipv6", "forwarding"),
];

/// Asks for everything that `options` names.
pub(super) fn facts(
    options: &Options,
    config: Option<&Config>,
    object: &[u8],
) -> Result<Facts, DoctorError> {
    let shapes = maps::map_shapes(object).map_err(|problem| DoctorError::Damaged { problem })?;
    let decap = decap::decap(options.decap.as_ref());
    let names = interface_names(options, config, decap.interface());
    Ok(Facts {
        kernel: kernel(&options.pin_path),
        bpf: maps::probe_bpf(object, &shapes),
        interfaces: names
            .iter()
            .map(|name| interface::interface(name, options.trial.then_some(object)))
            .collect(),
        sysctls: sysctls(&names),
        memory: Memory {
            available_bytes: read("/proc/meminfo").as_deref().and_then(available_bytes),
            maps: sized(shapes, config),
            possible_cpus: cpu_count("/sys/devices/system/cpu/possible"),
        },
        sandbox: sandbox(options),
        idle: idle::idle(read),
        decap,
        cpus: cpu_count("/sys/devices/system/cpu/online"),
    })
}

/// Those asked about, and the one that a worker takes encapsulated packets from.
fn interface_names(options: &Options, config: Option<&Config>, decap: Option<&str>) -> Vec<String> {
    let mut names = match (&options.interface, config) {
        (Some(name), _) => vec![name.clone()],
        (None, Some(config)) => config
            .interfaces
            .iter()
            .map(|interface| interface.name.clone())
            .collect(),
        (None, None) => Vec::new(),
    };
    let decap = decap.filter(|_| options.role.has_worker());
    if let Some(name) = decap.filter(|decap| names.iter().all(|name| name != decap)) {
        names.push(name.to_owned());
    }
    names
}

/// The maps with the sizes that the configuration asks for.
fn sized(mut shapes: Vec<MapShape>, config: Option<&Config>) -> Vec<MapShape> {
    let sizes = config.map(|config| config.limits.map_sizes());
    for (name, entries) in sizes.into_iter().flatten() {
        for shape in shapes.iter_mut().filter(|shape| shape.name == name) {
            shape.max_entries = entries;
        }
    }
    shapes
}

fn kernel(pin_path: &Path) -> Kernel {
    Kernel {
        release: read("/proc/sys/kernel/osrelease").unwrap_or_default(),
        privilege: maps::check_privilege().map_err(|error| error.to_string()),
        has_btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
        pin_path: pin_path.to_owned(),
        has_bpffs: maps::has_bpffs(pin_path),
    }
}

fn sandbox(options: &Options) -> Sandbox {
    Sandbox {
        check: options.sandbox.clone(),
        max_user_namespaces: read("/proc/sys/user/max_user_namespaces")
            .and_then(|text| text.parse().ok()),
        cgroups: cgroups::cgroups(&read("/proc/self/mountinfo").unwrap_or_default(), |path| {
            read(path)
        }),
        seccomp_actions: read("/proc/sys/kernel/seccomp/actions_avail"),
        rootfs: options.rootfs.clone(),
        landlock: options.landlock,
    }
}

fn sysctls(interfaces: &[String]) -> BTreeMap<String, String> {
    let mut paths: Vec<(String, String)> = SYSCTLS
        .iter()
        .map(|name| {
            let path = format!("/proc/sys/{}", name.replace('.', "/"));
            ((*name).to_owned(), path)
        })
        .collect();
    for interface in interfaces.iter().map(String::as_str).chain(["all"]) {
        for (family, name) in INTERFACE_SYSCTLS {
            // A name may hold a dot (eth0.5), so the path is not made from the dotted name.
            paths.push((
                format!("net.{family}.conf.{interface}.{name}"),
                format!("/proc/sys/net/{family}/conf/{interface}/{name}"),
            ));
        }
    }
    paths
        .into_iter()
        .filter_map(|(name, path)| Some((name, read(&path)?)))
        .collect()
}

/// A small file of the kernel's, trimmed.
fn read(path: impl AsRef<Path>) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned())
}

/// What a program prints; none if it is missing or fails.
fn output(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then_some(text)
}

fn available_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// At least one, whatever the kernel says.
fn cpu_count(path: &str) -> u32 {
    let cpus = read(path).map(|list| cpu_list(&list)).unwrap_or_default();
    u32::try_from(cpus.len()).unwrap_or(u32::MAX).max(1)
}

/// `0-3,8` and the like.
fn cpu_list(list: &str) -> BTreeSet<u32> {
    let mut cpus = BTreeSet::new();
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        if let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) {
            cpus.extend(first..=last);
        }
    }
    cpus
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_cpu_lists_are_read_as_the_kernel_writes_them() {
        let meminfo = "MemTotal:       24736544 kB\nMemFree: 1 kB\nMemAvailable:   24012345 kB\n";
        assert_eq!(available_bytes(meminfo), Some(24_012_345 * 1024));
        assert_eq!(available_bytes(""), None);
        assert_eq!(cpu_list("0-2,8\n"), BTreeSet::from([0, 1, 2, 8]));
        assert_eq!(cpu_list(""), BTreeSet::new());
    }
}
