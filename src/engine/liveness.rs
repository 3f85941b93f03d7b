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
use crate::protocol::ConvId;
use crate::store::{Head, KnownNode, Mark, Result};

/// How long a node's word holds.
const TTL: Duration = Duration::from_secs(10);
/// A clock further behind the time of what is in the store is wrong (rule 9).
const CLOCK_BEHIND_MS: u64 = 60_000;
/// Conversations taken over at once. One that takes longer than [`SLOW`] leaves its place to the next.
const AT_ONCE: usize = 32;
/// Marks that are being finished at most; further ones wait for a later look.
const MOST_UNDER_WAY: usize = 4096;
/// A dead node is looked at again after a tenth of the time it has been dead, between these: its marks are found
/// by the first look, and what comes later is a node that was not dead.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(600));
/// Dead so long, and without marks, a node is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(24 * 60 * 60);
/// A node whose word is older gives it again before it writes a mark: it may have been forgotten. Must be much
/// less than [`FORGOTTEN`].
const KNOWN: Duration = Duration::from_secs(60 * 60);
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
    /// Nodes that are dead, as long as they are.
    dead: HashMap<u64, Dead>,
    /// How often each mark of a dead node was seen that is not under way.
    seen: HashMap<Mark, u64>,
    /// What is being finished.
    under_way: HashSet<Mark>,
    /// Ends with each of them, and whether it was finished.
    tasks: JoinSet<(Mark, bool)>,
    places: Arc<Semaphore>,
}

/// A node taken for dead.
#[derive(Debug)]
struct Dead {
    /// Seen so first.
    since: Instant,
    /// Its marks are looked at when it is time.
    next: Instant,
}

impl Default for Sights {
    fn default() -> Self {
        Self {
            dead: HashMap::new(),
            seen: HashMap::new(),
            under_way: HashSet::new(),
            tasks: JoinSet::new(),
            places: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }
}

impl Sights {
    /// Nodes that are dead and to be looked at now.
    fn due(&mut self, known: &[KnownNode], me: u64) -> Vec<u64> {
        let now = Instant::now();
        let dead: HashSet<u64> =
            known.iter().filter(|known| !known.alive && known.node != me).map(|known| known.node).collect();
        self.dead.retain(|node, _| dead.contains(node));
        for node in dead {
            self.dead.entry(node).or_insert(Dead { since: now, next: now });
        }
        let mut due: Vec<u64> = self.dead.iter().filter(|(_, dead)| dead.next <= now).map(|(node, _)| *node).collect();
        due.sort_unstable();
        due
    }

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
    /// Says that this node is alive.
    async fn give_word(&self) -> Result<()> {
        let began = Instant::now();
        self.store.renew_node(self.attempts.incarnation(), TTL).await?;
        *self.liveness.renewed.lock().unwrap_or_else(PoisonError::into_inner) = Some(began);
        Ok(())
    }

    /// Whether this node's word is younger than this.
    fn word_within(&self, age: Duration) -> bool {
        let renewed = *self.liveness.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        renewed.is_some_and(|at| at.elapsed() < age)
    }

    /// Sees to it that others will look for the mark about to be written.
    pub(super) async fn be_known(&self, id: &ConvId) {
        while !self.word_within(KNOWN) {
            if let Err(error) = self.give_word().await {
                self.wait_for_store(id, &error).await;
            }
        }
    }

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
        self.inner.give_word().await?;
        self.inner.drop_left_marks().await;
        Ok(())
    }

    /// Whether the others know that this node is alive. A store of one process has no others.
    pub fn is_renewed(&self) -> bool {
        self.inner.store.together() || self.inner.word_within(TTL) || planted(Bug::SilentNodeReady)
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
        if planted(Bug::DeadLeftAlone) {
            return Ok(Vec::new());
        }
        let known = self.inner.store.nodes().await?;
        let mut alive: Vec<u64> = known.iter().filter(|known| known.alive).map(|known| known.node).collect();
        alive.sort_unstable();
        let mut marks = Vec::new();
        for node in sights.due(&known, me) {
            marks.extend(self.marks_of_dead(node, sights).await);
        }
        let (seen, under_way) = (&mut sights.seen, &sights.under_way);
        marks.retain(|mark| !under_way.contains(mark));
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

    /// What a dead node has left. One that has left nothing is looked at less and less often, and forgotten.
    async fn marks_of_dead(&self, node: u64, sights: &mut Sights) -> Vec<Mark> {
        let marks = match self.inner.store.marks_of(node, MOST_UNDER_WAY).await {
            Ok(marks) => marks,
            Err(error) => {
                tracing::warn!(node, %error, "could not read what a dead node has left");
                return Vec::new();
            }
        };
        let Some(dead) = sights.dead.get_mut(&node).filter(|_| marks.is_empty()) else { return marks };
        let (now, long) = (Instant::now(), dead.since.elapsed());
        dead.next = now + (long / 10).clamp(LOOK_AGAIN.0, LOOK_AGAIN.1);
        // It does not matter whether that happens: whoever looks next does it.
        if long > FORGOTTEN && self.inner.store.forget_node(node).await.is_ok() {
            tracing::info!(node, "forgot a node that is gone");
        }
        marks
    }

    /// Takes one mark over and waits until it is done; false: its conversation is damaged.
    pub(super) async fn finish_mark(&self, mark: Mark) -> bool {
        let (done, wait) = oneshot::channel();
        let conversation = mark.conversation.clone();
        self.inner.push_conversation(&conversation, ConversationItem::TakeOver { mark, done });
        wait.await.is_ok()
    }
}
