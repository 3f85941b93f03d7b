//! The promises of the configuration, without touching the process's own environment.

use std::fs;
use std::time::Duration;

use clap::Command;

use super::options::{self, OPTIONS};
use super::*;

fn load(flags: &[&str], env: &[(&str, &str)], file: &str) -> Result<Settings, Error> {
    let dir = tempfile::tempdir().expect("a directory");
    if !file.is_empty() {
        fs::write(dir.path().join("everline.toml"), file).expect("a file");
    }
    let command = options::add_to(Command::new("serve").no_binary_name(true));
    let matches = command.try_get_matches_from(flags).expect("valid flags");
    let env = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    let options = Options::defaults().overlay(&matches, &env, dir.path())?;
    Settings::read(&options)
}

fn line(result: Result<Settings, Error>) -> String {
    let line = result.expect_err("refused").to_string();
    assert!(!line.contains('\n'), "{line}");
    line
}

#[test]
fn flags_go_over_environment_over_file_over_defaults() {
    let env = [("EVERLINE_HEARTBEAT", "3s"), ("EVERLINE_MAX_DEVICES", "7")];
    let file = "heartbeat = \"4s\"\nmax-devices = 8\nrate-messages = 9\n";
    let settings = load(&["--heartbeat", "2s"], &env, file).expect("valid");
    assert_eq!(settings.session.heartbeat, Duration::from_secs(2));
    assert_eq!(settings.policy.max_devices, 7);
    assert_eq!(settings.session.rate_messages, 9);
    assert_eq!(settings.session.rate_requests, 50);
}

#[test]
fn defaults_are_those_of_the_design_and_help_shows_them() {
    let settings = Settings::default();
    assert_eq!(settings.listen, "127.0.0.1:7700");
    assert_eq!(settings.store, StoreChoice::Embedded("./everline-data".into()));
    assert_eq!(settings.token_key, None);
    let policy = Policy::default();
    assert_eq!(settings.policy.sync_max_entries, policy.sync_max_entries);
    assert_eq!(settings.policy.sync_max_age_ms, policy.sync_max_age_ms);
    assert_eq!(settings.policy.large_conversation_members, policy.large_conversation_members);
    assert_eq!(settings.policy.recall_limit_ms, policy.recall_limit_ms);
    assert_eq!(settings.policy.dedupe_ms, policy.dedupe_ms);
    assert_eq!(settings.policy.max_devices, policy.max_devices);
    assert_eq!((settings.session.rate_messages, settings.session.rate_requests), (20, 50));
    assert_eq!((settings.rate_connects, settings.max_connections), (50, 100_000));
    assert_eq!(settings.session.heartbeat, Duration::from_secs(25));

    let help = options::add_to(Command::new("serve")).render_long_help().to_string();
    for spec in OPTIONS {
        assert!(help.contains(&format!("--{} ", spec.name)), "{}", spec.name);
    }
    for shown in ["[default: 127.0.0.1:7700]", "[default: 25s]", "[env: EVERLINE_SYNC_MAX_AGE]"] {
        assert!(help.contains(shown), "{shown}");
    }
}

#[test]
fn repeatable_options_take_lists() {
    let settings = load(&["--allow-origin", "https://a.example", "--allow-origin", "http://B:1"], &[], "");
    assert_eq!(settings.expect("valid").allow_origin, ["https://a.example", "http://b:1"]);
    let settings = load(&[], &[("EVERLINE_TRUSTED_PROXY", "10.0.0.0/8, ::1")], "").expect("valid");
    assert_eq!(settings.trusted_proxies.len(), 2);
    let settings = load(&[], &[], "allow-origin = [\"https://c.example\"]").expect("valid");
    assert_eq!(settings.allow_origin, ["https://c.example"]);
}

#[test]
fn what_cannot_be_used_is_refused_in_one_line_that_names_its_source() {
    assert!(line(load(&[], &[], "colour = \"red\"")).ends_with("everline.toml: unknown key `colour`"));
    assert!(line(load(&[], &[], "heartbeat = ")).contains("line 1: not valid TOML"));
    assert!(line(load(&[], &[], "heartbeat = true")).contains("heartbeat: neither a text nor a number"));
    assert!(line(load(&["--heartbeat", "soon"], &[], "")).starts_with("--heartbeat: not a duration"));
    assert!(line(load(&[], &[("EVERLINE_MAX_DEVICES", "0")], "")).starts_with("EVERLINE_MAX_DEVICES: "));
    assert_eq!(
        line(load(&["--store", "cql://u:hidden@a:1/K"], &[], "")),
        "--store: the keyspace must begin with a letter and be of lower case letters, digits and _"
    );
    assert!(line(load(&["--store", "redis:"], &[], "")).starts_with("--store: not embedded:DIR"));
    assert!(line(load(&["--tls-cert", "c.pem"], &[], "")).contains("together"));
    assert!(line(load(&["--webhook-url", "http://a.example/x"], &[], "")).contains("together"));
    let ftp = line(load(&["--webhook-url", "ftp://u:hidden@a.example", "--webhook-secret", "s"], &[], ""));
    assert!(ftp.starts_with("--webhook-url: not of the form") && !ftp.contains("hidden"));
    assert!(line(load(&["--config", "/nowhere.toml"], &[], "")).starts_with("/nowhere.toml: cannot be read"));
    assert!(line(load(&["--listen", "7700"], &[], "")).contains("HOST:PORT"));
    assert!(line(load(&["--trusted-proxy", "ten"], &[], "")).contains("not a network"));
}

#[test]
fn secrets_are_never_printed() {
    let settings = load(&["--jwt-secret", "hunter2"], &[], "").expect("valid");
    assert!(matches!(&settings.token_key, Some(TokenKey::Secret(secret)) if secret.expose() == "hunter2"));
    assert!(!format!("{settings:?}").contains("hunter2"));
    let settings =
        load(&["--webhook-url", "http://a.example/", "--webhook-secret", "hunter2"], &[], "").expect("valid");
    assert!(settings.webhook.is_some() && !format!("{settings:?}").contains("hunter2"));
    let both = load(&["--jwt-secret", "hunter2"], &[("EVERLINE_JWT_PUBLIC_KEY", "k.pem")], "");
    assert!(!line(both).contains("hunter2"));
    assert!(!line(load(&[], &[], "jwt-secret = hunter2")).contains("hunter2"));
}
