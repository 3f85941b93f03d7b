//! Load generator, replay of real chat logs, crash tests for Everline.
//!
//! | file | is |
//! |---|---|
//! | `target`, `server` | the server under test: a child process, or one that runs already |
//! | `cluster`, `balancer` | several nodes with NATS between and a balancer in front |
//! | `wire`, `tracker`, `timer` | the raw client, counting faults, waking on time |
//! | `part`, `peer`, `load` | one device under load; conducting many |
//! | `oneone`, `group`, `crash` | loads made of them |
//! | `large`, `length` | a conversation that is followed by its own log; one whose log is long |
//! | `catchup`, `crowd`, `idle`, `storm`, `soak` | coming back, staying, coming back all at once, for long |
//! | `plan` | from the cost of one message to machines |
//! | `replay` | real chat logs, and an oracle that says what every device must hold |
//! | `stats` | figures: one JSON line on stdout, a table on stderr |
//!
//! Shares nothing with the server but `everline::protocol` (and, in `replay`, tests
//! `everline::client`). Exit status 1: something promised did not hold.

mod balancer;
mod catchup;
mod cluster;
mod crash;
mod crowd;
mod group;
mod idle;
mod large;
mod length;
mod load;
mod oneone;
mod part;
mod peer;
mod plan;
mod replay;
mod server;
mod soak;
mod stats;
mod storm;
mod target;
mod timer;
mod tracker;
mod wire;

use std::process::ExitCode;

use anyhow::{Result, anyhow};
use clap::{Parser, Subcommand};
use rand::{Rng as _, SeedableRng as _};
use tokio::signal::unix::{SignalKind, signal};

use crate::stats::Report;
use crate::target::{Common, Target};

/// Load generator, replay of real chat logs and crash tests for Everline.
///
/// Starts a server of its own, with the rate limits off and the data in a temporary directory, unless
/// --connect names one. Prints one JSON line on stdout and a table on stderr; exit status 1 when
/// something was lost, doubled, out of order or different from what it must be.
#[derive(Parser)]
#[command(name = "loadtest", version)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Real chat logs, one a group, and an oracle that says what every device must hold.
    Replay(replay::Args),
    /// Pairs of users, one writing to the other.
    Oneone(oneone::Args),
    /// One group, some members writing.
    Group(group::Args),
    /// One large conversation, most of whose members are away.
    Large(large::Args),
    /// Appending to and reading from logs of growing length.
    Length(length::Args),
    /// Coming back after missing messages: one user, and many at once.
    Catchup(catchup::Args),
    /// Memory of the server per idle connection.
    Idle(idle::Args),
    /// All connections drop and come back at once.
    Storm(storm::Args),
    /// Devices come and go for long: memory, threads and open files must stay what they are.
    Soak(soak::Args),
    /// Kills and restarts the server under load.
    Crash(crash::Args),
    /// Machines a number of users needs, by the formula of docs/capacity.md; runs nothing.
    Plan(plan::Args),
}

#[expect(clippy::print_stderr, reason = "says what went wrong, to people")]
fn main() -> ExitCode {
    let cli = Cli::parse();
    match start(&cli) {
        Ok(false) => ExitCode::SUCCESS,
        Ok(true) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("loadtest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(cli: &Cli) -> Result<bool> {
    if let Command::Plan(args) = &cli.command {
        return plan::run(args).map(|()| false);
    }
    let mut runtime = if cli.common.threads > 1 {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(cli.common.threads);
        builder
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    let seed = cli.common.seed.unwrap_or_else(|| rand::rngs::StdRng::from_os_rng().random_range(0..1 << 32));
    runtime.enable_all().build()?.block_on(run(cli, seed))
}

/// Runs the command; whether it failed.
#[expect(clippy::print_stderr, reason = "says where a failed run's data is, to people")]
async fn run(cli: &Cli, seed: u64) -> Result<bool> {
    let flags = match &cli.command {
        Command::Replay(args) => args.server_flags(),
        Command::Crash(args) => args.server_flags(),
        Command::Soak(args) => args.server_flags(),
        Command::Large(args) => args.server_flags(),
        _ => Vec::new(),
    };
    let mut target = Target::new(&cli.common, &flags).await?;
    let report = tokio::select! {
        report = command(cli, &mut target, seed) => report,
        // Dropping the target kills the server, which would outlive this process otherwise.
        signal = interrupted() => signal.and_then(|name| Err(anyhow!("interrupted by {name}"))),
    };
    let failed = report.as_ref().map_or(true, Report::failed);
    let finished = target.finish(failed).await;
    let report = report?;
    report.print(seed)?;
    if let Some(kept) = finished? {
        eprintln!("data and log of the server are kept in {}", kept.display());
    }
    Ok(failed)
}

/// Waits for SIGINT or SIGTERM.
async fn interrupted() -> Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

async fn command(cli: &Cli, target: &mut Target, seed: u64) -> Result<Report> {
    match &cli.command {
        Command::Replay(args) => replay::run(args, target, seed).await,
        Command::Oneone(args) => oneone::run(args, target).await,
        Command::Group(args) => group::run(args, target).await,
        Command::Large(args) => large::run(args, target).await,
        Command::Length(args) => length::run(args, target).await,
        Command::Catchup(args) => catchup::run(args, target).await,
        Command::Idle(args) => idle::run(args, target).await,
        Command::Storm(args) => storm::run(args, target).await,
        Command::Soak(args) => soak::run(args, target).await,
        Command::Crash(args) => crash::run(args, target, seed).await,
        Command::Plan(_) => Err(anyhow!("a plan runs no server")),
    }
}
