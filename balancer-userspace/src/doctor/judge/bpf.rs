//! What the data plane asks of BPF, as the probes found it.

use crate::{
    doctor::{Facts, Report, report::Notes},
    maps::Probe,
};

pub(super) fn judge(facts: &Facts, report: &mut Report) {
    let mut notes = Notes::of("bpf", report);
    if facts.kernel.privilege.is_err() {
        notes.warning(
            "features",
            "cannot be probed without privilege",
            "run as root: sudo warmpath doctor",
        );
        return;
    }
    let bpf = &facts.bpf;
    probes(
        &mut notes,
        "program type",
        &[("xdp".to_owned(), bpf.xdp.clone())],
        "use a kernel with CONFIG_BPF_SYSCALL=y and CONFIG_NET=y, as distributions build it",
    );
    probes(
        &mut notes,
        "map types",
        &bpf.map_types,
        "use Linux 6.1 or later with CONFIG_BPF_SYSCALL=y and CONFIG_XDP_SOCKETS=y",
    );
    probes(
        &mut notes,
        "helpers",
        &bpf.helpers,
        "use Linux 6.1 or later (bpf_loop is of 5.17, bpf_fib_lookup needs CONFIG_INET=y)",
    );
    for (program, loaded) in &bpf.programs {
        match loaded {
            Ok(loaded) => notes.ok(
                "verifier",
                format!(
                    "takes `{program}`: {} instructions walked",
                    loaded.verified
                ),
            ),
            Err(problem) => notes.failure(
                "verifier",
                format!("refuses `{program}`: {problem}"),
                "use Linux 6.1 or later; if it is, report this line (`cargo xtask kernels` has the whole log)",
            ),
        }
    }
}

fn probes(
    notes: &mut Notes<'_>,
    check: &'static str,
    probes: &[(String, Probe)],
    mend: &'static str,
) {
    let names = |keep: &dyn Fn(&Probe) -> bool| -> Vec<&str> {
        probes
            .iter()
            .filter(|(_, probe)| keep(probe))
            .map(|(name, _)| name.as_str())
            .collect()
    };
    let missing = names(&|probe| *probe == Ok(false));
    let unknown = names(&|probe| probe.is_err());
    if !missing.is_empty() {
        notes.failure(check, format!("missing: {}", missing.join(", ")), mend);
    } else if !unknown.is_empty() {
        notes.warning(check, format!("not known: {}", unknown.join(", ")), mend);
    } else {
        notes.ok(check, names(&|_| true).join(", "));
    }
}
