//! What a request (or an order of the server API) comes to in the conversation's lane: refused, answered at once, or entries and rows
//! in the draft. Every rule reads first and writes last, so a refusal leaves the draft as it was.
//!
//! Checks go in the contract's order: `duplicate` before anything; membership; target visible and a
//! message; right; gone; time limit.

mod change;
mod command;
mod membership;
mod notify;
mod send;

use std::sync::Arc;

use super::Refusal;
use super::entry::{Appended, Header, Kind};
use super::member::Member;
use super::rows::{self, Info};
use super::state::Conversation;
use crate::config::Policy;
use crate::protocol::{AnswerBody, Body, ErrorCode, Event, Request, UserId};
use crate::store::{self, RowKey, Span, Store};
use crate::timeline::Draft;

pub use change::message_at;
pub use command::Command;
pub use notify::Notice;

/// What a conversation's lane decides.
#[derive(Debug, Clone)]
pub enum Order {
    /// A request of a client.
    Request(Request),
    /// A notification, by the server API.
    Notify(Notice),
    /// A change by the server API.
    Command(Command),
}

/// Why a decision was not made.
#[derive(Debug)]
pub enum NotDecided {
    /// The request is refused.
    Refused(Refusal),
    /// The store could not be read: nothing is decided, try again.
    Store(store::Error),
}

impl From<store::Error> for NotDecided {
    fn from(error: store::Error) -> Self {
        Self::Store(error)
    }
}

impl From<Refusal> for NotDecided {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<ErrorCode> for NotDecided {
    fn from(code: ErrorCode) -> Self {
        Self::Refused(Refusal::new(code))
    }
}

pub(super) type Decision<T> = std::result::Result<T, NotDecided>;

/// One commit of a conversation in the making.
#[derive(Debug)]
pub struct Desk<'a> {
    /// To read what the lane does not hold.
    pub store: &'a dyn Store,
    /// Limits.
    pub policy: &'a Policy,
    /// The state, advanced as entries are appended.
    pub conversation: &'a mut Conversation,
    /// The commit.
    pub draft: &'a mut Draft,
    /// The entries, for the fan-out.
    pub appended: &'a mut Vec<Appended>,
}

impl std::fmt::Debug for dyn Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

impl Order {
    /// Whether it changes who is a member: such a one is committed alone, so that the members an entry
    /// goes to are the same for a whole commit.
    pub fn changes_membership(&self) -> bool {
        use Request::{Create, Invite, Leave, Remove};
        match self {
            Self::Request(request) => {
                matches!(request, Create { .. } | Invite { .. } | Remove { .. } | Leave { .. })
            }
            Self::Notify(_) => false,
            Self::Command(_) => true,
        }
    }

    /// Bytes of the contents it brings along.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Request(Request::Send(send)) => send.body.len(),
            Self::Request(Request::Edit { body, .. }) => body.len(),
            Self::Request(Request::Create { attributes, .. } | Request::Update { attributes, .. }) => {
                attributes.as_ref().map_or(0, Body::len)
            }
            Self::Request(_) => 0,
            Self::Notify(notice) => notice.body.len(),
            Self::Command(_) => 0,
        }
    }
}

impl Desk<'_> {
    /// Decides one request of `caller`, or what the server API tells him.
    ///
    /// # Errors
    /// The refusal, or that the store could not be read.
    pub async fn decide(&mut self, caller: &UserId, order: &Order) -> Decision<AnswerBody> {
        let request = match order {
            Order::Request(request) => request,
            Order::Notify(notice) => return self.notify(caller, notice).await,
            Order::Command(command) => return self.obey(command).await,
        };
        match request {
            Request::Send(send) => self.send(caller, send).await,
            Request::Recall { target, .. } => self.recall(caller, *target).await,
            Request::Edit { target, body, .. } => self.edit(caller, *target, body).await,
            Request::React { target, key, add, .. } => self.react(caller, *target, key, *add).await,
            Request::Create { members, title, attributes, history, .. } => {
                self.create(Some(caller), members, title.as_ref(), attributes.as_ref(), *history)
            }
            Request::Invite { users, .. } => self.invite(caller, users),
            Request::Remove { users, .. } => self.remove(caller, users),
            Request::Leave { .. } => self.leave(caller),
            Request::Update { title, attributes, .. } => self.update(caller, title.as_ref(), attributes.as_ref()),
            Request::Role { user_id, role, .. } => self.role(caller, user_id, *role),
            _ => Err(ErrorCode::UnknownType.into()),
        }
    }

    /// The caller as a present member, and the conversation.
    fn membership(&self, caller: &UserId) -> Decision<(Arc<Member>, Info)> {
        match (self.conversation.member(caller), &self.conversation.info) {
            (Some(member), Some(info)) if member.present() => Ok((Arc::clone(member), info.clone())),
            _ => Err(ErrorCode::NotFound.into()),
        }
    }

    /// Appends an entry: `event` is told its conv_seq and time.
    fn append(&mut self, header: Header, event: impl FnOnce(u64, u64) -> Event) -> u64 {
        let (seq, at) = (self.draft.next_seq(), self.draft.at());
        let text = event(seq, at).encode();
        self.draft.append(header.store(&text));
        self.appended.push(Appended::new(&self.conversation.id, seq, at, header, text));
        seq
    }

    /// Sets the conversation's state row.
    fn set_info(&mut self, info: Info) {
        self.draft.row(rows::state_key(), Some(rows::pack(&info)), None);
        self.conversation.info = Some(info);
    }

    /// Sets a member's row.
    fn set_member(&mut self, user: &UserId, member: Member) {
        self.draft.row(rows::member_key(user), Some(rows::pack(&member)), None);
        self.conversation.set_member(user, member);
    }

    /// A row as it will be after this draft.
    async fn row<T: serde::de::DeserializeOwned>(&self, key: &RowKey) -> Decision<Option<T>> {
        let timeline = &self.conversation.timeline;
        match self.draft.pending_row(key) {
            Some(Some(value)) => Ok(Some(rows::unpack(timeline, key, value)?)),
            Some(None) => Ok(None),
            None => Ok(rows::read(self.store, timeline, key).await?),
        }
    }

    /// The stored bytes of an entry, of this draft or before it.
    async fn entry(&self, seq: u64) -> Decision<Option<bytes::Bytes>> {
        if let Some(entry) = self.draft.entry(seq) {
            return Ok(Some(entry.data.clone()));
        }
        let span = Span { after: seq.saturating_sub(1), up_to: seq, limit: 1, max_bytes: usize::MAX, backward: false };
        let entries = self.store.entries(&self.conversation.timeline, span).await?;
        Ok(entries.into_iter().next().filter(|entry| entry.seq == seq).map(|entry| entry.data))
    }
}

/// An answer with a conv_seq only.
fn ok(conv_seq: u64) -> AnswerBody {
    AnswerBody::Ok { conv_id: None, conv_seq: Some(conv_seq), seq: None }
}

/// A header about a member.
fn about(kind: Kind, by: Option<&UserId>, subject: &UserId) -> Header {
    Header { subject: Some(subject.clone()), ..Header::plain(kind, by) }
}
