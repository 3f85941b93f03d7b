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
use super::entry::{Appended, Header, Kind, Large, Ordinal, Told};
use super::member::{Member, Sent};
use super::rows::{self, Info};
use super::state::Conversation;
use futures::stream::{self, StreamExt, TryStreamExt};

use crate::config::Policy;
use crate::protocol::{AnswerBody, Body, ErrorCode, Event, Request, UserId};
use crate::store::{self, RowKey, Span, Store};
use crate::timeline::Draft;

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

/// Rows of members read at once.
const READS_AT_ONCE: usize = 32;

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

    /// Users it names.
    fn users(&self) -> Vec<&UserId> {
        match self {
            Self::Request(Request::Send(send)) => send.mentions.iter().collect(),
            Self::Request(Request::Invite { users, .. } | Request::Remove { users, .. }) => users.iter().collect(),
            Self::Request(Request::Role { user_id, .. }) => vec![user_id],
            Self::Command(Command::Add { users, .. } | Command::Remove { users }) => users.iter().collect(),
            Self::Command(Command::Depart { user }) => vec![user],
            Self::Request(_) | Self::Notify(_) | Self::Command(_) => Vec::new(),
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
        self.need(caller, order).await?;
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
            Request::Leave { .. } => self.leave(caller).await,
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

    /// Brings in the members that deciding this asks for, where they are too many to be all in memory.
    async fn need(&mut self, caller: &UserId, order: &Order) -> Decision<()> {
        if !self.conversation.is_large() {
            return Ok(());
        }
        let owner = self.conversation.info.as_ref().and_then(|info| info.owner.clone());
        let users: Vec<UserId> = order.users().into_iter().chain([caller]).chain(&owner).cloned().collect();
        self.bring(users).await
    }

    /// Reads the rows of these members unless they are known.
    async fn bring(&mut self, mut users: Vec<UserId>) -> Decision<()> {
        users.retain(|user| !self.conversation.holds(user));
        let this = &*self;
        let read = |user: UserId| async move {
            let member = this.row::<Member>(&rows::member_key(&user)).await?;
            Ok::<_, NotDecided>((user, member))
        };
        let found: Vec<_> = stream::iter(users).map(read).buffered(READS_AT_ONCE).try_collect().await?;
        let Some(info) = self.conversation.info.clone() else { return Ok(()) };
        for (user, member) in found {
            if let Some(member) = member {
                self.conversation.set_member(&user, info.as_of(member));
            }
        }
        Ok(())
    }

    /// Appends an entry: `event` is told its conv_seq and time. Of a large conversation it goes into the
    /// sync timeline of whom it is about.
    fn append(&mut self, header: Header, event: impl FnOnce(u64, u64) -> Event) -> u64 {
        let subject: Vec<UserId> = header.subject.iter().cloned().collect();
        self.append_told(header, &subject, event)
    }

    /// [`Desk::append`]; of a large conversation the entry goes into the sync timelines of `told`.
    fn append_told(&mut self, mut header: Header, told: &[UserId], event: impl FnOnce(u64, u64) -> Event) -> u64 {
        let (seq, at) = (self.draft.next_seq(), self.draft.at());
        if self.conversation.is_large() {
            header.large = Some(Box::new(self.of_large(&header, told)));
        }
        let text = event(seq, at).encode();
        self.draft.append(header.store(&text));
        self.appended.push(Appended::new(&self.conversation.id, seq, at, header, text));
        seq
    }

    /// What the next entry carries because the conversation is large.
    fn of_large(&mut self, header: &Header, told: &[UserId]) -> Large {
        let (seq, at) = (self.draft.next_seq(), self.draft.at());
        let mut large = Large { tail: self.conversation.tail, ..Large::default() };
        if let (Kind::Message, Some(sender)) = (header.kind, &header.by) {
            large.tail.messages += 1;
            (large.tail.last_seq, large.tail.last_at) = (seq, at);
            if let Some(mut member) = self.known(sender) {
                let Sent { count, last } = member.sent;
                large.own = Ordinal { count: count + 1, before: last };
                member.sent = Sent { count: count + 1, last: seq };
                self.set_member(sender, member);
            }
        }
        self.conversation.tail = large.tail;
        for user in told {
            let member = self.known(user);
            large.told.push(Told { user: user.clone(), before: member.as_ref().map_or(0, |member| member.told) });
            if let Some(member) = member {
                self.set_member(user, Member { told: seq, ..member });
            }
        }
        large
    }

    /// A member as he is by now.
    fn known(&self, user: &UserId) -> Option<Member> {
        self.conversation.member(user).map(|member| (**member).clone())
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
