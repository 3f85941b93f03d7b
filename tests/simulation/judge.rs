//! The verdict when everything is quiet: what the store holds and what devices show, against all that
//! clients were told. Imports nothing of the service but the frames.

use std::collections::{BTreeMap, BTreeSet};

use everline::protocol::*;

use crate::log::Log;
use crate::model::{Model, covers, same};

/// An entry of a stored sync timeline.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    Log(ConvId, u64),
    Own(Event),
}

/// A stored sync timeline.
#[derive(Debug, Default)]
pub struct Sync {
    pub head: u64,
    pub floor: u64,
    pub items: BTreeMap<u64, Item>,
}

/// Everything the store holds, in the words of the contract.
#[derive(Debug, Default)]
pub struct Stored {
    pub logs: BTreeMap<ConvId, Log>,
    pub syncs: BTreeMap<UserId, Sync>,
    /// What the application's server told single users.
    pub notices: BTreeMap<UserId, Vec<Event>>,
}

/// What a device shows of a message.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    pub sender: UserId,
    /// `None`: taken back.
    pub body: Option<Body>,
}

/// What a device shows of a conversation.
#[derive(Debug, Clone, Default)]
pub struct Screen {
    pub messages: BTreeMap<u64, Shown>,
    pub left: bool,
    pub unread: u64,
}

fn item_of(event: &Event) -> Item {
    match (event, event.conv_id(), event.conv_seq()) {
        (Event::Mention { conv_id, target, .. }, ..) => Item::Log(conv_id.clone(), *target),
        (_, Some(conv), Some(seq)) => Item::Log(conv.clone(), seq),
        _ => Item::Own(event.clone()),
    }
}

impl Model {
    /// Everything about the store.
    pub fn judge(&mut self, stored: &Stored) {
        let mut wrong = Vec::new();
        for log in stored.logs.values() {
            wrong.extend(log.wrong.iter().cloned());
        }
        self.judge_shown_logs(stored, &mut wrong);
        self.judge_acks(stored, &mut wrong);
        self.judge_order(stored, &mut wrong);
        self.judge_given(stored, &mut wrong);
        let empty = Sync::default();
        let users: BTreeSet<&UserId> = self.people.keys().chain(stored.syncs.keys()).collect();
        for user in users {
            let sync = stored.syncs.get(user).unwrap_or(&empty);
            let known = self.judge_sync(user, sync, stored, &mut wrong);
            self.judge_duties(user, &known, &mut wrong);
            self.judge_receipts(user, sync, &known, &mut wrong);
            self.judge_leaks(user, stored, &mut wrong);
            self.judge_left_out(user, &known, stored, &mut wrong);
        }
        self.judge_refusals(stored, &mut wrong);
        self.judge_notices(stored, &mut wrong);
        for text in wrong {
            self.blame(text);
        }
    }

    /// What was shown of a log is what is stored.
    fn judge_shown_logs(&self, stored: &Stored, wrong: &mut Vec<String>) {
        for (conv, shown) in &self.logs {
            let log = stored.logs.get(conv);
            for (seq, event) in shown {
                match log.and_then(|log| log.at(*seq)) {
                    Some(entry) if same(entry, event) => {}
                    entry => wrong.push(format!("{conv} {seq}: shown {event:?}, stored {entry:?}")),
                }
            }
        }
    }

    fn judge_acks(&self, stored: &Stored, wrong: &mut Vec<String>) {
        for ((user, conv, id), sent) in &self.sent {
            let Some((_, seq)) = sent.told else { continue };
            let log = stored.logs.get(conv);
            let found = log.and_then(|log| log.message(seq));
            let fate = log.and_then(|log| log.fates.get(&seq));
            let right = found.is_some_and(|message| {
                let gone = fate.is_some_and(|fate| fate.recalled.is_some());
                let whole = gone || message.body.as_ref().is_some_and(|body| body.same_value(&sent.send.body));
                message.sender_id == *user && message.client_msg_id == *id && whole
            });
            if !right {
                wrong.push(format!("{conv} {seq}: {user} was told that {id} is there; stored is {found:?}"));
            }
        }
        for (user, request, conv, seq) in &self.acked {
            let entry = stored.logs.get(conv).and_then(|log| log.at(*seq));
            let right = match (request, entry) {
                (Request::Recall { target, .. }, Some(Event::Recall { target: found, .. })) => target == found,
                (Request::Edit { target, .. }, Some(Event::Edit { target: found, by, .. })) => {
                    target == found && by == user
                }
                (Request::Recall { .. } | Request::Edit { .. }, _) => false,
                (Request::Create { title, .. }, Some(Event::Conversation { change, .. })) => {
                    matches!(change, ConversationChange::Created { title: made, members, .. }
                        if made == title && members.first() == Some(user))
                }
                (Request::Create { .. }, _) => false,
                // The head, when nothing changed.
                (_, entry) => entry.is_some(),
            };
            if !right {
                wrong.push(format!("{conv} {seq}: {user} was told that {request:?} is there; stored is {entry:?}"));
            }
        }
    }

    /// A user's sync timeline: what devices were shown is what is stored; in order, once, whole.
    fn judge_sync(&self, user: &UserId, sync: &Sync, stored: &Stored, wrong: &mut Vec<String>) -> BTreeMap<u64, Item> {
        let mut known = sync.items.clone();
        let nobody = BTreeMap::new();
        let seen = self.people.get(user).map_or(&nobody, |person| &person.seen);
        for (seq, event) in seen {
            let (item, stands) = (item_of(event), known.get(seq));
            if stands.is_some_and(|stands| *stands != item) || (stands.is_none() && *seq > sync.floor) {
                wrong.push(format!("{user} {seq}: shown {item:?}, stored {stands:?} (head {})", sync.head));
            }
            known.insert(*seq, item);
        }
        for seq in sync.floor + 1..=sync.head {
            if !sync.items.contains_key(&seq) {
                wrong.push(format!("{user} {seq}: missing between floor {} and head {}", sync.floor, sync.head));
            }
        }
        let mut places: BTreeMap<&ConvId, Vec<(u64, u64)>> = BTreeMap::new();
        for (seq, item) in &known {
            if let Item::Log(conv, conv_seq) = item {
                places.entry(conv).or_default().push((*conv_seq, *seq));
            }
        }
        for (conv, places) in &places {
            if let Some(two) = places.windows(2).find(|two| two[0].0 >= two[1].0) {
                wrong.push(format!("{user}: {conv} out of order or twice: {two:?} (conv_seq, seq)"));
            }
        }
        let unknown: Vec<u64> = (1..=sync.floor).filter(|seq| !known.contains_key(seq)).collect();
        let none = Vec::new();
        for (conv, log) in &stored.logs {
            let places = places.get(conv).unwrap_or(&none);
            let mut missing = 0;
            for seq in 1..=log.head() {
                let place = places.iter().find(|(conv_seq, _)| *conv_seq == seq);
                match (log.addressed(user, seq), place) {
                    (true, None) => {
                        // It may be among those that nobody was shown before they expired.
                        missing += 1;
                        let next = places.iter().find(|(conv_seq, _)| *conv_seq > seq).map_or(u64::MAX, |(_, at)| *at);
                        let room = unknown.iter().filter(|at| **at < next).count();
                        if room < missing {
                            wrong.push(format!("{user}: {conv} {seq} is not in his timeline: {:?}", log.at(seq)));
                        }
                    }
                    (false, Some((_, at))) => wrong.push(format!("{user} {at}: {conv} {seq} is not his to see")),
                    _ => {}
                }
            }
        }
        known
    }

    /// Who has read in a direct conversation, has told the other: `read` is what his own list says.
    pub fn judge_reading(&mut self, reader: &UserId, conv: &ConvId, read: u64, stored: &Stored) {
        let Some((one, other)) = conv.direct_members() else { return };
        let (peer, asked) = (if one == *reader { other } else { one }, &self.people[reader].may_read);
        // The first message may count as read from the start.
        if read <= 1 || !asked.contains_key(conv) {
            return;
        }
        let Some(sync) = stored.syncs.get(&peer) else { return };
        let (mut known, mut told) = (0, 0);
        let seen = self.people.get(&peer).map(|person| &person.seen);
        let kept = sync.items.iter().map(|(seq, item)| (*seq, item.clone()));
        let shown = seen.into_iter().flatten().map(|(seq, event)| (*seq, item_of(event)));
        for (_, item) in kept.chain(shown).collect::<BTreeMap<_, _>>() {
            known += 1;
            match item {
                Item::Own(Event::Receipt { conv_id, user_id, read_seq }) if conv_id == *conv && user_id == *reader => {
                    told = told.max(read_seq);
                }
                _ => {}
            }
        }
        if known == sync.head && told < read {
            self.blame(format!("{peer}: {reader} has read {read} of {conv}, the receipt says {told}"));
        }
    }

    /// Who was told that he has read in a direct conversation, has told the other.
    fn judge_receipts(&self, user: &UserId, sync: &Sync, known: &BTreeMap<u64, Item>, wrong: &mut Vec<String>) {
        let forgotten = (1..=sync.floor).any(|seq| !known.contains_key(&seq));
        for (reader, person) in self.people.iter().filter(|(reader, _)| !forgotten && *reader != user) {
            let conv = ConvId::direct(user, reader);
            let Some(read) = person.read.get(&conv) else { continue };
            let told = known.values().filter_map(|item| match item {
                Item::Own(Event::Receipt { conv_id, user_id, read_seq }) if *conv_id == conv && user_id == reader => {
                    Some(*read_seq)
                }
                _ => None,
            });
            let told = told.max().unwrap_or_default();
            if told < *read {
                wrong.push(format!("{user}: {reader} has read {read} of {conv}, the receipt says {told}"));
            }
        }
    }

    /// After an answer the same user sees its effect on any device.
    fn judge_duties(&self, user: &UserId, known: &BTreeMap<u64, Item>, wrong: &mut Vec<String>) {
        let Some(person) = self.people.get(user) else { return };
        let mut at: BTreeMap<(&ConvId, u64), u64> = BTreeMap::new();
        for (seq, item) in known {
            if let Item::Log(conv, conv_seq) = item {
                at.insert((conv, *conv_seq), *seq);
            }
        }
        let mut due = 0;
        let mut dues = vec![0];
        for (_, conv, conv_seq) in &person.duties {
            due = due.max(at.get(&(conv, *conv_seq)).copied().unwrap_or_default());
            dues.push(due);
        }
        for (count, head) in &person.welcomes {
            let due = dues.get(*count).copied().unwrap_or_default();
            if *head < due {
                wrong.push(format!("{user}: welcomed with head {head}, though {due} was answered before"));
            }
        }
    }

    /// No silent gap: what a frame covered without showing it had to be left out (contract, section 3).
    fn judge_left_out(&self, user: &UserId, known: &BTreeMap<u64, Item>, stored: &Stored, wrong: &mut Vec<String>) {
        let Some(person) = self.people.get(user) else { return };
        for (seq, conn) in &person.left_out {
            let right = match known.get(seq) {
                // Expired, and nobody was shown it; or a reading that a later one supersedes.
                None | Some(Item::Own(Event::Read { .. })) => true,
                Some(Item::Own(_)) => false,
                Some(Item::Log(conv, place)) => {
                    let Some(log) = stored.logs.get(conv) else { continue };
                    match log.at(*place) {
                        Some(Event::Message(_)) => {
                            person.may_hide.iter().any(|(of, range)| of == conv && covers(*range, *place))
                        }
                        Some(Event::Edit { target, .. }) => {
                            log.fates.get(target).is_some_and(|fate| fate.recalled.is_some())
                                || !log.sees(user, *target)
                        }
                        Some(Event::Recall { target, .. } | Event::Reaction { target, .. }) => !log.sees(user, *target),
                        _ => false,
                    }
                }
            };
            if !right {
                wrong.push(format!("conn {conn} ({user}): {seq} was not shown: {:?}", known.get(seq)));
            }
        }
    }

    /// Nothing beyond a user's stays was shown or counted.
    fn judge_leaks(&self, user: &UserId, stored: &Stored, wrong: &mut Vec<String>) {
        let Some(person) = self.people.get(user) else { return };
        for (conv, seq) in person.shown.keys().filter(|(conv, _)| !conv.is_everybody()) {
            if !stored.logs.get(conv).is_some_and(|log| log.sees(user, *seq)) {
                wrong.push(format!("{user}: {conv} {seq} was shown by a read, and is not his to see"));
            }
        }
        for (conv, head) in &person.heads {
            let log = stored.logs.get(conv);
            let cap = log.map_or(0, |log| log.left(user).unwrap_or(log.head()));
            let single = log.and_then(|log| log.stays.get(user)).is_none_or(|stays| stays.len() == 1);
            if *head > cap && single {
                wrong.push(format!("{user}: was told head {head} of {conv}, may know {cap}"));
            }
        }
    }

    fn judge_refusals(&self, stored: &Stored, wrong: &mut Vec<String>) {
        for refused in &self.refusals {
            let Some(conv) = refused.asked.request.conv_id() else { continue };
            let (Some(since), Some(log)) = (refused.member_since, stored.logs.get(conv)) else { continue };
            // He had seen himself come in; if he never went out again he was a member when he asked.
            let stays = log.stays.get(&refused.user);
            let stayed = stays.is_some_and(|stays| stays.iter().any(|stay| stay.0 == since && stay.1.is_none()));
            if stayed && refused.code == ErrorCode::NotFound {
                wrong.push(format!("{}: not_found in {conv}, a member since {since}: {refused:?}", refused.user));
            }
        }
    }

    /// A device that has caught up and holds all history shows what the logs say.
    pub fn judge_screen(
        &mut self,
        user: &UserId,
        device: &str,
        screens: &BTreeMap<ConvId, Screen>,
        rows: &BTreeMap<ConvId, (ConversationSummary, Vec<Range>, u64)>,
        stored: &Stored,
    ) {
        let mut wrong = Vec::new();
        for (conv, log) in &stored.logs {
            if !log.stays.contains_key(user) {
                if screens.contains_key(conv) {
                    wrong.push(format!("{user} {device}: shows {conv}, of which he never was"));
                }
                continue;
            }
            let (Some(screen), Some((row, deleted, cleared))) = (screens.get(conv), rows.get(conv)) else {
                wrong.push(format!("{user} {device}: {conv} is not shown, or not listed"));
                continue;
            };
            let hidden = |seq: u64| seq <= *cleared || deleted.iter().any(|range| covers(*range, seq));
            let seen =
                (1..=log.head()).filter(|seq| log.message(*seq).is_some() && log.sees(user, *seq) && !hidden(*seq));
            let seen: Vec<u64> = seen.collect();
            let shown: Vec<u64> = screen.messages.keys().copied().collect();
            if seen != shown {
                wrong.push(format!("{user} {device}: shows {shown:?} of {conv}, should show {seen:?}"));
                continue;
            }
            if screen.left || log.left(user).is_some() {
                continue;
            }
            for seq in &seen {
                let (is, should) = (&screen.messages[seq].body, log.body(*seq));
                if is.as_ref().map(Body::to_value) != should.map(Body::to_value) {
                    wrong.push(format!("{user} {device}: {conv} {seq} shows {is:?}, should be {should:?}"));
                }
            }
            let others = |seq: &&u64| **seq > row.read_seq && screen.messages[*seq].sender != *user;
            let stands = |seq: &&u64| others(seq) && log.body(**seq).is_some();
            // Of a large conversation recalled ones may count until they are read.
            let may = |seq: &&u64| others(seq) && (log.body(**seq).is_some() || log.large_at.is_some());
            let unread = seen.iter().filter(stands).count() as u64..=seen.iter().filter(may).count() as u64;
            if !unread.contains(&row.unread) || !unread.contains(&screen.unread) {
                let told = (row.unread, screen.unread, row.read_seq);
                wrong.push(format!("{user} {device}: {conv} has {unread:?} unread; told, shown, read: {told:?}"));
            }
        }
        for text in wrong {
            self.blame(text);
        }
    }

    /// What a user's own acked requests left behind, as answers of the end tell it.
    pub fn judge_rows(
        &mut self,
        user: &UserId,
        rows: &BTreeMap<ConvId, (ConversationSummary, Vec<Range>, u64)>,
        stored: &Stored,
    ) {
        let mut wrong = Vec::new();
        let Some(person) = self.people.get(user) else { return };
        for (conv, (row, deleted, cleared)) in rows {
            let Some(log) = stored.logs.get(conv) else { continue };
            let cap = log.left(user).unwrap_or(log.head());
            if row.head_seq != cap {
                wrong.push(format!("{user}: listed head of {conv} is {}, should be {cap}", row.head_seq));
            }
            let read = person.read.get(conv).copied().unwrap_or_default().min(cap);
            let joined = match log.stays.get(user).and_then(|stays| stays.last()) {
                Some((from, _)) if matches!(log.at(*from), Some(Event::Member { .. })) => *from,
                _ => 0,
            };
            let most = person.may_read.get(conv).copied().unwrap_or_default().max(joined);
            if row.read_seq < read.max(joined) || (row.read_seq > most && row.read_seq > 1) {
                let text = format!("read {read} joined {joined} asked {most}");
                wrong.push(format!("{user}: read_seq of {conv} is {}, {text}", row.read_seq));
            }
            let may = |seq: u64| person.may_hide.iter().any(|(of, range)| of == conv && covers(*range, seq));
            let gone = |seq: u64| seq <= *cleared || deleted.iter().any(|range| covers(*range, seq));
            let acked = |seq: u64| person.hidden.iter().any(|(_, of, range)| of == conv && covers(*range, seq));
            for seq in (1..=cap).filter(|seq| log.message(*seq).is_some() && log.sees(user, *seq)) {
                if gone(seq) && !may(seq) {
                    wrong.push(format!("{user}: {conv} {seq} is deleted, which was never asked"));
                }
                let shown = person.shown.contains_key(&(conv.clone(), seq));
                if acked(seq) && shown && !gone(seq) {
                    wrong.push(format!("{user}: {conv} {seq} was deleted and is back: {deleted:?} {cleared}"));
                }
            }
        }
        for text in wrong {
            self.blame(text);
        }
    }
}
