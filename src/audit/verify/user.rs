//! One sync timeline: every pointer leads to an entry addressed to the user, once and in order, none is
//! left out, and every instruction of his own is also state.

use std::collections::BTreeMap;

use super::own::Owns;
use super::{Audit, Density, last_key};
use crate::conversation::entry::{Header, Kind};
use crate::conversation::inbox::{read_hidden, read_row};
use crate::conversation::member::Member;
use crate::conversation::pointer::Pointer;
use crate::conversation::ranges::Ranges;
use crate::conversation::rows::{self, Device, Info};
use crate::conversation::user_row::UserRow;
use crate::protocol::{ConvId, HistoryMode, UserId};
use crate::store::{Entry, Result, RowKey, Section, TimelineId};

/// A conversation met in this timeline.
pub(super) struct Known {
    timeline: TimelineId,
    member: Option<Member>,
    mode: HistoryMode,
    large_at: Option<u64>,
    pub(super) row: Option<UserRow>,
    pub(super) hidden: Ranges,
    /// conv_seq of the last pointer; `None` before the first where older ones have expired.
    last: Option<u64>,
    pub(super) owns: Owns,
}

/// A pointer into a conversation.
struct Place {
    seq: u64,
    kind: Kind,
    conv_seq: u64,
    target: u64,
}

/// A sync timeline being read.
struct Reading<'a, 'b> {
    audit: &'a mut Audit<'b>,
    timeline: TimelineId,
    user: UserId,
    floor: u64,
    known: BTreeMap<ConvId, Known>,
}

/// Checks one user's timeline.
pub(super) async fn check(audit: &mut Audit<'_>, user: &UserId) -> Result<()> {
    let timeline = TimelineId::User(user.clone());
    let head = audit.store.head(&timeline).await?;
    let (seq, mut floor) = (head.position.seq, head.floor);
    if floor > seq {
        audit.differs(&timeline, format!("the floor, {floor}, is above the head, {seq}"));
    }
    if floor < seq && !audit.store.together() {
        floor = audit.expired_up_to(&timeline, floor, seq).await?;
    }
    let mut reading = Reading { audit, timeline, user: user.clone(), floor, known: BTreeMap::new() };
    let (mut density, mut after) = (Density::above(floor), floor);
    while after < seq {
        let page = reading.audit.page(&reading.timeline, after, seq).await?;
        let Some(last) = page.last().map(|entry| entry.seq) else { break };
        reading.audit.report.entries += page.len() as u64;
        for entry in &page {
            density.step(entry).into_iter().for_each(|what| reading.differs(what));
        }
        reading.page(&page).await?;
        after = last;
    }
    density.end(seq, head.at, floor).into_iter().for_each(|what| reading.differs(what));
    reading.conversation_rows().await?;
    reading.hidden_rows().await?;
    reading.device_rows().await?;
    let foreign = [Section::State, Section::Member, Section::Dedupe, Section::Change, Section::Target, Section::Word];
    let Reading { audit, timeline, .. } = reading;
    audit.none_of(&timeline, &foreign).await
}

impl Reading<'_, '_> {
    fn differs(&mut self, what: impl Into<String>) {
        self.audit.differs(&self.timeline, what);
    }

    /// Checks the entries of one page, conversation by conversation.
    async fn page(&mut self, page: &[Entry]) -> Result<()> {
        let mut places: BTreeMap<ConvId, Vec<Place>> = BTreeMap::new();
        for entry in page {
            let seq = entry.seq;
            let Some((pointer, conv)) = read_pointer(&entry.data) else {
                self.differs(format!("entry {seq} is unreadable"));
                continue;
            };
            self.know(&conv).await?;
            match pointer {
                Pointer::Log { kind, conv_seq, target, .. } => {
                    places.entry(conv).or_default().push(Place { seq, kind, conv_seq, target });
                }
                Pointer::Own { own, text, .. } => {
                    let Some(known) = self.known.get_mut(&conv) else { continue };
                    let wrong = known.owns.take(own, &conv, text, known.row.as_ref(), &known.hidden);
                    wrong.into_iter().for_each(|what| self.differs(format!("entry {seq}: {what}")));
                }
            }
        }
        for (conv, places) in &places {
            if let Some(mut known) = self.known.remove(conv) {
                self.places(conv, &mut known, places).await?;
                self.known.insert(conv.clone(), known);
            }
        }
        Ok(())
    }

    /// Loads what is to be known of a conversation, once.
    async fn know(&mut self, conv: &ConvId) -> Result<()> {
        if self.known.contains_key(conv) {
            return Ok(());
        }
        let (store, timeline) = (self.audit.store, TimelineId::Conversation(conv.clone()));
        let member = rows::read(store, &timeline, &rows::member_key(&self.user)).await?;
        let info: Option<Info> = rows::read(store, &timeline, &rows::state_key()).await?;
        let row = read_row(store, &self.timeline, conv).await?;
        let hidden = read_hidden(store, &self.timeline, conv).await?;
        let known = Known {
            timeline,
            member,
            mode: info.as_ref().map_or(HistoryMode::SinceJoin, |info| info.history),
            large_at: info.and_then(|info| info.large_at),
            row,
            hidden,
            last: (self.floor == 0).then_some(0),
            owns: Owns::default(),
        };
        if known.row.is_none() {
            self.differs(format!("there are entries of {conv}, but no row"));
        }
        self.known.insert(conv.clone(), known);
        Ok(())
    }

    /// Pointers into one conversation, ascending by seq.
    async fn places(&mut self, conv: &ConvId, known: &mut Known, places: &[Place]) -> Result<()> {
        let most = places.iter().map(|place| place.conv_seq).max().unwrap_or(0);
        let mut log = Log { timeline: known.timeline.clone(), most, page: BTreeMap::new() };
        for Place { seq, kind, conv_seq, target } in places {
            let (at, conv_seq) = (format!("entry {seq} ({conv} {conv_seq})"), *conv_seq);
            if let Some(last) = known.last {
                if conv_seq == last {
                    self.differs(format!("{at} is there twice"));
                } else if conv_seq < last {
                    self.differs(format!("{at} comes after {last} of the same conversation"));
                } else {
                    let small = known.large_at.unwrap_or(u64::MAX);
                    self.gap(conv, known, last, small.min(conv_seq - 1)).await?;
                }
            }
            let last = known.last.replace(conv_seq.max(known.last.unwrap_or(0)));
            match log.entry(self.audit, conv_seq).await? {
                None => self.differs(format!("{at} does not exist")),
                Some(entry) => match Header::load(&entry.data) {
                    Some((header, _)) if header.kind == *kind && header.target == *target => {
                        let user = &self.user;
                        let addressed = |member: &Member| member.addressed(user, conv_seq, &header, known.mode);
                        let addressed = known.member.as_ref().is_some_and(addressed);
                        let before = header.large.as_ref().and_then(|large| large.told(user)).map(|told| told.before);
                        let above = |last: u64| if known.large_at.is_some_and(|at| last > at) { last } else { 0 };
                        if !addressed {
                            self.differs(format!("{at} is not addressed to this user"));
                        } else if let (Some(last), Some(before)) = (last, before)
                            && before != above(last)
                        {
                            self.differs(format!("{at} follows {before}, the last one here is {last}"));
                        }
                    }
                    _ => self.differs(format!("{at} is not what the log has there")),
                },
            }
        }
        Ok(())
    }

    /// Nothing in (after, up_to] may be addressed to the user: it was left out.
    async fn gap(&mut self, conv: &ConvId, known: &Known, after: u64, up_to: u64) -> Result<()> {
        let Some(member) = &known.member else { return Ok(()) };
        // What lies before his first stay is not his.
        let mut after = after.max(member.stays.first().map_or(0, |stay| stay.0.saturating_sub(1)));
        while after < up_to {
            let page = self.audit.page(&known.timeline, after, up_to).await?;
            let Some(last) = page.last().map(|entry| entry.seq) else { return Ok(()) };
            for entry in &page {
                let Some((header, _)) = Header::load(&entry.data) else { continue };
                if member.addressed(&self.user, entry.seq, &header, known.mode) {
                    self.differs(format!("{conv} {} is addressed to this user and was left out", entry.seq));
                }
            }
            after = last;
        }
        Ok(())
    }

    async fn conversation_rows(&mut self) -> Result<()> {
        let mut after = None;
        loop {
            let page = self.audit.rows(&self.timeline, Section::Conv, after, u64::MAX).await?;
            for (key, value) in &page {
                match (ConvId::parse(&key.id), UserRow::load(value)) {
                    (Ok(conv), Some(row)) => self.conversation_row(&conv, &row).await?,
                    _ => self.differs(format!("row of {} is unreadable", key.id)),
                }
            }
            match last_key(page) {
                Some(key) => after = Some(key),
                None => return Ok(()),
            }
        }
    }

    async fn conversation_row(&mut self, conv: &ConvId, row: &UserRow) -> Result<()> {
        let timeline = TimelineId::Conversation(conv.clone());
        let member: Option<Member> = rows::read(self.audit.store, &timeline, &rows::member_key(&self.user)).await?;
        let Some(member) = member else {
            self.differs(format!("row of {conv}, where he never was a member"));
            return Ok(());
        };
        let has_hidden = self.audit.store.row(&self.timeline, &rows::hidden_key(conv)).await?.is_some();
        if row.has_hidden && !has_hidden {
            self.differs(format!("row of {conv} says there are deleted ranges, and there are none"));
        }
        let delivered = row.delivered;
        match self.known.get(conv).map(|known| (known.last, known.owns.compare(row))) {
            Some((last, wrong)) => {
                if let Some(last) = last.filter(|last| *last > 0 && *last != delivered) {
                    self.differs(format!("row of {conv}: delivered_seq is {delivered}, the last entry here is {last}"));
                }
                wrong.into_iter().for_each(|what| self.differs(format!("row of {conv}: {what}")));
            }
            None if self.floor == 0 && member.stays.first().is_some_and(|stay| stay.0 <= delivered) => {
                self.differs(format!("row of {conv}: delivered_seq is {delivered}, and nothing of it is here"));
            }
            None => {}
        }
        self.large_row(conv, &member, delivered).await
    }

    /// Whoever is in a large conversation has a row that says so, from the entry on that told him.
    async fn large_row(&mut self, conv: &ConvId, member: &Member, delivered: u64) -> Result<()> {
        let timeline = TimelineId::Conversation(conv.clone());
        let info: Option<Info> = rows::read(self.audit.store, &timeline, &rows::state_key()).await?;
        let large_at = info.and_then(|info| info.large_at);
        let there = self.audit.store.row(&self.timeline, &rows::large_key(conv)).await?.is_some();
        let due = large_at.is_some_and(|at| member.present() && delivered >= at.max(member.join_seq()));
        let over = large_at.is_none() || member.leave_seq().is_some_and(|leave| delivered >= leave);
        if (due && !there) || (over && there) {
            let what = if there { "is" } else { "is not" };
            self.differs(format!("{conv} {what} among his large conversations"));
        }
        Ok(())
    }

    async fn hidden_rows(&mut self) -> Result<()> {
        let mut after = None;
        loop {
            let page = self.audit.rows(&self.timeline, Section::Hidden, after, u64::MAX).await?;
            for (key, value) in &page {
                let ordered = Ranges::load(value).is_some_and(|ranges| {
                    let ranges = ranges.to_wire();
                    ranges.windows(2).all(|pair| matches!(pair, [a, b] if a.to + 1 < b.from))
                });
                if !ordered {
                    self.differs(format!("deleted ranges of {} are unreadable", key.id));
                }
                let key = RowKey { section: Section::Conv, ..key.clone() };
                let row = self.audit.store.row(&self.timeline, &key).await?.and_then(|row| UserRow::load(&row));
                if !row.is_some_and(|row| row.has_hidden) {
                    self.differs(format!("deleted ranges of {} are not named by its row", key.id));
                }
            }
            match last_key(page) {
                Some(key) => after = Some(key),
                None => return Ok(()),
            }
        }
    }

    async fn device_rows(&mut self) -> Result<()> {
        let mut after = None;
        loop {
            let page = self.audit.rows(&self.timeline, Section::Device, after, u64::MAX).await?;
            for (key, value) in &page {
                if rows::unpack::<Device>(&self.timeline, key, value).is_err() {
                    self.differs(format!("row of device {} is unreadable", key.id));
                }
            }
            match last_key(page) {
                Some(key) => after = Some(key),
                None => return Ok(()),
            }
        }
    }
}

fn read_pointer(data: &[u8]) -> Option<(Pointer<'_, &str>, ConvId)> {
    let pointer = Pointer::load(data)?;
    let (Pointer::Log { conv_id, .. } | Pointer::Own { conv_id, .. }) = &pointer;
    let conv = ConvId::parse(conv_id).ok()?;
    Some((pointer, conv))
}

/// A conversation's log, read a page at a time for places that mostly ascend.
struct Log {
    timeline: TimelineId,
    /// The largest conv_seq that will be asked for.
    most: u64,
    page: BTreeMap<u64, Entry>,
}

impl Log {
    async fn entry(&mut self, audit: &mut Audit<'_>, seq: u64) -> Result<Option<&Entry>> {
        if !self.page.contains_key(&seq) {
            let page = audit.page(&self.timeline, seq.saturating_sub(1), self.most).await?;
            self.page = page.into_iter().map(|entry| (entry.seq, entry)).collect();
        }
        Ok(self.page.get(&seq))
    }
}
