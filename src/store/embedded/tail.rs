//! One timeline in memory: its head, and what of it is durable in the journal but not yet in its place.
//!
//! ```text
//!      floor            spilled                      head
//!  ....|  on disk, in place  |  entries of this tail  |        rewrites, rows: newer than on disk
//! ```
//!
//! Must do no I/O. How it can hurt: a thing forgotten between `freeze` and `finish` is lost at the next
//! checkpoint; whatever a commit changes is therefore stamped with its ordinal, and `finish` drops only
//! what is not younger than the frozen copy.

use std::collections::{BTreeMap, VecDeque};
use std::mem::size_of;

use bytes::Bytes;

use super::values::StoredHead;
use crate::store::{Commit, Entry, Head, RowKey, TimelineId};

/// A user's newest entries stay in the value of the head until there are more than so many ...
const INLINE_ENTRIES: usize = 16;
/// ... or so many bytes of them.
const INLINE_BYTES: usize = 1024;

/// Estimated memory of an entry, a row and a timeline beyond their contents.
const ENTRY_COST: usize = size_of::<Entry>();
const ROW_COST: usize = 128;
const TAIL_COST: usize = 256;

/// A row as the last commit left it.
#[derive(Debug, Clone)]
pub(super) struct Row {
    ordinal: u64,
    /// `None`: removed.
    pub(super) value: Option<Bytes>,
    pub(super) expires_at: Option<u64>,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Tail {
    /// The head.
    pub(super) head: Head,
    /// Ordinal of the last commit.
    pub(super) as_of: u64,
    /// Entries up to here are on disk in their place.
    pub(super) spilled: u64,
    /// Entries up to here are removed from the disk.
    pub(super) trimmed: u64,
    /// The index of unfinished conversations names this one.
    pub(super) indexed: bool,
    entries: VecDeque<Entry>,
    rewrites: BTreeMap<u64, (u64, Bytes)>,
    rows: BTreeMap<RowKey, Row>,
}

/// A copy for the checkpoint, and where the timeline stands once that is written.
#[derive(Debug)]
pub(super) struct Frozen {
    /// What `heads` will hold.
    pub(super) stored: StoredHead,
    /// Entries up to here were in place before.
    pub(super) was_spilled: u64,
    /// The index named it before.
    pub(super) was_indexed: bool,
    /// Entries to put in their place.
    pub(super) spill: Vec<Entry>,
    /// Contents to replace in place, ascending.
    pub(super) rewrites: Vec<(u64, Bytes)>,
    /// Rows to write or remove.
    pub(super) rows: Vec<(RowKey, Row)>,
}

/// The head after a commit.
pub(super) fn advance(head: &mut Head, commit: &Commit) {
    head.position.seq += commit.entries.len() as u64;
    head.position.term = head.position.term.max(commit.term);
    head.at = commit.entries.iter().map(|entry| entry.at).fold(head.at, u64::max);
    head.floor = head.floor.max(commit.floor);
    head.fanned = head.fanned.max(commit.fanned);
}

impl Tail {
    pub(super) fn from_stored(stored: StoredHead) -> Self {
        let StoredHead { head, as_of, spilled, trimmed, entries } = stored;
        let indexed = head.fanned < head.position.seq;
        Self { head, as_of, spilled, trimmed, indexed, entries: entries.into(), ..Self::default() }
    }

    /// Applies a decided commit. Returns the memory it cost.
    pub(super) fn apply(&mut self, commit: Commit, ordinal: u64) -> usize {
        let mut cost = 0;
        for (seq, data) in &commit.rewrite {
            cost += self.rewrite(*seq, data, ordinal);
        }
        let first = self.head.position.seq + 1;
        advance(&mut self.head, &commit);
        self.as_of = ordinal;
        for (seq, new) in (first..).zip(commit.entries) {
            cost += ENTRY_COST + new.data.len();
            self.entries.push_back(Entry { seq, at: new.at, attempt: commit.attempt, data: new.data });
        }
        for row in commit.rows {
            cost += ROW_COST + row.key.id.len() + row.value.as_ref().map_or(0, Bytes::len);
            self.rows.insert(row.key, Row { ordinal, value: row.value, expires_at: row.expires_at });
        }
        self.forget_below_floor();
        cost
    }

    /// Also noted where the entry is still in memory: a copy of it may be on its way to the disk.
    fn rewrite(&mut self, seq: u64, data: &Bytes, ordinal: u64) -> usize {
        if seq <= self.head.floor || seq > self.head.position.seq {
            return 0;
        }
        if let Some(entry) = self.index_of(seq).and_then(|index| self.entries.get_mut(index)) {
            entry.data = data.clone();
        }
        self.rewrites.insert(seq, (ordinal, data.clone()));
        ROW_COST + data.len()
    }

    fn index_of(&self, seq: u64) -> Option<usize> {
        let first = self.entries.front()?.seq;
        usize::try_from(seq.checked_sub(first)?).ok()
    }

    fn forget_below_floor(&mut self) {
        let floor = self.head.floor;
        while self.entries.front().is_some_and(|entry| entry.seq <= floor) {
            self.entries.pop_front();
        }
        while self.rewrites.first_key_value().is_some_and(|(seq, _)| *seq <= floor) {
            self.rewrites.pop_first();
        }
    }

    /// Entries of this tail with `low <= seq <= high`; may be walked from either end.
    pub(super) fn entries(&self, low: u64, high: u64) -> impl DoubleEndedIterator<Item = &Entry> {
        let first = self.entries.front().map_or(u64::MAX, |entry| entry.seq);
        let at = |seq: u64| usize::try_from(seq).unwrap_or(usize::MAX).min(self.entries.len());
        let from = at(low.saturating_sub(first));
        let to = at((high.saturating_add(1)).saturating_sub(first)).max(from);
        self.entries.range(from..to)
    }

    /// Contents newer than those on disk, for `low <= seq <= high`.
    pub(super) fn rewrites(&self, low: u64, high: u64) -> BTreeMap<u64, Bytes> {
        if self.rewrites.is_empty() || low > high {
            return BTreeMap::new();
        }
        self.rewrites.range(low..=high).map(|(seq, (_, data))| (*seq, data.clone())).collect()
    }

    /// A row that is newer than on disk.
    pub(super) fn row(&self, key: &RowKey) -> Option<&Row> {
        self.rows.get(key)
    }

    /// Rows newer than on disk.
    pub(super) fn rows(&self) -> &BTreeMap<RowKey, Row> {
        &self.rows
    }

    /// A copy of everything the disk lacks.
    pub(super) fn freeze(&self, id: &TimelineId) -> Frozen {
        let inline: usize = self.entries.iter().map(|entry| entry.data.len()).sum();
        let spills =
            matches!(id, TimelineId::Conversation(_)) || self.entries.len() > INLINE_ENTRIES || inline > INLINE_BYTES;
        let entries: Vec<Entry> = self.entries.iter().cloned().collect();
        let (spill, entries) = if spills { (entries, Vec::new()) } else { (Vec::new(), entries) };
        let spilled = if spills { self.head.position.seq } else { self.spilled };
        let stored = StoredHead { head: self.head, as_of: self.as_of, spilled, trimmed: self.trimmed, entries };
        Frozen {
            stored,
            was_spilled: self.spilled,
            was_indexed: self.indexed,
            spill,
            rewrites: self.rewrites.iter().map(|(seq, (_, data))| (*seq, data.clone())).collect(),
            rows: self.rows.iter().map(|(key, row)| (key.clone(), row.clone())).collect(),
        }
    }

    /// The frozen copy is on disk. True: nothing happened since, the tail is as the disk has it.
    pub(super) fn finish(&mut self, frozen: &Frozen) -> bool {
        let StoredHead { head, as_of, spilled, trimmed, .. } = frozen.stored;
        (self.spilled, self.trimmed) = (spilled, trimmed);
        self.indexed = head.fanned < head.position.seq;
        while self.entries.front().is_some_and(|entry| entry.seq <= spilled) {
            self.entries.pop_front();
        }
        self.rewrites.retain(|_, (ordinal, _)| *ordinal > as_of);
        self.rows.retain(|_, row| row.ordinal > as_of);
        self.as_of == as_of
    }

    /// Estimated memory.
    pub(super) fn cost(&self) -> usize {
        let entries: usize = self.entries.iter().map(|entry| ENTRY_COST + entry.data.len()).sum();
        let rewrites: usize = self.rewrites.values().map(|(_, data)| ROW_COST + data.len()).sum();
        let row = |(key, row): (&RowKey, &Row)| ROW_COST + key.id.len() + row.value.as_ref().map_or(0, Bytes::len);
        TAIL_COST + entries + rewrites + self.rows.iter().map(row).sum::<usize>()
    }
}
