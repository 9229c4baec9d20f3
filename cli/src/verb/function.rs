//! `warmpath fn deploy|list|show|alias|rm`: what the code store holds.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};
use packages::Requires;
use serde_json::json;
use store::{Digest, FunctionDetail, StoreClient};

use crate::{
    args::{FnVerb, OutputArgs, PackageArgs, StoreArgs},
    bundle,
    output::{self, Exit, Table},
};

pub(super) async fn run(verb: &FnVerb) -> Result<Exit> {
    match verb {
        FnVerb::Deploy {
            dir,
            name,
            packages,
            store,
            output,
        } => {
            deploy(dir, name.as_deref(), packages, store, output).await?;
        }
        FnVerb::List { store, output } => list(store, output).await?,
        FnVerb::Show {
            name,
            store,
            output,
        } => show(name, store, output).await?,
        FnVerb::Alias {
            name,
            alias,
            version,
            store,
            output,
        } => {
            client(store)?.set_alias(name, alias, *version).await?;
            if output.json {
                output::json(&json!({ "name": name, "alias": alias, "version": version }))?;
            } else {
                output::line(format_args!("{name}@{alias} is version {version}"))?;
            }
        }
        FnVerb::Rm {
            name,
            store,
            output,
        } => rm(name, store, output).await?,
        FnVerb::Prewarm(args) => return super::prewarm::run(args).await,
        FnVerb::Triggers(args) => return super::triggers::run(args).await,
        FnVerb::Dead(args) => return super::dead::run(args).await,
        FnVerb::Invoke(args) => return super::invoke::invoke(args).await,
        FnVerb::Cost(args) => return super::cost::cost(args).await,
        FnVerb::Logs(args) => return super::logs::logs(args).await,
        FnVerb::Profile(args) => return super::profile::profile(args).await,
    }
    Ok(Exit::Ok)
}

fn client(store: &StoreArgs) -> Result<StoreClient> {
    Ok(StoreClient::new(&store.store)?)
}

async fn deploy(
    dir: &Path,
    name: Option<&str>,
    packages: &PackageArgs,
    store: &StoreArgs,
    output: &OutputArgs,
) -> Result<()> {
    let client = client(store)?;
    let layers = layers(dir, packages, &client)
        .await
        .with_context(|| format!("deploy {}", dir.display()))?;
    let bundle = bundle::pack(dir, name, layers.as_deref())?;
    let published = client
        .publish(name, bundle.into())
        .await
        .with_context(|| format!("deploy {}", dir.display()))?;
    if output.json {
        return output::json(&published);
    }
    let (name, version, digest) = (&published.name, published.version, &published.digest);
    output::line(format_args!("{name} version {version}, {digest}"))
}

/// The layers of what the function requires; `None` when it requires nothing.
async fn layers(
    dir: &Path,
    args: &PackageArgs,
    store: &StoreClient,
) -> Result<Option<Vec<Digest>>> {
    let Some(requires) = Requires::of(dir) else {
        return Ok(None);
    };
    let options = packages::Options {
        python: args.python.clone(),
        executable: std::env::current_exe()?,
        index_url: args.index_url.clone(),
        index_hosts: args.index_host.clone(),
        timeout: Duration::from_secs(args.resolve_timeout),
        upgrade: args.upgrade,
    };
    let made = packages::resolve(dir, requires, &options, store).await?;
    for layer in &made {
        let state = if layer.shared { "shared" } else { "stored" };
        output::talk(format_args!(
            "layer {} {state}: {}",
            layer.what, layer.digest
        ));
    }
    Ok(Some(made.into_iter().map(|layer| layer.digest).collect()))
}

async fn list(store: &StoreArgs, output: &OutputArgs) -> Result<()> {
    let functions = client(store)?.list().await?;
    if output.json {
        return output::json(&functions);
    }
    let mut table = Table::new(&["function", "latest", "versions", "digest"]);
    for function in functions {
        table.row(vec![
            function.name,
            function.latest.to_string(),
            function.versions.to_string(),
            function.digest.to_string(),
        ]);
    }
    table.print()
}

async fn show(name: &str, store: &StoreArgs, output: &OutputArgs) -> Result<()> {
    let detail = client(store)?.show(name).await?;
    if output.json {
        return output::json(&detail);
    }
    let mut table = Table::new(&[
        "version",
        "aliases",
        "affinity",
        "timeout_ms",
        "memory_mb",
        "bytes",
        "digest",
    ]);
    for version in &detail.versions {
        table.row(vec![
            version.version.to_string(),
            aliases_of(&detail, version.version),
            format!("{:?}", version.manifest.affinity).to_lowercase(),
            version.manifest.timeout_ms.to_string(),
            version.manifest.memory_mb.to_string(),
            version.bundle_bytes.to_string(),
            version.digest.to_string(),
        ]);
    }
    table.print()
}

/// The aliases that name `version`, or `-`.
fn aliases_of(detail: &FunctionDetail, version: u32) -> String {
    let aliases: Vec<&str> = detail
        .aliases
        .iter()
        .filter(|(_, aliased)| **aliased == version)
        .map(|(alias, _)| alias.as_str())
        .collect();
    if aliases.is_empty() {
        "-".into()
    } else {
        aliases.join(",")
    }
}

async fn rm(name: &str, store: &StoreArgs, output: &OutputArgs) -> Result<()> {
    let deleted = client(store)?.delete(name).await?;
    if output.json {
        return output::json(&deleted);
    }
    output::line(format_args!(
        "{name} removed: {} versions, {} bundles",
        deleted.versions, deleted.bundles
    ))
}
