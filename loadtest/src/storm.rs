//! A reconnect storm: every connection drops at once and all come back at once.
//!
//! With `--kill` the server is the cause: killed and restarted on the same data. Clients of the
//! contract spread their return over seconds; here nobody waits, which is the worst case.

use anyhow::Result;
use tokio::time::Instant;

use crate::catchup::{Behind, send_many};
use crate::crowd::{Crowd, newcomers};
use crate::group;
use crate::stats::{Latency, Report, per_second};
use crate::target::{Door, Target};
use crate::wire::allow_sockets;

/// Users in one group of those that make the missed entries.
const GROUP: usize = 400;

/// `storm`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Connections, each of another user.
    #[arg(long, default_value_t = 5_000)]
    pub(crate) connections: usize,
    /// Entries each misses while it is away.
    #[arg(long, default_value_t = 10)]
    pub(crate) messages: usize,
    /// Size of a message body: bytes.
    #[arg(long, default_value_t = 128)]
    pub(crate) body: usize,
    /// Storms in a row.
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: usize,
    /// Kill -9 and restart the server instead of dropping the connections.
    #[arg(long)]
    pub(crate) kill: bool,
    /// Handshakes under way at a time; 0: all.
    #[arg(long, default_value_t = 0)]
    pub(crate) at_once: usize,
}

pub(crate) async fn run(args: &Args, target: &mut Target) -> Result<Report> {
    allow_sockets(args.connections)?;
    let mut report = Report::new("storm");
    report.setting("connections", args.connections);
    report.setting("messages", args.messages);
    report.setting("kill", args.kill);
    let door = target.door();
    let at_once = if args.at_once == 0 { args.connections } else { args.at_once };
    let mut crowd = Crowd::connect(&door, newcomers(args.connections), false, 64).await?;
    let (mut latency, mut slowest, mut restarts) = (Latency::new(), Latency::new(), Latency::new());
    let mut entries = 0;
    for round in 0..args.rounds {
        if args.kill {
            target.server()?.kill9().await?;
        }
        let devices = crowd.drop_all().await;
        if args.kill {
            restarts.record(target.server()?.restart().await?);
        }
        miss(args, &door, &devices, round).await?;
        let began = Instant::now();
        crowd = Crowd::connect(&door, devices, true, at_once).await?;
        slowest.record(began.elapsed());
        crowd.took.iter().for_each(|took| latency.record(*took));
        entries += crowd.entries;
        let rate = per_second(u64::try_from(args.connections)?, began.elapsed());
        report.figure(&format!("live_per_second_{}", round + 1), rate, "devices/s");
    }
    report.latency("device_live", &latency);
    report.latency("all_live", &slowest);
    report.latency("restart", &restarts);
    report.count("entries_caught_up", entries);
    let expected = u64::try_from(args.connections * args.messages * args.rounds)?;
    if entries < expected {
        report.fail(format!("{entries} entries of {expected} arrived"));
    }
    Ok(report)
}

/// Lets every user miss some entries, by groups of them.
async fn miss(args: &Args, door: &Door, devices: &[Behind], round: usize) -> Result<()> {
    let body = crate::load::body_text(args.body);
    for (number, users) in devices.chunks(GROUP).enumerate().filter(|_| args.messages > 0) {
        let writer = format!("storm-writer{number}");
        let mut members = vec![writer.clone()];
        members.extend(users.iter().map(|device| device.user.clone()));
        let conv_id = group::create(door, &members, &format!("storm{round}-{number}")).await?;
        // `created` is one of the entries.
        send_many(door, &writer, &conv_id, 0..args.messages - 1, &body).await?;
    }
    Ok(())
}
