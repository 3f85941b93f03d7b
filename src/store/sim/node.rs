//! The switches of one node: cut off, paused, dead, and the hold on its next commit.
//!
//! A node is one process's handle of the simulated store. Tests turn these; nothing here knows the
//! data. Waiters are woken in the order they came, so that a seed gives one story.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// Where a held commit is parked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Before it takes effect: nobody sees it and it is judged only after the release. (A store that
    /// commits together has judged it, in the order of the calls; it is not durable before.)
    Before,
    /// After it took effect, before its caller learns the outcome.
    After,
}

/// A commit call on hold. Dropping this lets it go on.
#[derive(Debug)]
#[must_use = "dropping it releases the commit"]
pub struct Hold(Arc<Held>);

#[derive(Debug)]
pub(super) struct Held {
    pub(super) moment: Moment,
    reached: AtomicBool,
    released: AtomicBool,
    changed: Notify,
}

impl Hold {
    /// Waits until the commit is parked.
    pub async fn reached(&self) {
        wait(&self.0.changed, || self.0.reached.load(Ordering::Acquire)).await;
    }

    /// Whether the commit is (or was) parked.
    pub fn is_reached(&self) -> bool {
        self.0.reached.load(Ordering::Acquire)
    }

    /// Lets the commit go on.
    pub fn release(&self) {
        self.0.released.store(true, Ordering::Release);
        self.0.changed.notify_waiters();
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.release();
    }
}

impl Held {
    /// Parks here when this is the moment of the hold.
    pub(super) async fn park(&self, moment: Moment) {
        if self.moment == moment {
            self.reached.store(true, Ordering::Release);
            self.changed.notify_waiters();
            wait(&self.changed, || self.released.load(Ordering::Acquire)).await;
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Node {
    cut: AtomicBool,
    paused: AtomicBool,
    dead: AtomicBool,
    changed: Notify,
    hold: Mutex<Option<Arc<Held>>>,
}

impl Node {
    /// True when no switch is on: calls may be answered at once.
    pub(super) fn quiet(&self) -> bool {
        !self.is_cut()
            && !self.paused.load(Ordering::Acquire)
            && !self.is_dead()
            && self.hold.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    pub(super) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    pub(super) fn cut(&self, on: bool) {
        self.cut.store(on, Ordering::Release);
    }

    pub(super) fn pause(&self, on: bool) {
        self.paused.store(on, Ordering::Release);
        self.changed.notify_waiters();
    }

    pub(super) fn kill(&self) {
        self.dead.store(true, Ordering::Release);
    }

    /// Waits while the node is paused; for ever once it is dead.
    pub(super) async fn running(&self) {
        wait(&self.changed, || !self.paused.load(Ordering::Acquire)).await;
        if self.is_dead() {
            std::future::pending::<()>().await;
        }
    }

    pub(super) fn hold_next(&self, moment: Moment) -> Hold {
        let held = Arc::new(Held {
            moment,
            reached: AtomicBool::new(false),
            released: AtomicBool::new(false),
            changed: Notify::new(),
        });
        *self.hold.lock().unwrap_or_else(PoisonError::into_inner) = Some(held.clone());
        Hold(held)
    }

    /// Takes the hold for a commit call being made. A hold released before it met a commit is none.
    pub(super) fn take_hold(&self) -> Option<Arc<Held>> {
        let held = self.hold.lock().unwrap_or_else(PoisonError::into_inner).take();
        held.filter(|held| !held.released.load(Ordering::Acquire))
    }
}

/// Waits until `done`, looking again at each notification.
async fn wait(changed: &Notify, done: impl Fn() -> bool) {
    loop {
        let notified = changed.notified();
        tokio::pin!(notified);
        // Registered before looking, so that no change falls in between.
        notified.as_mut().enable();
        if done() {
            return;
        }
        notified.await;
    }
}
