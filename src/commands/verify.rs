//! `everline verify`: reads everything in a stopped directory (or a CQL store at rest) and compares it with itself.

use clap::{Arg, ArgAction, ArgMatches, Command};
use everline::audit::verify::{Report, verify};

use super::{Failure, print, stores};

pub(super) fn command() -> Command {
    let command = Command::new("verify")
        .about("Reads everything in a stopped directory, or a CQL store at rest, and compares it with itself; exit code 1 on any difference")
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Prints the report as JSON"));
    stores::add_to(command)
}

pub(super) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let report = stores::wait_for(async {
        let opened = stores::open_to_read(matches).await?;
        let report = verify(&*opened.store).await.map_err(Failure::failed)?;
        opened.close().await?;
        Ok::<_, Failure>(report)
    })??;
    if matches.get_flag("json") {
        print::line(serde_json::to_string(&report).map_err(Failure::failed)?)?;
    } else {
        show(&report)?;
    }
    match report.difference_count {
        0 => Ok(()),
        1 => Err(Failure::Failed("1 difference".to_owned())),
        count => Err(Failure::Failed(format!("{count} differences"))),
    }
}

fn show(report: &Report) -> Result<(), Failure> {
    print::line(format_args!("epoch {}", report.epoch))?;
    print::table(&[
        ("conversations", report.conversations),
        ("users", report.users),
        ("entries", report.entries),
        ("rows", report.rows),
        ("unfinished", report.unfinished.len() as u64),
        ("marks", report.marks.len() as u64),
        ("differences", report.difference_count),
    ])?;
    for id in &report.unfinished {
        print::line(format_args!("unfinished: conversation {id}"))?;
    }
    for mark in &report.marks {
        print::line(format_args!("mark: {mark}"))?;
    }
    for difference in &report.differences {
        print::line(format_args!("difference: {}: {}", difference.timeline, difference.what))?;
    }
    let more = report.difference_count - report.differences.len() as u64;
    if more > 0 { print::line(format_args!("... and {more} more")) } else { Ok(()) }
}
