//! The kernel as a whole.

use crate::doctor::{Facts, Report, report::Notes};

/// Oldest kernel that the program tests pass on (`cargo xtask kernels`).
const OLDEST: (u32, u32) = (6, 1);

pub(super) fn judge(facts: &Facts, report: &mut Report) {
    let mut notes = Notes::of("kernel", report);
    let kernel = &facts.kernel;
    // The version only says what was tested; what the kernel can do is probed.
    match version(&kernel.release) {
        Some(version) if version >= OLDEST => notes.ok("version", kernel.release.clone()),
        _ => notes.warning(
            "version",
            format!(
                "{}; tested are {}.{} and later",
                kernel.release, OLDEST.0, OLDEST.1
            ),
            "install a newer kernel, if a check below fails",
        ),
    }
    match &kernel.privilege {
        Ok(()) => notes.ok("privilege", "may load and attach BPF programs"),
        Err(problem) => notes.failure("privilege", problem.clone(), "run as root: sudo warmpath …"),
    }
    if kernel.has_btf {
        notes.ok("BTF", "/sys/kernel/btf/vmlinux");
    } else {
        notes.warning(
            "BTF",
            "the kernel has no type information; the program loads without, tools show less",
            "use a kernel with CONFIG_DEBUG_INFO_BTF=y",
        );
    }
    judge_bpffs(facts, &mut notes);
    judge_jit(facts, &mut notes);
    match facts
        .sysctls
        .get("kernel.unprivileged_bpf_disabled")
        .map(String::as_str)
    {
        Some("0") => notes.warning(
            "unprivileged BPF",
            "every user may load BPF programs",
            "sysctl -w kernel.unprivileged_bpf_disabled=1",
        ),
        Some(_) => notes.ok("unprivileged BPF", "off"),
        None => notes.not_applicable("unprivileged BPF", "this kernel has no such switch"),
    }
}

fn judge_bpffs(facts: &Facts, notes: &mut Notes<'_>) {
    let path = facts.kernel.pin_path.display();
    match facts.kernel.has_bpffs {
        Some(true) => notes.ok("bpffs", format!("mounted at or above {path}")),
        Some(false) => notes.warning(
            "bpffs",
            format!("no BPF file system at {path}; the balancer mounts one there itself"),
            "mount -t bpf bpf /sys/fs/bpf",
        ),
        None => notes.warning(
            "bpffs",
            format!("cannot look at {path}"),
            "run as root: sudo warmpath doctor",
        ),
    }
}

/// What became of the programs says more than the switch, which only the first network namespace shows.
fn judge_jit(facts: &Facts, notes: &mut Notes<'_>) {
    const ON: &str = "sysctl -w net.core.bpf_jit_enable=1";
    let mut programs = facts.bpf.programs.iter();
    let loaded = programs.find_map(|(_, it)| it.as_ref().ok());
    let switch = facts.sysctls.get("net.core.bpf_jit_enable");
    match (loaded.map(|it| it.is_compiled), switch.map(String::as_str)) {
        (Some(false), _) | (None, Some("0")) => notes.failure(
            "JIT",
            "BPF programs are interpreted, which is many times slower",
            ON,
        ),
        (_, Some("2")) => notes.warning("JIT", "on, and writes every program to the log", ON),
        (Some(true), _) => notes.ok("JIT", "on: programs are compiled"),
        (None, Some(_)) => notes.ok("JIT", "on"),
        (None, None) => notes.warning(
            "JIT",
            "cannot be asked: not visible here, or not built in",
            "use a kernel with CONFIG_BPF_JIT=y",
        ),
    }
    if facts
        .sysctls
        .get("net.core.bpf_jit_harden")
        .map(String::as_str)
        == Some("2")
    {
        notes.warning(
            "JIT hardening",
            "constants are blinded for root's programs too, which makes each packet slower",
            "sysctl -w net.core.bpf_jit_harden=1",
        );
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}
