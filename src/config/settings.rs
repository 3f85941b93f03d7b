//! What the operator decided, read and checked: one value handed to the rooms that need it.
//!
//! It must not print secrets: they are kept as [`Secret`]. A wrong value is one line that names its
//! source, never the value of a secret.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use super::options::{Given, Options};
use super::{CqlTarget, Error, Policy, Secret, duration};
use crate::protocol::limits;

/// Where timelines are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreChoice {
    /// In a directory, by this process only.
    Embedded(PathBuf),
    /// In ScyllaDB or Cassandra, by any number of processes.
    Cql(CqlTarget),
    /// In memory: gone with the process.
    Memory,
}

/// What client tokens are checked with. One algorithm only, given by the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenKey {
    /// HS256.
    Secret(Secret),
    /// RS256, ES256 or EdDSA, by the kind of the key in this PEM file.
    PublicKey(PathBuf),
}

/// Files for TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate chain, PEM.
    pub cert: PathBuf,
    /// Private key, PEM.
    pub key: PathBuf,
}

/// What one session may do and hold.
#[derive(Debug, Clone)]
pub struct SessionLimits {
    /// A ping when nothing else was sent for so long.
    pub heartbeat: Duration,
    /// Time for `hello`.
    pub hello_deadline: Duration,
    /// A write that makes no progress for so long ends the session.
    pub write_stall: Duration,
    /// After a close was sent, the peer has so long to answer it.
    pub close_grace: Duration,
    /// Largest frame from a client: bytes.
    pub max_frame_bytes: usize,
    /// Largest frame to a client: bytes.
    pub max_server_frame_bytes: usize,
    /// Sync entries sent ahead of the acknowledgement, counted in seq.
    pub window_entries: u64,
    /// Text of one page read from the log, at most about: bytes.
    pub page_bytes: usize,
    /// Requests of one session under way; beyond, its socket is not read.
    pub requests_in_flight: usize,
    /// Messages per device and second; 0 = off.
    pub rate_messages: u32,
    /// Other requests per device and second; 0 = off.
    pub rate_requests: u32,
}

/// Where the application's server is told what happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookSettings {
    /// `http://` or `https://`; often it says more than everybody should know.
    pub url: Secret,
    /// What requests are signed with.
    pub secret: Secret,
    /// Directory of the queue.
    pub queue: PathBuf,
    /// What may wait there: bytes.
    pub max_bytes: u64,
    /// How old an event may become there.
    pub max_age: Duration,
    /// The receiver has so long to answer.
    pub patience: Duration,
    /// The pause after a first failure; it doubles, up to a minute.
    pub first_pause: Duration,
}

/// The whole configuration of a server.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `host:port` clients connect to.
    pub listen: String,
    /// Where timelines are kept.
    pub store: StoreChoice,
    /// Size of each write buffer of the embedded store: KiB.
    pub store_buffer_kib: u32,
    /// The bus between nodes, `nats://host:port`; none: one node.
    pub nats: Option<String>,
    /// How tokens are checked; `serve` refuses to start without.
    pub token_key: Option<TokenKey>,
    /// Keys of the server API; none: there is no API.
    pub api_keys: Vec<Secret>,
    /// Webhooks; none: nobody is told.
    pub webhook: Option<WebhookSettings>,
    /// Allowed origins; empty: the same origin.
    pub allow_origin: Vec<String>,
    /// Rules of timelines and conversations.
    pub policy: Policy,
    /// Rules of sessions.
    pub session: SessionLimits,
    /// Connections per address and second; 0 = off.
    pub rate_connects: u32,
    /// WebSockets of this process.
    pub max_connections: usize,
    /// WebSockets of one address; 0 = no limit.
    pub max_connections_per_address: usize,
    /// `host:port` of `/metrics`; none: the same port, loopback peers only.
    pub metrics_listen: Option<String>,
    /// Peers whose `X-Forwarded-For` counts.
    pub trusted_proxies: Vec<IpNet>,
    /// TLS on the main port.
    pub tls: Option<TlsFiles>,
    /// A request's head (and a TLS handshake) must be there after so long.
    pub upgrade_deadline: Duration,
    /// On SIGTERM the sessions are closed over so long.
    pub drain_spread: Duration,
    /// After that they have so long to finish.
    pub drain_deadline: Duration,
}

impl Default for Settings {
    /// The table of defaults, without a token key.
    fn default() -> Self {
        Self::read(&Options::defaults()).expect("the defaults are valid, as a test shows")
    }
}

impl Settings {
    /// Reads and checks all values.
    pub fn read(options: &Options) -> Result<Self, Error> {
        let read = Reader(options);
        Ok(Self {
            listen: read.need("listen", host_port)?,
            store: read.need("store", store)?,
            store_buffer_kib: read.need("store-buffer", positive)?,
            nats: nats(&read)?,
            token_key: token_key(&read)?,
            api_keys: read.all("api-key", |text| text_of(text).map(Secret::new))?,
            webhook: webhook(&read)?,
            allow_origin: read.all("allow-origin", origin)?,
            policy: policy(&read)?,
            session: session(&read)?,
            rate_connects: read.need("rate-connects", number)?,
            max_connections: read.need("max-connections", positive)?,
            max_connections_per_address: read.need("max-connections-per-address", number)?,
            metrics_listen: read.get("metrics-listen", host_port)?,
            trusted_proxies: read.all("trusted-proxy", network)?,
            tls: tls(&read)?,
            upgrade_deadline: Duration::from_secs(5),
            drain_spread: Duration::from_secs(3),
            drain_deadline: Duration::from_secs(10),
        })
    }
}

/// A bus joins nodes that share a store; other stores are of one process only.
fn nats(read: &Reader<'_>) -> Result<Option<String>, Error> {
    let shared = matches!(read.need("store", store)?, StoreChoice::Cql(_));
    read.get("nats", |text| match text_of(text)? {
        _ if !shared => Err("only nodes on a cql:// store need a bus: remove it, or correct --store".to_owned()),
        text => Ok(text.to_owned()),
    })
}

fn policy(read: &Reader<'_>) -> Result<Policy, Error> {
    Ok(Policy {
        sync_max_entries: read.need("sync-max-entries", positive)?,
        sync_max_age_ms: duration::millis(read.need("sync-max-age", positive_span)?),
        large_conversation_members: read.need("large-conversation-members", positive)?,
        recall_limit_ms: duration::millis(read.need("recall-limit", span)?),
        dedupe_ms: duration::millis(read.need("dedupe", positive_span)?),
        max_devices: read.need("max-devices", positive)?,
        ..Policy::default()
    })
}

fn session(read: &Reader<'_>) -> Result<SessionLimits, Error> {
    Ok(SessionLimits {
        heartbeat: read.need("heartbeat", positive_span)?,
        hello_deadline: Duration::from_secs(10),
        write_stall: Duration::from_secs(30),
        close_grace: Duration::from_secs(2),
        max_frame_bytes: limits::MAX_FRAME,
        max_server_frame_bytes: limits::MAX_SERVER_FRAME,
        window_entries: limits::WINDOW_ENTRIES,
        page_bytes: 64 * 1024,
        requests_in_flight: 256,
        rate_messages: read.need("rate-messages", number)?,
        rate_requests: read.need("rate-requests", number)?,
    })
}

fn token_key(read: &Reader<'_>) -> Result<Option<TokenKey>, Error> {
    let secret = read.get("jwt-secret", |text| text_of(text).map(Secret::new))?;
    let file = read.get("jwt-public-key", path)?;
    match (secret, file) {
        (Some(_), Some(_)) => Err(Error("give either jwt-secret or jwt-public-key, not both".to_owned())),
        (Some(secret), None) => Ok(Some(TokenKey::Secret(secret))),
        (None, Some(file)) => Ok(Some(TokenKey::PublicKey(file))),
        (None, None) => Ok(None),
    }
}

fn webhook(read: &Reader<'_>) -> Result<Option<WebhookSettings>, Error> {
    let url = read.get("webhook-url", url)?;
    let secret = read.get("webhook-secret", |text| text_of(text).map(Secret::new))?;
    let mib: u32 = read.need("webhook-max-mib", positive)?;
    let (queue, max_age) = (read.need("webhook-queue", path)?, read.need("webhook-max-age", positive_span)?);
    match (url, secret) {
        (Some(url), Some(secret)) => Ok(Some(WebhookSettings {
            url,
            secret,
            queue,
            max_bytes: u64::from(mib) * 1024 * 1024,
            max_age,
            patience: Duration::from_secs(10),
            first_pause: Duration::from_secs(1),
        })),
        (None, None) => Ok(None),
        _ => Err(Error("webhook-url and webhook-secret are given together or not at all".to_owned())),
    }
}

fn tls(read: &Reader<'_>) -> Result<Option<TlsFiles>, Error> {
    match (read.get("tls-cert", path)?, read.get("tls-key", path)?) {
        (Some(cert), Some(key)) => Ok(Some(TlsFiles { cert, key })),
        (None, None) => Ok(None),
        _ => Err(Error("tls-cert and tls-key are given together or not at all".to_owned())),
    }
}

/// Reads values by name; errors name the source and what was expected, not the value.
struct Reader<'a>(&'a Options);

impl Reader<'_> {
    fn get<T>(&self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, Error> {
        self.all(name, parse).map(|mut values| values.pop())
    }

    fn need<T>(&self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<T, Error> {
        self.get(name, parse)?.ok_or_else(|| Error(format!("{name} is needed")))
    }

    fn all<T>(&self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, Error> {
        let Some(Given { values, source }) = self.0.get(name) else {
            return Ok(Vec::new());
        };
        let parsed = values.iter().map(|text| parse(text).map_err(|why| Error(format!("{source}: {why}"))));
        parsed.collect()
    }
}

fn text_of(text: &str) -> Result<&str, String> {
    if text.is_empty() { Err("is empty".to_owned()) } else { Ok(text) }
}

fn path(text: &str) -> Result<PathBuf, String> {
    text_of(text).map(PathBuf::from)
}

fn number<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "not a whole number from 0".to_owned())
}

fn positive<T: FromStr + From<u8> + PartialOrd>(text: &str) -> Result<T, String> {
    number(text).ok().filter(|value| *value >= T::from(1)).ok_or_else(|| "not a whole number from 1".to_owned())
}

fn span(text: &str) -> Result<Duration, String> {
    duration::parse(text).ok_or_else(|| "not a duration such as 500ms, 2s, 24h, 7d".to_owned())
}

fn positive_span(text: &str) -> Result<Duration, String> {
    span(text).and_then(|span| if span.is_zero() { Err("must be above zero".to_owned()) } else { Ok(span) })
}

fn host_port(text: &str) -> Result<String, String> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(text.to_owned()),
        _ => Err("not of the form HOST:PORT".to_owned()),
    }
}

fn store(text: &str) -> Result<StoreChoice, String> {
    match text.split_once(':') {
        Some(("embedded", dir)) if !dir.is_empty() => Ok(StoreChoice::Embedded(PathBuf::from(dir))),
        Some(("memory", "")) => Ok(StoreChoice::Memory),
        Some(("cql", rest)) => CqlTarget::parse(rest).map(StoreChoice::Cql),
        _ => Err("not embedded:DIR, memory: or cql://HOST:PORT,.../KEYSPACE".to_owned()),
    }
}

/// May hold a password: an error does not show it.
fn url(text: &str) -> Result<Secret, String> {
    let url = reqwest::Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    url.map(|url| Secret::new(String::from(url)))
        .ok_or_else(|| "not of the form http://HOST/PATH or https://HOST/PATH".to_owned())
}

fn origin(text: &str) -> Result<String, String> {
    let valid = text
        .split_once("://")
        .is_some_and(|(scheme, host)| !scheme.is_empty() && !host.is_empty() && !host.contains('/'));
    if valid { Ok(text.to_ascii_lowercase()) } else { Err("not an origin such as https://app.example".to_owned()) }
}

/// A network, or a single address.
fn network(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>()
        .or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from))
        .map_err(|_| "not a network such as 10.0.0.0/8".to_owned())
}
