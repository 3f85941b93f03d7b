//! Webhooks: the application's server is told what was sent, and to whom it came while he was off-line.
//!
//! ```text
//!   engine ── appended ──► take ── log, rows, hub ──► queue (on disk) ──► deliver ── POST, signed ──► receiver
//!                           └── finish: fan-out may be noted as complete
//! ```
//!
//! The queue is one more recipient of each fan-out: until an event is on disk the fan-out counts as not
//! complete, so the store's own recovery tells of it again after a crash. Every event is delivered at least
//! once; its id follows from conversation, number and user, so a receiver knows what it has.
//!
//! Bodies are not in the queue: they are read from the conversation when an event goes out, so what was
//! recalled meanwhile is not told. The receiver slows nobody: whoever sends never waits for anything here
//! but a short lock. How it can hurt: events dropped (too old, too many, disk full) are only counted and
//! logged, and nobody makes them again.

mod deliver;
mod event;
mod queue;
mod sign;
mod take;

use std::sync::Arc;

use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config::{Clock, WebhookSettings};
use crate::engine::Tap;
use crate::hub::Hub;
use crate::store::Store;
use deliver::Deliverer;
use queue::Queue;
pub use sign::signature;
use take::Taker;

/// Why webhooks cannot be used; one line.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The queue's directory.
    #[error("webhook-queue: {0}: {1}")]
    Queue(String, String),
    /// The HTTP client could not be made.
    #[error("webhook-url: {0}")]
    Client(String),
}

/// Webhooks of a running server; dropping it ends them. What was not delivered stays in the queue.
#[derive(Debug)]
pub struct Webhook {
    tap: Arc<Taker>,
    _stop: DropGuard,
}

impl Webhook {
    /// Opens the queue and begins to deliver what is in it. To be called inside a runtime.
    ///
    /// # Errors
    /// That the queue's directory cannot be used (another process may have it open).
    pub async fn start(
        settings: &WebhookSettings,
        store: Arc<dyn Store>,
        hub: Arc<Hub>,
        clock: Clock,
    ) -> Result<Self, Error> {
        let (dir, max_bytes) = (settings.queue.clone(), settings.max_bytes);
        let shown = dir.display().to_string();
        let opened = tokio::task::spawn_blocking(move || Queue::open(&dir, max_bytes)).await;
        let queue = match opened {
            Ok(Ok(queue)) => Arc::new(queue),
            Ok(Err(error)) => return Err(Error::Queue(shown, error.to_string())),
            Err(error) => return Err(Error::Queue(shown, error.to_string())),
        };
        let stop = CancellationToken::new();
        let deliverer =
            Deliverer::new(settings, Arc::clone(&queue), Arc::clone(&store), clock).map_err(Error::Client)?;
        let woken = deliverer.woken();
        tokio::spawn(deliverer.run(stop.clone()));
        let tap = Arc::new(Taker::default());
        tokio::spawn(take::run(Arc::clone(&tap), take::Room { store, hub, queue, woken }, stop.clone()));
        Ok(Self { tap, _stop: stop.drop_guard() })
    }

    /// What the engine tells of entries.
    pub fn tap(&self) -> Arc<dyn Tap> {
        Arc::clone(&self.tap) as Arc<dyn Tap>
    }
}

/// Events that nobody will ever be told of.
fn dropped(why: &'static str, count: usize) {
    metrics::counter!("everline_webhook_dropped_total", "why" => why).increment(count as u64);
}
