//! The plain model of what is promised: it is told what clients asked and what they were told, and says
//! what contradicts the promises at once; what only the end can show is judged in `judge`.
//!
//! It imports nothing of the service but the frames, and knows neither engine, store nor hub. Written
//! from the contract, not from the code.

use std::collections::{BTreeMap, VecDeque};

use everline::protocol::*;

/// What the model must know of the configuration.
#[derive(Debug, Clone)]
pub struct Rules {
    pub max_entries: u64,
    pub window: u64,
}

pub type ConnId = usize;
/// How often each kind of thing happened.
pub type Tally = BTreeMap<&'static str, u64>;

/// A request under way.
#[derive(Debug, Clone)]
pub struct Asked {
    pub at: u64,
    pub request: Request,
    pub answered: bool,
}

/// One connection of a device, as seen from its edge.
#[derive(Debug)]
pub struct Conn {
    pub user: UserId,
    pub device: DeviceId,
    hello: Option<(u64, Hello)>,
    /// What the user had been told when hello was said: head, floor, number of duties.
    known: (u64, u64, usize),
    pub welcome: Option<Welcome>,
    /// Where the next frame must continue.
    position: u64,
    /// A `sync` that failed may have moved it to here.
    moved: Option<u64>,
    acked: u64,
    /// A reset announced by `welcome`, not seen yet.
    owes_reset: bool,
    asked: BTreeMap<MsgId, Asked>,
    syncs: VecDeque<(MsgId, u64)>,
    /// Reached the head and said so.
    pub live: bool,
    pub closed: Option<u16>,
}

/// A message's key.
pub type Key = (UserId, ConvId, MsgId);

/// What is known of a key.
#[derive(Debug, Clone)]
pub struct Sent {
    pub send: Send,
    /// When it was first asked, and on which connection.
    pub asked: u64,
    pub conn: ConnId,
    /// When it was first told, and where the message is.
    pub told: Option<(u64, u64)>,
    /// Refused for good at least once.
    pub refused: bool,
}

/// What a user was told over all his devices.
#[derive(Debug, Default)]
pub struct Person {
    pub head: u64,
    pub floor: u64,
    /// His sync timeline as far as it was shown.
    pub seen: BTreeMap<u64, Event>,
    /// Numbers a frame covered without showing them, and to which connection.
    pub left_out: Vec<(u64, ConnId)>,
    /// When each was first shown.
    seen_at: BTreeMap<u64, u64>,
    /// Entries that answers said are there: when, where.
    pub duties: Vec<(u64, ConvId, u64)>,
    /// Number of duties before a hello, and the head it was answered with.
    pub welcomes: Vec<(usize, u64)>,
    /// Deleted by an acked request: when, where, what.
    pub hidden: Vec<(u64, ConvId, Range)>,
    /// The same, asked for only.
    pub may_hide: Vec<(ConvId, Range)>,
    /// Read by an acked request.
    pub read: BTreeMap<ConvId, u64>,
    pub may_read: BTreeMap<ConvId, u64>,
    /// Messages shown by reads.
    pub shown: BTreeMap<(ConvId, u64), u64>,
    /// Numbers told of conversations.
    pub heads: BTreeMap<ConvId, u64>,
}

/// A refusal to be judged at the end.
#[derive(Debug)]
pub struct Refused {
    pub user: UserId,
    pub asked: Asked,
    pub code: ErrorCode,
    /// The last own `joined` seen before it was asked.
    pub member_since: Option<u64>,
}

/// See the module.
#[derive(Debug)]
pub struct Model {
    pub rules: Rules,
    /// Counts what was told.
    pub now: u64,
    epoch: Option<String>,
    pub conns: Vec<Conn>,
    pub people: BTreeMap<UserId, Person>,
    /// The logs as far as anybody was shown them.
    pub logs: BTreeMap<ConvId, BTreeMap<u64, Event>>,
    pub sent: BTreeMap<Key, Sent>,
    /// Recalled for all we know: since when.
    pub recalled: BTreeMap<(ConvId, u64), u64>,
    /// Changes acked: kind of request, user, place.
    pub acked: Vec<(UserId, Request, ConvId, u64)>,
    pub creates: BTreeMap<String, (UserId, HistoryMode, Option<ConvId>)>,
    pub refusals: Vec<Refused>,
    pub wrong: Vec<String>,
    pub tally: Tally,
}

macro_rules! hold {
    ($model:expr, $holds:expr, $($text:tt)*) => {
        if !$holds {
            let text = format!($($text)*);
            $model.blame(text);
        }
    };
}

impl Model {
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            now: 0,
            epoch: None,
            conns: Vec::new(),
            people: BTreeMap::new(),
            logs: BTreeMap::new(),
            sent: BTreeMap::new(),
            recalled: BTreeMap::new(),
            acked: Vec::new(),
            creates: BTreeMap::new(),
            refusals: Vec::new(),
            wrong: Vec::new(),
            tally: Tally::new(),
        }
    }

    pub fn blame(&mut self, text: String) {
        if self.wrong.len() < 20 {
            self.wrong.push(text);
        }
    }

    pub fn count(&mut self, what: &'static str) {
        *self.tally.entry(what).or_default() += 1;
    }

    /// A device opens a connection.
    pub fn opens(&mut self, user: &UserId, device: &DeviceId) -> ConnId {
        self.conns.push(Conn {
            user: user.clone(),
            device: device.clone(),
            hello: None,
            known: (0, 0, 0),
            welcome: None,
            position: 0,
            moved: None,
            acked: 0,
            owes_reset: false,
            asked: BTreeMap::new(),
            syncs: VecDeque::new(),
            live: false,
            closed: None,
        });
        self.people.entry(user.clone()).or_default();
        self.conns.len() - 1
    }

    /// The client has written a frame.
    pub fn asks(&mut self, conn: ConnId, frame: ClientFrame) {
        self.now += 1;
        let now = self.now;
        match frame {
            ClientFrame::Hello(hello) => {
                let person = &self.people[&self.conns[conn].user];
                let known = (person.head, person.floor, person.duties.len());
                let conn = &mut self.conns[conn];
                (conn.hello, conn.known) = (Some((now, hello)), known);
            }
            ClientFrame::Ack { seq } | ClientFrame::Pong { seq } => {
                let conn = &mut self.conns[conn];
                conn.acked = conn.acked.max(seq);
            }
            ClientFrame::Typing { .. } => {}
            ClientFrame::Request(Envelope { id, request }) => {
                self.note_request(conn, now, &request);
                let conn = &mut self.conns[conn];
                if let Request::Sync { after_seq } = request {
                    conn.syncs.push_back((id.clone(), after_seq));
                }
                conn.asked.insert(id, Asked { at: now, request, answered: false });
            }
        }
    }

    fn note_request(&mut self, conn: ConnId, now: u64, request: &Request) {
        let user = self.conns[conn].user.clone();
        let person = self.people.get_mut(&user).expect("opened before");
        match request {
            Request::Send(send) => {
                let conv = place(&user, send);
                let key = (user, conv, send.client_msg_id.clone());
                let first = Sent { send: send.clone(), asked: now, conn, told: None, refused: false };
                self.sent.entry(key).or_insert(first);
            }
            Request::Delete { conv_id, ranges } => {
                person.may_hide.extend(ranges.iter().map(|range| (conv_id.clone(), *range)));
            }
            Request::Clear { conv_id, up_to } => {
                person.may_hide.push((conv_id.clone(), Range { from: 1, to: *up_to }));
            }
            Request::Read { conv_id, read_seq } => {
                let may = person.may_read.entry(conv_id.clone()).or_default();
                *may = (*may).max(*read_seq);
            }
            Request::Create { title: Some(title), history, .. } => {
                self.creates.entry(title.clone()).or_insert((user, *history, None));
            }
            _ => {}
        }
    }

    /// The connection is gone, with a close frame's code if there was one.
    pub fn closes(&mut self, conn: ConnId, code: u16) {
        let conn = &mut self.conns[conn];
        (conn.closed, conn.live) = (Some(code), false);
    }

    /// The client can read a frame.
    pub fn told(&mut self, conn: ConnId, frame: ServerFrame) {
        self.now += 1;
        match frame {
            ServerFrame::Welcome(welcome) => self.welcomed(conn, welcome),
            ServerFrame::Sync(frame) => self.synced(conn, frame),
            ServerFrame::Reset(reset) => self.reset(conn, &reset),
            ServerFrame::Ping { head_seq } => {
                let position = self.conns[conn].position;
                hold!(self, head_seq >= position, "conn {conn}: a ping says head {head_seq}, sent was {position}");
                self.heard(conn, head_seq, 0);
            }
            ServerFrame::Answer(answer) => self.answered(conn, &answer),
            ServerFrame::Error(error) => self.refused(conn, &error),
            ServerFrame::Heads { .. } | ServerFrame::Typing { .. } | ServerFrame::Presence { .. } => {}
            ServerFrame::Unknown => self.blame(format!("conn {conn}: a frame of an unknown type")),
        }
    }

    fn person(&mut self, conn: ConnId) -> &mut Person {
        self.people.get_mut(&self.conns[conn].user).expect("opened before")
    }

    /// A head and a floor were told to this user.
    fn heard(&mut self, conn: ConnId, head: u64, floor: u64) {
        let person = self.person(conn);
        person.head = person.head.max(head);
        person.floor = person.floor.max(floor);
    }

    fn welcomed(&mut self, conn: ConnId, welcome: Welcome) {
        let at = &self.conns[conn];
        let Some((_, hello)) = at.hello.clone() else {
            return self.blame(format!("conn {conn}: welcomed without a hello"));
        };
        let (known, name) = (at.known, format!("conn {conn} ({} {})", at.user, at.device));
        let again = at.welcome.is_some();
        let named = welcome.user_id == at.user && welcome.device_id == at.device && welcome.id == hello.id;
        hold!(self, named && !again, "{name}: welcomed as another, or twice");
        let (head, floor) = (welcome.head_seq, welcome.floor_seq);
        let epoch = self.epoch.get_or_insert(welcome.epoch.clone()).clone();
        hold!(self, epoch == welcome.epoch, "{name}: epoch {} after {epoch}", welcome.epoch);
        hold!(self, head >= known.0, "{name}: head {head}, but {} was told before", known.0);
        hold!(self, floor >= known.1, "{name}: floor {floor}, but {} was told before", known.1);
        let least = head.saturating_sub(self.rules.max_entries);
        hold!(self, least <= floor && floor <= head, "{name}: floor {floor} of head {head}");
        let wanted = match &hello.cursor {
            None => SyncMode::Fresh,
            Some(cursor) if cursor.epoch != epoch || cursor.seq > head || cursor.seq < floor => SyncMode::Reset,
            Some(_) => SyncMode::Resumed,
        };
        let cursor = hello.cursor.as_ref().map(|cursor| cursor.seq);
        hold!(self, wanted == welcome.sync, "{name}: {:?} at {cursor:?} with floor {floor}, head {head}", welcome.sync);
        self.count(match welcome.sync {
            SyncMode::Fresh => "fresh",
            SyncMode::Resumed => "resumed",
            SyncMode::Reset => "resets",
        });
        self.heard(conn, head, floor);
        self.person(conn).welcomes.push((known.2, head));
        let conn = &mut self.conns[conn];
        conn.position = if welcome.sync == SyncMode::Resumed { cursor.unwrap_or(head) } else { head };
        conn.acked = conn.position;
        conn.owes_reset = welcome.sync == SyncMode::Reset;
        conn.welcome = Some(welcome);
    }

    fn reset(&mut self, conn: ConnId, reset: &Reset) {
        let at = &self.conns[conn];
        let name = format!("conn {conn} ({} {})", at.user, at.device);
        let Some(welcome) = &at.welcome else { return self.blame(format!("{name}: a reset before the welcome")) };
        let (head, position, owed) = (welcome.head_seq, at.position, at.owes_reset);
        let moved = at.moved;
        if owed {
            hold!(self, reset.head_seq == head, "{name}: a reset to {} of welcome's {head}", reset.head_seq);
        } else {
            let from = match &reset.id {
                Some(id) => match self.conns[conn].syncs.pop_front() {
                    Some((asked, after)) if asked == *id => after,
                    _ => return self.blame(format!("{name}: a reset answers a sync that was not asked")),
                },
                None => moved.map_or(position, |moved| moved.min(position)),
            };
            let right = match reset.reason {
                ResetReason::TooOld => from < reset.floor_seq,
                ResetReason::Ahead => from > reset.head_seq,
                ResetReason::EpochMismatch => false,
            };
            hold!(self, right, "{name}: {reset:?} at {from}");
            self.count("resets in mid-session");
        }
        let told = self.person(conn).head;
        hold!(self, owed || reset.head_seq >= position.min(told), "{name}: a reset goes back to {}", reset.head_seq);
        self.heard(conn, reset.head_seq, reset.floor_seq);
        let conn = &mut self.conns[conn];
        (conn.position, conn.acked, conn.owes_reset) = (reset.head_seq, reset.head_seq, false);
        conn.moved = None;
    }

    fn synced(&mut self, conn: ConnId, frame: SyncFrame) {
        let at = &self.conns[conn];
        let name = format!("conn {conn} ({} {})", at.user, at.device);
        let Some(welcome) = &at.welcome else { return self.blame(format!("{name}: a sync frame before the welcome")) };
        let (from, to, head) = (frame.from_seq, frame.to_seq, welcome.head_seq);
        let mut position = at.moved.filter(|moved| *moved == frame.from_seq).unwrap_or(at.position);
        hold!(self, !self.conns[conn].owes_reset, "{name}: a sync frame before the reset that was announced");
        if let Some(id) = &frame.id {
            match self.conns[conn].syncs.pop_front() {
                Some((asked, after)) if asked == *id => {
                    position = after;
                    self.conns[conn].acked = self.conns[conn].acked.max(after);
                    self.count("syncs answered");
                }
                _ => return self.blame(format!("{name}: a frame answers a sync that was not asked")),
            }
        }
        hold!(self, from == position && to >= from, "{name}: a frame ({from}, {to}] does not continue {position}");
        let limit = self.conns[conn].acked + self.rules.window;
        hold!(self, to <= limit, "{name}: a frame up to {to}, the window ends at {limit}");
        hold!(self, !frame.live || to >= head, "{name}: live at {to}, though welcome told {head}");
        let mut last = from;
        for entry in &frame.entries {
            let seq = entry.seq;
            hold!(self, seq > last && seq <= to, "{name}: entry {seq} behind {last} in ({from}, {to}]");
            last = seq;
            self.shows(conn, seq, &entry.event);
        }
        if from == position {
            let shown: Vec<u64> = frame.entries.iter().map(|entry| entry.seq).collect();
            let left_out = (from + 1..=to).filter(|seq| shown.binary_search(seq).is_err()).map(|seq| (seq, conn));
            self.person(conn).left_out.extend(left_out);
        }
        self.heard(conn, to, 0);
        let conn = &mut self.conns[conn];
        (conn.position, conn.moved) = (to, None);
        conn.live |= frame.live;
    }

    /// An entry of the sync timeline is shown.
    fn shows(&mut self, conn: ConnId, seq: u64, event: &Event) {
        let user = self.conns[conn].user.clone();
        let since = self.conns[conn].hello.as_ref().map_or(0, |(at, _)| *at);
        let name = format!("conn {conn} ({user} {})", self.conns[conn].device);
        let before = self.person(conn).seen.get(&seq).cloned();
        match before {
            Some(before) if !same(&before, event) => {
                self.blame(format!("{name}: {seq} was {before:?} and is {event:?}"));
            }
            Some(_) => {}
            None => {
                let now = self.now;
                let person = self.person(conn);
                person.seen_at.insert(seq, now);
                person.seen.insert(seq, event.clone());
            }
        }
        self.learns(&name, event);
        self.judge_shown(&name, &user, since, event);
    }

    /// Somebody was shown an entry of a conversation.
    fn learns(&mut self, name: &str, event: &Event) {
        let (Some(conv), Some(conv_seq)) = (event.conv_id(), event.conv_seq()) else { return };
        let log = self.logs.entry(conv.clone()).or_default();
        match log.get(&conv_seq) {
            Some(before) if !same(before, event) => {
                let before = before.clone();
                self.blame(format!("{name}: {conv} {conv_seq} was {before:?} and is {event:?}"));
            }
            Some(_) => {}
            None => drop(log.insert(conv_seq, event.clone())),
        }
        let now = self.now;
        match event {
            Event::Recall { target, .. } => {
                self.recalled.entry((conv.clone(), *target)).or_insert(now);
                self.count("recalls shown");
            }
            Event::Message(message) if message.recalled => {
                self.recalled.entry((conv.clone(), conv_seq)).or_insert(now);
                self.count("stubs shown");
            }
            _ => {}
        }
    }

    /// Whether a body may be shown by a read asked for at `since`.
    fn judge_shown(&mut self, name: &str, user: &UserId, since: u64, event: &Event) {
        let (conv, target, body) = match event {
            Event::Message(message) => (&message.conv_id, message.conv_seq, message.body.is_some()),
            Event::Edit { conv_id, target, .. } => (conv_id, *target, true),
            _ => return,
        };
        let recalled = self.recalled.get(&(conv.clone(), target)).copied();
        let late = body && recalled.is_some_and(|at| at < since);
        hold!(self, !late, "{name}: the body of {conv} {target} is served after its recall: {event:?}");
        if matches!(event, Event::Message(_)) {
            let hidden = self.people[user].hidden.iter();
            let mut hits = hidden.filter(|(at, of, range)| *at < since && of == conv && covers(*range, target));
            let hit = hits.next().is_some();
            hold!(self, !hit, "{name}: {conv} {target} is shown after its delete");
        }
    }

    /// The model of a request's answer.
    fn answered(&mut self, conn: ConnId, answer: &Answer) {
        let user = self.conns[conn].user.clone();
        let name = format!("conn {conn} ({user} {})", self.conns[conn].device);
        let Some(asked) = self.conns[conn].asked.get_mut(&answer.id) else {
            return self.blame(format!("{name}: an answer to nothing: {answer:?}"));
        };
        if std::mem::replace(&mut asked.answered, true) {
            return self.blame(format!("{name}: {} is answered twice", answer.id));
        }
        let asked = asked.clone();
        match (&answer.body, &asked.request) {
            (AnswerBody::Sent { conv_id, conv_seq, duplicate, .. }, Request::Send(send)) => {
                hold!(self, place(&user, send) == *conv_id, "{name}: sent to another conversation");
                self.acks_send(&name, user, send, &asked, (*conv_seq, *duplicate));
            }
            (AnswerBody::Ok { conv_id, conv_seq, seq }, request) => {
                self.acks_change(&name, conn, &asked, request, (conv_id.clone(), *conv_seq, *seq));
            }
            (AnswerBody::History { entries, head_seq, .. }, Request::History { conv_id, .. }) => {
                self.tells_history(&name, &user, &asked, conv_id, entries, *head_seq);
            }
            (AnswerBody::Changes { .. }, Request::Changes { conv_id, .. }) => {
                self.tells_changes(&name, &user, &asked, conv_id, &answer.body);
            }
            (AnswerBody::Conversations { conversations, .. }, Request::Conversations { .. }) => {
                for line in conversations {
                    let last = line.last.as_ref().map(|last| Event::Message(last.message.clone()));
                    if let Some(event) = &last {
                        self.judge_shown(&name, &user, asked.at, event);
                    }
                    let told =
                        self.people.get_mut(&user).expect("opened").heads.entry(line.conv_id.clone()).or_default();
                    *told = (*told).max(line.head_seq);
                }
            }
            (AnswerBody::Members { .. }, Request::Members { .. }) | (AnswerBody::Devices { .. }, Request::Devices) => {}
            (body, request) => self.blame(format!("{name}: {request:?} is answered {body:?}")),
        }
    }

    fn acks_send(&mut self, name: &str, user: UserId, send: &Send, asked: &Asked, told: (u64, bool)) {
        let (conv_seq, duplicate) = told;
        let (now, key) = (self.now, (user.clone(), place(&user, send), send.client_msg_id.clone()));
        let Some(sent) = self.sent.get_mut(&key) else { return self.blame(format!("{name}: {key:?} was never sent")) };
        match sent.told {
            None => sent.told = Some((now, conv_seq)),
            Some((at, before)) => {
                let right = before == conv_seq && (duplicate || at >= asked.at);
                hold!(self, right, "{name}: {key:?} was sent as {before}, now {conv_seq}, duplicate {duplicate}");
                self.count("duplicates");
            }
        }
        self.people.get_mut(&user).expect("opened").duties.push((now, key.1, conv_seq));
    }

    fn acks_change(
        &mut self,
        name: &str,
        conn: ConnId,
        asked: &Asked,
        request: &Request,
        told: (Option<ConvId>, Option<u64>, Option<u64>),
    ) {
        let (conv_id, conv_seq, seq) = told;
        let (now, user) = (self.now, self.conns[conn].user.clone());
        if let Some(seq) = seq {
            self.heard(conn, seq, 0);
        }
        let person = self.people.get_mut(&user).expect("opened before");
        match request {
            Request::Delete { conv_id, ranges } => {
                person.hidden.extend(ranges.iter().map(|range| (now, conv_id.clone(), *range)));
                self.count("deletes");
            }
            Request::Clear { conv_id, up_to } => {
                person.hidden.push((now, conv_id.clone(), Range { from: 1, to: *up_to }));
                self.count("clears");
            }
            Request::Read { conv_id, read_seq } => {
                let read = person.read.entry(conv_id.clone()).or_default();
                *read = (*read).max(*read_seq);
                self.count("reads");
            }
            Request::Create { title: Some(title), .. } => {
                let Some(made) = conv_id.clone() else {
                    return self.blame(format!("{name}: create is answered without a name"));
                };
                if let Some((_, _, known)) = self.creates.get_mut(title) {
                    let before = known.get_or_insert(made.clone()).clone();
                    hold!(self, before == made, "{name}: the same create made {before} and {made}");
                }
                self.count("creates");
            }
            Request::Recall { conv_id, target } => {
                self.recalled.entry((conv_id.clone(), *target)).or_insert(now);
                self.count("recalls");
            }
            _ => {}
        }
        if let (Some(conv), Some(conv_seq)) = (conv_id.or_else(|| request.conv_id().cloned()), conv_seq) {
            self.people.get_mut(&user).expect("opened before").duties.push((now, conv.clone(), conv_seq));
            self.acked.push((user, asked.request.clone(), conv, conv_seq));
        }
    }

    fn tells_history(
        &mut self,
        name: &str,
        user: &UserId,
        asked: &Asked,
        conv: &ConvId,
        entries: &[HistoryEntry],
        head: u64,
    ) {
        let mut last = 0;
        for entry in entries {
            let seq = entry.event.conv_seq().unwrap_or_default();
            hold!(self, seq > last && seq <= head, "{name}: history shows {seq} behind {last}, head {head}");
            last = seq;
            self.learns(name, &entry.event);
            self.judge_shown(name, user, asked.at, &entry.event);
            let person = self.people.get_mut(user).expect("opened before");
            person.shown.entry((conv.clone(), seq)).or_insert(asked.at);
        }
        self.tells_head(name, user, asked, conv, head);
        self.count("history");
    }

    /// Rule: after an answer the same user sees its effect.
    fn tells_head(&mut self, name: &str, user: &UserId, asked: &Asked, conv: &ConvId, head: u64) {
        let person = self.people.get_mut(user).expect("opened before");
        let due = person.duties.iter().filter(|(at, of, _)| *at < asked.at && of == conv).map(|(_, _, seq)| *seq).max();
        let told = person.heads.entry(conv.clone()).or_default();
        *told = (*told).max(head);
        let due = due.unwrap_or_default();
        hold!(self, head >= due, "{name}: {conv} has head {head}, but {due} was answered before");
    }

    fn tells_changes(&mut self, name: &str, user: &UserId, asked: &Asked, conv: &ConvId, body: &AnswerBody) {
        let AnswerBody::Changes { recalled, edited, up_to, deleted, cleared_up_to, more, .. } = body else { return };
        for change in recalled {
            let now = self.now;
            self.recalled.entry((conv.clone(), change.target)).or_insert(now);
        }
        for edit in edited {
            let at = self.recalled.get(&(conv.clone(), edit.target)).copied();
            let late = at.is_some_and(|at| at < asked.at);
            hold!(self, !late, "{name}: the edit of {conv} {} is told after its recall", edit.target);
        }
        if !more {
            self.tells_head(name, user, asked, conv, *up_to);
        }
        let hidden: Vec<Range> = self.people[user]
            .hidden
            .iter()
            .filter(|(at, of, _)| *at < asked.at && of == conv)
            .map(|(_, _, range)| *range)
            .collect();
        for range in hidden {
            // Only messages seen before are deleted by the generator, so nothing is clamped away but what
            // the user may not see.
            let gone = |seq: u64| seq <= *cleared_up_to || deleted.iter().any(|range| covers(*range, seq));
            let shown = |seq: u64| self.people[user].shown.contains_key(&(conv.clone(), seq));
            let kept = (range.from..=range.to.min(*up_to)).find(|seq| shown(*seq) && !gone(*seq));
            hold!(
                self,
                kept.is_none(),
                "{name}: {conv} {kept:?} was deleted, changes tell {deleted:?} {cleared_up_to}"
            );
        }
        self.count("changes");
    }

    fn refused(&mut self, conn: ConnId, error: &ErrorFrame) {
        let Some(id) = &error.id else {
            if error.code == ErrorCode::TokenExpired {
                self.count("tokens expired in session");
            }
            return;
        };
        let at = &mut self.conns[conn];
        let (user, name) = (at.user.clone(), format!("conn {conn} ({} {})", at.user, at.device));
        if at.hello.as_ref().is_some_and(|(_, hello)| hello.id == *id) && at.welcome.is_none() {
            return;
        }
        let Some(asked) = at.asked.get_mut(id) else {
            return self.blame(format!("{name}: an error answers nothing: {error:?}"));
        };
        if std::mem::replace(&mut asked.answered, true) {
            return self.blame(format!("{name}: {id} is answered twice"));
        }
        let asked = asked.clone();
        if matches!(asked.request, Request::Sync { .. }) {
            let conn = &mut self.conns[conn];
            conn.moved = conn.syncs.iter().find(|(open, _)| open == id).map(|(_, after)| *after);
            conn.syncs.retain(|(open, _)| open != id);
        }
        if matches!(error.code, ErrorCode::Unavailable | ErrorCode::Overloaded | ErrorCode::RateLimited) {
            self.count(if error.code == ErrorCode::Unavailable { "unavailable" } else { "overloaded" });
            return;
        }
        self.count("refused");
        if let Request::Send(send) = &asked.request {
            let key = (user.clone(), place(&user, send), send.client_msg_id.clone());
            if let Some(sent) = self.sent.get_mut(&key) {
                // A repetition of what was accepted is always a success, unless it says something else.
                let again = sent.told.is_some_and(|(at, _)| at < asked.at) && sent.send == *send;
                sent.refused = true;
                hold!(self, !again, "{name}: {key:?} was sent, now {}", error.code);
            }
        }
        let member_since = asked.request.conv_id().and_then(|conv| self.joined(&user, conv, asked.at));
        self.refusals.push(Refused { user, asked, code: error.code, member_since });
    }

    /// The last `joined` (or `created`) of this user he has been shown, when no end of it was shown.
    fn joined(&self, user: &UserId, conv: &ConvId, before: u64) -> Option<u64> {
        let (mut since, person) = (None, &self.people[user]);
        let early = person.seen.iter().filter(|(seq, _)| person.seen_at.get(seq).is_some_and(|at| *at < before));
        for event in early.map(|(_, event)| event).filter(|event| event.conv_id() == Some(conv)) {
            match event {
                Event::Member { change: MemberChange::Joined, user_id, conv_seq, .. } if user_id == user => {
                    since = Some(*conv_seq);
                }
                Event::Member { change: MemberChange::Left | MemberChange::Removed, user_id, .. }
                    if user_id == user =>
                {
                    since = None;
                }
                Event::Conversation { change: ConversationChange::Created { .. }, conv_seq, .. } => {
                    since = Some(*conv_seq);
                }
                _ => {}
            }
        }
        since
    }
}

/// Where a message goes.
pub fn place(user: &UserId, send: &Send) -> ConvId {
    match &send.to {
        SendTo::Conv(conv) => conv.clone(),
        SendTo::User(other) => ConvId::direct(user, other),
    }
}

pub fn covers(range: Range, seq: u64) -> bool {
    range.from <= seq && seq <= range.to
}

/// Whether two views of an entry are of the same one. Bodies change by edits and go by recalls.
pub fn same(one: &Event, other: &Event) -> bool {
    match (one, other) {
        (Event::Message(one), Event::Message(other)) => {
            let key = |message: &Message| {
                (message.conv_id.clone(), message.conv_seq, message.sender_id.clone(), message.client_msg_id.clone())
            };
            key(one) == key(other) && one.sent_at == other.sent_at
        }
        (
            Event::Edit { conv_id, conv_seq, target, by, .. },
            Event::Edit { conv_id: c, conv_seq: s, target: t, by: b, .. },
        ) => (conv_id, conv_seq, target, by) == (c, s, t, b),
        _ => one == other,
    }
}
