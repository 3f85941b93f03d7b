//! `everline compact`: what was recalled or erased leaves the files, while serving if need be.

use clap::{ArgMatches, Command};

use super::{Failure, control, print, stores};

pub(super) fn command() -> Command {
    let about = "Takes recalled and erased bodies out of a directory's files; also while a server is running on it";
    stores::add_to(Command::new("compact").about(about))
}

pub(super) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let dir = stores::dir_of(matches)?;
    if control::ask_compact(&dir)?.is_none() {
        let store = stores::open_existing(&dir)?;
        store.purge().map_err(Failure::failed)?;
        store.close().map_err(Failure::failed)?;
    }
    print::line(format_args!("compacted {}", dir.display()))
}
