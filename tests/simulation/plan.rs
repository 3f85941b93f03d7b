//! What people ask for: random requests about what they have been shown.

use everline::protocol::*;
use rand::Rng;
use rand::seq::IndexedRandom;

use crate::run::Run;

/// A conversation as the generator knows it from what was shown to anybody.
pub struct Known {
    pub id: ConvId,
    pub members: Vec<UserId>,
    owner: Option<UserId>,
}

impl Run {
    pub fn fresh(&mut self, kind: &str) -> String {
        self.count += 1;
        format!("{kind}{:05}", self.count)
    }

    fn id(&mut self, kind: &str) -> MsgId {
        let name = self.fresh(kind);
        MsgId::parse(&name).expect("a name")
    }

    pub fn body(&mut self) -> Body {
        let text = format!("<{}>", self.fresh("b"));
        Body::from_value(&serde_json::json!({ "t": text })).expect("an object")
    }

    pub fn person(&mut self) -> UserId {
        self.people.choose(&mut self.rng).expect("some").clone()
    }

    fn some_people(&mut self) -> Vec<UserId> {
        let count = self.rng.random_range(1..=2);
        (0..count).map(|_| self.person()).collect()
    }

    pub fn conversations(&self) -> Vec<Known> {
        let model = self.house.model();
        let known = model.logs.iter().filter(|(conv, _)| !conv.is_everybody()).map(|(conv, log)| {
            let (mut members, mut owner) = (Vec::new(), None);
            if let Some((one, other)) = conv.direct_members() {
                members = vec![one, other];
            }
            for event in log.values() {
                match event {
                    Event::Conversation { change: ConversationChange::Created { members: made, .. }, .. } => {
                        members.clone_from(made);
                        owner = made.first().cloned();
                    }
                    Event::Member { change: MemberChange::Joined, user_id, .. } => members.push(user_id.clone()),
                    Event::Member { change: MemberChange::Role, user_id, role: Some(Role::Owner), .. } => {
                        owner = Some(user_id.clone());
                    }
                    Event::Member { change: MemberChange::Left | MemberChange::Removed, user_id, .. } => {
                        members.retain(|member| member != user_id);
                    }
                    _ => {}
                }
            }
            Known { id: conv.clone(), members, owner }
        });
        known.collect()
    }

    /// A message somebody was shown; `mine`: rather one's own.
    fn target(&mut self, conv: &ConvId, user: &UserId, mine: bool) -> u64 {
        let targets: Vec<u64> = {
            let model = self.house.model();
            let log = model.logs.get(conv);
            let messages = log.into_iter().flatten().filter_map(|(seq, event)| match event {
                Event::Message(message) if !mine || message.sender_id == *user => Some(*seq),
                _ => None,
            });
            messages.collect()
        };
        let newest = &targets[targets.len().saturating_sub(6)..];
        newest.choose(&mut self.rng).copied().unwrap_or(1)
    }

    /// A message this user himself was shown.
    pub fn shown(&mut self, conv: &ConvId, user: &UserId) -> Option<u64> {
        let shown: Vec<u64> = {
            let model = self.house.model();
            let person = model.people.get(user)?;
            let pushed = person.seen.values().filter_map(|event| match event {
                Event::Message(message) if message.conv_id == *conv => Some(message.conv_seq),
                _ => None,
            });
            pushed.chain(person.shown.keys().filter(|(of, _)| of == conv).map(|(_, seq)| *seq)).collect()
        };
        let newest = &shown[shown.len().saturating_sub(8)..];
        newest.choose(&mut self.rng).copied()
    }

    /// The next request of this user.
    pub fn request(&mut self, user: &UserId) -> Request {
        let known = self.conversations();
        let groups = known.iter().filter(|known| !known.id.is_direct()).count();
        let roll = if groups == 0 { 0 } else { self.rng.random_range(0..100) };
        if roll < 4 && groups < 4 {
            return self.create(user);
        }
        let mine: Vec<&Known> = known.iter().filter(|known| known.members.contains(user)).collect();
        let any: Vec<&Known> = known.iter().collect();
        let pick = if self.rng.random_bool(0.9) && !mine.is_empty() { &mine } else { &any };
        let Some(place) = pick.choose(&mut self.rng) else { return self.create(user) };
        let conv_id = place.id.clone();
        match roll {
            0..7 => self.send_again(user, conv_id),
            7..40 => self.send(user, conv_id),
            40..48 => {
                let own = self.rng.random_bool(0.8);
                Request::Recall { target: self.target(&conv_id, user, own), conv_id }
            }
            48..54 => {
                let own = self.rng.random_bool(0.9);
                Request::Edit { target: self.target(&conv_id, user, own), body: self.body(), conv_id }
            }
            54..58 => {
                let key = ["+1", "ok"].choose(&mut self.rng).expect("some").to_string();
                let target = self.target(&conv_id, user, false);
                Request::React { target, key, add: self.rng.random_bool(0.7), conv_id }
            }
            58..63 => match self.shown(&conv_id, user) {
                Some(seq) => Request::Delete { conv_id, ranges: vec![Range { from: seq, to: seq }] },
                None => self.send(user, conv_id),
            },
            63..64 => match self.shown(&conv_id, user) {
                Some(up_to) => Request::Clear { conv_id, up_to },
                None => self.send(user, conv_id),
            },
            64..70 => match self.shown(&conv_id, user) {
                Some(read_seq) => Request::Read { conv_id, read_seq },
                None => self.send(user, conv_id),
            },
            70..72 => Request::Settings { conv_id, muted: Some(self.rng.random()), pinned: None, hidden: None },
            72..79 => Request::Invite { users: self.some_people(), conv_id },
            79..83 => Request::Remove { users: self.some_people(), conv_id },
            83..85 => Request::Leave { conv_id },
            85..87 if place.owner.as_ref() == Some(user) => {
                let role = *[Role::Admin, Role::Admin, Role::Member, Role::Owner].choose(&mut self.rng).expect("some");
                Request::Role { user_id: self.person(), role, conv_id }
            }
            85..88 => Request::Update { title: Some(self.fresh("t")), attributes: None, conv_id },
            88..93 => {
                let from = match self.rng.random_range(0..3) {
                    0 => HistoryFrom::After(self.target(&conv_id, user, false)),
                    _ => HistoryFrom::Newest,
                };
                Request::History { conv_id, from, limit: [2, 30, 200][self.rng.random_range(0..3)] }
            }
            93..96 => Request::Changes { conv_id, since: 0 },
            96..99 => Request::Conversations { active_after: None, page: None, limit: 100 },
            _ => Request::Members { conv_id, page: None, limit: 100 },
        }
    }

    fn create(&mut self, user: &UserId) -> Request {
        let mine: Vec<Request> =
            self.creates.iter().filter(|(maker, _)| maker == user).map(|(_, made)| made.clone()).collect();
        if let Some(again) = mine.choose(&mut self.rng).filter(|_| self.rng.random_bool(0.25)) {
            return again.clone();
        }
        let history = if self.rng.random_bool(0.4) { HistoryMode::Full } else { HistoryMode::SinceJoin };
        let title = Some(self.fresh("t"));
        let made =
            Request::Create { members: self.some_people(), title, attributes: None, history, op_id: self.id("op") };
        self.creates.push((user.clone(), made.clone()));
        made
    }

    fn send(&mut self, user: &UserId, conv_id: ConvId) -> Request {
        let other = self.person();
        let to = if other != *user && self.rng.random_bool(0.15) { SendTo::User(other) } else { SendTo::Conv(conv_id) };
        Request::Send(self.message(to))
    }

    pub fn message(&mut self, to: SendTo) -> Send {
        let (client_msg_id, body) = (self.id("m"), self.body());
        let mut mentions = vec![];
        if self.house.setting().large.is_some() && self.rng.random_bool(0.3) {
            self.tick("mentions");
            mentions = self.some_people();
        }
        Send { to, client_msg_id, body, reply_to: None, mentions }
    }

    /// A direct conversation of this user.
    pub fn known_direct(&self, user: &UserId) -> Option<ConvId> {
        let model = self.house.model();
        let mine = |conv: &ConvId| conv.direct_members().is_some_and(|(one, other)| one == *user || other == *user);
        model.logs.keys().find(|conv| mine(conv)).cloned()
    }

    /// One of the user's messages once more, as it was.
    fn send_again(&mut self, user: &UserId, conv_id: ConvId) -> Request {
        let sent: Vec<Send> = {
            let model = self.house.model();
            let mut mine: Vec<_> = model.sent.iter().filter(|((sender, _, _), _)| sender == user).collect();
            mine.sort_by_key(|(_, sent)| sent.first_asked());
            mine.into_iter().rev().take(6).map(|(_, sent)| sent.send.clone()).collect()
        };
        match sent.choose(&mut self.rng) {
            Some(send) => Request::Send(send.clone()),
            None => self.send(user, conv_id),
        }
    }
}
