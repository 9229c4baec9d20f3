//! `warmpath trace`: single packets, live, from the kernel itself, so that it also works while the control plane is down
//! (ids then stand in for names).

use std::{collections::BTreeMap, fs::File, io::BufWriter, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use balancer_userspace::{
    client::AdminClient,
    maps::{self, Orphans},
    trace::{Asked, Capture, Names, Seen, Until, trace as watch},
};
use ebpf_common::ids::{FunctionId, WorkerId};
use serde_json::{Value, json};

use super::role::stop_signal;
use crate::{
    args::{PinArgs, TraceArgs},
    output::{self, Exit},
};

pub(super) async fn trace(args: &TraceArgs) -> Result<Exit> {
    if args.off {
        return off(args);
    }
    let names = names(args).await;
    let asked = asked(args, &names)?;
    let until = Until {
        count: args.count,
        time: args.seconds.map(Duration::try_from_secs_f64).transpose()?,
    };
    let mut capture = match &args.pcap {
        Some(path) => {
            let file = File::create(path).with_context(|| format!("make {}", path.display()))?;
            Some(Capture::new(BufWriter::new(file))?)
        }
        None => None,
    };
    if !args.json {
        output::line(Seen::headings())?;
    }
    let mut stop = stop_signal()?;
    let summary = watch(&args.pins.pin_path, &asked, until, &mut stop, |event| {
        if let Some(capture) = &mut capture {
            capture.write(event)?;
        }
        let seen = Seen::new(event, &names);
        match args.json {
            true => output::line(serde_json::to_string(&seen)?),
            false => output::line(seen),
        }
    })
    .await?;
    if let Some(capture) = &mut capture {
        capture.flush()?;
    }
    output::talk(format_args!(
        "{} packets, {} lost because they came faster than they were read{}",
        summary.events,
        summary.lost,
        if summary.lost > 0 {
            "; use a filter, or --sample N"
        } else {
            ""
        },
    ));
    Ok(Exit::Ok)
}

fn off(args: &TraceArgs) -> Result<Exit> {
    match maps::give_back_orphans(&args.pins.pin_path)? {
        Orphans::Kept => bail!("a `warmpath trace` is running: end that one"),
        Orphans::GivenBack(links) if args.json => {
            output::line(json!({ "links_given_back": links }))?;
        }
        Orphans::GivenBack(links) => output::line(format_args!("{links} links given back"))?,
    }
    Ok(Exit::Ok)
}

/// What the control plane calls things; nothing if it is down.
async fn names(args: &TraceArgs) -> Names {
    let mut names = Names::default();
    let Ok(client) = AdminClient::new(&args.admin.admin) else {
        return names;
    };
    if let Ok(workers) = client.workers().await {
        names.workers = workers.into_iter().map(|w| (w.id, w.name)).collect();
    }
    if let Ok(functions) = client.functions().await {
        let named = functions.into_iter().filter(|f| !f.qualified.is_empty());
        let ids = named.filter_map(|f| Some((id_of(&f.id)?, f.qualified)));
        names.functions = ids.collect::<BTreeMap<_, _>>();
    }
    names
}

fn id_of(digits: &str) -> Option<u64> {
    (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok())?
}

fn asked(args: &TraceArgs, names: &Names) -> Result<Asked> {
    let mut asked = Asked {
        port: args.port,
        sample: args.sample,
        function: args
            .function
            .as_deref()
            .map(|name| id_of(name).map_or_else(|| FunctionId::of(name), FunctionId)),
        worker: args
            .worker
            .as_deref()
            .map(|name| worker(name, names))
            .transpose()?,
        vip_id: args
            .vip
            .as_deref()
            .map(|vip| vip_id(vip, &args.pins))
            .transpose()?,
        ..Asked::default()
    };
    if let Some(prefix) = &args.source {
        asked.set_source(prefix)?;
    }
    for word in &args.outcome {
        asked.add_outcome(word)?;
    }
    Ok(asked)
}

fn worker(name: &str, names: &Names) -> Result<WorkerId> {
    let named = names.workers.iter().find(|(_, known)| *known == name);
    match named {
        Some((id, _)) => Ok(WorkerId(*id)),
        None => name.parse().map(WorkerId).map_err(|_not_an_id| {
            anyhow!("no worker is called `{name}`; `warmpath status` lists them")
        }),
    }
}

fn vip_id(vip: &str, pins: &PinArgs) -> Result<u32> {
    if let Ok(id) = vip.parse() {
        return Ok(id);
    }
    for map in ["VIPS", "VIPS6"] {
        for row in maps::dump(&pins.pin_path, map)?.entries {
            let field = |name: &str| row.get(name).map(text).unwrap_or_default();
            let (address, port) = (field("address"), field("port"));
            if vip == format!("{address}:{port}") || vip == format!("[{address}]:{port}") {
                let id = row.get("vip_id").and_then(Value::as_u64);
                return id
                    .and_then(|id| id.try_into().ok())
                    .context("the VIP has no number");
            }
        }
    }
    bail!("there is no VIP {vip}; `warmpath map dump VIPS` lists them")
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}
