//! `warmpath worker zygotes`: the tree of zygotes with packages.

use std::path::Path;

use anyhow::Result;
use worker::api::client::WorkerClient;

use crate::{
    args::OutputArgs,
    output::{self, Exit, Table},
};

pub(super) async fn show(socket: &Path, output: &OutputArgs) -> Result<Exit> {
    let zygotes = WorkerClient::new(socket)?.zygotes().await?;
    if output.json {
        output::json(&zygotes)?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new(&[
        "zygote", "from", "tenant", "mb", "forks", "ready", "saved_ms", "imports",
    ]);
    for zygote in zygotes {
        let from = zygote.parent.map(|parent| parent.to_string());
        table.row(vec![
            zygote.id.to_string(),
            from.unwrap_or_else(|| "-".to_owned()),
            zygote.tenant,
            zygote.memory_mb.to_string(),
            zygote.forks.to_string(),
            zygote.ready.to_string(),
            zygote.saved_ms.to_string(),
            zygote.imports.join(","),
        ]);
    }
    table.print()?;
    Ok(Exit::Ok)
}
