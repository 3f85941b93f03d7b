//! The plain model of a user: his sync timeline as learned, and what he did for himself; unread as a
//! count by its definition; what every read must answer.

use std::collections::{BTreeMap, BTreeSet};

use everline::protocol::*;

use crate::model::{Conv, Rules};

/// An entry of a sync timeline.
#[derive(Clone, Debug)]
pub enum Item {
    /// Entry of a conversation.
    Log(ConvId, u64),
    /// An instruction of the user's own, or a receipt.
    Own(Event),
}

/// What a user did for himself in one conversation, as far as his timeline says.
#[derive(Clone, Debug, Default)]
pub struct Own {
    pub delivered: u64,
    pub read_seq: u64,
    pub cleared: u64,
    pub hidden: BTreeSet<u64>,
    pub settings: ConversationSettings,
    pub last_at: u64,
    /// The peer's read_seq he was told.
    pub receipt: u64,
}

#[derive(Clone, Debug, Default)]
pub struct User {
    /// (time, item); index = seq - 1.
    pub sync: Vec<(u64, Item)>,
    pub own: BTreeMap<ConvId, Own>,
}

impl Own {
    pub fn hides(&self, seq: u64) -> bool {
        seq <= self.cleared || self.hidden.contains(&seq)
    }
}

impl User {
    pub fn head(&self) -> u64 {
        self.sync.len() as u64
    }

    pub fn own(&self, conv: &ConvId) -> Own {
        self.own.get(conv).cloned().unwrap_or_default()
    }

    /// What must not be kept any more, by count and by age.
    pub fn floor(&self, rules: &Rules, now: u64) -> u64 {
        let old = self.sync.iter().take_while(|(at, _)| at + rules.sync_max_age_ms < now).count() as u64;
        old.max(self.head().saturating_sub(rules.sync_max_entries))
    }

    /// The next entry of a conversation his timeline must get.
    pub fn next_of(&self, user: &UserId, conv: &Conv) -> Option<u64> {
        let delivered = self.own.get(&conv.id).map_or(0, |own| own.delivered);
        (delivered + 1..=conv.head()).find(|seq| conv.addressed(user, *seq))
    }

    /// Messages of others, visible, above max(read_seq, cleared), not deleted, not recalled; as far as
    /// delivered.
    pub fn unread(&self, user: &UserId, conv: &Conv) -> u64 {
        let own = self.own(&conv.id);
        let counts = |seq: &u64| {
            let recalled =
                conv.fate(*seq).recall.is_some_and(|(at, _)| at <= own.delivered && conv.addressed(user, at));
            conv.message(*seq).is_some_and(|message| message.sender_id != *user)
                && conv.addressed(user, *seq)
                && *seq > own.read_seq
                && !own.hides(*seq)
                && !recalled
        };
        (1..=own.delivered).filter(counts).count() as u64
    }

    /// Appends an entry to the timeline and folds it. An error says which promise it breaks.
    pub fn append(&mut self, user: &UserId, at: u64, item: Item, convs: &BTreeMap<ConvId, Conv>) -> Result<(), String> {
        let seq = self.head() + 1;
        let conv_id = match &item {
            Item::Log(conv, _) => conv.clone(),
            Item::Own(event) => event.conv_id().expect("about a conversation").clone(),
        };
        let conv = convs.get(&conv_id).ok_or_else(|| format!("sync {seq} of {user}: no conversation {conv_id}"))?;
        if !conv.members.contains_key(user) {
            return Err(format!("sync {seq} of {user}: he never was in {conv_id}: {item:?}"));
        }
        let next = self.next_of(user, conv);
        let own = self.own.entry(conv_id).or_default();
        let mut unread = None;
        match &item {
            Item::Log(_, conv_seq) => {
                if next != Some(*conv_seq) {
                    let after = own.delivered;
                    return Err(format!("sync {seq} of {user}: {} {conv_seq} after {after}, due is {next:?}", conv.id));
                }
                own.delivered = *conv_seq;
                let entry = conv.entry(*conv_seq).expect("looked up");
                match &entry.event {
                    Event::Message(_) => own.last_at = entry.at,
                    Event::Conversation { change: ConversationChange::Created { .. }, .. } => {
                        (own.read_seq, own.last_at) = (own.read_seq.max(*conv_seq), entry.at);
                    }
                    Event::Member { change: MemberChange::Joined, user_id, .. } if user_id == user => {
                        (own.read_seq, own.last_at) = (own.read_seq.max(*conv_seq), entry.at);
                    }
                    _ => {}
                }
            }
            Item::Own(event) => {
                let before = own.clone();
                match event {
                    Event::Read { read_seq, unread: told, .. } if *read_seq > own.read_seq => {
                        own.read_seq = *read_seq;
                        unread = Some(*told);
                    }
                    Event::Clear { up_to, .. } if *up_to > own.cleared => own.cleared = *up_to,
                    Event::Delete { ranges, .. } => {
                        own.hidden.extend(ranges.iter().flat_map(|range| range.from..=range.to));
                        if own.hidden == before.hidden {
                            return Err(format!("sync {seq} of {user}: deletes nothing: {event:?}"));
                        }
                    }
                    Event::Settings { muted, pinned, hidden, .. } => {
                        own.settings = ConversationSettings { muted: *muted, pinned: *pinned, hidden: *hidden };
                        if own.settings == before.settings {
                            return Err(format!("sync {seq} of {user}: sets nothing: {event:?}"));
                        }
                    }
                    Event::Receipt { read_seq, .. } if *read_seq > own.receipt => own.receipt = *read_seq,
                    _ => return Err(format!("sync {seq} of {user}: goes back: {event:?} after {before:?}")),
                }
            }
        }
        self.sync.push((at, item));
        if let Some(told) = unread {
            let counted = self.unread(user, conv);
            if told != counted {
                return Err(format!("sync {seq} of {user}: read tells unread {told}, by definition {counted}"));
            }
        }
        Ok(())
    }

    /// What the page (from, to] must show, and nothing else.
    pub fn page(&self, user: &UserId, from: u64, to: u64, convs: &BTreeMap<ConvId, Conv>) -> Vec<(u64, Event)> {
        let mut shown = Vec::new();
        for seq in from + 1..=to {
            match &self.sync[usize::try_from(seq - 1).expect("small")].1 {
                Item::Own(event @ Event::Read { conv_id, .. }) => {
                    let later = self
                        .sync
                        .iter()
                        .take(usize::try_from(to).expect("small"))
                        .skip(usize::try_from(seq).expect("small"));
                    let newer =
                        |item: &Item| matches!(item, Item::Own(Event::Read { conv_id: other, .. }) if other == conv_id);
                    if !later.clone().any(|(_, item)| newer(item)) {
                        shown.push((seq, event.clone()));
                    }
                }
                Item::Own(event) => shown.push((seq, event.clone())),
                Item::Log(conv_id, conv_seq) => {
                    let conv = &convs[conv_id];
                    shown.extend(self.shows(user, conv, *conv_seq).map(|event| (seq, event)));
                }
            }
        }
        shown
    }

    /// An entry as a page read now shows it.
    pub fn shows(&self, user: &UserId, conv: &Conv, conv_seq: u64) -> Option<Event> {
        let event = conv.entry(conv_seq).expect("in the log").event.clone();
        match event {
            Event::Message(_) if self.own(&conv.id).hides(conv_seq) => None,
            Event::Message(message) if conv.fate(conv_seq).recall.is_some() => Some(Event::Message(stub(message))),
            Event::Edit { target, .. } if conv.fate(target).recall.is_some() => None,
            Event::Edit { target, .. } | Event::Recall { target, .. } | Event::Reaction { target, .. } => {
                conv.sees(user, target).then_some(event)
            }
            event => Some(event),
        }
    }

    /// A message as it stands for this user now; `None`: not shown.
    pub fn standing(&self, user: &UserId, conv: &Conv, seq: u64) -> Option<Message> {
        let message = conv.message(seq)?.clone();
        if !conv.sees(user, seq) || self.own(&conv.id).hides(seq) {
            return None;
        }
        let fate = conv.fate(seq);
        if fate.recall.is_some() {
            return Some(stub(message));
        }
        let cap = conv.members[user].cap(conv.head());
        match fate.edits.iter().rfind(|edit| edit.0 <= cap) {
            Some((_, body, at)) => Some(Message { body: Some(body.clone()), edited_at: Some(*at), ..message }),
            None => Some(message),
        }
    }

    /// Who reacted with what, as this user may know it. A word about which somebody else's later word
    /// (beyond his leave) has taken the place may be missing: `Err`.
    pub fn reactions(&self, user: &UserId, conv: &Conv, seq: u64) -> BTreeMap<(String, UserId), Result<(), ()>> {
        let cap = conv.members[user].cap(conv.head());
        let fate = conv.fate(seq);
        let mut words = BTreeMap::new();
        if fate.recall.is_some() {
            return words;
        }
        for (at, who, key, add) in &fate.words {
            let place = (key.clone(), who.clone());
            match (*at <= cap, *add) {
                (true, true) => drop(words.insert(place, Ok(()))),
                (true, false) => drop(words.remove(&place)),
                (false, _) => {
                    if let Some(word) = words.get_mut(&place) {
                        *word = Err(());
                    }
                }
            }
        }
        words
    }
}

/// A message whose body is gone.
pub fn stub(message: Message) -> Message {
    Message { body: None, edited_at: None, recalled: true, mentions: Vec::new(), ..message }
}
