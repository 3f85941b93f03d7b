//! The bus: small notes between nodes, so that what one node commits is shown at once by another.
//!
//! ```text
//!   node A: commit ─► hub ─┬─► sessions here
//!                          └─► publish ══ subject of the user ══► hear ─► hub of node B ─► sessions there
//! ```
//!
//! A note is a hint, never a fact to build on: it may be lost, late, doubled or out of order, and nobody
//! waits for it. What it tells of is durable in the store before, so whoever misses one finds it by
//! reading; heartbeats see to it that everybody reads. It knows no store and no sockets.
//!
//! | bus | is |
//! |---|---|
//! | [`alone`] | the one of a single node: nothing is sent |
//! | [`Exchange`] | several nodes in one process, for tests |
//! | [`nats`] | NATS |
//!
//! How it can hurt: publishing is done by lanes, so it must never block; a queue without a bound would
//! grow for as long as the bus is away. Notes of another epoch are of other data and are dropped here.

mod exchange;
pub mod nats;
mod note;
mod subject;

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::planted::{Bug, planted};

pub use exchange::{Exchange, alone};
pub use note::{Live, MAX_NOTE, Note};
pub use subject::Subject;

/// Takes what other nodes published, with the node's name. Must not block.
pub type Hear = Arc<dyn Fn(u64, Note) + Send + Sync>;

/// The epoch of the data at this moment.
pub type Epoch = Arc<dyn Fn() -> String + Send + Sync>;

/// The way to the other nodes.
pub trait Bus: fmt::Debug + Send + Sync + 'static {
    /// The name of this node: its incarnation.
    fn node(&self) -> u64;

    /// True: there are no other nodes, and nothing need be prepared for them.
    fn is_alone(&self) -> bool;

    /// Whether notes go out and come in at the moment.
    fn is_usable(&self) -> bool;

    /// Sends a note to whoever listens on another node. Never blocks; what does not fit is dropped and
    /// counted. Notes of one node on one subject keep their order.
    fn publish(&self, subject: &Subject, note: &Note);

    /// Hears what other nodes publish on a subject, until the subscription is dropped.
    fn subscribe(&self, subject: &Subject, hear: Hear) -> Subscription;
}

/// Who a node is, and of what data it speaks.
#[derive(Clone)]
pub struct Identity {
    /// The incarnation of the node.
    pub node: u64,
    /// Notes carry it; those of another are not heard.
    pub epoch: Epoch,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Identity {
    /// The bytes of a note of this node.
    fn seal(&self, note: &Note) -> Vec<u8> {
        note::encode(self.node, &(self.epoch)(), note)
    }

    /// A note of another node about the same data, and whose it is.
    fn open(&self, bytes: &[u8]) -> Opened {
        match note::decode(bytes) {
            Some((node, _, note)) if node == self.node => Opened::Own(note),
            Some((_, epoch, _)) if epoch != (self.epoch)() && !planted(Bug::ForeignNoteHeard) => Opened::Foreign,
            Some((node, _, note)) => Opened::Note(node, note),
            None => Opened::Unreadable,
        }
    }
}

/// What received bytes are.
enum Opened {
    Note(u64, Note),
    /// Our own, come back.
    Own(Note),
    /// About other data.
    Foreign,
    Unreadable,
}

/// A standing wish to hear a subject; dropping it ends it.
pub struct Subscription {
    stands: Option<watch::Receiver<bool>>,
    _guard: Option<Box<dyn Any + Send + Sync>>,
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").finish_non_exhaustive()
    }
}

impl Subscription {
    /// One that stands at once; `guard` ends it when dropped.
    fn standing(guard: Option<Box<dyn Any + Send + Sync>>) -> Self {
        Self { stands: None, _guard: guard }
    }

    /// One that stands once `stands` says so.
    fn pending(stands: watch::Receiver<bool>, guard: Box<dyn Any + Send + Sync>) -> Self {
        Self { stands: Some(stands), _guard: Some(guard) }
    }

    /// A way to wait for it without holding it.
    pub fn stands(&self) -> Stands {
        Stands(self.stands.clone())
    }
}

/// Tells when a subscription stands.
#[derive(Debug, Clone)]
pub struct Stands(Option<watch::Receiver<bool>>);

impl Stands {
    /// Waits until everything published from now on is heard, at most so long. False: not known.
    pub async fn wait(self, at_most: Duration) -> bool {
        let Some(mut stands) = self.0 else { return true };
        let stood = tokio::time::timeout(at_most, stands.wait_for(|stands| *stands)).await;
        matches!(stood, Ok(Ok(_)))
    }
}
