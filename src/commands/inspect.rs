//! `everline inspect`: one user's or conversation's timeline as text.

use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command, value_parser};
use everline::audit::inspect::{Wanted, inspect};
use everline::protocol::{ConvId, UserId};
use everline::store::TimelineId;

use super::{Failure, print, stores};

pub(super) fn command() -> Command {
    let command = Command::new("inspect")
        .about("Prints one timeline of a stopped directory, or of a CQL store, as text")
        .arg(Arg::new("user").long("user").value_name("USER").help("The sync timeline of this user"))
        .arg(
            Arg::new("conversation")
                .long("conversation")
                .value_name("CONVERSATION")
                .help("The timeline of this conversation"),
        )
        .group(ArgGroup::new("timeline").args(["user", "conversation"]).required(true))
        .arg(
            Arg::new("after")
                .long("after")
                .value_name("N")
                .default_value("0")
                .value_parser(value_parser!(u64))
                .help("Entries above this number"),
        )
        .arg(
            Arg::new("limit")
                .long("limit")
                .value_name("N")
                .default_value("100")
                .value_parser(value_parser!(u32))
                .help("At most so many entries, and rows of each kind"),
        )
        .arg(Arg::new("bodies").long("bodies").action(ArgAction::SetTrue).help("Also shows what people wrote"));
    stores::add_to(command)
}

pub(super) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let wanted = wanted(matches)?;
    let mut printed = Ok(());
    let mut line = |text: String| {
        // Whoever reads may have seen enough: the first failure is told, the rest is not tried.
        if printed.is_ok() {
            printed = print::line(text);
        }
    };
    stores::wait_for(async {
        let opened = stores::open_to_read(matches).await?;
        inspect(&*opened.store, &wanted, &mut line).await.map_err(Failure::failed)?;
        opened.close().await
    })??;
    printed
}

fn wanted(matches: &ArgMatches) -> Result<Wanted, Failure> {
    let text = |name: &str| matches.get_one::<String>(name);
    let timeline = match (text("user"), text("conversation")) {
        (Some(user), _) => UserId::parse(user).map(TimelineId::User),
        (None, Some(conversation)) => ConvId::parse(conversation).map(TimelineId::Conversation),
        (None, None) => return Err(Failure::Usage("--user or --conversation is needed".to_owned())),
    };
    Ok(Wanted {
        timeline: timeline.map_err(|error| Failure::Usage(error.to_string()))?,
        after: matches.get_one::<u64>("after").copied().unwrap_or(0),
        limit: matches.get_one::<u32>("limit").copied().unwrap_or(100) as usize,
        bodies: matches.get_flag("bodies"),
    })
}
