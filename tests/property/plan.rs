//! Chooses what happens next: requests that mostly make sense at the model's state, and some that don't.

use everline::protocol::*;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use crate::absorb::Model;
use crate::model::{Conv, Member};

pub struct Plan {
    pub people: Vec<UserId>,
    /// Makes ids and bodies unique.
    count: u64,
    /// Sends as they were made, to be sent again.
    sent: Vec<(UserId, Send)>,
    creates: Vec<(UserId, Request)>,
}

impl Plan {
    pub fn new(people: usize) -> Self {
        let name = |n| UserId::parse(&format!("u{n}")).expect("a name");
        Self { people: (0..people).map(name).collect(), count: 0, sent: Vec::new(), creates: Vec::new() }
    }

    fn fresh(&mut self, prefix: &str) -> String {
        self.count += 1;
        format!("{prefix}{}", self.count)
    }

    fn id(&mut self, prefix: &str) -> MsgId {
        MsgId::parse(&self.fresh(prefix)).expect("printable")
    }

    /// A body no other message has.
    fn body(&mut self, rng: &mut StdRng) -> Body {
        let mut text = self.fresh("body-") + ".";
        if rng.random_bool(0.05) {
            text.push_str(&"x".repeat(1500));
        }
        Body::from_value(&serde_json::json!({ "t": text })).expect("an object")
    }

    fn person(&self, rng: &mut StdRng) -> UserId {
        self.people.choose(rng).expect("some").clone()
    }

    fn some_people(&self, rng: &mut StdRng) -> Vec<UserId> {
        (0..rng.random_range(1..=3)).map(|_| self.person(rng)).collect()
    }

    /// A conversation and somebody who mostly is in it.
    fn place(&self, model: &Model, rng: &mut StdRng) -> (UserId, Conv) {
        let convs: Vec<_> = model.convs.values().collect();
        let Some(conv) = convs.choose(rng) else {
            return (self.person(rng), Conv::new(ConvId::parse("g:none").expect("a name")));
        };
        let present: Vec<_> = conv.present().map(|(user, _)| user).collect();
        match present.choose(rng) {
            Some(user) if rng.random_bool(0.9) => ((*user).clone(), (*conv).clone()),
            _ => (self.person(rng), (*conv).clone()),
        }
    }

    /// A place in the log: mostly of a message, sometimes nonsense.
    fn target(&self, conv: &Conv, user: &UserId, mine: bool, rng: &mut StdRng) -> u64 {
        let fits = |seq: &u64| conv.message(*seq).is_some_and(|message| !mine || message.sender_id == *user);
        let messages: Vec<u64> = (1..=conv.head()).filter(fits).collect();
        // Mostly of the last ones, so that changes meet deliveries still under way.
        let recent = messages.len().saturating_sub(if rng.random_bool(0.6) { 3 } else { 1000 });
        match messages[recent..].choose(rng) {
            Some(seq) if rng.random_bool(0.93) => *seq,
            _ => rng.random_range(1..conv.head() + 3),
        }
    }

    /// The next request. `burst`: many of one kind in one place, so that they meet.
    pub fn request(&mut self, model: &Model, rng: &mut StdRng) -> (UserId, Request) {
        let groups = model.convs.values().filter(|conv| !conv.direct).count();
        let roll = if groups == 0 { 0 } else { rng.random_range(0..100) };
        let (user, conv) = self.place(model, rng);
        let conv_id = conv.id.clone();
        let request = match roll {
            0..4 if groups < 4 => return self.create(rng),
            0..7 => return self.send_again(model, rng),
            7..35 => return self.send(user, &conv, rng),
            35..41 => {
                let mine = rng.random_bool(0.8);
                Request::Recall { conv_id, target: self.target(&conv, &user, mine, rng) }
            }
            41..46 => {
                let mine = rng.random_bool(0.9);
                Request::Edit { conv_id, target: self.target(&conv, &user, mine, rng), body: self.body(rng) }
            }
            46..51 => {
                let key = ["+1", "ok"].choose(rng).expect("some").to_string();
                Request::React {
                    conv_id,
                    target: self.target(&conv, &user, false, rng),
                    key,
                    add: rng.random_bool(0.7),
                }
            }
            51..58 => Request::Delete { conv_id, ranges: ranges(&conv, rng) },
            58..60 => Request::Clear { conv_id, up_to: rng.random_range(0..=conv.head() + 2) },
            60..65 => Request::Read { conv_id, read_seq: near_head(&conv, rng) },
            65..70 => return self.read_direct(model, rng),
            70..74 => settings(conv_id, rng),
            74..81 => Request::Invite { conv_id, users: self.some_people(rng) },
            81..86 => Request::Remove { conv_id, users: self.some_people(rng) },
            86..90 => Request::Leave { conv_id },
            90..94 => {
                let role = *[Role::Member, Role::Admin, Role::Admin, Role::Owner].choose(rng).expect("some");
                let owner = conv.present().find(|(_, member)| member.role == Role::Owner).map(|(user, _)| user.clone());
                let user_id = self.person(rng);
                return (
                    owner.filter(|_| rng.random_bool(0.8)).unwrap_or(user),
                    Request::Role { conv_id, user_id, role },
                );
            }
            94..97 => {
                let title = rng.random_bool(0.7).then(|| self.fresh("t"));
                let attributes = rng.random_bool(0.5).then(|| self.body(rng));
                Request::Update { conv_id, title, attributes }
            }
            // Those who have left still look after what is theirs.
            _ => {
                let gone = |member: &&Member| !member.present();
                let gone: Vec<_> =
                    conv.members.iter().filter(|(_, member)| gone(member)).map(|(user, _)| user).collect();
                let user = gone.choose(rng).map_or(user, |user| (*user).clone());
                let request = match rng.random_range(0..3) {
                    0 => Request::Delete { conv_id, ranges: ranges(&conv, rng) },
                    1 => Request::Read { conv_id, read_seq: near_head(&conv, rng) },
                    _ => settings(conv_id, rng),
                };
                return (user, request);
            }
        };
        (user, request)
    }

    /// Who reads a direct conversation owes the other a receipt.
    fn read_direct(&self, model: &Model, rng: &mut StdRng) -> (UserId, Request) {
        let direct: Vec<_> = model.convs.values().filter(|conv| conv.direct && conv.exists).collect();
        let (user, conv) = match direct.choose(rng) {
            Some(conv) => (conv.members.keys().nth(rng.random_range(0..2)).expect("two").clone(), (*conv).clone()),
            None => self.place(model, rng),
        };
        (user, Request::Read { conv_id: conv.id.clone(), read_seq: near_head(&conv, rng) })
    }

    fn create(&mut self, rng: &mut StdRng) -> (UserId, Request) {
        if let Some(again) = self.creates.choose(rng).filter(|_| rng.random_bool(0.3)) {
            return again.clone();
        }
        let history = if rng.random_bool(0.4) { HistoryMode::Full } else { HistoryMode::SinceJoin };
        let made = Request::Create {
            members: self.some_people(rng),
            // Tells which request made a conversation.
            title: Some(self.fresh("t")),
            attributes: rng.random_bool(0.2).then(|| self.body(rng)),
            history,
            op_id: self.id("op"),
        };
        let create = (self.person(rng), made);
        self.creates.push(create.clone());
        create
    }

    fn send(&mut self, user: UserId, conv: &Conv, rng: &mut StdRng) -> (UserId, Request) {
        let to = match rng.random_range(0..20) {
            0 => SendTo::Conv(ConvId::parse("d:u1:u0").expect("a name")),
            1..4 => SendTo::User(self.person(rng)),
            _ => SendTo::Conv(conv.id.clone()),
        };
        let to = if to == SendTo::User(user.clone()) { SendTo::Conv(conv.id.clone()) } else { to };
        let reply_to = rng.random_bool(0.1).then(|| self.target(conv, &user, false, rng));
        let mentions = if rng.random_bool(0.1) { vec![self.person(rng)] } else { Vec::new() };
        let send = Send { to, client_msg_id: self.id("m"), body: self.body(rng), reply_to, mentions };
        self.sent.push((user.clone(), send.clone()));
        (user, Request::Send(send))
    }

    /// The same send again, sometimes with other content, sometimes by somebody else.
    fn send_again(&mut self, model: &Model, rng: &mut StdRng) -> (UserId, Request) {
        let recent = self.sent.len().saturating_sub(8);
        let Some((mut user, mut send)) = self.sent[recent..].choose(rng).cloned() else {
            let (user, conv) = self.place(model, rng);
            return self.send(user, &conv, rng);
        };
        match rng.random_range(0..10) {
            0 => send.body = self.body(rng),
            1 => {
                user = self.person(rng);
                send.body = self.body(rng);
            }
            _ => {}
        }
        (user, Request::Send(send))
    }

    /// What to do with a request nobody answered: the same again, where that makes sense.
    pub fn again(&mut self, request: &Request) -> Option<Request> {
        matches!(request, Request::Send(_) | Request::Create { .. } | Request::Read { .. } | Request::Delete { .. })
            .then(|| request.clone())
    }
}

fn near_head(conv: &Conv, rng: &mut StdRng) -> u64 {
    if rng.random_bool(0.5) { conv.head() + rng.random_range(0..3) } else { rng.random_range(0..=conv.head()) }
}

fn ranges(conv: &Conv, rng: &mut StdRng) -> Vec<Range> {
    let range = |rng: &mut StdRng| {
        let from = rng.random_range(1..=conv.head() + 2);
        Range { from, to: from + rng.random_range(0..4) }
    };
    (0..rng.random_range(1..=2)).map(|_| range(rng)).collect()
}

fn settings(conv_id: ConvId, rng: &mut StdRng) -> Request {
    let muted = Some(rng.random_bool(0.5));
    Request::Settings { conv_id, muted, pinned: rng.random_bool(0.3).then(|| rng.random_bool(0.5)), hidden: None }
}
