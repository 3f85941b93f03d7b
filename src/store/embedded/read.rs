//! Reads: what the overlay has newer, laid over a snapshot of the disk taken under the same lock.
//!
//! Must see only what is durable (the overlay holds nothing else). Between the two halves the checkpoint
//! may move things from memory to disk: memory is looked at first, so nothing falls between.
//!
//! How it can hurt: a value that fails its checksum is an error, never skipped; so is a number that is not there.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bytes::Bytes;
use fjall::Keyspace;

use super::disk::{Snapshot, damaged, failed, get, pair};
use super::keys;
use super::shared::Shared;
use super::stats::add;
use super::tail::Tail;
use super::values;
use crate::protocol::ConvId;
use crate::store::{Entry, Head, Result, RowKey, Section, Span, TimelineId};

/// The head.
pub(super) fn head(shared: &Shared, id: &TimelineId) -> Result<Head> {
    shared.usable()?;
    shared.overlay.head(&shared.disk, id)
}

/// A page being filled.
struct Page {
    span: Span,
    entries: Vec<Entry>,
    bytes: usize,
}

impl Page {
    fn is_full(&self) -> bool {
        self.entries.len() >= self.span.limit || (!self.entries.is_empty() && self.bytes >= self.span.max_bytes)
    }

    fn push(&mut self, entry: Entry) {
        self.bytes += entry.data.len();
        self.entries.push(entry);
    }

    /// Takes entries until the page is full.
    fn extend<'a>(&mut self, entries: impl Iterator<Item = &'a Entry>) {
        for entry in entries {
            if self.is_full() {
                break;
            }
            self.push(entry.clone());
        }
    }
}

/// The part of a span that must come from disk.
struct OnDisk {
    low: u64,
    high: u64,
    rewrites: BTreeMap<u64, Bytes>,
    snapshot: Snapshot,
}

/// Entries of a span.
pub(super) fn entries(shared: &Shared, id: &TimelineId, span: Span) -> Result<Vec<Entry>> {
    shared.usable()?;
    // A floor that is raised while the head is loaded takes entries from under it: that is seen at the second look.
    entries_now(shared, id, span).or_else(|_| entries_now(shared, id, span))
}

fn entries_now(shared: &Shared, id: &TimelineId, span: Span) -> Result<Vec<Entry>> {
    let mut page = Page { span, entries: Vec::new(), bytes: 0 };
    let seen = shared.overlay.look(id, |tail| tail.map(|tail| in_memory(shared, tail, span)));
    let (memory, disk) = match seen {
        Some(seen) => seen,
        None => in_memory(shared, &*shared.overlay.clean(&shared.disk, id)?, span),
    };
    if span.backward {
        page.extend(memory.iter());
    }
    if let Some(disk) = disk.filter(|_| !page.is_full()) {
        disk.read(shared, id, &mut page)?;
    }
    if !span.backward {
        page.extend(memory.iter());
    }
    Ok(page.entries)
}

/// What the tail has of a span, and what the disk must add.
fn in_memory(shared: &Shared, tail: &Tail, span: Span) -> (Vec<Entry>, Option<OnDisk>) {
    let low = span.after.max(tail.head.floor).saturating_add(1);
    let high = span.up_to.min(tail.head.position.seq);
    if low > high {
        return (Vec::new(), None);
    }
    let mut page = Page { span, entries: Vec::new(), bytes: 0 };
    let above = low.max(tail.spilled + 1);
    if span.backward {
        page.extend(tail.entries(above, high).rev());
    } else {
        page.extend(tail.entries(above, high));
    }
    let high = high.min(tail.spilled);
    let on_disk = (low <= high).then(|| OnDisk {
        low,
        high,
        rewrites: tail.rewrites(low, high),
        snapshot: shared.disk.snapshot(),
    });
    (page.entries, on_disk)
}

impl OnDisk {
    /// Adds what it has, without a gap.
    fn read(&self, shared: &Shared, id: &TimelineId, page: &mut Page) -> Result<()> {
        let before = page.entries.len();
        let keyspace = match id {
            TimelineId::Conversation(_) => {
                from_entries(shared, id, self, page)?;
                &shared.disk.entries
            }
            TimelineId::User(_) => {
                from_segments(shared, id, self, page)?;
                &shared.disk.segments
            }
        };
        let missing = self.missing(page.entries.get(before..).unwrap_or_default(), page);
        missing.map_or(Ok(()), |missing| Err(damaged(keyspace, &keys::entry(id, missing))))
    }

    /// The first entry that is not among those found, but should be: above the floor numbers are dense.
    fn missing(&self, found: &[Entry], page: &Page) -> Option<u64> {
        let number = |n: u64| if page.span.backward { self.high.saturating_sub(n) } else { self.low.saturating_add(n) };
        let wrong = found.iter().zip(0..).find(|(entry, n)| entry.seq != number(*n)).map(|(_, n)| n);
        let count = found.len() as u64;
        let ended = || (!page.is_full() && count <= self.high - self.low).then_some(count);
        wrong.or_else(ended).map(number)
    }

    /// Adds an entry with its present content, if it belongs to the span.
    fn add(&self, mut entry: Entry, page: &mut Page) {
        if (self.low..=self.high).contains(&entry.seq) {
            if let Some(data) = self.rewrites.get(&entry.seq) {
                entry.data = data.clone();
            }
            page.push(entry);
        }
    }
}

fn from_entries(shared: &Shared, id: &TimelineId, part: &OnDisk, page: &mut Page) -> Result<()> {
    let keyspace = &shared.disk.entries;
    let range = keys::entry(id, part.low)..=keys::entry(id, part.high);
    let mut guards = fjall::Readable::range(&part.snapshot, keyspace, range);
    while !page.is_full() {
        let next = if page.span.backward { guards.next_back() } else { guards.next() };
        let Some(guard) = next else { break };
        add(&shared.disk.stats.engine_reads, 1);
        let (key, value) = pair(keyspace, guard)?;
        let entry = keys::parse_seq(&key).and_then(|seq| values::decode_entry(&key, seq, &value));
        part.add(entry.ok_or_else(|| damaged(keyspace, &key))?, page);
    }
    Ok(())
}

fn from_segments(shared: &Shared, id: &TimelineId, part: &OnDisk, page: &mut Page) -> Result<()> {
    let keyspace = &shared.disk.segments;
    // Segments stand under their last number: the first at or above `high` is the last of interest.
    let above = keys::entry(id, part.high)..=keys::entry(id, u64::MAX);
    add(&shared.disk.stats.engine_reads, 1);
    let to = match fjall::Readable::range(&part.snapshot, keyspace, above).next() {
        Some(guard) => guard.key().map_err(|error| failed(keyspace, &error))?.to_vec(),
        None => keys::entry(id, part.high),
    };
    let mut guards = fjall::Readable::range(&part.snapshot, keyspace, keys::entry(id, part.low)..=to);
    while !page.is_full() {
        let next = if page.span.backward { guards.next_back() } else { guards.next() };
        let Some(guard) = next else { break };
        add(&shared.disk.stats.engine_reads, 1);
        let (key, value) = pair(keyspace, guard)?;
        let mut entries = values::decode_segment(&key, &value).ok_or_else(|| damaged(keyspace, &key))?;
        if page.span.backward {
            entries.reverse();
        }
        for entry in entries {
            if page.is_full() {
                break;
            }
            part.add(entry, page);
        }
    }
    Ok(())
}

/// One side row.
pub(super) fn row(shared: &Shared, id: &TimelineId, key: &RowKey) -> Result<Option<Bytes>> {
    shared.usable()?;
    let newer = |tail: &Tail| tail.row(key).map(|row| row.value.clone());
    let seen = shared.overlay.look(id, |tail| tail.and_then(newer).ok_or_else(|| shared.disk.snapshot()));
    let snapshot = match seen {
        Ok(value) => return Ok(value),
        Err(snapshot) => snapshot,
    };
    let keyspace = row_keyspace(shared, key.section);
    let key = keys::row(id, key);
    add(&shared.disk.stats.engine_reads, 1);
    let Some(value) = get(&snapshot, keyspace, &key)? else { return Ok(None) };
    values::decode_row(&key, &value).map(Some).ok_or_else(|| damaged(keyspace, &key))
}

fn row_keyspace(shared: &Shared, section: Section) -> &Keyspace {
    if section == Section::Dedupe { &shared.disk.expiring } else { &shared.disk.rows }
}

/// Which rows to read.
#[derive(Debug)]
pub(super) struct RowSpan {
    pub(super) section: Section,
    pub(super) after: Option<RowKey>,
    pub(super) up_to_n: u64,
    pub(super) limit: usize,
}

/// Side rows, ascending.
pub(super) fn rows(shared: &Shared, id: &TimelineId, span: &RowSpan) -> Result<Vec<(RowKey, Bytes)>> {
    shared.usable()?;
    let (newer, snapshot) = shared
        .overlay
        .look(id, |tail| (tail.map(|tail| newer_rows(tail, span)).unwrap_or_default(), shared.disk.snapshot()));
    let mut newer = newer.into_iter().peekable();
    let keyspace = row_keyspace(shared, span.section);
    let prefix = keys::section(id, span.section);
    let mut out = Vec::new();
    let take = |out: &mut Vec<_>, (key, value): (RowKey, Option<Bytes>)| {
        out.extend(value.map(|value| (key, value)));
    };
    for guard in fjall::Readable::range(&snapshot, keyspace, disk_range(id, span, &prefix)) {
        if out.len() >= span.limit {
            break;
        }
        add(&shared.disk.stats.engine_reads, 1);
        let (raw, value) = pair(keyspace, guard)?;
        let key = keys::parse_row(&prefix, span.section, &raw).ok_or_else(|| damaged(keyspace, &raw))?;
        while let Some(row) = newer.next_if(|(newer, _)| *newer < key) {
            take(&mut out, row);
        }
        match newer.next_if(|(newer, _)| *newer == key) {
            Some(row) => take(&mut out, row),
            None => {
                let value = values::decode_row(&raw, &value).ok_or_else(|| damaged(keyspace, &raw))?;
                out.push((key, value));
            }
        }
    }
    newer.for_each(|row| take(&mut out, row));
    out.truncate(span.limit);
    Ok(out)
}

/// Rows of a span newer than on disk; beyond `limit` values none can be in the answer.
fn newer_rows(tail: &Tail, span: &RowSpan) -> Vec<(RowKey, Option<Bytes>)> {
    let first = RowKey { section: span.section, n: 0, id: "".into() };
    let from = match &span.after {
        Some(after) if *after >= first => Bound::Excluded(after.clone()),
        _ => Bound::Included(first),
    };
    let mut values = 0;
    let mut out = Vec::new();
    for (key, row) in tail.rows().range((from, Bound::Unbounded)) {
        if key.section != span.section || key.n > span.up_to_n || values >= span.limit {
            break;
        }
        values += usize::from(row.value.is_some());
        out.push((key.clone(), row.value.clone()));
    }
    out
}

type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

fn disk_range(id: &TimelineId, span: &RowSpan, prefix: &[u8]) -> Bounds {
    let from = match &span.after {
        Some(after) if after.section == span.section => Bound::Excluded(keys::row(id, after)),
        Some(after) if after.section > span.section => Bound::Excluded(end_of(prefix, u64::MAX)),
        _ => Bound::Included(prefix.to_vec()),
    };
    let to = end_of(prefix, span.up_to_n);
    match &from {
        Bound::Excluded(key) | Bound::Included(key) if *key >= to => (Bound::Included(to.clone()), Bound::Excluded(to)),
        _ => (from, Bound::Excluded(to)),
    }
}

/// A key above all rows of a section up to this n: row ids hold no byte above 0x7f... of UTF-8 none is 0xff.
fn end_of(prefix: &[u8], n: u64) -> Vec<u8> {
    let mut key = prefix.to_vec();
    key.extend_from_slice(&n.to_be_bytes());
    key.push(0xff);
    key
}

/// Timelines that exist, ascending.
pub(super) fn timelines(shared: &Shared, after: Option<&TimelineId>, limit: usize) -> Result<Vec<TimelineId>> {
    shared.usable()?;
    let is_after = |id: &TimelineId| after.is_none_or(|after| id > after);
    let mut found: BTreeSet<TimelineId> = shared.overlay.dirty().into_iter().filter(is_after).collect();
    let keyspace = &shared.disk.heads;
    let from = after.map_or(Bound::Unbounded, |after| Bound::Excluded(keys::timeline(after)));
    let guards = keyspace.range::<Vec<u8>, Bounds>((from, Bound::Unbounded));
    for guard in guards.take(limit) {
        let key = guard.key().map_err(|error| failed(keyspace, &error))?;
        found.insert(keys::parse_timeline(&key).ok_or_else(|| damaged(keyspace, &key))?);
    }
    Ok(found.into_iter().take(limit).collect())
}

/// Conversations whose fan-out is below their head.
pub(super) fn unfinished(shared: &Shared) -> Result<Vec<ConvId>> {
    shared.usable()?;
    let newer: BTreeMap<TimelineId, Head> = shared.overlay.dirty_heads().into_iter().collect();
    let lags = |head: &Head| head.fanned < head.position.seq;
    let mut found: BTreeSet<TimelineId> =
        newer.iter().filter(|(_, head)| lags(head)).map(|(id, _)| id.clone()).collect();
    let keyspace = &shared.disk.unfinished;
    for guard in keyspace.iter() {
        let key = guard.key().map_err(|error| failed(keyspace, &error))?;
        let id = keys::parse_timeline(&key).ok_or_else(|| damaged(keyspace, &key))?;
        if !newer.contains_key(&id) {
            found.insert(id);
        }
    }
    let conversation = |id| match id {
        TimelineId::Conversation(id) => Some(id),
        TimelineId::User(_) => None,
    };
    Ok(found.into_iter().filter_map(conversation).collect())
}
