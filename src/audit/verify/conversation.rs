//! One conversation: the log from 1 to the head, once, page by page; everything that stands beside it
//! is compared on the way.

use std::collections::BTreeMap;

use super::fold::Fold;
use super::index::{self, Indexed};
use super::person::Person;
use super::{Audit, Density, last_key};
use crate::conversation::entry::{Header, Kind};
use crate::conversation::inbox::{hidden_of, read_row};
use crate::conversation::member::Member;
use crate::conversation::ranges::Ranges;
use crate::conversation::rows::{self, Info};
use crate::protocol::{ConvId, ConversationChange, Event, HistoryMode, MemberChange, UserId};
use crate::store::{Entry, Result, Section, TimelineId};

/// One entry, read.
pub(super) struct Decoded {
    pub(super) entry: Entry,
    pub(super) header: Header,
    pub(super) event: Event,
}

/// Checks one conversation.
pub(super) async fn check(audit: &mut Audit<'_>, id: &ConvId) -> Result<()> {
    let timeline = TimelineId::Conversation(id.clone());
    let head = audit.store.head(&timeline).await?;
    let seq = head.position.seq;
    if head.floor != 0 {
        audit.differs(&timeline, format!("the floor is {}: conversations are kept for good", head.floor));
    }
    if head.fanned > seq {
        audit.differs(&timeline, format!("fan-out is said to be complete up to {}, the head is {seq}", head.fanned));
    }
    let info: Option<Info> = rows::read(audit.store, &timeline, &rows::state_key()).await?;
    audit.report.rows += u64::from(info.is_some());
    let members = load_members(audit, &timeline).await?;
    let complete_to = match audit.marked.get(id) {
        _ if audit.store.together() => head.fanned,
        Some(from) => *from,
        None => seq,
    };
    let mode = info.as_ref().map_or((HistoryMode::SinceJoin, None), |info| (info.history, info.large_at));
    let mut people = load_people(audit, id, &members, mode, complete_to).await?;
    let fold = read_log(audit, id, &timeline, seq, head.at, &mut people).await?;
    if !id.is_everybody() {
        fold.compare(&members, info.as_ref()).into_iter().for_each(|what| audit.differs(&timeline, what));
        for person in &people {
            person.end(seq).into_iter().for_each(|what| audit.differs(&timeline, what));
        }
    }
    index::beyond(audit, &timeline, seq).await?;
    index::dedupe(audit, &timeline).await?;
    audit.none_of(&timeline, &[Section::Conv, Section::Hidden, Section::Device, Section::Revoked, Section::Large]).await
}

async fn load_members(audit: &mut Audit<'_>, timeline: &TimelineId) -> Result<BTreeMap<UserId, Member>> {
    let (mut members, mut after) = (BTreeMap::new(), None);
    loop {
        let page = audit.rows(timeline, Section::Member, after, u64::MAX).await?;
        for (key, value) in &page {
            match (UserId::parse(&key.id), rows::unpack(timeline, key, value)) {
                (Ok(user), Ok(member)) => drop(members.insert(user, member)),
                _ => audit.differs(timeline, format!("row of member `{}` is unreadable", key.id)),
            }
        }
        match last_key(page) {
            Some(key) => after = Some(key),
            None => return Ok(members),
        }
    }
}

async fn load_people(
    audit: &mut Audit<'_>,
    id: &ConvId,
    members: &BTreeMap<UserId, Member>,
    mode: (HistoryMode, Option<u64>),
    complete_to: u64,
) -> Result<Vec<Person>> {
    let mut people = Vec::with_capacity(members.len());
    for (user, member) in members {
        let inbox = TimelineId::User(user.clone());
        let revoked: Option<rows::Revoked> = rows::read(audit.store, &inbox, &rows::revoked_key(None)).await?;
        if revoked.is_some_and(|revoked| revoked.erased) {
            // Nothing of his own is kept, and what came after is counted from there.
            continue;
        }
        let row = read_row(audit.store, &inbox, id).await?;
        let hidden = match &row {
            Some(row) => hidden_of(audit.store, &inbox, id, row).await?,
            None => Ranges::default(),
        };
        people.push(Person::new(user.clone(), member.clone(), mode, row, hidden, complete_to));
    }
    Ok(people)
}

/// Reads the whole log, comparing as it goes; gives what it comes to.
async fn read_log(
    audit: &mut Audit<'_>,
    id: &ConvId,
    timeline: &TimelineId,
    head: u64,
    head_at: u64,
    people: &mut [Person],
) -> Result<Fold> {
    let (mut density, mut fold, mut after) = (Density::above(0), Fold::default(), 0);
    while after < head {
        let page = audit.page(timeline, after, head).await?;
        let Some(last) = page.last().map(|entry| entry.seq) else { break };
        audit.report.entries += page.len() as u64;
        let mut indexed = Indexed::load(audit, timeline, after, last).await?;
        for entry in page {
            density.step(&entry).into_iter().for_each(|what| audit.differs(timeline, what));
            let seq = entry.seq;
            let Some(decoded) = decode(entry).filter(|decoded| agrees(decoded, id)) else {
                audit.differs(timeline, format!("entry {seq} is unreadable"));
                continue;
            };
            let Decoded { entry, header, event } = &decoded;
            if !fold.take(id, seq, entry.at, header, event) && !id.is_everybody() {
                audit.differs(timeline, format!("entry {seq} ({}) cannot follow what is before it", event.op()));
            }
            let recalled_at = indexed.recalled_at(seq);
            match &header.large {
                None => people.iter_mut().for_each(|person| person.take(seq, entry.at, header, recalled_at)),
                // Of the many members of a large conversation only those named are looked at.
                Some(large) => large.told.iter().for_each(|told| {
                    // They are in order.
                    if let Ok(index) = people.binary_search_by(|person| person.user.cmp(&told.user))
                        && let Some(person) = people.get_mut(index)
                    {
                        person.take(seq, entry.at, header, recalled_at);
                    }
                }),
            }
            indexed.check(audit, timeline, &decoded).await?;
        }
        indexed.leftovers().into_iter().for_each(|what| audit.differs(timeline, what));
        after = last;
    }
    density.end(head, head_at, 0).into_iter().for_each(|what| audit.differs(timeline, what));
    Ok(fold)
}

/// Header and event of an entry.
pub(super) fn decode(entry: Entry) -> Option<Decoded> {
    let (header, text) = Header::load(&entry.data)?;
    let event = Event::decode(text).ok()?;
    Some(Decoded { entry, header, event })
}

/// Whether header, text and place say the same.
fn agrees(decoded: &Decoded, id: &ConvId) -> bool {
    let Decoded { entry, header, event } = decoded;
    let kind = match event {
        Event::Message(message) => Some(&message.sender_id) == header.by.as_ref() && header.kind == Kind::Message,
        Event::Recall { by, .. } => Some(by) == header.by.as_ref() && header.kind == Kind::Recall,
        Event::Edit { by, .. } => Some(by) == header.by.as_ref() && header.kind == Kind::Edit,
        Event::Reaction { user_id, .. } => Some(user_id) == header.by.as_ref() && header.kind == Kind::Reaction,
        Event::Member { change, user_id, by, .. } => {
            let kind = match change {
                MemberChange::Joined => Kind::Joined,
                MemberChange::Left | MemberChange::Removed => Kind::Left,
                MemberChange::Role => Kind::Role,
            };
            header.subject.as_ref() == Some(user_id) && *by == header.by && header.kind == kind
        }
        Event::Conversation { change: ConversationChange::Created { .. }, .. } => header.kind == Kind::Created,
        Event::Conversation { change: ConversationChange::Dissolved, .. } => header.kind == Kind::Dissolved,
        Event::Conversation { change: ConversationChange::Large, .. } => header.kind == Kind::Large,
        Event::Notification { .. } => header.kind == Kind::Notification,
        _ => !header.kind.changes_target() && header.kind != Kind::Message,
    };
    // What is told one user names no conversation.
    let place = match id.is_reserved() {
        true => matches!(event, Event::Notification { conv_id: None, conv_seq: None, .. }),
        false => event.conv_id() == Some(id) && event.conv_seq() == Some(entry.seq),
    };
    kind && place && event.target().unwrap_or(0) == header.target && header.target < entry.seq
}
