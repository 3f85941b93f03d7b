//! Pages of a sync timeline, as a device may see them now.
//!
//! Order of reads (rule 4): the user's head, the page, the conversations' entries, and what became of
//! their targets last, so nothing recalled, deleted or superseded meanwhile is served. A page that does
//! not start at the cursor + 1 or is not dense is never sent.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::{Inner, Refusal, Standing, unavailable};
use crate::conversation::entry::{self, Header, Kind};
use crate::conversation::inbox::{hidden_of, read_row};
use crate::conversation::pointer::{Own, Pointer};
use crate::conversation::ranges::Ranges;
use crate::conversation::rows::Target;
use crate::conversation::view::View;
use crate::planted::{Bug, planted};
use crate::protocol::{ConvId, UserId};
use crate::store::{Entry, Error, Head, Result, Span, Store, TimelineId};

/// Entries of a conversation are read in one span when no more than so many unneeded lie between.
const GAP: u64 = 16;
/// Entries looked at in one read while a floor by age is sought.
const AGE_PAGE: usize = 256;

/// A page of a user's sync timeline, ready to be written into a `sync` frame.
#[derive(Debug, Clone)]
pub struct Page {
    /// The page covers (from, to].
    pub from: u64,
    /// Last seq covered; entries left out count.
    pub to: u64,
    /// seq and the text after `{"seq":N,`; ascending, superseded and hidden ones left out.
    pub entries: Vec<(u64, Arc<str>)>,
    /// Where the timeline stood when the page was read; `to == standing.head` means caught up.
    pub standing: Standing,
}

/// Result of asking for a page.
#[derive(Debug, Clone)]
pub enum PageRead {
    /// Here it is (possibly empty, when `after` is the head).
    Page(Page),
    /// `after` is below the floor: reset `too_old`.
    BelowFloor(Standing),
    /// `after` is above the head: reset `ahead`.
    AboveHead(Standing),
}

impl From<Head> for Standing {
    fn from(head: Head) -> Self {
        Self { head: head.position.seq, floor: head.floor }
    }
}

impl Inner {
    /// Head and floor; a floor by age is stored before it is told (rule 9).
    pub(super) async fn standing(self: &Arc<Self>, user: &UserId) -> std::result::Result<Standing, Refusal> {
        let timeline = TimelineId::User(user.clone());
        let look = async || -> Result<(Head, bool)> {
            let head = self.store.head(&timeline).await?;
            let oldest = self.store.entries(&timeline, first_after(head.floor, head.position.seq)).await?;
            let expected = head.floor < head.position.seq;
            let too_old = oldest.first().map_or(expected, |entry| entry.seq > head.floor + 1 || self.is_too_old(entry));
            Ok((head, too_old))
        };
        let (head, too_old) = look().await.map_err(|error| unavailable(&self.damage, &error))?;
        if !too_old {
            return Ok(head.into());
        }
        self.expire(user).await;
        self.store.head(&timeline).await.map(Standing::from).map_err(|error| unavailable(&self.damage, &error))
    }

    fn is_too_old(&self, entry: &Entry) -> bool {
        entry.at.saturating_add(self.policy.sync_max_age_ms) < self.clock.now_ms()
    }

    /// The largest seq that is too old or gone.
    pub(super) async fn floor_by_age(&self, timeline: &TimelineId, head: Head) -> Result<u64> {
        let (mut floor, up_to) = (head.floor, head.position.seq);
        while floor < up_to {
            let span = Span { limit: AGE_PAGE, ..first_after(floor, up_to) };
            let page = self.store.entries(timeline, span).await?;
            match page.iter().find(|entry| !self.is_too_old(entry)) {
                Some(young) => return Ok(young.seq - 1),
                None => floor = page.last().map_or(up_to, |last| last.seq),
            }
        }
        Ok(floor)
    }

    pub(super) async fn page(
        self: &Arc<Self>,
        user: &UserId,
        after: u64,
        max_entries: usize,
        max_bytes: usize,
    ) -> std::result::Result<PageRead, Refusal> {
        let timeline = TimelineId::User(user.clone());
        let after = after.saturating_sub(u64::from(planted(Bug::InclusiveCursor)));
        for _ in 0..2 {
            let head = self.store.head(&timeline).await.map_err(|error| unavailable(&self.damage, &error))?;
            let standing = Standing::from(head);
            if after < standing.floor && !planted(Bug::ReadPastFloor) {
                return Ok(PageRead::BelowFloor(standing));
            }
            if after >= standing.head {
                let empty = Page { from: after, to: after, entries: Vec::new(), standing };
                let caught_up = after == standing.head;
                return Ok(if caught_up { PageRead::Page(empty) } else { PageRead::AboveHead(standing) });
            }
            let read = self.read_page(user, &timeline, after, max_entries, max_bytes, standing).await;
            match read.map_err(|error| unavailable(&self.damage, &error))? {
                Some(page) => return Ok(PageRead::Page(page)),
                // What was asked for has become too old: the floor is raised, then told.
                None => self.expire(user).await,
            }
        }
        tracing::error!(%user, after, "a page is not dense; nothing of it is sent");
        Err(Refusal::new(crate::protocol::ErrorCode::Unavailable))
    }

    /// `None`: the first entry is too old or not there.
    async fn read_page(
        &self,
        user: &UserId,
        timeline: &TimelineId,
        after: u64,
        max_entries: usize,
        max_bytes: usize,
        standing: Standing,
    ) -> Result<Option<Page>> {
        let span = Span { limit: max_entries, max_bytes: usize::MAX, ..first_after(after, standing.head) };
        let mut stored = self.store.entries(timeline, span).await?;
        let gap = planted(Bug::PageWithGap);
        if !gap && stored.first().is_none_or(|entry| entry.seq != after + 1 || self.is_too_old(entry)) {
            return Ok(None);
        }
        let dense = stored.iter().zip(after + 1..).take_while(|(entry, seq)| entry.seq == *seq).count();
        stored.truncate(if gap { stored.len() } else { dense });
        let mut pointers = Vec::with_capacity(stored.len());
        for entry in &stored {
            let damaged = || Error::Damaged(format!("entry {} of {timeline:?}", entry.seq));
            pointers.push((entry.seq, Pointer::load(&entry.data).ok_or_else(damaged)?));
        }
        let sources = self.sources(user, timeline, &pointers).await?;
        let mut page = Page { from: after, to: after, entries: Vec::with_capacity(stored.len()), standing };
        let mut bytes = 0;
        for (seq, pointer) in &pointers {
            if let Some(text) = shown(pointer, &sources)? {
                bytes += text.len() + 32;
                if bytes > max_bytes && !page.entries.is_empty() {
                    break;
                }
                page.entries.push((*seq, text));
            }
            page.to = *seq;
        }
        leave_out_superseded(&mut page, &pointers);
        Ok(Some(page))
    }

    /// Everything the page's pointers point to, a conversation at a time.
    async fn sources<'a>(
        &self,
        user: &UserId,
        timeline: &TimelineId,
        pointers: &[(u64, Pointer<'a, &'a str>)],
    ) -> Result<HashMap<&'a str, Source>> {
        let mut needed: BTreeMap<&'a str, Vec<u64>> = BTreeMap::new();
        for (_, pointer) in pointers {
            if let Pointer::Log { conv_id, conv_seq, .. } = pointer {
                needed.entry(conv_id).or_default().push(*conv_seq);
            }
        }
        let mut sources = HashMap::with_capacity(needed.len());
        for (conv_id, seqs) in needed {
            let id = ConvId::parse(conv_id).map_err(|_| Error::Damaged(format!("pointer of {timeline:?}")))?;
            sources.insert(conv_id, self.source(user, timeline, &id, &seqs, pointers, conv_id).await?);
        }
        Ok(sources)
    }

    async fn source<'a>(
        &self,
        user: &UserId,
        timeline: &TimelineId,
        id: &ConvId,
        seqs: &[u64],
        pointers: &[(u64, Pointer<'a, &'a str>)],
        conv_id: &str,
    ) -> Result<Source> {
        let missing = || Error::Damaged(format!("{id} is pointed to by {timeline:?} and not there"));
        let view = View::load(&*self.store, id, user).await?.ok_or_else(missing)?;
        let row = read_row(&*self.store, timeline, id).await?.unwrap_or_default();
        let hidden = hidden_of(&*self.store, timeline, id, &row).await?;
        let entries = read_entries(&*self.store, &view.timeline, seqs).await?;
        let (low, high) = (seqs.iter().min().copied().unwrap_or(1), seqs.iter().max().copied().unwrap_or(0));
        let mut targets: HashMap<u64, Target> = view.targets(&*self.store, low - 1, high).await?.into_iter().collect();
        for (_, pointer) in pointers {
            if let Pointer::Log { conv_id: whose, kind: Kind::Edit, target, .. } = pointer
                && *whose == conv_id
                && !targets.contains_key(target)
                && let Some(found) = view.target(&*self.store, *target).await?
            {
                targets.insert(*target, found);
            }
        }
        Ok(Source { view, cleared_up_to: row.cleared_up_to, hidden, entries, targets })
    }
}

/// A conversation as far as a page needs it.
struct Source {
    view: View,
    cleared_up_to: u64,
    hidden: Ranges,
    entries: HashMap<u64, Entry>,
    targets: HashMap<u64, Target>,
}

impl Source {
    fn is_recalled(&self, seq: u64) -> bool {
        self.targets.get(&seq).is_some_and(|target| target.recall.is_some())
    }
}

/// A `read` is superseded by a later one of the same conversation inside the range the page covers; one
/// beyond it, where a frame may end for its size, does not count.
fn leave_out_superseded(page: &mut Page, pointers: &[(u64, Pointer<'_, &str>)]) {
    let mut last: HashMap<&str, u64> = HashMap::new();
    let mut superseded = Vec::new();
    for (seq, pointer) in pointers.iter().filter(|(seq, _)| *seq <= page.to) {
        if let Pointer::Own { own: Own::Read, conv_id, .. } = pointer {
            superseded.extend(last.insert(*conv_id, *seq));
        }
    }
    page.entries.retain(|(seq, _)| !superseded.contains(seq));
}

/// The text of an entry, unless it is left out (contract, section 3).
fn shown<'a>(pointer: &Pointer<'a, &'a str>, sources: &HashMap<&'a str, Source>) -> Result<Option<Arc<str>>> {
    let (kind, conv_id, conv_seq, target) = match pointer {
        Pointer::Own { text, .. } => return Ok(Some(Arc::from(*text))),
        Pointer::Log { kind, conv_id, conv_seq, target } => (*kind, *conv_id, *conv_seq, *target),
    };
    let damaged = || Error::Damaged(format!("entry {conv_seq} of {conv_id}"));
    let source = sources.get(conv_id).ok_or_else(damaged)?;
    let left_out = match kind {
        Kind::Message => conv_seq <= source.cleared_up_to || source.hidden.contains(conv_seq),
        Kind::Edit if planted(Bug::EditServedAfterRecall) => false,
        Kind::Edit => !source.view.sees(target) || source.is_recalled(target),
        kind if kind.changes_target() => !source.view.sees(target),
        _ => false,
    };
    if left_out {
        return Ok(None);
    }
    let stored = source.entries.get(&conv_seq).ok_or_else(damaged)?;
    if source.view.info.large_at.is_some_and(|at| kind == Kind::Message && conv_seq > at) {
        // By its own log he has the message; this timeline says that it mentions him.
        let (header, _) = Header::load(&stored.data).ok_or_else(damaged)?;
        return Ok(Some(entry::mention(&source.view.id, conv_seq, &header.by.ok_or_else(damaged)?)));
    }
    let (_, text) = entry::kind_and_text(&stored.data).ok_or_else(damaged)?;
    if kind == Kind::Message && source.is_recalled(conv_seq) {
        // Read before the recall erased it: the change index, read later, knows.
        return Ok(Some(entry::stub(entry::message(text).ok_or_else(damaged)?)));
    }
    Ok(Some(Arc::from(text)))
}

/// Reads the entries of these numbers, near ones in one span.
async fn read_entries(store: &dyn Store, timeline: &TimelineId, seqs: &[u64]) -> Result<HashMap<u64, Entry>> {
    let mut sorted = seqs.to_vec();
    sorted.sort_unstable();
    let mut found = HashMap::with_capacity(sorted.len());
    let mut rest = sorted.as_slice();
    while let Some(first) = rest.first() {
        let run = rest.windows(2).take_while(|pair| matches!(pair, [a, b] if b - a <= GAP)).count() + 1;
        let (near, others) = rest.split_at(run);
        let last = near.last().unwrap_or(first);
        let mut after = first - 1;
        while after < *last {
            let span = Span { after, up_to: *last, limit: 512, max_bytes: 1 << 22, backward: false };
            let page = store.entries(timeline, span).await?;
            let Some(newest) = page.last().map(|entry| entry.seq) else { break };
            found.extend(page.into_iter().map(|entry| (entry.seq, entry)));
            after = newest;
        }
        rest = others;
    }
    Ok(found)
}

fn first_after(after: u64, up_to: u64) -> Span {
    Span { after, up_to, limit: 1, max_bytes: usize::MAX, backward: false }
}
