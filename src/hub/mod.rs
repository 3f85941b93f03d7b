//! The hub: which sessions a user has on this node, and the way to them; by the bus also to those on
//! other nodes.
//!
//! Knows no store and no rules. Nobody ever waits here: a session whose queue is full stops following
//! and reads its log instead. What is pushed must be durable before (the caller's duty).
//!
//! A session registers first and follows later: until [`Registration::follow`] has returned true, pushes
//! only note the newest number. So there is no moment in which an entry is neither in a page read after
//! registering nor in the queue. The same holds for other nodes' entries once [`Registration::heard`] has
//! returned: the user's subject is subscribed while a session of his is here. How it can hurt: a lock held here for long stops every fan-out of that
//! user's shard, so nothing is done under it but pointer work.

mod elsewhere;
mod large;
mod seat;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

pub use crate::bus::Live;
use crate::bus::{Bus, Note, Stands, Subject, Subscription, alone};
use crate::planted::{Bug, planted};
use crate::protocol::{CloseCode, ConvId, DeviceId, UserId};
pub use large::{Effect, Follow, FollowerSeat, Lacks, News, OnMoved};
use seat::Seat;
pub use seat::{QUEUE_BOUND, Registration, Signal};

/// Takes [`Note::Other`] about a user: the node it came from, its kind, its payload. Must not block.
pub type OnOther = Box<dyn Fn(&UserId, u64, u8, Bytes) + Send + Sync>;

/// All sessions of this node by user.
pub struct Hub {
    bus: Arc<dyn Bus>,
    users: DashMap<UserId, Present>,
    /// Large conversations that somebody here follows.
    channels: DashMap<ConvId, large::Channel>,
    on_moved: OnceLock<OnMoved>,
    on_other: OnceLock<OnOther>,
    questions: elsewhere::Questions,
    next: AtomicU64,
    sessions: AtomicU64,
    deliveries: AtomicU64,
    overflows: AtomicU64,
}

/// A user with sessions here.
#[derive(Debug, Default)]
struct Present {
    seats: Vec<Arc<Seat>>,
    /// Of his subject, when there are other nodes.
    subscription: Option<Box<Subscription>>,
}

impl Default for Hub {
    /// The hub of a node without others.
    fn default() -> Self {
        Self::new(alone(0))
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("bus", &self.bus).field("sessions", &self.sessions()).finish_non_exhaustive()
    }
}

impl Hub {
    /// The hub of the bus's node.
    pub fn new(bus: Arc<dyn Bus>) -> Self {
        Self {
            bus,
            users: DashMap::new(),
            channels: DashMap::new(),
            on_moved: OnceLock::new(),
            on_other: OnceLock::new(),
            questions: elsewhere::Questions::default(),
            next: AtomicU64::new(0),
            sessions: AtomicU64::new(0),
            deliveries: AtomicU64::new(0),
            overflows: AtomicU64::new(0),
        }
    }

    /// The way to other nodes.
    pub fn bus(&self) -> &Arc<dyn Bus> {
        &self.bus
    }

    /// Who takes the notes about users that the hub does not know. Can be set once.
    pub fn set_on_other(&self, on_other: OnOther) {
        let set = self.on_other.set(on_other);
        debug_assert!(set.is_ok(), "set twice");
    }

    /// Takes a session in. An older session of the same device is asked to close with 4509 and gets
    /// nothing more. Dropping the registration takes it out.
    pub fn register(self: &Arc<Self>, user: &UserId, device: &DeviceId) -> Registration {
        let seat = Arc::new(Seat::new(self.next.fetch_add(1, Ordering::Relaxed), device.clone()));
        let mut present = self.users.entry(user.clone()).or_default();
        if present.subscription.is_none() && !self.bus.is_alone() {
            present.subscription = Some(Box::new(self.subscribe(user)));
        }
        if let Some(older) = present.seats.iter_mut().find(|seat| seat.device == *device) {
            older.ask_to_close(CloseCode::Replaced);
            *older = Arc::clone(&seat);
        } else {
            present.seats.push(Arc::clone(&seat));
            // Most users have a device or two: no room kept for more.
            present.seats.shrink_to_fit();
        }
        drop(present);
        self.sessions.fetch_add(1, Ordering::Relaxed);
        Registration::new(Arc::clone(self), user.clone(), seat)
    }

    fn unregister(&self, user: &UserId, seat: &Seat) {
        self.sessions.fetch_sub(1, Ordering::Relaxed);
        if let Entry::Occupied(mut present) = self.users.entry(user.clone()) {
            present.get_mut().seats.retain(|other| other.number != seat.number);
            if present.get().seats.is_empty() {
                present.remove();
            }
        }
    }

    fn subscribe(self: &Arc<Self>, user: &UserId) -> Subscription {
        let (hub, user) = (Arc::downgrade(self), user.clone());
        let subject = Subject::User(user.clone());
        let hear = move |node, note| {
            if let Some(hub) = hub.upgrade() {
                hub.hear(&user, node, note);
            }
        };
        self.bus.subscribe(&subject, Arc::new(hear))
    }

    /// When the user's subject is heard; `None`: he has no session here.
    fn stands(&self, user: &UserId) -> Option<Stands> {
        Some(self.users.get(user)?.subscription.as_ref()?.stands())
    }

    /// What another node tells of a user with a session here.
    fn hear(&self, user: &UserId, node: u64, note: Note) {
        match note {
            Note::Entries(entries) => self.push_here(user, &entries),
            Note::Moved { head } => self.moved_here(user, head),
            Note::Connected { device, at_ms } => {
                let here = self.bus.node();
                match self.with_seat(user, &device, |seat| seat.rank((at_ms, node), here)) {
                    Some(seat::Rank::Older) if !planted(Bug::OlderConnectionStays) => {
                        self.close_here(user, Some(&device), CloseCode::Replaced);
                    }
                    Some(seat::Rank::Newer { at_ms }) => self.publish(user, &Note::Stays { device, at_ms }),
                    _ => {}
                }
            }
            Note::Stays { device, at_ms } => {
                let here = self.bus.node();
                if let Some(at_ms) = self.with_seat(user, &device, |seat| seat.outdo((at_ms, node), here)).flatten() {
                    self.publish(user, &Note::Connected { device, at_ms });
                }
            }
            Note::Close { device, code } => self.close_here(user, device.as_ref(), code),
            Note::Other { kind: elsewhere::ASK, payload } => self.answer(user, node, &payload),
            Note::Other { kind, payload } => {
                if let Some(on_other) = self.on_other.get() {
                    on_other(user, node, kind, payload);
                }
            }
            Note::Probe => {}
        }
    }

    /// Sends a note about a user to the nodes where he has sessions. Never waits.
    pub fn publish(&self, user: &UserId, note: &Note) {
        if !self.bus.is_alone() {
            self.bus.publish(&Subject::User(user.clone()), note);
        }
    }

    /// Whether any session of this user is here; lets callers skip encoding.
    pub fn has(&self, user: &UserId) -> bool {
        self.users.contains_key(user)
    }

    /// Hands durable entries, in order, to every session of the user, here and on other nodes. Never waits.
    pub fn push(&self, user: &UserId, entries: &[Live]) {
        self.push_here(user, entries);
        if !self.bus.is_alone() {
            Note::of_entries(entries).iter().for_each(|note| self.publish(user, note));
        }
    }

    fn push_here(&self, user: &UserId, entries: &[Live]) {
        let Some(present) = self.users.get(user) else { return };
        for seat in &present.seats {
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
    /// those of a commit whose outcome was unknown): his sessions here read their log. Never waits.
    pub fn moved_here(&self, user: &UserId, head: u64) {
        let Some(present) = self.users.get(user) else { return };
        present.seats.iter().for_each(|seat| seat.moved(head));
    }

    /// [`Hub::moved_here`] on every node: perhaps nobody was told of the entries.
    pub fn moved(&self, user: &UserId, head: u64) {
        self.moved_here(user, head);
        self.publish(user, &Note::Moved { head });
    }

    /// Devices of the user with a session here.
    fn devices_here(&self, user: &UserId) -> Vec<DeviceId> {
        let seats = self.users.get(user);
        seats.map(|present| present.seats.iter().map(|seat| seat.device.clone()).collect()).unwrap_or_default()
    }

    /// Whether this device has a session here.
    pub fn is_connected(&self, user: &UserId, device: &DeviceId) -> bool {
        self.with_seat(user, device, |_| ()).is_some()
    }

    /// Asks the sessions of this device (none: of every device) to close with a code, on every node.
    pub fn close(&self, user: &UserId, device: Option<&DeviceId>, code: CloseCode) {
        self.close_here(user, device, code);
        if !planted(Bug::CloseStaysHere) {
            self.publish(user, &Note::Close { device: device.cloned(), code });
        }
    }

    fn close_here(&self, user: &UserId, device: Option<&DeviceId>, code: CloseCode) {
        let Some(present) = self.users.get(user) else { return };
        let seats = present.seats.iter().filter(|seat| device.is_none_or(|device| seat.device == *device));
        seats.for_each(|seat| seat.ask_to_close(code));
    }

    /// The largest seq this device's session here has acknowledged.
    pub fn acked(&self, user: &UserId, device: &DeviceId) -> Option<u64> {
        self.with_seat(user, device, Seat::acked)
    }

    fn with_seat<R>(&self, user: &UserId, device: &DeviceId, f: impl FnOnce(&Seat) -> R) -> Option<R> {
        let present = self.users.get(user)?;
        present.seats.iter().find(|seat| seat.device == *device).map(|seat| f(seat))
    }

    /// Ways to ask every session of this moment to close; for draining.
    pub fn closers(&self) -> Vec<Closer> {
        self.users.iter().flat_map(|present| present.seats.iter().cloned().map(Closer).collect::<Vec<_>>()).collect()
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
