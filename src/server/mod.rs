//! The server: one port for WebSocket, the server API, health, metrics and the page.
//!
//! ```text
//!   accept ── limits of the address, permits, TLS ──► HTTP ── upgrade ──► session (a task of its own)
//!                                                        └── /v1/api /healthz /readyz /metrics /
//! ```
//!
//! It knows sockets and HTTP, no rules and no timelines. The caller owns the listener (tests use port 0)
//! and the moment of the end ([`Handle::stop`]). How it can hurt: a task not tracked is cut off by the
//! end of the process, so every connection is spawned on the tracker.

mod accept;
mod address;
mod alive;
pub mod api;
mod drain;
mod metrics;
mod routes;
mod tls;
mod upgrade;
mod wire;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ::metrics::{Gauge, gauge};
use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::{KeyError, Verifier};
use crate::bus::{self, Bus, Identity};
use crate::config::{Clock, Settings, TokenKey};
use crate::engine::Engine;
use crate::hub::Hub;
use crate::session;
use crate::store::{self, Store};
use crate::webhook::{self, Webhook};
use address::{Addresses, Place};
pub use routes::page;

/// Metrics are tidied up so often.
const UPKEEP: Duration = Duration::from_secs(5);

/// Why a server cannot start; one line each.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration names nothing to check tokens with.
    #[error("jwt-secret (EVERLINE_JWT_SECRET) or jwt-public-key is needed")]
    NoTokenKey,
    /// The key file cannot be read.
    #[error("jwt-public-key: {0}: {1}")]
    KeyFile(String, std::io::Error),
    /// The key cannot be used.
    #[error("jwt-public-key: {0}: {1}")]
    Key(String, KeyError),
    /// TLS files cannot be used.
    #[error("tls: {0}")]
    Tls(String),
    /// A listener could not be made.
    #[error("{0}: {1}")]
    Listen(String, std::io::Error),
    /// The bus cannot be used.
    #[error("{0}")]
    Bus(#[from] bus::nats::Error),
    /// Webhooks cannot be used.
    #[error("{0}")]
    Webhook(#[from] webhook::Error),
    /// The store could not be read when undone work was looked for.
    #[error("{0}")]
    Store(#[from] store::Error),
}

/// The rooms below, built and ready to serve.
pub struct Parts {
    /// Where timelines are kept; asked for readiness.
    pub store: Arc<dyn Store>,
    /// Decides and reads.
    pub engine: Engine,
    /// The way to sessions; the one the engine pushes to.
    pub hub: Arc<Hub>,
    /// Checks tokens.
    pub verifier: Verifier,
    /// The clock of all of them.
    pub clock: Clock,
    /// What `/` shows, and whatever else a command serves beside it.
    pub page: Router,
    /// Called before metrics are shown, to set those that are counted elsewhere.
    pub observe: Option<Observer>,
    /// Tells the application's server; ends with the server.
    pub webhook: Option<Webhook>,
    /// Conversations whose fan-out a crash had interrupted, finished before this was built.
    pub recovered: usize,
}

/// Sets metrics that are counted elsewhere.
pub type Observer = Arc<dyn Fn() + Send + Sync>;

impl Parts {
    /// Builds the rooms over a store, in their order, and finishes what a crash left undone.
    /// `incarnation` must never have been used with this store before.
    pub async fn assemble(
        settings: &Settings,
        store: Arc<dyn Store>,
        verifier: Verifier,
        clock: Clock,
        incarnation: u64,
    ) -> Result<Self, Error> {
        let bus = match &settings.nats {
            Some(address) => {
                // The counters' recorder first: handles looked up before it exists would count nowhere.
                metrics::handle();
                let of_store = Arc::clone(&store);
                let identity = Identity { node: incarnation, epoch: Arc::new(move || of_store.epoch()) };
                bus::nats::connect(address, identity).await?
            }
            None => bus::alone(incarnation),
        };
        Self::assemble_on(bus, settings, store, verifier, clock).await
    }

    /// [`Parts::assemble`] for the node of this bus.
    pub async fn assemble_on(
        bus: Arc<dyn Bus>,
        settings: &Settings,
        store: Arc<dyn Store>,
        verifier: Verifier,
        clock: Clock,
    ) -> Result<Self, Error> {
        let incarnation = bus.node();
        let hub = Arc::new(Hub::new(bus));
        let engine =
            Engine::new(Arc::clone(&store), Arc::clone(&hub), clock.clone(), settings.policy.clone(), incarnation);
        let webhook = match &settings.webhook {
            Some(settings) => {
                // The recorder before counters are looked up.
                metrics::handle();
                let webhook = Webhook::start(settings, Arc::clone(&store), Arc::clone(&hub), clock.clone()).await?;
                engine.set_tap(webhook.tap());
                Some(webhook)
            }
            None => None,
        };
        // Its word before its first mark.
        engine.renew().await?;
        let recovered = engine.recover().await?;
        if recovered > 0 {
            tracing::info!(conversations = recovered, "finished deliveries left undone");
        }
        Ok(Self { store, engine, hub, verifier, clock, page: page(), observe: None, webhook, recovered })
    }
}

/// The verifier the configuration asks for. Needs nothing of the store: make it before opening one.
pub fn verifier(settings: &Settings, clock: Clock) -> Result<Verifier, Error> {
    match settings.token_key.as_ref().ok_or(Error::NoTokenKey)? {
        TokenKey::Secret(secret) => Ok(Verifier::with_secret(secret.expose(), clock)),
        TokenKey::PublicKey(path) => {
            let shown = path.display().to_string();
            let pem = std::fs::read(path).map_err(|error| Error::KeyFile(shown.clone(), error))?;
            Verifier::with_public_key(&pem, clock).map_err(|error| Error::Key(shown, error))
        }
    }
}

/// The peer of a connection, as an extension of its requests.
#[derive(Debug, Clone, Copy)]
struct Peer(SocketAddr);

/// What all connections of a server share.
struct House {
    sessions: Arc<session::Shared>,
    engine: Engine,
    store: Arc<dyn Store>,
    hub: Arc<Hub>,
    api: Option<Arc<api::Api>>,
    allow_origin: Vec<String>,
    addresses: Arc<Addresses>,
    max_connections: usize,
    sockets: Arc<Semaphore>,
    connections: Gauge,
    metrics_apart: bool,
    observe: Option<Observer>,
    _webhook: Option<Webhook>,
    upgrade_deadline: Duration,
    stopping: CancellationToken,
    tracker: TaskTracker,
}

/// A WebSocket's places in the limits; dropping it gives them back.
struct Places {
    _permit: OwnedSemaphorePermit,
    _place: Place,
    connections: Gauge,
}

impl Drop for Places {
    fn drop(&mut self) {
        self.connections.decrement(1.0);
    }
}

impl House {
    fn new(settings: &Settings, parts: Parts) -> Self {
        let stopping = CancellationToken::new();
        let api = api::Api::new(parts.engine.clone(), &settings.api_keys, settings.policy.max_body_bytes);
        let engine = parts.engine.clone();
        let sessions = session::Shared::new(
            parts.engine,
            Arc::clone(&parts.hub),
            parts.clock,
            parts.verifier,
            settings.session.clone(),
            &settings.policy,
            stopping.clone(),
        );
        let addresses = Addresses::new(
            settings.rate_connects,
            settings.max_connections_per_address,
            settings.trusted_proxies.clone(),
        );
        Self {
            sessions: Arc::new(sessions),
            engine,
            store: parts.store,
            hub: parts.hub,
            api,
            allow_origin: settings.allow_origin.clone(),
            addresses: Arc::new(addresses),
            max_connections: settings.max_connections,
            sockets: Arc::new(Semaphore::new(settings.max_connections.min(Semaphore::MAX_PERMITS))),
            connections: gauge!("everline_connections"),
            metrics_apart: settings.metrics_listen.is_some(),
            observe: parts.observe,
            _webhook: parts.webhook,
            upgrade_deadline: settings.upgrade_deadline,
            stopping,
            tracker: TaskTracker::new(),
        }
    }

    /// Room for one more WebSocket of this address.
    fn places(&self, address: IpAddr, now: Instant) -> Option<Places> {
        let permit = Arc::clone(&self.sockets).try_acquire_owned().ok()?;
        let place = self.addresses.enter(address, now)?;
        self.connections.increment(1.0);
        Some(Places { _permit: permit, _place: place, connections: self.connections.clone() })
    }
}

/// Starts servers.
pub struct Server;

impl Server {
    /// Serves on `listener` (and on `metrics_listen`, if set) until [`Handle::stop`].
    pub async fn start(settings: &Settings, parts: Parts, listener: TcpListener) -> Result<Handle, Error> {
        // The recorder first: handles looked up before it exists would count nowhere.
        metrics::handle();
        ::metrics::counter!("everline_recovered_fanouts_total").increment(parts.recovered as u64);
        let tls = settings.tls.as_ref().map(tls::acceptor).transpose()?;
        let page = parts.page.clone();
        let house = Arc::new(House::new(settings, parts));
        let addr = local(&listener, &settings.listen)?;
        let mut metrics_addr = None;
        if let Some(listen) = &settings.metrics_listen {
            let listener = bind(listen).await?;
            metrics_addr = Some(local(&listener, listen)?);
            let router = routes::metrics_router(Arc::clone(&house));
            house.tracker.spawn(accept::accept(Arc::clone(&house), listener, router, None));
        }
        let router = routes::router(Arc::clone(&house), page);
        house.tracker.spawn(accept::accept(Arc::clone(&house), listener, router, tls));
        house.tracker.spawn(tidy(house.stopping.clone()));
        if !house.store.together() {
            // Not tracked: what is under way there needs no end, another node does it as well.
            tokio::spawn(alive::renew(Arc::downgrade(&house)));
            tokio::spawn(alive::finish(Arc::downgrade(&house)));
            tokio::spawn(alive::look(Arc::downgrade(&house)));
        }
        let (drain_spread, drain_deadline) = (settings.drain_spread, settings.drain_deadline);
        Ok(Handle { addr, metrics_addr, house, drain_spread, drain_deadline })
    }
}

/// Binds a `host:port`.
pub async fn bind(listen: &str) -> Result<TcpListener, Error> {
    TcpListener::bind(listen).await.map_err(|error| Error::Listen(listen.to_owned(), error))
}

fn local(listener: &TcpListener, listen: &str) -> Result<SocketAddr, Error> {
    listener.local_addr().map_err(|error| Error::Listen(listen.to_owned(), error))
}

async fn tidy(stopping: CancellationToken) {
    let mut ticks = interval(UPKEEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            _ = ticks.tick() => metrics::upkeep(),
        }
    }
}

/// A running server. Dropping the handle does not stop it: see [`Handle::stop`].
pub struct Handle {
    addr: SocketAddr,
    metrics_addr: Option<SocketAddr>,
    house: Arc<House>,
    drain_spread: Duration,
    drain_deadline: Duration,
}

impl Handle {
    /// Where it listens; the port is the real one, also when 0 was asked for.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where metrics are served, if on a listener of their own.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics_addr
    }

    /// The hub, for tests and tools that look at sessions.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.house.hub
    }

    /// Stops accepting, closes all sessions with 1012 spread over a few seconds, and waits for what is
    /// under way. False: something was still not finished at the deadline.
    pub async fn stop(self) -> bool {
        drain::drain(&self.house, self.drain_spread, self.drain_deadline).await
    }
}
