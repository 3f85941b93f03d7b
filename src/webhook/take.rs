//! From the engine into the queue: what was appended is read from the log, and events are made of it.
//!
//! What waits here is a few numbers for each conversation and commit, never an entry. It must not block the
//! engine: [`Taker::appended`] takes a lock for a push. Only when its events are on disk (or cannot ever
//! be) is the engine told that they are done with.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::stream::{self, StreamExt};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::deliver::Woken;
use super::dropped;
use super::event::{Event, What};
use super::queue::Queue;
use crate::conversation::entry::{Appended, Kind};
use crate::conversation::inbox::{hidden_of, read_row};
use crate::conversation::user_row::UserRow;
use crate::conversation::view::View;
use crate::engine::{Fresh, Tap};
use crate::fanout::read_log;
use crate::hub::Hub;
use crate::protocol::{ConvId, UserId};
use crate::store::{Error, Store, TimelineId};

/// What comes within so long goes into the queue together: one sync for all.
const GATHER: Duration = Duration::from_millis(20);
/// Pause before a store that could not be read is asked again.
const PAUSE: Duration = Duration::from_secs(1);
/// Conversations worked on at once, and users of one asked for.
const AT_ONCE: usize = 32;
/// Events written together.
const BATCH: usize = 4096;

/// What the engine told and nobody has looked at yet.
#[derive(Debug, Default)]
pub(super) struct Taker {
    fresh: Mutex<HashMap<ConvId, Vec<Fresh>>>,
    wake: Notify,
}

impl Tap for Taker {
    fn appended(&self, appended: Fresh) {
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        fresh.entry(appended.conversation.clone()).or_default().push(appended);
        drop(fresh);
        self.wake.notify_one();
    }
}

impl Taker {
    fn take(&self) -> HashMap<ConvId, Vec<Fresh>> {
        std::mem::take(&mut *self.fresh.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What could not be read now comes before what was told meanwhile.
    fn put_back(&self, conversation: ConvId, mut pieces: Vec<Fresh>) {
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = fresh.entry(conversation).or_default();
        pieces.append(waiting);
        *waiting = pieces;
    }
}

/// What taking needs.
pub(super) struct Room {
    pub(super) store: Arc<dyn Store>,
    pub(super) hub: Arc<Hub>,
    pub(super) queue: Arc<Queue>,
    pub(super) woken: Arc<Woken>,
}

/// Runs until it is stopped.
pub(super) async fn run(taker: Arc<Taker>, room: Room, stop: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = taker.wake.notified() => tokio::time::sleep(GATHER).await,
        }
        let work = taker.take().into_iter().map(|(id, pieces)| room.read(id, pieces));
        let done: Vec<Read> = stream::iter(work).buffer_unordered(AT_ONCE).collect().await;
        let (mut events, mut finished, mut again) = (Vec::new(), Vec::new(), false);
        for read in done {
            match read.events {
                Some(more) => {
                    events.extend(more);
                    finished.extend(read.pieces);
                }
                None => {
                    again = true;
                    taker.put_back(read.conversation, read.pieces);
                }
            }
        }
        room.put(events).await;
        finished.into_iter().for_each(Fresh::finish);
        if again {
            tokio::time::sleep(PAUSE).await;
            taker.wake.notify_one();
        }
    }
}

/// What a conversation's news came to; `None`: the store is away.
struct Read {
    conversation: ConvId,
    pieces: Vec<Fresh>,
    events: Option<Vec<Event>>,
}

impl Room {
    async fn read(&self, conversation: ConvId, pieces: Vec<Fresh>) -> Read {
        let events = match self.events(&conversation, &pieces).await {
            Ok(events) => Some(events),
            Err(Error::Damaged(what)) => {
                tracing::error!(%conversation, what, "webhook events cannot be made");
                dropped("damaged", 1);
                Some(Vec::new())
            }
            Err(error) => {
                tracing::warn!(%conversation, %error, "webhook events wait for the store");
                None
            }
        };
        Read { conversation, pieces, events }
    }

    /// Events of everything told, in conv_seq order.
    async fn events(&self, conversation: &ConvId, pieces: &[Fresh]) -> Result<Vec<Event>, Error> {
        let mut logs = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let mut log = read_log(&*self.store, conversation, piece.after, piece.up_to).await?;
            log.retain(|entry| entry.header.kind == Kind::Message);
            logs.push(log);
        }
        if logs.iter().all(Vec::is_empty) {
            return Ok(Vec::new());
        }
        let mut users = HashSet::new();
        for piece in pieces {
            users.extend(piece.recipients.iter().map(|(user, _)| user.clone()));
        }
        let offline = self.offline(users).await;
        let large = logs.iter().flatten().any(|entry| entry.header.large.is_some());
        let mut inboxes = HashMap::new();
        for user in offline {
            let row = read_row(&*self.store, &TimelineId::User(user.clone()), conversation).await?.unwrap_or_default();
            let (delivered, unread) = match large {
                true => (u64::MAX, self.unread_of_large(conversation, &user, &row).await?),
                false => (row.delivered, row.unread),
            };
            inboxes.insert(user, (delivered, unread, row.settings.muted));
        }
        let mut events = Vec::new();
        for (piece, log) in pieces.iter().zip(&logs) {
            for entry in log {
                let event =
                    |what| Event { at: entry.at, conversation: conversation.clone(), conv_seq: entry.seq, what };
                events.push(event(What::Sent));
                for (user, member) in piece.recipients.iter() {
                    // Of a large conversation only those mentioned are reached.
                    let told = entry.header.large.as_ref().is_none_or(|large| large.told(user).is_some());
                    let reached = told && member.covers(entry.seq) && entry.header.by.as_ref() != Some(user);
                    if let Some(inbox) = inboxes.get_mut(user).filter(|_| reached) {
                        events.push(event(offline_event(user, inbox, entry)));
                    }
                }
            }
        }
        Ok(events)
    }

    /// What a user has not seen of a large conversation, as its log stands now.
    async fn unread_of_large(&self, id: &ConvId, user: &UserId, row: &UserRow) -> Result<u64, Error> {
        let Some(view) = View::load(&*self.store, id, user).await? else { return Ok(row.unread) };
        let hidden = hidden_of(&*self.store, &TimelineId::User(user.clone()), id, row).await?;
        view.unread(&*self.store, row, &hidden).await
    }

    /// Those of whom no device is connected.
    async fn offline(&self, users: HashSet<UserId>) -> Vec<UserId> {
        let ask = |user: UserId| async move { (!self.hub.is_online(&user).await).then_some(user) };
        stream::iter(users.into_iter().map(ask))
            .buffer_unordered(AT_ONCE)
            .filter_map(std::future::ready)
            .collect()
            .await
    }

    /// Puts events on disk and has them delivered. A queue that cannot be written loses them: nobody who
    /// sends waits for a disk of the receiver's.
    async fn put(&self, events: Vec<Event>) {
        let mut events = events.into_iter();
        loop {
            let batch: Vec<Event> = events.by_ref().take(BATCH).collect();
            if batch.is_empty() {
                return;
            }
            let (queue, count) = (Arc::clone(&self.queue), batch.len());
            let conversations: HashSet<ConvId> = batch.iter().map(|event| event.conversation.clone()).collect();
            let put = tokio::task::spawn_blocking(move || queue.put(&batch)).await;
            match put.map_err(|error| error.to_string()).and_then(|put| put.map_err(|error| error.to_string())) {
                Ok(0) => {}
                Ok(oldest) => {
                    dropped("bytes", oldest);
                    tracing::warn!(events = oldest, "the webhook queue is full: its oldest events are dropped");
                }
                Err(error) => {
                    dropped("disk", count);
                    tracing::error!(%error, events = count, "the webhook queue cannot be written: events are dropped");
                }
            }
            metrics::counter!("everline_webhook_events_total").increment(count as u64);
            self.woken.wake(conversations);
        }
    }
}

/// What lies in his inbox may be older than this entry: what comes between counts as unread too.
fn offline_event(user: &UserId, inbox: &mut (u64, u64, bool), entry: &Appended) -> What {
    let (delivered, unread, muted) = inbox;
    if entry.seq > *delivered {
        *delivered = entry.seq;
        *unread += 1;
    }
    What::Offline { user: user.clone(), unread: *unread, muted: *muted }
}
