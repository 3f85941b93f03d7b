//! The queue before the committer: calls in the order in which they were made, bounded by their bytes.
//!
//! Must never block a caller's thread: one who finds no room waits in his future. How it can hurt: a call
//! that is neither applied nor answered; whatever is left when the queue closes is dropped, and a dropped
//! call answers `Unknown`.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};

use tokio::sync::{Semaphore, oneshot};

use super::overlay::lock;
use crate::store::{Commit, Outcome};

/// Room, in units of [`UNIT`] bytes of encoded calls.
const ROOM: u32 = 64 * 1024;
const UNIT: usize = 1024;

/// One call of `commit`.
#[derive(Debug)]
pub(super) struct Call {
    /// What to apply, together or not at all.
    pub(super) commits: Vec<Commit>,
    /// The same, encoded.
    pub(super) bytes: Vec<u8>,
    /// Who waits.
    pub(super) reply: oneshot::Sender<Vec<Outcome>>,
}

impl Call {
    fn units(&self) -> u32 {
        u32::try_from(1 + self.bytes.len() / UNIT).unwrap_or(ROOM).min(ROOM)
    }
}

/// See the module.
pub(super) struct Queue {
    state: Mutex<State>,
    filled: Condvar,
    room: Semaphore,
}

#[derive(Default)]
struct State {
    calls: VecDeque<Call>,
    closed: bool,
    /// The committer sleeps.
    idle: bool,
}

/// How much goes into one group commit.
#[derive(Debug, Clone, Copy)]
pub(super) struct GroupLimit {
    pub(super) commits: usize,
    pub(super) bytes: usize,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self { state: Mutex::default(), filled: Condvar::new(), room: Semaphore::new(ROOM as usize) }
    }

    /// Queues a call at once; gives it back if there is no room.
    pub(super) fn try_push(&self, call: Call) -> Result<(), Call> {
        match self.room.try_acquire_many(call.units()) {
            Ok(permit) => {
                permit.forget();
                self.put(call);
                Ok(())
            }
            Err(_) => Err(call),
        }
    }

    /// Queues a call when there is room. A closed queue drops it.
    pub(super) async fn push(&self, call: Call) {
        if let Ok(permit) = self.room.acquire_many(call.units()).await {
            permit.forget();
            self.put(call);
        }
    }

    fn put(&self, call: Call) {
        let mut state = lock(&self.state);
        if state.closed {
            return;
        }
        state.calls.push_back(call);
        if state.idle {
            self.filled.notify_one();
        }
    }

    /// Waits for calls and takes some, at least one; `None` when closed and empty.
    pub(super) fn take(&self, limit: GroupLimit) -> Option<Vec<Call>> {
        let mut state = lock(&self.state);
        while state.calls.is_empty() {
            if state.closed {
                return None;
            }
            state.idle = true;
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle = false;
        }
        let (mut commits, mut bytes, mut units) = (0, 0, 0);
        let mut group = Vec::with_capacity(state.calls.len().min(limit.commits));
        while commits < limit.commits && bytes < limit.bytes {
            let Some(call) = state.calls.pop_front() else { break };
            commits += call.commits.len();
            bytes += call.bytes.len();
            units += call.units() as usize;
            group.push(call);
        }
        drop(state);
        self.room.add_permits(units);
        Some(group)
    }

    /// Takes no more. What is queued is still taken.
    pub(super) fn close(&self) {
        lock(&self.state).closed = true;
        self.room.close();
        self.filled.notify_all();
    }
}
