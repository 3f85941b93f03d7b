//! The plain model of what is promised: it is told what clients asked and what they were told, and says
//! what contradicts the promises at once (`frames`, `answers`, `sends`); what only the end can show is judged in
//! `judge`.
//!
//! It imports nothing of the service but the frames, and knows neither engine, store nor hub. Written
//! from the contract, not from the code.

use std::collections::{BTreeMap, VecDeque};

use everline::protocol::*;

use crate::large::Given;
use crate::notices::Notices;
use crate::sends::{Key, Sent};

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
    pub hello: Option<(u64, Hello)>,
    /// What the user had been told when hello was said: head, floor, number of duties.
    pub known: (u64, u64, usize),
    pub welcome: Option<Welcome>,
    /// Where the next frame must continue.
    pub position: u64,
    /// A `sync` that failed may have moved it to here.
    pub moved: Option<u64>,
    pub acked: u64,
    /// A reset announced by `welcome`, not seen yet.
    pub owes_reset: bool,
    pub asked: BTreeMap<MsgId, Asked>,
    pub syncs: VecDeque<(MsgId, u64)>,
    /// Told of large conversations, or known by the device before.
    pub heads: BTreeMap<ConvId, u64>,
    /// Reached the head and said so.
    pub live: bool,
    pub closed: Option<u16>,
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
    pub seen_at: BTreeMap<u64, u64>,
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
    pub epoch: Option<String>,
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
    /// Entries given by `heads`.
    pub given: Vec<Given>,
    pub notices: Notices,
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
pub(crate) use hold;

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
            given: Vec::new(),
            notices: Notices::default(),
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
            heads: BTreeMap::new(),
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
                let number = conn;
                let conn = &mut self.conns[conn];
                (conn.hello, conn.known) = (Some((now, hello)), known);
                self.greets(number);
            }
            ClientFrame::Ack { seq } | ClientFrame::Pong { seq } => {
                let conn = &mut self.conns[conn];
                conn.acked = conn.acked.max(seq);
            }
            ClientFrame::Typing { .. } => {}
            ClientFrame::Request(Envelope { id, request }) => {
                self.note_request(conn, &request);
                let conn = &mut self.conns[conn];
                if let Request::Sync { after_seq } = request {
                    conn.syncs.push_back((id.clone(), after_seq));
                }
                conn.asked.insert(id, Asked { at: now, request, answered: false });
            }
        }
    }

    fn note_request(&mut self, conn: ConnId, request: &Request) {
        let user = self.conns[conn].user.clone();
        let person = self.people.get_mut(&user).expect("opened before");
        match request {
            Request::Send(send) => self.asks_send(conn, send),
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
            ServerFrame::Heads { conversations } => self.heads(conn, conversations),
            ServerFrame::Typing { .. } | ServerFrame::Presence { .. } => {}
            ServerFrame::Unknown => self.blame(format!("conn {conn}: a frame of an unknown type")),
        }
    }

    pub fn person(&mut self, conn: ConnId) -> &mut Person {
        self.people.get_mut(&self.conns[conn].user).expect("opened before")
    }

    /// A head and a floor were told to this user.
    pub fn heard(&mut self, conn: ConnId, head: u64, floor: u64) {
        let person = self.person(conn);
        person.head = person.head.max(head);
        person.floor = person.floor.max(floor);
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
