//! Kills the server again and again under load: nothing acknowledged may be lost, doubled or moved.
//!
//! One-to-one and group load at once; every device comes back by itself, resumes from its cursor and
//! resends what was not answered under the same `client_msg_id`.

use std::time::Duration;

use anyhow::Result;
use rand::{Rng as _, SeedableRng as _};

use crate::load::Timing;
use crate::stats::Report;
use crate::target::Target;
use crate::{group, oneone};

/// `crash`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// How often the server is killed -9 and restarted.
    #[arg(long, default_value_t = 10)]
    pub(crate) kills: usize,
    /// Pairs of the one-to-one load.
    #[arg(long, default_value_t = 20)]
    pub(crate) pairs: usize,
    /// Members of the group.
    #[arg(long, default_value_t = 50)]
    pub(crate) members: usize,
    /// How many of them send.
    #[arg(long, default_value_t = 5)]
    pub(crate) senders: usize,
    #[command(flatten)]
    pub(crate) timing: Timing,
}

pub(crate) async fn run(args: &Args, target: &mut Target, seed: u64) -> Result<Report> {
    let mut report = Report::new("crash");
    report.setting("kills", args.kills);
    report.setting("pairs", args.pairs);
    report.setting("members", args.members);
    report.setting("senders", args.senders);
    args.timing.note(&mut report);
    let kills = kill_times(args, seed);
    let pairs = oneone::Args { pairs: args.pairs, timing: args.timing.clone() };
    let group = group::Args { members: args.members, senders: args.senders, timing: args.timing.clone() };
    let group = group::load(&group, kills.clone(), &target.door()).await?;
    let load = oneone::load(&pairs, kills)?.join(group)?;
    load.run(target).await?.into_report(&mut report);
    if let Some(finished) = target.recovered_fan_outs() {
        report.count("interrupted_fan_outs_finished", finished);
    }
    Ok(report)
}

/// Seeded moments within the load, sorted.
fn kill_times(args: &Args, seed: u64) -> Vec<Duration> {
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let last = (args.timing.warmup + args.timing.seconds).max(1.0);
    let mut times: Vec<Duration> =
        (0..args.kills).map(|_| Duration::from_secs_f64(random.random_range(0.3..last))).collect();
    times.sort_unstable();
    times
}
