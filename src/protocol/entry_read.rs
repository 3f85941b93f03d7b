//! Reads entries: the other half of `entry`.
//!
//! One flat struct holds every field of every op, because neither flattened structs nor tagged enums
//! keep a body's text. An op of a later version is [`Event::Unknown`], never an error.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::body::Body;
use super::entry::{ConversationChange, Entry, Event, HistoryEntry, MemberChange, Message, ReactionCount};
use super::ids::{ConvId, MsgId, UserId};
use super::request::{Range, Role};

/// All fields of all ops; reading once is cheaper than reading the op first.
#[derive(Deserialize)]
struct Flat {
    op: String,
    seq: Option<u64>,
    conv_id: Option<ConvId>,
    conv_seq: Option<u64>,
    sender_id: Option<UserId>,
    client_msg_id: Option<MsgId>,
    sent_at: Option<u64>,
    body: Option<Body>,
    reply_to: Option<u64>,
    mentions: Option<Vec<UserId>>,
    recalled: Option<bool>,
    edited_at: Option<u64>,
    target: Option<u64>,
    by: Option<UserId>,
    user_id: Option<UserId>,
    key: Option<String>,
    add: Option<bool>,
    change: Option<String>,
    role: Option<Role>,
    members: Option<Vec<UserId>>,
    title: Option<String>,
    attributes: Option<Body>,
    ranges: Option<Vec<Range>>,
    up_to: Option<u64>,
    read_seq: Option<u64>,
    unread: Option<u64>,
    muted: Option<bool>,
    pinned: Option<bool>,
    hidden: Option<bool>,
    topic: Option<MsgId>,
    reactions: Option<Vec<ReactionCount>>,
}

/// What every entry has, whatever its op means.
#[derive(Deserialize)]
struct Bare {
    op: String,
    seq: Option<u64>,
}

struct Read {
    seq: Option<u64>,
    event: Event,
    reactions: Vec<ReactionCount>,
}

const OPS: [&str; 13] = [
    "message",
    "recall",
    "edit",
    "reaction",
    "member",
    "conversation",
    "delete",
    "clear",
    "read",
    "receipt",
    "settings",
    "mention",
    "notification",
];

impl Read {
    fn parse(text: &str) -> Result<Self, serde_json::Error> {
        match serde_json::from_str::<Flat>(text) {
            Ok(mut flat) => {
                let (seq, reactions) = (flat.seq, flat.reactions.take().unwrap_or_default());
                let event =
                    event(flat).map_err(|field| serde_json::Error::custom(format_args!("missing field `{field}`")))?;
                Ok(Self { seq, event, reactions })
            }
            // An op of a later version may give a known name another type.
            Err(error) => {
                let Bare { op, seq } = serde_json::from_str(text)?;
                if OPS.contains(&&*op) {
                    return Err(error);
                }
                Ok(Self { seq, event: Event::Unknown { op }, reactions: Vec::new() })
            }
        }
    }
}

macro_rules! take {
    ($flat:ident . $field:ident) => {
        $flat.$field.ok_or(stringify!($field))?
    };
}

macro_rules! build {
    ($flat:ident, $($path:ident)::+ { $($field:ident),* }) => {
        $($path)::+ { $($field: take!($flat.$field)),* }
    };
}

/// The event in `flat`, or the name of the field that is missing.
fn event(flat: Flat) -> Result<Event, &'static str> {
    Ok(match flat.op.as_str() {
        "message" => Event::Message(Message {
            conv_id: take!(flat.conv_id),
            conv_seq: take!(flat.conv_seq),
            sender_id: take!(flat.sender_id),
            client_msg_id: take!(flat.client_msg_id),
            sent_at: take!(flat.sent_at),
            body: flat.body,
            reply_to: flat.reply_to,
            mentions: flat.mentions.unwrap_or_default(),
            recalled: flat.recalled.unwrap_or_default(),
            edited_at: flat.edited_at,
        }),
        "recall" => build!(flat, Event::Recall { conv_id, conv_seq, target, by }),
        "edit" => build!(flat, Event::Edit { conv_id, conv_seq, target, by, body, edited_at }),
        "reaction" => {
            build!(flat, Event::Reaction { conv_id, conv_seq, target, user_id, key, add })
        }
        "member" => member(flat)?,
        "conversation" => conversation(flat)?,
        "delete" => build!(flat, Event::Delete { conv_id, ranges }),
        "clear" => build!(flat, Event::Clear { conv_id, up_to }),
        "read" => build!(flat, Event::Read { conv_id, read_seq, unread }),
        "receipt" => build!(flat, Event::Receipt { conv_id, user_id, read_seq }),
        "settings" => build!(flat, Event::Settings { conv_id, muted, pinned, hidden }),
        "mention" => build!(flat, Event::Mention { conv_id, target, sender_id }),
        "notification" => Event::Notification {
            conv_id: flat.conv_id,
            conv_seq: flat.conv_seq,
            topic: take!(flat.topic),
            body: take!(flat.body),
        },
        _ => Event::Unknown { op: flat.op },
    })
}

fn member(flat: Flat) -> Result<Event, &'static str> {
    let change = match take!(flat.change).as_str() {
        "joined" => MemberChange::Joined,
        "left" => MemberChange::Left,
        "removed" => MemberChange::Removed,
        "role" => MemberChange::Role,
        _ => return Ok(Event::Unknown { op: flat.op }),
    };
    Ok(Event::Member {
        conv_id: take!(flat.conv_id),
        conv_seq: take!(flat.conv_seq),
        change,
        user_id: take!(flat.user_id),
        by: flat.by,
        role: flat.role,
    })
}

fn conversation(flat: Flat) -> Result<Event, &'static str> {
    let change = match take!(flat.change).as_str() {
        "created" => {
            ConversationChange::Created { members: take!(flat.members), title: flat.title, attributes: flat.attributes }
        }
        "renamed" => build!(flat, ConversationChange::Renamed { title }),
        "attributes" => build!(flat, ConversationChange::Attributes { attributes }),
        "large" => ConversationChange::Large,
        "dissolved" => ConversationChange::Dissolved,
        _ => return Ok(Event::Unknown { op: flat.op }),
    };
    Ok(Event::Conversation { conv_id: take!(flat.conv_id), conv_seq: take!(flat.conv_seq), change })
}

fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Read, D::Error> {
    let raw = <&'de RawValue>::deserialize(deserializer)?;
    Read::parse(raw.get()).map_err(D::Error::custom)
}

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(read(deserializer)?.event)
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Read { seq, event, .. } = read(deserializer)?;
        let seq = seq.ok_or_else(|| D::Error::missing_field("seq"))?;
        Ok(Self { seq, event })
    }
}

impl<'de> Deserialize<'de> for HistoryEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Read { event, reactions, .. } = read(deserializer)?;
        Ok(Self { event, reactions })
    }
}
