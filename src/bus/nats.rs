//! The bus over NATS.
//!
//! ```text
//!   publish ─► queue (bounded in notes and bytes) ─► one task ─► client ═══► server
//!   subscribe ─► a task for each subject: SUB, then a probe on the same subject; the probe's return
//!                says that the subscription stands, for the server takes a connection's words in order
//! ```
//!
//! While the server is away notes are dropped, not kept: they would be stale, and heartbeats find what
//! they would have told. The client reconnects by itself, for ever, and subscribes anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, ServerAddr};
use bytes::Bytes;
use futures::StreamExt;
use metrics::{Counter, counter};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::{Bus, Hear, Identity, Note, Opened, Subject, Subscription};

/// Notes on their way to the client.
const QUEUE: usize = 8192;
/// Their bytes.
const QUEUE_BYTES: usize = 32 * 1024 * 1024;
/// Notes the client holds for the server.
const CLIENT_QUEUE: usize = 256;
/// Notes of one subject that have come and are not heard yet.
const INBOX: usize = 256;
/// A server that does not answer a ping for two of these is taken for lost.
const PING: Duration = Duration::from_secs(2);
/// The first connection must be made within this.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest pause between two tries to reconnect.
const RECONNECT: Duration = Duration::from_secs(1);

/// Why there is no bus; one line with the remedy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answers there, or not as a server we may use: it may come.
    #[error("nats: {address}: {why}; start nats-server there, or correct --nats (EVERLINE_NATS)")]
    Unreachable {
        /// Where; no password in it.
        address: String,
        /// What the client says.
        why: String,
    },
    /// What was configured can never be used.
    #[error("nats: {address}: {why}; correct --nats (EVERLINE_NATS)")]
    Address {
        /// What was configured; no password in it.
        address: String,
        /// What is wrong with it.
        why: String,
    },
}

/// Connects to `address`: `nats://[user:password@]host:port`, or several with commas.
///
/// # Errors
/// An address that cannot be used, or nobody answering there.
pub async fn connect(address: &str, identity: Identity) -> Result<Arc<dyn Bus>, Error> {
    let unreachable = |why: String| Error::Unreachable { address: without_password(address), why };
    let unusable = |why: String| Error::Address { address: without_password(address), why };
    let servers = address.split(',').map(|one| one.trim().parse::<ServerAddr>());
    let servers =
        servers.collect::<Result<Vec<_>, _>>().map_err(|_| unusable("not of the form nats://HOST:PORT".into()))?;
    let options = match credentials(address) {
        Some((user, password)) => ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned()),
        None => ConnectOptions::new(),
    };
    let options = options
        .name(format!("everline {:016x}", identity.node))
        .ping_interval(PING)
        .connection_timeout(CONNECT)
        .client_capacity(CLIENT_QUEUE)
        .subscription_capacity(INBOX)
        .reconnect_delay_callback(|tries| Duration::from_millis(50 << tries.min(5)).min(RECONNECT))
        .event_callback(async |event| noticed(&event));
    let client = match tokio::time::timeout(CONNECT, options.connect(servers)).await {
        Ok(Ok(client)) => client,
        Ok(Err(error)) if not_let_in(error.kind()) => return Err(unusable(error.to_string())),
        Ok(Err(error)) => return Err(unreachable(error.to_string())),
        Err(_) => return Err(unreachable(format!("no answer in {} s", CONNECT.as_secs()))),
    };
    let (queue, waiting) = mpsc::channel(QUEUE);
    let queued_bytes = Arc::new(AtomicUsize::new(0));
    let sender = tokio::spawn(send(client.clone(), waiting, Arc::clone(&queued_bytes)));
    Ok(Arc::new(Nats { client, identity, queue, queued_bytes, meters: Meters::new(), sender }))
}

/// User and password of the first address that has them, as they stand there: the client takes none from addresses.
fn credentials(address: &str) -> Option<(&str, &str)> {
    address.split(',').find_map(|one| {
        let rest = one.split_once("://").map_or(one, |(_, rest)| rest);
        rest.rsplit_once('@')?.0.split_once(':')
    })
}

/// Whether a server is there and wants another user or password.
fn not_let_in(error: ConnectErrorKind) -> bool {
    matches!(error, ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation)
}

/// The address as it may be shown.
fn without_password(address: &str) -> String {
    let show = |one: &str| match (one.split_once("://"), one.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://***@{host}"),
        (None, Some((_, host))) => format!("***@{host}"),
        _ => one.to_owned(),
    };
    address.split(',').map(show).collect::<Vec<_>>().join(",")
}

fn noticed(event: &Event) {
    match event {
        Event::Connected => tracing::info!("bus connected"),
        Event::Disconnected => tracing::warn!("bus lost; sessions find by heartbeats what it hides"),
        Event::SlowConsumer(_) => counter!("everline_bus_dropped_total", "why" => "inbox").increment(1),
        other => tracing::debug!(event = %other, "bus"),
    }
}

#[derive(Debug)]
struct Nats {
    client: Client,
    identity: Identity,
    queue: mpsc::Sender<(Subject, Bytes)>,
    queued_bytes: Arc<AtomicUsize>,
    meters: Meters,
    sender: JoinHandle<()>,
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.sender.abort();
    }
}

/// Counters, looked up once.
#[derive(Clone)]
struct Meters {
    published: Counter,
    away: Counter,
    full: Counter,
    heard: Counter,
    foreign: Counter,
    unreadable: Counter,
}

impl std::fmt::Debug for Meters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meters")
    }
}

impl Meters {
    fn new() -> Self {
        let dropped = |why: &'static str| counter!("everline_bus_dropped_total", "why" => why);
        Self {
            published: counter!("everline_bus_published_total"),
            away: dropped("away"),
            full: dropped("queue"),
            heard: counter!("everline_bus_heard_total"),
            foreign: dropped("epoch"),
            unreadable: dropped("unreadable"),
        }
    }
}

impl Bus for Nats {
    fn node(&self) -> u64 {
        self.identity.node
    }

    fn is_alone(&self) -> bool {
        false
    }

    fn is_usable(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    fn publish(&self, subject: &Subject, note: &Note) {
        if !self.is_usable() {
            return self.meters.away.increment(1);
        }
        let bytes = Bytes::from(self.identity.seal(note));
        let size = bytes.len();
        let queued = self.queued_bytes.fetch_add(size, Ordering::Relaxed);
        if queued + size > QUEUE_BYTES || self.queue.try_send((subject.clone(), bytes)).is_err() {
            self.queued_bytes.fetch_sub(size, Ordering::Relaxed);
            return self.meters.full.increment(1);
        }
        self.meters.published.increment(1);
    }

    fn subscribe(&self, subject: &Subject, hear: Hear) -> Subscription {
        let (stands, standing) = watch::channel(false);
        let listener = Listener {
            client: self.client.clone(),
            identity: self.identity.clone(),
            meters: self.meters.clone(),
            hear,
            stands,
        };
        let task = tokio::spawn(listener.listen(subject.to_string()));
        Subscription::pending(standing, Box::new(Ends(task)))
    }
}

/// Ends a task when dropped.
struct Ends(JoinHandle<()>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Hands queued notes to the client, which may take its time.
async fn send(client: Client, mut waiting: mpsc::Receiver<(Subject, Bytes)>, queued_bytes: Arc<AtomicUsize>) {
    while let Some((subject, bytes)) = waiting.recv().await {
        queued_bytes.fetch_sub(bytes.len(), Ordering::Relaxed);
        if let Err(error) = client.publish(subject.to_string(), bytes).await {
            tracing::debug!(%error, "note not published");
        }
    }
}

/// One subject's listener.
struct Listener {
    client: Client,
    identity: Identity,
    meters: Meters,
    hear: Hear,
    stands: watch::Sender<bool>,
}

impl Listener {
    async fn listen(self, subject: String) {
        let mut notes = match self.client.subscribe(subject.clone()).await {
            Ok(notes) => notes,
            Err(error) => return tracing::warn!(%error, "not subscribed"),
        };
        // Straight to the client, behind the subscription: through the queue it could be dropped.
        if let Err(error) = self.client.publish(subject, self.identity.seal(&Note::Probe).into()).await {
            tracing::debug!(%error, "probe not published");
        }
        while let Some(message) = notes.next().await {
            match self.identity.open(&message.payload) {
                Opened::Note(_, Note::Probe) => {}
                Opened::Note(node, note) => {
                    self.meters.heard.increment(1);
                    (self.hear)(node, note);
                }
                Opened::Own(Note::Probe) => drop(self.stands.send_replace(true)),
                Opened::Own(_) => {}
                Opened::Foreign => self.meters.foreign.increment(1),
                Opened::Unreadable => self.meters.unreadable.increment(1),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wrong_address_is_one_line_that_names_the_remedy_and_no_password() {
        let identity = Identity { node: 1, epoch: Arc::new(String::new) };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = listener.local_addr().expect("its address");
        drop(listener);
        for address in [format!("nats://user:hush@{addr}"), "nats://us er@:x".to_owned(), "http://".to_owned()] {
            let error = connect(&address, identity.clone()).await.expect_err("nobody there").to_string();
            assert!(error.contains("--nats") && !error.contains('\n') && !error.contains("hush"), "{error}");
        }
    }
}
