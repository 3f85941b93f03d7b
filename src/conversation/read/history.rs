//! `history`: messages as they stand now.

use std::collections::HashMap;

use super::{Filled, Reader, Seen, damaged};
use crate::conversation::decide::NotDecided;
use crate::conversation::entry::{self, Kind};
use crate::conversation::rows::Target;
use crate::protocol::limits::HISTORY_PLACES;
use crate::protocol::{AnswerBody, ConvId, Event, HistoryEntry, HistoryFrom, Message, UserId};
use crate::store::{Entry, Span};

type Result<T> = std::result::Result<T, NotDecided>;

/// Entries looked at for one page; then it ends early, perhaps empty, with a `next`.
const LOOKED_AT: usize = 2000;
/// Of the store, at least and at most: as many as the page lacks, and one that shows that it is full.
const READ_AT_ONCE: (usize, usize) = (64, 256);

/// Where a page has got to.
struct Scan {
    backward: bool,
    /// Exclusive bound of what was looked at, in the direction of reading.
    at: u64,
    found: Vec<HistoryEntry>,
    /// Time of the last entry looked at.
    last_at: u64,
    /// Time of the first entry not looked at; `None`: the end of what there is was reached. Not simply that
    /// of the next number, which the reader may not see: it may have the time of those told already.
    next_at: Option<u64>,
}

impl Reader<'_> {
    pub(super) async fn read_history(&self, conv: &ConvId, from: HistoryFrom, limit: usize) -> Result<AnswerBody> {
        let seen = self.must_see(conv).await?;
        self.history_of(&seen, from, limit).await
    }

    pub(super) async fn history_of(&self, seen: &Seen, from: HistoryFrom, limit: usize) -> Result<AnswerBody> {
        let head = seen.view.head_seq();
        let (backward, at) = match from {
            HistoryFrom::Newest => (true, head + 1),
            HistoryFrom::Before(seq) => (true, seq.min(head + 1)),
            HistoryFrom::After(seq) => (false, seq),
            HistoryFrom::AfterAt(time) => match time.checked_sub(HISTORY_PLACES) {
                Some(seq) => (false, seq),
                None => (false, self.last_before(seen, time).await?),
            },
        };
        let mut scan = Scan { backward, at, found: Vec::new(), last_at: 0, next_at: None };
        let by_time = matches!(from, HistoryFrom::AfterAt(_));
        self.scan(seen, &mut scan, limit, by_time).await?;
        let next = scan.next_at.map(|time| match by_time {
            false => scan.at,
            true if time != scan.last_at => time,
            true => HISTORY_PLACES + scan.at,
        });
        if scan.backward {
            scan.found.reverse();
        }
        Ok(AnswerBody::History { entries: scan.found, complete: next.is_none(), next, head_seq: head })
    }

    /// Looks at entries in the direction of the scan until `limit` messages are found. By time, a page
    /// goes on to where the time changes, so that the next one can begin with a time; unless the answer is
    /// full before: after a clock that was put back any number of entries has the same time.
    async fn scan(&self, seen: &Seen, scan: &mut Scan, limit: usize, by_time: bool) -> Result<()> {
        let (mut looked, mut filled) = (0, Filled::default());
        loop {
            let Some((after, up_to)) = stretch(seen, scan) else {
                return Ok(());
            };
            let lacking = (limit + 1).saturating_sub(scan.found.len()).clamp(READ_AT_ONCE.0, READ_AT_ONCE.1);
            let span = Span { after, up_to, limit: lacking, max_bytes: 1 << 20, backward: scan.backward };
            let page = self.store.entries(&seen.view.timeline, span).await?;
            let (Some(first), Some(last)) = (page.first(), page.last()) else {
                return Err(damaged(&seen.view, up_to));
            };
            // The page is read first, the change index last (rule 4).
            let (low, high) = (first.seq.min(last.seq), first.seq.max(last.seq));
            let targets: HashMap<u64, Target> =
                seen.view.targets(self.store, low - 1, high).await?.into_iter().collect();
            for entry in &page {
                let enough = scan.found.len() >= limit && !(by_time && entry.at == scan.last_at);
                if enough || looked >= LOOKED_AT {
                    scan.next_at = Some(entry.at);
                    return Ok(());
                }
                if let Some(message) = self.as_it_stands(seen, entry, targets.get(&entry.seq)).await? {
                    if !filled.takes(&message) {
                        scan.next_at = Some(entry.at);
                        return Ok(());
                    }
                    scan.found.push(message);
                }
                looked += 1;
                (scan.at, scan.last_at) = (entry.seq, entry.at);
            }
        }
    }

    /// A message as it stands now; `None` for what is no message or not shown to this user.
    async fn as_it_stands(&self, seen: &Seen, stored: &Entry, target: Option<&Target>) -> Result<Option<HistoryEntry>> {
        let view = &seen.view;
        let (kind, text) = entry::kind_and_text(&stored.data).ok_or_else(|| damaged(view, stored.seq))?;
        if kind == Kind::Notification && view.id.is_everybody() && seen.shows(stored.seq) {
            let event = Event::decode(text).map_err(|_| damaged(view, stored.seq))?;
            return Ok(Some(HistoryEntry { event, reactions: Vec::new() }));
        }
        if kind != Kind::Message || !seen.shows(stored.seq) {
            return Ok(None);
        }
        let mut message = entry::message(text).ok_or_else(|| damaged(view, stored.seq))?;
        let Some(target) = target else {
            return Ok(Some(HistoryEntry { event: Event::Message(message), reactions: Vec::new() }));
        };
        if target.recall.is_some() {
            let text = entry::stub(message);
            let message = entry::message(&text).ok_or_else(|| damaged(view, stored.seq))?;
            return Ok(Some(HistoryEntry { event: Event::Message(message), reactions: Vec::new() }));
        }
        self.apply_edit(seen, &mut message, target).await?;
        let reactions = self.reactions(view, message.conv_seq, target).await?;
        Ok(Some(HistoryEntry { event: Event::Message(message), reactions }))
    }

    /// Puts the last edit's body in.
    pub(super) async fn apply_edit(&self, seen: &Seen, message: &mut Message, target: &Target) -> Result<()> {
        let Some(last) = target.edits.iter().rfind(|seq| **seq <= seen.view.head_seq()) else { return Ok(()) };
        if let Some((body, at, _)) = self.edit_at(seen, *last).await? {
            message.body = Some(body);
            message.edited_at = Some(at);
        }
        Ok(())
    }

    /// Body, time and author of the edit at `seq`.
    pub(super) async fn edit_at(&self, seen: &Seen, seq: u64) -> Result<Option<(crate::protocol::Body, u64, UserId)>> {
        match self.event_at(seen, seq).await? {
            Event::Edit { body, edited_at, by, .. } => Ok(Some((body, edited_at, by))),
            _ => Err(damaged(&seen.view, seq)),
        }
    }

    /// The change at `seq`.
    pub(super) async fn event_at(&self, seen: &Seen, seq: u64) -> Result<Event> {
        let span = Span { after: seq - 1, up_to: seq, limit: 1, max_bytes: usize::MAX, backward: false };
        let entries = self.store.entries(&seen.view.timeline, span).await?;
        let text = entries.first().and_then(|entry| entry::kind_and_text(&entry.data));
        text.and_then(|(_, text)| Event::decode(text).ok()).ok_or_else(|| damaged(&seen.view, seq))
    }

    /// The last seq before `time`: entries' times never go back, so it is found by halving.
    async fn last_before(&self, seen: &Seen, time: u64) -> Result<u64> {
        let (mut before, mut from) = (0, seen.view.head_seq() + 1);
        while before + 1 < from {
            let middle = before + (from - before) / 2;
            match self.time_of(seen, middle).await? {
                Some(at) if at < time => before = middle,
                _ => from = middle,
            }
        }
        Ok(before)
    }

    async fn time_of(&self, seen: &Seen, seq: u64) -> Result<Option<u64>> {
        let span = Span { after: seq - 1, up_to: seq, limit: 1, max_bytes: usize::MAX, backward: false };
        let entries = self.store.entries(&seen.view.timeline, span).await?;
        Ok(entries.first().map(|entry| entry.at))
    }
}

/// The next stretch (after, up_to] to read: within one visible interval, skipping what is deleted.
fn stretch(seen: &Seen, scan: &mut Scan) -> Option<(u64, u64)> {
    let floor = seen.row.cleared_up_to;
    let visible = seen.view.member.visible(seen.view.head.position.seq, seen.view.info.history);
    if scan.backward {
        scan.at = seen.hidden.below_run(scan.at.checked_sub(1)?) + 1;
        let at = scan.at;
        let (from, to) = visible.into_iter().rev().find(|(from, _)| *from < at)?;
        let (after, up_to) = ((from - 1).max(floor), to.min(at - 1));
        (after < up_to).then_some((after, up_to))
    } else {
        let at = scan.at.max(floor);
        let (from, to) = visible.into_iter().find(|(_, to)| *to > at)?;
        Some(((from - 1).max(at), to))
    }
}
