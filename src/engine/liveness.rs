//! Who is alive: this node says so, and finishes what others left when they no longer do (rule 3).
//!
//! A node's word holds for [`TTL`]. One that cannot renew it goes on (compare-and-set protects what it
//! does) but is not ready. Whoever misses another's word takes over what that one's marks name; being
//! wrong is harmless. How it can hurt: too eager nodes raise each other's terms for nothing, so of the
//! nodes that see a dead one's mark one goes first, and the next only when the mark still stands.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::conversation_lane::ConversationItem;
use super::{Engine, Inner};
use crate::planted::{Bug, planted};
use crate::store::{Head, Mark, Result};

/// How long a node's word holds.
const TTL: Duration = Duration::from_secs(10);
/// A clock further behind the time of what is in the store is wrong (rule 9).
const CLOCK_BEHIND_MS: u64 = 60_000;
/// Conversations taken over at once. One that takes longer than [`SLOW`] leaves its place to the next.
const AT_ONCE: usize = 32;
/// Marks that are being finished at most; further ones wait for a later look.
const MOST_UNDER_WAY: usize = 4096;
/// So long at most a look waits for what it began, before the next look.
const SLOW: Duration = Duration::from_secs(2);
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

/// What one who looks for dead nodes' marks remembers from look to look.
#[derive(Debug)]
pub struct Sights {
    /// How often each mark of a dead node was seen that is not under way.
    seen: HashMap<Mark, u64>,
    /// What is being finished.
    under_way: HashSet<Mark>,
    /// Ends with each of them, and whether it was finished.
    tasks: JoinSet<(Mark, bool)>,
    places: Arc<Semaphore>,
}

impl Default for Sights {
    fn default() -> Self {
        let (seen, under_way) = (HashMap::new(), HashSet::new());
        Self { seen, under_way, tasks: JoinSet::new(), places: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

impl Sights {
    /// Waits until all that is under way has ended, or the time is over; tells how much was finished.
    async fn wait(&mut self) -> usize {
        let deadline = Instant::now() + SLOW;
        let mut finished = 0;
        while let Ok(Some(ended)) = timeout_at(deadline, self.tasks.join_next()).await {
            let Ok((mark, done)) = ended else { continue };
            self.under_way.remove(&mark);
            finished += usize::from(done);
        }
        finished
    }
}

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
        self.inner.drop_left_marks().await;
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

    /// Finishes fan-outs that nodes left undone which are not alive; tells how many marks were finished since
    /// it was called last. What takes long goes on meanwhile, and the next call looks for others. Call every few
    /// seconds, with the same `sights`.
    ///
    /// # Errors
    /// That the store could not be read.
    pub async fn finish_for_the_dead(&self, sights: &mut Sights) -> Result<usize> {
        let due = self.due_marks(sights).await?;
        for mark in due {
            sights.under_way.insert(mark.clone());
            let (engine, places) = (self.clone(), Arc::clone(&sights.places));
            sights.tasks.spawn(async move {
                let place = places.acquire_owned().await;
                let mut finishing = std::pin::pin!(engine.finish_mark(mark.clone()));
                if let Ok(done) = timeout(SLOW, finishing.as_mut()).await {
                    return (mark, done);
                }
                drop(place);
                (mark, finishing.await)
            });
        }
        Ok(sights.wait().await)
    }

    /// Marks of dead nodes that are this node's turn.
    async fn due_marks(&self, sights: &mut Sights) -> Result<Vec<Mark>> {
        let me = self.inner.attempts.incarnation();
        // The marks first: a node gives its word before it writes one, so nobody new is taken for dead.
        let mut marks = self.inner.store.marks().await?;
        marks.retain(|mark| mark.node != me);
        if marks.is_empty() || planted(Bug::DeadLeftAlone) {
            sights.seen.clear();
            return Ok(Vec::new());
        }
        let mut alive = self.inner.store.nodes().await?;
        alive.sort_unstable();
        let (seen, under_way) = (&mut sights.seen, &sights.under_way);
        marks.retain(|mark| alive.binary_search(&mark.node).is_err() && !under_way.contains(mark));
        let stand: HashSet<&Mark> = marks.iter().collect();
        seen.retain(|mark, _| stand.contains(mark));
        let (place, nodes) = (alive.binary_search(&me).unwrap_or(0) as u64, alive.len().max(1) as u64);
        marks.retain(|mark| {
            let seen = seen.entry(mark.clone()).or_default();
            *seen += 1;
            // Marks are shared out by their number; who comes later waits for one more look.
            *seen > (place.wrapping_add(mark.burst) % nodes).min(MOST_TURNS)
        });
        marks.truncate(MOST_UNDER_WAY.saturating_sub(under_way.len()));
        Ok(marks)
    }

    /// Takes one mark over and waits until it is done; false: its conversation is damaged.
    pub(super) async fn finish_mark(&self, mark: Mark) -> bool {
        let (done, wait) = oneshot::channel();
        let conversation = mark.conversation.clone();
        self.inner.push_conversation(&conversation, ConversationItem::TakeOver { mark, done });
        wait.await.is_ok()
    }
}
