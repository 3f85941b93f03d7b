//! One delivery: entries of a conversation into one user's draft.

use std::sync::Arc;

use super::Progress;
use crate::conversation::entry::{Appended, Header, Kind};
use crate::conversation::inbox::Inbox;
use crate::conversation::member::Member;
use crate::conversation::ranges::Ranges;
use crate::conversation::rows::{self, Change};
use crate::conversation::user_row::UserRow;
use crate::hub::Live;
use crate::planted::{Bug, planted};
use crate::protocol::{ConvId, HistoryMode};
use crate::store::{Error, Result, RowKey, Section, Span, Store, TimelineId};
use crate::timeline::Draft;

const PAGE: usize = 512;

/// Entries of one conversation, contiguous, on their way to many users.
#[derive(Debug)]
pub struct Batch {
    /// Whose log.
    pub conversation: ConvId,
    /// What a new member sees there.
    pub mode: HistoryMode,
    /// The entries, ascending.
    pub entries: Vec<Appended>,
    /// Everything up to here is already with everybody it is addressed to; 0 when not known.
    pub complete_to: u64,
}

/// A batch for one user.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// What.
    pub batch: Arc<Batch>,
    /// His stays by the conversation's log.
    pub member: Arc<Member>,
    /// Told when the delivery is durable.
    pub told: Vec<Arc<Progress>>,
}

/// Puts what the batch addresses to this user, and what was missed before it, into the draft, each
/// once and in conv_seq order.
///
/// # Errors
/// That the store could not be read; the draft is then to be thrown away.
pub async fn deliver(
    store: &dyn Store,
    inbox: &mut Inbox,
    draft: &mut Draft,
    delivery: &Delivery,
    live: &mut Vec<Live>,
) -> Result<()> {
    let Delivery { batch, member, .. } = delivery;
    let conv = &batch.conversation;
    let Some(first) = batch.entries.first().map(|entry| entry.seq) else { return Ok(()) };
    let start = member.stays.first().map_or(first, |stay| stay.0);
    let mut row = inbox.row(store, conv).await?.unwrap_or_else(|| UserRow::starting_at(start));
    let hidden = inbox.hidden(store, conv, &row).await?;
    let before = row.delivered;

    for missed in missed(store, batch, member, row.delivered, first).await? {
        put(inbox, draft, &mut row, delivery, &hidden, &missed, live);
    }
    for entry in &batch.entries {
        let rejoins = entry.header.kind == Kind::Joined
            && entry.header.subject.as_ref() == Some(&inbox.user)
            && member.stays.len() > 1
            && entry.seq > row.delivered;
        if rejoins {
            for change in changes_while_away(store, batch, member, row.delivered, entry.seq).await? {
                put(inbox, draft, &mut row, delivery, &hidden, &change, live);
            }
        }
        put(inbox, draft, &mut row, delivery, &hidden, entry, live);
    }
    if row.delivered > before {
        inbox.set_row(draft, conv, row);
    }
    Ok(())
}

/// Appends one entry if it is addressed to the user and not there yet.
fn put(
    inbox: &Inbox,
    draft: &mut Draft,
    row: &mut UserRow,
    delivery: &Delivery,
    hidden: &Ranges,
    entry: &Appended,
    live: &mut Vec<Live>,
) {
    let Delivery { batch, member, .. } = delivery;
    let header = &entry.header;
    if planted(Bug::RecallSkipsOffLine) && header.kind == Kind::Recall && header.by.as_ref() != Some(&inbox.user) {
        return;
    }
    let addressed = member.addressed(entry.seq, header.kind, header.target, batch.mode);
    let there = entry.seq <= row.delivered && !planted(Bug::DeliveredIgnored);
    if there || !(addressed || planted(Bug::GapFilledByNumber)) {
        return;
    }
    row.fold(&inbox.user, member, hidden, entry);
    let seq = draft.append(entry.pointer.clone());
    let shown = match header.kind {
        Kind::Message => entry.seq > row.cleared_up_to && !hidden.contains(entry.seq),
        kind if kind.changes_target() => member.sees(header.target, batch.mode),
        _ => true,
    };
    live.push(Live { seq, text: shown.then(|| Arc::clone(&entry.text)), changes_earlier: header.kind == Kind::Recall });
}

/// Entries between what the user has and the batch, as far as the log addresses them to him.
async fn missed(
    store: &dyn Store,
    batch: &Batch,
    member: &Member,
    delivered: u64,
    first: u64,
) -> Result<Vec<Appended>> {
    let after = delivered.max(batch.complete_to);
    if after + 1 >= first {
        return Ok(Vec::new());
    }
    let entries = read_log(store, &batch.conversation, after, first - 1).await?;
    let addressed = |entry: &Appended| {
        planted(Bug::GapFilledByNumber)
            || member.addressed(entry.seq, entry.header.kind, entry.header.target, batch.mode)
    };
    Ok(entries.into_iter().filter(addressed).collect())
}

/// Changes of messages he may see, made between two stays: by the change index, not by the log.
async fn changes_while_away(
    store: &dyn Store,
    batch: &Batch,
    member: &Member,
    delivered: u64,
    joined: u64,
) -> Result<Vec<Appended>> {
    let timeline = TimelineId::Conversation(batch.conversation.clone());
    let mut after = RowKey { n: delivered, ..rows::change_key(delivered) };
    let mut found = Vec::new();
    loop {
        let page = store.rows(&timeline, Section::Change, Some(after), joined - 1, PAGE).await?;
        for (key, value) in &page {
            let change: Change = rows::unpack(&timeline, key, value)?;
            if member.addressed(key.n, change.kind.entry_kind(), change.target, batch.mode) {
                found.extend(read_log(store, &batch.conversation, key.n - 1, key.n).await?);
            }
        }
        match page.into_iter().nth(PAGE - 1) {
            Some((key, _)) => after = key,
            None => return Ok(found),
        }
    }
}

/// Reads entries (after, up_to] of a conversation back into the form they were appended in.
///
/// # Errors
/// That the store could not be read, or that the log is not dense there.
pub async fn read_log(store: &dyn Store, conv: &ConvId, after: u64, up_to: u64) -> Result<Vec<Appended>> {
    let timeline = TimelineId::Conversation(conv.clone());
    let mut found = Vec::new();
    let mut next = after + 1;
    while next <= up_to {
        let before = next;
        let span = Span { after: next - 1, up_to, limit: PAGE, max_bytes: 1 << 22, backward: false };
        for entry in store.entries(&timeline, span).await? {
            let damaged = || Error::Damaged(format!("entry {} of {conv}", entry.seq));
            let (header, text) = Header::load(&entry.data).filter(|_| entry.seq == next).ok_or_else(damaged)?;
            found.push(Appended::new(conv, entry.seq, entry.at, header, Arc::from(text)));
            next += 1;
        }
        if next == before {
            return Err(Error::Damaged(format!("entry {next} of {conv} is missing")));
        }
    }
    Ok(found)
}
