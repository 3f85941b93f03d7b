//! Frames from the client to the server, as values whose fields have been checked.
//!
//! The server gets them from `ClientFrame::parse`; a client library builds them and writes
//! [`ClientFrame::to_json`]. Building one by hand checks no limit: the server does.
//! `Debug` of `hello` and `auth` shows the token: frames are never logged.

use std::collections::BTreeMap;

use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};

use super::body::Body;
use super::ids::{ConvId, DeviceId, MsgId, UserId};

/// Anything a client sends.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ClientFrame {
    /// The first frame of a connection.
    Hello(Hello),
    /// Applied and stored up to `seq`. No answer.
    Ack {
        /// Sync sequence number.
        seq: u64,
    },
    /// Answer to a `ping`; acknowledges like `ack`. No answer.
    Pong {
        /// Sync sequence number.
        seq: u64,
    },
    /// The user is typing; may be dropped. No answer.
    Typing {
        /// Where.
        conv_id: ConvId,
    },
    /// Everything that is answered once.
    #[serde(untagged)]
    Request(Envelope),
}

/// A request with the id its answer will carry.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Envelope {
    /// What is asked.
    #[serde(flatten)]
    pub request: Request,
    /// Chosen by the client.
    pub id: MsgId,
}

/// `hello`: who connects, and what it holds already.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Hello {
    /// Carried by `welcome`.
    pub id: MsgId,
    /// JWT, up to 8 KiB; absent when the upgrade had an `Authorization` header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The device.
    pub device_id: DeviceId,
    /// The last entry applied; absent on a fresh device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<Cursor>,
    /// The last `conv_seq` held of each large conversation; up to 2000.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "schema", schemars(with = "BTreeMap<String, u64>"))]
    pub conversations: BTreeMap<ConvId, u64>,
    /// What runs there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientInfo>,
}

/// Position in the sync timeline.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Cursor {
    /// Incarnation of the server's data: 1-64 bytes.
    pub epoch: String,
    /// The last entry applied.
    pub seq: u64,
}

/// Name and version of the client program, each up to 64 characters.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ClientInfo {
    /// Such as `web`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Such as `1.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// Requests of section 6 of the contract.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Request {
    /// A message.
    Send(Send),
    /// Takes a message back for everybody.
    Recall {
        /// Where.
        conv_id: ConvId,
        /// `conv_seq` of the message, from 1.
        target: u64,
    },
    /// Another body for one's own message.
    Edit {
        /// Where.
        conv_id: ConvId,
        /// `conv_seq` of the message, from 1.
        target: u64,
        /// The new one, whole.
        body: Body,
    },
    /// Sets or takes away one's reaction.
    React {
        /// Where.
        conv_id: ConvId,
        /// `conv_seq` of the message, from 1.
        target: u64,
        /// 1-64 bytes.
        key: String,
        /// False takes it away.
        add: bool,
    },
    /// Hides entries from oneself.
    Delete {
        /// Where.
        conv_id: ConvId,
        /// 1-200.
        ranges: Vec<Range>,
    },
    /// Hides everything up to a number from oneself.
    Clear {
        /// Where.
        conv_id: ConvId,
        /// Inclusive `conv_seq`.
        up_to: u64,
    },
    /// One's reading position.
    Read {
        /// Where.
        conv_id: ConvId,
        /// Inclusive `conv_seq`.
        read_seq: u64,
    },
    /// One's settings of a conversation; at least one of them.
    Settings {
        /// Where.
        conv_id: ConvId,
        /// No sound.
        #[serde(skip_serializing_if = "Option::is_none")]
        muted: Option<bool>,
        /// Kept on top.
        #[serde(skip_serializing_if = "Option::is_none")]
        pinned: Option<bool>,
        /// Not listed.
        #[serde(skip_serializing_if = "Option::is_none")]
        hidden: Option<bool>,
    },
    /// A new group.
    Create {
        /// 1-1000, the maker included or not.
        members: Vec<UserId>,
        /// 1-256 characters.
        #[serde(skip_serializing_if = "Option::is_none")]
        title: Option<String>,
        /// Up to 4 KiB.
        #[serde(skip_serializing_if = "Option::is_none")]
        attributes: Option<Body>,
        /// What a new member sees.
        #[serde(default)]
        history: HistoryMode,
        /// The same op_id makes no second group.
        op_id: MsgId,
    },
    /// Adds members.
    Invite {
        /// Where.
        conv_id: ConvId,
        /// 1-1000.
        users: Vec<UserId>,
    },
    /// Takes members out.
    Remove {
        /// Where.
        conv_id: ConvId,
        /// 1-1000.
        users: Vec<UserId>,
    },
    /// Goes.
    Leave {
        /// Where.
        conv_id: ConvId,
    },
    /// New title, new attributes. With neither, nothing changes.
    Update {
        /// Where.
        conv_id: ConvId,
        /// 1-256 characters.
        #[serde(skip_serializing_if = "Option::is_none")]
        title: Option<String>,
        /// Up to 4 KiB, whole.
        #[serde(skip_serializing_if = "Option::is_none")]
        attributes: Option<Body>,
    },
    /// Gives a member a role.
    Role {
        /// Where.
        conv_id: ConvId,
        /// To whom.
        user_id: UserId,
        /// Which.
        role: Role,
    },
    /// Moves the session's position; answered by the next `sync` frame, or `reset`.
    Sync {
        /// The last entry applied.
        after_seq: u64,
    },
    /// Messages as they stand now.
    History {
        /// Where.
        conv_id: ConvId,
        /// From where, and in which direction.
        #[serde(flatten)]
        #[cfg_attr(feature = "schema", schemars(with = "HistoryFromFields"))]
        from: HistoryFrom,
        /// 1-200; 30 when absent.
        #[cfg_attr(feature = "schema", schemars(with = "Option<u32>"))]
        limit: u32,
    },
    /// Recalls, edits and reactions since a number, and all one's deleted ranges.
    Changes {
        /// Where.
        conv_id: ConvId,
        /// Exclusive `conv_seq`.
        since: u64,
    },
    /// One's conversations, most recent first.
    Conversations {
        /// Only those whose last message is later: milliseconds, exclusive.
        #[serde(skip_serializing_if = "Option::is_none")]
        active_after: Option<u64>,
        /// `next` of the page before: 1-256 bytes.
        #[serde(skip_serializing_if = "Option::is_none")]
        page: Option<String>,
        /// 1-1000; 100 when absent.
        #[cfg_attr(feature = "schema", schemars(with = "Option<u32>"))]
        limit: u32,
    },
    /// Members of a conversation.
    Members {
        /// Where.
        conv_id: ConvId,
        /// `next` of the page before: 1-256 bytes.
        #[serde(skip_serializing_if = "Option::is_none")]
        page: Option<String>,
        /// 1-1000; 100 when absent.
        #[cfg_attr(feature = "schema", schemars(with = "Option<u32>"))]
        limit: u32,
    },
    /// Who of these is connected.
    Presence {
        /// 1-1000.
        users: Vec<UserId>,
    },
    /// Another token for this connection.
    Auth {
        /// JWT, up to 8 KiB.
        token: String,
    },
    /// One's devices.
    Devices,
    /// Forgets a device and closes its socket.
    Logout {
        /// Which.
        device_id: DeviceId,
    },
}

/// `send`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Send {
    /// Where, exactly one of `conv_id` and `to`.
    #[serde(flatten)]
    pub to: SendTo,
    /// Idempotence key within sender and conversation.
    pub client_msg_id: MsgId,
    /// Content, up to `max_body_bytes`.
    pub body: Body,
    /// `conv_seq` of the message answered, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<u64>,
    /// Up to 50, as given (not sorted, not made unique); absent equals empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mentions: Vec<UserId>,
}

/// Where a message goes.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum SendTo {
    /// A conversation.
    #[serde(rename = "conv_id")]
    Conv(ConvId),
    /// The direct conversation with this user.
    #[serde(rename = "to")]
    User(UserId),
}

/// Inclusive interval of `conv_seq`, written `[from,to]`; 1 <= from <= to.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(from = "(u64, u64)", into = "(u64, u64)")]
pub struct Range {
    /// First.
    pub from: u64,
    /// Last.
    pub to: u64,
}

impl From<(u64, u64)> for Range {
    fn from((from, to): (u64, u64)) -> Self {
        Self { from, to }
    }
}

impl From<Range> for (u64, u64) {
    fn from(range: Range) -> Self {
        (range.from, range.to)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Range {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Range".into()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        <(u64, u64)>::json_schema(generator)
    }
}

/// What a member sees of the time before he joined.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum HistoryMode {
    /// Nothing.
    #[default]
    SinceJoin,
    /// Everything.
    Full,
}

/// A member's role.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// May everything; one per conversation.
    Owner,
    /// May remove members and recall their messages.
    Admin,
    /// Everybody else.
    Member,
}

/// From where `history` reads; at most one field on the wire.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum HistoryFrom {
    /// The newest messages.
    #[default]
    Newest,
    /// Those before this `conv_seq`, exclusive; the newest of them.
    Before(u64),
    /// Those after this `conv_seq`, exclusive; the oldest of them.
    After(u64),
    /// Those sent at or after this time, in milliseconds, or behind the place that `next` named; the oldest of them.
    AfterAt(u64),
}

/// [`HistoryFrom`] as it is written.
#[cfg(feature = "schema")]
#[derive(schemars::JsonSchema)]
#[allow(dead_code, reason = "only for the schema")]
struct HistoryFromFields {
    /// Exclusive `conv_seq`; excludes the other two.
    before: Option<u64>,
    /// Exclusive `conv_seq`; excludes the other two.
    after: Option<u64>,
    /// Milliseconds, inclusive, or a `next` told before; excludes the other two.
    after_at: Option<u64>,
}

impl Serialize for HistoryFrom {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self {
            Self::Newest => {}
            Self::Before(conv_seq) => map.serialize_entry("before", conv_seq)?,
            Self::After(conv_seq) => map.serialize_entry("after", conv_seq)?,
            Self::AfterAt(time) => map.serialize_entry("after_at", time)?,
        }
        map.end()
    }
}

impl ClientFrame {
    /// The frame as sent.
    #[must_use]
    pub fn to_json(&self) -> String {
        super::frame::text_of(self)
    }
}

impl Request {
    /// The conversation it is about; `send` `to` a user names none.
    #[must_use]
    pub fn conv_id(&self) -> Option<&ConvId> {
        match self {
            Self::Send(Send { to: SendTo::Conv(conv_id), .. })
            | Self::Recall { conv_id, .. }
            | Self::Edit { conv_id, .. }
            | Self::React { conv_id, .. }
            | Self::Delete { conv_id, .. }
            | Self::Clear { conv_id, .. }
            | Self::Read { conv_id, .. }
            | Self::Settings { conv_id, .. }
            | Self::Invite { conv_id, .. }
            | Self::Remove { conv_id, .. }
            | Self::Leave { conv_id }
            | Self::Update { conv_id, .. }
            | Self::Role { conv_id, .. }
            | Self::History { conv_id, .. }
            | Self::Changes { conv_id, .. }
            | Self::Members { conv_id, .. } => Some(conv_id),
            _ => None,
        }
    }
}
