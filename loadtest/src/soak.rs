//! Does anything grow? The same devices come, catch up, stay and drop, round after round, on a short
//! retention; after each round, when nobody is connected, memory, threads and open files are read.
//!
//! The first third of the rounds warms up. What the last third needs at most must be what the second third
//! needed at most, but for noise. Conversations are kept for ever, so the disk grows with every message;
//! how much for each stands in the report, for both halves.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::{Instant, sleep};

use crate::catchup::send_many;
use crate::crowd::{Crowd, newcomers};
use crate::group;
use crate::server::Usage;
use crate::stats::{Report, per};
use crate::target::Target;
use crate::wire::allow_sockets;

/// How long everybody stays, and how long the server may take to notice that they are gone.
const STAY: Duration = Duration::from_millis(500);
const DEADLINE: Duration = Duration::from_secs(60);
/// Handshakes under way at a time.
const AT_ONCE: usize = 64;
/// Users in one group of those that make the missed entries.
const GROUP: usize = 100;
/// Noise: what the allocator and the store's buffers may differ by, beside a fifth.
const NOISE_BYTES: u64 = 32 * 1024 * 1024;
const NOISE_FILES: u64 = 32;
const NOISE_THREADS: u64 = 8;

/// `soak`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Devices, each of another user.
    #[arg(long, default_value_t = 500)]
    pub(crate) connections: usize,
    /// Entries each misses in a round.
    #[arg(long, default_value_t = 20)]
    pub(crate) messages: usize,
    /// Size of a message body: bytes.
    #[arg(long, default_value_t = 128)]
    pub(crate) body: usize,
    /// How long in all: seconds.
    #[arg(long, default_value_t = 1800)]
    pub(crate) seconds: u64,
}

impl Args {
    pub(crate) fn server_flags(&self) -> Vec<String> {
        vec!["--sync-max-entries=200".to_owned()]
    }
}

/// What the server holds while nobody is connected.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    anonymous: u64,
    files: u64,
    threads: u64,
}

impl Held {
    fn of(pid: u32) -> Result<Self> {
        let count = |what: &str| {
            let dir = format!("/proc/{pid}/{what}");
            let listing = std::fs::read_dir(&dir).with_context(|| dir.clone())?;
            u64::try_from(listing.count()).with_context(|| dir)
        };
        Ok(Self { anonymous: Usage::of(Some(pid))?.anonymous, files: count("fd")?, threads: count("task")? })
    }

    fn most(all: &[Self]) -> Self {
        all.iter().fold(Self::default(), |most, held| Self {
            anonymous: most.anonymous.max(held.anonymous),
            files: most.files.max(held.files),
            threads: most.threads.max(held.threads),
        })
    }
}

pub(crate) async fn run(args: &Args, target: &mut Target) -> Result<Report> {
    allow_sockets(args.connections)?;
    let mut report = Report::new("soak");
    report.setting("connections", args.connections);
    report.setting("messages", args.messages);
    report.setting("seconds", args.seconds);
    let door = target.door();
    let crowd = Crowd::connect(&door, newcomers(args.connections), false, AT_ONCE).await?;
    let mut devices = crowd.drop_all().await;
    let mut groups = Vec::new();
    for (number, users) in devices.chunks(GROUP).enumerate() {
        let writer = format!("soak-writer{number}");
        let mut members = vec![writer.clone()];
        members.extend(users.iter().map(|device| device.user.clone()));
        groups.push((group::create(&door, &members, &format!("soak{number}")).await?, writer));
    }
    let body = crate::load::body_text(args.body);
    let (mut held, mut disk, mut entries) = (Vec::new(), vec![target.server()?.bytes_on_disk()?], 0);
    let deadline = Instant::now() + Duration::from_secs(args.seconds);
    while Instant::now() < deadline || held.len() < 6 {
        let round = held.len();
        let ids = round * args.messages..(round + 1) * args.messages;
        for (conv_id, writer) in &groups {
            send_many(&door, writer, conv_id, ids.clone(), &body).await?;
        }
        let mut crowd = Crowd::connect(&door, devices, true, AT_ONCE).await?;
        entries += crowd.entries;
        sleep(STAY).await;
        let gone = crowd.gone();
        if gone > 0 {
            report.fail(format!("{gone} connections ended by themselves in round {round}"));
        }
        devices = crowd.drop_all().await;
        held.push(alone(target).await?);
        disk.push(target.server()?.bytes_on_disk()?);
    }
    judge(&held, &mut report);
    report.count("rounds", u64::try_from(held.len())?);
    report.count("entries_caught_up", entries);
    let per_round = u64::try_from(args.messages * args.connections.div_ceil(GROUP))?;
    let middle = disk.len() / 2;
    for (half, span) in [("first", &disk[..=middle]), ("second", &disk[middle..])] {
        let (Some(from), Some(to)) = (span.first(), span.last()) else { continue };
        let messages = per_round * u64::try_from(span.len() - 1)?;
        report.figure(&format!("disk_bytes_per_message_{half}_half"), per(to.saturating_sub(*from), messages), "B");
    }
    Ok(report)
}

/// Waits until the server has let go of every connection; what it holds then.
async fn alone(target: &mut Target) -> Result<Held> {
    let server = target.server()?;
    let deadline = Instant::now() + DEADLINE;
    loop {
        let open = server.metric("everline_connections").await?;
        if open == 0 || Instant::now() > deadline {
            anyhow::ensure!(open == 0, "{open} connections are still open after {DEADLINE:?}");
            return Held::of(server.pid().context("the server is gone")?);
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Compares the last third of the rounds with the second.
fn judge(held: &[Held], report: &mut Report) {
    let third = held.len() / 3;
    let (before, after) = (Held::most(&held[third..2 * third]), Held::most(&held[2 * third..]));
    report.figure("anonymous_mib_second_third", per(before.anonymous, 1024 * 1024), "MiB");
    report.figure("anonymous_mib_last_third", per(after.anonymous, 1024 * 1024), "MiB");
    let kinds = [
        ("bytes of memory", before.anonymous, after.anonymous, before.anonymous / 5 + NOISE_BYTES),
        ("open files", before.files, after.files, NOISE_FILES),
        ("threads", before.threads, after.threads, NOISE_THREADS),
    ];
    for (what, before, after, noise) in kinds {
        report.count(&format!("{}_last_third", what.replace(' ', "_")), after);
        if after > before + noise {
            report.fail(format!("{what} grow: {before} at most in the second third of the rounds, then {after}"));
        }
    }
}
