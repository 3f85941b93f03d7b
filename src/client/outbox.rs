//! Messages on their way out: each keeps its `client_msg_id` until `sent`.
//!
//! A pure queue; saved by the cache with the state. Per conversation one message is under way at a
//! time, so that a retry never lets a later message overtake; conversations don't wait for each other.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::protocol::{Body, ConvId, MsgId, Request, Send, SendTo, UserId};

/// Messages that may wait.
pub const MAX_OUTBOX: usize = 10_000;

/// Where a message goes.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum To {
    /// A conversation.
    Conversation(ConvId),
    /// The direct conversation with this user.
    User(UserId),
}

impl From<ConvId> for To {
    fn from(conv_id: ConvId) -> Self {
        Self::Conversation(conv_id)
    }
}

impl From<UserId> for To {
    fn from(user: UserId) -> Self {
        Self::User(user)
    }
}

/// A message to be sent.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct OutboxItem {
    /// Where.
    pub to: To,
    /// The key that makes it once.
    pub client_msg_id: MsgId,
    /// Content.
    pub body: Body,
    /// `conv_seq` of the message answered.
    pub reply_to: Option<u64>,
    /// Up to 50 users.
    pub mentions: Vec<UserId>,
    /// Milliseconds, this device's clock: when it was first tried.
    pub tried_at: Option<u64>,
}

impl OutboxItem {
    pub(super) fn request(&self) -> Request {
        let to = match &self.to {
            To::Conversation(conv_id) => SendTo::Conv(conv_id.clone()),
            To::User(user) => SendTo::User(user.clone()),
        };
        Request::Send(Send {
            to,
            client_msg_id: self.client_msg_id.clone(),
            body: self.body.clone(),
            reply_to: self.reply_to,
            mentions: self.mentions.clone(),
        })
    }

    /// The conversation it will be in.
    #[must_use]
    pub fn conv_id(&self, me: &UserId) -> ConvId {
        match &self.to {
            To::Conversation(conv_id) => conv_id.clone(),
            To::User(user) => ConvId::direct(me, user),
        }
    }
}

/// All of them, oldest first.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Outbox {
    items: VecDeque<OutboxItem>,
}

impl Outbox {
    /// Oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &OutboxItem> {
        self.items.iter()
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The message with this key.
    #[must_use]
    pub fn get(&self, id: &MsgId) -> Option<&OutboxItem> {
        self.items.iter().find(|item| item.client_msg_id == *id)
    }

    pub(super) fn push(&mut self, item: OutboxItem) {
        self.items.push_back(item);
    }

    pub(super) fn remove(&mut self, id: &MsgId) -> Option<OutboxItem> {
        let at = self.items.iter().position(|item| item.client_msg_id == *id)?;
        self.items.remove(at)
    }

    pub(super) fn mark_tried(&mut self, id: &MsgId, now: u64) {
        if let Some(item) = self.items.iter_mut().find(|item| item.client_msg_id == *id) {
            item.tried_at.get_or_insert(now);
        }
    }
}

/// What keeps a conversation's messages waiting. Of one connection; not saved.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Hold {
    UnderWay,
    Until(tokio::time::Instant),
}

/// Which messages of the outbox may go now.
#[derive(Debug, Default)]
pub(super) struct Sender {
    holds: BTreeMap<ConvId, Hold>,
    /// Retries in a row.
    attempts: BTreeMap<ConvId, u32>,
}

impl Sender {
    /// The first message of each conversation that is not held, at most `limit` of them.
    pub(super) fn ready(
        &mut self,
        outbox: &Outbox,
        me: &UserId,
        now: tokio::time::Instant,
        limit: usize,
    ) -> Vec<OutboxItem> {
        self.lift(now);
        let mut ready = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        for item in outbox.iter() {
            if ready.len() >= limit {
                break;
            }
            let conv_id = item.conv_id(me);
            if seen.insert(conv_id.clone()) && !self.holds.contains_key(&conv_id) {
                self.holds.insert(conv_id, Hold::UnderWay);
                ready.push(item.clone());
            }
        }
        ready
    }

    /// Takes away the holds that are over, so that [`Sender::next_at`] is never in the past: whoever sleeps until
    /// then would not sleep at all.
    pub(super) fn lift(&mut self, now: tokio::time::Instant) {
        self.holds.retain(|_, hold| !matches!(hold, Hold::Until(at) if *at <= now));
    }

    /// When the next held message may go.
    pub(super) fn next_at(&self) -> Option<tokio::time::Instant> {
        let at = |hold: &Hold| match hold {
            Hold::UnderWay => None,
            Hold::Until(at) => Some(*at),
        };
        self.holds.values().filter_map(at).min()
    }

    /// The message under way is decided: the next may go.
    pub(super) fn release(&mut self, conv_id: &ConvId) {
        self.holds.remove(conv_id);
        self.attempts.remove(conv_id);
    }

    /// Retries in a row so far; counts this one.
    pub(super) fn attempt(&mut self, conv_id: &ConvId) -> u32 {
        let attempts = self.attempts.entry(conv_id.clone()).or_default();
        *attempts = attempts.saturating_add(1);
        *attempts - 1
    }

    /// The message under way is tried again, not before `at`.
    pub(super) fn hold(&mut self, conv_id: ConvId, at: tokio::time::Instant) {
        self.holds.insert(conv_id, Hold::Until(at));
    }
}
