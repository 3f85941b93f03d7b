//! Real chat logs against a real server, and an oracle that says what every device must hold.
//!
//! One file is one group; each nick is a user with one to three devices, who joins when he is first
//! seen. Lines are sent in file order; between them, by the seed, messages are taken back, edited,
//! reacted to, hidden, read and sent again, members leave and return, devices go and come, and the
//! server is killed. At the end every device must hold exactly what the oracle says, which was told
//! nothing but the answers. A run without resets, recalls to devices that were off-line and refused
//! duplicates proves nothing, so these are counted and printed.
//!
//! | file | is |
//! |---|---|
//! | `log` | files into messages, nicks into users |
//! | `plan` | what will happen, from the seed |
//! | `devices`, `witness` | the client library on each device; a raw device that checks the stream |
//! | `drive` | does what the plan says |
//! | `trouble` | what is done to several nodes meanwhile |
//! | `oracle` | what must be |
//! | `server_view`, `compare`, `verdict` | what is, and whether it is the same |

mod compare;
mod devices;
mod drive;
mod log;
mod oracle;
mod plan;
mod server_view;
mod trouble;
mod verdict;
mod witness;

use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::server::Usage;
use crate::stats::{Report, per_second};
use crate::target::{Target, progress};
use crate::wire::allow_sockets;
use devices::{Counters, Town};
use log::Log;
use oracle::Oracle;
use plan::{Habits, Plan};
use trouble::{Trouble, TroubleArgs};
use verdict::Verdict;

/// Nothing may happen for so long.
const STALL: Duration = Duration::from_secs(180);
/// Differences printed.
const PRINTED: usize = 100;
/// `replay`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory of chat logs.
    dir: PathBuf,
    /// Files of it; all *.txt when none is named.
    files: Vec<String>,
    /// At most so many files.
    #[arg(long)]
    at_most: Option<usize>,
    /// How often the server is killed -9 and restarted during the replay.
    #[arg(long, default_value_t = 0)]
    kills: usize,
    /// Entries a sync timeline keeps; fewer make resets in short runs.
    #[arg(long, default_value_t = 1000)]
    pub(crate) sync_max_entries: usize,
    /// Members above which a group is a large conversation.
    #[arg(long, default_value_t = 500)]
    large_conversation_members: usize,
    /// Files replayed at a time; 0: all.
    #[arg(long, default_value_t = 0)]
    parallel: usize,
    /// Messages of a file under way at a time. With more than 1 the server decides on the order of
    /// messages of different senders.
    #[arg(long, default_value_t = 1)]
    pipeline: usize,
    /// Fail when fewer resets happened.
    #[arg(long, default_value_t = 0)]
    min_resets: u64,
    #[command(flatten)]
    trouble: TroubleArgs,
}

impl Args {
    /// Flags the server needs for it.
    pub(crate) fn server_flags(&self) -> Vec<String> {
        vec![
            "--sync-max-entries".into(),
            self.sync_max_entries.to_string(),
            "--large-conversation-members".into(),
            self.large_conversation_members.to_string(),
        ]
    }
}

pub(crate) async fn run(args: &Args, target: &mut Target, seed: u64) -> Result<Report> {
    let mut report = Report::new("replay");
    let logs = log::read_dir(&args.dir, &args.files, args.at_most)?;
    let (plans, people) = plan::plans(&logs, seed, Habits { sync_max_entries: args.sync_max_entries })?;
    let town = Arc::new(Town::new(target.door(), &people)?);
    allow_sockets(town.devices() + 200)?;
    let messages = logs.iter().map(|log| log.lines.len()).sum::<usize>();
    report.setting("files", logs.len());
    report.setting("kills", args.kills);
    report.setting("sync_max_entries", args.sync_max_entries);
    report.setting("pipeline", args.pipeline);
    report.setting("large_conversation_members", args.large_conversation_members);
    report.count("files", u64::try_from(logs.len())?);
    report.count("messages", u64::try_from(messages)?);
    report.count("users", u64::try_from(people.len())?);
    report.count("devices", u64::try_from(town.devices())?);

    let steps = plans.iter().map(|plan| plan.steps.len()).sum::<usize>();
    let drives = start(args, &town, logs.into_iter().zip(plans));
    let began = Instant::now();
    let before = target.usage();
    let mut conduct = Conduct::new(args, seed, messages);
    let nodes = target.cluster().map_or(1, |cluster| cluster.nodes.len());
    report.setting("nodes", nodes);
    conduct.trouble = Some(Trouble::new(&args.trouble, nodes, seed, messages)?);
    let oracles = conduct.until_done(target, &town.counters, drives, steps).await?;
    let took = began.elapsed();
    usage(&mut report, before.zip(target.usage()), args.kills, messages)?;

    report.figure("replay_seconds", took.as_secs_f64(), "s");
    report.figure("messages_per_second", per_second(u64::try_from(messages)?, took), "messages/s");
    conduct.write(&mut report, &town.counters, args);
    if let Some(finished) = target.recovered_fan_outs() {
        report.count("interrupted_fan_outs_finished", finished);
    }
    conclude(&mut report, &town, oracles).await?;
    Ok(report)
}

fn start(args: &Args, town: &Arc<Town>, files: impl Iterator<Item = (Log, Plan)>) -> JoinSet<Result<Oracle>> {
    let at_once = if args.parallel == 0 { Semaphore::MAX_PERMITS } else { args.parallel };
    let slots = Arc::new(Semaphore::new(at_once));
    let mut drives = JoinSet::new();
    for (number, (log, plan)) in files.enumerate() {
        let (town, slots) = (Arc::clone(town), Arc::clone(&slots));
        let style = drive::Style { pipeline: args.pipeline.max(1), limit: args.large_conversation_members };
        drives.spawn(async move {
            let _slot = slots.acquire_owned().await?;
            drive::drive(town, log, plan, number, style).await
        });
    }
    drives
}

fn usage(report: &mut Report, usage: Option<(Usage, Usage)>, kills: usize, messages: usize) -> Result<()> {
    // With kills the process counted is the last of several.
    if let Some((before, after)) = usage.filter(|_| kills == 0) {
        report.usage("server", before, after, u64::try_from(messages)?, "message");
    }
    Ok(())
}

/// Kills, and watches that there is progress.
struct Conduct {
    /// After so many messages.
    kills: Vec<u64>,
    killed: u64,
    restarts: Duration,
    trouble: Option<Trouble>,
}

impl Conduct {
    fn new(args: &Args, seed: u64, messages: usize) -> Self {
        let mut random = rand::rngs::StdRng::seed_from_u64(seed ^ 0x6b69_6c6c);
        let messages = u64::try_from(messages).unwrap_or(u64::MAX).max(100);
        let mut kills: Vec<u64> =
            (0..args.kills).map(|_| random.random_range(messages / 50..messages * 49 / 50)).collect();
        kills.sort_unstable_by_key(|at| std::cmp::Reverse(*at));
        Self { kills, killed: 0, restarts: Duration::ZERO, trouble: None }
    }

    /// Until all files are replayed.
    async fn until_done(
        &mut self,
        target: &mut Target,
        counters: &Counters,
        mut drives: JoinSet<Result<Oracle>>,
        steps: usize,
    ) -> Result<Vec<Oracle>> {
        let bar = progress(u64::try_from(steps)?, "steps");
        let mut oracles = Vec::new();
        let mut last = (Instant::now(), 0);
        while !drives.is_empty() {
            while let Some(drive) = drives.try_join_next() {
                oracles.push(drive??);
            }
            let done = counters.steps.load(Relaxed);
            bar.set_position(done);
            if done != last.1 {
                last = (Instant::now(), done);
            } else if last.0.elapsed() > STALL {
                bail!("nothing happened for {STALL:?} after {done} of {steps} steps, {} files open", drives.len());
            }
            let messages = counters.messages.load(Relaxed);
            if self.kills.last().is_some_and(|at| *at <= messages) {
                self.kills.pop();
                self.kill(target).await?;
                last.0 = Instant::now();
            }
            if let Some(trouble) = self.trouble.as_mut().filter(|trouble| trouble.is_due(messages))
                && let Some(cluster) = target.cluster()
            {
                counters.hold_at.store(trouble.hold_at(), Relaxed);
                trouble.happen(cluster).await?;
                counters.hold_at.store(0, Relaxed);
                last.0 = Instant::now();
            }
            sleep(Duration::from_millis(3)).await;
        }
        bar.finish_and_clear();
        Ok(oracles)
    }

    async fn kill(&mut self, target: &mut Target) -> Result<()> {
        let server = target.server()?;
        server.kill9().await?;
        self.restarts += server.restart().await.context("restart after kill -9")?;
        self.killed += 1;
        Ok(())
    }

    fn write(&self, report: &mut Report, counters: &Counters, args: &Args) {
        report.count("kills", self.killed);
        if self.killed > 0 {
            report.figure("restart_seconds_all", self.restarts.as_secs_f64(), "s");
        }
        if let Some(trouble) = &self.trouble {
            trouble.write(report);
        }
        let resets = counters.resets_too_old.load(Relaxed);
        let counts = [
            ("entries_applied_by_clients", &counters.entries),
            ("times_live", &counters.lives),
            ("resets_too_old", &counters.resets_too_old),
            ("resets_of_other_reasons", &counters.resets_other),
            ("resets_reconciled", &counters.reconciled),
            ("recalls", &counters.recalls),
            ("recalls_while_a_device_was_off_line", &counters.recalls_missed),
            ("duplicates_refused", &counters.duplicates),
            ("conflicts_refused", &counters.conflicts),
            ("requests_asked_again", &counters.asked_again),
        ];
        for (name, count) in counts {
            report.count(name, count.load(Relaxed));
        }
        if resets < args.min_resets {
            report.fail(format!("{resets} resets (too_old), at least {} were wanted", args.min_resets));
        }
        let nothing = [&counters.resets_too_old, &counters.recalls_missed, &counters.duplicates];
        if nothing.iter().any(|count| count.load(Relaxed) == 0) {
            report.note("without resets, recalls to off-line devices and refused duplicates this run proves little");
        }
    }
}

/// Compares everything, and prints what differs.
async fn conclude(report: &mut Report, town: &Town, oracles: Vec<Oracle>) -> Result<()> {
    let (mut entries, mut messages) = (0, 0);
    for oracle in &oracles {
        let delivered = oracle.deliveries();
        entries += delivered.0;
        messages += delivered.1;
        if let Err(error) = oracle.check_dense() {
            town.counters.fault(format!("{error:#}"));
        }
    }
    report.count("deliveries_of_messages", messages);
    report.count("deliveries_of_entries", entries);
    let began = Instant::now();
    let verdict = verdict::judge(town, oracles).await?;
    report.figure("comparison_seconds", began.elapsed().as_secs_f64(), "s");
    report.count("views_compared", verdict.views);
    report.count("messages_compared", verdict.messages_compared);
    let faults = town.counters.faults.lock().unwrap_or_else(PoisonError::into_inner);
    print_wrong(&faults, &verdict);
    report.count("faults", u64::try_from(faults.len())?);
    report.count("differences", u64::try_from(verdict.differences.len())?);
    if !faults.is_empty() || !verdict.differences.is_empty() {
        report.fail("devices or server differ from what must be");
    }
    Ok(())
}

#[expect(clippy::print_stderr, reason = "printing differences is the program's job")]
fn print_wrong(faults: &[String], verdict: &Verdict) {
    for fault in faults.iter().take(PRINTED) {
        eprintln!("fault: {fault}");
    }
    for difference in verdict.differences.iter().take(PRINTED) {
        eprintln!("difference: {difference}");
    }
}

/// Where tests find real chat logs; says so when there are none.
#[cfg(test)]
#[expect(clippy::print_stderr, reason = "a skipped test must say so")]
pub(crate) fn test_data() -> Option<PathBuf> {
    let root = std::env::var_os("EVERLINE_TEST_DATA")
        .map_or_else(|| std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"), PathBuf::from);
    let dir = root.join("irc");
    if dir.is_dir() {
        return Some(dir);
    }
    eprintln!("SKIPPED: no chat logs at {} (EVERLINE_TEST_DATA names their parent)", dir.display());
    None
}
