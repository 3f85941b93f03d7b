//! The place of one session in the hub: its bounded queue, its acknowledgement, its close request.
//!
//! The hub's side only ever pushes and wakes; the session's side is [`Registration`]. An idle seat holds
//! no buffer at all.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::task::AtomicWaker;
use tokio::time::Instant;

use super::{FollowerSeat, Hub, Live};
use crate::bus::Note;
use crate::planted::{Bug, planted};
use crate::protocol::{CloseCode, DeviceId, UserId};

/// Entries a session may have waiting. A session that has more reads its log.
pub const QUEUE_BOUND: usize = 256;

/// Two connections of one device at two nodes may be of the same moment for so long; then their clocks
/// say which is the newer one.
const SAME_MOMENT: Duration = Duration::from_secs(2);

/// Room kept in an emptied buffer; more is given back.
const KEPT_ROOM: usize = 8;

#[derive(Debug)]
pub(super) struct Seat {
    pub(super) number: u64,
    pub(super) device: DeviceId,
    state: Mutex<State>,
    waker: AtomicWaker,
    acked: AtomicU64,
    since: Instant,
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
    /// A large conversation it follows has moved; until the session has collected what is new.
    heads: bool,
    close: Option<CloseCode>,
    /// When it connected, as other nodes are told; 0: not told yet.
    at_ms: u64,
    /// The latest connection of the device to another node that was told of before.
    earlier_ms: u64,
}

/// How a connection stands to another of its device.
pub(super) enum Rank {
    /// It is to close.
    Older,
    /// It is to stay; when it connected, as was told.
    Newer { at_ms: u64 },
    /// It has not told when it connected, or it closes already.
    Untold,
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
        Self {
            number,
            device,
            state: Mutex::default(),
            waker: AtomicWaker::new(),
            acked: AtomicU64::new(0),
            since: Instant::now(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock can panic half-way; a poisoned state is a whole one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, entries: &[Live]) -> Pushed {
        let mut state = self.state();
        // What was pushed or told of before comes doubled or late, by the bus.
        let known = entries.partition_point(|entry| entry.seq <= state.newest);
        let entries = entries.get(known..).unwrap_or_default();
        let Some(last) = entries.last() else { return Pushed::Noted };
        state.newest = last.seq;
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

    /// How this connection stands to the device's connection to another node (its time and name). One not told yet
    /// is the newest of all, and is going to say so. Of two of the same moment each node finds the same one older,
    /// so one of them stays.
    pub(super) fn rank(&self, other: (u64, u64), here: u64) -> Rank {
        let mut state = self.state();
        if state.at_ms == 0 {
            state.earlier_ms = state.earlier_ms.max(other.0);
            return Rank::Untold;
        }
        if (state.at_ms, here) < other || self.since.elapsed() > SAME_MOMENT {
            return Rank::Older;
        }
        if state.close.is_some() { Rank::Untold } else { Rank::Newer { at_ms: state.at_ms } }
    }

    /// The device's connection to another node takes itself for the newer. Who is hearing of it only now came after
    /// it, with a clock that is behind: tells the time to be told instead. Who was asked to close by it does.
    pub(super) fn outdo(&self, other: (u64, u64), here: u64) -> Option<u64> {
        let mut state = self.state();
        let behind = state.at_ms != 0 && (state.at_ms, here) < other && self.since.elapsed() <= SAME_MOMENT;
        (behind && state.close.is_none()).then(|| {
            state.at_ms = other.0.saturating_add(1);
            state.at_ms
        })
    }

    /// Notes that it connected now, and gives the time to be told: behind all that was told of the device before,
    /// or that connection and this one would both take themselves for the newer.
    fn connected(&self, now_ms: u64) -> u64 {
        let mut state = self.state();
        state.at_ms = now_ms.max(state.earlier_ms.saturating_add(1));
        state.at_ms
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

    /// A large conversation has moved. Wakes once until the session has collected.
    pub(super) fn has_heads(&self) {
        let mut state = self.state();
        if !std::mem::replace(&mut state.heads, true) {
            self.signal(state);
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

    /// Waits, at most so long, until what other nodes push for this user comes here. A silent bus is not
    /// waited for: heartbeats find what it hides.
    pub async fn heard(&self, at_most: Duration) {
        if self.hub.bus.is_usable()
            && let Some(stands) = self.hub.stands(&self.user)
        {
            stands.wait(at_most).await;
        }
    }

    /// Tells other nodes that the device is here now (milliseconds since 1970): an older session of it
    /// there is asked to close with 4509.
    pub fn announce(&self, at_ms: u64) {
        let at_ms = self.seat.connected(at_ms);
        self.hub.publish(&self.user, &Note::Connected { device: self.seat.device.clone(), at_ms });
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

    /// This session as one that follows large conversations.
    pub fn follower(&self) -> FollowerSeat {
        FollowerSeat { hub: Arc::clone(&self.hub), user: self.user.clone(), seat: Arc::clone(&self.seat) }
    }

    /// Whether a large conversation it follows has moved since [`Registration::collect_heads`].
    pub fn has_heads(&self) -> bool {
        self.seat.state().heads
    }

    /// The session collects now what is new: it is woken again by what comes later.
    pub fn collect_heads(&self) {
        self.seat.state().heads = false;
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
