//! What a request comes to at one point of a conversation's log, by the contract: sections 6 and 7.

use everline::protocol::*;

use crate::model::{Conv, Logged, Member, Rules};

/// What a request comes to.
#[derive(Clone, Debug)]
pub enum Decision {
    /// These entries, and an answer with this conv_seq.
    Entries(Vec<Event>, u64),
    /// Nothing changes; `None`: any number up to the head will do.
    Same(Option<u64>),
    /// `sent` again, as the first time.
    Again(u64, u64),
    Refused(ErrorCode, Option<&'static str>),
}

impl Conv {
    /// What a request of `caller` at time `at` comes to. `next`: what the log holds behind this point,
    /// for choices the contract leaves open.
    pub fn decide(&self, rules: &Rules, caller: &UserId, request: &Request, at: u64, next: &[Logged]) -> Decision {
        match request {
            Request::Send(send) => self.decide_send(caller, send, at),
            Request::Create { members, title, attributes, .. } => {
                if self.exists {
                    return Decision::Same(Some(1));
                }
                let mut users: Vec<UserId> = members.iter().chain([caller]).cloned().collect();
                users.sort();
                users.dedup();
                let change = ConversationChange::Created {
                    members: users,
                    title: title.clone(),
                    attributes: attributes.clone(),
                };
                Decision::Entries(vec![Event::Conversation { conv_id: self.id.clone(), conv_seq: 1, change }], 1)
            }
            _ => match self.members.get(caller) {
                Some(member) if member.present() => self.decide_as_member(rules, caller, member, request, at, next),
                _ => Decision::Refused(ErrorCode::NotFound, None),
            },
        }
    }

    fn decide_send(&self, caller: &UserId, send: &Send, at: u64) -> Decision {
        let content = (send.body.clone(), send.reply_to, send.mentions.clone());
        if let Some((seq, at, first)) = self.sent.get(&(caller.clone(), send.client_msg_id.clone())) {
            let same = *first == content;
            return if same {
                Decision::Again(*seq, *at)
            } else {
                Decision::Refused(ErrorCode::IdempotencyConflict, None)
            };
        }
        if self.id.direct_members().is_some_and(|(a, b)| a == b && a == *caller) {
            return Decision::Refused(ErrorCode::InvalidField, Some("to"));
        }
        let begins =
            !self.exists && self.id.direct_members().is_some_and(|(a, b)| a != b && (*caller == a || *caller == b));
        let member = self.members.get(caller).is_some_and(Member::present);
        if !begins && !member {
            return Decision::Refused(ErrorCode::NotFound, None);
        }
        if send.reply_to.is_some_and(|seq| seq > self.head() || !self.sees(caller, seq)) {
            return Decision::Refused(ErrorCode::InvalidField, Some("reply_to"));
        }
        let conv_seq = self.head() + 1;
        let message = Message {
            conv_id: self.id.clone(),
            conv_seq,
            sender_id: caller.clone(),
            client_msg_id: send.client_msg_id.clone(),
            sent_at: at,
            body: Some(send.body.clone()),
            reply_to: send.reply_to,
            mentions: send.mentions.clone(),
            recalled: false,
            edited_at: None,
        };
        Decision::Entries(vec![Event::Message(message)], conv_seq)
    }

    fn decide_as_member(
        &self,
        rules: &Rules,
        caller: &UserId,
        member: &Member,
        request: &Request,
        at: u64,
        next: &[Logged],
    ) -> Decision {
        use Decision::Refused;
        let (conv_id, conv_seq, by) = (self.id.clone(), self.head() + 1, caller.clone());
        let forbidden = Refused(ErrorCode::Forbidden, None);
        match request {
            Request::Recall { target, .. } | Request::Edit { target, .. } | Request::React { target, .. } => {
                let message = self.message(*target).filter(|_| self.sees(caller, *target));
                let Some(message) = message else { return Refused(ErrorCode::InvalidField, Some("target")) };
                self.decide_change(rules, caller, member, request, message, at)
            }
            _ if self.direct => forbidden,
            Request::Invite { users, .. } => {
                let mut new: Vec<&UserId> = Vec::new();
                for user in users {
                    if !self.members.get(user).is_some_and(Member::present) && !new.contains(&user) {
                        new.push(user);
                    }
                }
                self.entries((conv_seq..).zip(new).map(|(conv_seq, user)| {
                    let (user_id, by, role) = (user.clone(), Some(by.clone()), Some(Role::Member));
                    Event::Member {
                        conv_id: conv_id.clone(),
                        conv_seq,
                        change: MemberChange::Joined,
                        user_id,
                        by,
                        role,
                    }
                }))
            }
            Request::Remove { users, .. } => {
                let role = |user: &UserId| self.members.get(user).filter(|m| m.present()).map(|m| m.role);
                if member.role == Role::Member || users.iter().any(|user| role(user) == Some(Role::Owner)) {
                    return forbidden;
                }
                let mut gone: Vec<&UserId> = users.iter().filter(|user| role(user).is_some()).collect();
                let mut seen = Vec::new();
                gone.retain(|user| {
                    !seen.contains(user) && {
                        seen.push(*user);
                        true
                    }
                });
                self.entries((conv_seq..).zip(gone).map(|(conv_seq, user)| {
                    let (user_id, by) = (user.clone(), Some(by.clone()));
                    let change = MemberChange::Removed;
                    Event::Member { conv_id: conv_id.clone(), conv_seq, change, user_id, by, role: None }
                }))
            }
            Request::Leave { .. } => {
                let (change, user_id) = (MemberChange::Left, by.clone());
                let (conv_id, left_by) = (conv_id.clone(), Some(by.clone()));
                let left = Event::Member { conv_id, conv_seq, change, user_id, by: left_by, role: None };
                let heir = self.heir(caller, next.get(1)).filter(|_| member.role == Role::Owner);
                let heir = heir.map(|user| self.gives(conv_seq + 1, &by, &user, Role::Owner));
                Decision::Entries([left].into_iter().chain(heir).collect(), conv_seq)
            }
            Request::Role { user_id, role, .. } => {
                let Some(other) = self.members.get(user_id).filter(|other| other.present()) else {
                    return Refused(ErrorCode::InvalidField, Some("user_id"));
                };
                if member.role != Role::Owner || (user_id == caller && *role != Role::Owner) {
                    return forbidden;
                }
                if other.role == *role {
                    return Decision::Same(Some(self.head()));
                }
                let mut entries = Vec::new();
                if *role == Role::Owner {
                    entries.push(self.gives(conv_seq, caller, caller, Role::Admin));
                }
                entries.push(self.gives(conv_seq + entries.len() as u64, caller, user_id, *role));
                self.entries(entries.into_iter())
            }
            Request::Update { title, attributes, .. } => {
                let title = title.clone().filter(|title| self.title.as_ref() != Some(title));
                let attributes = attributes.clone().filter(|new| self.attributes.as_ref() != Some(new));
                let title = title.map(|title| ConversationChange::Renamed { title });
                let attributes = attributes.map(|attributes| ConversationChange::Attributes { attributes });
                let changes = title.into_iter().chain(attributes);
                self.entries((conv_seq..).zip(changes).map(|(conv_seq, change)| Event::Conversation {
                    conv_id: conv_id.clone(),
                    conv_seq,
                    change,
                }))
            }
            _ => panic!("not for a conversation: {request:?}"),
        }
    }

    /// Entries answered with the last one's number; none: the head.
    fn entries(&self, entries: impl Iterator<Item = Event>) -> Decision {
        let entries: Vec<_> = entries.collect();
        let last = self.head() + entries.len() as u64;
        if entries.is_empty() { Decision::Same(Some(last)) } else { Decision::Entries(entries, last) }
    }

    fn gives(&self, conv_seq: u64, by: &UserId, user: &UserId, role: Role) -> Event {
        let (conv_id, change) = (self.id.clone(), MemberChange::Role);
        Event::Member { conv_id, conv_seq, change, user_id: user.clone(), by: Some(by.clone()), role: Some(role) }
    }

    /// Who is owner when he goes: the longest-standing admin, else member; of equals the one the log names.
    fn heir(&self, leaver: &UserId, next: Option<&Logged>) -> Option<UserId> {
        let rank = |member: &Member| (member.role != Role::Admin, member.stays.last().map(|stay| stay.0));
        let others = || self.present().filter(|(user, _)| *user != leaver);
        let best = others().map(|(_, member)| rank(member)).min()?;
        let mut equals = others().filter(|(_, member)| rank(member) == best).map(|(user, _)| user.clone());
        match next.map(|entry| &entry.event) {
            Some(Event::Member { change: MemberChange::Role, user_id, .. }) => equals.find(|user| user == user_id),
            _ => equals.next(),
        }
    }

    fn decide_change(
        &self,
        rules: &Rules,
        caller: &UserId,
        member: &Member,
        request: &Request,
        message: &Message,
        at: u64,
    ) -> Decision {
        use Decision::Refused;
        let (conv_id, conv_seq, target, by) = (self.id.clone(), self.head() + 1, message.conv_seq, caller.clone());
        let fate = self.fate(target);
        let late = at > message.sent_at + rules.recall_limit_ms;
        let mine = message.sender_id == *caller;
        let moderates = !self.direct && member.role != Role::Member;
        let event = match request {
            Request::Recall { .. } => match &fate.recall {
                _ if !mine && !moderates => return Refused(ErrorCode::Forbidden, None),
                Some((first, _)) => return Decision::Same(Some(*first)),
                None if late => return Refused(ErrorCode::TooLate, None),
                None => Event::Recall { conv_id, conv_seq, target, by },
            },
            Request::Edit { .. } if !mine => return Refused(ErrorCode::Forbidden, None),
            _ if fate.recall.is_some() => return Refused(ErrorCode::Gone, None),
            Request::Edit { .. } if late => return Refused(ErrorCode::TooLate, None),
            Request::Edit { body, .. } => {
                Event::Edit { conv_id, conv_seq, target, by, body: body.clone(), edited_at: at }
            }
            Request::React { key, add, .. } => {
                let last = fate.words.iter().rfind(|(_, user, other, _)| user == caller && other == key);
                if last.map_or(!add, |word| word.3 == *add) {
                    return Decision::Same(None);
                }
                Event::Reaction { conv_id, conv_seq, target, user_id: by, key: key.clone(), add: *add }
            }
            _ => panic!("not a change: {request:?}"),
        };
        Decision::Entries(vec![event], conv_seq)
    }
}
