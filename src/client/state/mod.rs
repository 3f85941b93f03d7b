//! What a device knows: the model a [`Cache`](super::Cache) keeps and an application reads.
//!
//! Plain values and pure functions, no I/O, no clock. Two devices of one user that have caught up
//! show the same ([`State::view`]), however they got there: entry by entry, or by a reset.
//! It is the one place that decides what an entry or an answer means; a mistake here shows recalled
//! or deleted messages again, so every rule has its test.
//!
//! What makes the two ways meet:
//! - **Everything has a number.** A change is kept with its `conv_seq`, each facet of a target (recall,
//!   edit, one user's reaction) for itself, and a message with the head its answer was true of
//!   (`as_of`). The higher number wins, in whatever order they come; a recall wins over all.
//! - **Changes are kept without their target too**, and are put on it when it comes.
//! - **Holes are known.** `complete_from` and `held_to` bound what is held without a hole; a reset or a
//!   rejoin writes down where it begins (`Stale`), and that is saved with the rest.
//! - **Unread is counted** wherever everything above the read position is held (see [`unread`]).

mod answers;
mod apply;
mod changes;
mod ranges;
mod reset;
pub mod unread;
mod view;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::protocol::{Body, ConvId, ConversationSettings, Cursor, MsgId, Role, UserId};

pub use answers::{ChangesAnswer, HistoryAnswer, apply_changes, apply_conversations, apply_history, apply_members};
pub use apply::{apply, apply_frame, apply_heads};
pub use changes::{Edit, MAX_WAITING, Reacted, TargetChanges};
pub use ranges::RangeSet;
pub use reset::{close_if_done, first_start, reset};
pub use view::{ConversationView, MessageView, View};

/// What a client loads by itself on a fresh device, and of conversations that are new to it.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum Preload {
    /// Nothing: the application asks for what it shows.
    #[default]
    None,
    /// The list of conversations.
    Conversations,
    /// The list, and of each conversation this many pages of its newest messages, their changes and
    /// its members. `u32::MAX`: everything.
    History(u32),
}

/// What is being loaded before the state may be called live.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum Loading {
    /// Nothing.
    #[default]
    No,
    /// A fresh device's first load.
    Fresh,
    /// A reset is open: the cache is being reconciled.
    Reset,
}

/// All a device knows.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct State {
    /// Whose it is; unknown before the first `welcome`.
    pub user_id: Option<UserId>,
    /// Epoch and the last entry applied; `None` on a fresh device.
    pub cursor: Option<Cursor>,
    /// By id, those left included.
    pub conversations: BTreeMap<ConvId, ConversationState>,
    /// The newest [`MAX_NOTIFICATIONS`], in order of arrival.
    pub notifications: Vec<Notification>,
    /// What is loaded unasked.
    pub preload: Preload,
    /// Whether something is missing that must be there before `live`.
    pub loading: Loading,
    /// The list of conversations is to be paged from its start.
    pub list_wanted: bool,
}

/// Notifications kept.
pub const MAX_NOTIFICATIONS: usize = 1_000;

/// One notification of the server API.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Notification {
    /// Place in `b:all`; `None` for one to this user.
    pub conv_seq: Option<u64>,
    /// As given to the server API.
    pub topic: MsgId,
    /// Content.
    pub body: Body,
}

/// One conversation.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct ConversationState {
    /// Messages held, by `conv_seq`; deleted and cleared ones are not there.
    pub messages: BTreeMap<u64, HeldMessage>,
    /// Deleted by this user; also hides what comes later.
    pub deleted: RangeSet,
    /// All up to it is gone for this user.
    pub cleared_up_to: u64,
    /// Read up to.
    pub read_seq: u64,
    /// Read up to by the other user of a direct conversation, as far as told.
    pub peer_read_seq: u64,
    /// Title, when known.
    pub title: Option<String>,
    /// Attributes, when known and while a member.
    pub attributes: Option<Body>,
    /// This user's own settings.
    pub settings: ConversationSettings,
    /// Members and their roles; `None` when not known, in large conversations and after leaving.
    pub members: Option<BTreeMap<UserId, Role>>,
    /// End of the stay, when this user is no member any more.
    pub left_seq: Option<u64>,
    /// The first leave after which no `joined` entry has come: what is missing at a return begins there.
    pub rejoin_from: Option<u64>,
    /// Follows its own log (`heads`) instead of the sync timeline.
    pub large: bool,
    /// Recalls, edits and reactions by target, with their numbers; also of targets not held.
    pub changes: BTreeMap<u64, TargetChanges>,
    /// Changes are known up to here: `up_to` of the last complete `changes`, moved on by entries
    /// only while no reset is open.
    pub reconciled_seq: Option<u64>,
    /// All visible messages from here to `held_to` are held, but for `stale.gap`.
    pub complete_from: Option<u64>,
    /// End of what is held without a hole: the last entry followed that is no change.
    pub held_to: u64,
    /// What is to be loaded.
    pub stale: Stale,
    /// The part of the server's unread number that is about messages not held.
    pub unheld: unread::Unheld,
    /// Numbers that tell older from newer.
    pub known: Known,
}

/// A message as it stands.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct HeldMessage {
    /// Who sent it.
    pub sender_id: UserId,
    /// The sender's key.
    pub client_msg_id: MsgId,
    /// Milliseconds, server clock.
    pub sent_at: u64,
    /// The present body; `None` when recalled.
    pub body: Option<Body>,
    /// The message answered. Gone with a recall, like all below.
    pub reply_to: Option<u64>,
    /// Users mentioned.
    pub mentions: Vec<UserId>,
    /// Taken back for everybody.
    pub recalled: bool,
    /// Milliseconds; when the body is that of an edit.
    pub edited_at: Option<u64>,
    /// By key; keys nobody uses are not there.
    pub reactions: BTreeMap<String, Reaction>,
    /// Changes up to this `conv_seq` are in it already.
    pub as_of: u64,
}

/// Who reacted with one key.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Reaction {
    /// Those known by name.
    pub users: std::collections::BTreeSet<UserId>,
    /// Further ones: `history` names at most 20.
    pub unnamed: u64,
}

impl Reaction {
    /// How many users.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.users.len() as u64 + self.unnamed
    }
}

/// What of a conversation is to be loaded; saved, so that an interrupted load goes on.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Stale {
    /// Messages after this `conv_seq` may be missing.
    pub gap: Option<u64>,
    /// Older pages to load, of a conversation that is new to this device.
    pub older: Option<Older>,
    /// `changes` after this `conv_seq` are to be asked.
    pub changes: Option<u64>,
    /// The row in `conversations` is to be read, in an answer asked at or after this sync `seq`.
    pub row: Option<u64>,
    /// Members are to be read.
    pub members: bool,
    /// Changes of membership while that is so: put on the answer again.
    pub member_changes: Vec<(UserId, Option<Role>)>,
    /// Large: newest head told while loading.
    pub heads_seen: u64,
    /// Goes up with every mark: an answer asked for before it finishes nothing.
    pub generation: u64,
}

/// Progress of loading older pages.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Older {
    /// Pages left.
    pub pages: u32,
    /// Next page ends before it; `None` for the newest.
    pub before: Option<u64>,
}

/// Which state each piece is known as of.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Known {
    /// `conv_seq`: title.
    pub title: u64,
    /// `conv_seq`: attributes.
    pub attributes: u64,
    /// `conv_seq`: this user's own membership.
    pub membership: u64,
    /// Sync `seq`: settings.
    pub settings: u64,
    /// `conv_seq`: the row, or what entries have told of it since; of use in large conversations.
    pub row: u64,
    /// Older pages were asked for once, or never need to be.
    pub preloaded: bool,
}

impl State {
    /// The last sync entry applied; 0 on a fresh device.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.cursor.as_ref().map_or(0, |cursor| cursor.seq)
    }

    /// Unread messages of a conversation; 0 when unknown.
    #[must_use]
    pub fn unread(&self, conv_id: &ConvId) -> u64 {
        let held = self.conversations.get(conv_id);
        held.map_or(0, |conversation| conversation.unread(self.user_id.as_ref()))
    }

    /// Large conversations and the last `conv_seq` held of each, as `hello` names them.
    #[must_use]
    pub fn large_positions(&self) -> BTreeMap<ConvId, u64> {
        let large = self.conversations.iter().filter(|(_, held)| held.large && held.left_seq.is_none());
        let named = large.filter_map(|(conv_id, held)| Some((conv_id.clone(), held.position()?)));
        named.take(crate::protocol::limits::MAX_HELLO_CONVERSATIONS).collect()
    }

    fn is_me(&self, user: &UserId) -> bool {
        self.user_id.as_ref() == Some(user)
    }
}

impl ConversationState {
    /// Whether this user does not see it: deleted or cleared.
    #[must_use]
    pub fn is_hidden(&self, conv_seq: u64) -> bool {
        conv_seq <= self.cleared_up_to || self.deleted.contains(conv_seq)
    }

    /// Whether something of it is being loaded.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        let Stale { gap, older, changes, row, members, .. } = &self.stale;
        gap.is_some() || older.is_some() || changes.is_some() || row.is_some() || *members
    }

    /// Large: everything up to here is held, messages and changes; `None` before anything is.
    #[must_use]
    pub fn position(&self) -> Option<u64> {
        self.reconciled_seq.map(|reconciled| reconciled.min(self.held_to))
    }
}
