//! Entries of timelines: what happened, as it is told to a client.
//!
//! An [`Event`] is one `op` with its fields; an [`Entry`] is an event with its place in a user's
//! sync timeline. The server encodes an event once ([`Event::encode`]) and splices it into frames
//! for many; reading is for clients and accepts ops of later versions as [`Event::Unknown`].
//! Reading (`entry_read`) needs text held in memory (`serde_json::from_str`), because bodies are borrowed from it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::body::Body;
use super::frame::text_of;
use super::ids::{ConvId, MsgId, UserId};
use super::request::{Range, Role};

/// One thing that happened. `conv_seq` is its place in the conversation, `target` the `conv_seq` of
/// the message it is about.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "op", rename_all = "snake_case")]
#[allow(missing_docs, reason = "the fields are those of the contract's table, section 3")]
pub enum Event {
    /// A message, for every member.
    Message(Message),
    /// A message was taken back, for every member.
    Recall { conv_id: ConvId, conv_seq: u64, target: u64, by: UserId },
    /// A message has another body, for every member.
    Edit { conv_id: ConvId, conv_seq: u64, target: u64, by: UserId, body: Body, edited_at: u64 },
    /// A reaction was set (`add`) or taken away, for every member.
    Reaction { conv_id: ConvId, conv_seq: u64, target: u64, user_id: UserId, key: String, add: bool },
    /// Somebody came, went or has another role; one entry per user. Without `by`: done by the server API.
    Member {
        conv_id: ConvId,
        conv_seq: u64,
        change: MemberChange,
        user_id: UserId,
        #[serde(skip_serializing_if = "Option::is_none")]
        by: Option<UserId>,
        #[serde(skip_serializing_if = "Option::is_none")]
        role: Option<Role>,
    },
    /// The conversation itself changed, for every member.
    Conversation {
        conv_id: ConvId,
        conv_seq: u64,
        #[serde(flatten)]
        change: ConversationChange,
    },
    /// This user no longer sees these; they may arrive later and stay hidden.
    Delete { conv_id: ConvId, ranges: Vec<Range> },
    /// This user no longer sees anything up to it.
    Clear { conv_id: ConvId, up_to: u64 },
    /// This user has read up to it; `unread` at that moment.
    Read { conv_id: ConvId, read_seq: u64, unread: u64 },
    /// The other user of a direct conversation has read up to it.
    Receipt { conv_id: ConvId, user_id: UserId, read_seq: u64 },
    /// This user's settings, all of them.
    Settings { conv_id: ConvId, muted: bool, pinned: bool, hidden: bool },
    /// This user is mentioned in a large conversation.
    Mention { conv_id: ConvId, target: u64, sender_id: UserId },
    /// From the server API. In the log of `b:all` with its place, else without a conversation.
    Notification {
        #[serde(skip_serializing_if = "Option::is_none")]
        conv_id: Option<ConvId>,
        #[serde(skip_serializing_if = "Option::is_none")]
        conv_seq: Option<u64>,
        topic: MsgId,
        body: Body,
    },
    /// An op (or a `change`) of a later version: skipped, its `seq` counts. Never sent.
    #[serde(untagged)]
    #[cfg_attr(feature = "schema", schemars(skip))]
    Unknown { op: String },
}

/// A message as it stands.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Message {
    /// Where.
    pub conv_id: ConvId,
    /// Its place there, from 1.
    pub conv_seq: u64,
    /// Who sent it.
    pub sender_id: UserId,
    /// The sender's own key for it.
    pub client_msg_id: MsgId,
    /// Milliseconds, server clock.
    pub sent_at: u64,
    /// Content; absent when recalled, or left out of a summary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Body>,
    /// `conv_seq` of the message answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<u64>,
    /// Users mentioned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mentions: Vec<UserId>,
    /// A stub: the body is erased.
    #[serde(default, skip_serializing_if = "is_false")]
    pub recalled: bool,
    /// Milliseconds; when the body is that of an edit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edited_at: Option<u64>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
pub(super) fn is_false(flag: &bool) -> bool {
    !*flag
}

/// `change` of a `member` entry.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum MemberChange {
    /// Became a member.
    Joined,
    /// Went by himself.
    Left,
    /// Was taken out.
    Removed,
    /// Has another role.
    Role,
}

/// `change` of a `conversation` entry, with the new value.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum ConversationChange {
    /// Made, with these members.
    Created {
        /// The maker first.
        members: Vec<UserId>,
        /// 1-256 characters.
        #[serde(skip_serializing_if = "Option::is_none")]
        title: Option<String>,
        /// Up to 4 KiB.
        #[serde(skip_serializing_if = "Option::is_none")]
        attributes: Option<Body>,
    },
    /// Another title.
    Renamed {
        /// 1-256 characters.
        title: String,
    },
    /// Other attributes.
    Attributes {
        /// Up to 4 KiB, whole.
        attributes: Body,
    },
    /// Large from here on; the last entry in members' sync timelines.
    Large,
    /// Over, for every member.
    Dissolved,
}

/// An event at its place in a user's sync timeline.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Entry {
    /// Sync sequence number.
    pub seq: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// An event of a conversation as `history` tells it.
#[derive(Clone, Debug, PartialEq)]
pub struct HistoryEntry {
    /// A message as it stands, or a notification of `b:all`.
    pub event: Event,
    /// Written for messages only, there always.
    pub reactions: Vec<ReactionCount>,
}

/// One reaction key of a message.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ReactionCount {
    /// 1-64 bytes.
    pub key: String,
    /// How many users.
    pub count: u64,
    /// Up to 20 of them, the reader himself first if he is one.
    pub users: Vec<UserId>,
}

impl Event {
    /// The name of the op on the wire.
    #[must_use]
    pub fn op(&self) -> &str {
        match self {
            Self::Message(_) => "message",
            Self::Recall { .. } => "recall",
            Self::Edit { .. } => "edit",
            Self::Reaction { .. } => "reaction",
            Self::Member { .. } => "member",
            Self::Conversation { .. } => "conversation",
            Self::Delete { .. } => "delete",
            Self::Clear { .. } => "clear",
            Self::Read { .. } => "read",
            Self::Receipt { .. } => "receipt",
            Self::Settings { .. } => "settings",
            Self::Mention { .. } => "mention",
            Self::Notification { .. } => "notification",
            Self::Unknown { op } => op,
        }
    }

    /// The conversation it is about.
    #[must_use]
    pub fn conv_id(&self) -> Option<&ConvId> {
        match self {
            Self::Message(Message { conv_id, .. })
            | Self::Recall { conv_id, .. }
            | Self::Edit { conv_id, .. }
            | Self::Reaction { conv_id, .. }
            | Self::Member { conv_id, .. }
            | Self::Conversation { conv_id, .. }
            | Self::Delete { conv_id, .. }
            | Self::Clear { conv_id, .. }
            | Self::Read { conv_id, .. }
            | Self::Receipt { conv_id, .. }
            | Self::Settings { conv_id, .. }
            | Self::Mention { conv_id, .. } => Some(conv_id),
            Self::Notification { conv_id, .. } => conv_id.as_ref(),
            Self::Unknown { .. } => None,
        }
    }

    /// Its own place in the conversation's timeline, for ops that have one.
    #[must_use]
    pub fn conv_seq(&self) -> Option<u64> {
        match self {
            Self::Message(Message { conv_seq, .. })
            | Self::Recall { conv_seq, .. }
            | Self::Edit { conv_seq, .. }
            | Self::Reaction { conv_seq, .. }
            | Self::Member { conv_seq, .. }
            | Self::Conversation { conv_seq, .. } => Some(*conv_seq),
            Self::Notification { conv_seq, .. } => *conv_seq,
            _ => None,
        }
    }

    /// The message it is about, for ops that have a target.
    #[must_use]
    pub fn target(&self) -> Option<u64> {
        match self {
            Self::Recall { target, .. }
            | Self::Edit { target, .. }
            | Self::Reaction { target, .. }
            | Self::Mention { target, .. } => Some(*target),
            _ => None,
        }
    }

    /// What follows `{"seq":N,` in an entry (and `{` where events stand alone): `"op":...}`.
    #[must_use]
    pub fn encode(&self) -> Arc<str> {
        let text = text_of(self);
        Arc::from(text.strip_prefix('{').unwrap_or(&text))
    }

    /// Reads back what [`Event::encode`] gave.
    ///
    /// # Errors
    /// When it is something else.
    pub fn decode(encoded: &str) -> Result<Self, serde_json::Error> {
        let mut text = String::with_capacity(encoded.len() + 1);
        text.push('{');
        text.push_str(encoded);
        serde_json::from_str(&text)
    }
}

/// An event of a conversation as `history` tells it.
#[derive(Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(rename = "HistoryEntry"))]
struct HistoryEntryFields<'a> {
    #[serde(flatten)]
    event: &'a Event,
    /// Of a message, always; else absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    reactions: Option<&'a [ReactionCount]>,
}

impl Serialize for HistoryEntry {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let message = matches!(self.event, Event::Message(_));
        let reactions = message.then_some(&*self.reactions);
        HistoryEntryFields { event: &self.event, reactions }.serialize(serializer)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for HistoryEntry {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        HistoryEntryFields::schema_name()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        HistoryEntryFields::json_schema(generator)
    }
}
