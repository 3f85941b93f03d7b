//! A conversation as one user may read it, from its own log: head first, then rows (rule 4).

use super::decide::NotDecided;
use super::member::Member;
use super::rows::{self, Info, Target};
use crate::protocol::{ConvId, UserId};
use crate::store::{Error, Head, Result, RowKey, Section, Store, TimelineId};

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
        let Some(member) = rows::read::<Member>(store, &timeline, &rows::member_key(user)).await? else {
            return Ok(None);
        };
        let Some(info) = rows::read::<Info>(store, &timeline, &rows::state_key()).await? else {
            return Ok(None);
        };
        Ok(Some(Self { id: id.clone(), timeline, head, info, member }))
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
