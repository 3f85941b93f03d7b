//! Kills the server again and again under load: nothing acknowledged may be lost, doubled or moved.
//!
//! One-to-one and group load at once; every device comes back by itself, resumes from its cursor and
//! resends what was not answered under the same `client_msg_id`. At the end the server is stopped and
//! `everline verify` must find nothing. A run is repeated by its seed; a long series is a run for each of
//! many seeds, which can be cut and resumed at any of them.

use std::time::Duration;

use anyhow::Result;
use rand::{Rng as _, SeedableRng as _};

use crate::load::{Kill, Kills, Timing};
use crate::stats::Report;
use crate::target::Target;
use crate::{group, oneone};

/// Messages unanswered at a time and sender, unless more are asked for.
const OUTSTANDING: usize = 4;

/// `crash`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// How often the server is killed -9 and restarted.
    #[arg(long, default_value_t = 10)]
    pub(crate) kills: usize,
    /// Seconds between a start and the next kill, in the mean.
    #[arg(long, default_value_t = 0.5)]
    pub(crate) kill_every: f64,
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
    let kills = kills(args, seed);
    let pairs = oneone::Args { pairs: args.pairs, timing: args.timing.clone() };
    let group = group::Args { members: args.members, senders: args.senders, timing: args.timing.clone() };
    let group = group::load(&group, kills.clone(), &target.door()).await?;
    let mut load = oneone::load(&pairs, kills)?.join(group)?;
    for sending in load.parts.iter_mut().filter_map(|part| part.sending.as_mut()) {
        // With a rate, too: what waited while the server was down must not come as one flood.
        sending.outstanding = sending.outstanding.min(OUTSTANDING.max(args.timing.outstanding));
    }
    load.run(target).await?.into_report(&mut report);
    if let Some(finished) = target.recovered_fan_outs() {
        report.count("interrupted_fan_outs_finished", finished);
    }
    if target.is_own() {
        let server = target.server()?;
        server.stop().await?;
        server.verify().await?;
        report.note("verify found no difference");
        server.restart().await?;
    }
    Ok(report)
}

impl Args {
    /// Devices must not be reset for being away, and small buffers make checkpoints, flushes and
    /// compactions frequent, so that they are killed too.
    pub(crate) fn server_flags(&self) -> Vec<String> {
        vec!["--sync-max-entries=1000000".into(), "--store-buffer=1024".into()]
    }
}

/// Seeded: mostly while it serves, one in six while it starts. The first finds it serving.
fn kills(args: &Args, seed: u64) -> Kills {
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let every = args.kill_every.max(0.001);
    (0..args.kills)
        .map(|number| {
            if number > 0 && random.random_range(0..6) == 0 {
                Kill::Starting(Duration::from_millis(random.random_range(0..60)))
            } else {
                Kill::Serving(Duration::from_secs_f64(random.random_range(0.0..2.0 * every)))
            }
        })
        .collect()
}
