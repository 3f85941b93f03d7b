//! The order of one connection's requests on one conversation.
//!
//! Requests of one lane may be under way together: their lane keeps their order. A request for another
//! lane on the same conversation waits until the earlier ones are answered. It must not hold requests
//! that could run. How it can hurt: a conversation never released here hangs for this connection.

use std::collections::{HashMap, VecDeque};

use crate::protocol::{ConvId, Envelope, Request, SendTo, UserId};

/// Who keeps the order of a request once it is submitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    Conversation,
    Caller,
    /// Nobody: it reads.
    Read,
}

/// What is under way and waits on one conversation.
#[derive(Debug)]
struct Line {
    lane: Lane,
    running: usize,
    waiting: VecDeque<Envelope>,
}

/// All requests of a session that are not answered yet.
#[derive(Debug, Default)]
pub(super) struct Order {
    open: usize,
    lines: HashMap<ConvId, Line>,
}

impl Order {
    /// Requests not answered yet, waiting ones included.
    pub(super) fn open(&self) -> usize {
        self.open
    }

    /// A new request: given back when it can be submitted now, else kept in its line.
    pub(super) fn admit(&mut self, conv: Option<&ConvId>, envelope: Envelope) -> Option<Envelope> {
        self.open += 1;
        let Some(conv) = conv else { return Some(envelope) };
        let lane = lane(&envelope.request);
        let Some(line) = self.lines.get_mut(conv) else {
            self.lines.insert(conv.clone(), Line { lane, running: 1, waiting: VecDeque::new() });
            return Some(envelope);
        };
        if line.lane == lane && line.waiting.is_empty() {
            line.running += 1;
            return Some(envelope);
        }
        line.waiting.push_back(envelope);
        None
    }

    /// A request was answered: those that can be submitted now, in order.
    pub(super) fn answered(&mut self, conv: Option<&ConvId>) -> Vec<Envelope> {
        self.open = self.open.saturating_sub(1);
        let Some(line) = conv.and_then(|conv| self.lines.get_mut(conv)) else { return Vec::new() };
        line.running = line.running.saturating_sub(1);
        let mut ready = Vec::new();
        if line.running == 0 {
            if let Some(first) = line.waiting.front() {
                line.lane = lane(&first.request);
            }
            while line.waiting.front().is_some_and(|next| lane(&next.request) == line.lane) {
                ready.extend(line.waiting.pop_front());
            }
            line.running = ready.len();
        }
        if line.running == 0 {
            conv.and_then(|conv| self.lines.remove(conv));
            if self.lines.is_empty() {
                // An idle session keeps no table.
                self.lines = HashMap::new();
            }
        }
        ready
    }
}

/// The conversation a request is about, if it names one.
pub(super) fn conversation(me: &UserId, request: &Request) -> Option<ConvId> {
    match request {
        Request::Send(send) => Some(match &send.to {
            SendTo::Conv(conv) => conv.clone(),
            SendTo::User(user) => ConvId::direct(me, user),
        }),
        Request::Recall { conv_id, .. }
        | Request::Edit { conv_id, .. }
        | Request::React { conv_id, .. }
        | Request::Delete { conv_id, .. }
        | Request::Clear { conv_id, .. }
        | Request::Read { conv_id, .. }
        | Request::Settings { conv_id, .. }
        | Request::Invite { conv_id, .. }
        | Request::Remove { conv_id, .. }
        | Request::Leave { conv_id }
        | Request::Update { conv_id, .. }
        | Request::Role { conv_id, .. }
        | Request::History { conv_id, .. }
        | Request::Changes { conv_id, .. }
        | Request::Members { conv_id, .. } => Some(conv_id.clone()),
        Request::Create { .. }
        | Request::Sync { .. }
        | Request::Conversations { .. }
        | Request::Presence { .. }
        | Request::Auth { .. }
        | Request::Devices
        | Request::Logout { .. } => None,
    }
}

fn lane(request: &Request) -> Lane {
    match request {
        Request::Send(_)
        | Request::Recall { .. }
        | Request::Edit { .. }
        | Request::React { .. }
        | Request::Create { .. }
        | Request::Invite { .. }
        | Request::Remove { .. }
        | Request::Leave { .. }
        | Request::Update { .. }
        | Request::Role { .. } => Lane::Conversation,
        Request::Delete { .. } | Request::Clear { .. } | Request::Read { .. } | Request::Settings { .. } => {
            Lane::Caller
        }
        _ => Lane::Read,
    }
}

#[cfg(test)]
#[allow(clippy::panic, reason = "tests")]
mod tests {
    use super::*;
    use crate::protocol::ClientFrame;

    fn envelope(id: &str, rest: &str) -> Envelope {
        match ClientFrame::parse(&format!("{{\"id\":\"{id}\",{rest}}}")) {
            Ok(ClientFrame::Request(envelope)) => envelope,
            other => panic!("{other:?}"),
        }
    }

    fn me() -> UserId {
        UserId::parse("alice").expect("a user")
    }

    struct Fixture(Order);

    impl Fixture {
        fn admit(&mut self, id: &str, rest: &str) -> bool {
            let envelope = envelope(id, rest);
            let conv = conversation(&me(), &envelope.request);
            self.0.admit(conv.as_ref(), envelope).is_some()
        }

        fn answered(&mut self, conv: &str) -> Vec<String> {
            let conv = ConvId::parse(conv).expect("a conversation");
            self.0.answered(Some(&conv)).iter().map(|envelope| envelope.id.to_string()).collect()
        }
    }

    const SEND: &str = r#""type":"send","conv_id":"g:1","client_msg_id":"m","body":{}"#;
    const READ: &str = r#""type":"read","conv_id":"g:1","read_seq":1"#;
    const HISTORY: &str = r#""type":"history","conv_id":"g:1""#;

    #[test]
    fn one_lane_runs_together_and_another_waits() {
        let mut order = Fixture(Order::default());
        assert!(order.admit("1", SEND) && order.admit("2", SEND));
        assert!(!order.admit("3", READ));
        assert!(!order.admit("4", SEND), "a later one must not overtake");
        assert!(!order.admit("5", SEND));
        assert!(!order.admit("6", HISTORY));
        assert!(order.admit("7", r#""type":"history","conv_id":"g:2""#));
        assert!(order.admit("8", r#""type":"devices""#));
        assert_eq!(order.0.open(), 8);
        assert_eq!(order.answered("g:1"), [""; 0]);
        assert_eq!(order.answered("g:1"), ["3"]);
        assert_eq!(order.answered("g:1"), ["4", "5"]);
        assert_eq!(order.answered("g:1"), [""; 0]);
        assert_eq!(order.answered("g:1"), ["6"]);
        assert_eq!(order.answered("g:1"), [""; 0]);
        assert_eq!(order.answered("g:2"), [""; 0]);
        order.0.answered(None);
        assert_eq!((order.0.open(), order.0.lines.capacity()), (0, 0));
    }

    #[test]
    fn sending_to_a_user_is_sending_to_their_direct_conversation() {
        let mut order = Fixture(Order::default());
        assert!(order.admit("1", r#""type":"send","to":"bob","client_msg_id":"m","body":{}"#));
        assert!(!order.admit("2", r#""type":"history","conv_id":"d:alice:bob""#));
        assert_eq!(order.answered("d:alice:bob"), ["2"]);
    }
}
