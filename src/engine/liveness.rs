//! Who is alive: this node says so, and finishes what others left when they no longer do (rule 3).
//!
//! A node's word holds for [`TTL`]. One that cannot renew it goes on (compare-and-set protects what it
//! does) but is not ready. Whoever misses another's word takes over what that one's marks name; being
//! wrong is harmless. How it can hurt: too eager nodes raise each other's terms for nothing, so of the
//! nodes that see a dead one's mark one goes first, and the next only when the mark still stands.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::conversation_lane::ConversationItem;
use super::{Engine, Inner};
use crate::planted::{Bug, planted};
use crate::store::{Head, Mark, Result};

/// How long a node's word holds.
const TTL: Duration = Duration::from_secs(10);
/// A clock further behind the time of what is in the store is wrong (rule 9).
const CLOCK_BEHIND_MS: u64 = 60_000;
/// Conversations taken over at once.
const AT_ONCE: usize = 32;
/// Looks for which a node leaves a mark to those before it.
const MOST_TURNS: u64 = 2;

/// What this node knows of being alive itself.
#[derive(Debug, Default)]
pub(super) struct Liveness {
    /// When the word was given that holds now.
    renewed: Mutex<Option<Instant>>,
    /// The latest time of an entry seen in the store: milliseconds since 1970.
    newest_at: AtomicU64,
}

/// How often each mark of a dead node was seen.
#[derive(Debug, Default)]
pub struct Sights(HashMap<Mark, u64>);

impl Inner {
    /// Looks at the time of a head that was read.
    pub(super) fn note_time(&self, head: Head) {
        self.liveness.newest_at.fetch_max(head.at, Ordering::Relaxed);
    }
}

impl Engine {
    /// Says that this node is alive. Call every few seconds.
    ///
    /// # Errors
    /// That the store did not take it.
    pub async fn renew(&self) -> Result<()> {
        let began = Instant::now();
        self.inner.store.renew_node(self.inner.attempts.incarnation(), TTL).await?;
        *self.inner.liveness.renewed.lock().unwrap_or_else(PoisonError::into_inner) = Some(began);
        Ok(())
    }

    /// Whether the others know that this node is alive. A store of one process has no others.
    pub fn is_renewed(&self) -> bool {
        let renewed = *self.inner.liveness.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        self.inner.store.together() || renewed.is_some_and(|at| at.elapsed() < TTL) || planted(Bug::SilentNodeReady)
    }

    /// Whether this node's clock is over a minute behind the time of what is in the store.
    pub fn is_behind(&self) -> bool {
        let newest = self.inner.liveness.newest_at.load(Ordering::Relaxed);
        self.inner.clock.now_ms().saturating_add(CLOCK_BEHIND_MS) < newest && !planted(Bug::ClockBehindReady)
    }

    /// Finishes fan-outs that nodes left undone which are not alive; tells how many marks that were. Call
    /// every few seconds, with the same `sights`.
    ///
    /// # Errors
    /// That the store could not be read.
    pub async fn finish_for_the_dead(&self, sights: &mut Sights) -> Result<usize> {
        let me = self.inner.attempts.incarnation();
        // The marks first: a node gives its word before it writes one, so nobody new is taken for dead.
        let mut marks = self.inner.store.marks().await?;
        marks.retain(|mark| mark.node != me);
        if marks.is_empty() || planted(Bug::DeadLeftAlone) {
            sights.0.clear();
            return Ok(0);
        }
        let mut alive = self.inner.store.nodes().await?;
        alive.sort_unstable();
        marks.retain(|mark| alive.binary_search(&mark.node).is_err());
        sights.0.retain(|mark, _| marks.contains(mark));
        let (place, nodes) = (alive.binary_search(&me).unwrap_or(0) as u64, alive.len().max(1) as u64);
        marks.retain(|mark| {
            let seen = sights.0.entry(mark.clone()).or_default();
            *seen += 1;
            // Marks are shared out by their number; who comes later waits for one more look.
            *seen > (place.wrapping_add(mark.burst) % nodes).min(MOST_TURNS)
        });
        let finished = marks.len();
        stream::iter(marks).for_each_concurrent(AT_ONCE, |mark| self.finish_mark(mark)).await;
        Ok(finished)
    }

    /// Takes one mark over and waits until it is done.
    pub(super) async fn finish_mark(&self, mark: Mark) {
        let (done, wait) = oneshot::channel();
        let conversation = mark.conversation.clone();
        self.inner.push_conversation(&conversation, ConversationItem::TakeOver { mark, done });
        let _ = wait.await;
    }
}
