//! Reading entries and side rows, over buckets.
//!
//! A side row is looked for in the last bucket, in sealed ones not settled yet (newest first; there are none
//! or one, as a rule), then among the settled rows: a bounded number of reads whatever the number of buckets.
//! Entries of older buckets are read under the erasures still under way, which are read first: one that is
//! gone meanwhile has reached its bucket by then.
//!
//! How it can hurt: the last bucket may be sealed and another opened at any time. Whoever finds nothing
//! where he looked asks the anchor whether that is still so.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::Inner;
use super::place::{Place, Sight, partition};
use super::session::unavailable;
use super::values::{Bound, ERASURE, Key, big, name, unsigned};
use crate::protocol::ConvId;
use crate::store::{Attempt, Entry, Error, Result, RowKey, Section, Span, TimelineId};

/// Rows read at once.
const ROWS: usize = 2000;
/// Entries read at once, at least and at most.
const ENTRIES: (usize, usize) = (16, 512);
/// Looks again when buckets were settled under a reader.
const TRIES: usize = 8;

/// Side rows as they stand in one place; no value: removed.
pub(super) type Rows = Vec<(Key, Option<Bytes>)>;

/// A row and what is left of its life, seconds, if that ends.
pub(super) type LivingRow = (Key, Option<Bytes>, Option<i32>);

/// Erasures that have not reached their bucket.
type Erasures = BTreeMap<u64, Bytes>;

/// What one read of a bucket gave.
struct Chunk {
    entries: Vec<Entry>,
    /// There may be more within the same bounds.
    more: bool,
    /// The bucket was full when this was read; not known when there was nothing.
    sealed: Option<bool>,
}

impl Inner {
    /// Where a timeline was last seen, read if it was not.
    async fn hint(self: &Arc<Self>, timeline: &TimelineId) -> Result<Place> {
        match self.places.get(timeline) {
            Some(place) => Ok(place),
            None => self.locate(timeline, Sight::Quorum).await,
        }
    }

    /// One side row.
    pub(super) async fn row(self: &Arc<Self>, timeline: &TimelineId, key: &RowKey) -> Result<Option<Bytes>> {
        let key = Key::of(key);
        let mut bucket = self.hint(timeline).await?.bucket;
        for _ in 0..TRIES {
            let (mut sealed, mut found) = self.probe(timeline, bucket, &key).await?;
            let TimelineId::Conversation(id) = timeline else { return Ok(found.flatten()) };
            if sealed == Some(true) {
                let last = self.walk(timeline, bucket, Sight::Quorum).await?;
                self.places.insert(timeline.clone(), last);
                if last.bucket > bucket {
                    bucket = last.bucket;
                    (sealed, found) = self.probe(timeline, bucket, &key).await?;
                    if sealed == Some(true) {
                        continue;
                    }
                }
            }
            let settled = self.settled_buckets(id).await?;
            let mut older = bucket;
            while found.is_none() && older > settled {
                older -= 1;
                found = self.probe(timeline, older, &key).await?.1;
            }
            if found.is_none() && bucket > 0 {
                let Some((from, value)) = self.settled_row(id, &key).await? else { return Ok(None) };
                if from >= bucket {
                    // Filled and settled while this was being read.
                    bucket = self.locate(timeline, Sight::Quorum).await?.bucket;
                    continue;
                }
                found = Some(value);
            }
            return Ok(found.flatten());
        }
        Err(unavailable("buckets fill faster than they are read"))
    }

    /// A row in one bucket, and whether the bucket is sealed (`None`: it does not exist).
    async fn probe(
        &self,
        timeline: &TimelineId,
        bucket: u64,
        key: &Key,
    ) -> Result<(Option<bool>, Option<Option<Bytes>>)> {
        let mut values = partition(timeline, bucket);
        values.extend([Bound::Tiny(key.section), Bound::Big(key.n), Bound::Text(&key.id)]);
        let rows = self.read(&self.of(timeline).row, &values).await?;
        let (mut sealed, mut found) = (None, None);
        for row in rows.rows::<(i8, i64, &str, Option<&[u8]>, Option<i64>)>().map_err(unavailable)? {
            let (section, _, _, value, full) = row.map_err(unavailable)?;
            sealed = Some(full.is_some());
            if section == key.section {
                found = Some(value.map(Bytes::copy_from_slice));
            }
        }
        Ok((sealed, found))
    }

    async fn settled_row(&self, id: &ConvId, key: &Key) -> Result<Option<(u64, Option<Bytes>)>> {
        let values = [Bound::Text(id.as_str()), Bound::Tiny(key.section), Bound::Big(key.n), Bound::Text(&key.id)];
        let rows = self.read(&self.statements.settled_row, &values).await?;
        let row = rows.maybe_first_row::<(Option<i64>, Option<&[u8]>)>().map_err(unavailable)?;
        Ok(row.map(|(bucket, value)| (unsigned(bucket), value.map(Bytes::copy_from_slice))))
    }

    /// Side rows of a section.
    pub(super) async fn rows(
        self: &Arc<Self>,
        timeline: &TimelineId,
        section: Section,
        after: Option<RowKey>,
        up_to_n: u64,
        limit: usize,
    ) -> Result<Vec<(RowKey, Bytes)>> {
        let first = Key::first(section, 0);
        let mut from = after.map_or(first.clone(), |after| Key::of(&after).successor().max(first));
        let before = Key::beyond(section, up_to_n);
        let mut found = Vec::new();
        while found.len() < limit && from < before {
            let chunk = (limit - found.len()).min(ROWS);
            let (rows, horizon) = self.merged(timeline, &from, &before, chunk).await?;
            let values = rows.into_iter().filter_map(|(key, value)| Some((key.row_key(section), value?)));
            found.extend(values.take(limit - found.len()));
            match horizon {
                Some(last) => from = last.successor(),
                None => break,
            }
        }
        Ok(found)
    }

    /// The newest state of each row in a range of keys, and the key up to which that is all there is
    /// (`None`: to the end).
    async fn merged(
        self: &Arc<Self>,
        timeline: &TimelineId,
        from: &Key,
        before: &Key,
        limit: usize,
    ) -> Result<(BTreeMap<Key, Option<Bytes>>, Option<Key>)> {
        let TimelineId::Conversation(id) = timeline else {
            let rows = self.range_of_rows(timeline, 0, from, before, limit).await?;
            let horizon = rows.last().filter(|_| rows.len() >= limit).map(|(key, _)| key.clone());
            return Ok((rows.into_iter().collect(), horizon));
        };
        'again: for _ in 0..TRIES {
            let (last, mut sources) = self.unsettled_rows(timeline, id, from, before, limit).await?;
            if last > 0 {
                let mut settled = Rows::new();
                for (key, value, bucket) in self.settled_range(id, from, before, limit).await? {
                    if bucket >= last {
                        // Filled and settled while this was being read.
                        self.locate(timeline, Sight::Quorum).await?;
                        continue 'again;
                    }
                    settled.push((key, value));
                }
                sources.push(settled);
            }
            return Ok(merge(sources, limit));
        }
        Err(unavailable("buckets fill faster than they are read"))
    }

    /// Rows of the last bucket and the sealed ones not settled, newest first, and the last bucket's number.
    async fn unsettled_rows(
        self: &Arc<Self>,
        timeline: &TimelineId,
        id: &ConvId,
        from: &Key,
        before: &Key,
        limit: usize,
    ) -> Result<(u64, Vec<Rows>)> {
        let mut last = self.hint(timeline).await?.bucket;
        let mut newest = loop {
            let anchor = self.bucket(timeline, last, Sight::Quorum);
            let rows = self.range_of_rows(timeline, last, from, before, limit);
            let (anchor, rows) = futures::future::try_join(anchor, rows).await?;
            if !anchor.is_some_and(|place| place.sealed) {
                break rows;
            }
            let now = self.walk(timeline, last, Sight::Quorum).await?;
            self.places.insert(timeline.clone(), now);
            if now.bucket == last {
                break rows;
            }
            last = now.bucket;
        };
        let mut sources = vec![std::mem::take(&mut newest)];
        let settled = self.settled_buckets(id).await?;
        for bucket in (settled..last).rev() {
            sources.push(self.range_of_rows(timeline, bucket, from, before, limit).await?);
        }
        Ok((last, sources))
    }

    /// Rows in one bucket.
    async fn range_of_rows(
        &self,
        timeline: &TimelineId,
        bucket: u64,
        from: &Key,
        before: &Key,
        limit: usize,
    ) -> Result<Rows> {
        let rows = self.rows_with_ttl(timeline, bucket, from, before, limit).await?;
        Ok(rows.into_iter().map(|(key, value, _)| (key, value)).collect())
    }

    /// The same, each with what is left of its life, seconds.
    pub(super) async fn rows_with_ttl(
        &self,
        timeline: &TimelineId,
        bucket: u64,
        from: &Key,
        before: &Key,
        limit: usize,
    ) -> Result<Vec<LivingRow>> {
        let mut values = partition(timeline, bucket);
        values.extend(bounds(from, before, limit));
        let rows = self.read(&self.of(timeline).rows, &values).await?;
        let rows = rows.rows::<(i8, i64, String, Option<&[u8]>, Option<i32>)>().map_err(unavailable)?;
        let row = |(section, n, id, value, ttl): (i8, i64, String, Option<&[u8]>, Option<i32>)| {
            (Key { section, n, id }, value.map(Bytes::copy_from_slice), ttl)
        };
        rows.map(|found| found.map(row).map_err(unavailable)).collect()
    }

    async fn settled_range(
        &self,
        id: &ConvId,
        from: &Key,
        before: &Key,
        limit: usize,
    ) -> Result<Vec<(Key, Option<Bytes>, u64)>> {
        let mut values = vec![Bound::Text(id.as_str())];
        values.extend(bounds(from, before, limit));
        let rows = self.read(&self.statements.settled_rows, &values).await?;
        let rows = rows.rows::<(i8, i64, String, Option<&[u8]>, Option<i64>)>().map_err(unavailable)?;
        let row = |(section, n, id, value, bucket): (i8, i64, String, Option<&[u8]>, Option<i64>)| {
            (Key { section, n, id }, value.map(Bytes::copy_from_slice), unsigned(bucket))
        };
        rows.map(|found| found.map(row).map_err(unavailable)).collect()
    }

    /// Entries of a span.
    pub(super) async fn entries(self: &Arc<Self>, timeline: &TimelineId, span: Span) -> Result<Vec<Entry>> {
        // Nothing is numbered beyond what a signed number holds.
        let span = Span { up_to: span.up_to.min(i64::MAX as u64), ..span };
        if span.after >= span.up_to || span.limit == 0 {
            return Ok(Vec::new());
        }
        let last = self.hint(timeline).await?;
        let page = Page { span, entries: Vec::new(), bytes: 0 };
        let page = match timeline {
            TimelineId::User(_) => self.within(timeline, 0, page, &Erasures::new()).await?.0,
            TimelineId::Conversation(id) if span.backward => self.backward(timeline, id, last, page).await?,
            TimelineId::Conversation(id) => self.forward(timeline, id, last, page).await?,
        };
        Ok(page.entries)
    }

    /// From the bucket of the first entry on, until the page is full or there is no further bucket.
    async fn forward(
        self: &Arc<Self>,
        timeline: &TimelineId,
        id: &ConvId,
        last: Place,
        mut page: Page,
    ) -> Result<Page> {
        let mut bucket = self.bucket_of(id, page.span.after + 1, &last).await?;
        let erasures =
            if bucket < last.bucket { self.erasures(timeline, id, &page.span).await? } else { Erasures::new() };
        loop {
            let sealed;
            (page, sealed) = self.within(timeline, bucket, page, &erasures).await?;
            if page.is_full() || page.span.after >= page.span.up_to {
                return Ok(page);
            }
            let sealed = match sealed {
                Some(sealed) => sealed,
                None if bucket < last.bucket => true,
                None => self.bucket(timeline, bucket, Sight::Quorum).await?.is_some_and(|place| place.sealed),
            };
            if !sealed {
                return Ok(page);
            }
            bucket += 1;
        }
    }

    /// From the bucket of the last entry down.
    async fn backward(
        self: &Arc<Self>,
        timeline: &TimelineId,
        id: &ConvId,
        last: Place,
        mut page: Page,
    ) -> Result<Page> {
        // Whether there are newer buckets by now is asked only where it matters.
        let newest = match self.range(id, last.bucket).await {
            _ if page.span.up_to <= last.base => last,
            Ok((_, end)) if page.span.up_to <= end => last,
            _ => self.locate(timeline, Sight::Quorum).await?,
        };
        let mut bucket = self.bucket_of(id, page.span.up_to, &newest).await?;
        let mut erasures = None;
        loop {
            if bucket < newest.bucket && erasures.is_none() {
                erasures = Some(self.erasures(timeline, id, &page.span).await?);
            }
            page = self.within(timeline, bucket, page, erasures.as_ref().unwrap_or(&Erasures::new())).await?.0;
            let base = if bucket == newest.bucket { newest.base } else { self.range(id, bucket).await?.0 };
            if page.is_full() || page.span.after >= base || bucket == 0 {
                return Ok(page);
            }
            bucket -= 1;
        }
    }

    /// Fills a page from one bucket; tells whether the bucket was sealed, if anything was there to tell it.
    async fn within(
        &self,
        timeline: &TimelineId,
        bucket: u64,
        mut page: Page,
        erasures: &Erasures,
    ) -> Result<(Page, Option<bool>)> {
        let mut sealed = None;
        while !page.is_full() && page.span.after < page.span.up_to {
            let chunk = self.chunk(timeline, bucket, &page).await?;
            sealed = chunk.sealed.or(sealed);
            for mut entry in chunk.entries {
                if let Some(body) = erasures.get(&entry.seq) {
                    entry.data = body.clone();
                }
                if !page.is_full() {
                    page.push(entry);
                }
            }
            if !chunk.more {
                break;
            }
        }
        Ok((page, sealed))
    }

    async fn chunk(&self, timeline: &TimelineId, bucket: u64, page: &Page) -> Result<Chunk> {
        let limit = page.next();
        let statements = self.of(timeline);
        let statement = if page.span.backward { &statements.entries_backward } else { &statements.entries };
        let mut values = partition(timeline, bucket);
        let limit_value = Bound::Int(i32::try_from(limit).unwrap_or(i32::MAX));
        values.extend([Bound::Big(big(page.span.after)), Bound::Big(big(page.span.up_to)), limit_value]);
        let rows = self.read(statement, &values).await?;
        let count = rows.rows_num();
        let mut chunk = Chunk { entries: Vec::with_capacity(count), more: count >= limit, sealed: None };
        for row in rows.rows::<(i64, Option<i64>, Option<&[u8]>, Option<&[u8]>, Option<i64>)>().map_err(unavailable)? {
            let (n, at, attempt, data, sealed) = row.map_err(unavailable)?;
            chunk.sealed = Some(matches!(timeline, TimelineId::Conversation(_)) && sealed.is_some());
            // An erasure of an entry that has expired leaves a value alone.
            let Some(at) = at else { continue };
            let seq = unsigned(Some(n));
            let damaged = || Error::Damaged(format!("entry {seq} of {} {}", kind(timeline), name(timeline)));
            let attempt = attempt.and_then(|bytes| bytes.try_into().ok()).ok_or_else(damaged)?;
            chunk.entries.push(Entry {
                seq,
                at: unsigned(Some(at)),
                attempt: Attempt(u128::from_be_bytes(attempt)),
                data: Bytes::copy_from_slice(data.ok_or_else(damaged)?),
            });
        }
        Ok(chunk)
    }

    /// Erasures of these entries that may not have reached their bucket yet.
    async fn erasures(self: &Arc<Self>, timeline: &TimelineId, id: &ConvId, span: &Span) -> Result<Erasures> {
        let key = |n: u64| Key { section: ERASURE, n: big(n), id: String::new() };
        let (mut from, before) = (key(span.after.saturating_add(1)), key(span.up_to.saturating_add(1)));
        let mut found = Erasures::new();
        while from < before {
            let (_, sources) = self.unsettled_rows(timeline, id, &from, &before, ROWS).await?;
            let (rows, horizon) = merge(sources, ROWS);
            found.extend(rows.into_iter().filter_map(|(key, body)| Some((unsigned(Some(key.n)), body?))));
            match horizon {
                Some(last) => from = last.successor(),
                None => break,
            }
        }
        Ok(found)
    }
}

fn kind(timeline: &TimelineId) -> &'static str {
    match timeline {
        TimelineId::Conversation(_) => "conversation",
        TimelineId::User(_) => "user",
    }
}

fn bounds<'a>(from: &'a Key, before: &'a Key, limit: usize) -> [Bound<'a>; 7] {
    [
        Bound::Tiny(from.section),
        Bound::Big(from.n),
        Bound::Text(&from.id),
        Bound::Tiny(before.section),
        Bound::Big(before.n),
        Bound::Text(&before.id),
        Bound::Int(i32::try_from(limit).unwrap_or(i32::MAX)),
    ]
}

/// Lays newer rows over older ones. A source that was cut at the limit says nothing about keys behind its
/// last, so the result ends there.
fn merge(newest_first: Vec<Rows>, limit: usize) -> (BTreeMap<Key, Option<Bytes>>, Option<Key>) {
    let cut = newest_first.iter().filter(|rows| rows.len() >= limit);
    let horizon = cut.filter_map(|rows| rows.last()).map(|(key, _)| key.clone()).min();
    let mut merged = BTreeMap::new();
    for (key, value) in newest_first.into_iter().flatten() {
        if horizon.as_ref().is_none_or(|horizon| key <= *horizon) {
            merged.entry(key).or_insert(value);
        }
    }
    (merged, horizon)
}

/// A page being filled; its span shrinks from the end that was read.
struct Page {
    span: Span,
    entries: Vec<Entry>,
    bytes: usize,
}

impl Page {
    fn is_full(&self) -> bool {
        self.entries.len() >= self.span.limit || (!self.entries.is_empty() && self.bytes >= self.span.max_bytes)
    }

    /// How many to read next: what is likely to be needed.
    fn next(&self) -> usize {
        let by_bytes = (self.span.max_bytes.saturating_sub(self.bytes) / 256).clamp(ENTRIES.0, ENTRIES.1);
        (self.span.limit - self.entries.len()).min(by_bytes)
    }

    fn push(&mut self, entry: Entry) {
        if self.span.backward {
            self.span.up_to = entry.seq - 1;
        } else {
            self.span.after = entry.seq;
        }
        self.bytes += entry.data.len();
        self.entries.push(entry);
    }
}
