//! A commit in the making: the only place that gives sequence numbers.

use bytes::Bytes;

use crate::planted::{Bug, planted};
use crate::store::{Attempt, Commit, Head, NewEntry, Position, RowKey, RowWrite, TimelineId};

/// Collects what one commit of one timeline will hold, numbering entries as they come.
#[derive(Debug)]
pub struct Draft {
    base: Head,
    now_ms: u64,
    entries: Vec<NewEntry>,
    rewrite: Vec<(u64, Bytes)>,
    rows: Vec<RowWrite>,
    floor: u64,
    fanned: u64,
    term: u64,
}

impl Draft {
    /// A draft on top of `base`, at the time `now_ms`.
    pub fn new(base: Head, now_ms: u64) -> Self {
        Self {
            base,
            now_ms,
            entries: Vec::new(),
            rewrite: Vec::new(),
            rows: Vec::new(),
            floor: base.floor,
            fanned: base.fanned,
            term: base.position.term,
        }
    }

    /// The number the next entry gets.
    pub fn next_seq(&self) -> u64 {
        self.base.position.seq + self.entries.len() as u64 + 1
    }

    /// The last number given, in this draft or before it.
    pub fn head_seq(&self) -> u64 {
        self.next_seq() - 1
    }

    /// The time entries of this draft get: never before that of the entry in front (rule 9).
    pub fn at(&self) -> u64 {
        if planted(Bug::TimeGoesBack) {
            return self.now_ms;
        }
        self.now_ms.max(self.base.at)
    }

    /// Appends an entry and tells its number.
    pub fn append(&mut self, data: Bytes) -> u64 {
        let seq = self.next_seq();
        self.entries.push(NewEntry { at: self.at(), data });
        seq
    }

    /// The entries so far, with their numbers.
    pub fn entries(&self) -> impl Iterator<Item = (u64, &NewEntry)> {
        (self.base.position.seq + 1..).zip(&self.entries)
    }

    /// The entry of this number, if it is one of this draft.
    pub fn entry(&self, seq: u64) -> Option<&NewEntry> {
        let index = seq.checked_sub(self.base.position.seq + 1)?;
        self.entries.get(usize::try_from(index).ok()?)
    }

    /// Replaces the content of an entry, in this draft or before it: bodies are erased so.
    pub fn rewrite(&mut self, seq: u64, data: Bytes) {
        let own = seq.checked_sub(self.base.position.seq + 1).and_then(|i| usize::try_from(i).ok());
        match own.and_then(|i| self.entries.get_mut(i)) {
            Some(entry) => entry.data = data,
            None => {
                self.rewrite.retain(|(other, _)| *other != seq);
                self.rewrite.push((seq, data));
            }
        }
    }

    /// Writes (or with `None` removes) a side row; the last write of a key counts.
    pub fn row(&mut self, key: RowKey, value: Option<Bytes>, expires_at: Option<u64>) {
        let write = RowWrite { key, value, expires_at };
        match self.rows.iter_mut().rev().find(|row| row.key == write.key) {
            Some(row) => *row = write,
            None => self.rows.push(write),
        }
    }

    /// A row as this draft leaves it: `None` when untouched, `Some(None)` when removed.
    pub fn pending_row(&self, key: &RowKey) -> Option<Option<&Bytes>> {
        self.rows.iter().rev().find(|row| row.key == *key).map(|row| row.value.as_ref())
    }

    /// The rows of a section this draft writes (none it removes).
    pub fn pending_rows(&self, section: crate::store::Section) -> impl Iterator<Item = &RowKey> {
        self.rows.iter().filter(move |row| row.key.section == section && row.value.is_some()).map(|row| &row.key)
    }

    /// Raises the floor.
    pub fn raise_floor(&mut self, floor: u64) {
        self.floor = self.floor.max(floor);
    }

    /// Fan-out is complete up to here.
    pub fn set_fanned(&mut self, fanned: u64) {
        self.fanned = self.fanned.max(fanned);
    }

    /// Raises the term by one: whoever commits under the old one is refused from then on.
    pub fn raise_term(&mut self) {
        self.term = self.base.position.term + 1;
    }

    /// Whether there is nothing to commit.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
            && self.rewrite.is_empty()
            && self.rows.is_empty()
            && self.floor == self.base.floor
            && self.fanned == self.base.fanned
            && self.term == self.base.position.term
    }

    /// How many entries it holds.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of the entries' contents.
    pub fn bytes(&self) -> usize {
        self.entries.iter().map(|entry| entry.data.len()).sum()
    }

    /// The head once this is applied.
    pub fn head_after(&self) -> Head {
        Head {
            position: Position { seq: self.head_seq(), term: self.term },
            floor: self.floor,
            at: if self.entries.is_empty() { self.base.at } else { self.at() },
            fanned: self.fanned,
        }
    }

    /// The commit.
    pub fn into_commit(self, timeline: TimelineId, attempt: Attempt) -> Commit {
        Commit {
            timeline,
            expected: self.base.position,
            term: self.term,
            attempt,
            entries: self.entries,
            rewrite: self.rewrite,
            rows: self.rows,
            floor: self.floor,
            fanned: self.fanned,
        }
    }
}
