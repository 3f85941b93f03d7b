//! Answers to requests, one variant per `type`.
//!
//! The numbers in an answer are already capped to what its reader may know; this file only gives
//! them their form.

use serde::{Deserialize, Serialize};

use super::body::Body;
use super::entry::{HistoryEntry, Message, is_false};
use super::ids::{ConvId, DeviceId, MsgId, UserId};
use super::request::{ClientInfo, Range, Role};

/// An answer with the id of its request.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Answer {
    /// What is answered.
    #[serde(flatten)]
    pub body: AnswerBody,
    /// The request's id.
    pub id: MsgId,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum AnswerBody {
    /// To `send`: durable, and will reach every member.
    Sent {
        /// Where.
        conv_id: ConvId,
        /// The message's place there.
        conv_seq: u64,
        /// Milliseconds, server clock.
        sent_at: u64,
        /// The same message was accepted before; the numbers are of then.
        duplicate: bool,
    },
    /// To requests that change something; which fields depends on the request.
    Ok {
        /// To `create`.
        #[serde(skip_serializing_if = "Option::is_none")]
        conv_id: Option<ConvId>,
        /// Place in the conversation.
        #[serde(skip_serializing_if = "Option::is_none")]
        conv_seq: Option<u64>,
        /// Place in the user's sync timeline.
        #[serde(skip_serializing_if = "Option::is_none")]
        seq: Option<u64>,
    },
    /// To `history`.
    History {
        /// Ascending `conv_seq`.
        entries: Vec<HistoryEntry>,
        /// For the same parameter of the next request; absent when complete. For `after_at` not always a time.
        #[serde(skip_serializing_if = "Option::is_none")]
        next: Option<u64>,
        /// Nothing more in this direction.
        complete: bool,
        /// The conversation's head, as far as the user may know.
        head_seq: u64,
    },
    /// To `changes`.
    Changes {
        /// Messages taken back.
        recalled: Vec<RecallChange>,
        /// The last edit of each message.
        edited: Vec<EditChange>,
        /// The last of each user and key.
        reacted: Vec<ReactionChange>,
        /// The answer holds as of this `conv_seq`; `since` of the next request.
        up_to: u64,
        /// Ask again.
        more: bool,
        /// All ranges this user has deleted here.
        deleted: Vec<Range>,
        /// All up to it is gone for this user; 0 for nothing.
        cleared_up_to: u64,
    },
    /// To `conversations`.
    Conversations {
        /// Most recent first.
        conversations: Vec<ConversationSummary>,
        /// `page` of the next request; absent on the last page.
        #[serde(skip_serializing_if = "Option::is_none")]
        next: Option<String>,
    },
    /// To `members`.
    Members {
        /// In no promised order.
        members: Vec<MemberInfo>,
        /// `page` of the next request; absent on the last page.
        #[serde(skip_serializing_if = "Option::is_none")]
        next: Option<String>,
    },
    /// To `devices`.
    Devices {
        /// Every device the server remembers.
        devices: Vec<DeviceInfo>,
    },
    /// To `presence`.
    Presence {
        /// One for each user asked about whom the asker may know of.
        users: Vec<UserPresence>,
    },
}

/// One of `recalled` in `changes`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RecallChange {
    /// `conv_seq` of the message.
    pub target: u64,
    /// `conv_seq` of the recall.
    pub conv_seq: u64,
    /// Who.
    pub by: UserId,
}

/// One of `edited` in `changes`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EditChange {
    /// `conv_seq` of the message.
    pub target: u64,
    /// `conv_seq` of the edit.
    pub conv_seq: u64,
    /// Who.
    pub by: UserId,
    /// The new content.
    pub body: Body,
    /// Milliseconds, server clock.
    pub edited_at: u64,
}

/// One of `reacted` in `changes`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ReactionChange {
    /// `conv_seq` of the message.
    pub target: u64,
    /// `conv_seq` of the reaction.
    pub conv_seq: u64,
    /// Who.
    pub user_id: UserId,
    /// 1-64 bytes.
    pub key: String,
    /// Set, or taken away.
    pub add: bool,
}

/// What sort of conversation.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ConversationKind {
    /// Two users.
    Direct,
    /// Made by `create`.
    Group,
}

/// A user's settings of a conversation.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ConversationSettings {
    /// No sound.
    pub muted: bool,
    /// Kept on top.
    pub pinned: bool,
    /// Not listed.
    pub hidden: bool,
}

/// One of `conversations`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ConversationSummary {
    /// Which.
    pub conv_id: ConvId,
    /// What sort.
    pub kind: ConversationKind,
    /// 1-256 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Up to 4 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attributes: Option<Body>,
    /// Head, as far as the user may know.
    pub head_seq: u64,
    /// The newest message the user may see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<LastMessage>,
    /// When it was sent: milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_at: Option<u64>,
    /// Read up to.
    pub read_seq: u64,
    /// Messages of others not read.
    pub unread: u64,
    /// Start of the last stay.
    pub join_seq: u64,
    /// End of the last stay; absent for a member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_seq: Option<u64>,
    /// Follows its own log instead of the sync timeline.
    pub large: bool,
    /// How many members.
    pub members_count: u64,
    /// The user's own.
    pub settings: ConversationSettings,
}

/// `last` of a conversation; written with `"op":"message"`, so that one reader serves everywhere.
#[derive(Clone, Debug, PartialEq)]
pub struct LastMessage {
    /// As it stands.
    pub message: Message,
    /// The body is above 1 KiB and left out.
    pub truncated: bool,
}

/// The newest message a user may see, as it stands.
#[derive(Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(rename = "LastMessage"))]
struct LastMessageFields<'a> {
    op: MessageOp,
    #[serde(flatten)]
    message: &'a Message,
    /// The body is above 1 KiB and left out.
    #[serde(default, skip_serializing_if = "is_false")]
    truncated: bool,
}

#[derive(Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(inline))]
#[serde(rename_all = "snake_case")]
enum MessageOp {
    Message,
}

impl Serialize for LastMessage {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { message, truncated } = self;
        LastMessageFields { op: MessageOp::Message, message, truncated: *truncated }.serialize(serializer)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for LastMessage {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        LastMessageFields::schema_name()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        LastMessageFields::json_schema(generator)
    }
}

impl<'de> Deserialize<'de> for LastMessage {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Rest {
            #[serde(default)]
            truncated: bool,
        }
        let raw = <&'de serde_json::value::RawValue>::deserialize(deserializer)?;
        let message = serde_json::from_str(raw.get()).map_err(serde::de::Error::custom)?;
        let rest: Rest = serde_json::from_str(raw.get()).map_err(serde::de::Error::custom)?;
        Ok(Self { message, truncated: rest.truncated })
    }
}

/// One of `members`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct MemberInfo {
    /// Who.
    pub user_id: UserId,
    /// Milliseconds, server clock.
    pub joined_at: u64,
    /// Start of the stay.
    pub join_seq: u64,
    /// Rights.
    pub role: Role,
    /// Read up to.
    pub read_seq: u64,
}

/// One of `devices`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DeviceInfo {
    /// Which.
    pub device_id: DeviceId,
    /// Has a socket now.
    pub connected: bool,
    /// Largest `seq` acknowledged.
    pub acked_seq: u64,
    /// Milliseconds, server clock.
    pub last_seen_at: u64,
    /// What it said in `hello`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientInfo>,
}

/// Whether a user is connected.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct UserPresence {
    /// Who.
    pub user_id: UserId,
    /// On any device.
    pub online: bool,
    /// Milliseconds, server clock; when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_at: Option<u64>,
}

macro_rules! read {
    ($text:ident, $variant:ident { $($field:ident: $type:ty),* }) => {{
        #[derive(Deserialize)]
        struct Fields { $($field: $type),* }
        let Fields { $($field),* } = serde_json::from_str($text)?;
        AnswerBody::$variant { $($field),* }
    }};
}

impl AnswerBody {
    /// Reads the fields behind `type`; `None` for a type that is no answer.
    pub(super) fn read(kind: &str, text: &str) -> Result<Option<Self>, serde_json::Error> {
        Ok(Some(match kind {
            "sent" => read!(text, Sent { conv_id: ConvId, conv_seq: u64, sent_at: u64, duplicate: bool }),
            "ok" => read!(text, Ok {
                conv_id: Option<ConvId>, conv_seq: Option<u64>, seq: Option<u64>
            }),
            "history" => read!(text, History {
                entries: Vec<HistoryEntry>, next: Option<u64>, complete: bool, head_seq: u64
            }),
            "changes" => read!(text, Changes {
                recalled: Vec<RecallChange>, edited: Vec<EditChange>,
                reacted: Vec<ReactionChange>, up_to: u64, more: bool,
                deleted: Vec<Range>, cleared_up_to: u64
            }),
            "conversations" => read!(text, Conversations {
                conversations: Vec<ConversationSummary>, next: Option<String>
            }),
            "members" => read!(text, Members { members: Vec<MemberInfo>, next: Option<String> }),
            "devices" => read!(text, Devices { devices: Vec<DeviceInfo> }),
            "presence" => read!(text, Presence { users: Vec<UserPresence> }),
            _ => return Ok(None),
        }))
    }
}
