//! What must be true at rest, worked out from the conversation's log alone, by other code than the
//! engine's: who should have which entries, how many are unread, and that nothing acked is missing.

use std::collections::{BTreeMap, BTreeSet};

use everline::conversation::entry::kind_and_text;
use everline::conversation::pointer::Pointer;
use everline::conversation::ranges::Ranges;
use everline::conversation::rows::{conv_key, hidden_key};
use everline::conversation::user_row::UserRow;
use everline::protocol::*;
use everline::store::TimelineId;
use everline::store::sim::Dump;

use super::world::{Proof, World, log_of};
use crate::{ensure, ensure_eq};

/// The entries of a conversation, from 1.
pub fn events(world: &World, conv: &ConvId) -> Result<Vec<Event>, String> {
    let dump = world.sim.dump(&log_of(conv));
    let mut events = Vec::new();
    for (entry, seq) in dump.entries.iter().zip(1..) {
        ensure_eq!(entry.seq, seq, "numbers in {conv} are dense");
        let (_, text) = kind_and_text(&entry.data).ok_or("entry")?;
        events.push(Event::decode(text).map_err(|error| error.to_string())?);
    }
    ensure_eq!(dump.head.position.seq, events.len() as u64, "head of {conv}");
    Ok(events)
}

/// How often a message of this id stands in the log.
pub fn times(world: &World, conv: &ConvId, id: &str) -> Result<usize, String> {
    let is = |event: &&Event| matches!(event, Event::Message(message) if message.client_msg_id == *id);
    Ok(events(world, conv)?.iter().filter(is).count())
}

/// Stays of everybody who ever was a member, by the log.
fn stays(conv: &ConvId, events: &[Event]) -> BTreeMap<UserId, Vec<(u64, u64)>> {
    let mut stays: BTreeMap<UserId, Vec<(u64, u64)>> = BTreeMap::new();
    if let Some((a, b)) = conv.direct_members().filter(|_| !events.is_empty()) {
        stays.insert(a, vec![(1, u64::MAX)]);
        stays.insert(b, vec![(1, u64::MAX)]);
    }
    for (event, seq) in events.iter().zip(1..) {
        match event {
            Event::Conversation { change: ConversationChange::Created { members, .. }, .. } => {
                members.iter().for_each(|user| stays.entry(user.clone()).or_default().push((seq, u64::MAX)));
            }
            Event::Member { change: MemberChange::Joined, user_id, .. } => {
                stays.entry(user_id.clone()).or_default().push((seq, u64::MAX));
            }
            Event::Member { change: MemberChange::Left | MemberChange::Removed, user_id, .. } => {
                if let Some(stay) = stays.get_mut(user_id).and_then(|stays| stays.last_mut()) {
                    stay.1 = seq;
                }
            }
            _ => {}
        }
    }
    stays
}

fn target_of(event: &Event) -> Option<u64> {
    match event {
        Event::Recall { target, .. } | Event::Edit { target, .. } | Event::Reaction { target, .. } => Some(*target),
        _ => None,
    }
}

/// Entries above this are of a large conversation.
fn large_at(events: &[Event]) -> u64 {
    let is_it = |event: &Event| matches!(event, Event::Conversation { change: ConversationChange::Large, .. });
    events.iter().position(is_it).map_or(u64::MAX, |index| index as u64 + 1)
}

/// Whether an entry of a large conversation is this member's: it is about him, or mentions him.
fn names(user: &UserId, event: &Event) -> bool {
    match event {
        Event::Member { user_id, .. } => user_id == user,
        Event::Message(message) => message.sender_id != *user && message.mentions.contains(user),
        _ => false,
    }
}

/// conv_seqs that belong into the timeline of one with these stays (history since the join).
fn belongs(user: &UserId, stays: &[(u64, u64)], events: &[Event]) -> Vec<u64> {
    let large_at = large_at(events);
    let within = |seq: u64| stays.iter().any(|(from, to)| *from <= seq && seq <= *to);
    let handed_over = |seq: u64, event: &Event| {
        target_of(event).is_some_and(within) && stays[0].0 < seq && stays.iter().any(|(from, _)| *from > seq)
    };
    let numbered = (1..).zip(events);
    let his = |(seq, event): &(u64, &Event)| match *seq > large_at {
        true => within(*seq) && names(user, event),
        false => within(*seq) || handed_over(*seq, event),
    };
    numbered.filter(his).map(|(seq, _)| seq).collect()
}

/// conv_seqs of a conversation in a user's timeline, in its order.
fn delivered(dump: &Dump, conv: &ConvId) -> Vec<u64> {
    let seq = |data| match Pointer::load(data) {
        Some(Pointer::Log { conv_id, conv_seq, .. }) if conv_id == conv.as_str() => Some(conv_seq),
        _ => None,
    };
    dump.entries.iter().filter_map(|entry| seq(&entry.data)).collect()
}

/// Everything the log addresses to anybody is in his sync timeline, once and in order, nothing else is,
/// and what counts as unread is right. (History since the join, nothing expired.)
pub fn all_delivered(world: &World, conv: &ConvId) -> Proof {
    let events = events(world, conv)?;
    for (user, stays) in stays(conv, &events) {
        let dump = world.sim.dump(&TimelineId::User(user.clone()));
        let dense: Vec<u64> = dump.entries.iter().map(|entry| entry.seq).collect();
        ensure_eq!(dense, (1..=dump.head.position.seq).collect::<Vec<_>>(), "numbers of {user}'s timeline");
        ensure_eq!(delivered(&dump, conv), belongs(&user, &stays, &events), "entries of {conv} with {user}");
        unread(&dump, conv, &user, &stays, &events)?;
    }
    only_to_members(world, conv, &events)
}

fn unread(dump: &Dump, conv: &ConvId, user: &UserId, stays: &[(u64, u64)], events: &[Event]) -> Proof {
    let value = |key| dump.rows.iter().find(|(found, _, _)| *found == key).map(|(_, value, _)| value.clone());
    let row = value(conv_key(conv)).and_then(|value| UserRow::load(&value)).ok_or(format!("{user} has no row"))?;
    let hidden = value(hidden_key(conv)).and_then(|value| Ranges::load(&value)).unwrap_or_default();
    // A recall counts once it is his: one who has left learns of it when he is back.
    let belongs = belongs(user, stays, events);
    let recalled: BTreeSet<u64> = (1..)
        .zip(events)
        .filter(|(seq, _)| belongs.contains(seq) && *seq <= large_at(events))
        .filter_map(|(_, event)| if let Event::Recall { target, .. } = event { Some(*target) } else { None })
        .collect();
    let counts = |(seq, event): &(u64, &Event)| {
        matches!(event, Event::Message(message) if message.sender_id != *user)
            && *seq <= large_at(events)
            && *seq > row.read_seq.max(row.cleared_up_to)
            && stays.iter().any(|(from, to)| from <= seq && seq <= to)
            && !hidden.contains(*seq)
            && !recalled.contains(seq)
    };
    ensure_eq!(row.unread, (1..).zip(events).filter(counts).count() as u64, "unread of {user} in {conv}");
    Ok(())
}

fn only_to_members(world: &World, conv: &ConvId, events: &[Event]) -> Proof {
    let stays = stays(conv, events);
    for timeline in world.sim.all_timelines() {
        if let TimelineId::User(user) = &timeline
            && !stays.contains_key(user)
        {
            ensure!(delivered(&world.sim.dump(&timeline), conv).is_empty(), "{user} is no member and has entries");
        }
    }
    Ok(())
}

/// The text stands nowhere in the conversation as it is stored.
pub fn erased(world: &World, conv: &ConvId, text: &str) -> Proof {
    let dump = world.sim.dump(&log_of(conv));
    let found = |data: &[u8]| data.windows(text.len()).any(|bytes| bytes == text.as_bytes());
    let entry = dump.entries.iter().find(|entry| found(&entry.data)).map(|entry| entry.seq);
    ensure!(entry.is_none(), "a recalled body is still stored at {entry:?}");
    ensure!(!dump.rows.iter().any(|(_, value, _)| found(value)), "a recalled body is still stored in a row");
    Ok(())
}
