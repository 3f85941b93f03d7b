//! One delivery: entries of a conversation into one user's draft.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Progress;
use crate::conversation::entry::{Appended, Header, Kind, mention};
use crate::conversation::inbox::Inbox;
use crate::conversation::member::Member;
use crate::conversation::ranges::Ranges;
use crate::conversation::rows::{self, Change};
use crate::conversation::user_row::UserRow;
use crate::hub::Live;
use crate::planted::{Bug, planted};
use crate::protocol::{ConvId, HistoryMode, UserId};
use crate::store::{Error, Result, RowKey, Section, Span, Store, TimelineId};
use crate::timeline::Draft;

const PAGE: usize = 512;

/// Older than this, what the entries showed when they were taken may have been recalled since.
const LATE: Duration = Duration::from_secs(1);

/// Entries of one conversation, contiguous, on their way to many users.
#[derive(Debug)]
pub struct Batch {
    /// Whose log.
    pub conversation: ConvId,
    /// What a new member sees there.
    pub mode: HistoryMode,
    /// Where it became large, if it has.
    pub large_at: Option<u64>,
    /// The entries, ascending.
    pub entries: Vec<Appended>,
    /// Everything up to here is already with everybody it is addressed to; 0 when not known.
    pub complete_to: u64,
    /// When the entries were appended, or read.
    pub taken: Instant,
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

impl Delivery {
    /// Whether it waited for so long that its texts are to be read again before anybody is shown them.
    pub fn is_late(&self) -> bool {
        self.batch.taken.elapsed() > LATE
    }
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

    for missed in missed(store, delivery, &inbox.user, row.delivered).await? {
        put(inbox, draft, &mut row, delivery, &hidden, &missed, live);
    }
    for entry in &batch.entries {
        let rejoins = entry.header.kind == Kind::Joined
            && entry.header.subject.as_ref() == Some(&inbox.user)
            && member.stays.len() > 1
            && entry.seq > row.delivered;
        if rejoins {
            for change in changes_while_away(store, delivery, &inbox.user, row.delivered, entry.seq).await? {
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
    let addressed = member.addressed(&inbox.user, entry.seq, header, batch.mode);
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
    let text = shown.then(|| told_text(&batch.conversation, entry));
    live.push(Live { seq, text, changes_earlier: header.kind == Kind::Recall });
    if let Some(member) = following(&inbox.user, header) {
        inbox.set_large(draft, &batch.conversation, member);
    }
}

/// Whether this entry makes the user one who follows the conversation's own log, or ends it.
fn following(user: &UserId, header: &Header) -> Option<bool> {
    let about_him = header.large.is_some() && header.subject.as_ref() == Some(user);
    match header.kind {
        Kind::Large => Some(true),
        Kind::Joined if about_him => Some(true),
        Kind::Left if about_him => Some(false),
        _ => None,
    }
}

/// How an entry is told in a sync timeline: of a message of a large conversation, that it mentions him.
fn told_text(conv: &ConvId, entry: &Appended) -> Arc<str> {
    match (entry.header.kind, &entry.header.large, &entry.header.by) {
        (Kind::Message, Some(_), Some(sender)) => mention(conv, entry.seq, sender),
        _ => Arc::clone(&entry.text),
    }
}

/// Entries between what the user has and the batch, as far as the log addresses them to him.
async fn missed(store: &dyn Store, delivery: &Delivery, user: &UserId, delivered: u64) -> Result<Vec<Appended>> {
    let Delivery { batch, member, .. } = delivery;
    let Some(first) = batch.entries.first().map(|entry| entry.seq) else { return Ok(Vec::new()) };
    let after = delivered.max(batch.complete_to);
    if after + 1 >= first {
        return Ok(Vec::new());
    }
    let up_to = batch.large_at.map_or(first - 1, |at| at.min(first - 1));
    let mut found = Vec::new();
    if after < up_to {
        found = read_log(store, &batch.conversation, after, up_to).await?;
        found.retain(|entry| {
            planted(Bug::GapFilledByNumber) || member.addressed(user, entry.seq, &entry.header, batch.mode)
        });
    }
    found.extend(told_before(store, batch, user, after.max(up_to)).await?);
    Ok(found)
}

/// Entries of the large conversation above `after` and before the batch that go to this user: each names
/// the one before, so what lies between is not read.
async fn told_before(store: &dyn Store, batch: &Batch, user: &UserId, after: u64) -> Result<Vec<Appended>> {
    let before = |entry: &Appended| entry.header.large.as_ref()?.told(user).map(|told| told.before);
    let (mut found, mut next) = (Vec::new(), batch.entries.iter().find_map(before).unwrap_or(0));
    while next > after {
        let Some(entry) = read_log(store, &batch.conversation, next - 1, next).await?.pop() else { break };
        next = before(&entry).unwrap_or(0);
        found.push(entry);
    }
    found.reverse();
    Ok(found)
}

/// Changes of messages he may see, made between two stays: by the change index, not by the log. Those of
/// a large conversation are asked for by the device.
async fn changes_while_away(
    store: &dyn Store,
    delivery: &Delivery,
    user: &UserId,
    delivered: u64,
    joined: u64,
) -> Result<Vec<Appended>> {
    let Delivery { batch, member, .. } = delivery;
    let timeline = TimelineId::Conversation(batch.conversation.clone());
    let up_to = batch.large_at.map_or(joined - 1, |at| at.min(joined - 1));
    let mut after = RowKey { n: delivered, ..rows::change_key(delivered) };
    let mut found = Vec::new();
    loop {
        let page = store.rows(&timeline, Section::Change, Some(after), up_to, PAGE).await?;
        for (key, value) in &page {
            let change: Change = rows::unpack(&timeline, key, value)?;
            if member.sees(change.target, batch.mode) {
                let mut entries = read_log(store, &batch.conversation, key.n - 1, key.n).await?;
                entries.retain(|entry| member.addressed(user, entry.seq, &entry.header, batch.mode));
                found.extend(entries);
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
