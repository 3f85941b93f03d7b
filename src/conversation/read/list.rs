//! `conversations` (the recent-contacts list) and `members`.

use super::{Filled, Reader, Seen, damaged};
use crate::conversation::Refusal;
use crate::conversation::decide::NotDecided;
use crate::conversation::entry::{self, Kind};
use crate::conversation::inbox::{large_of, read_row};
use crate::conversation::member::Member;
use crate::conversation::rows;
use crate::conversation::user_row::UserRow;
use crate::conversation::view::View;
use crate::protocol::limits::MAX_LAST_BODY;
use crate::protocol::{
    AnswerBody, ConvId, ConversationKind, ConversationSummary, LastMessage, MemberInfo, Message, UserId,
};
use crate::store::{Error, RowKey, Section, Span, TimelineId};

type Result<T> = std::result::Result<T, NotDecided>;

const PAGE: usize = 1000;

impl Reader<'_> {
    /// Most recent first; a page goes on below (last_at, conv_id) of the page before.
    pub(super) async fn list_conversations(
        &self,
        active_after: Option<u64>,
        page: Option<&str>,
        limit: usize,
    ) -> Result<AnswerBody> {
        let below = match page {
            Some(page) => Some(parse_page(page).ok_or(NotDecided::from(Refusal::field("page")))?),
            None => None,
        };
        let large = large_of(self.store, self.user).await?;
        let mut listed: Vec<(u64, ConvId)> = Vec::new();
        for (conv, row) in self.user_rows().await? {
            let last_at = if large.contains(&conv) { self.large_last_at(&conv, &row).await? } else { row.last_at };
            let place = (last_at, conv);
            let active = active_after.is_none_or(|time| place.0 > time);
            if active && below.as_ref().is_none_or(|below| place < *below) {
                listed.push(place);
            }
        }
        listed.sort_unstable_by(|a, b| b.cmp(a));
        let (mut conversations, mut filled, mut next) = (Vec::new(), Filled::default(), None);
        let mut last: Option<&(u64, ConvId)> = None;
        for place in &listed {
            let mut full = conversations.len() >= limit;
            if !full && let Some(seen) = self.seen(&place.1).await? {
                let summary = self.summary(&seen, place.0).await?;
                full = !filled.takes(&summary);
                if !full {
                    conversations.push(summary);
                }
            }
            if let Some(last) = last.filter(|_| full) {
                next = Some(format!("{}~{}", last.0, last.1));
                break;
            }
            last = Some(place);
        }
        Ok(AnswerBody::Conversations { conversations, next })
    }

    async fn user_rows(&self) -> Result<Vec<(ConvId, UserRow)>> {
        let timeline = self.timeline();
        let (mut after, mut found) = (None, Vec::new());
        loop {
            let page = self.store.rows(&timeline, Section::Conv, after, u64::MAX, PAGE).await?;
            for (key, value) in &page {
                let damaged = || Error::Damaged(format!("row {key:?} of {timeline:?}"));
                let conv = ConvId::parse(&key.id).map_err(|_| damaged())?;
                if conv.is_reserved() {
                    continue;
                }
                found.push((conv, UserRow::load(value).ok_or_else(damaged)?));
            }
            match page.into_iter().nth(PAGE - 1) {
                Some((key, _)) => after = Some(key),
                None => return Ok(found),
            }
        }
    }

    /// A member's row of a large conversation does not move with its messages.
    async fn large_last_at(&self, conv: &ConvId, row: &UserRow) -> Result<u64> {
        let Some(view) = View::load(self.store, conv, self.user).await? else { return Ok(row.last_at) };
        let tail = view.tail(self.store, view.head_seq()).await?;
        let his = tail.last_seq > 0 && tail.last_seq >= view.member.join_seq();
        Ok(if his { row.last_at.max(tail.last_at) } else { row.last_at })
    }

    async fn summary(&self, seen: &Seen, last_at: u64) -> Result<ConversationSummary> {
        let Seen { view, row, hidden } = seen;
        let (title, members_count) = match &view.member.left {
            Some(left) => (left.title.clone(), left.members_count),
            None => (view.info.title.clone(), view.info.members_count),
        };
        let attributes = view.info.attributes.clone().filter(|_| view.member.left.is_none());
        Ok(ConversationSummary {
            conv_id: view.id.clone(),
            kind: if view.info.direct { ConversationKind::Direct } else { ConversationKind::Group },
            title,
            attributes,
            head_seq: view.head_seq(),
            last: self.last_message(seen).await?.map(shortened),
            last_at: Some(last_at),
            read_seq: row.read_seq,
            unread: view.unread(self.store, row, hidden).await?,
            join_seq: view.member.join_seq(),
            left_seq: view.member.leave_seq(),
            large: view.info.is_large(),
            members_count,
            settings: row.settings.into(),
        })
    }

    /// The newest message the user may see.
    async fn last_message(&self, seen: &Seen) -> Result<Option<Message>> {
        let view = &seen.view;
        for (from, to) in view.member.visible(view.head.position.seq, view.info.history).into_iter().rev() {
            let lowest = (from - 1).max(seen.row.cleared_up_to);
            let mut up_to = seen.hidden.below_run(to);
            while up_to > lowest {
                let span = Span { after: lowest, up_to, limit: 16, max_bytes: 1 << 20, backward: true };
                let page = self.store.entries(&view.timeline, span).await?;
                for entry in &page {
                    let (kind, text) = entry::kind_and_text(&entry.data).ok_or_else(|| damaged(view, entry.seq))?;
                    if kind == Kind::Message && seen.shows(entry.seq) {
                        return self.standing_message(seen, entry.seq, text).await.map(Some);
                    }
                }
                let Some(oldest) = page.last() else { return Err(damaged(view, up_to)) };
                up_to = seen.hidden.below_run(oldest.seq - 1);
            }
        }
        Ok(None)
    }

    async fn standing_message(&self, seen: &Seen, seq: u64, text: &str) -> Result<Message> {
        let broken = || damaged(&seen.view, seq);
        let mut message = entry::message(text).ok_or_else(broken)?;
        match seen.view.target(self.store, seq).await? {
            Some(target) if target.recall.is_some() => entry::message(&entry::stub(message)).ok_or_else(broken),
            Some(target) => {
                self.apply_edit(seen, &mut message, &target).await?;
                Ok(message)
            }
            None => Ok(message),
        }
    }

    /// Present members by id.
    pub(super) async fn list_members(&self, conv: &ConvId, page: Option<&str>, limit: usize) -> Result<AnswerBody> {
        let seen = self.must_see(conv).await?;
        if !seen.view.member.present() {
            return Err(crate::protocol::ErrorCode::NotFound.into());
        }
        self.members_of(&seen, page, limit).await
    }

    pub(super) async fn members_of(&self, seen: &Seen, page: Option<&str>, limit: usize) -> Result<AnswerBody> {
        let mut after = match page.map(UserId::parse) {
            Some(Ok(user)) => Some(rows::member_key(&user)),
            Some(Err(_)) => return Err(Refusal::field("page").into()),
            None => None,
        };
        let mut members: Vec<MemberInfo> = Vec::new();
        loop {
            let found = self.store.rows(&seen.view.timeline, Section::Member, after, u64::MAX, PAGE).await?;
            for (key, value) in &found {
                if let Some(last) = members.get(limit.saturating_sub(1)) {
                    let next = Some(last.user_id.to_string());
                    return Ok(AnswerBody::Members { members, next });
                }
                members.extend(self.member_info(seen, key, value).await?);
            }
            match found.into_iter().nth(PAGE - 1) {
                Some((key, _)) => after = Some(key),
                None => return Ok(AnswerBody::Members { members, next: None }),
            }
        }
    }

    async fn member_info(&self, seen: &Seen, key: &RowKey, value: &[u8]) -> Result<Option<MemberInfo>> {
        let member: Member = rows::unpack(&seen.view.timeline, key, value)?;
        let Ok(user_id) = UserId::parse(&key.id) else { return Ok(None) };
        if !member.present() {
            return Ok(None);
        }
        let row = read_row(self.store, &TimelineId::User(user_id.clone()), &seen.view.id).await?;
        let mut read_seq = row.map_or(0, |row| row.read_seq);
        if seen.view.id.is_direct() && user_id != *self.user {
            // The receipt is there before the reading it tells of, which a crash may have taken: a new
            // device is told no less than one that has the receipt.
            read_seq = read_seq.max(seen.row.receipt_seq);
        }
        Ok(Some(MemberInfo {
            joined_at: member.joined_at,
            join_seq: member.join_seq(),
            role: member.role,
            read_seq,
            user_id,
        }))
    }
}

fn parse_page(page: &str) -> Option<(u64, ConvId)> {
    let (time, conv) = page.split_once('~')?;
    Some((time.parse().ok()?, ConvId::parse(conv).ok()?))
}

/// A large body is left out of a list.
fn shortened(mut message: Message) -> LastMessage {
    let truncated = message.body.as_ref().is_some_and(|body| body.len() > MAX_LAST_BODY);
    if truncated {
        message.body = None;
    }
    LastMessage { message, truncated }
}
