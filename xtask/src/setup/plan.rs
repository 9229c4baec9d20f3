//! From facts to steps. Pure, so that every kind of machine can be tested on this one.

use std::collections::BTreeSet;

use super::facts::{Distribution, Facts};
use crate::toolchain::{Candidates, EbpfToolchain};

/// The bpf-linker that is known to work, and the LLVMs it can be built with.
pub(crate) const BPF_LINKER: &str = "0.13.0";
const LLVM_OLDEST: u32 = 21;
const LLVM_NEWEST: u32 = 23;
/// LLVM of the compiler that Debian 12 and today's nightly ship: assumed before one is installed.
const LLVM_USUAL: u32 = 22;

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// `apt-get install` of these packages (after an `apt-get update`).
    Packages(Vec<String>),
    /// `rustup toolchain install nightly --component rust-src`.
    Nightly,
    /// `cargo install bpf-linker`, built against this major version of LLVM.
    Linker {
        /// The LLVM of the compiler it shall serve.
        llvm: u32,
    },
}

/// What follows from the facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Nothing to do.
    Ready(EbpfToolchain),
    /// These steps, in this order; then look again.
    Install(Vec<Step>),
    /// We cannot do it here: what is missing, and how to get it.
    Tell(Vec<String>),
}

/// Decides what to do.
pub(crate) fn plan(facts: &Facts) -> Plan {
    let chosen = facts.candidates.choose();
    if let (Some(toolchain), true) = (&chosen, facts.missing_tools.is_empty()) {
        return Plan::Ready(toolchain.clone());
    }
    let may_install = facts.is_root && facts.distribution != Distribution::Other;
    if !may_install {
        return Plan::Tell(tell(facts, chosen.is_none()));
    }
    let mut packages: BTreeSet<String> = facts
        .missing_tools
        .iter()
        .map(|tool| tool.package.to_owned())
        .collect();
    let mut after = Vec::new();
    if chosen.is_none() {
        match toolchain_steps(facts) {
            Ok((more, steps)) => {
                packages.extend(
                    more.into_iter()
                        .filter(|name| !facts.packages.contains(name)),
                );
                after = steps;
            }
            Err(lines) => return Plan::Tell(lines),
        }
    }
    let mut steps = Vec::new();
    if !packages.is_empty() {
        steps.push(Step::Packages(packages.into_iter().collect()));
    }
    steps.extend(after);
    Plan::Install(steps)
}

/// Packages and further steps for a tool chain, or why there is no way.
fn toolchain_steps(facts: &Facts) -> Result<(Vec<String>, Vec<Step>), Vec<String>> {
    let Candidates {
        nightly, debian, ..
    } = &facts.candidates;
    let nightly_ready = nightly.is_some_and(|it| it.has_core);
    let mut packages = Vec::new();
    let mut steps = Vec::new();
    let llvm = if nightly_ready {
        nightly.map_or(LLVM_USUAL, |it| it.llvm)
    } else if facts.distribution == Distribution::Debian {
        packages.extend(["rustc-web", "libstd-rust-web-dev-bpf"].map(str::to_owned));
        debian.map_or(LLVM_USUAL, |it| it.llvm)
    } else if facts.has_rustup {
        steps.push(Step::Nightly);
        nightly.map_or(LLVM_USUAL, |it| it.llvm)
    } else {
        return Err(tell(facts, true));
    };
    if !(LLVM_OLDEST..=LLVM_NEWEST).contains(&llvm) {
        return Err(vec![format!(
            "the compiler uses LLVM {llvm}, but bpf-linker {BPF_LINKER} knows LLVM {LLVM_OLDEST} to \
             {LLVM_NEWEST} only: use a nightly with one of these"
        )]);
    }
    let linker = facts.candidates.linker.as_ref();
    if linker.is_none_or(|it| it.llvm.is_some_and(|have| have < llvm)) {
        packages.extend(linker_packages(llvm));
        steps.push(Step::Linker { llvm });
    }
    Ok((packages, steps))
}

fn linker_packages(llvm: u32) -> Vec<String> {
    vec![
        format!("llvm-{llvm}-dev"),
        format!("libpolly-{llvm}-dev"),
        "zlib1g-dev".to_owned(),
        "libzstd-dev".to_owned(),
        "g++".to_owned(),
    ]
}

/// What is missing, for somebody who must get it by hand.
fn tell(facts: &Facts, without_toolchain: bool) -> Vec<String> {
    let mut lines: Vec<String> = facts
        .missing_tools
        .iter()
        .map(|tool| format!("`{}` (Debian: package {})", tool.program, tool.package))
        .collect();
    if without_toolchain {
        let Candidates {
            nightly,
            debian,
            linker,
        } = &facts.candidates;
        let compiler = [nightly, debian]
            .into_iter()
            .flatten()
            .find(|it| it.has_core);
        if compiler.is_none() {
            lines.push(
                "a Rust compiler for BPF: `rustup toolchain install nightly --component rust-src` \
                 (or, on Debian 12, packages rustc-web and libstd-rust-web-dev-bpf)"
                    .to_owned(),
            );
        }
        let llvm = compiler.map_or(LLVM_USUAL, |it| it.llvm);
        let have = match linker.as_ref().and_then(|it| it.llvm) {
            Some(old) => format!(" (the one here has LLVM {old})"),
            None => String::new(),
        };
        lines.push(format!(
            "bpf-linker with LLVM {llvm} or newer{have}: install LLVM {llvm} with its headers (Debian: {}), then \
             `{}`",
            linker_packages(llvm).join(" "),
            linker_command_line(llvm),
        ));
    }
    if !facts.is_root && facts.distribution != Distribution::Other {
        lines.push("as root, `cargo xtask setup` installs all of this itself".to_owned());
    }
    lines
}

/// The recipe for bpf-linker, as a shell line.
pub(crate) fn linker_command_line(llvm: u32) -> String {
    format!(
        "LLVM_PREFIX=/usr/lib/llvm-{llvm} PATH=/usr/lib/llvm-{llvm}/bin:$PATH cargo install bpf-linker \
         --version {BPF_LINKER} --no-default-features --features llvm-{llvm} --force"
    )
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::{
        setup::facts::TOOLS,
        toolchain::{Compiler, Linker},
    };

    fn bare(distribution: Distribution) -> Facts {
        Facts {
            distribution,
            is_root: true,
            has_rustup: true,
            candidates: Candidates::default(),
            packages: BTreeSet::new(),
            missing_tools: TOOLS.to_vec(),
        }
    }

    fn ready() -> Facts {
        let mut facts = bare(Distribution::Debian);
        facts.candidates.debian = Some(Compiler {
            llvm: 22,
            has_core: true,
        });
        facts.candidates.linker = linker(22);
        facts.missing_tools.clear();
        facts
    }

    fn linker(llvm: u32) -> Option<Linker> {
        Some(Linker {
            path: PathBuf::from("/root/.cargo/bin/bpf-linker"),
            llvm: Some(llvm),
        })
    }

    fn packages(plan: &Plan) -> Vec<&str> {
        let Plan::Install(steps) = plan else {
            panic!("expected steps, not {plan:?}");
        };
        let Some(Step::Packages(names)) = steps.first() else {
            panic!("expected packages first, not {steps:?}");
        };
        names.iter().map(String::as_str).collect()
    }

    #[test]
    fn a_fresh_debian_gets_its_own_compiler_the_linker_and_the_tools() {
        let plan = plan(&bare(Distribution::Debian));
        let names = packages(&plan);
        for name in [
            "rustc-web",
            "libstd-rust-web-dev-bpf",
            "llvm-22-dev",
            "iproute2",
            "curl",
        ] {
            assert!(names.contains(&name), "{name} in {names:?}");
        }
        let Plan::Install(steps) = &plan else {
            unreachable!("checked by packages()")
        };
        assert_eq!(steps.last(), Some(&Step::Linker { llvm: 22 }));
    }

    #[test]
    fn a_fresh_ubuntu_gets_a_nightly_and_no_debian_compiler() {
        let plan = plan(&bare(Distribution::Ubuntu));
        assert!(!packages(&plan).contains(&"rustc-web"));
        let Plan::Install(steps) = &plan else {
            unreachable!("checked by packages()")
        };
        assert_eq!(steps[1..], [Step::Nightly, Step::Linker { llvm: 22 }]);
    }

    #[test]
    fn a_machine_that_has_everything_needs_nothing_even_without_root() {
        let mut facts = ready();
        facts.is_root = false;
        assert!(matches!(
            plan(&facts),
            Plan::Ready(EbpfToolchain::Debian { .. })
        ));
    }

    #[test]
    fn one_missing_tool_is_one_package_and_leaves_the_tool_chain_alone() {
        let mut facts = ready();
        let ethtool = TOOLS.iter().find(|tool| tool.program == "ethtool");
        facts.missing_tools = ethtool.copied().into_iter().collect();
        assert_eq!(
            plan(&facts),
            Plan::Install(vec![Step::Packages(vec!["ethtool".to_owned()])])
        );
    }

    #[test]
    fn installed_packages_are_not_asked_for_again() {
        let mut facts = ready();
        facts.candidates.linker = None;
        facts.packages = ["rustc-web", "libstd-rust-web-dev-bpf", "llvm-22-dev", "g++"]
            .map(str::to_owned)
            .into();
        assert_eq!(
            packages(&plan(&facts)),
            ["libpolly-22-dev", "libzstd-dev", "zlib1g-dev"]
        );
    }

    #[test]
    fn a_linker_older_than_the_compiler_is_built_anew_against_the_compilers_llvm() {
        let mut facts = ready();
        facts.candidates.debian = Some(Compiler {
            llvm: 23,
            has_core: true,
        });
        let plan = plan(&facts);
        assert!(packages(&plan).contains(&"llvm-23-dev"));
        let Plan::Install(steps) = &plan else {
            unreachable!("checked by packages()")
        };
        assert_eq!(steps.last(), Some(&Step::Linker { llvm: 23 }));
    }

    #[test]
    fn a_compiler_too_new_for_any_linker_is_said_and_not_tried() {
        let mut facts = ready();
        facts.candidates.debian = Some(Compiler {
            llvm: 99,
            has_core: true,
        });
        assert!(matches!(plan(&facts), Plan::Tell(lines) if lines[0].contains("LLVM 99")));
    }

    #[test]
    fn without_root_and_elsewhere_it_only_tells() {
        let mut facts = bare(Distribution::Debian);
        facts.is_root = false;
        let Plan::Tell(lines) = plan(&facts) else {
            panic!("installs without root")
        };
        let text = lines.join("\n");
        for word in ["iproute2", "rust-src", "bpf-linker", "as root"] {
            assert!(text.contains(word), "{word} in {text}");
        }
        assert!(matches!(plan(&bare(Distribution::Other)), Plan::Tell(_)));
    }
}
