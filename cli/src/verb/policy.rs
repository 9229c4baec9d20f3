//! `warmpath map show|set|unset|diff|apply|log|rollback`, `vip`, `police`, `worker weight`: the policy in force, changed as a whole.
//!
//! Each change is a whole policy: what is in force, edited, checked by the control plane, and applied as the next revision.

use std::{net::IpAddr, path::Path};

use anyhow::{Context, Result, bail};
use balancer_userspace::{
    api::types::{PolicyChange, PolicyStatus, VipStatus},
    client::AdminClient,
    config::{PoliceConfig, PolicyFile, VipConfig, WorkerPolicy},
    maps,
};
use serde::Deserialize;

use crate::{
    args::{
        AdminArgs, ChangeArgs, ChangeVerb, OutputArgs, PinArgs, PolicyArgs, VipAddArgs, VipVerb,
    },
    output::{self, Exit, Table},
};

pub(super) fn client(admin: &AdminArgs) -> Result<AdminClient> {
    Ok(AdminClient::new(&admin.admin)?)
}

pub(super) async fn show(args: &PolicyArgs) -> Result<Exit> {
    let status = client(&args.admin)?.policy().await?;
    if args.output.json {
        output::json(&status)?;
    } else {
        output::line(format_args!("# revision {}", status.revision))?;
        output::line(toml::to_string(&status.policy)?)?;
    }
    Ok(Exit::Ok)
}

/// What of the policy a verb is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// All of it.
    Whole,
    /// Who may send how much.
    Police,
}

impl Part {
    /// The key of the whole policy that `key` of this part is.
    fn key(self, key: String) -> String {
        match self {
            Self::Whole => key,
            Self::Police => format!("police.{key}"),
        }
    }

    async fn apply(self, file: &Path, args: &ChangeArgs) -> Result<Exit> {
        match self {
            Self::Whole => apply(file, args).await,
            Self::Police => police_apply(file, args).await,
        }
    }
}

pub(super) async fn change(verb: ChangeVerb, part: Part) -> Result<Exit> {
    match verb {
        ChangeVerb::Set { key, value, args } => set(&part.key(key), Some(&value), &args).await,
        ChangeVerb::Unset { key, args } => set(&part.key(key), None, &args).await,
        ChangeVerb::Diff { file, args } => part.apply(&file, &dry(args)).await,
        ChangeVerb::Apply { file, args } => part.apply(&file, &args).await,
        ChangeVerb::Rollback { revision, args } => rollback(revision, &args).await,
    }
}

/// Puts the policy of `file` in force, or says what that would change.
async fn apply(file: &Path, args: &ChangeArgs) -> Result<Exit> {
    let text = read(file)?;
    let change = client(&args.admin)?
        .change_policy(&text, args.dry_run)
        .await?;
    report(&change, &args.output)
}

async fn rollback(revision: Option<u64>, args: &ChangeArgs) -> Result<Exit> {
    let change = client(&args.admin)?
        .rollback_policy(revision, args.dry_run)
        .await?;
    report(&change, &args.output)
}

/// What `file` would change.
fn dry(args: PolicyArgs) -> ChangeArgs {
    ChangeArgs {
        dry_run: true,
        admin: args.admin,
        output: args.output,
    }
}

pub(super) async fn log(args: &PolicyArgs) -> Result<Exit> {
    let revisions = client(&args.admin)?.policy_log().await?;
    if args.output.json {
        output::json(&revisions)?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new(&["revision", "applied_unix_s"]);
    for revision in revisions {
        table.row(vec![
            revision.revision.to_string(),
            revision.applied_unix_s.to_string(),
        ]);
    }
    table.print()?;
    Ok(Exit::Ok)
}

/// Sets one key of the policy in force, such as `police.shed_percent`, or takes it out.
async fn set(key: &str, value: Option<&str>, args: &ChangeArgs) -> Result<Exit> {
    let client = client(&args.admin)?;
    let mut policy = toml::Table::try_from(client.policy().await?.policy)?;
    let (path, last) = key.rsplit_once('.').unwrap_or(("", key));
    let place = table(&mut policy, path)
        .with_context(|| format!("`{key}` is in a list: use `warmpath map apply FILE`"))?;
    if let Some(value) = value {
        let mut value: toml::Table = toml::from_str(&format!("value = {value}"))
            .with_context(|| format!("`{value}` is not a TOML value; strings need quotes"))?;
        let value = value.remove("value").context("a value is needed")?;
        place.insert(last.to_owned(), value);
    } else if place.remove(last).is_none() {
        bail!("`{key}` is not set");
    }
    let text = toml::to_string(&policy)?;
    let change = client.change_policy(&text, args.dry_run).await?;
    report(&change, &args.output)
}

/// The table at `path`, which is made where there is none; nothing if there is something else.
fn table<'t>(policy: &'t mut toml::Table, path: &str) -> Option<&'t mut toml::Table> {
    let mut place = policy;
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let empty = || toml::Value::Table(toml::Table::new());
        place = place.entry(part).or_insert_with(empty).as_table_mut()?;
    }
    Some(place)
}

/// The policy in force, edited and applied.
async fn edit(args: &ChangeArgs, edit: impl FnOnce(&mut PolicyFile) -> Result<()>) -> Result<Exit> {
    let client = client(&args.admin)?;
    let PolicyStatus { mut policy, .. } = client.policy().await?;
    edit(&mut policy)?;
    let change = client
        .change_policy(&toml::to_string(&policy)?, args.dry_run)
        .await?;
    report(&change, &args.output)
}

pub(super) async fn vip(verb: &VipVerb) -> Result<Exit> {
    match verb {
        VipVerb::List { args } => vips(args, None).await,
        VipVerb::Show { vip, args } => vips(args, Some(vip)).await,
        VipVerb::Add { vip, args } => {
            let new = vip_of(vip)?;
            edit(args, |policy| {
                policy.vips.push(new);
                Ok(())
            })
            .await
        }
        VipVerb::Rm { vip, args } => {
            edit(args, |policy| {
                let before = policy.vips.len();
                policy.vips.retain(|known| known.label() != *vip);
                if policy.vips.len() == before {
                    let labels: Vec<String> = policy.vips.iter().map(VipConfig::label).collect();
                    bail!("there is no VIP {vip}; there are {}", labels.join(", "));
                }
                Ok(())
            })
            .await
        }
    }
}

async fn vips(args: &PolicyArgs, asked: Option<&str>) -> Result<Exit> {
    let mut vips = client(&args.admin)?.vips().await?;
    if let Some(asked) = asked {
        vips.retain(|vip| vip.address.to_string() == *asked || label(vip) == *asked);
        if vips.is_empty() {
            bail!("there is no VIP {asked}; `warmpath vip list` shows all");
        }
    }
    if args.output.json {
        output::json(&vips)?;
    } else {
        let headings = [
            "vip_id", "address", "port", "protocol", "kind", "forward", "pool",
        ];
        let mut table = Table::new(&headings);
        for vip in &vips {
            table.row(vec![
                vip.vip_id.to_string(),
                vip.address.to_string(),
                if vip.port == 0 {
                    "any".to_owned()
                } else {
                    vip.port.to_string()
                },
                vip.protocol.clone(),
                vip.kind.clone(),
                vip.forward.clone(),
                vip.pool.clone().unwrap_or_else(|| "-".to_owned()),
            ]);
        }
        table.print()?;
    }
    Ok(Exit::Ok)
}

/// As [`VipConfig::label`].
fn label(vip: &VipStatus) -> String {
    let port = match vip.port {
        0 => "any".to_owned(),
        port => port.to_string(),
    };
    match vip.address {
        IpAddr::V4(address) => format!("{address}:{port}/{}", vip.protocol),
        IpAddr::V6(address) => format!("[{address}]:{port}/{}", vip.protocol),
    }
}

/// The VIP as its TOML, so that every word is read by the same code as a file's.
fn vip_of(args: &VipAddArgs) -> Result<VipConfig> {
    let mut vip = toml::Table::new();
    vip.insert("address".into(), args.address.to_string().into());
    let port = args.port.parse::<i64>();
    vip.insert(
        "port".into(),
        port.map_or_else(|_word| args.port.clone().into(), Into::into),
    );
    for (key, value) in [
        ("protocol", &args.protocol),
        ("kind", &args.kind),
        ("forward", &args.forward),
        ("pool", &args.pool),
    ] {
        if let Some(value) = value {
            vip.insert(key.into(), value.clone().into());
        }
    }
    if let Some(config) = args.quic_config {
        vip.insert("quic_config".into(), i64::from(config).into());
    }
    vip.try_into().context("that is not a VIP")
}

pub(super) async fn weight(
    name: &str,
    weight: u16,
    cap: Option<u32>,
    args: &ChangeArgs,
) -> Result<Exit> {
    edit(args, |policy| {
        let before = policy.worker(name);
        policy.workers.retain(|worker| worker.name != name);
        policy.workers.push(WorkerPolicy {
            name: name.to_owned(),
            weight,
            cap: cap.or(before.cap),
        });
        Ok(())
    })
    .await
}

/// A file with `[police]` in it and nothing else.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PoliceFile {
    police: PoliceConfig,
}

async fn police_apply(file: &Path, args: &ChangeArgs) -> Result<Exit> {
    let file: PoliceFile =
        toml::from_str(&read(file)?).context("a file with [police] is needed")?;
    let client = client(&args.admin)?;
    let mut policy = client.policy().await?.policy;
    policy.police = file.police;
    let change = client
        .change_policy(&toml::to_string(&policy)?, args.dry_run)
        .await?;
    report(&change, &args.output)
}

/// What is policed, how often each block was hit, and what was counted.
pub(super) async fn police_show(args: &PolicyArgs, pins: &PinArgs) -> Result<Exit> {
    let police = client(&args.admin)?.policy().await?.policy.police;
    let blocks = maps::blocks(&pins.pin_path)?;
    let counters = maps::counters(&pins.pin_path)?;
    let words = ["block", "rate", "retry", "overload", "token"];
    let ours = |label: &str| words.iter().any(|word| label.contains(word));
    let counters: Vec<_> = counters
        .into_iter()
        .filter(|counter| ours(&counter.label))
        .collect();
    if args.output.json {
        output::json(&serde_json::json!({
            "police": police,
            "blocks": blocks,
            "counters": counters,
        }))?;
        return Ok(Exit::Ok);
    }
    output::line(toml::to_string(&police)?)?;
    let mut table = Table::new(&["blocked", "hits"]);
    for block in blocks {
        table.row(vec![block.prefix, block.hits.to_string()]);
    }
    table.print()?;
    let mut table = Table::new(&["class", "counter", "packets"]);
    for counter in counters {
        table.row(vec![
            counter.class,
            counter.label,
            counter.value.to_string(),
        ]);
    }
    table.print()?;
    Ok(Exit::Ok)
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

fn report(change: &PolicyChange, output: &OutputArgs) -> Result<Exit> {
    if output.json {
        output::json(change)?;
        return Ok(Exit::Ok);
    }
    for row in &change.rows {
        if let Some(before) = &row.before {
            output::line(format_args!("- {} {before}", row.map))?;
        }
        if let Some(after) = &row.after {
            output::line(format_args!("+ {} {after}", row.map))?;
        }
    }
    if change.table_entries > 0 {
        output::line(format_args!(
            "  {} entries of SLOTS and HOME",
            change.table_entries
        ))?;
    }
    if change.is_applied {
        output::line(format_args!("revision {} is in force", change.revision))?;
    }
    Ok(Exit::Ok)
}
