//! `everline token`: a token for a user, signed with the configured secret. For operators and tests.

use std::io::Write;

use clap::{Arg, ArgMatches, Command};
use everline::auth::Minter;
use everline::config::{Clock, Options, TokenKey, duration, options};
use everline::protocol::{DeviceId, UserId};

use super::{Failure, settings};

pub(super) fn command() -> Command {
    let command = Command::new("token")
        .about("Prints a client token for a user, signed with the secret of the configuration")
        .arg(Arg::new("user").long("user").value_name("USER").required(true).help("The user the token is for"))
        .arg(Arg::new("device").long("device").value_name("DEVICE").help("The only device it is good for"))
        .arg(Arg::new("ttl").long("ttl").value_name("DURATION").default_value("1h").help("How long it is good for"));
    options::add_to(command)
}

pub(super) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let settings = settings(Options::defaults(), matches)?;
    let Some(TokenKey::Secret(secret)) = &settings.token_key else {
        return Err(Failure::Usage("jwt-secret (EVERLINE_JWT_SECRET) is needed to sign a token".to_owned()));
    };
    let text = |name: &str| matches.get_one::<String>(name).map(String::as_str);
    let user = text("user").unwrap_or_default();
    let user = UserId::parse(user).map_err(|error| Failure::Usage(format!("--user: {error}")))?;
    let device = text("device")
        .map(|device| DeviceId::parse(device).map_err(|error| Failure::Usage(format!("--device: {error}"))))
        .transpose()?;
    let ttl = text("ttl").and_then(duration::parse);
    let ttl = ttl.ok_or_else(|| Failure::Usage("--ttl: not a duration such as 500ms, 2s, 24h, 7d".to_owned()))?;
    let token = Minter::new(secret.expose(), Clock::system()).mint(&user, device.as_ref(), ttl);
    writeln!(std::io::stdout(), "{token}").map_err(Failure::failed)
}
