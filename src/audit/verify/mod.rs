//! `verify`: reads everything a store holds and compares it with itself.
//!
//! The logs are the truth; everything else (rows of members, changes, targets, users) is recomputed from
//! them and compared. [`verify`] works on any [`Store`], so that tests plant differences in a simulated
//! one. It must not write, and must not need more memory than one conversation's members, whatever the
//! length of its log: logs are read page by page.
//!
//! | file | recomputes |
//! |---|---|
//! | `conversation` | one conversation: its log, and what stands beside it |
//! | `fold` | members, title, counts from the log |
//! | `index` | changes, targets, erased bodies, dedupe rows |
//! | `person` | one member's row: delivered, unread, last_at |
//! | `user`, `own` | one sync timeline: every pointer, every instruction, every row |
//!
//! What it cannot find: an entry whose text was exchanged for another valid one (the checksum of the
//! store's own format is for that), and messages that are gone together with every trace of them.
//!
//! How it can hurt: on a store that is being written it reports differences that are none.

mod conversation;
mod fold;
mod index;
mod own;
mod person;
mod user;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::protocol::ConvId;
use crate::store::{Entry, Error, Result, RowKey, Section, Span, Store, TimelineId};

/// Differences kept with their text; beyond, they are only counted.
const KEPT: usize = 1000;
/// Timelines, entries or rows read at once.
const PAGE: usize = 512;
/// Bytes of entries read at once.
const PAGE_BYTES: usize = 4 << 20;

/// What was read, and what did not agree.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Report {
    /// Epoch of the data.
    pub epoch: String,
    /// Conversations read.
    pub conversations: u64,
    /// Users' sync timelines read.
    pub users: u64,
    /// Entries read.
    pub entries: u64,
    /// Side rows read.
    pub rows: u64,
    /// Conversations whose last deliveries are finished when a server opens the store. No difference.
    pub unfinished: Vec<String>,
    /// Marks of nodes, as `conversation node burst from`. No difference.
    pub marks: Vec<String>,
    /// How many differences there are.
    pub difference_count: u64,
    /// The first of them.
    pub differences: Vec<Difference>,
}

/// One thing that does not agree with the logs.
#[derive(Debug, Clone, Serialize)]
pub struct Difference {
    /// `conversation ID` or `user ID`.
    pub timeline: String,
    /// What is wrong, one line.
    pub what: String,
}

impl Report {
    /// Whether everything agrees.
    pub fn is_clean(&self) -> bool {
        self.difference_count == 0
    }
}

/// Reads everything.
///
/// # Errors
/// [`Error::Unavailable`]: the store could not be read to the end. Damage is a difference, no error.
pub async fn verify(store: &dyn Store) -> Result<Report> {
    let mut audit = Audit::begin(store).await?;
    let mut after = None;
    loop {
        let page = store.timelines(after, PAGE).await?;
        for timeline in &page {
            let checked = match timeline {
                TimelineId::Conversation(id) => {
                    audit.report.conversations += 1;
                    conversation::check(&mut audit, id).await
                }
                TimelineId::User(user) => {
                    audit.report.users += 1;
                    user::check(&mut audit, user).await
                }
            };
            match checked {
                Ok(()) => {}
                Err(Error::Damaged(what)) => audit.differs(timeline, format!("damaged: {what}")),
                Err(error) => return Err(error),
            }
        }
        match page.into_iter().nth(PAGE - 1) {
            Some(last) => after = Some(last),
            None => return Ok(audit.report),
        }
    }
}

/// What every check needs: the store to read and the report to fill.
struct Audit<'a> {
    store: &'a dyn Store,
    report: Report,
    /// Fan-out of these is complete up to the number only (stores that do not commit together).
    marked: BTreeMap<ConvId, u64>,
}

impl<'a> Audit<'a> {
    async fn begin(store: &'a dyn Store) -> Result<Self> {
        let mut report = Report { epoch: store.epoch(), ..Report::default() };
        report.unfinished = store.unfinished().await?.iter().map(ToString::to_string).collect();
        let mut marked = BTreeMap::new();
        for mark in store.marks().await? {
            let from = marked.entry(mark.conversation.clone()).or_insert(mark.from);
            *from = mark.from.min(*from);
            report.marks.push(format!("{} {:x} {} {}", mark.conversation, mark.node, mark.burst, mark.from));
        }
        Ok(Self { store, report, marked })
    }

    fn differs(&mut self, timeline: &TimelineId, what: impl Into<String>) {
        self.report.difference_count += 1;
        if self.report.differences.len() < KEPT {
            self.report.differences.push(Difference { timeline: name(timeline), what: what.into() });
        }
    }

    /// The next entries above `after`.
    async fn page(&mut self, timeline: &TimelineId, after: u64, up_to: u64) -> Result<Vec<Entry>> {
        let span = Span { after, up_to, limit: PAGE, max_bytes: PAGE_BYTES, backward: false };
        self.store.entries(timeline, span).await
    }

    /// One entry.
    async fn entry(&self, timeline: &TimelineId, seq: u64) -> Result<Option<Entry>> {
        let span = Span { after: seq.saturating_sub(1), up_to: seq, limit: 1, max_bytes: usize::MAX, backward: false };
        Ok(self.store.entries(timeline, span).await?.into_iter().next().filter(|entry| entry.seq == seq))
    }

    /// Up to where a shared store has let entries expire by itself: whoever looks next stores it as the floor.
    async fn expired_up_to(&self, timeline: &TimelineId, floor: u64, head: u64) -> Result<u64> {
        let span = Span { after: floor, up_to: head, limit: 1, max_bytes: usize::MAX, backward: false };
        let oldest = self.store.entries(timeline, span).await?;
        Ok(oldest.first().map_or(head, |entry| entry.seq.saturating_sub(1)))
    }

    /// The next rows of a section after `after`, counted.
    async fn rows(
        &mut self,
        timeline: &TimelineId,
        section: Section,
        after: Option<RowKey>,
        up_to_n: u64,
    ) -> Result<Vec<(RowKey, bytes::Bytes)>> {
        let page = self.store.rows(timeline, section, after, up_to_n, PAGE).await?;
        self.report.rows += page.len() as u64;
        Ok(page)
    }

    /// There must be no rows of these sections in this timeline.
    async fn none_of(&mut self, timeline: &TimelineId, sections: &[Section]) -> Result<()> {
        for section in sections {
            if !self.rows(timeline, *section, None, u64::MAX).await?.is_empty() {
                self.differs(timeline, format!("rows of section {section:?} do not belong here"));
            }
        }
        Ok(())
    }
}

/// The key to go on after, if the page was full.
fn last_key(page: Vec<(RowKey, bytes::Bytes)>) -> Option<RowKey> {
    page.into_iter().nth(PAGE - 1).map(|(key, _)| key)
}

/// A timeline as the report names it.
fn name(timeline: &TimelineId) -> String {
    match timeline {
        TimelineId::Conversation(id) => format!("conversation {id}"),
        TimelineId::User(user) => format!("user {user}"),
    }
}

/// Numbers and times of a log, entry by entry.
struct Density {
    next: u64,
    at: u64,
}

impl Density {
    fn above(floor: u64) -> Self {
        Self { next: floor + 1, at: 0 }
    }

    /// What is wrong with this entry's place or time.
    fn step(&mut self, entry: &Entry) -> Vec<String> {
        let mut wrong = Vec::new();
        if entry.seq != self.next {
            let last = entry.seq.saturating_sub(1);
            wrong.push(format!("entries {} to {last} are missing", self.next));
        }
        if entry.at < self.at {
            wrong.push(format!("time goes back at entry {}: {} after {}", entry.seq, entry.at, self.at));
        }
        self.next = entry.seq + 1;
        self.at = self.at.max(entry.at);
        wrong
    }

    /// What is wrong at the end of the log.
    fn end(&self, head: u64, head_at: u64, floor: u64) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.next <= head {
            wrong.push(format!("entries {} to {head} are missing", self.next));
        } else if head > floor && self.at != head_at {
            wrong.push(format!("the head's time is {head_at}, the last entry's {}", self.at));
        }
        wrong
    }
}
