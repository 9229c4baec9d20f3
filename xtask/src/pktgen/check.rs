//! pktgen against the balancer's program, in a virtual machine with a kernel that has the module: pktgen sends by one
//! end of a veth pair, the program runs in the driver of the other, and its counters must show that a rule
//! routed every packet, IPv4 and IPv6.

use std::{collections::BTreeMap, fs, path::Path, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum as _;

use super::{
    result::{self, DeviceResult},
    script::{Load, Script},
};
use crate::{
    build_ebpf, demo,
    kernels::{self, Kernel, debian, initramfs::Guest, vm},
    setup, shell,
};

/// The interfaces in the virtual machine, and addresses: those of tests/prog/src/bin/pktgen-target.rs.
const SENDER: &str = "wpgen";
const TARGET: &str = "wpbal";
const VIPS: [&str; 2] = ["10.99.0.1", "fd00::63:1"];
const PORT: u16 = 9_000;
const SOURCES: [&str; 2] = ["10.1.0.1", "fd00::1"];
const TARGET_MAC: &str = "02:00:00:00:00:02";

/// What `cargo xtask pktgen check` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this kernel: 6.1 or 6.12.
    #[arg(long, value_name = "KERNEL")]
    kernel: Option<Kernel>,
    /// Packets of each IP version.
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    packets: u64,
    /// Flows of each IP version.
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    flows: u32,
    /// Seconds that one kernel may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout: u64,
}

/// Runs it on each kernel; fails unless every packet was routed on all.
pub(crate) fn run(root: &Path, args: &Args) -> Result<ExitCode> {
    if args.kernel == Some(Kernel::Host) {
        bail!("this machine's own kernel is for `cargo xtask pktgen run`");
    }
    setup::run_for(setup::Mode::Install, setup::Purpose::Kernels)?;
    let object = build_ebpf::build_ebpf(root)?;
    shell::cargo(
        root,
        &[
            "build",
            "--release",
            "--package=prog-tests",
            "--bin=pktgen-target",
        ],
    )?;
    let guest = guest(&demo::binary(root, "pktgen-target"), &object, args)?;
    let mut is_good = true;
    for kernel in Kernel::value_variants() {
        let wanted = args.kernel.is_none_or(|only| only == *kernel);
        if !wanted || *kernel == Kernel::Host {
            continue;
        }
        let seen = run_on(*kernel, root, &guest, args)?;
        let (text, every) = seen.judge(args);
        is_good &= every;
        super::print(&text)?;
    }
    Ok(if is_good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn guest(target: &Path, object: &Path, args: &Args) -> Result<Guest> {
    let mut script = format!(
        // By its path: busybox's shell would take its own `ip`, which makes no veth.
        "/sbin/ip link add {SENDER} type veth peer name {TARGET} address {TARGET_MAC}\n\
         /sbin/ip link set {SENDER} up\n/sbin/ip link set {TARGET} up\n"
    );
    for (ip, source) in VIPS.iter().zip(SOURCES) {
        let load = Load {
            interface: SENDER.to_owned(),
            mac: TARGET_MAC.to_owned(),
            ip: ip.parse().context("the VIP of the check")?,
            port: PORT,
            source: Some(source.parse().context("the source of the check")?),
            flows: args.flows,
            rate: 0,
            size: 128,
            queues: 1,
            count: args.packets,
            burst: 1,
            clone_skb: 0,
        };
        // The target's own output comes after pktgen's, so that lines do not mix.
        script.push_str(&format!(
            "echo 'run {ip}'\n\
             WARMPATH_EBPF_OBJECT=/balancer.o /target {TARGET} {SENDER} {} > /tmp/target 2>&1 & target=$!\n\
             until grep -q ready /tmp/target || ! kill -0 $target; do sleep 0.1; done\n\
             ( {} ) || echo 'pktgen failed'\n\
             wait $target; echo \"target=$?\"\ncat /tmp/target\n",
            args.packets,
            Script::new(&load)?.shell()
        ));
    }
    Ok(Guest {
        programs: vec![
            (target.to_owned(), "/target".into()),
            ("ip".into(), "/sbin/ip".into()),
        ],
        files: vec![(object.to_owned(), "/balancer.o".into())],
        modules: vec!["veth", "pktgen"],
        script,
        ..Guest::default()
    })
}

fn run_on(kernel: Kernel, root: &Path, guest: &Guest, args: &Args) -> Result<Seen> {
    let folder = root.join(kernels::FOLDER).join(kernel.name());
    let debian = debian::obtain(kernel.name(), &folder)?;
    let folder = folder.join("pktgen");
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    shell::say(&format!("pktgen: booting {}", debian.release));
    let mut seen = Seen {
        release: debian.release.clone(),
        ..Seen::default()
    };
    let timeout = Duration::from_secs(args.timeout);
    vm::run(&debian, guest, &folder, timeout, |line| seen.line(line))?;
    Ok(seen)
}

/// What one run said.
#[derive(Debug, Default)]
struct Run {
    vip: String,
    /// The file of pktgen's device, and everything else that was printed.
    text: String,
    counters: BTreeMap<String, u64>,
    target_passed: bool,
}

/// What a machine said.
#[derive(Debug, Default)]
struct Seen {
    release: String,
    runs: Vec<Run>,
}

impl Seen {
    fn line(&mut self, line: &str) {
        if let Some(vip) = line.strip_prefix("run ") {
            self.runs.push(Run {
                vip: vip.to_owned(),
                ..Run::default()
            });
        }
        let Some(run) = self.runs.last_mut() else {
            return;
        };
        if let Some((name, count)) = line
            .strip_prefix("counter ")
            .and_then(|counter| counter.split_once(' '))
        {
            run.counters
                .insert(name.to_owned(), count.parse().unwrap_or_default());
        }
        run.target_passed |= line == "target=0";
        run.text.push_str(line);
        run.text.push('\n');
    }

    /// What each run came to, and whether every packet of every run was routed.
    fn judge(&self, args: &Args) -> (String, bool) {
        let mut text = format!("{}\n", self.release);
        let mut is_good = self.runs.len() == VIPS.len();
        for run in &self.runs {
            match run.judge(args) {
                Ok(result) => text.push_str(&format!(
                    "  {}: ok: {} packets of {} bytes, {} packets/s, {} errors\n",
                    run.vip, result.packets, result.packet_len, result.packets_per_s, result.errors
                )),
                Err(error) => {
                    is_good = false;
                    text.push_str(&format!("  {}: FAILED: {error:#}\n{}", run.vip, run.text));
                }
            }
            for (counter, count) in &run.counters {
                text.push_str(&format!("    {counter:<20} {count:>10}\n"));
            }
        }
        (text, is_good)
    }
}

impl Run {
    fn judge(&self, args: &Args) -> Result<DeviceResult> {
        let result = result::parse(&self.text).context("pktgen gave no result")?;
        ensure!(result.verdict == "OK", "pktgen says {}", result.verdict);
        // What it counts as errors is a driver whose queue was full; it tries these again.
        ensure!(
            result.packets == args.packets,
            "pktgen sent {} packets",
            result.packets
        );
        let routed: u64 = self
            .counters
            .iter()
            .filter(|(name, _)| name.starts_with("Route"))
            .map(|(_, count)| count)
            .sum();
        ensure!(
            self.target_passed && routed == args.packets,
            "{routed} of {} packets were routed",
            args.packets
        );
        for rule in ["RouteSession", "RouteShard", "RouteWarm", "RouteHome"] {
            ensure!(
                self.counters.get(rule).is_some_and(|count| *count > 0),
                "no packet was routed by {rule}"
            );
        }
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARGS: Args = Args {
        kernel: None,
        packets: 100,
        flows: 1,
        timeout: 1,
    };

    fn seen(routed: u64, target: &str) -> Seen {
        let mut seen = Seen::default();
        for vip in VIPS {
            for line in [
                &format!("run {vip}"),
                "Params: count 100",
                "     frags: 0  delay: 0  clone_skb: 0  ifname: wpgen@0",
                "Result: OK: 1000(c900+d100) usec, 100 (128byte,0frags)",
                "  100000pps 102Mb/sec (102400000bps) errors: 0",
                target,
                "counter RouteSession 25",
                "counter RouteShard 25",
                "counter RouteWarm 25",
                &format!("counter RouteHome {routed}"),
                "counter Packets 103",
            ] {
                seen.line(line);
            }
        }
        seen
    }

    #[test]
    fn every_packet_must_have_been_routed_by_a_rule() {
        let (text, is_good) = seen(25, "target=0").judge(&ARGS);
        assert!(is_good, "{text}");
        assert!(
            text.contains("10.99.0.1: ok: 100 packets of 128 bytes, 100000 packets/s, 0 errors")
        );
        assert!(!seen(24, "target=0").judge(&ARGS).1);
        assert!(!seen(25, "target=1").judge(&ARGS).1);
        assert!(!Seen::default().judge(&ARGS).1);
    }

    #[test]
    fn the_guests_script_is_made_of_both_ip_versions() {
        let guest = guest(Path::new("/t"), Path::new("/o"), &ARGS).unwrap();
        for part in ["dst_min 10.99.0.1", "dst6 fd00::63:1", "run fd00::63:1"] {
            assert!(guest.script.contains(part), "{part}");
        }
    }
}
