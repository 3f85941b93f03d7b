//! What the committer, the checkpoint and the readers share: engine, overlay, queue, the journal's end, and
//! the one way to fail.
//!
//! Must not do work of its own. How it can hurt: a failure that somebody does not look at; every entry
//! point asks [`Shared::usable`] first.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use tokio::sync::watch;

use super::disk::Disk;
use super::overlay::{Overlay, lock};
use super::queue::Queue;
use super::values::Marker;
use crate::store::{Error, Result};

/// Bounds, from the options.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// A checkpoint begins above this.
    pub(super) checkpoint_bytes: usize,
    /// The committer waits above this.
    pub(super) overlay_bytes: usize,
    /// A checkpoint begins this long after the last.
    pub(super) checkpoint_every: Duration,
}

/// See the module.
pub(super) struct Shared {
    pub(super) disk: Disk,
    pub(super) overlay: Overlay,
    pub(super) queue: Queue,
    pub(super) limits: Limits,
    pub(super) epoch: String,
    /// The last group commit that is durable and in the overlay.
    pub(super) end: Mutex<Marker>,
    pub(super) bell: Bell,
    failure: watch::Sender<Option<Arc<str>>>,
    failed: AtomicBool,
}

/// Wakes the checkpoint, and those who wait for it.
#[derive(Default)]
pub(super) struct Bell {
    state: Mutex<Wishes>,
    rung: Condvar,
    done: Condvar,
}

#[derive(Default)]
struct Wishes {
    wanted: u64,
    completed: u64,
    stop: bool,
}

/// Why the checkpoint was woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wake {
    /// Make one; tell [`Bell::completed`] this number.
    Checkpoint(u64),
    /// End.
    Stop,
}

impl Shared {
    pub(super) fn new(disk: Disk, overlay: Overlay, queue: Queue, limits: Limits, epoch: String, end: Marker) -> Self {
        Self {
            disk,
            overlay,
            queue,
            limits,
            epoch,
            end: Mutex::new(end),
            bell: Bell::default(),
            failure: watch::Sender::new(None),
            failed: AtomicBool::new(false),
        }
    }

    /// The store never goes on after this: what the engine holds is not known any more.
    pub(super) fn fail(&self, why: &str) {
        if self.failed.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::error!(error = why, "embedded store failed");
        self.failure.send_replace(Some(Arc::from(why)));
        self.queue.close();
        self.bell.stop();
    }

    pub(super) fn failure(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.failure.subscribe()
    }

    pub(super) fn is_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Reads ask this first.
    pub(super) fn usable(&self) -> Result<()> {
        if !self.is_failed() {
            return Ok(());
        }
        let why = self.failure.borrow().clone().unwrap_or_default();
        Err(Error::Unavailable(format!("stopped after: {why}")))
    }

    /// Runs a thread's body; a panic in it fails the store.
    pub(super) fn guard(&self, name: &str, body: impl FnOnce()) {
        // A panic leaves nothing half done that is used afterwards: the store is failed.
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).is_err() {
            self.fail(&format!("{name} panicked"));
        }
    }
}

impl Bell {
    /// Waits for a reason to make a checkpoint; the timer is one.
    pub(super) fn wait(&self, every: Duration) -> Wake {
        let state = lock(&self.state);
        let idle = |state: &mut Wishes| !state.stop && state.wanted <= state.completed;
        let (state, _) =
            self.rung.wait_timeout_while(state, every, idle).unwrap_or_else(std::sync::PoisonError::into_inner);
        if state.stop { Wake::Stop } else { Wake::Checkpoint(state.wanted) }
    }

    /// Asks for a checkpoint that covers everything up to now; `true` when it is done.
    pub(super) fn ring_and_wait(&self) -> bool {
        let mut state = lock(&self.state);
        state.wanted += 1;
        let mine = state.wanted;
        self.rung.notify_all();
        let waiting = |state: &mut Wishes| !state.stop && state.completed < mine;
        let state = self.done.wait_while(state, waiting).unwrap_or_else(std::sync::PoisonError::into_inner);
        state.completed >= mine
    }

    /// Asks for one, unless one is wanted already.
    pub(super) fn ring(&self) {
        let mut state = lock(&self.state);
        if state.wanted == state.completed {
            state.wanted += 1;
            self.rung.notify_all();
        }
    }

    /// Asks for one that begins from now on, also while one is being made.
    pub(super) fn demand(&self) {
        lock(&self.state).wanted += 1;
        self.rung.notify_all();
    }

    /// A checkpoint begun for wish number `wish` is complete.
    pub(super) fn completed(&self, wish: u64) {
        let mut state = lock(&self.state);
        state.completed = state.completed.max(wish);
        self.done.notify_all();
    }

    /// Somebody made room; who waits for room looks again.
    pub(super) fn progress(&self) {
        let _state = lock(&self.state);
        self.done.notify_all();
    }

    /// Waits until `enough` or the end.
    pub(super) fn wait_for(&self, enough: impl Fn() -> bool) {
        let state = lock(&self.state);
        let _state = self
            .done
            .wait_while(state, |state| !state.stop && !enough())
            .unwrap_or_else(std::sync::PoisonError::into_inner);
    }

    pub(super) fn stop(&self) {
        lock(&self.state).stop = true;
        self.rung.notify_all();
        self.done.notify_all();
    }

    pub(super) fn stopped(&self) -> bool {
        lock(&self.state).stop
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by them")]
mod tests {
    use super::super::{Embedded, Options};
    use crate::config::Clock;
    use crate::protocol::UserId;
    use crate::store::{Attempt, Commit, Error, NewEntry, Outcome, Position, Store, TimelineId};

    fn append(seq: u64) -> Commit {
        let entries = vec![NewEntry { at: 1, data: "x".into() }];
        Commit {
            timeline: TimelineId::User(UserId::parse("u").unwrap()),
            expected: Position { seq, term: 0 },
            term: 0,
            attempt: Attempt(1),
            entries,
            rewrite: Vec::new(),
            rows: Vec::new(),
            floor: 0,
            fanned: 0,
        }
    }

    #[tokio::test]
    async fn a_failed_store_says_so_and_answers_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let store = Embedded::open(Options::new(dir.path(), Clock::system())).unwrap();
        assert_eq!(store.commit(vec![append(0)]).await, [Outcome::Applied]);
        let mut failed = store.failed();
        store.shared.fail("fsync: disk gone");
        failed.changed().await.unwrap();
        assert_eq!(failed.borrow().as_deref(), Some("fsync: disk gone"));
        assert_eq!(store.commit(vec![append(1)]).await, [Outcome::Unknown]);
        let Err(Error::Unavailable(why)) = store.head(&append(0).timeline).await else { panic!("unavailable") };
        assert!(why.contains("disk gone"), "{why}");
        assert!(store.close().is_err());
        drop(store);
        let store = Embedded::open(Options::new(dir.path(), Clock::system())).unwrap();
        assert_eq!(store.head(&append(0).timeline).await.unwrap().position.seq, 1);
    }

    #[tokio::test]
    async fn a_panic_in_a_thread_fails_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let store = Embedded::open(Options::new(dir.path(), Clock::system())).unwrap();
        store.shared.guard("committer", || panic!("planted"));
        assert_eq!(store.failed().borrow().as_deref(), Some("committer panicked"));
    }
}
