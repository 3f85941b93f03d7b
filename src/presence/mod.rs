//! Who is connected and who is typing: told to sessions that asked for it, kept nowhere.
//!
//! ```text
//!   session of bob ── came, went, typing ──► board ──► sessions here that watch bob
//!                                              └─► subject of bob's presence ──► boards of other nodes
//! ```
//!
//! A session watches the users of its last `presence` request, as far as they share a conversation with
//! its own; of them it is told changes of `online` and, in conversations of its own, `typing`. Everything
//! here may be lost: what a slow session does not take is dropped (the oldest first), and nobody waits. How
//! it can hurt: a user with many watchers makes much of little, so changes are gathered and typing is told
//! to a bounded number.

mod ears;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use futures::StreamExt;
use futures::stream;
use tokio::time::sleep;

use crate::bus::{Note, Subject, Subscription};
use crate::engine::Engine;
use crate::hub::Hub;
use crate::protocol::{ConvId, ServerFrame, UserId, UserPresence};
use ears::Outlet;
pub use ears::{Ears, OUTLET_BOUND};

/// Kinds of [`Note::Other`] on a presence subject.
const CHANGED: u8 = 3;
const TYPING: u8 = 4;
/// A change is looked at so long after it: a device that comes back at once was never away.
const SETTLE: Duration = Duration::from_secs(1);
/// Users who are on-line elsewhere are looked at so often: their node may have died without a word.
const LOOK: Duration = Duration::from_secs(30);
/// Watchers of one typist who are looked at.
const MOST_TOLD: usize = 200;
/// Users asked for at once.
const AT_ONCE: usize = 32;

/// What the sessions of this node watch.
pub struct Board {
    me: Weak<Board>,
    engine: Engine,
    hub: Arc<Hub>,
    users: DashMap<UserId, Watched>,
    next: AtomicU64,
}

impl std::fmt::Debug for Board {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Board").field("watched", &self.users.len()).finish_non_exhaustive()
    }
}

/// A user somebody here watches.
#[derive(Default)]
struct Watched {
    watchers: Vec<Watcher>,
    /// What watchers were told last.
    told: Option<bool>,
    /// A look at him is due.
    looking: bool,
    /// Of what other nodes tell of him.
    subscription: Option<Subscription>,
}

#[derive(Clone)]
struct Watcher {
    number: u64,
    user: UserId,
    outlet: Arc<Outlet>,
}

impl Board {
    /// The board of a node. Call inside a runtime.
    pub fn new(engine: Engine, hub: Arc<Hub>) -> Arc<Self> {
        let board = Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            engine,
            hub,
            users: DashMap::new(),
            next: AtomicU64::new(0),
        });
        if !board.hub.bus().is_alone() {
            tokio::spawn(look_elsewhere(Weak::clone(&board.me)));
        }
        board
    }

    /// A session's ears, which hear nothing yet.
    pub fn ears(&self, user: &UserId) -> Arc<Ears> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Arc::new(Ears::new(Weak::clone(&self.me), number, user.clone()))
    }

    /// A device of the user has connected or is about to be gone. Never waits.
    pub fn changed(&self, user: &UserId) {
        self.look_soon(user);
        self.publish(user, CHANGED, Bytes::new());
    }

    /// The user is typing: told to those here and elsewhere who watch him and are in that conversation.
    /// Nothing happens if he is not.
    pub async fn typing(&self, user: &UserId, conversation: &ConvId) {
        if self.engine.is_member(user, conversation).await {
            self.publish(user, TYPING, Bytes::copy_from_slice(conversation.as_bytes()));
            self.tell_typing(user, conversation).await;
        }
    }

    /// Answers `presence`, and from now on tells these ears of changes.
    pub async fn ask(&self, ears: &Ears, users: Vec<UserId>) -> Vec<UserPresence> {
        let known = self.engine.acquainted(&ears.user, &users).await;
        // Watched first, then looked at: what changes in between is told.
        ears.watch(self, users.iter().zip(&known).filter(|(_, known)| **known).map(|(user, _)| user.clone()));
        let look = |(user, known): (UserId, bool)| async move {
            if known {
                self.heard(&user).await;
            }
            let online = known && self.hub.is_online(&user).await;
            if known {
                self.tell_state(&user, online);
            }
            let seen = if known && !online { self.engine.last_seen(&user).await } else { None };
            UserPresence { user_id: user, online, last_seen_at: seen }
        };
        stream::iter(users.into_iter().zip(known)).map(look).buffered(AT_ONCE).collect().await
    }

    fn publish(&self, user: &UserId, kind: u8, payload: Bytes) {
        if !self.hub.bus().is_alone() {
            self.hub.bus().publish(&Subject::Presence(user.clone()), &Note::Other { kind, payload });
        }
    }

    /// Sees to it that watchers are told if `online` is another now.
    fn look_soon(&self, user: &UserId) {
        let Some(mut watched) = self.users.get_mut(user) else { return };
        if std::mem::replace(&mut watched.looking, true) {
            return;
        }
        drop(watched);
        let (board, user) = (Weak::clone(&self.me), user.clone());
        tokio::spawn(async move {
            sleep(SETTLE).await;
            if let Some(board) = board.upgrade() {
                board.look(&user).await;
            }
        });
    }

    async fn look(&self, user: &UserId) {
        match self.users.get_mut(user) {
            // What changes from here on is looked at again.
            Some(mut watched) => watched.looking = false,
            None => return,
        }
        let online = self.hub.is_online(user).await;
        self.tell_state(user, online);
    }

    /// Waits a moment until what other nodes tell of a watched user comes here.
    async fn heard(&self, user: &UserId) {
        let watched = self.users.get(user);
        let stands = watched.and_then(|watched| watched.subscription.as_ref().map(Subscription::stands));
        if let Some(stands) = stands {
            stands.wait(SETTLE).await;
        }
    }

    /// Tells watchers unless that is what they were told last. Whoever watches first asks himself.
    fn tell_state(&self, user: &UserId, online: bool) {
        let Some(mut watched) = self.users.get_mut(user) else { return };
        if watched.told.replace(online).is_none_or(|told| told == online) {
            return;
        }
        let watchers = watched.watchers.clone();
        drop(watched);
        let state = UserPresence { user_id: user.clone(), online, last_seen_at: None };
        let text: Arc<str> = ServerFrame::Presence { users: vec![state] }.to_json().into();
        watchers.iter().for_each(|watcher| watcher.outlet.put(&text));
    }

    async fn tell_typing(&self, user: &UserId, conversation: &ConvId) {
        let Some(watchers) = self.users.get(user).map(|watched| watched.watchers.clone()) else { return };
        let frame = ServerFrame::Typing { conv_id: conversation.clone(), user_id: user.clone() };
        let text: Arc<str> = frame.to_json().into();
        for watcher in watchers.iter().filter(|watcher| watcher.user != *user).take(MOST_TOLD) {
            if self.engine.is_member(&watcher.user, conversation).await {
                watcher.outlet.put(&text);
            }
        }
    }

    fn watch(&self, user: &UserId, watcher: Watcher) {
        let mut watched = self.users.entry(user.clone()).or_default();
        if watched.watchers.is_empty() && !self.hub.bus().is_alone() {
            watched.subscription = Some(self.subscribe(user));
        }
        watched.watchers.push(watcher);
    }

    fn unwatch(&self, user: &UserId, number: u64) {
        if let Entry::Occupied(mut watched) = self.users.entry(user.clone()) {
            watched.get_mut().watchers.retain(|watcher| watcher.number != number);
            if watched.get().watchers.is_empty() {
                watched.remove();
            }
        }
    }

    fn subscribe(&self, user: &UserId) -> Subscription {
        let (board, user) = (Weak::clone(&self.me), user.clone());
        let subject = Subject::Presence(user.clone());
        let hear = move |_, note| {
            let (Some(board), Note::Other { kind, payload }) = (board.upgrade(), note) else { return };
            match kind {
                CHANGED => board.look_soon(&user),
                TYPING => {
                    let conversation = std::str::from_utf8(&payload).ok().and_then(|text| ConvId::parse(text).ok());
                    let (Some(conversation), user) = (conversation, user.clone()) else { return };
                    tokio::spawn(async move { board.tell_typing(&user, &conversation).await });
                }
                _ => {}
            }
        };
        self.hub.bus().subscribe(&subject, Arc::new(hear))
    }
}

/// Looks now and then at users who were on-line at other nodes.
async fn look_elsewhere(board: Weak<Board>) {
    loop {
        sleep(LOOK).await;
        let Some(board) = board.upgrade() else { return };
        let elsewhere = |user: &UserId, watched: &Watched| watched.told == Some(true) && !board.hub.has(user);
        let users: Vec<UserId> =
            board.users.iter().filter(|one| elsewhere(one.key(), one)).map(|one| one.key().clone()).collect();
        stream::iter(users)
            .for_each_concurrent(AT_ONCE, |user| {
                let board = Arc::clone(&board);
                async move { board.look(&user).await }
            })
            .await;
    }
}
