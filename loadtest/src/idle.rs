//! What an idle connection costs the server: growth of its anonymous memory over many of them.
//!
//! Three states, each against a server just started: after the first `hello` of new users, after the
//! `hello` of known users, and after one catch-up each.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::sleep;

use crate::catchup::{Behind, send_many};
use crate::crowd::{Crowd, newcomers};
use crate::group;
use crate::stats::{Latency, Report, per};
use crate::target::{Target, progress};
use crate::wire::allow_sockets;

/// How long memory may settle before it is read.
const SETTLE: Duration = Duration::from_secs(3);
/// Handshakes under way at a time.
const AT_ONCE: usize = 64;
/// Users in one group of those that make the missed entries; below where groups become large.
const GROUP: usize = 400;

/// `idle`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Connections, each of another user.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) connections: usize,
    /// Entries each catches up with in the last state; 0 leaves it out.
    #[arg(long, default_value_t = 100)]
    pub(crate) messages: usize,
    /// Size of a message body: bytes.
    #[arg(long, default_value_t = 128)]
    pub(crate) body: usize,
    /// Seconds all stay connected in the first state, for the server's CPU while nothing happens.
    #[arg(long, default_value_t = 10.0)]
    pub(crate) seconds: f64,
}

pub(crate) async fn run(args: &Args, target: &mut Target) -> Result<Report> {
    allow_sockets(args.connections)?;
    let mut report = Report::new("idle");
    report.setting("connections", args.connections);
    report.setting("body", args.body);

    let devices = newcomers(args.connections);
    let crowd = state(args, target, devices, false, "new_users", &mut report).await?;
    let devices = rest(args, target, crowd, &mut report).await?;
    if !target.is_own() {
        return Ok(report);
    }
    target.server()?.restart().await?;
    let crowd = state(args, target, devices, true, "known_users", &mut report).await?;
    let devices = crowd.drop_all().await;
    if args.messages > 0 {
        miss(args, target, &devices).await?;
        target.server()?.restart().await?;
        let crowd = state(args, target, devices, true, "after_catch_up", &mut report).await?;
        report.count("entries_caught_up", crowd.entries);
        let expected = u64::try_from(args.connections * args.messages)?;
        if crowd.entries < expected {
            report.fail(format!("{} entries of {expected} arrived", crowd.entries));
        }
    }
    Ok(report)
}

/// Connects everybody and writes down what memory that took.
async fn state(
    args: &Args,
    target: &Target,
    devices: Vec<Behind>,
    resume: bool,
    name: &str,
    report: &mut Report,
) -> Result<Crowd> {
    sleep(SETTLE).await;
    let before = target.usage().context("memory of the server: give --pid with --connect")?;
    let began = tokio::time::Instant::now();
    let mut crowd = Crowd::connect(&target.door(), devices, resume, AT_ONCE).await?;
    let took = began.elapsed();
    sleep(SETTLE).await;
    let after = target.usage().context("the server is gone")?;
    let connections = u64::try_from(args.connections)?;
    let grown = after.anonymous.saturating_sub(before.anonymous);
    report.figure(&format!("kib_per_connection_{name}"), per(grown / 1024, connections), "KiB");
    let rate = crate::stats::per_second(connections, took);
    report.figure(&format!("connections_per_second_{name}"), rate, "/s");
    let cpu = after.cpu_us.saturating_sub(before.cpu_us);
    report.figure(&format!("server_cpu_us_per_connection_{name}"), per(cpu, connections), "µs");
    let mut latency = Latency::new();
    crowd.took.iter().for_each(|took| latency.record(*took));
    report.latency(&format!("connect_{name}"), &latency);
    let gone = crowd.gone();
    if gone > 0 {
        report.fail(format!("{gone} idle connections ended by themselves ({name})"));
    }
    Ok(crowd)
}

/// Lets everybody stay for a while; ends the connections.
async fn rest(args: &Args, target: &Target, mut crowd: Crowd, report: &mut Report) -> Result<Vec<Behind>> {
    let before = target.usage().context("the server is gone")?;
    sleep(Duration::from_secs_f64(args.seconds)).await;
    let after = target.usage().context("the server is gone")?;
    let cpu = after.cpu_us.saturating_sub(before.cpu_us);
    if args.seconds > 0.0 {
        let share = Duration::from_micros(cpu).as_secs_f64() / args.seconds * 100.0;
        report.figure("server_cpu_while_idle", share, "% of a core");
    }
    let gone = crowd.gone();
    if gone > 0 {
        report.fail(format!("{gone} connections ended while idle"));
    }
    Ok(crowd.drop_all().await)
}

/// Lets every user miss `messages` entries, by groups nobody of which is connected.
async fn miss(args: &Args, target: &Target, devices: &[Behind]) -> Result<()> {
    let door = target.door();
    let body = crate::load::body_text(args.body);
    let bar = progress(u64::try_from(devices.len())?, "entries being missed");
    for (number, users) in devices.chunks(GROUP).enumerate() {
        let writer = format!("idle-writer{number}");
        let mut members = vec![writer.clone()];
        members.extend(users.iter().map(|device| device.user.clone()));
        let conv_id = group::create(&door, &members, &format!("idle{number}")).await?;
        // `created` is one of the entries.
        let count = args.messages.saturating_sub(1);
        send_many(&door, &writer, &conv_id, 0..count, &body).await?;
        bar.inc(u64::try_from(users.len())?);
    }
    bar.finish_and_clear();
    Ok(())
}
