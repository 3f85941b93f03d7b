//! Pairs that write to each other beside the large conversation: what they wait for their answers.
//!
//! On a thread of its own: else the answers would wait for the thousands of devices of this process.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use serde_json::json;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::stats::Latency;
use crate::target::Door;
use crate::wire::Wire;

/// All pairs for so long; what they waited.
pub(super) async fn pairs(door: &Door, count: usize, round: u64, lasting: Duration) -> Result<Latency> {
    let (answer, done) = oneshot::channel();
    let door = door.clone();
    std::thread::Builder::new().name("pairs".into()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let latency =
            runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(all(door, count, round, lasting)));
        let _ = answer.send(latency);
    })?;
    done.await.map_err(|_| anyhow!("the pairs' thread ended"))?
}

async fn all(door: Door, count: usize, round: u64, lasting: Duration) -> Result<Latency> {
    let until = Instant::now() + lasting;
    let mut tasks = JoinSet::new();
    for pair in 0..count {
        tasks.spawn(chat(door.clone(), pair, round, until));
    }
    let mut latency = Latency::new();
    while let Some(took) = tasks.join_next().await {
        for took in took.context("a pair failed")?? {
            latency.record(took);
        }
    }
    Ok(latency)
}

/// One message after the other until `until`; what each waited for its answer.
async fn chat(door: Door, pair: usize, round: u64, until: Instant) -> Result<Vec<Duration>> {
    let (from, to) = (format!("pair{pair:03}a"), format!("pair{pair:03}b"));
    let mut wire = Wire::open(door.addr, pair).await?;
    let head = wire.hello(&door.token(&from)?, "phone", None).await?.head_seq;
    let mut took = Vec::new();
    while Instant::now() < until {
        let id = format!("{round}-{}", took.len());
        let request = json!({"type":"send","id":id,"to":to,"client_msg_id":id,"body":{"text":"as others do"}});
        let began = Instant::now();
        wire.ask(&id, request.to_string()).await?;
        took.push(began.elapsed());
        if took.len() % 64 == 0 {
            // Of what was surely sent: an answer may come before its entry.
            let seq = head + u64::try_from(took.len() - 32)?;
            wire.feed(format!(r#"{{"type":"ack","seq":{seq}}}"#)).await?;
        }
    }
    wire.close().await;
    Ok(took)
}
