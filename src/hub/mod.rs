//! The hub: which sessions a user has on this node, and the way to them.
//!
//! Knows no store and no rules. Nobody ever waits here: a session whose queue is full stops following
//! and reads its log instead. What is pushed must be durable before (the caller's duty).
//!
//! A session registers first and follows later: until [`Registration::follow`] has returned true, pushes
//! only note the newest number. So there is no moment in which an entry is neither in a page read after
//! registering nor in the queue. How it can hurt: a lock held here for long stops every fan-out of that
//! user's shard, so nothing is done under it but pointer work.

mod seat;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use crate::protocol::{CloseCode, DeviceId, UserId};
use seat::Seat;
pub use seat::{QUEUE_BOUND, Registration, Signal};

/// One entry of a user's sync timeline on its way to that user's live sessions.
#[derive(Debug, Clone)]
pub struct Live {
    /// Its number in the user's sync timeline.
    pub seq: u64,
    /// What follows `{"seq":N,` on the wire, encoded once for all members; `None` when this reader is
    /// not shown the entry (its number still counts).
    pub text: Option<Arc<str>>,
    /// Changes what earlier entries show (recall, edit, delete, clear, read): a frame with this and
    /// other entries must be read from the log, where everything superseded is left out.
    pub changes_earlier: bool,
}

/// All sessions of this node by user.
#[derive(Debug, Default)]
pub struct Hub {
    users: DashMap<UserId, Vec<Arc<Seat>>>,
    next: AtomicU64,
    sessions: AtomicU64,
    deliveries: AtomicU64,
    overflows: AtomicU64,
}

impl Hub {
    /// Takes a session in. An older session of the same device is asked to close with 4509 and gets
    /// nothing more. Dropping the registration takes it out.
    pub fn register(self: &Arc<Self>, user: &UserId, device: &DeviceId) -> Registration {
        let seat = Arc::new(Seat::new(self.next.fetch_add(1, Ordering::Relaxed), device.clone()));
        let mut seats = self.users.entry(user.clone()).or_default();
        if let Some(older) = seats.iter_mut().find(|seat| seat.device == *device) {
            older.ask_to_close(CloseCode::Replaced);
            *older = Arc::clone(&seat);
        } else {
            seats.push(Arc::clone(&seat));
            // Most users have a device or two: no room kept for more.
            seats.shrink_to_fit();
        }
        drop(seats);
        self.sessions.fetch_add(1, Ordering::Relaxed);
        Registration::new(Arc::clone(self), user.clone(), seat)
    }

    fn unregister(&self, user: &UserId, seat: &Seat) {
        self.sessions.fetch_sub(1, Ordering::Relaxed);
        if let Entry::Occupied(mut seats) = self.users.entry(user.clone()) {
            seats.get_mut().retain(|other| other.number != seat.number);
            if seats.get().is_empty() {
                seats.remove();
            }
        }
    }

    /// Whether any session of this user is here; lets callers skip encoding.
    pub fn has(&self, user: &UserId) -> bool {
        self.users.contains_key(user)
    }

    /// Hands durable entries, in order, to every session of the user. Never waits.
    pub fn push(&self, user: &UserId, entries: &[Live]) {
        let Some(seats) = self.users.get(user) else { return };
        for seat in seats.iter() {
            match seat.push(entries) {
                seat::Pushed::Queued => {
                    self.deliveries.fetch_add(entries.len() as u64, Ordering::Relaxed);
                }
                seat::Pushed::Overflow => {
                    self.overflows.fetch_add(1, Ordering::Relaxed);
                }
                seat::Pushed::Noted => {}
            }
        }
    }

    /// The user's timeline has come to `head` by entries that were not pushed here (another node's, or
    /// those of a commit whose outcome was unknown): his sessions read their log. Never waits.
    pub fn moved(&self, user: &UserId, head: u64) {
        let Some(seats) = self.users.get(user) else { return };
        seats.iter().for_each(|seat| seat.moved(head));
    }

    /// Whether this device has a session here.
    pub fn is_connected(&self, user: &UserId, device: &DeviceId) -> bool {
        self.with_seat(user, device, |_| ()).is_some()
    }

    /// Asks the session of this device to close with a code, if it is here.
    pub fn close(&self, user: &UserId, device: &DeviceId, code: CloseCode) {
        self.with_seat(user, device, |seat| seat.ask_to_close(code));
    }

    /// Asks every session of the user here to close with a code.
    pub fn close_all(&self, user: &UserId, code: CloseCode) {
        let Some(seats) = self.users.get(user) else { return };
        seats.iter().for_each(|seat| seat.ask_to_close(code));
    }

    /// The largest seq this device's session here has acknowledged.
    pub fn acked(&self, user: &UserId, device: &DeviceId) -> Option<u64> {
        self.with_seat(user, device, Seat::acked)
    }

    fn with_seat<R>(&self, user: &UserId, device: &DeviceId, f: impl FnOnce(&Seat) -> R) -> Option<R> {
        let seats = self.users.get(user)?;
        seats.iter().find(|seat| seat.device == *device).map(|seat| f(seat))
    }

    /// Ways to ask every session of this moment to close; for draining.
    pub fn closers(&self) -> Vec<Closer> {
        self.users.iter().flat_map(|seats| seats.iter().cloned().map(Closer).collect::<Vec<_>>()).collect()
    }

    /// Sessions registered now, those just replaced included.
    pub fn sessions(&self) -> u64 {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Entries put into queues since the start.
    pub fn deliveries(&self) -> u64 {
        self.deliveries.load(Ordering::Relaxed)
    }

    /// How often a queue was full and its session had to go back to its log.
    pub fn overflows(&self) -> u64 {
        self.overflows.load(Ordering::Relaxed)
    }
}

/// Asks one session to close.
#[derive(Debug)]
pub struct Closer(Arc<Seat>);

impl Closer {
    /// The session closes with this code as soon as it can. The first code asked for stands.
    pub fn close(&self, code: CloseCode) {
        self.0.ask_to_close(code);
    }
}

#[cfg(test)]
mod tests;
