//! The table of options, and where their values come from: flag over environment over file over default.
//!
//! Values are text until [`super::Settings`] reads them, so every source is treated alike and an error
//! can name the source. It must not print values: some are secrets.
//!
//! Keys of the file are the flags without dashes in front (`sync-max-entries = 1000`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::Error;

/// The file read when no `--config` names another.
const DEFAULT_FILE: &str = "everline.toml";

/// One option. Its environment name is `EVERLINE_` and the name in capitals.
pub(super) struct Spec {
    pub(super) name: &'static str,
    default: Option<&'static str>,
    value: &'static str,
    many: bool,
    help: &'static str,
}

const fn one(name: &'static str, default: &'static str, value: &'static str, help: &'static str) -> Spec {
    Spec { name, default: Some(default), value, many: false, help }
}

const fn unset(name: &'static str, value: &'static str, help: &'static str) -> Spec {
    Spec { name, default: None, value, many: false, help }
}

const fn many(name: &'static str, value: &'static str, help: &'static str) -> Spec {
    Spec { name, default: None, value, many: true, help }
}

/// Every option, in the order of `--help`.
pub(super) const OPTIONS: &[Spec] = &[
    one("listen", "127.0.0.1:7700", "HOST:PORT", "Where clients connect"),
    one(
        "store",
        "embedded:./everline-data",
        "STORE",
        "Where timelines are kept: embedded:DIR, memory: (nothing survives) or cql://HOST:PORT,.../KEYSPACE",
    ),
    one("store-buffer", "32768", "KIB", "embedded: each write buffer; so much waits in the journal for its place"),
    unset("nats", "URL", "Bus between nodes on one CQL store, nats://HOST:PORT [default: one node, no bus]"),
    unset("jwt-secret", "SECRET", "Secret of client tokens (HS256); this or --jwt-public-key is needed"),
    unset("jwt-public-key", "FILE", "Public key of client tokens, PEM (RS256, ES256 or EdDSA)"),
    many("api-key", "KEY", "Key of the server API under /v1/api, repeatable [default: no API]"),
    unset("webhook-url", "URL", "Where events go, http:// or https:// [default: no webhooks]"),
    unset("webhook-secret", "SECRET", "What they are signed with; needed with --webhook-url"),
    one(
        "webhook-queue",
        "./everline-webhooks",
        "DIR",
        "Where events wait that were not taken yet; of this process only",
    ),
    one("webhook-max-mib", "256", "N", "Events that wait: beyond so many MiB the oldest are dropped"),
    one("webhook-max-age", "24h", "DURATION", "Events older than this are dropped"),
    many("allow-origin", "ORIGIN", "Web origins that may connect, repeatable [default: same origin]"),
    one("sync-max-entries", "1000", "N", "Entries kept in a user's sync timeline"),
    one("sync-max-age", "7d", "DURATION", "How long they are kept"),
    one("large-conversation-members", "500", "N", "Above so many members a conversation is large"),
    one("rate-messages", "20", "N", "Messages per device and second, bursts of 3 times; 0 = off"),
    one("rate-requests", "50", "N", "Other requests per device and second, bursts of 3 times; 0 = off"),
    one("rate-connects", "50", "N", "Connections per address and second, bursts of 3 times; 0 = off"),
    one("recall-limit", "24h", "DURATION", "How long a message can be recalled or edited"),
    one("dedupe", "7d", "DURATION", "How long a client_msg_id is remembered"),
    one("heartbeat", "25s", "DURATION", "A ping when nothing else was sent for so long"),
    one("max-devices", "10", "N", "Devices of one user"),
    one("max-connections", "100000", "N", "Connections of this process"),
    one("max-connections-per-address", "0", "N", "Connections from one address; 0 = no limit"),
    unset("metrics-listen", "HOST:PORT", "Where /metrics is served [default: same port, loopback peers only]"),
    many("trusted-proxy", "CIDR", "Proxies whose X-Forwarded-For counts, repeatable"),
    unset("tls-cert", "FILE", "Certificate chain, PEM [default: plain, behind a proxy]"),
    unset("tls-key", "FILE", "Private key, PEM"),
];

/// The environment's name of an option.
fn env_name(name: &str) -> String {
    format!("EVERLINE_{}", name.replace('-', "_").to_uppercase())
}

/// Adds all options and `--config` to a command.
pub fn add_to(command: Command) -> Command {
    let config = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .help(format!("Configuration file, TOML [default: {DEFAULT_FILE} when present]"));
    OPTIONS.iter().fold(command.arg(config), |command, spec| {
        let default = spec.default.map(|value| format!(" [default: {value}]")).unwrap_or_default();
        command.arg(
            Arg::new(spec.name)
                .long(spec.name)
                .value_name(spec.value)
                .action(if spec.many { ArgAction::Append } else { ArgAction::Set })
                .help(format!("{}{default} [env: {}]", spec.help, env_name(spec.name))),
        )
    })
}

/// A value and who gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    /// One text, or several for a repeatable option.
    pub(super) values: Vec<String>,
    /// For error messages: `--listen`, `EVERLINE_LISTEN`, `everline.toml: listen` or `default`.
    pub(super) source: String,
}

/// Values of all options, before they are read.
pub struct Options {
    given: BTreeMap<&'static str, Given>,
}

impl Options {
    /// The defaults only.
    pub fn defaults() -> Self {
        let given = OPTIONS.iter().filter_map(|spec| {
            let values = vec![spec.default?.to_owned()];
            Some((spec.name, Given { values, source: "default".to_owned() }))
        });
        Self { given: given.collect() }
    }

    /// Replaces a default before anything else is laid over it; for commands with another one.
    ///
    /// # Panics
    /// When there is no such option: a mistake of the program.
    #[must_use]
    pub fn with_default(mut self, name: &str, value: impl Into<String>) -> Self {
        let spec = OPTIONS.iter().find(|spec| spec.name == name).expect("a known option");
        self.given.insert(spec.name, Given { values: vec![value.into()], source: "default".to_owned() });
        self
    }

    /// Lays file, environment and flags over what is there. `dir` is where `everline.toml` is looked for.
    pub fn overlay(
        mut self,
        flags: &ArgMatches,
        env: &dyn Fn(&str) -> Option<String>,
        dir: &Path,
    ) -> Result<Self, Error> {
        let named = flags.get_one::<String>("config").cloned().or_else(|| env("EVERLINE_CONFIG"));
        let file = match named {
            Some(path) => Some(PathBuf::from(path)),
            None => Some(dir.join(DEFAULT_FILE)).filter(|path| path.exists()),
        };
        if let Some(path) = file {
            self.overlay_file(&path)?;
        }
        for spec in OPTIONS {
            let flag = flags
                .get_many::<String>(spec.name)
                .map(|values| Given { values: values.cloned().collect(), source: format!("--{}", spec.name) });
            if let Some(given) = flag.or_else(|| from_env(spec, env)) {
                self.given.insert(spec.name, given);
            }
        }
        Ok(self)
    }

    fn overlay_file(&mut self, path: &Path) -> Result<(), Error> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).map_err(|error| Error(format!("{shown}: cannot be read: {error}")))?;
        // The parser's own message quotes the line, which may hold a secret: only its place is told.
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            let line = error
                .span()
                .map_or(1, |span| text.get(..span.start).map_or(1, |before| before.matches('\n').count() + 1));
            Error(format!("{shown}: line {line}: not valid TOML"))
        })?;
        for (key, value) in table {
            let spec = OPTIONS
                .iter()
                .find(|spec| spec.name == key)
                .ok_or_else(|| Error(format!("{shown}: unknown key `{key}`")))?;
            let source = format!("{shown}: {key}");
            let values = texts(spec, value)
                .ok_or_else(|| Error(format!("{source}: neither a text nor a number{}", or_list(spec))))?;
            self.given.insert(spec.name, Given { values, source });
        }
        Ok(())
    }

    pub(super) fn get(&self, name: &str) -> Option<&Given> {
        self.given.get(name)
    }
}

/// An empty variable counts as unset, as deployment files leave them.
fn from_env(spec: &Spec, env: &dyn Fn(&str) -> Option<String>) -> Option<Given> {
    let source = env_name(spec.name);
    let text = env(&source).filter(|text| !text.is_empty())?;
    let values = if spec.many {
        text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
    } else {
        vec![text]
    };
    Some(Given { values, source })
}

fn or_list(spec: &Spec) -> &'static str {
    if spec.many { ", nor a list of texts" } else { "" }
}

fn texts(spec: &Spec, value: toml::Value) -> Option<Vec<String>> {
    match value {
        toml::Value::String(text) => Some(vec![text]),
        toml::Value::Integer(number) => Some(vec![number.to_string()]),
        toml::Value::Array(items) if spec.many => {
            items.into_iter().map(|item| item.as_str().map(str::to_owned)).collect()
        }
        _ => None,
    }
}
