//! Frames from the server to a client, both directions: the server writes, clients read.
//!
//! Writing never fails and never cuts: keeping a frame within `max_server_frame_bytes` is the
//! session's work, which knows what can wait for the next one.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::answer::{Answer, AnswerBody, UserPresence};
use super::entry::{Entry, Event};
use super::error::ErrorFrame;
use super::ids::{ConvId, DeviceId, MsgId, UserId};
use super::limits::Limits;

/// Anything a server sends.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerFrame {
    /// Answer to `hello`.
    Welcome(Welcome),
    /// A piece of the user's sync timeline.
    Sync(SyncFrame),
    /// The cursor is of no use: reconcile.
    Reset(Reset),
    /// Nothing else was sent for a while; answered by `pong`.
    Ping {
        /// Head of the sync timeline.
        head_seq: u64,
    },
    /// News of large conversations.
    Heads {
        /// One each.
        conversations: Vec<HeadsItem>,
    },
    /// Somebody is typing; may be dropped.
    Typing {
        /// Where.
        conv_id: ConvId,
        /// Who.
        user_id: UserId,
    },
    /// Somebody came or went; may be dropped. With an `id` it is an [`Answer`].
    Presence {
        /// Who.
        users: Vec<UserPresence>,
    },
    /// Something went wrong.
    Error(ErrorFrame),
    /// Answer to a request.
    #[serde(untagged)]
    Answer(Answer),
    /// A type of a later version: ignored. Never sent.
    #[serde(untagged)]
    #[cfg_attr(feature = "schema", schemars(skip))]
    Unknown,
}

/// `welcome`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Welcome {
    /// The id of `hello`.
    pub id: MsgId,
    /// Whom the token names.
    pub user_id: UserId,
    /// As in `hello`.
    pub device_id: DeviceId,
    /// Names this connection in the server's log.
    pub session_id: String,
    /// Incarnation of the server's data.
    pub epoch: String,
    /// Last `seq` given.
    pub head_seq: u64,
    /// Largest `seq` no longer kept.
    pub floor_seq: u64,
    /// What became of the cursor.
    pub sync: SyncMode,
    /// Milliseconds, server clock.
    pub server_at: u64,
    /// Milliseconds between heartbeats.
    pub heartbeat_ms: u64,
    /// What the server allows.
    pub limits: Limits,
}

/// What became of the cursor in `hello`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum SyncMode {
    /// There was none: from the head on.
    Fresh,
    /// From the cursor on.
    Resumed,
    /// Of no use: `reset` follows.
    Reset,
}

/// `sync`: all of (`from_seq`, `to_seq`] that this user needs.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SyncFrame {
    /// Of the request `sync` it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<MsgId>,
    /// The cursor it continues, exclusive.
    pub from_seq: u64,
    /// The cursor after it.
    pub to_seq: u64,
    /// It reaches the head: what comes may ring.
    pub live: bool,
    /// Ascending `seq`, with gaps.
    pub entries: Vec<Entry>,
}

/// `reset`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Reset {
    /// Of the request `sync` it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<MsgId>,
    /// Why.
    pub reason: ResetReason,
    /// Incarnation of the server's data.
    pub epoch: String,
    /// The new position.
    pub head_seq: u64,
    /// Largest `seq` no longer kept.
    pub floor_seq: u64,
}

/// Why a cursor is of no use.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ResetReason {
    /// Below the floor: keep the cache and reconcile.
    TooOld,
    /// Other data: drop the cache.
    EpochMismatch,
    /// Above the head: drop the cache.
    Ahead,
}

/// One large conversation in `heads`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HeadsItem {
    /// Which.
    pub conv_id: ConvId,
    /// What the entries continue, exclusive; absent with them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_seq: Option<u64>,
    /// The newest `conv_seq`.
    pub head_seq: u64,
    /// All of (`from_seq`, `head_seq`] the user may see; absent when they are many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entries: Option<Vec<Event>>,
}

/// The text of a frame: `type` first.
pub(super) fn text_of<T: Serialize>(frame: &T) -> String {
    // Only maps with keys that are no strings fail, and frames have none.
    serde_json::to_string(frame).unwrap_or_default()
}

/// Bytes a value takes in a frame. Its text is counted, not kept.
#[must_use]
pub fn encoded_len<T: Serialize>(value: &T) -> usize {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    // As in `text_of`; and counting never fails.
    let _ = serde_json::to_writer(&mut count, value);
    count.0
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct AnswerId {
    id: Option<MsgId>,
}

macro_rules! read {
    ($text:ident, $variant:ident { $($field:ident: $type:ty),* }) => {{
        #[derive(Deserialize)]
        struct Fields { $($field: $type),* }
        let Fields { $($field),* } = serde_json::from_str($text)?;
        ServerFrame::$variant { $($field),* }
    }};
}

impl ServerFrame {
    /// The frame as sent.
    #[must_use]
    pub fn to_json(&self) -> String {
        text_of(self)
    }

    /// Reads a frame; unknown fields are ignored, an unknown type is [`ServerFrame::Unknown`].
    ///
    /// # Errors
    /// When it is not JSON, or a field of a known type is missing or mistyped.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        let Head { kind } = serde_json::from_str(text)?;
        Ok(match kind.as_deref().unwrap_or_default() {
            "sync" => Self::Sync(serde_json::from_str(text)?),
            "heads" => read!(text, Heads { conversations: Vec<HeadsItem> }),
            "welcome" => Self::Welcome(serde_json::from_str(text)?),
            "reset" => Self::Reset(serde_json::from_str(text)?),
            "ping" => read!(text, Ping { head_seq: u64 }),
            "typing" => read!(text, Typing { conv_id: ConvId, user_id: UserId }),
            "error" => Self::Error(serde_json::from_str(text)?),
            kind => Self::answer(kind, text)?,
        })
    }

    fn answer(kind: &str, text: &str) -> Result<Self, serde_json::Error> {
        let Some(body) = AnswerBody::read(kind, text)? else {
            return Ok(Self::Unknown);
        };
        let AnswerId { id } = serde_json::from_str(text)?;
        match (id, body) {
            (Some(id), body) => Ok(Self::Answer(Answer { id, body })),
            (None, AnswerBody::Presence { users }) => Ok(Self::Presence { users }),
            (None, _) => Err(serde::de::Error::missing_field("id")),
        }
    }
}

impl From<ErrorFrame> for ServerFrame {
    fn from(frame: ErrorFrame) -> Self {
        Self::Error(frame)
    }
}

/// Appends a `sync` frame made of entries encoded before: `(seq, Event::encode)`. The text equals
/// that of the same [`SyncFrame`] byte for byte.
pub fn write_sync_frame<'a>(
    out: &mut String,
    id: Option<&MsgId>,
    from_seq: u64,
    to_seq: u64,
    live: bool,
    entries: impl Iterator<Item = (u64, &'a str)>,
) {
    out.push_str(r#"{"type":"sync","#);
    if let Some(id) = id {
        let _ = write!(out, r#""id":{},"#, text_of(id));
    }
    let _ = write!(out, r#""from_seq":{from_seq},"to_seq":{to_seq},"live":{live},"entries":["#);
    for (index, (seq, encoded)) in entries.enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let _ = write!(out, r#"{comma}{{"seq":{seq},{encoded}"#);
    }
    out.push_str("]}");
}

/// One large conversation for [`write_heads_frame`], its events encoded before.
#[derive(Clone, Copy, Debug)]
pub struct EncodedHeads<'a> {
    /// Which.
    pub conv_id: &'a ConvId,
    /// As in [`HeadsItem`].
    pub from_seq: Option<u64>,
    /// The newest `conv_seq`.
    pub head_seq: u64,
    /// Each as [`Event::encode`] gave it; `None` leaves the field out.
    pub entries: Option<&'a [Arc<str>]>,
}

/// Appends a `heads` frame. The text equals that of the same [`ServerFrame::Heads`] byte for byte.
pub fn write_heads_frame<'a>(out: &mut String, conversations: impl IntoIterator<Item = EncodedHeads<'a>>) {
    out.push_str(r#"{"type":"heads","conversations":["#);
    for (index, item) in conversations.into_iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        // No character of a conv_id needs an escape.
        let _ = write!(out, r#"{comma}{{"conv_id":"{}","#, item.conv_id.as_str());
        if let Some(from_seq) = item.from_seq {
            let _ = write!(out, r#""from_seq":{from_seq},"#);
        }
        let _ = write!(out, r#""head_seq":{}"#, item.head_seq);
        if let Some(entries) = item.entries {
            out.push_str(r#","entries":["#);
            for (index, encoded) in entries.iter().enumerate() {
                out.push_str(if index == 0 { "{" } else { ",{" });
                out.push_str(encoded);
            }
            out.push(']');
        }
        out.push('}');
    }
    out.push_str("]}");
}
