//! A conversation as one user may read it, from its own log: head first, then rows (rule 4).

use super::decide::NotDecided;
use super::entry::{Header, Ordinal, Tail};
use super::member::Member;
use super::ranges::Ranges;
use super::rows::{self, Everybody, Info, Target};
use super::user_row::UserRow;
use crate::planted::{Bug, planted};
use crate::protocol::{ConvId, Role, UserId};
use crate::store::{Error, Head, Result, RowKey, Section, Span, Store, TimelineId};

const PAGE: usize = 512;

/// What a read needs to know before it looks at entries.
#[derive(Debug)]
pub struct View {
    /// Which conversation.
    pub id: ConvId,
    /// Its timeline.
    pub timeline: TimelineId,
    /// Where its log stood when this was read.
    pub head: Head,
    /// The conversation as a whole.
    pub info: Info,
    /// The reader, who is or was a member.
    pub member: Member,
}

impl View {
    /// `None`: there is no such conversation, or he never was a member; nobody is told which.
    pub async fn load(store: &dyn Store, id: &ConvId, user: &UserId) -> Result<Option<Self>> {
        let timeline = TimelineId::Conversation(id.clone());
        let head = store.head(&timeline).await?;
        if id.is_everybody() {
            return Self::of_everybody(store, timeline, head, user).await;
        }
        let Some(member) = rows::read::<Member>(store, &timeline, &rows::member_key(user)).await? else {
            return Ok(None);
        };
        let Some(info) = rows::read::<Info>(store, &timeline, &rows::state_key()).await? else {
            return Ok(None);
        };
        let member = info.as_of(member);
        Ok(Some(Self { id: id.clone(), timeline, head, info, member }))
    }

    /// `b:all` keeps no members: whoever ever said hello has a row of his own about it.
    async fn of_everybody(store: &dyn Store, timeline: TimelineId, head: Head, user: &UserId) -> Result<Option<Self>> {
        let id = ConvId::everybody();
        let row = rows::read(store, &TimelineId::User(user.clone()), &rows::large_key(&id)).await?;
        let Some(Everybody { join_seq }) = row else { return Ok(None) };
        let member = Member::joining(join_seq, Role::Member, 0);
        Ok(Some(Self { id, timeline, head, info: Info::everybody(), member }))
    }

    /// The messages up to `seq`, counted from where the conversation became large.
    pub async fn tail(&self, store: &dyn Store, seq: u64) -> Result<Tail> {
        if self.info.large_at.is_none_or(|at| seq <= at) {
            return Ok(Tail::default());
        }
        Ok(self.header(store, seq).await?.large.map(|large| large.tail).unwrap_or_default())
    }

    /// How many messages up to `seq` the reader sent himself in his present stay; found by going back
    /// from his newest, so a look at the end costs nothing.
    pub async fn own_up_to(&self, store: &dyn Store, seq: u64) -> Result<u64> {
        if planted(Bug::OwnCountAsUnread) {
            return Ok(0);
        }
        let sent = self.member.sent;
        let (mut count, mut at) = (sent.count, sent.last);
        while at > seq {
            let Ordinal { count: this, before } =
                self.header(store, at).await?.large.map(|large| large.own).unwrap_or_default();
            (count, at) = (this.saturating_sub(1), before);
        }
        Ok(count)
    }

    /// Messages the reader has not seen, as things stand now. Of a large conversation they are counted by
    /// what its entries carry: what came after he looked, less his own and what he deleted.
    pub async fn unread(&self, store: &dyn Store, row: &UserRow, hidden: &Ranges) -> Result<u64> {
        let Some(large_at) = self.info.large_at else { return Ok(row.unread) };
        let (head, seen) = (self.head_seq(), row.seen_up_to());
        let from = seen.max(large_at).max(self.member.join_seq());
        let own = if from == seen { row.seen_own } else { 0 };
        let mut count = self.others(store, from, own, head).await?;
        for range in hidden.to_wire() {
            let (after, up_to) = (range.from.saturating_sub(1).max(from), range.to.min(head));
            if after < up_to {
                let own = self.own_up_to(store, after).await?;
                count = count.saturating_sub(self.others(store, after, own, up_to).await?);
            }
        }
        Ok(row.unread + count)
    }

    /// Messages of others in (after, up_to]; `own` are the reader's up to `after`.
    async fn others(&self, store: &dyn Store, after: u64, own: u64, up_to: u64) -> Result<u64> {
        if after >= up_to {
            return Ok(0);
        }
        let all = self.tail(store, up_to).await?.messages - self.tail(store, after).await?.messages;
        let own = self.own_up_to(store, up_to).await?.saturating_sub(own);
        Ok(all.saturating_sub(own))
    }

    async fn header(&self, store: &dyn Store, seq: u64) -> Result<Header> {
        let span = Span { after: seq - 1, up_to: seq, limit: 1, max_bytes: usize::MAX, backward: false };
        let entries = store.entries(&self.timeline, span).await?;
        let found = entries.first().and_then(|entry| Header::load(&entry.data));
        found.map(|(header, _)| header).ok_or_else(|| Error::Damaged(format!("entry {seq} of {}", self.id)))
    }

    /// The head as this user is told it.
    pub fn head_seq(&self) -> u64 {
        self.member.cap(self.head.position.seq)
    }

    /// Whether the user may see the message at `seq`.
    pub fn sees(&self, seq: u64) -> bool {
        self.member.sees(seq, self.info.history)
    }

    /// What became of the messages in (after, up_to]; read it after the entries (rule 4).
    pub async fn targets(&self, store: &dyn Store, after: u64, up_to: u64) -> Result<Vec<(u64, Target)>> {
        let mut found = Vec::new();
        let mut from = RowKey { n: after, ..rows::target_key(after) };
        loop {
            let page = store.rows(&self.timeline, Section::Target, Some(from.clone()), up_to, PAGE).await?;
            for (key, value) in &page {
                found.push((key.n, rows::unpack(&self.timeline, key, value)?));
            }
            match page.into_iter().nth(PAGE - 1) {
                Some((key, _)) => from = key,
                None => return Ok(found),
            }
        }
    }

    /// What became of the message at `seq`.
    pub async fn target(&self, store: &dyn Store, seq: u64) -> Result<Option<Target>> {
        rows::read(store, &self.timeline, &rows::target_key(seq)).await
    }

    /// An entry whose bytes make no sense.
    pub fn damaged(&self, seq: u64) -> NotDecided {
        NotDecided::Store(Error::Damaged(format!("entry {seq} of {}", self.id)))
    }
}
