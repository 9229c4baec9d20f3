//! `warmpath fn logs`: what a function printed, by request.

use anyhow::Result;
use tokio::task::JoinSet;
use worker::{
    api::client::WorkerClient,
    log::{Entry, Stream, Wanted},
};

use crate::{
    args::LogsArgs,
    output::{self, Exit},
};

pub(super) async fn logs(args: &LogsArgs) -> Result<Exit> {
    let wanted = Wanted {
        function: args.name.clone(),
        request: args.request.clone(),
        after: 0,
    };
    let mut workers = JoinSet::new();
    for socket in &args.workers.worker {
        let client = WorkerClient::new(socket)?;
        workers.spawn(show(client, wanted.clone(), args.follow, args.json));
    }
    while let Some(shown) = workers.join_next().await {
        shown??;
    }
    Ok(Exit::Ok)
}

/// Prints what one worker has, and what comes if `follows`.
async fn show(client: WorkerClient, mut wanted: Wanted, follows: bool, json: bool) -> Result<()> {
    let mut waits = false;
    loop {
        let page = client.logs(&wanted, waits).await?;
        let is_last = page.entries.is_empty() && !waits;
        for entry in &page.entries {
            print(entry, json)?;
        }
        wanted.after = page.next;
        if is_last && !follows {
            return Ok(());
        }
        // First all that is there, then what comes.
        waits = waits || is_last;
    }
}

fn print(entry: &Entry, json: bool) -> Result<()> {
    if json {
        return output::line(serde_json::to_string(entry)?);
    }
    let request = entry.request.as_deref().unwrap_or("-");
    let stream = match entry.stream {
        Stream::Stdout => "out",
        Stream::Stderr => "err",
    };
    for text in entry.text.lines() {
        output::line(format_args!("{request} {stream} {}", printable(text)))?;
    }
    if entry.cut_bytes > 0 {
        output::line(format_args!(
            "{request} {stream} [{} bytes more were not kept]",
            entry.cut_bytes
        ))?;
    }
    Ok(())
}

/// Without what a terminal would obey.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() && c != '\t' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

/// Reads a request's id.
pub(crate) fn parse_request(text: &str) -> Result<String> {
    let is_id = text.len() == 16 && text.chars().all(|c| c.is_ascii_hexdigit());
    anyhow::ensure!(is_id, "a request's id has 16 hexadecimal digits");
    Ok(text.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_function_prints_cannot_command_the_terminal() {
        assert_eq!(printable("a\tb\u{1b}[2Jc"), "a\tb\u{fffd}[2Jc");
    }

    #[test]
    fn an_id_is_16_digits() {
        assert_eq!(
            parse_request("00000000000000FF").unwrap(),
            "00000000000000ff"
        );
        for bad in ["", "ff", "g000000000000000"] {
            assert!(parse_request(bad).is_err(), "{bad}");
        }
    }
}
