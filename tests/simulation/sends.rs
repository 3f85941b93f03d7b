//! Messages sent: which connection asked for each and when, what came of every asking; and at the end whether
//! each message stands where the order of the connection that made it puts it.
//!
//! The promise is about one connection: its requests on one conversation take effect in the order sent. A message
//! asked for on several connections (an application that tries again elsewhere) is made by one of the askings, and
//! only the order of that one's connection binds its place; the others find it there.

use std::collections::BTreeMap;

use everline::protocol::*;

use crate::judge::Stored;
use crate::log::Log;
use crate::model::{Asked, ConnId, Model, hold, place};

/// A message's key.
pub type Key = (UserId, ConvId, MsgId);

/// What is known of a key.
#[derive(Debug, Clone)]
pub struct Sent {
    pub send: Send,
    /// When it was first told, and where the message is.
    pub told: Option<(u64, u64)>,
    /// In the order asked.
    askings: Vec<Asking>,
}

/// One request for a message.
#[derive(Debug, Clone, Copy)]
struct Asking {
    at: u64,
    conn: ConnId,
    fate: Fate,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// No answer, or `unavailable`: it takes effect at its place all the same, if it reached a node that lives.
    Open,
    /// `sent`: it made the message.
    Made,
    /// `sent`, and it was there already.
    Found,
    /// Of no effect.
    Refused,
}

impl Sent {
    pub fn first_asked(&self) -> u64 {
        self.askings.first().map_or(0, |asking| asking.at)
    }

    fn came_to(&mut self, at: u64, fate: Fate) {
        self.askings.iter_mut().filter(|asking| asking.at == at).for_each(|asking| asking.fate = fate);
    }

    /// Those that may have made the message.
    fn makers(&self) -> Vec<Asking> {
        let of = |fate| self.askings.iter().filter(move |asking| asking.fate == fate).copied();
        let made: Vec<_> = of(Fate::Made).collect();
        if made.is_empty() { of(Fate::Open).collect() } else { made }
    }
}

fn key(user: &UserId, send: &Send) -> Key {
    (user.clone(), place(user, send), send.client_msg_id.clone())
}

impl Model {
    pub fn asks_send(&mut self, conn: ConnId, send: &Send) {
        let asking = Asking { at: self.now, conn, fate: Fate::Open };
        let key = key(&self.conns[conn].user, send);
        let sent = self.sent.entry(key).or_insert_with(|| Sent { send: send.clone(), told: None, askings: Vec::new() });
        sent.askings.push(asking);
    }

    pub fn acks_send(&mut self, name: &str, conn: ConnId, send: &Send, asked: &Asked, told: (u64, bool)) {
        let ((conv_seq, duplicate), now) = (told, self.now);
        let key = key(&self.conns[conn].user, send);
        let Some(sent) = self.sent.get_mut(&key) else { return self.blame(format!("{name}: {key:?} was never sent")) };
        let fate = if duplicate { Fate::Found } else { Fate::Made };
        let again = !duplicate && sent.askings.iter().any(|asking| asking.fate == Fate::Made);
        sent.came_to(asked.at, fate);
        match sent.told {
            None => sent.told = Some((now, conv_seq)),
            Some((_, before)) => {
                hold!(
                    self,
                    before == conv_seq && !again,
                    "{name}: {key:?} was sent as {before}, now {conv_seq}, duplicate {duplicate}"
                );
                self.count("duplicates");
            }
        }
        let (user, conv, _) = key;
        self.people.get_mut(&user).expect("opened").duties.push((now, conv, conv_seq));
    }

    pub fn refuses_send(&mut self, name: &str, conn: ConnId, send: &Send, asked: &Asked, code: ErrorCode) {
        let key = key(&self.conns[conn].user, send);
        let Some(sent) = self.sent.get_mut(&key) else { return };
        sent.came_to(asked.at, Fate::Refused);
        // A repetition of what was accepted is always a success, unless it says something else.
        let busy = matches!(code, ErrorCode::Overloaded | ErrorCode::RateLimited);
        let again = !busy && sent.told.is_some_and(|(at, _)| at < asked.at) && sent.send == *send;
        hold!(self, !again, "{name}: {key:?} was sent, now {code}");
    }

    /// Messages of one connection to one conversation stand in the order sent.
    pub fn judge_order(&self, stored: &Stored, wrong: &mut Vec<String>) {
        let lines = self.lines(stored);
        for ((user, conv, id), sent) in &self.sent {
            let log = stored.logs.get(conv);
            let Some(seq) = log.and_then(|log| log.keys.get(&(user.clone(), id.clone()))) else { continue };
            let makers = sent.makers();
            let in_order = |maker: &Asking| {
                let line = lines.get(&(maker.conn, conv)).map_or(&[][..], |line| line);
                let before = line.partition_point(|(at, _)| *at < maker.at);
                before.checked_sub(1).and_then(|last| line.get(last)).is_none_or(|(_, highest)| highest <= seq)
            };
            if !makers.iter().any(in_order) {
                let text = format!("{id} of {user} stands at {seq} of {conv} against the order of its connection");
                wrong.push(format!(
                    "{text}: {:?}; before it {:?}",
                    sent.askings,
                    makers.first().map(|maker| { lines.get(&(maker.conn, conv)) })
                ));
            }
        }
    }

    /// By connection and conversation: when something was asked, and the highest place its effect, or that of
    /// anything asked before, needed to be there already. What never took effect needed the impossible.
    fn lines<'a>(&'a self, stored: &Stored) -> BTreeMap<(ConnId, &'a ConvId), Vec<(u64, u64)>> {
        let mut lines: BTreeMap<(ConnId, &ConvId), Vec<(u64, u64)>> = BTreeMap::new();
        for ((user, conv, id), sent) in &self.sent {
            let Some(log) = stored.logs.get(conv) else { continue };
            let seq = log.keys.get(&(user.clone(), id.clone()));
            for asking in sent.askings.iter().filter(|asking| takes_effect(log, user, &sent.send, asking)) {
                lines.entry((asking.conn, conv)).or_default().push((asking.at, seq.copied().unwrap_or(u64::MAX)));
            }
        }
        for line in lines.values_mut() {
            line.sort_unstable();
            let mut highest = 0;
            line.iter_mut().for_each(|(_, seq)| {
                highest = highest.max(*seq);
                *seq = highest;
            });
        }
        lines
    }
}

/// Whether an asking has its effect before any later one of its connection has. Without an answer that is certain
/// only if it could not be refused.
fn takes_effect(log: &Log, user: &UserId, send: &Send, asking: &Asking) -> bool {
    match asking.fate {
        Fate::Made | Fate::Found => true,
        Fate::Refused => false,
        Fate::Open => send.reply_to.is_none() && log.stays.get(user).is_some_and(|stays| stays == &[(1, None)]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Rules;

    /// What a request came to.
    #[derive(Clone, Copy)]
    enum Came {
        Made,
        Found,
        Refused,
        Unavailable,
        Nothing,
    }
    use Came::*;

    /// Requests in the order asked, and the log at the end.
    type Case = (&'static [(ConnId, &'static str, Came)], &'static [&'static str]);

    fn id(name: &str) -> MsgId {
        MsgId::parse(name).expect("a name")
    }

    fn user() -> UserId {
        UserId::parse("alice").expect("a user")
    }

    fn conv() -> ConvId {
        ConvId::parse("d:alice:bob").expect("a conversation")
    }

    fn send(name: &str) -> Send {
        let body = Body::from_value(&serde_json::json!({})).expect("an object");
        Send { to: SendTo::Conv(conv()), client_msg_id: id(name), body, reply_to: None, mentions: vec![] }
    }

    fn message(name: &str, conv_seq: u64) -> Event {
        Event::Message(Message {
            conv_id: conv(),
            conv_seq,
            sender_id: user(),
            client_msg_id: id(name),
            sent_at: 1,
            body: None,
            reply_to: None,
            mentions: vec![],
            recalled: false,
            edited_at: None,
        })
    }

    /// Requests (connection, message, what it came to) in the order asked, all answered afterwards, and the log
    /// that stands at the end: what is wrong with it.
    fn judged(requests: &[(ConnId, &str, Came)], log: &[&str]) -> Vec<String> {
        let mut model = Model::new(Rules { max_entries: 1000, window: 500 });
        for device in ["a", "b"] {
            model.opens(&user(), &DeviceId::parse(device).expect("a device"));
        }
        for (at, (conn, name, _)) in requests.iter().enumerate() {
            let envelope = Envelope { id: id(&format!("r{at}")), request: Request::Send(send(name)) };
            model.asks(*conn, ClientFrame::Request(envelope));
        }
        for (at, (conn, name, came)) in requests.iter().enumerate() {
            let conv_seq = log.iter().zip(1..).find(|(there, _)| *there == name).map_or(0, |(_, seq)| seq);
            let id = id(&format!("r{at}"));
            let sent = |duplicate| AnswerBody::Sent { conv_id: conv(), conv_seq, sent_at: 1, duplicate };
            let frame = match came {
                Made => ServerFrame::Answer(Answer { id, body: sent(false) }),
                Found => ServerFrame::Answer(Answer { id, body: sent(true) }),
                Refused => ServerFrame::Error(ErrorFrame::new(Some(id), ErrorCode::Overloaded)),
                Unavailable => ServerFrame::Error(ErrorFrame::new(Some(id), ErrorCode::Unavailable)),
                Nothing => continue,
            };
            model.told(*conn, frame);
        }
        let entries = log.iter().zip(1..).map(|(name, seq)| message(name, seq)).collect();
        let log = Log::fold(&conv(), entries, |_| false);
        let stored = Stored { logs: BTreeMap::from([(conv(), log)]), ..Stored::default() };
        let mut wrong = model.wrong.clone();
        model.judge_order(&stored, &mut wrong);
        wrong
    }

    #[test]
    fn the_order_of_a_connection_is_demanded_of_what_it_made() {
        let right: [Case; 7] = [
            (&[(0, "m1", Made), (0, "m2", Made)], &["m1", "m2"]),
            (&[(0, "m1", Made), (1, "m2", Made)], &["m2", "m1"]),
            // Seed 646: another device tried the second again, and was faster.
            (&[(0, "m1", Made), (0, "m2", Found), (1, "m2", Made)], &["m2", "m1"]),
            (&[(0, "m1", Made), (0, "m2", Nothing), (1, "m2", Nothing)], &["m2", "m1"]),
            (&[(0, "m1", Refused), (0, "m2", Made), (1, "m1", Made)], &["m2", "m1"]),
            (&[(0, "m1", Unavailable), (0, "m2", Made), (0, "m1", Found)], &["m1", "m2"]),
            (&[(0, "m1", Nothing), (0, "m2", Nothing)], &["m1"]),
        ];
        for (requests, log) in right {
            assert_eq!(judged(requests, log), [""; 0], "{log:?}");
        }
        let wrong: [Case; 7] = [
            (&[(0, "m1", Made), (0, "m2", Made)], &["m2", "m1"]),
            (&[(0, "m1", Nothing), (0, "m2", Made)], &["m2", "m1"]),
            (&[(0, "m1", Unavailable), (0, "m2", Made)], &["m2"]),
            // Here the other device only found it there.
            (&[(0, "m1", Made), (0, "m2", Made), (1, "m2", Found)], &["m2", "m1"]),
            // What a connection found there, it found before it made the next.
            (&[(0, "m1", Found), (0, "m2", Made), (1, "m1", Made)], &["m2", "m1"]),
            (&[(0, "m1", Found)], &["m1"]),
            (&[(0, "m1", Made), (1, "m1", Made)], &["m1"]),
        ];
        for (requests, log) in wrong {
            assert_ne!(judged(requests, log), [""; 0], "{log:?}");
        }
    }
}
