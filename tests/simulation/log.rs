//! A conversation's log, folded by the rules of the contract: who was in it when, what became of each
//! message. Plain; knows nothing of the service but the frames.

use std::collections::BTreeMap;

use everline::protocol::*;

/// What became of a message.
#[derive(Debug, Clone, Default)]
pub struct Fate {
    pub recalled: Option<u64>,
    /// conv_seq and body, ascending.
    pub edits: Vec<(u64, Body)>,
}

/// A member's stays: from, to (open while he is in).
pub type Stays = Vec<(u64, Option<u64>)>;

#[derive(Debug, Default)]
pub struct Log {
    pub entries: Vec<Event>,
    pub stays: BTreeMap<UserId, Stays>,
    roles: BTreeMap<UserId, Role>,
    pub fates: BTreeMap<u64, Fate>,
    pub keys: BTreeMap<(UserId, MsgId), u64>,
    /// Whom messages mentioned that were recalled since.
    pub mentions: BTreeMap<u64, Vec<UserId>>,
    pub full: bool,
    /// It became large with this entry.
    pub large_at: Option<u64>,
    pub title: Option<String>,
    /// Who took himself out in the same request as others, and the last entry of it.
    removal: Option<(UserId, u64)>,
    /// What no right allows, and what is there twice.
    pub wrong: Vec<String>,
}

impl Log {
    pub fn fold(conv: &ConvId, entries: Vec<Event>, full: impl Fn(&str) -> bool) -> Self {
        let mut log = Self::default();
        for (event, seq) in entries.iter().zip(1..) {
            if event.conv_seq() != Some(seq) || event.conv_id() != Some(conv) {
                log.wrong.push(format!("{conv}: entry {seq} is {event:?}"));
            }
            log.take(conv, seq, event);
        }
        log.full = log.title.is_some() && entries.first().is_some_and(|event| is_full(event, full));
        log.entries = entries;
        log
    }

    pub fn head(&self) -> u64 {
        self.entries.len() as u64
    }

    pub fn at(&self, seq: u64) -> Option<&Event> {
        self.entries.get(usize::try_from(seq.checked_sub(1)?).ok()?)
    }

    pub fn message(&self, seq: u64) -> Option<&Message> {
        match self.at(seq) {
            Some(Event::Message(message)) => Some(message),
            _ => None,
        }
    }

    fn present(&self, user: &UserId) -> bool {
        self.stays.get(user).and_then(|stays| stays.last()).is_some_and(|stay| stay.1.is_none())
    }

    /// End of the last stay.
    pub fn left(&self, user: &UserId) -> Option<u64> {
        self.stays.get(user).and_then(|stays| stays.last()).and_then(|stay| stay.1)
    }

    pub fn covered(&self, user: &UserId, seq: u64) -> bool {
        let covers = |stay: &(u64, Option<u64>)| stay.0 <= seq && stay.1.is_none_or(|end| seq <= end);
        self.stays.get(user).is_some_and(|stays| stays.iter().any(covers))
    }

    /// What a user may see of the messages.
    pub fn sees(&self, user: &UserId, seq: u64) -> bool {
        if !self.full {
            return self.covered(user, seq);
        }
        self.stays.contains_key(user) && self.left(user).is_none_or(|left| seq <= left)
    }

    /// What is put into a user's sync timeline.
    pub fn addressed(&self, user: &UserId, seq: u64) -> bool {
        if self.large_at.is_some_and(|at| seq > at) {
            return self.covered(user, seq) && self.names(user, seq);
        }
        if self.covered(user, seq) {
            return true;
        }
        let Some(stays) = self.stays.get(user) else { return false };
        let target = match self.at(seq) {
            Some(Event::Recall { target, .. } | Event::Edit { target, .. } | Event::Reaction { target, .. }) => *target,
            _ => return false,
        };
        let away = stays.first().is_some_and(|stay| stay.0 < seq) && stays.iter().any(|stay| stay.0 > seq);
        away && self.sees(user, target)
    }

    /// Of a large conversation an entry goes to whom it is about, or mentions.
    fn names(&self, user: &UserId, seq: u64) -> bool {
        match self.at(seq) {
            Some(Event::Member { user_id, .. }) => user_id == user,
            Some(Event::Message(message)) => {
                let mentions = self.mentions.get(&seq).unwrap_or(&message.mentions);
                message.sender_id != *user && mentions.contains(user)
            }
            _ => false,
        }
    }

    /// The body of a message as it stands; `None` when it was recalled.
    pub fn body(&self, seq: u64) -> Option<&Body> {
        let message = self.message(seq)?;
        match self.fates.get(&seq) {
            Some(Fate { recalled: Some(_), .. }) => None,
            Some(Fate { edits, .. }) if !edits.is_empty() => edits.last().map(|(_, body)| body),
            _ => message.body.as_ref(),
        }
    }

    fn take(&mut self, conv: &ConvId, seq: u64, event: &Event) {
        match event {
            Event::Message(message) => self.take_message(conv, seq, message),
            Event::Recall { target, by, .. } => {
                let mine = self.target(conv, seq, *target, by);
                let ranked = matches!(self.roles.get(by), Some(Role::Owner | Role::Admin));
                self.demand(mine || ranked, || format!("{conv} {seq}: {by} may not recall {target}"));
                self.fates.entry(*target).or_default().recalled = Some(seq);
            }
            Event::Edit { target, by, body, .. } => {
                let mine = self.target(conv, seq, *target, by);
                self.demand(mine, || format!("{conv} {seq}: {by} may not edit {target}"));
                self.fates.entry(*target).or_default().edits.push((seq, body.clone()));
            }
            Event::Reaction { target, user_id, .. } => drop(self.target(conv, seq, *target, user_id)),
            Event::Member { change, user_id, by: Some(by), role, .. } => {
                self.member(conv, seq, (*change, user_id, by, *role));
            }
            Event::Conversation { change, .. } => self.change(seq, change),
            Event::Notification { .. } if conv.is_everybody() => {}
            other => self.wrong.push(format!("{conv} {seq}: not an entry of a log: {other:?}")),
        }
    }

    fn demand(&mut self, holds: bool, text: impl FnOnce() -> String) {
        if !holds {
            self.wrong.push(text());
        }
    }

    fn take_message(&mut self, conv: &ConvId, seq: u64, message: &Message) {
        if seq == 1
            && let Some((one, other)) = conv.direct_members()
        {
            for user in [one, other] {
                self.stays.insert(user, vec![(1, None)]);
            }
        }
        let sender = &message.sender_id;
        let present = self.present(sender);
        self.demand(present, || format!("{conv} {seq}: {sender} is no member"));
        let before = self.keys.insert((sender.clone(), message.client_msg_id.clone()), seq);
        self.demand(before.is_none(), || format!("{conv} {seq}: {} was sent at {before:?}", message.client_msg_id));
    }

    /// Checks what changes a message; whether it is one's own.
    fn target(&mut self, conv: &ConvId, seq: u64, target: u64, by: &UserId) -> bool {
        // `entries` is filled at the end of the fold.
        let sender = self.keys.iter().find(|(_, at)| **at == target).map(|((sender, _), _)| sender.clone());
        let gone = self.fates.get(&target).is_some_and(|fate| fate.recalled.is_some());
        let present = self.present(by);
        self.demand(present, || format!("{conv} {seq}: {by} is no member"));
        self.demand(sender.is_some() && target < seq, || format!("{conv} {seq}: {target} is no message"));
        self.demand(!gone, || format!("{conv} {seq}: {target} was recalled before"));
        sender.as_ref() == Some(by)
    }

    fn member(&mut self, conv: &ConvId, seq: u64, what: (MemberChange, &UserId, &UserId, Option<Role>)) {
        let (change, user, by, role) = what;
        match change {
            MemberChange::Joined => {
                let right = self.present(by) && !self.present(user);
                self.demand(right, || format!("{conv} {seq}: {by} invites {user}"));
                self.stays.entry(user.clone()).or_default().push((seq, None));
                self.roles.insert(user.clone(), Role::Member);
            }
            MemberChange::Left | MemberChange::Removed => {
                let removed = change == MemberChange::Removed;
                // One request may name the asker himself too: it was judged as a whole.
                let same_request = removed && self.removal.as_ref() == Some(&(by.clone(), seq - 1));
                let ranked = matches!(self.roles.get(by), Some(Role::Owner | Role::Admin)) && self.present(by);
                let ranked = ranked || same_request;
                if removed && ranked && (user == by || same_request) {
                    self.removal = Some((by.clone(), seq));
                }
                let right = self.present(user) && (!removed || ranked);
                self.demand(right, || format!("{conv} {seq}: {by} takes {user} out"));
                if let Some(stay) = self.stays.get_mut(user).and_then(|stays| stays.last_mut()) {
                    stay.1 = Some(seq);
                }
                self.roles.insert(user.clone(), Role::Member);
            }
            MemberChange::Role => {
                if let Some(role) = role {
                    if role == Role::Owner {
                        self.roles
                            .values_mut()
                            .filter(|role| **role == Role::Owner)
                            .for_each(|role| *role = Role::Admin);
                    }
                    self.roles.insert(user.clone(), role);
                }
            }
        }
    }

    fn change(&mut self, seq: u64, change: &ConversationChange) {
        match change {
            ConversationChange::Created { members, title, .. } => {
                for user in members {
                    self.stays.insert(user.clone(), vec![(seq, None)]);
                    self.roles.insert(user.clone(), Role::Member);
                }
                if let Some(maker) = members.first() {
                    self.roles.insert(maker.clone(), Role::Owner);
                }
                self.title.clone_from(title);
            }
            ConversationChange::Renamed { title } => self.title = Some(title.clone()),
            ConversationChange::Large => self.large_at = Some(seq),
            _ => {}
        }
    }
}

fn is_full(first: &Event, full: impl Fn(&str) -> bool) -> bool {
    match first {
        Event::Conversation { change: ConversationChange::Created { title: Some(title), .. }, .. } => full(title),
        _ => false,
    }
}
