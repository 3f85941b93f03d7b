//! Large conversations: which sessions here follow which, and the newest entries of each.
//!
//! ```text
//!   lane, or a look at the log ─► tell ─► head, ring of the newest texts ─► followers are woken
//!                                                                         └► each collects what it lacks
//! ```
//!
//! Nothing is queued per follower: a session that was woken collects what is new since it was told last,
//! in one piece, whenever it gets to it. Entries are taken in strictly, one number after the other, so
//! that nobody's end of stay is overlooked: what does not continue the head is asked for instead, and
//! somebody reads the log. How it can hurt: a follower whose end is set late is told what is not his.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dashmap::mapref::entry::Entry;

use super::Hub;
use super::seat::Seat;
use crate::bus::{Note, Subject, Subscription};
use crate::planted::{Bug, planted};
use crate::protocol::{ConvId, UserId};

/// Entries kept of each conversation; who lacks more is told the head only.
const RING: usize = 64;
/// Their bytes.
const RING_BYTES: usize = 64 * 1024;
/// No end.
const OPEN: u64 = u64::MAX;

/// Reads the log of a conversation that was found to have moved. Must not block.
pub type OnMoved = Box<dyn Fn(&ConvId) + Send + Sync>;

/// An entry of a large conversation, for those who follow it.
#[derive(Debug, Clone)]
pub struct News {
    /// Its conv_seq.
    pub seq: u64,
    /// Its text on the wire; `None` when it is told in sync timelines only.
    pub text: Option<Arc<str>>,
    /// What it does beside being told.
    pub effect: Effect,
}

/// What an entry does to those who follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// Texts before it may not be served any more.
    Recalls,
    /// This user's stay ends with it.
    Ends(UserId),
    /// Everybody's does.
    EndsAll,
}

/// What a follower lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lacks {
    /// The newest number he may know of.
    pub head: u64,
    /// All entries up to there behind what he was told; `None`: they are many, or not known here.
    pub entries: Option<Vec<Arc<str>>>,
    /// He follows no longer: nothing comes after this.
    pub ended: bool,
}

/// One large conversation that somebody here follows.
#[derive(Debug, Default)]
pub(super) struct Channel {
    /// Last entry taken in; `None` before anybody has looked.
    head: Option<u64>,
    /// Entries are known to be there up to this.
    wanted: u64,
    /// Somebody reads the log.
    catching_up: bool,
    /// The newest entries, contiguous up to the head.
    ring: VecDeque<(u64, Option<Arc<str>>)>,
    bytes: usize,
    followers: BTreeMap<u64, Follower>,
    /// Of its subject, when there are other nodes.
    _subscription: Option<Box<Subscription>>,
}

#[derive(Debug)]
struct Follower {
    user: UserId,
    seat: Arc<Seat>,
    /// Where the stay began that he follows for.
    from: u64,
    /// Where it ended.
    until: u64,
}

impl Channel {
    /// Takes the next entry in; others are asked for, known ones passed over. True: it was the next.
    fn take(&mut self, news: &News) -> bool {
        if self.head.is_none_or(|head| news.seq > head + 1) {
            self.wanted = self.wanted.max(news.seq);
            return false;
        }
        if self.head.is_some_and(|head| news.seq <= head) {
            return false;
        }
        self.head = Some(news.seq);
        if news.effect == Effect::Recalls && !planted(Bug::RecalledTextTold) {
            self.ring.clear();
            self.bytes = 0;
        }
        self.bytes += news.text.as_ref().map_or(0, |text| text.len());
        self.ring.push_back((news.seq, news.text.clone()));
        while self.ring.len() > RING || self.bytes > RING_BYTES {
            let Some((_, text)) = self.ring.pop_front() else { break };
            self.bytes -= text.map_or(0, |text| text.len());
        }
        let ends = |follower: &Follower| match &news.effect {
            Effect::Ends(user) => *user == follower.user,
            Effect::EndsAll => true,
            Effect::None | Effect::Recalls => false,
        };
        if planted(Bug::StayEndUnnoticed) {
            return true;
        }
        for follower in self.followers.values_mut().filter(|follower| ends(follower)) {
            if news.seq > follower.from {
                follower.until = follower.until.min(news.seq);
            }
        }
        true
    }

    /// Whether the caller must read the log: entries are missing, and nobody does it already.
    fn must_catch_up(&mut self) -> bool {
        let missing = self.head.is_some_and(|head| self.wanted > head);
        missing && !std::mem::replace(&mut self.catching_up, true)
    }

    fn lacks(&self, id: u64, told: u64) -> Option<Lacks> {
        let follower = self.followers.get(&id)?;
        let newest = self.head.unwrap_or(0);
        let (head, ended) = (newest.min(follower.until), newest >= follower.until);
        if head <= told && !ended {
            return None;
        }
        let known = self.ring.front().is_some_and(|(first, _)| *first <= told + 1) && told >= follower.from;
        let wanted = self.ring.iter().filter(|(seq, _)| *seq > told && *seq <= head);
        let entries = known.then(|| wanted.filter_map(|(_, text)| text.clone()).collect());
        Some(Lacks { head: head.max(told), entries, ended })
    }
}

/// A session's following of one conversation; dropping it ends it.
#[derive(Debug)]
pub struct Follow {
    hub: Arc<Hub>,
    conv: ConvId,
    id: u64,
}

impl Follow {
    /// Which conversation.
    pub fn conv(&self) -> &ConvId {
        &self.conv
    }

    /// The user's stay, which began there, was looked at after [`Hub::begin`]: an end before is another's.
    pub fn begins(&self, from: u64) {
        if let Some(mut channel) = self.hub.channels.get_mut(&self.conv)
            && let Some(follower) = channel.followers.get_mut(&self.id)
        {
            follower.from = from;
            if follower.until <= from {
                follower.until = OPEN;
            }
        }
    }

    /// What is new behind `told`, if anything.
    pub fn lacks(&self, told: u64) -> Option<Lacks> {
        self.hub.channels.get(&self.conv)?.lacks(self.id, told)
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        if let Entry::Occupied(mut channel) = self.hub.channels.entry(self.conv.clone()) {
            channel.get_mut().followers.remove(&self.id);
            if channel.get().followers.is_empty() {
                channel.remove();
            }
        }
    }
}

/// A session as one that can follow.
#[derive(Debug, Clone)]
pub struct FollowerSeat {
    pub(super) hub: Arc<Hub>,
    pub(super) user: UserId,
    pub(super) seat: Arc<Seat>,
}

impl FollowerSeat {
    /// Begins to follow. Look at the log's head after this, tell [`Hub::begin`], then look at the user's
    /// stay: what is committed later comes here.
    pub fn follow(&self, conv: &ConvId) -> Follow {
        let Self { hub, user, seat } = self;
        let id = hub.next.fetch_add(1, Ordering::Relaxed);
        let follower = Follower { user: user.clone(), seat: Arc::clone(seat), from: 0, until: OPEN };
        let mut channel = hub.channels.entry(conv.clone()).or_default();
        if channel._subscription.is_none() && !hub.bus.is_alone() {
            channel._subscription = Some(Box::new(hub.hear_of(conv)));
        }
        channel.followers.insert(id, follower);
        drop(channel);
        Follow { hub: Arc::clone(hub), conv: conv.clone(), id }
    }
}

impl Hub {
    /// Who reads the log of a conversation that has moved. Can be set once.
    pub fn set_on_moved(&self, on_moved: OnMoved) {
        let _ = self.on_moved.set(on_moved);
    }

    fn hear_of(self: &Arc<Self>, conv: &ConvId) -> Subscription {
        let (hub, conv) = (Arc::downgrade(self), conv.clone());
        let subject = Subject::Conversation(conv.clone());
        let hear = move |_, note| {
            if let (Some(hub), Note::Moved { head }) = (hub.upgrade(), note) {
                hub.look(&conv, head);
            }
        };
        self.bus.subscribe(&subject, Arc::new(hear))
    }

    /// The log stands at least at `head`: if that is not known here, it is read.
    pub fn look(&self, conv: &ConvId, head: u64) {
        let Some(mut channel) = self.channels.get_mut(conv) else { return };
        channel.wanted = channel.wanted.max(head);
        let must = channel.must_catch_up();
        drop(channel);
        if must {
            self.read_on(conv);
        }
    }

    fn read_on(&self, conv: &ConvId) {
        if let Some(on_moved) = self.on_moved.get() {
            on_moved(conv);
        }
    }

    /// Where the log stood when a follower looked; the first look counts.
    pub fn begin(&self, conv: &ConvId, head: u64) {
        if let Some(mut channel) = self.channels.get_mut(conv) {
            channel.head.get_or_insert(head);
        }
        self.look(conv, head);
    }

    /// Durable entries of a large conversation, ascending, for those who follow it here. Never waits.
    pub fn tell(&self, conv: &ConvId, news: &[News]) {
        let Some(mut channel) = self.channels.get_mut(conv) else { return };
        let took = news.iter().filter(|news| channel.take(news)).count();
        if took > 0 {
            channel.followers.values().for_each(|follower| follower.seat.has_heads());
        }
        let must = channel.must_catch_up();
        drop(channel);
        if must {
            self.read_on(conv);
        }
    }

    /// [`Hub::tell`] of what this node committed; other nodes are told that there is something.
    pub fn publish_news(&self, conv: &ConvId, news: &[News]) {
        self.tell(conv, news);
        if let (Some(last), false) = (news.last(), self.bus.is_alone()) {
            self.bus.publish(&Subject::Conversation(conv.clone()), &Note::Moved { head: last.seq });
        }
    }

    /// For whoever was asked to read the log: the next stretch (after, up to]; `None`: nothing is missing,
    /// and he is done.
    pub fn missing(&self, conv: &ConvId) -> Option<(u64, u64)> {
        let mut channel = self.channels.get_mut(conv)?;
        let stretch = channel.head.filter(|head| *head < channel.wanted).map(|head| (head, channel.wanted));
        channel.catching_up = stretch.is_some();
        stretch
    }

    /// The large conversations followed here.
    pub fn followed(&self) -> Vec<ConvId> {
        let mut all: Vec<ConvId> = self.channels.iter().map(|channel| channel.key().clone()).collect();
        all.sort_unstable();
        all
    }
}

#[cfg(test)]
mod tests;
