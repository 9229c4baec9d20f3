//! `warmpath fn deploy|list|show|alias|rm`: what the code store holds.

use std::path::Path;

use anyhow::{Context, Result};
use store::{FunctionDetail, StoreClient};

use crate::{
    args::{FnVerb, OutputArgs, StoreArgs},
    bundle,
    output::{self, Exit, Table},
};

pub(super) async fn run(verb: &FnVerb) -> Result<Exit> {
    match verb {
        FnVerb::Deploy {
            dir,
            name,
            store,
            output,
        } => {
            deploy(dir, name.as_deref(), store, output).await?;
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
        } => {
            client(store)?.set_alias(name, alias, *version).await?;
            output::line(format_args!("{name}@{alias} is version {version}"))?;
        }
        FnVerb::Rm { name, store } => rm(name, store).await?,
        FnVerb::Invoke(args) => return super::invoke::invoke(args).await,
    }
    Ok(Exit::Ok)
}

fn client(store: &StoreArgs) -> Result<StoreClient> {
    Ok(StoreClient::new(&store.store)?)
}

async fn deploy(
    dir: &Path,
    name: Option<&str>,
    store: &StoreArgs,
    output: &OutputArgs,
) -> Result<()> {
    let bundle = bundle::pack(dir, name)?;
    let published = client(store)?
        .publish(name, bundle.into())
        .await
        .with_context(|| format!("deploy {}", dir.display()))?;
    if output.json {
        return output::json(&published);
    }
    let (name, version, digest) = (&published.name, published.version, &published.digest);
    output::line(format_args!("{name} version {version}, {digest}"))
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

async fn rm(name: &str, store: &StoreArgs) -> Result<()> {
    let deleted = client(store)?.delete(name).await?;
    output::line(format_args!(
        "{name} removed: {} versions, {} bundles",
        deleted.versions, deleted.bundles
    ))
}
