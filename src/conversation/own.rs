//! What a user does for himself: `delete`, `clear`, `read`, `settings`. They go through his own lane,
//! become entries of his sync timeline (so every device learns) and state (so nothing brings it back).

use super::Refusal;
use super::decide::{Decision, NotDecided};
use super::entry::{Header, Kind};
use super::inbox::Inbox;
use super::pointer::{Own, Pointer};
use super::ranges::Ranges;
use super::rows::Target;
use super::user_row::UserRow;
use super::view::View;
use crate::planted::{Bug, planted};
use crate::protocol::limits::MAX_DELETED;
use crate::protocol::{AnswerBody, ConvId, ErrorCode, Event, Range, Request, UserId};
use crate::store::{Span, Store};
use crate::timeline::Draft;

const PAGE: usize = 512;

/// A request of the user's own lane, being decided.
#[derive(Debug)]
pub struct OwnDesk<'a> {
    /// To read the conversation.
    pub store: &'a dyn Store,
    /// The user's state.
    pub inbox: &'a mut Inbox,
    /// The commit.
    pub draft: &'a mut Draft,
    /// What was appended: number, whether it changes what earlier entries show, text.
    pub appended: &'a mut Vec<(u64, std::sync::Arc<str>)>,
}

/// A receipt the peer of a direct conversation must have before the reading itself is committed: were
/// it the other way round, a crash in between would lose it for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Where.
    pub conv: ConvId,
    /// To whom.
    pub peer: UserId,
    /// Who read.
    pub reader: UserId,
    /// Up to where.
    pub read_seq: u64,
}

impl OwnDesk<'_> {
    /// Decides `delete`, `clear`, `read` or `settings`.
    ///
    /// # Errors
    /// The refusal, or that the store could not be read.
    pub async fn decide(&mut self, request: &Request) -> Decision<AnswerBody> {
        let conv = request.conv_id().ok_or(NotDecided::from(ErrorCode::UnknownType))?;
        let (view, mut row) = self.look(conv).await?;
        let mut head = view.member.cap(view.head.position.seq);
        if planted(Bug::DeleteOvertaken) {
            head = head.min(row.delivered);
        }
        let event = match request {
            Request::Read { read_seq, .. } => self.read(&view, &mut row, (*read_seq).min(head)).await?,
            Request::Clear { up_to, .. } => self.clear(&view, &mut row, (*up_to).min(head)).await?,
            Request::Delete { ranges, .. } => self.delete(&view, &mut row, ranges, head).await?,
            Request::Settings { muted, pinned, hidden, .. } => settings(conv, &mut row, [*muted, *pinned, *hidden]),
            _ => return Err(ErrorCode::UnknownType.into()),
        };
        if let Some((own, event)) = event {
            self.append(own, conv, &event);
            self.inbox.set_row(self.draft, conv, row);
        }
        Ok(AnswerBody::Ok { conv_id: None, conv_seq: None, seq: Some(self.draft.head_seq()) })
    }

    /// The receipt this `read` owes the peer first, if any.
    ///
    /// # Errors
    /// The refusal, or that the store could not be read.
    pub async fn receipt_due(&mut self, conv: &ConvId, read_seq: u64) -> Decision<Option<Receipt>> {
        let (view, row) = self.look(conv).await?;
        let read_seq = read_seq.min(view.member.cap(view.head.position.seq));
        let Some((a, b)) = conv.direct_members().filter(|_| read_seq > row.read_seq) else { return Ok(None) };
        let reader = self.inbox.user.clone();
        let peer = if a == reader { b } else { a };
        Ok(Some(Receipt { conv: conv.clone(), peer, reader, read_seq }))
    }

    /// Puts a receipt into this user's timeline, once.
    ///
    /// # Errors
    /// That the store could not be read.
    pub async fn receipt(&mut self, receipt: &Receipt) -> Decision<()> {
        let row = self.inbox.row(self.store, &receipt.conv).await?;
        let mut row = row.unwrap_or_else(|| UserRow::starting_at(1));
        if receipt.read_seq > row.receipt_seq {
            row.receipt_seq = receipt.read_seq;
            let Receipt { conv, reader, read_seq, .. } = receipt.clone();
            self.append(Own::Receipt, &receipt.conv, &Event::Receipt { conv_id: conv, user_id: reader, read_seq });
            self.inbox.set_row(self.draft, &receipt.conv, row);
        }
        Ok(())
    }

    /// The conversation as its log has it, for one who is or was a member; and his own row.
    async fn look(&mut self, conv: &ConvId) -> Decision<(View, UserRow)> {
        let view =
            View::load(self.store, conv, &self.inbox.user).await?.ok_or(NotDecided::from(ErrorCode::NotFound))?;
        let row = self.inbox.row(self.store, conv).await?;
        let first = view.member.stays.first().map_or(1, |stay| stay.0);
        Ok((view, row.unwrap_or_else(|| UserRow::starting_at(first))))
    }

    fn append(&mut self, own: Own, conv: &ConvId, event: &Event) {
        let text = event.encode();
        let seq = self.draft.append(Pointer::Own { own, conv_id: conv, text: &text }.store());
        self.appended.push((seq, text));
    }

    async fn read(&mut self, view: &View, row: &mut UserRow, read_seq: u64) -> Decision<Option<(Own, Event)>> {
        if read_seq <= row.read_seq {
            return Ok(None);
        }
        let hidden = self.inbox.hidden(self.store, &view.id, row).await?;
        let counted = self.counted(view, row, &hidden, row.seen_up_to(), read_seq).await?;
        row.unread = row.unread.saturating_sub(counted);
        row.read_seq = read_seq;
        self.note_seen(view, row).await?;
        let unread = view.unread(self.store, row, &hidden).await?;
        let event = Event::Read { conv_id: view.id.clone(), read_seq, unread };
        Ok(Some((Own::Read, event)))
    }

    async fn clear(&mut self, view: &View, row: &mut UserRow, up_to: u64) -> Decision<Option<(Own, Event)>> {
        if up_to <= row.cleared_up_to {
            return Ok(None);
        }
        let hidden = self.inbox.hidden(self.store, &view.id, row).await?;
        let counted = self.counted(view, row, &hidden, row.seen_up_to(), up_to).await?;
        row.unread = row.unread.saturating_sub(counted);
        row.cleared_up_to = up_to;
        self.note_seen(view, row).await?;
        Ok(Some((Own::Clear, Event::Clear { conv_id: view.id.clone(), up_to })))
    }

    /// How many of the messages he has seen now were his own.
    async fn note_seen(&self, view: &View, row: &mut UserRow) -> Decision<()> {
        if view.info.is_large() {
            row.seen_own = view.own_up_to(self.store, row.seen_up_to()).await?;
        }
        Ok(())
    }

    async fn delete(
        &mut self,
        view: &View,
        row: &mut UserRow,
        ranges: &[Range],
        head: u64,
    ) -> Decision<Option<(Own, Event)>> {
        let mut hidden = self.inbox.hidden(self.store, &view.id, row).await?;
        let mut deleted = Vec::new();
        for range in ranges {
            // Within his stays: what he may not see he cannot delete.
            for (from, to) in view.member.visible(head, view.info.history) {
                let (from, to) = (range.from.max(from), range.to.min(to));
                if from > to || hidden.contains_all(from, to) || to <= row.cleared_up_to {
                    continue;
                }
                let counted =
                    self.counted(view, row, &hidden, from.saturating_sub(1).max(row.seen_up_to()), to).await?;
                row.unread = row.unread.saturating_sub(counted);
                hidden.insert(from, to);
                deleted.push(Range { from, to });
            }
        }
        if deleted.is_empty() {
            return Ok(None);
        }
        if hidden.count() > MAX_DELETED {
            return Err(Refusal { field: Some("ranges"), ..Refusal::new(ErrorCode::TooLarge) }.into());
        }
        row.has_hidden = true;
        self.inbox.set_hidden(self.draft, &view.id, hidden);
        Ok(Some((Own::Delete, Event::Delete { conv_id: view.id.clone(), ranges: deleted })))
    }

    /// How many of `unread` stand in (after, up_to]: messages of others, delivered, addressed, not
    /// deleted, not recalled as far as delivered.
    async fn counted(&self, view: &View, row: &UserRow, hidden: &Ranges, after: u64, up_to: u64) -> Decision<u64> {
        if row.unread == 0 {
            return Ok(0);
        }
        // Of a large conversation only what came before it was large is kept as a number.
        let kept = view.info.large_at.map_or(row.delivered, |at| at.min(row.delivered));
        if up_to >= kept && after <= row.seen_up_to() {
            return Ok(row.unread);
        }
        let (mut after, up_to, mut count) = (after, up_to.min(kept), 0);
        while after < up_to {
            let span = Span { after, up_to, limit: PAGE, max_bytes: 1 << 20, backward: false };
            let page = self.store.entries(&view.timeline, span).await?;
            let Some(last) = page.last().map(|entry| entry.seq) else { break };
            let recalled = self.recalled(view, kept, after, last).await?;
            for entry in &page {
                let Some((header, _)) = Header::load(&entry.data) else { return Err(view.damaged(entry.seq)) };
                let counts = header.kind == Kind::Message
                    && header.by.as_ref() != Some(&self.inbox.user)
                    && view.member.covers(entry.seq)
                    && !hidden.contains(entry.seq)
                    && !recalled.contains(&entry.seq);
                count += u64::from(counts);
            }
            after = last;
        }
        Ok(count)
    }

    /// Messages in (after, up_to] whose recall has been delivered, up to `delivered`.
    async fn recalled(&self, view: &View, delivered: u64, after: u64, up_to: u64) -> Decision<Vec<u64>> {
        let targets = view.targets(self.store, after, up_to).await?;
        let is_known = |target: &Target| {
            target.recall.as_ref().is_some_and(|(seq, _)| *seq <= delivered || planted(Bug::RecountSeesAhead))
        };
        Ok(targets.into_iter().filter(|(_, target)| is_known(target)).map(|(seq, _)| seq).collect())
    }
}

fn settings(conv: &ConvId, row: &mut UserRow, wanted: [Option<bool>; 3]) -> Option<(Own, Event)> {
    let before = row.settings;
    let [muted, pinned, hidden] = wanted;
    row.settings.muted = muted.unwrap_or(before.muted);
    row.settings.pinned = pinned.unwrap_or(before.pinned);
    row.settings.hidden = hidden.unwrap_or(before.hidden);
    let now = row.settings;
    let event = Event::Settings { conv_id: conv.clone(), muted: now.muted, pinned: now.pinned, hidden: now.hidden };
    (now != before).then_some((Own::Settings, event))
}
