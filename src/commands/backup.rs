//! `everline backup`: everything as of one moment in a new file, while serving if need be.

use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command, value_parser};
use serde_json::Value;

use super::{Failure, control, print, stores};

pub(super) fn command() -> Command {
    let command = Command::new("backup")
        .about("Writes a directory's data, as of one moment, into a new file; also while a server is running on it")
        .arg(
            Arg::new("to")
                .long("to")
                .value_name("FILE")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("The new file"),
        );
    stores::add_to(command)
}

pub(super) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let dir = stores::dir_of(matches)?;
    let file = matches.get_one::<PathBuf>("to").cloned().unwrap_or_default();
    let file = std::path::absolute(&file).map_err(|error| Failure::Usage(format!("--to: {error}")))?;
    let report = match control::ask_backup(&dir, &file)? {
        Some(report) => report,
        None => {
            let store = stores::open_existing(&dir)?;
            let report = store.backup(&file).map_err(Failure::failed)?;
            store.close().map_err(Failure::failed)?;
            control::json(&report)
        }
    };
    print::line(format_args!("{}", file.display()))?;
    show(&report)
}

/// Prints what was copied.
pub(super) fn show(report: &Value) -> Result<(), Failure> {
    let number = |value: &Value, name: &str| value.get(name).and_then(Value::as_u64).unwrap_or(0);
    print::line(format_args!("{:<16}{:>14}{:>18}", "section", "keys", "bytes"))?;
    for section in report.get("sections").and_then(Value::as_array).into_iter().flatten() {
        let name = section.get("name").and_then(Value::as_str).unwrap_or("?");
        print::line(format_args!("{name:<16}{:>14}{:>18}", number(section, "keys"), number(section, "bytes")))?;
    }
    print::line(format_args!("{:<16}{:>14}{:>18}", "file", "", number(report, "file_bytes")))
}
