//! The side of one session: whom it watches, and what it was told and has not sent yet.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};

use futures::task::AtomicWaker;

use super::{Board, Watcher};
use crate::protocol::UserId;

/// Frames a session may have waiting; of more the oldest are dropped.
pub const OUTLET_BOUND: usize = 64;

/// What a session was told.
#[derive(Debug, Default)]
pub(super) struct Outlet {
    frames: Mutex<VecDeque<Arc<str>>>,
    waker: AtomicWaker,
}

impl Outlet {
    fn frames(&self) -> MutexGuard<'_, VecDeque<Arc<str>>> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn put(&self, frame: &Arc<str>) {
        let mut frames = self.frames();
        if frames.len() >= OUTLET_BOUND {
            frames.pop_front();
            metrics::counter!("everline_ephemeral_dropped_total").increment(1);
        }
        frames.push_back(Arc::clone(frame));
        drop(frames);
        self.waker.wake();
    }
}

/// What a session hears with. Dropped with the session; then it watches nobody.
#[derive(Debug)]
pub struct Ears {
    board: Weak<Board>,
    number: u64,
    pub(super) user: UserId,
    watched: Mutex<HashSet<UserId>>,
    outlet: Arc<Outlet>,
}

impl Ears {
    pub(super) fn new(board: Weak<Board>, number: u64, user: UserId) -> Self {
        Self { board, number, user, watched: Mutex::default(), outlet: Arc::default() }
    }

    /// From now on these are watched, and nobody else.
    pub(super) fn watch(&self, board: &Board, users: impl Iterator<Item = UserId>) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let users: HashSet<UserId> = users.collect();
        for user in users.difference(&watched) {
            let watcher = Watcher { number: self.number, user: self.user.clone(), outlet: Arc::clone(&self.outlet) };
            board.watch(user, watcher);
        }
        watched.difference(&users).for_each(|user| board.unwatch(user, self.number));
        *watched = users;
    }

    /// The next frame. Cancel-safe.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<Arc<str>> {
        self.outlet.waker.register(cx.waker());
        match self.outlet.frames().pop_front() {
            Some(frame) => Poll::Ready(frame),
            None => Poll::Pending,
        }
    }
}

impl Drop for Ears {
    fn drop(&mut self) {
        let Some(board) = self.board.upgrade() else { return };
        let watched = std::mem::take(self.watched.get_mut().unwrap_or_else(PoisonError::into_inner));
        watched.iter().for_each(|user| board.unwatch(user, self.number));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_taken_is_dropped_the_oldest_first() {
        let outlet = Outlet::default();
        for n in 0..OUTLET_BOUND + 10 {
            outlet.put(&n.to_string().into());
        }
        let frames = outlet.frames();
        assert_eq!((frames.len(), &**frames.front().unwrap()), (OUTLET_BOUND, "10"));
    }
}
