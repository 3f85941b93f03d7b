//! Catching up: from `hello` with an old cursor to the frame that says live, for one user and many.
//!
//! The missed messages are one-to-one, from as many peers as there are users, or, with `--group`, of
//! one group they are all in (then every body is needed by all).

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::group;
use crate::stats::{Latency, Report, per_second};
use crate::target::{Door, Target, progress};
use crate::wire::{ANSWER_DEADLINE, Frame, Wire, allow_sockets, hello_text};

/// Requests unanswered at a time while the missed messages are made.
const PIPELINE: usize = 64;
/// Deadline of one catch-up.
const DEADLINE: Duration = Duration::from_secs(120);

/// `catchup`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Users who come back at once, in the second part.
    #[arg(long, default_value_t = 200)]
    pub(crate) users: usize,
    /// Entries each has missed (a sync timeline keeps 1000).
    #[arg(long, default_value_t = 1000)]
    pub(crate) messages: usize,
    /// Size of a message body: bytes.
    #[arg(long, default_value_t = 128)]
    pub(crate) body: usize,
    /// How often a single user catches up, in the first part.
    #[arg(long, default_value_t = 50)]
    pub(crate) rounds: usize,
    /// The missed messages are of one group of all users.
    #[arg(long)]
    pub(crate) group: bool,
    /// Restart the server before catching up, so that nothing is in its memory.
    #[arg(long)]
    pub(crate) cold: bool,
}

/// A device and the cursor it comes back with.
#[derive(Clone)]
pub(crate) struct Behind {
    pub(crate) user: String,
    pub(crate) epoch: String,
    pub(crate) seq: u64,
}

/// One catch-up.
pub(crate) struct Caught {
    /// From `hello` sent to the live frame applied.
    pub(crate) took: Duration,
    pub(crate) entries: u64,
    pub(crate) cursor: u64,
}

/// Says hello and reads until a frame says live, acknowledging as the contract wants.
pub(crate) async fn catch_up(wire: &mut Wire, token: &str, behind: &Behind) -> Result<Caught> {
    let began = Instant::now();
    wire.feed(hello_text(token, "behind", Some((&behind.epoch, behind.seq)))).await?;
    wire.flush().await?;
    let (mut cursor, mut acked, mut entries) = (behind.seq, behind.seq, 0);
    let reading = async {
        loop {
            let text = wire.next().await?;
            let frame = Frame::scan(&text)?;
            match frame.kind {
                "sync" if frame.from_seq == cursor => {
                    entries += u64::try_from(frame.entries.len())?;
                    cursor = frame.to_seq;
                    if frame.live {
                        return Ok(());
                    }
                }
                "sync" => bail!("a frame from {} while the cursor is {cursor}", frame.from_seq),
                "reset" | "error" => bail!("instead of entries: {text}"),
                _ => {}
            }
            if cursor - acked >= 125 {
                acked = cursor;
                wire.feed(format!(r#"{{"type":"ack","seq":{cursor}}}"#)).await?;
                wire.flush().await?;
            }
        }
    };
    timeout(DEADLINE, reading).await.with_context(|| format!("not live within {DEADLINE:?}"))??;
    Ok(Caught { took: began.elapsed(), entries, cursor })
}

/// A user's first hello; what he misses from here on is what he will catch up with.
pub(crate) async fn register(door: &Door, user: String) -> Result<Behind> {
    let mut wire = Wire::open(door.addr, 0).await?;
    let welcome = wire.hello(&door.token(&user)?, "behind", None).await?;
    wire.close().await;
    Ok(Behind { user, epoch: welcome.epoch, seq: welcome.head_seq })
}

/// Sends messages of `body` to a conversation, pipelined; the range are their ids.
pub(crate) async fn send_many(
    door: &Door,
    user: &str,
    conv_id: &str,
    ids: std::ops::Range<usize>,
    body: &str,
) -> Result<()> {
    let mut wire = Wire::open(door.addr, 0).await?;
    let welcome = wire.hello(&door.token(user)?, "sender", None).await?;
    let (mut sent, mut answered, mut acked) = (ids.start, ids.start, welcome.head_seq);
    while answered < ids.end {
        while sent < ids.end && sent - answered < PIPELINE {
            let text = format!(
                r#"{{"type":"send","id":"{sent}","conv_id":"{conv_id}","client_msg_id":"{sent:x}","body":{body}}}"#
            );
            wire.feed(text).await?;
            sent += 1;
        }
        wire.flush().await?;
        let next = timeout(ANSWER_DEADLINE, wire.next()).await;
        let mut text = next.with_context(|| format!("{user} waits for message {answered}"))??;
        loop {
            let frame = Frame::scan(&text)?;
            ensure!(frame.kind != "error", "refused: {text}");
            answered += usize::from(frame.kind == "sent");
            if frame.kind == "sync" && frame.to_seq >= acked + 125 {
                acked = frame.to_seq;
                wire.feed(format!(r#"{{"type":"ack","seq":{acked}}}"#)).await?;
            }
            match wire.ready() {
                Some(ready) => text = ready?,
                None => break,
            }
        }
    }
    wire.close().await;
    Ok(())
}

/// Registers users and lets each of them miss `args.messages` messages.
async fn prepare(args: &Args, target: &Target, body: &Arc<str>) -> Result<Vec<Behind>> {
    let door = target.door();
    let users: Vec<String> = (0..args.users.max(1)).map(|i| format!("behind{i:05}")).collect();
    let mut group = None;
    if args.group {
        let mut members = vec!["writer".to_owned()];
        members.extend(users.iter().cloned());
        group = Some(group::create(&door, &members, "load-catchup").await?);
        // Its `created` is not among what is missed.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let mut behind = Vec::with_capacity(users.len());
    for user in users {
        behind.push(register(&door, user).await?);
    }
    if let Some(conv_id) = group {
        send_many(&door, "writer", &conv_id, 0..args.messages, body).await?;
        return Ok(behind);
    }
    let bar = progress(u64::try_from(behind.len())?, "users missing messages");
    let mut writers = JoinSet::new();
    for (index, user) in behind.iter().map(|b| b.user.clone()).enumerate() {
        if writers.len() >= 32 {
            writers.join_next().await.context("no writer")???;
        }
        let (door, body, count, bar) = (door.clone(), Arc::clone(body), args.messages, bar.clone());
        writers.spawn(async move {
            let writer = format!("writer{index:05}");
            let conv_id = format!("d:{user}:{writer}");
            let sent = send_many(&door, &writer, &conv_id, 0..count, &body).await;
            bar.inc(1);
            sent
        });
    }
    while let Some(writer) = writers.join_next().await {
        writer??;
    }
    bar.finish_and_clear();
    Ok(behind)
}

pub(crate) async fn run(args: &Args, target: &mut Target) -> Result<Report> {
    allow_sockets(args.users * 2)?;
    let mut report = Report::new("catchup");
    report.setting("users", args.users);
    report.setting("messages", args.messages);
    report.setting("body", args.body);
    report.setting("group", args.group);
    report.setting("cold", args.cold);
    let body = crate::load::body_text(args.body);
    let behind = prepare(args, target, &body).await?;
    if args.cold {
        target.server()?.restart().await?;
    }
    // All at once first: a single user's rounds would warm the server's memory for him only.
    together(args, target, &behind, &mut report).await?;
    if args.cold {
        target.server()?.restart().await?;
    }
    alone(args, &target.door(), &behind, &mut report).await?;
    Ok(report)
}

async fn alone(args: &Args, door: &Door, behind: &[Behind], report: &mut Report) -> Result<()> {
    let mut latency = Latency::new();
    let mut entries = 0;
    for user in behind.iter().cycle().take(args.rounds) {
        let mut wire = Wire::open(door.addr, 0).await?;
        let caught = catch_up(&mut wire, &door.token(&user.user)?, user).await?;
        wire.close().await;
        latency.record(caught.took);
        entries += caught.entries;
    }
    report.latency("one_user_live", &latency);
    complete(report, "one user", entries, args.rounds * args.messages)
}

async fn together(args: &Args, target: &Target, behind: &[Behind], report: &mut Report) -> Result<()> {
    let door = target.door();
    let mut ready = Vec::with_capacity(behind.len());
    for (index, user) in behind.iter().enumerate() {
        let token = door.token(&user.user)?;
        ready.push((Wire::open(door.addr, index).await?, token, user.clone()));
    }
    let before = target.usage();
    let began = Instant::now();
    let mut readers = JoinSet::new();
    for (mut wire, token, user) in ready {
        readers.spawn(async move {
            let caught = catch_up(&mut wire, &token, &user).await;
            caught.map(|caught| (caught, wire))
        });
    }
    let (mut latency, mut entries, mut wires) = (Latency::new(), 0, Vec::new());
    while let Some(caught) = readers.join_next().await {
        let (caught, wire) = caught??;
        latency.record(caught.took);
        entries += caught.entries;
        wires.push(wire);
    }
    let took = began.elapsed();
    report.figure("entries_per_second", per_second(entries, took), "entries/s");
    report.latency("many_users_live", &latency);
    if let Some((before, after)) = before.zip(target.usage()) {
        report.usage("server", before, after, entries, "entry");
    }
    for wire in wires {
        wire.close().await;
    }
    complete(report, "many users", entries, behind.len() * args.messages)
}

/// Every missed entry must have come; group entries of the making are extra.
fn complete(report: &mut Report, who: &str, entries: u64, expected: usize) -> Result<()> {
    let expected = u64::try_from(expected)?;
    report.count(&format!("entries_{}", who.replace(' ', "_")), entries);
    if entries < expected {
        report.fail(format!("{who}: {entries} entries of {expected}"));
    }
    Ok(())
}
