//! Keys and values of the side rows, and reading them through a draft.

use std::sync::Arc;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::entry::Kind;
use super::member::{AsLeft, Member};
use crate::protocol::limits::{MAX_REACTION_KEYS, MAX_REACTION_USERS};
use crate::protocol::{Body, ConvId, DeviceId, HistoryMode, MsgId, UserId};
use crate::store::{Error, Result, RowKey, Section, Store, TimelineId};

fn key(section: Section, n: u64, id: impl Into<Arc<str>>) -> RowKey {
    RowKey { section, n, id: id.into() }
}

/// The one state row of a conversation.
pub fn state_key() -> RowKey {
    key(Section::State, 0, "")
}
/// A member's row.
pub fn member_key(user: &UserId) -> RowKey {
    key(Section::Member, 0, user.as_str())
}
/// What was sent under this key.
pub fn dedupe_key(sender: &UserId, id: &MsgId) -> RowKey {
    key(Section::Dedupe, 0, format!("{sender}\n{id}"))
}
/// The notification under this key of the server API: a name no sender has.
pub fn notice_key(key: &MsgId) -> RowKey {
    self::key(Section::Dedupe, 0, format!("\n{key}"))
}
/// The change at this conv_seq.
pub fn change_key(conv_seq: u64) -> RowKey {
    key(Section::Change, conv_seq, "")
}
/// What became of the message at this conv_seq.
pub fn target_key(conv_seq: u64) -> RowKey {
    key(Section::Target, conv_seq, "")
}
/// The last word of a user about a reaction key of the message at this conv_seq. The last line of `id` is
/// the user: no user's name has a line feed, a key may.
pub fn word_key(target: u64, key: &str, user: &str) -> RowKey {
    self::key(Section::Word, target, format!("{key}\n{user}"))
}
/// What all words about the message at this conv_seq stand behind.
pub fn words_from(target: u64) -> RowKey {
    key(Section::Word, target, "")
}
/// Reaction key and user of a [`word_key`].
pub fn of_word(key: &RowKey) -> Option<(&str, UserId)> {
    let (key, user) = key.id.rsplit_once('\n')?;
    Some((key, UserId::parse(user).ok()?))
}
/// The one row of user and conversation.
pub fn conv_key(conv: &ConvId) -> RowKey {
    key(Section::Conv, 0, conv.as_str())
}
/// What the user deleted for himself there.
pub fn hidden_key(conv: &ConvId) -> RowKey {
    key(Section::Hidden, 0, conv.as_str())
}
/// A device's row.
pub fn device_key(device: &DeviceId) -> RowKey {
    key(Section::Device, 0, device.as_str())
}

/// When a device's tokens were revoked; without a device, the user's.
pub fn revoked_key(device: Option<&DeviceId>) -> RowKey {
    key(Section::Revoked, 0, device.map_or("", DeviceId::as_str))
}

/// That the user is in a large conversation.
pub fn large_key(conv: &ConvId) -> RowKey {
    key(Section::Large, 0, conv.as_str())
}

/// A conversation as a whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Info {
    /// Two users, made by the first send.
    pub direct: bool,
    /// Title, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The application's own, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attributes: Option<Body>,
    /// What a new member sees.
    pub history: HistoryMode,
    /// Who made it; `None`: the server API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creator: Option<UserId>,
    /// Members now.
    pub members_count: u64,
    /// Who owns it; `None`: nobody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<UserId>,
    /// Entries above this are followed by its own log, once and for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub large_at: Option<u64>,
    /// Over since this entry, for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dissolved_at: Option<u64>,
}

impl Info {
    /// `b:all`: nobody's, and large from the start.
    pub fn everybody() -> Self {
        Self {
            direct: false,
            title: None,
            attributes: None,
            history: HistoryMode::SinceJoin,
            creator: None,
            members_count: 0,
            owner: None,
            large_at: Some(0),
            dissolved_at: None,
        }
    }

    /// Whether entries from now on are followed by its own log.
    pub fn is_large(&self) -> bool {
        self.large_at.is_some()
    }

    /// A member as he is by the log: of a large conversation that is over nobody's row was written.
    pub fn as_of(&self, mut member: Member) -> Member {
        if let Some(at) = self.dissolved_at.filter(|_| member.present()) {
            member.leave(at, AsLeft { members_count: 0, title: self.title.clone() });
        }
        member
    }
}

/// Since when a user is in `b:all`: the value of his [`large_key`] row there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Everybody {
    /// Where the log stood at his first hello.
    pub join_seq: u64,
}

/// What became of a message. Bounded, as it is written with each change: however many react, whose words
/// they are stands in rows of their own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// The recall, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recall: Option<(u64, UserId)>,
    /// conv_seqs of its edits, ascending; the last counts. At most [`MAX_EDITS`](crate::protocol::limits::MAX_EDITS).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub edits: Vec<u64>,
    /// The keys it has reactions with, in the order they came. At most [`MAX_REACTION_KEYS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reactions: Vec<Reactions>,
    /// conv_seq of the last reaction set or taken away; 0: there was none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub last_word: u64,
}

/// The reactions with one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reactions {
    /// Which.
    pub key: String,
    /// How many users; 1 or more.
    pub count: u64,
    /// Some of them: all, while they are no more than [`MAX_REACTION_USERS`].
    pub users: Vec<UserId>,
}

/// The last word of a user about one key of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    /// conv_seq of that word.
    pub conv_seq: u64,
    /// False: taken away.
    pub add: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Target {
    /// A user who had not reacted with this key does now. False: with so many keys others have already.
    pub fn add(&mut self, key: &str, user: &UserId) -> bool {
        if let Some(with) = self.reactions.iter_mut().find(|with| with.key == key) {
            with.count += 1;
            if with.users.len() < MAX_REACTION_USERS {
                with.users.push(user.clone());
            }
            return true;
        }
        let room = self.reactions.len() < MAX_REACTION_KEYS;
        if room {
            self.reactions.push(Reactions { key: key.to_owned(), count: 1, users: vec![user.clone()] });
        }
        room
    }

    /// A user who had reacted with this key does no longer. True: another can be named in his place.
    pub fn take_away(&mut self, key: &str, user: &UserId) -> bool {
        let Some(index) = self.reactions.iter().position(|with| with.key == key) else { return false };
        let Some(with) = self.reactions.get_mut(index) else { return false };
        with.count = with.count.saturating_sub(1);
        with.users.retain(|other| other != user);
        let lacks = with.users.len() < MAX_REACTION_USERS && with.count > with.users.len() as u64;
        if with.count == 0 {
            self.reactions.remove(index);
        }
        lacks
    }
}

/// What is at a conv_seq of the change index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// recall, edit or reaction.
    pub kind: ChangeKind,
    /// The message changed.
    pub target: u64,
}

/// Kinds of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// Body gone.
    Recall,
    /// Body replaced.
    Edit,
    /// Reaction.
    Reaction,
}

impl ChangeKind {
    /// The kind of the entry itself.
    pub fn entry_kind(self) -> Kind {
        match self {
            Self::Recall => Kind::Recall,
            Self::Edit => Kind::Edit,
            Self::Reaction => Kind::Reaction,
        }
    }
}

/// What was sent under a (sender, client_msg_id).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentAs {
    /// Where it is.
    pub conv_seq: u64,
    /// When.
    pub sent_at: u64,
    /// Of `body`, `reply_to`, `mentions` as JSON values.
    pub content: u64,
}

/// A device of a user.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// Largest seq acknowledged when it was last here.
    pub acked: u64,
    /// Last hello or goodbye, milliseconds.
    pub last_seen_at: u64,
    /// What it says it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<crate::protocol::ClientInfo>,
}

/// Tokens issued up to this moment are refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// Milliseconds since 1970.
    pub at: u64,
    /// The user was erased then: nothing else of him is kept, and nothing is missed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub erased: bool,
}

/// A row value as stored.
pub fn pack<T: Serialize>(value: &T) -> Bytes {
    // Only maps with keys that are no strings fail, and rows have none.
    Bytes::from(serde_json::to_vec(value).unwrap_or_default())
}

/// A row value read back.
pub fn unpack<T: DeserializeOwned>(timeline: &TimelineId, key: &RowKey, value: &[u8]) -> Result<T> {
    // Bodies are borrowed from text, so the bytes are checked to be text first.
    std::str::from_utf8(value)
        .ok()
        .and_then(|text| serde_json::from_str(text).ok())
        .ok_or_else(|| Error::Damaged(format!("row {key:?} of {timeline:?}")))
}

/// Reads one row.
pub async fn read<T: DeserializeOwned>(store: &dyn Store, timeline: &TimelineId, key: &RowKey) -> Result<Option<T>> {
    match store.row(timeline, key).await? {
        Some(value) => unpack(timeline, key, &value).map(Some),
        None => Ok(None),
    }
}
