//! The server API's texts: what the application's server sends over HTTP and what it is told.
//!
//! Read by the same strict readers as the frames of clients, refused with the same [`Reject`]. No HTTP
//! here. Field names mean what they mean in the client protocol.

use serde::Serialize;

use super::body::Body;
use super::entry::HistoryEntry;
use super::error::ErrorCode;
use super::fields::{Fault, Fields};
use super::ids::{ConvId, MsgId, UserId};
use super::limits::{MAX_MENTIONS, MAX_NESTING, MAX_USERS};
use super::parse::{ParseLimits, Reject, Wrong};
use super::parse_request::{attributes, body, need, title};
use super::request::{HistoryMode, Role};
use super::scan::scan;
use super::{ConversationKind, ConversationSummary, DeviceInfo, MemberInfo};

/// `POST conversations`.
#[derive(Clone, Debug, PartialEq, schemars::JsonSchema)]
pub struct NewConversation {
    /// Makes it and becomes its owner; without, it is the server's and has none.
    #[schemars(default)]
    pub owner: Option<UserId>,
    /// Everybody in it, 1-1000; the owner need not be named.
    #[schemars(length(min = 1, max = 1000))]
    pub members: Vec<UserId>,
    /// 1-256 characters.
    #[schemars(default)]
    pub title: Option<String>,
    /// Up to 4 KiB.
    #[schemars(default)]
    pub attributes: Option<Body>,
    /// What a new member sees of the time before.
    #[schemars(default)]
    pub history: HistoryMode,
}

/// `PATCH conversations/{id}`: what is given is changed.
#[derive(Clone, Debug, PartialEq, schemars::JsonSchema)]
pub struct ConversationPatch {
    /// 1-256 characters.
    #[schemars(default)]
    pub title: Option<String>,
    /// Up to 4 KiB, whole.
    #[schemars(default)]
    pub attributes: Option<Body>,
}

/// `POST conversations/{id}/members`.
#[derive(Clone, Debug, PartialEq, Eq, schemars::JsonSchema)]
pub struct AddMembers {
    /// 1-1000; who is a member already stays one.
    #[schemars(length(min = 1, max = 1000))]
    pub users: Vec<UserId>,
    /// Given to all of them, also to those who were members; `owner` for one only.
    #[schemars(default)]
    pub role: Option<Role>,
}

/// `DELETE conversations/{id}/members`.
#[derive(Clone, Debug, PartialEq, Eq, schemars::JsonSchema)]
pub struct RemoveMembers {
    /// 1-1000; who is no member is passed over.
    #[schemars(length(min = 1, max = 1000))]
    pub users: Vec<UserId>,
}

/// `POST conversations/{id}/messages`.
#[derive(Clone, Debug, PartialEq, schemars::JsonSchema)]
pub struct NewMessage {
    /// Who sends; he must be a member.
    pub sender_id: UserId,
    /// The sender's key; `Idempotency-Key` says the same.
    #[schemars(default)]
    pub client_msg_id: Option<MsgId>,
    /// Content.
    pub body: Body,
    /// `conv_seq` of the message answered.
    #[schemars(default)]
    pub reply_to: Option<u64>,
    /// Up to 50.
    #[schemars(default, length(max = 50))]
    pub mentions: Vec<UserId>,
}

/// `POST notifications`.
#[derive(Clone, Debug, PartialEq, schemars::JsonSchema)]
pub struct NewNotification {
    /// Whom.
    pub users: Addressees,
    /// What it is about, for the application.
    pub topic: MsgId,
    /// Content.
    pub body: Body,
}

/// `users` of a notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Addressees {
    /// `"*"`.
    Everybody,
    /// 1-1000 of them.
    Users(Vec<UserId>),
}

impl schemars::JsonSchema for Addressees {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Addressees".into()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let user = generator.subschema_for::<UserId>();
        schemars::json_schema!({
            "oneOf": [
                { "const": "*", "description": "Everybody." },
                { "type": "array", "items": user, "minItems": 1, "maxItems": MAX_USERS },
            ],
        })
    }
}

/// Where a change of a conversation stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct ConversationChanged {
    /// Which.
    pub conv_id: ConvId,
    /// The last entry it made; the head when nothing changed.
    pub conv_seq: u64,
}

/// Where a message stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct MessageSent {
    /// Where.
    pub conv_id: ConvId,
    /// Its place.
    pub conv_seq: u64,
    /// Milliseconds, server clock.
    pub sent_at: u64,
    /// It had been sent before under this key.
    pub duplicate: bool,
}

/// A conversation as a whole.
#[derive(Clone, Debug, PartialEq, Serialize, schemars::JsonSchema)]
pub struct ConversationInfo {
    /// Which.
    pub conv_id: ConvId,
    /// What sort.
    pub kind: ConversationKind,
    /// 1-256 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Up to 4 KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attributes: Option<Body>,
    /// What a new member sees of the time before.
    pub history: HistoryMode,
    /// Last conv_seq given.
    pub head_seq: u64,
    /// How many members.
    pub members_count: u64,
    /// Followed by its own log instead of sync timelines.
    pub large: bool,
    /// Over, for good.
    pub dissolved: bool,
}

/// A page of members, by user_id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct MembersPage {
    /// Present ones.
    pub members: Vec<MemberInfo>,
    /// For `page`; absent when complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A page of messages as they stand, ascending.
#[derive(Clone, Debug, PartialEq, Serialize, schemars::JsonSchema)]
pub struct MessagesPage {
    /// Recalled ones as stubs.
    pub entries: Vec<HistoryEntry>,
    /// For the same parameter; absent when complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
    /// There are no more in this direction.
    pub complete: bool,
    /// Head when this was read.
    pub head_seq: u64,
}

/// The devices of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct DevicesList {
    /// Registered ones, by id.
    pub devices: Vec<DeviceInfo>,
}

/// A page of a user's conversations, most recent first.
#[derive(Clone, Debug, PartialEq, Serialize, schemars::JsonSchema)]
pub struct ConversationsPage {
    /// As the user himself is told them.
    pub conversations: Vec<ConversationSummary>,
    /// For `page`; absent when complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// What a notification came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct NotificationMade {
    /// Users told now; one for everybody counts as one.
    pub made: u64,
    /// Those told before under this key.
    pub duplicates: u64,
}

/// Tokens issued up to then are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Revoked {
    /// Milliseconds, server clock; compared with a token's `iat`.
    pub revoked_at: u64,
}

/// What erasing a user came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Erased {
    /// Milliseconds, server clock: tokens issued up to then are refused.
    pub revoked_at: u64,
    /// Conversations he was taken out of.
    pub conversations: u64,
    /// His messages whose bodies were erased; 0 unless asked for.
    pub messages: u64,
}

fn read<T>(text: &str, read: impl FnOnce(&Fields<'_>) -> Result<T, Wrong>) -> Result<T, Reject> {
    let bad = || Reject::new(None, ErrorCode::BadJson);
    scan(text, MAX_NESTING).map_err(|_| bad())?;
    let fields = Fields::read(text).ok_or_else(bad)?;
    read(&fields).map_err(|wrong| match wrong {
        Wrong::Type => Reject::new(None, ErrorCode::UnknownType),
        Wrong::Field(fault) => Reject::fault(None, ErrorCode::InvalidField, &fault),
        Wrong::TooLarge(fault) => Reject::fault(None, ErrorCode::TooLarge, &fault),
    })
}

fn users(fields: &Fields<'_>, field: &'static str) -> Result<Vec<UserId>, Fault> {
    need(fields.ids(field, 1..=MAX_USERS), field)
}

/// Something the API reads from a request's content.
pub trait Input: Sized {
    /// Reads it.
    ///
    /// # Errors
    /// [`Reject`], to be answered as it is.
    fn parse(text: &str, limits: &ParseLimits) -> Result<Self, Reject>;
}

impl Input for NewConversation {
    fn parse(text: &str, _: &ParseLimits) -> Result<Self, Reject> {
        read(text, |fields| {
            Ok(Self {
                owner: fields.id("owner")?,
                members: users(fields, "members")?,
                title: title(fields)?,
                attributes: attributes(fields)?,
                history: fields.word("history")?.unwrap_or_default(),
            })
        })
    }
}

impl Input for ConversationPatch {
    fn parse(text: &str, _: &ParseLimits) -> Result<Self, Reject> {
        read(text, |fields| Ok(Self { title: title(fields)?, attributes: attributes(fields)? }))
    }
}

impl Input for AddMembers {
    fn parse(text: &str, _: &ParseLimits) -> Result<Self, Reject> {
        read(text, |fields| {
            let (users, role) = (users(fields, "users")?, fields.word("role")?);
            if role == Some(Role::Owner) && users.len() != 1 {
                return Err(Fault { field: "role", reason: "can be owner for one user only" }.into());
            }
            Ok(Self { users, role })
        })
    }
}

impl Input for RemoveMembers {
    fn parse(text: &str, _: &ParseLimits) -> Result<Self, Reject> {
        read(text, |fields| Ok(Self { users: users(fields, "users")? }))
    }
}

impl Input for NewMessage {
    fn parse(text: &str, limits: &ParseLimits) -> Result<Self, Reject> {
        read(text, |fields| {
            Ok(Self {
                sender_id: fields.need_id("sender_id")?,
                client_msg_id: fields.id("client_msg_id")?,
                body: body(fields, limits)?,
                reply_to: fields.position("reply_to")?,
                mentions: fields.ids("mentions", 0..=MAX_MENTIONS)?.unwrap_or_default(),
            })
        })
    }
}

impl Input for NewNotification {
    fn parse(text: &str, limits: &ParseLimits) -> Result<Self, Reject> {
        read(text, |fields| {
            let everybody = fields.raw("users").is_some_and(|raw| raw.get() == "\"*\"");
            let users = if everybody { Addressees::Everybody } else { Addressees::Users(users(fields, "users")?) };
            Ok(Self { users, topic: fields.need_id("topic")?, body: body(fields, limits)? })
        })
    }
}
