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
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Queue and state of one timeline. `I` is what is queued, `S` the folded state kept between commits.
#[derive(Debug)]
pub struct Lane<I, S> {
    inner: Mutex<Inner<I, S>>,
    /// Set at each use, cleared by the sweep that drops lanes long unused.
    used: AtomicBool,
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

/// The queue has no room.
#[derive(Debug)]
pub struct Full;

impl<I, S> Default for Lane<I, S> {
    fn default() -> Self {
        let inner = Inner { queue: VecDeque::new(), driven: false, state: None };
        Self { inner: Mutex::new(inner), used: AtomicBool::new(true) }
    }
}

impl<I, S> Lane<I, S> {
    fn lock(&self) -> MutexGuard<'_, Inner<I, S>> {
        // No code that can panic runs under this lock, so a poisoned one is still whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues an item, unless `bound` are waiting already. On [`Pushed::Drive`] the caller owns the
    /// lane and must drive it until [`Lane::take`] says it is empty.
    pub fn push(&self, item: I, bound: usize) -> Result<Pushed, Full> {
        self.used.store(true, Ordering::Relaxed);
        let mut inner = self.lock();
        if inner.queue.len() >= bound {
            return Err(Full);
        }
        inner.queue.push_back(item);
        if std::mem::replace(&mut inner.driven, true) { Ok(Pushed::Queued) } else { Ok(Pushed::Drive) }
    }

    /// Takes the lane if nobody drives it, with its state; else queues the item.
    pub fn take_or_queue(&self, item: I) -> Taken<I, S> {
        self.used.store(true, Ordering::Relaxed);
        let mut inner = self.lock();
        if std::mem::replace(&mut inner.driven, true) {
            inner.queue.push_back(item);
            Taken::Queued
        } else {
            Taken::Mine(item, inner.state.take())
        }
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
        self.lock().state = state;
    }

    /// The driver puts the state back and frees the lane, unless items wait: then it still drives
    /// (true).
    pub fn put_and_release(&self, state: Option<S>) -> bool {
        let mut inner = self.lock();
        inner.state = state;
        inner.driven = !inner.queue.is_empty();
        inner.driven
    }

    /// Looks at the state if the lane is at rest: `None` when it is driven or holds none.
    pub fn peek<R>(&self, look: impl FnOnce(&S) -> R) -> Option<R> {
        self.lock().state.as_ref().map(look)
    }

    /// For the sweep: whether the lane was unused since the last sweep and is at rest.
    pub fn idle(&self) -> bool {
        let used = self.used.swap(false, Ordering::Relaxed);
        let inner = self.lock();
        !used && !inner.driven && inner.queue.is_empty()
    }
}

/// Result of [`Lane::take_or_queue`].
#[derive(Debug)]
pub enum Taken<I, S> {
    /// The caller drives the lane now; here is the item back, and the state.
    Mine(I, Option<S>),
    /// Another drives; the item is queued.
    Queued,
}
