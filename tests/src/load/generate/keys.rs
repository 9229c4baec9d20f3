//! Shard keys: each is written by one request and read by another.

use std::{net::SocketAddr, time::Instant};

use anyhow::Result;
use futures_util::stream::{self, StreamExt as _};
use serde_json::json;
use warmpath_sdk::Call;

use super::{BUDGET, Progress, connect, micros, parse, timed};
use crate::load::{KeyResult, Series, Summary};

pub(super) async fn run(
    progress: &Progress,
    function: &str,
    target: SocketAddr,
    (keys, in_flight): (u64, usize),
) -> Result<Summary> {
    let client = connect(target)?;
    let mut series = Series::default();
    let begin = Instant::now();
    let mut all: Vec<KeyResult> = (0..keys)
        .map(|index| KeyResult {
            key: format!("user:{index}"),
            written_by: None,
            read_by: None,
            read_back: false,
        })
        .collect();
    // Never 0, which is what a key that was never written counts.
    let base = u64::from(rand::random::<u16>()) + 1;
    for is_write in [true, false] {
        let mut replies = stream::iter(0..all.len())
            .map(|index| {
                let key = format!("user:{index}");
                let value = base + index as u64;
                let event = if is_write {
                    json!({ "key": key, "add": value })
                } else {
                    json!({ "key": key })
                };
                let call = Call::new(function)
                    .shard_key(&key)
                    .payload(event.to_string())
                    .budget(BUDGET);
                let client = &client;
                async move { (index, value, timed(client, call).await) }
            })
            .buffer_unordered(in_flight);
        while let Some((index, value, (reply, took))) = replies.next().await {
            series.add(&reply, took);
            progress.step();
            let Ok(reply) = reply else { continue };
            let reply = parse(&reply)?;
            let worker = reply["worker"].as_str().map(str::to_owned);
            let key = &mut all[index];
            if is_write {
                key.written_by = worker;
            } else {
                key.read_by = worker;
                key.read_back = reply["value"] == value;
            }
        }
    }
    series.elapsed_us = micros(begin.elapsed());
    series.packets = client.stats().packets_sent;
    Ok(Summary {
        series: vec![series],
        keys: all,
        ..Summary::default()
    })
}
