//! From one store into another: every timeline with its numbers, times, attempts and rows, through the
//! trait's own commits, so that the target holds nothing its rules would not allow.
//!
//! The source must be at rest and the target used by nobody else. What was interrupted is gone on with
//! where the target stands; a timeline is done when a checksum of all the target reads back equals that
//! of what was read from the source. Where fan-out was not complete a mark is left, as a node that died
//! would, and whoever serves the target first finishes it.
//!
//! How it can hurt: a target that was served meanwhile has gone on; it is refused, never overwritten.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::stream::{self, StreamExt, TryStreamExt};
use xxhash_rust::xxh3::Xxh3;

use crate::store::{
    self, Attempt, Commit, Entry, Head, Mark, NewEntry, Outcome, Position, RowKey, RowWrite, Section, Span, Store,
    TimelineId,
};

/// Timelines copied at once.
const AT_ONCE: usize = 24;
/// Entries, or rows, of one commit.
const BATCH: usize = 100;
/// Their bytes, about.
const BATCH_BYTES: usize = 256 * 1024;
/// Timelines listed at once.
const LIST: usize = 500;
/// A request that comes to nothing is sent again so often, with growing pauses: some minutes.
const TRIES: u32 = 40;
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(5));

/// Why it stopped. Running it again goes on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One of the stores cannot be read.
    #[error("{0}")]
    Store(#[from] store::Error),
    /// The target does not answer.
    #[error("the target did not take a commit for minutes; run the same again later")]
    NoAnswer,
    /// The target's timeline is not the beginning of the source's.
    #[error("{0:?}: the target holds other data or was served meanwhile; give an empty keyspace")]
    Other(TimelineId),
    /// What was read back is not what was written.
    #[error("{0:?}: what the target holds is not what the source holds")]
    Differs(TimelineId),
}

/// What has been done so far.
#[derive(Debug, Default)]
pub struct Progress {
    /// Timelines that are done and verified.
    pub timelines: AtomicU64,
    /// Of them, those an earlier run had done.
    pub found_done: AtomicU64,
    /// Entries that are there, those of timelines under way too.
    pub entries: AtomicU64,
    /// Rows of those timelines.
    pub rows: AtomicU64,
}

/// What copying needs beside the stores.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// Rows that expire are kept until this moment: milliseconds since 1970.
    pub keep_until: u64,
    /// Name under which marks are left; of no node that lives.
    pub node: u64,
}

/// Copies everything and verifies it.
///
/// # Errors
/// What stopped it.
pub async fn migrate(
    source: &dyn Store,
    target: &Arc<dyn Store>,
    terms: Terms,
    progress: &Progress,
) -> Result<(), Error> {
    let mut after = None;
    loop {
        let timelines = source.timelines(after, LIST).await?;
        let Some(last) = timelines.last().cloned() else { return Ok(()) };
        let copies = timelines.into_iter().map(|id| Copying { source, target, terms, progress, id }.run());
        stream::iter(copies).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        after = Some(last);
    }
}

/// One timeline being copied.
struct Copying<'a> {
    source: &'a dyn Store,
    target: &'a Arc<dyn Store>,
    terms: Terms,
    progress: &'a Progress,
    id: TimelineId,
}

/// A checksum of a timeline, and how much it holds.
#[derive(Debug, PartialEq, Eq)]
struct Sum {
    hash: u128,
    entries: u64,
    rows: u64,
}

impl Copying<'_> {
    async fn run(self) -> Result<(), Error> {
        let head = self.source.head(&self.id).await?;
        let there = self.target.head(&self.id).await?;
        let wanted = sum(self.source, &self.id, head).await?;
        self.count(there.position.seq.saturating_sub(head.floor));
        let mut found_done = there.position.seq == head.position.seq;
        if !found_done || sum(&**self.target, &self.id, there).await? != wanted {
            found_done = false;
            self.check_beginning(there, head).await?;
            self.mark_unfinished(head).await?;
            let position = self.begin(there, head).await?;
            let position = self.entries(position, head).await?;
            self.rows(position, head).await?;
            let there = self.target.head(&self.id).await?;
            if there.position != position || sum(&**self.target, &self.id, there).await? != wanted {
                return Err(Error::Differs(self.id));
            }
        }
        self.progress.timelines.fetch_add(1, Ordering::Relaxed);
        self.progress.found_done.fetch_add(u64::from(found_done), Ordering::Relaxed);
        self.progress.rows.fetch_add(wanted.rows, Ordering::Relaxed);
        Ok(())
    }

    fn count(&self, entries: u64) {
        self.progress.entries.fetch_add(entries, Ordering::Relaxed);
    }

    /// What the target has must be the beginning of what the source has.
    async fn check_beginning(&self, there: Head, head: Head) -> Result<(), Error> {
        let (seq, floor) = (there.position.seq, head.floor.max(there.floor));
        if seq > head.position.seq {
            return Err(Error::Other(self.id.clone()));
        }
        let last = Span { after: seq.saturating_sub(1), up_to: seq, limit: 1, max_bytes: usize::MAX, backward: false };
        if seq > floor && self.source.entries(&self.id, last).await? != self.target.entries(&self.id, last).await? {
            return Err(Error::Other(self.id.clone()));
        }
        Ok(())
    }

    /// Before the entries: whoever finds them finds the mark.
    async fn mark_unfinished(&self, head: Head) -> Result<(), Error> {
        let TimelineId::Conversation(conversation) = &self.id else { return Ok(()) };
        if !self.source.together() || head.fanned >= head.position.seq {
            return Ok(());
        }
        let node = self.terms.node;
        let mark = Mark { conversation: conversation.clone(), node, burst: 1, from: head.fanned };
        Ok(self.target.put_mark(mark).await?)
    }

    /// A timeline whose first entries are gone begins at its floor.
    async fn begin(&self, there: Head, head: Head) -> Result<Position, Error> {
        if there.position.seq > 0 || head.floor == 0 {
            return Ok(there.position);
        }
        let at = if head.floor == head.position.seq { head.at } else { 0 };
        let begun = Head { position: Position { seq: head.floor, term: 0 }, floor: head.floor, at, fanned: 0 };
        let mut pauses = Pauses::default();
        loop {
            match self.target.begin_at(self.id.clone(), begun).await? {
                Outcome::Applied => return Ok(begun.position),
                Outcome::Conflict(now) if now.position == begun.position => return Ok(begun.position),
                Outcome::Conflict(_) => return Err(Error::Other(self.id.clone())),
                Outcome::Unknown => pauses.next().await?,
            }
        }
    }

    /// Copies the entries above `position`; where the timeline stands then.
    async fn entries(&self, mut position: Position, head: Head) -> Result<Position, Error> {
        while position.seq < head.position.seq {
            let page = page(self.source, &self.id, position.seq.max(head.floor), head.position.seq).await?;
            // One commit has one attempt.
            for run in page.chunk_by(|a, b| a.attempt == b.attempt) {
                let Some(first) = run.first() else { continue };
                let entries = run.iter().map(|entry| NewEntry { at: entry.at, data: entry.data.clone() });
                let commit = self.commit_at(position, first.attempt, entries.collect(), Vec::new(), head);
                let (before, expected) = (position.seq, position.seq + commit.entries.len() as u64);
                position = self.apply(commit).await?;
                self.count(position.seq.saturating_sub(before));
                if position.seq != expected {
                    break;
                }
            }
        }
        Ok(position)
    }

    /// Copies all rows, and the head's other numbers.
    async fn rows(&self, position: Position, head: Head) -> Result<(), Error> {
        let (mut rows, mut bytes) = (Vec::new(), 0);
        for section in Section::ALL {
            let mut after = None;
            loop {
                let found = self.source.rows(&self.id, section, after, u64::MAX, BATCH).await?;
                let Some((last, _)) = found.last() else { break };
                after = Some(last.clone());
                for (key, value) in found {
                    bytes += value.len();
                    let expires_at = (section == Section::Dedupe).then_some(self.terms.keep_until);
                    rows.push(RowWrite { key, value: Some(value), expires_at });
                    if rows.len() >= BATCH || bytes >= BATCH_BYTES {
                        let commit = self.commit_at(position, Attempt(0), Vec::new(), std::mem::take(&mut rows), head);
                        self.apply(commit).await?;
                        bytes = 0;
                    }
                }
            }
        }
        self.apply(self.commit_at(position, Attempt(0), Vec::new(), rows, head)).await?;
        Ok(())
    }

    fn commit_at(
        &self,
        expected: Position,
        attempt: Attempt,
        entries: Vec<NewEntry>,
        rows: Vec<RowWrite>,
        head: Head,
    ) -> Commit {
        let (timeline, term) = (self.id.clone(), expected.term);
        let fanned = head.fanned.min(expected.seq + entries.len() as u64);
        let rewrite = Vec::new();
        Commit { timeline, expected, term, attempt, entries, rewrite, rows, floor: head.floor, fanned }
    }

    /// Sends a commit until it is decided; where the timeline stands then. Nobody else writes there: who has
    /// moved it is an earlier try, or a request of an interrupted run that landed late. The checksum judges.
    async fn apply(&self, commit: Commit) -> Result<Position, Error> {
        let after = Position { seq: commit.expected.seq + commit.entries.len() as u64, term: commit.term };
        let mut pauses = Pauses::default();
        loop {
            match self.target.commit(vec![commit.clone()]).await.first() {
                Some(Outcome::Applied) => return Ok(after),
                Some(Outcome::Conflict(now)) if now.position.seq > commit.expected.seq => return Ok(now.position),
                Some(Outcome::Conflict(_)) => return Err(Error::Other(self.id.clone())),
                Some(Outcome::Unknown) | None => pauses.next().await?,
            }
        }
    }
}

/// Pauses between tries, until there were too many.
#[derive(Default)]
struct Pauses(u32);

impl Pauses {
    async fn next(&mut self) -> Result<(), Error> {
        self.0 += 1;
        if self.0 > TRIES {
            return Err(Error::NoAnswer);
        }
        tokio::time::sleep(PAUSES.0.saturating_mul(1 << self.0.min(10)).min(PAUSES.1)).await;
        Ok(())
    }
}

/// Entries after `after`, dense.
async fn page(store: &dyn Store, id: &TimelineId, after: u64, up_to: u64) -> Result<Vec<Entry>, Error> {
    let span = Span { after, up_to, limit: BATCH, max_bytes: BATCH_BYTES, backward: false };
    let page = store.entries(id, span).await?;
    let dense = !page.is_empty() && (after + 1..).zip(&page).all(|(seq, entry)| entry.seq == seq);
    if !dense {
        return Err(store::Error::Damaged(format!("{id:?}: entries after {after} are not dense")).into());
    }
    Ok(page)
}

/// Everything of a timeline above its floor.
async fn sum(store: &dyn Store, id: &TimelineId, head: Head) -> Result<Sum, Error> {
    let mut hash = Xxh3::new();
    let number = |hash: &mut Xxh3, n: u64| hash.update(&n.to_be_bytes());
    for n in [head.position.seq, head.floor, head.at] {
        number(&mut hash, n);
    }
    let (mut entries, mut rows, mut seq) = (0, 0, head.floor);
    while seq < head.position.seq {
        for entry in page(store, id, seq, head.position.seq).await? {
            for n in [entry.seq, entry.at, entry.data.len() as u64] {
                number(&mut hash, n);
            }
            hash.update(&entry.attempt.0.to_be_bytes());
            hash.update(&entry.data);
            (entries, seq) = (entries + 1, entry.seq);
        }
    }
    for section in Section::ALL {
        let mut after: Option<RowKey> = None;
        loop {
            let found = store.rows(id, section, after, u64::MAX, BATCH).await?;
            let Some((last, _)) = found.last() else { break };
            after = Some(last.clone());
            for (key, value) in found {
                for n in [section as u64, key.n, key.id.len() as u64, value.len() as u64] {
                    number(&mut hash, n);
                }
                hash.update(key.id.as_bytes());
                hash.update(&value);
                rows += 1;
            }
        }
    }
    Ok(Sum { hash: hash.digest128(), entries, rows })
}
