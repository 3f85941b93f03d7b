//! `everline restore`: a backup becomes a new directory, under a new epoch.

use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command, value_parser};
use everline::config::Clock;
use everline::store::Store as _;
use everline::store::embedded::{self, RestoreError};

use super::{Failure, backup, control, print, stores};

pub(super) fn command() -> Command {
    let path = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).required(true).value_parser(value_parser!(PathBuf)).help(help)
    };
    Command::new("restore")
        .about("Writes a backup into a new directory, under a new epoch")
        .arg(path("from", "FILE", "The backup"))
        .arg(path("to", "DIR", "The new directory"))
}

pub(super) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let path = |name: &str| matches.get_one::<PathBuf>(name).cloned().unwrap_or_default();
    let (from, to) = (path("from"), path("to"));
    let report = embedded::restore(&from, &embedded::Options::new(&to, Clock::system())).map_err(failure)?;
    let restored = stores::open_existing(&to)?;
    let epoch = restored.epoch();
    restored.close().map_err(Failure::failed)?;
    print::line(format_args!("{}  epoch {epoch}", to.display()))?;
    backup::show(&control::json(&report))
}

fn failure(error: RestoreError) -> Failure {
    match error {
        RestoreError::Exists(_) => Failure::Usage(error.to_string()),
        _ => Failure::failed(error),
    }
}
