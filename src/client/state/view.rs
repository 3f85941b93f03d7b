//! What an application shows of a state, without the numbers that only order it.
//!
//! Two devices of a user that hold the same messages and have caught up have equal views; tests
//! compare them. Left out because the protocol gives a device no way to learn them later:
//! notifications to the user missed beyond the floor.

use std::collections::BTreeMap;

use super::{ConversationState, HeldMessage, Reaction, State};
use crate::protocol::{Body, ConvId, ConversationSettings, MsgId, Range, Role, UserId};

/// What is shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// By id; `b:all` is not one.
    pub conversations: BTreeMap<ConvId, ConversationView>,
}

/// What is shown of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct ConversationView {
    /// By `conv_seq`.
    pub messages: BTreeMap<u64, MessageView>,
    /// Normal form, above `cleared_up_to`.
    pub deleted: Vec<Range>,
    /// Inclusive.
    pub cleared_up_to: u64,
    /// The last message held that has been read (`read_seq` itself may name any entry).
    pub read_up_to: Option<u64>,
    /// See `unread`.
    pub unread: u64,
    /// Of a direct conversation: the last message held that the other has read.
    pub peer_read_up_to: Option<u64>,
    /// When known.
    pub title: Option<String>,
    /// When known.
    pub attributes: Option<Body>,
    /// This user's own.
    pub settings: ConversationSettings,
    /// When known.
    pub members: Option<BTreeMap<UserId, Role>>,
    /// No member any more.
    pub left: bool,
    /// Follows its own log.
    pub large: bool,
}

/// What is shown of a message.
#[derive(Clone, Debug, PartialEq)]
pub struct MessageView {
    /// Who sent it.
    pub sender_id: UserId,
    /// The sender's key.
    pub client_msg_id: MsgId,
    /// Milliseconds, server clock.
    pub sent_at: u64,
    /// `None`: recalled.
    pub body: Option<Body>,
    /// The message answered.
    pub reply_to: Option<u64>,
    /// Users mentioned.
    pub mentions: Vec<UserId>,
    /// Milliseconds.
    pub edited_at: Option<u64>,
    /// By key.
    pub reactions: BTreeMap<String, Reaction>,
}

impl State {
    /// What is shown.
    #[must_use]
    pub fn view(&self) -> View {
        let me = self.user_id.as_ref();
        let shown = self.conversations.iter().filter(|(conv_id, _)| !conv_id.is_everybody());
        View { conversations: shown.map(|(conv_id, held)| (conv_id.clone(), held.view(me))).collect() }
    }
}

impl ConversationState {
    fn view(&self, me: Option<&UserId>) -> ConversationView {
        let last_up_to = |seq| self.messages.range(..=seq).next_back().map(|(seq, _)| *seq);
        ConversationView {
            messages: self.messages.iter().map(|(seq, message)| (*seq, message.view())).collect(),
            deleted: self.deleted.as_slice().to_vec(),
            cleared_up_to: self.cleared_up_to,
            read_up_to: last_up_to(self.read_seq),
            unread: self.unread(me),
            peer_read_up_to: last_up_to(self.peer_read_seq),
            title: self.title.clone(),
            attributes: self.attributes.clone(),
            settings: self.settings,
            members: self.members.clone(),
            left: self.left_seq.is_some(),
            large: self.large,
        }
    }
}

impl HeldMessage {
    fn view(&self) -> MessageView {
        MessageView {
            sender_id: self.sender_id.clone(),
            client_msg_id: self.client_msg_id.clone(),
            sent_at: self.sent_at,
            body: self.body.clone(),
            reply_to: self.reply_to,
            mentions: self.mentions.clone(),
            edited_at: self.edited_at,
            reactions: self.reactions.clone(),
        }
    }
}
