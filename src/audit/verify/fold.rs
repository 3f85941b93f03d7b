//! Membership and the conversation as a whole, recomputed from the log alone.

use std::collections::BTreeMap;

use crate::conversation::entry::{Header, Kind, Ordinal, Tail, Told};
use crate::conversation::member::{AsLeft, Member, Sent};
use crate::conversation::rows::Info;
use crate::protocol::{Body, ConvId, ConversationChange, Event, MemberChange, Role, UserId};

/// What the log says so far.
#[derive(Debug, Default)]
pub(super) struct Fold {
    members: BTreeMap<UserId, Member>,
    direct: bool,
    begun: bool,
    creator: Option<UserId>,
    title: Option<String>,
    attributes: Option<Body>,
    count: u64,
    owner: Option<UserId>,
    large_at: Option<u64>,
    dissolved_at: Option<u64>,
    tail: Tail,
}

impl Fold {
    /// Takes in the next entry. False: it makes no sense at this place of the log.
    pub(super) fn take(&mut self, id: &ConvId, seq: u64, at: u64, header: &Header, event: &Event) -> bool {
        let large = self.large_at.is_some() || id.is_everybody();
        let follows = if self.begun { self.go_on(seq, at, event) } else { self.begin(id, seq, at, header, event) };
        follows && header.large.is_some() == large && self.large(seq, at, header)
    }

    /// What an entry of a large conversation carries must be what the log comes to.
    fn large(&mut self, seq: u64, at: u64, header: &Header) -> bool {
        let Some(large) = &header.large else { return true };
        let mut own = Ordinal::default();
        if header.kind == Kind::Message {
            self.tail = Tail { messages: self.tail.messages + 1, last_seq: seq, last_at: at };
            let Some(sender) = header.by.as_ref().and_then(|by| self.members.get_mut(by)) else { return false };
            own = Ordinal { count: sender.sent.count + 1, before: sender.sent.last };
            sender.sent = Sent { count: own.count, last: seq };
        }
        let mut told = true;
        for Told { user, before } in &large.told {
            let member = self.members.get_mut(user);
            told &= member.is_some_and(|member| std::mem::replace(&mut member.told, seq) == *before);
        }
        told && large.tail == self.tail && large.own == own
    }

    fn go_on(&mut self, seq: u64, at: u64, event: &Event) -> bool {
        match event {
            Event::Member { change, user_id, role, .. } => self.member(seq, at, *change, user_id, *role),
            Event::Conversation { change, .. } => self.changed(seq, change),
            _ => true,
        }
    }

    fn begin(&mut self, id: &ConvId, seq: u64, at: u64, header: &Header, event: &Event) -> bool {
        self.begun = true;
        self.creator.clone_from(&header.by);
        if let Some((a, b)) = id.direct_members() {
            self.direct = true;
            self.join([a, b].iter(), seq, at, None);
            return matches!(event, Event::Message(_));
        }
        if let Some(user) = id.notices_of() {
            self.join([user].iter(), seq, at, None);
            return matches!(event, Event::Notification { .. });
        }
        match event {
            Event::Conversation { change: ConversationChange::Created { members, title, attributes }, .. } => {
                self.title.clone_from(title);
                self.attributes.clone_from(attributes);
                self.join(members.iter(), seq, at, header.by.as_ref());
                true
            }
            _ => false,
        }
    }

    fn join<'a>(&mut self, users: impl Iterator<Item = &'a UserId>, seq: u64, at: u64, owner: Option<&UserId>) {
        for user in users {
            let role = if owner == Some(user) { Role::Owner } else { Role::Member };
            self.members.insert(user.clone(), Member::joining(seq, role, at));
            self.count += 1;
        }
        self.owner = owner.cloned();
    }

    fn member(&mut self, seq: u64, at: u64, change: MemberChange, user: &UserId, role: Option<Role>) -> bool {
        let member = self.members.get_mut(user);
        let present = member.as_ref().is_some_and(|member| member.present());
        match role {
            Some(Role::Owner) => self.owner = Some(user.clone()),
            Some(_) if change != MemberChange::Role => {}
            _ => self.owner = self.owner.take().filter(|owner| owner != user),
        }
        match (change, member) {
            (MemberChange::Joined, Some(member)) if !present => {
                member.rejoin(seq, at);
                member.role = role.unwrap_or(Role::Member);
                self.count += 1;
            }
            (MemberChange::Joined, None) => {
                self.members.insert(user.clone(), Member::joining(seq, role.unwrap_or(Role::Member), at));
                self.count += 1;
            }
            (MemberChange::Left | MemberChange::Removed, Some(member)) if present => {
                self.count = self.count.saturating_sub(1);
                member.leave(seq, AsLeft { members_count: self.count, title: self.title.clone() });
            }
            (MemberChange::Role, Some(member)) if present => member.role = role.unwrap_or(member.role),
            _ => return false,
        }
        true
    }

    fn changed(&mut self, seq: u64, change: &ConversationChange) -> bool {
        match change {
            ConversationChange::Created { .. } => return false,
            ConversationChange::Renamed { title } => self.title = Some(title.clone()),
            ConversationChange::Attributes { attributes } => self.attributes = Some(attributes.clone()),
            ConversationChange::Large => self.large_at = Some(seq),
            ConversationChange::Dissolved => {
                self.count = 0;
                self.owner = None;
                self.dissolved_at = Some(seq);
                // Of a large one nobody's row is written.
                let small = self.large_at.is_none();
                for member in self.members.values_mut().filter(|member| small && member.present()) {
                    member.leave(seq, AsLeft { members_count: 0, title: self.title.clone() });
                }
            }
        }
        true
    }

    /// What the stored members and state say otherwise.
    pub(super) fn compare(&self, members: &BTreeMap<UserId, Member>, info: Option<&Info>) -> Vec<String> {
        let mut wrong = Vec::new();
        for (user, member) in &self.members {
            match members.get(user) {
                None => wrong.push(format!("member {user} has no row")),
                Some(stored) if stored != member => wrong.push(difference(user, stored, member)),
                Some(_) => {}
            }
        }
        let strangers = members.keys().filter(|user| !self.members.contains_key(*user));
        wrong.extend(strangers.map(|user| format!("row of {user}, who never was a member by the log")));
        match info {
            Some(info) => wrong.extend(self.compare_info(info)),
            None if self.begun => wrong.push("there is no state row".to_owned()),
            None => {}
        }
        wrong
    }

    fn compare_info(&self, info: &Info) -> Vec<String> {
        let same_attributes = match (&self.attributes, &info.attributes) {
            (Some(a), Some(b)) => a.same_value(b),
            (None, None) => true,
            _ => false,
        };
        let checks = [
            (info.members_count != self.count, "members_count"),
            (info.direct != self.direct, "kind"),
            (info.creator != self.creator, "creator"),
            (info.title != self.title, "title"),
            (!same_attributes, "attributes"),
            (info.owner != self.owner, "owner"),
            (info.large_at != self.large_at, "large"),
            (info.dissolved_at != self.dissolved_at, "dissolved"),
        ];
        let differing = checks.into_iter().filter(|(differs, _)| *differs);
        let told = |what: &str| match what {
            "members_count" => format!("members_count is {}, by the log {}", info.members_count, self.count),
            _ => format!("{what} of the state row is not that of the log"),
        };
        differing.map(|(_, what)| told(what)).collect()
    }
}

fn difference(user: &UserId, stored: &Member, member: &Member) -> String {
    if stored.stays != member.stays {
        let show = |member: &Member| {
            let stays = member.stays.iter().map(|stay| match member.leave_seq() {
                None if Some(stay) == member.stays.last() => format!("{}-", stay.0),
                _ => format!("{}-{}", stay.0, stay.1),
            });
            stays.collect::<Vec<_>>().join(" ")
        };
        return format!("stays of {user} are {}, by the log {}", show(stored), show(member));
    }
    if stored.role != member.role {
        return format!("role of {user} is {:?}, by the log {:?}", stored.role, member.role);
    }
    format!("row of member {user} is not what the log gives")
}
