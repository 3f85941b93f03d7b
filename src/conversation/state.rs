//! A conversation as its lane holds it between commits: folded from its side rows, advanced with every
//! draft, dropped whole after a refusal (rule 2).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::entry::{Header, Tail};
use super::member::Member;
use super::rows::{self, Info, SentAs};
use crate::planted::{Bug, planted};
use crate::protocol::{ConvId, HistoryMode, UserId};
use crate::store::{Error, Head, Result, Section, Span, Store, TimelineId};

/// Sends remembered in memory for each conversation; older ones are looked up in the store.
const DEDUPE_IN_MEMORY: usize = 1024;
const PAGE: usize = 1000;
/// Members of a large conversation kept in memory; beyond, all are dropped and read again on demand.
const MEMBERS_IN_MEMORY: usize = 4096;

/// Users and their membership, shared by everybody who walks over them.
pub type Roster = Arc<[(UserId, Arc<Member>)]>;

/// The folded state of one conversation.
#[derive(Debug)]
pub struct Conversation {
    /// Its name.
    pub id: ConvId,
    /// Its timeline.
    pub timeline: TimelineId,
    /// Where its log stands.
    pub head: Head,
    /// `None` before it exists.
    pub info: Option<Info>,
    /// Of a large conversation: its messages up to the head.
    pub tail: Tail,
    /// All who ever were members; of a large conversation those looked at lately.
    members: HashMap<UserId, Arc<Member>>,
    roster: Option<Roster>,
    dedupe: Dedupe,
}

/// The newest sends by key.
#[derive(Debug, Default)]
struct Dedupe {
    by_key: HashMap<Arc<str>, SentAs>,
    order: VecDeque<Arc<str>>,
    /// Everything the store remembers is here, so a miss needs no read.
    complete: bool,
}

impl Conversation {
    /// Folds what the store holds. The head is read first: rows can only be newer, and a commit on an
    /// older head is refused.
    pub async fn load(store: &dyn Store, id: &ConvId) -> Result<Self> {
        let timeline = TimelineId::Conversation(id.clone());
        let head = store.head(&timeline).await?;
        let mut this = Self {
            id: id.clone(),
            timeline,
            head,
            info: None,
            tail: Tail::default(),
            members: HashMap::new(),
            roster: None,
            dedupe: Dedupe { complete: true, ..Dedupe::default() },
        };
        if head.position.seq > 0 {
            this.info = rows::read(store, &this.timeline, &rows::state_key()).await?;
            match this.info.as_ref().and_then(|info| info.large_at) {
                Some(at) => this.load_tail(store, at).await?,
                None => this.load_members(store).await?,
            }
            if !planted(Bug::DedupeForgotten) {
                this.load_dedupe(store).await?;
            }
        }
        Ok(this)
    }

    async fn load_members(&mut self, store: &dyn Store) -> Result<()> {
        let mut after = None;
        loop {
            let page = store.rows(&self.timeline, Section::Member, after, u64::MAX, PAGE).await?;
            for (key, value) in &page {
                if let Ok(user) = UserId::parse(&key.id) {
                    self.members.insert(user, Arc::new(rows::unpack(&self.timeline, key, value)?));
                }
            }
            match page.into_iter().nth(PAGE - 1) {
                Some((key, _)) => after = Some(key),
                None => return Ok(()),
            }
        }
    }

    async fn load_tail(&mut self, store: &dyn Store, large_at: u64) -> Result<()> {
        let seq = self.head.position.seq;
        if seq > large_at {
            let span = Span { after: seq - 1, up_to: seq, limit: 1, max_bytes: usize::MAX, backward: false };
            let entries = store.entries(&self.timeline, span).await?;
            let header = entries.first().and_then(|entry| Header::load(&entry.data));
            let large = header.and_then(|(header, _)| header.large);
            self.tail = large.ok_or_else(|| Error::Damaged(format!("entry {seq} of {}", self.id)))?.tail;
        }
        Ok(())
    }

    async fn load_dedupe(&mut self, store: &dyn Store) -> Result<()> {
        let page = store.rows(&self.timeline, Section::Dedupe, None, u64::MAX, DEDUPE_IN_MEMORY).await?;
        self.dedupe.complete = page.len() < DEDUPE_IN_MEMORY;
        for (key, value) in page {
            let sent = rows::unpack(&self.timeline, &key, &value)?;
            self.dedupe.remember(key.id, sent);
        }
        Ok(())
    }

    /// History mode; that of a conversation not yet made does not matter.
    pub fn mode(&self) -> HistoryMode {
        self.info.as_ref().map_or(HistoryMode::SinceJoin, |info| info.history)
    }

    /// Where it became large, if it has.
    pub fn large_at(&self) -> Option<u64> {
        self.info.as_ref().and_then(|info| info.large_at)
    }

    /// Whether it is followed by its own log from the next entry on.
    pub fn is_large(&self) -> bool {
        self.info.as_ref().is_some_and(Info::is_large)
    }

    /// Whether [`Conversation::member`] knows of this user without a look into the store.
    pub fn holds(&self, user: &UserId) -> bool {
        !self.is_large() || self.members.contains_key(user)
    }

    /// Bytes in memory, roughly: as measured with groups of 100.
    pub fn bytes(&self) -> usize {
        const SELF: usize = 1024;
        const MEMBER: usize = 300;
        const SENT: usize = 200;
        SELF + self.members.len() * MEMBER + self.dedupe.order.len() * SENT
    }

    /// Gives memory back where there are many members. Call between two drafts.
    pub fn trim(&mut self) {
        if self.is_large() && self.members.len() > MEMBERS_IN_MEMORY {
            self.forget_members();
        }
    }

    /// Rows were not written that change what members are.
    pub fn forget_members(&mut self) {
        (self.members, self.roster) = (HashMap::new(), None);
    }

    /// A member, present or past. Of a large conversation only who was brought in by `Desk::need`.
    pub fn member(&self, user: &UserId) -> Option<&Arc<Member>> {
        self.members.get(user)
    }

    /// All who ever were members, while it is not large (and in the commit by which it becomes so).
    pub fn everyone(&self) -> impl Iterator<Item = (&UserId, &Arc<Member>)> {
        self.members.iter()
    }

    /// Puts a member's new state.
    pub fn set_member(&mut self, user: &UserId, member: Member) {
        self.members.insert(user.clone(), Arc::new(member));
        self.roster = None;
    }

    /// The present members, by id, while it is not large: the order of deliveries follows from the log alone.
    pub fn roster(&mut self) -> Roster {
        let members = &self.members;
        let build = || {
            let present = members.iter().filter(|(_, member)| member.present());
            let mut roster: Vec<_> = present.map(|(user, member)| (user.clone(), Arc::clone(member))).collect();
            roster.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
            roster.into()
        };
        Arc::clone(self.roster.get_or_insert_with(build))
    }

    /// What was sent under this key.
    pub async fn sent_as(&self, store: &dyn Store, key: &crate::store::RowKey) -> Result<Option<SentAs>> {
        match self.dedupe.by_key.get(&key.id) {
            Some(sent) => Ok(Some(*sent)),
            None if self.dedupe.complete => Ok(None),
            None => rows::read(store, &self.timeline, key).await,
        }
    }

    /// Remembers a send.
    pub fn remember(&mut self, key: Arc<str>, sent: SentAs) {
        self.dedupe.remember(key, sent);
    }
}

impl Dedupe {
    fn remember(&mut self, key: Arc<str>, sent: SentAs) {
        self.order.push_back(Arc::clone(&key));
        self.by_key.insert(key, sent);
        if self.order.len() > DEDUPE_IN_MEMORY {
            self.complete = false;
            if let Some(oldest) = self.order.pop_front() {
                self.by_key.remove(&oldest);
            }
        }
    }
}
