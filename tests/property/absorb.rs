//! What the model learns: after each step it reads the logs past all faults, and every new entry must be
//! what exactly one request asked for, at a point of the log where it was allowed; every answer must be
//! right at some point of the log between question and answer.

use std::collections::BTreeMap;

use bytes::Bytes;
use everline::engine::Answer;
use everline::protocol::*;
use everline::store::{Head, TimelineId};

use crate::answers::fits_entries;
use crate::decide::Decision;
use crate::model::{Conv, Logged, Rules};
use crate::user::{Item, User, stub};
use crate::world::{World, logged, synced};

pub type Check = Result<(), String>;

/// More was appended to a sync timeline in one step than it keeps: nothing can be said about this seed.
pub const OVERFLOW: &str = "overflow";

/// A request as it was made.
#[derive(Debug)]
pub struct Sub {
    /// Incarnation of the node that was asked.
    pub node: u64,
    pub user: UserId,
    pub request: Request,
    /// Head of its conversation, the caller's cap there, and his sync head when it was made.
    pub head: u64,
    pub cap: u64,
    pub sync: u64,
    pub asked_at: u64,
    pub answered_at: u64,
    pub answer: Option<Answer>,
    /// His sync head at the moment of the answer.
    pub seen: u64,
    /// What it appended: where, first, last.
    pub made: Option<(ConvId, u64, u64)>,
    /// Answered in this step; later it is forgotten.
    pub fresh: bool,
}

pub struct Model {
    pub rules: Rules,
    pub convs: BTreeMap<ConvId, Conv>,
    pub users: BTreeMap<UserId, User>,
    /// Asked and not answered for good: may still take effect, or was answered in this step.
    pub subs: Vec<Sub>,
    pub created: BTreeMap<(UserId, MsgId), ConvId>,
    stored: BTreeMap<ConvId, Vec<Bytes>>,
    synced: BTreeMap<UserId, Vec<Bytes>>,
    /// Each conversation at every point of its log since the step before.
    pub points: BTreeMap<ConvId, Vec<Conv>>,
    /// The latest time seen; the clock may have been set back since.
    latest: u64,
}

impl Model {
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            convs: BTreeMap::new(),
            users: BTreeMap::new(),
            subs: Vec::new(),
            created: BTreeMap::new(),
            stored: BTreeMap::new(),
            synced: BTreeMap::new(),
            points: BTreeMap::new(),
            latest: 0,
        }
    }

    pub fn user(&self, user: &UserId) -> User {
        self.users.get(user).cloned().unwrap_or_default()
    }

    /// Which conversation a request is about; `None` for one whose name is not yet known.
    pub fn conv_of(&self, user: &UserId, request: &Request) -> Option<ConvId> {
        match request {
            Request::Send(Send { to: SendTo::User(other), .. }) => Some(ConvId::direct(user, other)),
            Request::Create { op_id, .. } => self.created.get(&(user.clone(), op_id.clone())).cloned(),
            request => request.conv_id().cloned(),
        }
    }

    /// Notes a request down as it is made.
    pub fn asks(&mut self, node: u64, user: &UserId, request: Request, now: u64) -> usize {
        let conv = self.conv_of(user, &request).and_then(|id| self.convs.get(&id));
        let head = conv.map_or(0, Conv::head);
        let cap = conv.and_then(|conv| conv.members.get(user)).map_or(0, |member| member.cap(head));
        let sync = self.users.get(user).map_or(0, User::head);
        let (user, answer, made) = (user.clone(), None, None);
        self.subs.push(Sub {
            node,
            user,
            request,
            head,
            cap,
            sync,
            asked_at: now,
            answered_at: now,
            answer,
            seen: 0,
            made,
            fresh: true,
        });
        self.subs.len() - 1
    }

    /// Notes an answer down. One that leaves it open (`unavailable`, none) may still take effect.
    pub fn answered(&mut self, sub: usize, answer: Option<Answer>, seen: u64, now: u64) {
        let sub = &mut self.subs[sub];
        sub.answer = answer.filter(|answer| !matches!(answer, Err(refusal) if refusal.code == ErrorCode::Unavailable));
        (sub.seen, sub.answered_at) = (seen, now);
    }

    /// Learns what the logs hold now, checks it, and forgets the answered requests.
    pub fn absorb(&mut self, world: &World) -> Check {
        self.latest = self.latest.max(world.now());
        for id in world.conversations() {
            self.absorb_log(&id, world).map_err(|wrong| format!("{id}: {wrong}"))?;
        }
        for user in world.users() {
            self.absorb_sync(&user, world)?;
        }
        for index in 0..self.subs.len() {
            let sub = &self.subs[index];
            self.check_answer(sub).map_err(|wrong| format!("{} asked {:?}: {wrong}", sub.user, sub.request))?;
        }
        self.subs.retain(|sub| sub.answer.is_none() && sub.made.is_none());
        self.subs.iter_mut().for_each(|sub| sub.fresh = false);
        self.points.clear();
        Ok(())
    }

    fn absorb_log(&mut self, id: &ConvId, world: &World) -> Check {
        let (head, entries) = world.dump(&TimelineId::Conversation(id.clone()));
        let mut conv = self.convs.remove(id).unwrap_or_else(|| Conv::new(id.clone()));
        let known = self.stored.get(id).cloned().unwrap_or_default();
        dense(head, entries.iter().map(|entry| entry.seq), 0, conv.head())?;
        let mut check: Vec<u64> = (conv.head() + 1..=head.position.seq).collect();
        check.extend(known.iter().zip(&entries).filter(|(old, new)| **old != new.data).map(|(_, new)| new.seq));
        let known_head = usize::try_from(conv.head()).expect("small");
        let mut rest = Vec::new();
        for entry in entries.iter().skip(known_head) {
            rest.push(Logged { at: entry.at, event: logged(entry)? });
        }
        let mut rest = rest.as_slice();
        let mut points = vec![conv.clone()];
        while let Some(first) = rest.first() {
            if conv.log.last().is_some_and(|last| last.at > first.at) {
                return Err(format!("time goes back at {}", conv.head() + 1));
            }
            let (maker, events) = self.maker(&conv, rest)?;
            let from = conv.head() + 1;
            for (event, stored) in events.iter().zip(rest) {
                if let Event::Recall { target, .. } = event {
                    check.push(*target);
                    check.extend(conv.fate(*target).edits.iter().map(|edit| edit.0));
                }
                conv.append(stored.at, event.clone());
                if let Request::Create { history, .. } = &self.subs[maker].request {
                    conv.history = *history;
                    conv.members.get_mut(&self.subs[maker].user).expect("he is in it").role = Role::Owner;
                }
                points.push(conv.clone());
            }
            rest = &rest[events.len()..];
            self.subs[maker].made = Some((id.clone(), from, conv.head()));
            if let Request::Create { op_id, .. } = &self.subs[maker].request {
                let key = (self.subs[maker].user.clone(), op_id.clone());
                if self.created.insert(key, id.clone()).is_some_and(|other| other != *id) {
                    return Err("made twice for one op_id".into());
                }
            }
        }
        for seq in check {
            let entry = &entries[usize::try_from(seq - 1).expect("small")];
            let (stored, due) = (plain(logged(entry)?), as_stored(&conv, seq));
            if stored != due {
                return Err(format!("entry {seq} is stored as {stored:?}, due is {due:?}"));
            }
        }
        self.stored.insert(id.clone(), entries.into_iter().map(|entry| entry.data).collect());
        self.points.insert(id.clone(), points);
        self.convs.insert(id.clone(), conv);
        Ok(())
    }

    /// Whose request made the next entries of the log, and what they were before anything was erased.
    fn maker(&self, conv: &Conv, rest: &[Logged]) -> Result<(usize, Vec<Event>), String> {
        let mut open = None;
        for (index, sub) in self.subs.iter().enumerate() {
            let about = match self.conv_of(&sub.user, &sub.request) {
                Some(id) => id == conv.id,
                None => matches!(sub.request, Request::Create { .. }) && !conv.exists,
            };
            let own = matches!(
                sub.request,
                Request::Read { .. } | Request::Clear { .. } | Request::Delete { .. } | Request::Settings { .. }
            );
            if !about || own || sub.made.is_some() {
                continue;
            }
            let decision = conv.decide(&self.rules, &sub.user, &sub.request, rest[0].at, rest);
            let Decision::Entries(events, last) = decision else { continue };
            let same =
                events.len() <= rest.len() && events.iter().zip(rest).all(|(due, found)| alike(due, &found.event));
            if !same {
                continue;
            }
            match &sub.answer {
                Some(answer) if fits_entries(answer, conv, last, rest[0].at) => return Ok((index, events)),
                Some(_) => {}
                None => open = open.or(Some((index, events))),
            }
        }
        open.ok_or_else(|| format!("nobody asked for entry {} here: {:?}", conv.head() + 1, rest[0].event))
    }

    fn absorb_sync(&mut self, id: &UserId, world: &World) -> Check {
        let (head, entries) = world.dump(&TimelineId::User(id.clone()));
        let mut user = self.users.remove(id).unwrap_or_default();
        let mut known = self.synced.remove(id).unwrap_or_default();
        let wrong = |wrong: String| format!("sync timeline of {id}: {wrong}");
        let aged = user.floor(&self.rules, self.latest).max(head.floor).min(head.position.seq);
        let first = entries.first().map_or(head.position.seq + 1, |entry| entry.seq);
        // A store may drop what is too old by itself.
        let floor = head.floor.max(aged.min(first - 1));
        dense(head, entries.iter().map(|entry| entry.seq), floor, user.head()).map_err(wrong)?;
        let by_count = head.position.seq.saturating_sub(self.rules.sync_max_entries);
        if head.floor > user.floor(&self.rules, self.latest).max(by_count) {
            return Err(wrong(format!("floor {} is too high at head {}", head.floor, head.position.seq)));
        }
        if head.position.seq.saturating_sub(head.floor) > self.rules.sync_max_entries {
            return Err(wrong(format!("floor {} is too low at head {}", head.floor, head.position.seq)));
        }
        if head.floor > user.head() {
            return Err(OVERFLOW.into());
        }
        self.check_own_effects(id, &user)?;
        for entry in entries {
            let index = usize::try_from(entry.seq - 1).expect("small");
            if let Some(before) = known.get(index) {
                if *before != entry.data {
                    return Err(wrong(format!("entry {} is another now", entry.seq)));
                }
                continue;
            }
            known.push(entry.data.clone());
            let item = synced(&entry).map_err(wrong)?;
            if let Item::Own(event) = &item
                && !self.subs.iter().any(|sub| self.asked_for(sub, id, event, &user))
            {
                return Err(wrong(format!("nobody asked for {}: {event:?}", entry.seq)));
            }
            user.append(id, entry.at, item, &self.convs)?;
            self.check_own_effects(id, &user)?;
        }
        self.synced.insert(id.clone(), known);
        self.users.insert(id.clone(), user);
        Ok(())
    }
}

fn dense(head: Head, seqs: impl Iterator<Item = u64>, floor: u64, known: u64) -> Check {
    if head.position.seq < known {
        return Err(format!("head went back from {known} to {}", head.position.seq));
    }
    let found: Vec<u64> = seqs.collect();
    let due: Vec<u64> = (floor + 1..=head.position.seq).collect();
    if found == due { Ok(()) } else { Err(format!("entries are {found:?}, head {head:?}")) }
}

/// Order in a set does not count.
fn plain(mut event: Event) -> Event {
    if let Event::Conversation { change: ConversationChange::Created { members, .. }, .. } = &mut event {
        members.sort();
    }
    event
}

/// Equal, but for what a later recall has erased.
pub fn alike(due: &Event, found: &Event) -> bool {
    match (due, found) {
        (Event::Message(due), Event::Message(found)) if found.recalled => stub(due.clone()) == *found,
        (Event::Edit { target: a, by: x, .. }, Event::Edit { target: b, by: y, body, .. }) if body.len() == 2 => {
            (a, x) == (b, y)
        }
        _ => *due == plain(found.clone()),
    }
}

/// An entry as the store must hold it now.
fn as_stored(conv: &Conv, seq: u64) -> Event {
    let event = conv.entry(seq).expect("in the log").event.clone();
    match event {
        Event::Message(message) if conv.fate(seq).recall.is_some() => Event::Message(stub(message)),
        Event::Edit { conv_id, conv_seq, target, by, edited_at, .. } if conv.fate(target).recall.is_some() => {
            let body = Body::parse("{}").expect("an object");
            Event::Edit { conv_id, conv_seq, target, by, body, edited_at }
        }
        event => event,
    }
}
