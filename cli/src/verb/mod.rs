//! One verb, one file. Each reads its arguments, calls the crate that knows, and prints.

mod balancer;
pub(crate) mod blast;
mod cost;
mod dead;
mod doctor;
mod explain;
mod function;
mod invoke;
mod logs;
mod map;
mod parked;
mod policy;
mod pool;
mod prewarm;
mod profile;
mod role;
pub(crate) mod rootfs;
mod status;
mod streams;
mod top;
mod trace;
mod triggers;
mod worker;
mod zygotes;

use anyhow::{Context, Result};

use self::policy::Part;
pub(crate) use self::{cost::parse_what_if, logs::parse_request};
use crate::{
    args::{Args, BalancerVerb, FnVerb, MapVerb, PoliceVerb, RouteVerb, Verb, WorkerVerb},
    output::Exit,
};

/// Runs the verb to its end.
pub(crate) fn run(args: Args) -> Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the async runtime")?;
    runtime.block_on(dispatch(args.verb))
}

async fn dispatch(verb: Verb) -> Result<Exit> {
    match verb {
        Verb::Balancer {
            verb: Some(BalancerVerb::Detach { pins, output }),
            ..
        } => balancer::detach(&pins, &output),
        Verb::Balancer {
            verb: Some(BalancerVerb::RotateKeys { admin, output }),
            ..
        } => balancer::rotate_keys(&admin, &output).await,
        Verb::Balancer { role, verb: None } => role::balancer(&role).await,
        Verb::Worker {
            verb: Some(WorkerVerb::Drain(args)),
            ..
        } => worker::drain(&args.name, &args.admin, &args.output).await,
        Verb::Worker {
            verb: Some(WorkerVerb::Undrain(args)),
            ..
        } => worker::undrain(&args.name, &args.admin, &args.output).await,
        Verb::Worker {
            verb:
                Some(WorkerVerb::Weight {
                    name,
                    weight,
                    cap,
                    args,
                }),
            ..
        } => policy::weight(&name, weight, cap, &args).await,
        Verb::Worker {
            verb: Some(WorkerVerb::Decap { pin_path, output }),
            ..
        } => worker::decap(&pin_path, &output),
        Verb::Worker {
            verb: Some(WorkerVerb::Pool(args)),
            ..
        } => pool::pool(&args.worker, &args.output).await,
        Verb::Worker {
            verb: Some(WorkerVerb::Parked(args)),
            ..
        } => parked::run(&args.worker, &args.output).await,
        Verb::Worker {
            verb: Some(WorkerVerb::Streams(args)),
            ..
        } => streams::run(&args.worker, &args.output).await,
        Verb::Worker {
            verb: Some(WorkerVerb::Zygotes(args)),
            ..
        } => zygotes::show(&args.worker, &args.output).await,
        Verb::Worker {
            verb: Some(WorkerVerb::Rootfs(verb)),
            ..
        } => rootfs::run(&verb).await,
        Verb::Worker { role, verb: None } => role::worker(&role).await,
        Verb::Gateway(role) => role::gateway(&role).await,
        Verb::Store(role) => role::store(&role).await,
        Verb::Db(role) => role::db(&role).await,
        Verb::Fn(FnVerb::Invoke(args)) => invoke::invoke(&args).await,
        Verb::Fn(FnVerb::Cost(args)) => cost::cost(&args).await,
        Verb::Fn(FnVerb::Logs(args)) => logs::logs(&args).await,
        Verb::Fn(FnVerb::Profile(args)) => profile::profile(&args).await,
        Verb::Fn(verb) => function::run(&verb).await,
        Verb::Status {
            top: Some(rows),
            seconds,
            admin,
            pins,
            output,
        } => top::top(rows, seconds, &admin, &pins, &output).await,
        Verb::Status {
            admin,
            pins,
            output,
            ..
        } => status::status(&admin, &pins, &output).await,
        Verb::Blast(verb) => blast::run(verb).await,
        Verb::Map(MapVerb::Dump { name, pins, output }) => {
            map::dump(name.as_deref(), &pins, &output)
        }
        Verb::Doctor(args) => doctor::doctor(&args),
        Verb::Map(MapVerb::Show { args }) => policy::show(&args).await,
        Verb::Map(MapVerb::Change(verb)) => policy::change(verb, Part::Whole).await,
        Verb::Map(MapVerb::Log { args }) => policy::log(&args).await,
        Verb::Vip(verb) => policy::vip(&verb).await,
        Verb::Police(PoliceVerb::Show { args, pins }) => policy::police_show(&args, &pins).await,
        Verb::Police(PoliceVerb::Change(verb)) => policy::change(verb, Part::Police).await,
        Verb::Route(RouteVerb::Explain(args)) => explain::explain(&args),
        Verb::Trace(args) => trace::trace(&args).await,
    }
}
