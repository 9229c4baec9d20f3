//! One verb, one file. Each reads its arguments, calls the crate that knows, and prints.

mod balancer;
pub(crate) mod blast;
mod doctor;
mod explain;
mod function;
mod invoke;
mod map;
mod role;
mod status;
mod worker;

use anyhow::{Context, Result};

use crate::{
    args::{Args, BalancerVerb, FnVerb, MapVerb, RouteVerb, Verb, WorkerVerb},
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
            verb: Some(BalancerVerb::Detach { pins }),
            ..
        } => balancer::detach(&pins),
        Verb::Balancer { role, verb: None } => role::balancer(&role).await,
        Verb::Worker {
            verb: Some(WorkerVerb::Drain { name, admin }),
            ..
        } => worker::drain(&name, &admin).await,
        Verb::Worker {
            verb: Some(WorkerVerb::Undrain { name, admin }),
            ..
        } => worker::undrain(&name, &admin).await,
        Verb::Worker { role, verb: None } => role::worker(&role).await,
        Verb::Gateway(role) => role::gateway(&role).await,
        Verb::Store(role) => role::store(&role).await,
        Verb::Db(role) => role::db(&role).await,
        Verb::Fn(FnVerb::Invoke(args)) => invoke::invoke(&args).await,
        Verb::Fn(verb) => function::run(&verb).await,
        Verb::Status {
            admin,
            pins,
            output,
        } => status::status(&admin, &pins, &output).await,
        Verb::Blast(verb) => blast::run(verb).await,
        Verb::Map(MapVerb::Dump { name, pins, output }) => {
            map::dump(name.as_deref(), &pins, &output)
        }
        Verb::Doctor(args) => doctor::doctor(&args),
        Verb::Route(RouteVerb::Explain(args)) => explain::explain(&args),
    }
}
