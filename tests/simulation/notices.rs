//! Notifications of the server API: what was asked under which key and what each call was told; at the end
//! whether everybody addressed has each once, in order, and nobody else has any.
//!
//! Imports nothing of the service but the frames. A notification to users stands in their sync timelines and
//! nowhere else, so a device gets what comes behind its beginning, or behind the head of its last reset. One to
//! everybody stands in `b:all`, which any device of a user can read from his first hello on.

use std::collections::{BTreeMap, BTreeSet};

use everline::protocol::*;

use crate::judge::{Item, Stored, Sync};
use crate::model::{Asked, ConnId, Model, hold};

/// What the application's server wants, under a key.
#[derive(Debug, Clone)]
pub struct Notice {
    pub key: MsgId,
    /// `None`: everybody.
    pub to: Option<Vec<UserId>>,
    pub topic: MsgId,
    pub body: Body,
}

/// What a device shows: place in `b:all`, or none; what.
pub type Told = (Option<u64>, MsgId, Body);

/// A notice and the calls for it.
#[derive(Debug)]
struct Known {
    notice: Notice,
    /// When each was asked; when it was answered, and how many it made.
    calls: Vec<(u64, Option<(u64, u64)>)>,
}

/// Where the present life of a device begins.
#[derive(Debug, Clone, Copy, Default)]
struct Since {
    /// Everything behind it in the user's timeline comes to the device.
    seq: u64,
    /// Everything asked for later comes by `b:all`: the device has been told where that stands, or has come back
    /// without.
    at: Option<u64>,
}

/// What the model knows of notifications.
#[derive(Debug, Default)]
pub struct Notices {
    known: BTreeMap<MsgId, Known>,
    /// A user's first hello: when it was asked, when one was first answered.
    hellos: BTreeMap<UserId, (u64, Option<u64>)>,
    since: BTreeMap<(UserId, DeviceId), Since>,
    /// What a device showed when it was last looked at.
    showed: BTreeMap<(UserId, DeviceId), Vec<Told>>,
    /// The first place of `b:all` a user can read.
    begins: BTreeMap<UserId, u64>,
}

impl Known {
    fn first_asked(&self) -> u64 {
        self.calls.first().map_or(u64::MAX, |call| call.0)
    }

    /// When it was first answered.
    fn acked(&self) -> Option<u64> {
        self.calls.iter().filter_map(|call| call.1).map(|(at, _)| at).min()
    }

    fn is_for(&self, user: &UserId) -> bool {
        self.notice.to.as_ref().is_some_and(|users| users.contains(user))
    }

    /// Who is to have it; everybody counts as one.
    fn count(&self) -> u64 {
        self.notice.to.as_ref().map_or(1, |users| users.iter().collect::<BTreeSet<_>>().len() as u64)
    }
}

impl Notices {
    /// Those that were accepted.
    pub fn accepted(&self) -> Vec<Notice> {
        self.known.values().filter(|known| known.acked().is_some()).map(|known| known.notice.clone()).collect()
    }

    fn find(&self, topic: &MsgId, body: &Body) -> Option<&Known> {
        self.known.values().find(|known| known.notice.topic == *topic && known.notice.body.same_value(body))
    }
}

impl Model {
    /// A call; tells its number.
    pub fn asks_notice(&mut self, notice: &Notice) -> u64 {
        self.now += 1;
        let new = || Known { notice: notice.clone(), calls: Vec::new() };
        self.notices.known.entry(notice.key.clone()).or_insert_with(new).calls.push((self.now, None));
        self.now
    }

    /// The call of that number was answered.
    pub fn acks_notice(&mut self, key: &MsgId, asked: u64, made: u64, duplicates: u64) {
        self.now += 1;
        let Some(known) = self.notices.known.get_mut(key) else { return };
        let named = known.notice.to.as_ref().map_or(1, |users| users.len() as u64);
        let everybody = known.notice.to.is_none();
        let before = known.acked();
        for call in known.calls.iter_mut().filter(|call| call.0 == asked) {
            call.1 = Some((self.now, made));
        }
        let all: u64 = known.calls.iter().filter_map(|call| call.1).map(|(_, made)| made).sum();
        let (count, open) = (known.count(), known.calls.iter().any(|call| call.1.is_none()));
        let late = before.is_some_and(|at| at < asked);
        hold!(self, made + duplicates == named, "{key}: {made} made, {duplicates} there, of {named}");
        hold!(self, all <= count, "{key}: {all} made for {count}");
        hold!(self, open || all == count, "{key}: only {all} made for {count}, and no call is open");
        hold!(self, !late || made == 0, "{key}: {made} made again after it was accepted");
        self.count(if everybody { "broadcasts" } else { "notifications" });
        if duplicates > 0 && before.is_some() {
            self.count("notified again");
        }
        if made > 0 && made < count {
            self.count("notified in part before");
        }
    }

    /// A call without an answer, or one that says nothing of the outcome.
    pub fn misses_notice(&mut self, key: &MsgId, code: Option<ErrorCode>) {
        self.now += 1;
        let unknown = code.is_none_or(|code| matches!(code, ErrorCode::Unavailable | ErrorCode::Overloaded));
        hold!(self, unknown, "{key}: a notification is refused: {code:?}");
        self.count("notifications unanswered");
    }

    /// An accepted key was used for something else.
    pub fn misused_key(&mut self, key: &MsgId, code: Option<ErrorCode>) {
        let right =
            matches!(code, Some(ErrorCode::IdempotencyConflict | ErrorCode::Unavailable | ErrorCode::Overloaded));
        hold!(self, right, "{key}: used for something else, answered {code:?}");
        if code == Some(ErrorCode::IdempotencyConflict) {
            self.count("keys misused");
        }
    }

    /// A device says hello.
    pub fn greets(&mut self, conn: ConnId) {
        let (now, user) = (self.now, self.conns[conn].user.clone());
        self.notices.hellos.entry(user).or_insert((now, None));
        self.follows_everybody(conn);
    }

    /// From now on its device gets what everybody is told.
    pub fn follows_everybody(&mut self, conn: ConnId) {
        let (now, at) = (self.now, &self.conns[conn]);
        if let Some(since) = self.notices.since.get_mut(&(at.user.clone(), at.device.clone())) {
            since.at.get_or_insert(now);
        }
    }

    /// It is welcomed, or reset: its sync timeline goes on behind `head`.
    pub fn begins_at(&mut self, conn: ConnId, mode: SyncMode, head: u64) {
        let (now, at) = (self.now, &self.conns[conn]);
        if let Some(hello) = self.notices.hellos.get_mut(&at.user) {
            hello.1.get_or_insert(now);
        }
        let since = self.notices.since.entry((at.user.clone(), at.device.clone())).or_default();
        match mode {
            SyncMode::Resumed => {}
            SyncMode::Fresh => {
                *since = Since { seq: head, at: None };
                // It holds nothing.
                self.notices.showed.remove(&(at.user.clone(), at.device.clone()));
            }
            SyncMode::Reset => since.seq = head,
        }
    }

    /// What may be asked of the logs behind notifications, and how it is answered.
    pub fn judge_reserved(&mut self, name: &str, asked: &Asked, code: Option<ErrorCode>) {
        let Some(conv) = asked.request.conv_id() else { return };
        let right = match (&asked.request, conv.is_everybody(), conv.is_reserved()) {
            (Request::History { .. }, true, _) => code.is_none(),
            (_, true, _) => code == Some(ErrorCode::Forbidden),
            (_, _, true) => code == Some(ErrorCode::NotFound),
            _ => return,
        };
        hold!(self, right, "{name}: {:?} is answered {code:?}", asked.request);
        self.count(if code.is_none() { "broadcasts looked up" } else { "system logs refused" });
    }

    /// Everything about the logs and timelines.
    pub fn judge_notices(&self, stored: &Stored, wrong: &mut Vec<String>) {
        let everybody = stored.logs.get(&ConvId::everybody()).map_or(&[][..], |log| &log.entries);
        self.judge_log("b:all", everybody, |known| known.notice.to.is_none(), wrong);
        let users: BTreeSet<&UserId> =
            self.notices.known.values().flat_map(|known| &known.notice.to).flatten().collect();
        for user in users.into_iter().chain(stored.notices.keys()).collect::<BTreeSet<_>>() {
            let log = stored.notices.get(user).map_or(&[][..], |log| log);
            self.judge_log(&format!("notices of {user}"), log, |known| known.is_for(user), wrong);
        }
        let empty = Sync::default();
        for user in self.people.keys().chain(stored.syncs.keys()).collect::<BTreeSet<_>>() {
            self.judge_timeline(user, stored.syncs.get(user).unwrap_or(&empty), stored, wrong);
        }
        for given in &self.given {
            let (least, _) = self.born(&given.user, everybody);
            if given.conv.is_everybody() && given.from < least {
                wrong.push(format!("{}: was given b:all from {}, came at {least}", given.user, given.from));
            }
        }
        for (user, person) in &self.people {
            let (least, _) = self.born(user, everybody);
            let early = person.shown.keys().find(|(conv, seq)| conv.is_everybody() && *seq < least);
            if let Some((_, seq)) = early {
                wrong.push(format!("{user}: reads {seq} of b:all, came at {least}"));
            }
        }
    }

    /// Each accepted one once, each other at most once, nothing else; one accepted before another was asked for
    /// stands before it.
    fn judge_log(&self, name: &str, log: &[Event], is_here: impl Fn(&Known) -> bool, wrong: &mut Vec<String>) {
        let mut places: BTreeMap<&MsgId, Vec<usize>> = BTreeMap::new();
        for (place, event) in log.iter().enumerate() {
            let Event::Notification { topic, body, .. } = event else {
                wrong.push(format!("{name}: holds {event:?}"));
                continue;
            };
            match self.notices.find(topic, body).filter(|known| is_here(known)) {
                Some(known) => places.entry(&known.notice.key).or_default().push(place),
                None => wrong.push(format!("{name}: {event:?} was never asked for here")),
            }
        }
        let here: Vec<&Known> = self.notices.known.values().filter(|known| is_here(known)).collect();
        for known in &here {
            let found = places.get(&known.notice.key).map_or(0, Vec::len);
            if found > 1 || (found == 0 && known.acked().is_some()) {
                wrong.push(format!("{name}: {} stands there {found} times: {:?}", known.notice.key, known.calls));
            }
        }
        let place = |known: &Known| places.get(&known.notice.key).and_then(|places| places.first());
        for one in &here {
            let Some(acked) = one.acked() else { continue };
            let later = here.iter().filter(|other| other.first_asked() > acked);
            if let Some(other) = later.into_iter().find(|other| place(other).is_some_and(|at| Some(at) < place(one))) {
                let (one, other) = (&one.notice.key, &other.notice.key);
                wrong.push(format!("{name}: {other} stands before {one}, and was asked for later"));
            }
        }
    }

    /// A user's timeline as far as it is kept or was shown to anybody.
    fn timeline(&self, user: &UserId, sync: &Sync) -> BTreeMap<u64, Option<(MsgId, Body)>> {
        let notice = |event: &Event| match event {
            Event::Notification { conv_id: None, topic, body, .. } => Some((topic.clone(), body.clone())),
            _ => None,
        };
        let kept = sync.items.iter().map(|(seq, item)| match item {
            Item::Own(event) => (*seq, notice(event)),
            Item::Log(..) => (*seq, None),
        });
        let seen = self.people.get(user).into_iter().flat_map(|person| &person.seen);
        kept.chain(seen.map(|(seq, event)| (*seq, notice(event)))).collect()
    }

    /// What is in the log came into the timeline, once and in that order, before it was accepted.
    fn judge_timeline(&self, user: &UserId, sync: &Sync, stored: &Stored, wrong: &mut Vec<String>) {
        let timeline = self.timeline(user, sync);
        let told: Vec<(u64, &MsgId, &Body)> =
            timeline.iter().filter_map(|(seq, told)| told.as_ref().map(|(topic, body)| (*seq, topic, body))).collect();
        // Numbers that expired before anybody was shown what they were.
        let unknown: Vec<u64> = (1..=sync.floor).filter(|seq| !timeline.contains_key(seq)).collect();
        let (mut next, mut missing) = (told.iter().peekable(), 0);
        for event in stored.notices.get(user).into_iter().flatten() {
            let Event::Notification { topic, body, .. } = event else { continue };
            if next.peek().is_some_and(|(_, t, b)| *t == topic && b.same_value(body)) {
                let seq = next.next().map_or(0, |told| told.0);
                self.judge_welcomes(user, seq, (topic, body), wrong);
                continue;
            }
            missing += 1;
            let end = next.peek().map_or(u64::MAX, |told| told.0);
            if unknown.iter().filter(|seq| **seq < end).count() < missing {
                wrong.push(format!("{user}: {topic} {body:?} is not in his timeline, or not in its place: {told:?}"));
            }
        }
        if let Some((seq, topic, body)) = next.next() {
            wrong.push(format!("{user} {seq}: {topic} {body:?} stands twice, out of order, or is not his"));
        }
    }

    /// Accepted is delivered: whoever says hello later is told a head that includes it.
    fn judge_welcomes(&self, user: &UserId, seq: u64, told: (&MsgId, &Body), wrong: &mut Vec<String>) {
        let Some(acked) = self.notices.find(told.0, told.1).and_then(Known::acked) else { return };
        for (number, conn) in self.conns.iter().enumerate().filter(|(_, conn)| conn.user == *user) {
            let (Some((at, _)), Some(welcome)) = (&conn.hello, &conn.welcome) else { continue };
            if *at > acked && welcome.head_seq < seq {
                let head = welcome.head_seq;
                wrong.push(format!("conn {number} ({user}): head {head}, but {} was accepted at {seq}", told.0));
            }
        }
    }

    /// Bounds of where `b:all` stood at a user's first hello.
    fn born(&self, user: &UserId, log: &[Event]) -> (u64, u64) {
        let Some((asked, told)) = self.notices.hellos.get(user) else { return (u64::MAX, u64::MAX) };
        let known = |event: &Event| match event {
            Event::Notification { topic, body, .. } => self.notices.find(topic, body),
            _ => None,
        };
        let place = |is: &dyn Fn(&Known) -> bool| {
            let last = log.iter().rposition(|event| known(event).is_some_and(is));
            last.map_or(0, |place| place as u64 + 1)
        };
        let least = place(&|known| known.acked().is_some_and(|at| at < *asked));
        (least, place(&|known| told.is_none_or(|told| known.first_asked() < told)))
    }

    /// A device at rest.
    pub fn judge_told(&mut self, user: &UserId, device: &DeviceId, shows: Vec<Told>, stored: &Stored) {
        let mut wrong = Vec::new();
        let id = (user.clone(), device.clone());
        let since = self.notices.since.get(&id).copied().unwrap_or_default();
        let empty = Sync::default();
        let timeline = self.timeline(user, stored.syncs.get(user).unwrap_or(&empty));
        let his: BTreeMap<&MsgId, (u64, &Body)> = timeline
            .iter()
            .filter_map(|(seq, told)| told.as_ref().map(|(topic, body)| (topic, (*seq, body))))
            .collect();
        let mut last = 0;
        for (_, topic, body) in shows.iter().filter(|told| told.0.is_none()) {
            let seq = his.get(topic).filter(|(_, his)| his.same_value(body)).map(|(seq, _)| *seq);
            if seq.is_none_or(|seq| seq <= last) {
                wrong.push(format!("{user} {device}: shows {topic} of {seq:?} behind {last}"));
            }
            last = seq.unwrap_or(last).max(last);
        }
        let held: BTreeSet<&MsgId> = shows.iter().filter(|told| told.0.is_none()).map(|told| &told.1).collect();
        let lacks = his.iter().find(|(topic, (seq, _))| *seq > since.seq && !held.contains(**topic));
        if let Some((topic, (seq, _))) = lacks {
            wrong.push(format!("{user} {device}: does not show {topic} of {seq}, has been there since {since:?}"));
        }
        self.judge_told_everybody((user, device), &shows, since, stored, &mut wrong);
        let before = self.notices.showed.get(&id).map_or(&[][..], |before| before);
        if shows.get(..before.len()) != Some(before) {
            wrong.push(format!("{user} {device}: shows {shows:?}, showed {before:?}"));
        }
        self.notices.showed.insert(id, shows);
        wrong.into_iter().for_each(|text| self.blame(text));
    }

    fn judge_told_everybody(
        &self,
        (user, device): (&UserId, &DeviceId),
        shows: &[Told],
        since: Since,
        stored: &Stored,
        wrong: &mut Vec<String>,
    ) {
        let log = stored.logs.get(&ConvId::everybody()).map_or(&[][..], |log| &log.entries);
        let (least, _) = self.born(user, log);
        let mut held = BTreeSet::new();
        for (place, topic, body) in shows {
            let Some(place) = place else { continue };
            let entry = usize::try_from(*place).ok().and_then(|place| log.get(place.checked_sub(1)?));
            let right = matches!(entry, Some(Event::Notification { topic: t, body: b, .. })
                if t == topic && b.same_value(body));
            if !right || !held.insert(*place) || *place < least {
                wrong.push(format!("{user} {device}: shows {topic} as {place} of b:all, which is {entry:?}"));
            }
        }
        for (event, place) in log.iter().zip(1..) {
            let Event::Notification { topic, body, .. } = event else { continue };
            let asked = self.notices.find(topic, body).map(Known::first_asked);
            let late = asked.zip(since.at).is_some_and(|(asked, at)| asked > at);
            if late && !held.contains(&place) {
                wrong.push(format!("{user} {device}: does not show {place} of b:all, has been there since {since:?}"));
            }
        }
    }

    /// All that a user can read of `b:all`, and his list.
    pub fn judge_everybody(&mut self, user: &UserId, read: &[u64], listed: &[ConvId], stored: &Stored) {
        let log = stored.logs.get(&ConvId::everybody()).map_or(&[][..], |log| &log.entries);
        let (least, most) = self.born(user, log);
        let (first, head) = (read.first().copied(), log.len() as u64);
        let whole = read.iter().copied().eq(first.unwrap_or(head + 1)..=head);
        let begins = first.unwrap_or(head + 1);
        let before = *self.notices.begins.entry(user.clone()).or_insert(begins);
        // A log that was empty when he came begins with its first entry.
        let in_time = least.max(1) <= begins && begins <= most.max(1);
        hold!(
            self,
            whole && begins == before && in_time,
            "{user}: reads {read:?} of b:all, which is at {head}; before from {before}, came at {least} to {most}"
        );
        let strange: Vec<_> = listed.iter().filter(|conv| conv.is_everybody() || conv.is_reserved()).collect();
        hold!(self, strange.is_empty(), "{user}: is listed {strange:?}");
    }
}
