//! The plain model of a conversation: its log, and by folding it who is in it, what was sent under which
//! key, what became of each message. Knows nothing of the service but the frames.
//!
//! Written from the contract, not from the code; the test compares the two.

use std::collections::BTreeMap;

use everline::protocol::*;

/// The numbers the model shares with the service under test.
#[derive(Clone, Debug)]
pub struct Rules {
    pub recall_limit_ms: u64,
    pub sync_max_entries: u64,
    pub sync_max_age_ms: u64,
    pub max_devices: usize,
}

/// One stay after another; the last may be open.
#[derive(Clone, Debug)]
pub struct Member {
    pub stays: Vec<(u64, Option<u64>)>,
    pub role: Role,
    pub joined_at: u64,
    /// Members and title when he left.
    pub as_left: Option<(u64, Option<String>)>,
}

impl Member {
    pub fn present(&self) -> bool {
        self.stays.last().is_some_and(|(_, end)| end.is_none())
    }

    pub fn left_seq(&self) -> Option<u64> {
        self.stays.last().and_then(|(_, end)| *end)
    }

    pub fn cap(&self, head: u64) -> u64 {
        self.left_seq().map_or(head, |left| left.min(head))
    }

    pub fn covers(&self, seq: u64) -> bool {
        self.stays.iter().any(|(from, to)| *from <= seq && to.is_none_or(|to| seq <= to))
    }
}

/// What became of a message.
#[derive(Clone, Debug, Default)]
pub struct Fate {
    pub recall: Option<(u64, UserId)>,
    /// (conv_seq, body, edited_at), ascending.
    pub edits: Vec<(u64, Body, u64)>,
    /// Every word ever said: (conv_seq, user, key, add), ascending.
    pub words: Vec<(u64, UserId, String, bool)>,
}

/// An entry of the log, as it was appended.
#[derive(Clone, Debug)]
pub struct Logged {
    pub at: u64,
    pub event: Event,
}

/// What a send holds, for idempotence.
pub type Content = (Body, Option<u64>, Vec<UserId>);

/// A conversation at one point of its log.
#[derive(Clone, Debug)]
pub struct Conv {
    pub id: ConvId,
    pub log: Vec<Logged>,
    pub members: BTreeMap<UserId, Member>,
    pub exists: bool,
    pub direct: bool,
    pub title: Option<String>,
    pub attributes: Option<Body>,
    pub history: HistoryMode,
    pub sent: BTreeMap<(UserId, MsgId), (u64, u64, Content)>,
    pub fates: BTreeMap<u64, Fate>,
}

impl Conv {
    pub fn new(id: ConvId) -> Self {
        Self {
            direct: id.is_direct(),
            id,
            log: Vec::new(),
            members: BTreeMap::new(),
            exists: false,
            title: None,
            attributes: None,
            history: HistoryMode::SinceJoin,
            sent: BTreeMap::new(),
            fates: BTreeMap::new(),
        }
    }

    pub fn head(&self) -> u64 {
        self.log.len() as u64
    }

    pub fn entry(&self, seq: u64) -> Option<&Logged> {
        self.log.get(usize::try_from(seq.checked_sub(1)?).ok()?)
    }

    pub fn message(&self, seq: u64) -> Option<&Message> {
        match self.entry(seq).map(|entry| &entry.event) {
            Some(Event::Message(message)) => Some(message),
            _ => None,
        }
    }

    pub fn fate(&self, seq: u64) -> Fate {
        self.fates.get(&seq).cloned().unwrap_or_default()
    }

    pub fn present(&self) -> impl Iterator<Item = (&UserId, &Member)> {
        self.members.iter().filter(|(_, member)| member.present())
    }

    /// What a user may see at all: his stays, or with `full` everything up to his last leave.
    pub fn sees(&self, user: &UserId, seq: u64) -> bool {
        let Some(member) = self.members.get(user) else { return false };
        match self.history {
            HistoryMode::SinceJoin => member.covers(seq),
            HistoryMode::Full => member.left_seq().is_none_or(|left| seq <= left),
        }
    }

    /// Whether the log puts this entry into a user's sync timeline.
    pub fn addressed(&self, user: &UserId, seq: u64) -> bool {
        let Some(member) = self.members.get(user) else { return false };
        if member.covers(seq) {
            return true;
        }
        let changes = self.entry(seq).and_then(|entry| match &entry.event {
            Event::Recall { target, .. } | Event::Edit { target, .. } | Event::Reaction { target, .. } => Some(*target),
            _ => None,
        });
        let between = member.stays.first().is_some_and(|stay| stay.0 < seq) && member.stays.iter().any(|s| s.0 > seq);
        between && changes.is_some_and(|target| self.sees(user, target))
    }

    /// Appends an entry and folds it.
    pub fn append(&mut self, at: u64, event: Event) {
        let seq = self.head() + 1;
        match &event {
            Event::Message(message) => {
                if !self.exists {
                    self.exists = true;
                    let (a, b) = self.id.direct_members().expect("only a direct conversation begins with a message");
                    for user in [a, b] {
                        self.join(&user, seq, Role::Member, at);
                    }
                }
                let content = (message.body.clone().expect("as appended"), message.reply_to, message.mentions.clone());
                let key = (message.sender_id.clone(), message.client_msg_id.clone());
                self.sent.insert(key, (seq, at, content));
            }
            Event::Recall { target, by, .. } => self.fates.entry(*target).or_default().recall = Some((seq, by.clone())),
            Event::Edit { target, body, edited_at, .. } => {
                self.fates.entry(*target).or_default().edits.push((seq, body.clone(), *edited_at));
            }
            Event::Reaction { target, user_id, key, add, .. } => {
                let word = (seq, user_id.clone(), key.clone(), *add);
                self.fates.entry(*target).or_default().words.push(word);
            }
            Event::Conversation { change: ConversationChange::Created { members, title, attributes }, .. } => {
                self.exists = true;
                (self.title, self.attributes) = (title.clone(), attributes.clone());
                for user in members {
                    self.join(user, seq, Role::Member, at);
                }
            }
            Event::Conversation { change: ConversationChange::Renamed { title }, .. } => {
                self.title = Some(title.clone())
            }
            Event::Conversation { change: ConversationChange::Attributes { attributes }, .. } => {
                self.attributes = Some(attributes.clone());
            }
            Event::Member { change: MemberChange::Joined, user_id, .. } => self.join(user_id, seq, Role::Member, at),
            Event::Member { change: MemberChange::Role, user_id, role, .. } => {
                self.members.get_mut(user_id).expect("a member").role = role.expect("has a role");
            }
            Event::Member { user_id, .. } => self.part(user_id, seq),
            _ => panic!("not an entry of a conversation: {event:?}"),
        }
        self.log.push(Logged { at, event });
    }

    fn join(&mut self, user: &UserId, seq: u64, role: Role, at: u64) {
        let new = Member { stays: Vec::new(), role, joined_at: at, as_left: None };
        let member = self.members.entry(user.clone()).or_insert(new);
        member.stays.push((seq, None));
        (member.role, member.joined_at, member.as_left) = (role, at, None);
    }

    fn part(&mut self, user: &UserId, seq: u64) {
        let (count, title) = (self.present().count() as u64 - 1, self.title.clone());
        let member = self.members.get_mut(user).expect("a member");
        member.stays.last_mut().expect("a stay").1 = Some(seq);
        member.role = Role::Member;
        member.as_left = Some((count, title));
    }
}
