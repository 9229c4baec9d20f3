//! `warmpath doctor`: what this machine lacks, and the command that mends it.

use anyhow::Result;
use balancer_userspace::doctor::{Options, Report, Role, Verdict, examine};

use crate::{
    args::{DoctorArgs, DoctorRole},
    output::{self, Exit, Table},
};

pub(super) fn doctor(args: &DoctorArgs) -> Result<Exit> {
    let worker = args.worker_config.as_deref();
    let worker = worker.map(::worker::Config::load).transpose()?;
    let sandbox = worker
        .as_ref()
        .map(|config| config.sandbox.clone())
        .unwrap_or_default();
    let rootfs = sandbox.rootfs.open(&sandbox.rootfs_dir);
    let report = examine(&Options {
        interface: args.interface.clone(),
        config: args.config.clone(),
        pin_path: args.pins.pin_path.clone(),
        role: match args.role {
            DoctorRole::Balancer => Role::Balancer,
            DoctorRole::Worker => Role::Worker,
            DoctorRole::All => Role::All,
        },
        vip_mtu: args.vip_mtu,
        trial: args.trial,
        decap: worker.and_then(|config| config.decap),
        sandbox: ::worker::sandbox::check().map_err(|error| error.to_string()),
        rootfs: rootfs
            .map(|system| system.name)
            .map_err(|error| error.to_string()),
        landlock: ::worker::sandbox::landlock::version(),
    })?;
    if args.output.json {
        output::json(&report)?;
    } else {
        print(&report)?;
    }
    Ok(if report.worst() == Verdict::Failure {
        Exit::Failed
    } else {
        Exit::Ok
    })
}

fn print(report: &Report) -> Result<()> {
    let mut table = Table::new(&["verdict", "subject", "check", "finding"]);
    for check in &report.checks {
        table.row(vec![
            check.verdict.name().to_owned(),
            check.subject.clone(),
            check.check.to_owned(),
            check.finding.clone(),
        ]);
    }
    table.print()?;
    output::line("")?;
    for check in &report.checks {
        if let Some(mend) = &check.mend {
            let name = check.verdict.name();
            output::line(format_args!("{name}: {} {}", check.subject, check.check))?;
            output::line(format_args!("    {mend}"))?;
        }
    }
    output::line(format_args!(
        "{} ok, {} warnings, {} failures",
        report.count(Verdict::Ok),
        report.count(Verdict::Warning),
        report.count(Verdict::Failure),
    ))
}
