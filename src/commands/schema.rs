//! `everline schema`: the tables of a CQL store, printed or made.

use clap::{Arg, ArgAction, ArgMatches, Command};
use everline::config::StoreChoice;
use everline::store::cql::schema;

use super::{Failure, print, stores};

pub(super) fn command() -> Command {
    let flag = |name: &'static str, help: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    let command = Command::new("schema")
        .about("Makes keyspace and tables of a CQL store (--store cql://.../KEYSPACE[?replication=N&tls=FILE]) where they are not there yet")
        .arg(flag("print", "Only prints the statements"))
        .arg(flag("new-epoch", "After a restore: names the data anew, so that devices load everything again"));
    stores::add_to(command)
}

pub(super) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let StoreChoice::Cql(target) = stores::settings_of(matches)?.store else {
        return Err(Failure::Usage("--store: cql://HOST:PORT,.../KEYSPACE is needed".to_owned()));
    };
    if matches.get_flag("print") {
        return print::line(schema::print(&target).trim_end());
    }
    let made = schema::apply(&target, matches.get_flag("new-epoch"));
    let epoch = stores::wait_for(made)?.map_err(stores::cql_failure)?;
    print::line(format_args!("keyspace {} is ready; epoch {epoch}", target.keyspace))
}
