//! A lane: the queue in front of one timeline, and who drives it.
//!
//! ```text
//!   push ──► [ queue ] ──► driver: decide ─► number ─► commit ─► answer
//!                 ▲                                        │
//!                 └──── what came meanwhile goes as one ◄──┘   (group commit)
//! ```
//!
//! At any moment a lane is free or driven by exactly one task, which owns its state until it finds the
//! queue empty. Nothing is locked while a store works: the state moves out of the lane and back.
//! What is queued keeps its order and its place until it is decided (rule 6).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is kept in memory between commits, and about how much that is.
pub trait Weigh {
    /// Bytes, roughly.
    fn bytes(&self) -> usize;
}

/// Queue and state of one timeline. `I` is what is queued, `S` the folded state kept between commits.
#[derive(Debug)]
pub struct Lane<I, S> {
    inner: Mutex<Inner<I, S>>,
    /// Set at each use, cleared by the sweep that drops lanes long unused.
    used: AtomicBool,
    /// Bytes of the state when it was put back last.
    weight: AtomicUsize,
    /// Those of all lanes of this kind.
    scale: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Inner<I, S> {
    queue: VecDeque<I>,
    driven: bool,
    state: Option<S>,
}

/// What became of an item pushed.
#[derive(Debug, PartialEq, Eq)]
pub enum Pushed {
    /// Queued, and the lane was free: the caller must drive it now.
    Drive,
    /// Queued behind others; whoever drives will take it.
    Queued,
}

/// The queue has no room; here is the item back.
#[derive(Debug)]
pub struct Full<I>(pub I);

impl<I, S> Drop for Lane<I, S> {
    fn drop(&mut self) {
        self.scale.fetch_sub(*self.weight.get_mut(), Ordering::Relaxed);
    }
}

impl<I, S: Weigh> Lane<I, S> {
    /// An empty one, weighed on this scale.
    pub fn new(scale: &Arc<AtomicUsize>) -> Self {
        let inner = Inner { queue: VecDeque::new(), driven: false, state: None };
        let (used, weight) = (AtomicBool::new(true), AtomicUsize::new(0));
        Self { inner: Mutex::new(inner), used, weight, scale: Arc::clone(scale) }
    }

    fn weigh(&self, state: Option<&S>) {
        let now = state.map_or(0, Weigh::bytes);
        let before = self.weight.swap(now, Ordering::Relaxed);
        // Wraps where it has become lighter, and so does the sum.
        self.scale.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Inner<I, S>> {
        // No code that can panic runs under this lock, so a poisoned one is still whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues an item, unless `bound` are waiting already. On [`Pushed::Drive`] the caller owns the
    /// lane and must drive it until [`Lane::take`] says it is empty.
    pub fn push(&self, item: I, bound: usize) -> Result<Pushed, Full<I>> {
        self.used.store(true, Ordering::Relaxed);
        let mut inner = self.lock();
        if inner.queue.len() >= bound {
            return Err(Full(item));
        }
        inner.queue.push_back(item);
        if std::mem::replace(&mut inner.driven, true) { Ok(Pushed::Queued) } else { Ok(Pushed::Drive) }
    }

    /// Takes the lane, with its state, if nobody drives it. The caller must drive it then.
    pub fn try_take(&self) -> Option<Option<S>> {
        self.used.store(true, Ordering::Relaxed);
        let mut inner = self.lock();
        if inner.driven {
            return None;
        }
        inner.driven = true;
        Some(inner.state.take())
    }

    /// The driver's next batch: at most `limit` items for which `fits` (told the items before) holds,
    /// and the state. `None` frees the lane: the queue was empty.
    pub fn take(&self, limit: usize, mut fits: impl FnMut(&[I], &I) -> bool) -> Option<(Vec<I>, Option<S>)> {
        let mut inner = self.lock();
        let mut batch = Vec::new();
        while batch.len() < limit {
            match inner.queue.front() {
                Some(item) if batch.is_empty() || fits(&batch, item) => batch.extend(inner.queue.pop_front()),
                _ => break,
            }
        }
        if batch.is_empty() {
            inner.driven = false;
            return None;
        }
        Some((batch, inner.state.take()))
    }

    /// The driver puts the state back and goes on driving.
    pub fn put(&self, state: Option<S>) {
        self.weigh(state.as_ref());
        self.lock().state = state;
    }

    /// The driver puts the state back and frees the lane, unless items wait: then it still drives
    /// (true).
    pub fn put_and_release(&self, state: Option<S>) -> bool {
        self.weigh(state.as_ref());
        let mut inner = self.lock();
        inner.state = state;
        inner.driven = !inner.queue.is_empty();
        inner.driven
    }

    /// For the sweep: whether the lane was unused since the last sweep and is at rest.
    pub fn idle(&self) -> bool {
        let used = self.used.swap(false, Ordering::Relaxed);
        let inner = self.lock();
        !used && !inner.driven && inner.queue.is_empty()
    }
}
