//! The place of one session in the hub: its bounded queue, its acknowledgement, its close request.
//!
//! The hub's side only ever pushes and wakes; the session's side is [`Registration`]. An idle seat holds
//! no buffer at all.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures::task::AtomicWaker;

use super::{Hub, Live};
use crate::planted::{Bug, planted};
use crate::protocol::{CloseCode, DeviceId, UserId};

/// Entries a session may have waiting. A session that has more reads its log.
pub const QUEUE_BOUND: usize = 256;

/// Room kept in an emptied buffer; more is given back.
const KEPT_ROOM: usize = 8;

#[derive(Debug)]
pub(super) struct Seat {
    pub(super) number: u64,
    pub(super) device: DeviceId,
    state: Mutex<State>,
    waker: AtomicWaker,
    acked: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// Entries go into the queue; else only `newest` is noted.
    following: bool,
    /// The session must look: entries, an overflow or a close request.
    signalled: bool,
    queue: Vec<Live>,
    /// Largest seq pushed.
    newest: u64,
    close: Option<CloseCode>,
}

pub(super) enum Pushed {
    /// In the queue.
    Queued,
    /// The queue was full: the session follows no longer.
    Overflow,
    /// The session reads its log at the moment.
    Noted,
}

impl Seat {
    pub(super) fn new(number: u64, device: DeviceId) -> Self {
        Self { number, device, state: Mutex::default(), waker: AtomicWaker::new(), acked: AtomicU64::new(0) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock can panic half-way; a poisoned state is a whole one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, entries: &[Live]) -> Pushed {
        let Some(last) = entries.last() else { return Pushed::Noted };
        let mut state = self.state();
        state.newest = state.newest.max(last.seq);
        if !state.following {
            return Pushed::Noted;
        }
        let fits = state.queue.len() + entries.len() <= QUEUE_BOUND;
        if fits {
            state.queue.extend_from_slice(entries);
        } else {
            state.following = planted(Bug::OverflowForgotten);
            state.queue = Vec::new();
        }
        self.signal(state);
        if fits { Pushed::Queued } else { Pushed::Overflow }
    }

    /// Entries up to `head` are in the log and will not be pushed here: whoever follows must read.
    pub(super) fn moved(&self, head: u64) {
        let mut state = self.state();
        if head <= state.newest {
            return;
        }
        state.newest = head;
        if std::mem::take(&mut state.following) {
            state.queue = Vec::new();
            self.signal(state);
        }
    }

    pub(super) fn ask_to_close(&self, code: CloseCode) {
        let mut state = self.state();
        state.close.get_or_insert(code);
        self.signal(state);
    }

    /// Wakes the session unless it has been woken and has not looked yet. The lock is given back before.
    fn signal(&self, mut state: MutexGuard<'_, State>) {
        let first = !std::mem::replace(&mut state.signalled, true);
        drop(state);
        if first {
            self.waker.wake();
        }
    }

    pub(super) fn acked(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }
}

/// What a session learns when it looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// The batch holds what came, in order; possibly nothing.
    Entries,
    /// More came than the queue holds, or the session was not following: read the log.
    Behind,
    /// Close with this code.
    Close(CloseCode),
}

/// A session's seat in the hub; dropping it gives the seat up.
#[derive(Debug)]
pub struct Registration {
    hub: Arc<Hub>,
    user: UserId,
    seat: Arc<Seat>,
}

impl Registration {
    pub(super) fn new(hub: Arc<Hub>, user: UserId, seat: Arc<Seat>) -> Self {
        Self { hub, user, seat }
    }

    /// Starts to follow behind `position`, if nothing above it was pushed yet: entries now come through
    /// the queue. False: something was; read on first.
    pub fn follow(&self, position: u64) -> bool {
        let mut state = self.seat.state();
        state.following = state.newest <= position || planted(Bug::LostWakeUp);
        state.following
    }

    /// Stops following and forgets the queue: the session reads its log.
    pub fn unfollow(&self) {
        let mut state = self.seat.state();
        state.following = false;
        state.queue = Vec::new();
    }

    /// Largest seq pushed since the session registered; 0 when none was.
    pub fn newest(&self) -> u64 {
        self.seat.state().newest
    }

    /// Waits until there is something to [`Registration::take`]. Cancel-safe.
    pub fn poll_signal(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.seat.waker.register(cx.waker());
        if self.seat.state().signalled { Poll::Ready(()) } else { Poll::Pending }
    }

    /// What there is now. `batch` must come empty; its room is exchanged for the queue's.
    pub fn take(&self, batch: &mut Vec<Live>) -> Signal {
        debug_assert!(batch.is_empty(), "entries would be lost");
        if batch.capacity() > KEPT_ROOM {
            *batch = Vec::new();
        }
        let mut state = self.seat.state();
        state.signalled = false;
        if let Some(code) = state.close {
            return Signal::Close(code);
        }
        if !state.following {
            return Signal::Behind;
        }
        std::mem::swap(&mut state.queue, batch);
        Signal::Entries
    }

    /// Notes what the client acknowledged, for [`Hub::acked`].
    pub fn set_acked(&self, seq: u64) {
        self.seat.acked.store(seq, Ordering::Relaxed);
    }

    /// What [`Registration::set_acked`] noted last.
    pub fn acked(&self) -> u64 {
        self.seat.acked()
    }
}

#[cfg(test)]
impl Registration {
    pub(super) fn room(&self) -> usize {
        self.seat.state().queue.capacity()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.hub.unregister(&self.user, &self.seat);
    }
}
