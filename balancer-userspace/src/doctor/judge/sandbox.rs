//! What a worker builds sandboxes from.

use crate::doctor::{
    Report,
    facts::{Cgroups, Sandbox},
    report::Notes,
};

/// The controllers that limit a sandbox.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];
/// Far more than a worker has sandboxes.
const USER_NAMESPACES: u64 = 10_000;

pub(super) fn judge(sandbox: &Sandbox, report: &mut Report) {
    let mut notes = Notes::of("sandbox", report);
    match &sandbox.check {
        Ok(()) => notes.ok("worker", "can make sandboxes here"),
        Err(problem) => notes.failure(
            "worker",
            problem.clone(),
            "what the finding says; then: warmpath doctor --role worker",
        ),
    }
    judge_namespaces(sandbox, &mut notes);
    judge_cgroups(&sandbox.cgroups, &mut notes);
    match &sandbox.seccomp_actions {
        Some(actions) if actions.split_whitespace().any(|action| action == "errno") => {
            notes.ok("seccomp", "filters can be installed");
        }
        _ => notes.failure(
            "seccomp",
            "the kernel has no system call filters",
            "use a kernel with CONFIG_SECCOMP_FILTER=y",
        ),
    }
    judge_rootfs(&sandbox.rootfs, &mut notes);
    judge_landlock(sandbox.landlock, &mut notes);
}

/// The host's own `/usr` works everywhere, and shows handlers what is installed.
fn judge_rootfs(rootfs: &Result<String, String>, notes: &mut Notes<'_>) {
    const CHECK: &str = "root file system";
    match rootfs {
        Ok(name) if name == "host" => notes.ok(CHECK, "host: handlers read the host's /usr"),
        Ok(name) => notes.ok(CHECK, name.clone()),
        Err(problem) => notes.failure(
            CHECK,
            problem.clone(),
            "warmpath worker rootfs build, or sandbox.rootfs = \"host\" in the worker's configuration",
        ),
    }
}

/// A second wall behind the mounts: sandboxes hold without it, but an operator should know.
fn judge_landlock(version: u32, notes: &mut Notes<'_>) {
    const CHECK: &str = "landlock";
    if version > 0 {
        notes.ok(CHECK, format!("version {version}"));
    } else {
        notes.warning(
            CHECK,
            "the kernel has none, or has it switched off: sandboxes do without this second wall",
            "use a kernel with CONFIG_SECURITY_LANDLOCK=y and `landlock` in its parameter lsm=",
        );
    }
}

fn judge_namespaces(sandbox: &Sandbox, notes: &mut Notes<'_>) {
    const CHECK: &str = "user namespaces";
    let mend = format!("sysctl -w user.max_user_namespaces={USER_NAMESPACES}");
    match sandbox.max_user_namespaces {
        None => notes.failure(
            CHECK,
            "the kernel has none",
            "use a kernel with CONFIG_USER_NS=y",
        ),
        Some(0) => notes.failure(CHECK, "switched off", mend),
        Some(most) if most < 1_000 => notes.warning(CHECK, format!("at most {most}"), mend),
        Some(most) => notes.ok(CHECK, format!("at most {most}")),
    }
}

/// All of them in one version's hierarchy, or each at least in one of the two.
fn judge_cgroups(cgroups: &Cgroups, notes: &mut Notes<'_>) {
    const CHECK: &str = "cgroups";
    let missing: Vec<_> = CONTROLLERS
        .into_iter()
        .filter(|name| !cgroups.v1.contains(*name) && !cgroups.v2.contains(*name))
        .collect();
    if let Some(first) = missing.first() {
        notes.failure(
            CHECK,
            format!("no controller for {}", missing.join(", ")),
            if cgroups.has_v2 && cgroups.v1.is_empty() {
                format!("echo +{first} > /sys/fs/cgroup/cgroup.subtree_control")
            } else {
                format!("mkdir -p /sys/fs/cgroup/{first} && mount -t cgroup -o {first} none /sys/fs/cgroup/{first}")
            },
        );
    } else if cgroups.v1.is_empty() {
        notes.ok(CHECK, "version 2");
    } else if cgroups.has_v2 {
        notes.ok(CHECK, "version 1 for limits, version 2 beside it");
    } else {
        notes.ok(CHECK, "version 1");
    }
}
