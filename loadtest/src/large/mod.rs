//! One large conversation, most of whose members are away: what it costs, who has what, and what it does
//! to everybody else.
//!
//! Members are set up through the server's API. Quiet and busy rounds alternate, in all of which some
//! pairs write to each other one message at a time; in the busy ones the large conversation is written to
//! as well. Every device that is on line must get each of its messages once and in order, and devices that
//! were away must find exactly those when they come back.

mod device;
mod pairs;
mod town;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::stats::{Latency, Report, per};
use crate::target::{Door, Target, progress};
use crate::wire::{Wire, allow_sockets};
use device::{Board, Device, Kept, message_id};
use town::{COUNTED, member};

/// Handshakes under way at once.
const AT_ONCE: usize = 32;
/// All that was sent must be with everybody so long after the last answer.
const PATIENCE: Duration = Duration::from_secs(120);
/// Of what is not measured, so that the pairs' conversations exist.
const WARM_UP: Duration = Duration::from_secs(1);

/// `large`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Members of the conversation.
    #[arg(long, default_value_t = 100_000)]
    members: usize,
    /// How many of them are on line, with a device each.
    #[arg(long, default_value_t = 2000)]
    online: usize,
    /// How many others are looked at that are away meanwhile.
    #[arg(long, default_value_t = 300)]
    away: usize,
    /// Messages to the conversation, all rounds together.
    #[arg(long, default_value_t = 1000)]
    messages: u64,
    /// Messages a second to the conversation in a busy round.
    #[arg(long, default_value_t = 20)]
    rate: u64,
    /// Pairs that write to each other in every round.
    #[arg(long, default_value_t = 20)]
    pairs: usize,
    /// Quiet and busy rounds each.
    #[arg(long, default_value_t = 5)]
    rounds: u64,
}

impl Args {
    /// Flags of the server under test.
    pub(crate) fn server_flags(&self) -> Vec<String> {
        vec![format!("--api-key={}", town::API_KEY)]
    }
}

pub(crate) async fn run(args: &Args, target: &mut Target) -> Result<Report> {
    ensure!(args.online >= 1 && args.online + args.away <= args.members && args.rounds >= 1, "too few --members");
    allow_sockets(args.online + args.pairs + 100)?;
    let mut report = Report::new("large");
    report.setting("members", args.members);
    report.setting("online", args.online);
    report.setting("messages", args.messages);
    report.setting("rate", args.rate);
    report.setting("pairs", args.pairs);
    let door = target.door();
    memory(target, &mut report, "before");
    let conv_id = town::found(&door, args.members, target, &mut report).await?;
    memory(target, &mut report, "with_the_members");

    let mut away = Vec::new();
    for number in (args.members - args.away)..args.members {
        let (device, kept) = Device::enter(&door, 0, &member(number), &conv_id).await?;
        device.close().await;
        away.push(kept);
    }
    let board = Arc::new(Board::new(args.messages));
    let mut online = on_line(args, &door, &conv_id, &board).await?;
    memory(target, &mut report, "with_the_devices");

    let due = rounds(args, &door, target, &conv_id, &board, &mut report).await?;
    everybody_has_everything(args, &mut online, &board, &due, &mut report).await?;
    memory(target, &mut report, "after_the_messages");
    let mut wire = Wire::open(door.addr, 0).await?;
    wire.hello(&door.token(&member(0))?, "desk", None).await?;
    let number = |number| message_id(args.messages + number);
    let head = town::count(target, &mut wire, &conv_id, "with_devices", &mut report, number).await?;
    wire.close().await;
    come_back(&door, &away, &conv_id, (head, args.messages + COUNTED), &mut report).await;
    still_there(&mut online, &mut report)?;
    online.shutdown().await;
    if target.is_own() && target.cluster().is_none() {
        let took = target.server()?.restart().await?;
        report.figure("restart_after_kill", took.as_secs_f64() * 1000.0, "ms");
        let mut wire = Wire::open(door.addr, 0).await?;
        wire.hello(&door.token(&member(0))?, "desk", None).await?;
        town::send(&mut wire, &conv_id, "after-the-restart").await?;
        wire.close().await;
        memory(target, &mut report, "after_a_restart_and_a_message");
    }
    Ok(report)
}

/// The server's anonymous memory now.
fn memory(target: &Target, report: &mut Report, when: &str) {
    if let Some(usage) = target.usage() {
        report.figure(&format!("server_memory_{when}"), per(usage.anonymous, 1 << 20), "MiB");
    }
}

/// Connects all that are on line; each follows by itself.
async fn on_line(args: &Args, door: &Door, conv_id: &str, board: &Arc<Board>) -> Result<JoinSet<Result<()>>> {
    let bar = progress(u64::try_from(args.online)?, "connecting");
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    let (mut tasks, ready) = (JoinSet::new(), watch::Sender::new(0_usize));
    for index in 0..args.online {
        let (door, conv_id, board) = (door.clone(), conv_id.to_owned(), Arc::clone(board));
        let (slots, ready) = (Arc::clone(&slots), ready.clone());
        tasks.spawn(async move {
            let slot = slots.acquire_owned().await;
            let user = member(index);
            let entered = Device::enter(&door, index, &user, &conv_id).await;
            drop(slot);
            let (device, _) = entered.with_context(|| user.clone())?;
            ready.send_modify(|ready| *ready += 1);
            device.follow(&board).await.with_context(|| user)
        });
    }
    let mut watched = ready.subscribe();
    loop {
        let count = *watched.borrow_and_update();
        bar.set_position(u64::try_from(count)?);
        if count == args.online {
            bar.finish_and_clear();
            return Ok(tasks);
        }
        tokio::select! {
            changed = watched.changed() => changed?,
            Some(ended) = tasks.join_next() => ended.context("a device failed")??,
        }
    }
}

/// Quiet and busy rounds by turns; when each message was due.
async fn rounds(
    args: &Args,
    door: &Door,
    target: &Target,
    conv_id: &str,
    board: &Board,
    report: &mut Report,
) -> Result<Vec<u64>> {
    let mut wire = Wire::open(door.addr, 0).await?;
    wire.hello(&door.token(&member(0))?, "desk", None).await?;
    let lasting = Duration::from_secs((args.messages / args.rounds / args.rate.max(1)).max(1));
    let (mut quiet, mut busy, mut due) = (Vec::new(), Vec::new(), Vec::new());
    pairs::pairs(door, args.pairs, 0, WARM_UP).await?;
    let mut cpu = (0.0, 0.0);
    for round in 0..args.rounds {
        let start = target.usage();
        quiet.push(pairs::pairs(door, args.pairs, 1 + round * 2, lasting).await?);
        let middle = target.usage();
        let bound = |round: u64| args.messages * round / args.rounds;
        let span = (bound(round), bound(round + 1));
        let (written, latency) = tokio::join!(
            town::write(&mut wire, conv_id, args.rate, span, board),
            pairs::pairs(door, args.pairs, 2 + round * 2, lasting)
        );
        due.extend(written?);
        busy.push(latency?);
        if let (Some(start), Some(middle), Some(end)) = (start, middle, target.usage()) {
            cpu.0 += per(middle.cpu_us - start.cpu_us, 1_000_000);
            cpu.1 += per(end.cpu_us - middle.cpu_us, 1_000_000);
        }
    }
    wire.close().await;
    let seconds = per(lasting.as_secs() * args.rounds, 1);
    report.figure("server_cores_quiet", cpu.0 / seconds, "");
    report.figure("server_cores_busy", cpu.1 / seconds, "");
    let (quiet, busy) = (told(report, "quiet", &quiet), told(report, "busy", &busy));
    report.figure("one_to_one_ack_p99_ratio", if quiet > 0.0 { busy / quiet } else { 0.0 }, "times");
    Ok(due)
}

/// What the pairs waited in the rounds of one kind; the median of their 99th percentiles.
fn told(report: &mut Report, kind: &str, rounds: &[Latency]) -> f64 {
    let mut all = Latency::new();
    rounds.iter().for_each(|round| all.add(round));
    report.latency(&format!("one_to_one_ack_{kind}"), &all);
    report.count(&format!("one_to_one_messages_{kind}"), all.len());
    let mut p99: Vec<f64> = rounds.iter().map(|round| round.millis(0.99)).collect();
    p99.sort_by(f64::total_cmp);
    let text: Vec<String> = p99.iter().map(|p99| format!("{p99:.2}")).collect();
    report.note(&format!("1:1 ack p99 of each {kind} round: {} ms", text.join(" ")));
    let median = p99.get(p99.len() / 2).copied().unwrap_or_default();
    report.figure(&format!("one_to_one_ack_p99_{kind}_median"), median, "ms");
    median
}

/// Waits until each device on line has all messages; how long each message was on its way to the last.
async fn everybody_has_everything(
    args: &Args,
    online: &mut JoinSet<Result<()>>,
    board: &Board,
    due: &[u64],
    report: &mut Report,
) -> Result<()> {
    let mut complete = board.complete.subscribe();
    let all = timeout(PATIENCE, complete.wait_for(|complete| *complete == args.online)).await;
    drop(all);
    let complete = *board.complete.borrow();
    report.count("devices_with_everything", u64::try_from(complete)?);
    if complete != args.online {
        report.fail(format!("{complete} of {} devices have everything", args.online));
    }
    still_there(online, report)?;
    let mut until_last = Latency::new();
    for (due, last) in due.iter().zip(&board.last) {
        until_last.record(Duration::from_micros(last.load(Ordering::Relaxed).saturating_sub(*due)));
    }
    report.latency("until_the_last_has_it", &until_last);
    Ok(())
}

/// A device ends only by what must not be.
fn still_there(online: &mut JoinSet<Result<()>>, report: &mut Report) -> Result<()> {
    while let Some(ended) = online.try_join_next() {
        if let Err(error) = ended.context("a device failed")? {
            report.fail(format!("{error:#}"));
        }
    }
    Ok(())
}

/// Those that were away come back, one after the other.
async fn come_back(door: &Door, away: &[Kept], conv_id: &str, found: (u64, u64), report: &mut Report) {
    let (mut exact, mut asked) = (0, 0);
    for kept in away {
        match Device::come_back(door, kept, conv_id, found).await {
            Ok(times) => (exact, asked) = (exact + 1, asked + times),
            Err(error) => report.fail(format!("{}: {error:#}", kept.user)),
        }
    }
    report.count("away_and_exactly_caught_up", exact);
    report.count("history_pages_they_asked", asked);
}
