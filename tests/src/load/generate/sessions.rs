//! Sessions: does each meet its own worker and instance, again and again?

use std::{net::SocketAddr, time::Instant};

use anyhow::{Result, ensure};
use futures_util::stream::{self, StreamExt as _};
use serde_json::Value;
use warmpath_sdk::{Call, Response, session_id};

use super::{BUDGET, Progress, connect, micros, parse, timed};
use crate::load::{Series, SessionsResult, Summary};

/// What a session's first request met.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Met {
    worker: Value,
    instance: Value,
}

pub(super) async fn run(
    progress: &Progress,
    function: &str,
    target: SocketAddr,
    (sessions, rounds, in_flight): (u64, u32, usize),
    fresh: bool,
) -> Result<Summary> {
    let salt: u64 = rand::random();
    let mut client = connect(target)?;
    let mut series = Series::default();
    let mut first: Vec<Option<Met>> = vec![None; usize::try_from(sessions)?];
    let mut result = SessionsResult::default();
    let begin = Instant::now();
    for round in 0..rounds {
        if fresh && round % 2 == 0 {
            series.packets += client.stats().packets_sent;
            client = connect(target)?;
        }
        let mut replies = stream::iter(0..first.len())
            .map(|index| {
                let session = session_id(&format!("{salt:x}-{index}"));
                let call = Call::new(function).session(session).budget(BUDGET);
                let client = &client;
                async move { (index, timed(client, call).await) }
            })
            .buffer_unordered(in_flight);
        while let Some((index, (reply, took))) = replies.next().await {
            series.add(&reply, took);
            progress.step();
            if let Ok(reply) = reply {
                note_session(&mut result, &mut first[index], round, &reply)?;
            }
        }
    }
    series.packets += client.stats().packets_sent;
    series.elapsed_us = micros(begin.elapsed());
    Ok(Summary {
        series: vec![series],
        sessions: Some(result),
        ..Summary::default()
    })
}

fn note_session(
    result: &mut SessionsResult,
    first: &mut Option<Met>,
    round: u32,
    reply: &Response,
) -> Result<()> {
    let reply: Value = parse(reply)?;
    let met = Met {
        worker: reply["worker"].clone(),
        instance: reply["instance"].clone(),
    };
    ensure!(
        !met.instance.is_null(),
        "a session's reply names no instance: {reply}"
    );
    result.requests += 1;
    if first.is_none() {
        result.sessions += 1;
    }
    result.sticky += u64::from(*first.get_or_insert_with(|| met.clone()) == met);
    result.counted += u64::from(reply["count"] == u64::from(round) + 1);
    Ok(())
}
