//! One file per command; this one only knows their names.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | failed; of `verify`: there are differences |
//! | 2 | the operator must change something: arguments, configuration, a directory in use |

mod backup;
mod compact;
mod control;
mod demo;
mod inspect;
mod migrate;
mod print;
mod restore;
mod schema;
mod serve;
mod stores;
mod token;
mod verify;

use std::io::IsTerminal;
use std::path::Path;

use clap::{ArgMatches, Command};
use everline::config::{self, Options, Settings};
use tracing::Level;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

/// Why a command ends badly; one line.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The operator must change something: exit code 2.
    Usage(String),
    /// It did not work out: exit code 1.
    Failed(String),
}

impl From<config::Error> for Failure {
    fn from(error: config::Error) -> Self {
        Self::Usage(error.to_string())
    }
}

impl Failure {
    /// Something that did not work out.
    pub(crate) fn failed(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }
}

/// A command: how it is called, and what it does.
struct Entry {
    command: fn() -> Command,
    run: fn(&ArgMatches) -> Result<(), Failure>,
}

/// All commands, in the order of `--help`.
const COMMANDS: &[Entry] = &[
    Entry { command: serve::command, run: serve::run },
    Entry { command: demo::command, run: demo::run },
    Entry { command: token::command, run: token::run },
    Entry { command: schema::command, run: schema::run },
    Entry { command: inspect::command, run: inspect::run },
    Entry { command: verify::command, run: verify::run },
    Entry { command: backup::command, run: backup::run },
    Entry { command: restore::command, run: restore::run },
    Entry { command: compact::command, run: compact::run },
    Entry { command: migrate::command, run: migrate::run },
];

/// Runs the command named on the command line.
pub(crate) fn run() -> Result<(), Failure> {
    let everline = Command::new("everline")
        .about("A timeline-model chat sync service over WebSocket")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands(COMMANDS.iter().map(|entry| (entry.command)()));
    let matches = everline.get_matches();
    let Some((name, matches)) = matches.subcommand() else {
        return Err(Failure::Usage("no command".to_owned()));
    };
    let entry = COMMANDS.iter().find(|entry| (entry.command)().get_name() == name);
    entry.map_or_else(|| Err(Failure::Usage(format!("unknown command {name}"))), |entry| (entry.run)(matches))
}

/// The configuration a command was called with: flags over environment over file over `defaults`.
pub(crate) fn settings(defaults: Options, matches: &ArgMatches) -> Result<Settings, Failure> {
    let env = |name: &str| std::env::var(name).ok();
    Ok(Settings::read(&defaults.overlay(matches, &env, Path::new("."))?)?)
}

/// What is logged when `RUST_LOG` says nothing. Whatever the CQL driver tells about a failed request or
/// connection is part of our own line about it.
const LOGGED: &str = "info,scylla=error,scylla::cluster::metadata=off";

/// Logs go to stderr; `RUST_LOG` decides what, `info` without it. Of the libraries nothing finer than `info`
/// is ever let through: below it they print what they carry, bodies and tokens among it.
pub(crate) fn start_logging() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOGGED));
    let may_be_told = filter_fn(|about| about.target().starts_with("everline") || *about.level() <= Level::INFO);
    let lines =
        tracing_subscriber::fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr);
    // Fails only when a subscriber is installed already, which then logs.
    let _ = tracing_subscriber::registry().with(filter).with(lines.with_filter(may_be_told)).try_init();
}
