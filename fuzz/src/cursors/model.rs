//! What alice's device may be told, by the contract: a plain judge of every frame. It panics over what is wrong.

use everline::protocol::limits::HISTORY_PLACES;
use everline::protocol::{
    AnswerBody, ClientFrame, Entry, Envelope, ErrorCode, ErrorFrame, Event, Hello, HistoryEntry, HistoryFrom, MsgId,
    Request, Reset, ResetReason, ServerFrame, SyncFrame, SyncMode, Welcome,
};

use crate::world::{Facts, Told, WINDOW, asked, body, conversation};

/// One device's session.
#[derive(Debug, Default)]
pub struct Model {
    hello: Option<Hello>,
    welcomed: bool,
    pub position: u64,
    acked: u64,
    /// The largest seq it can know of.
    told: u64,
    /// The welcome announced one.
    owed: Option<ResetReason>,
    /// A request without its answer.
    open: Option<Envelope>,
    /// An error must come: the id it carries, and its code.
    wrong: Option<(Option<MsgId>, ErrorCode)>,
    /// The session has ended, or must.
    pub over: bool,
}

impl Model {
    /// The device says something.
    pub fn says(&mut self, frame: ClientFrame) {
        match frame {
            ClientFrame::Hello(hello) if self.welcomed => {
                self.wrong = Some((Some(hello.id), ErrorCode::AlreadyConnected));
            }
            ClientFrame::Hello(hello) => self.hello = Some(hello),
            ClientFrame::Ack { seq } | ClientFrame::Pong { seq } if seq > self.told => {
                self.wrong = Some((None, ErrorCode::AckAhead));
                self.over = true;
            }
            ClientFrame::Ack { seq } | ClientFrame::Pong { seq } => self.acked = self.acked.max(seq),
            ClientFrame::Request(envelope) => self.open = Some(envelope),
            ClientFrame::Typing { .. } => {}
        }
    }

    /// Everything that was to come has come.
    pub fn settled(&self) {
        assert!(self.welcomed, "no welcome");
        assert!(self.owed.is_none(), "no reset, though the welcome announced one");
        assert!(self.over || self.open.is_none(), "not answered: {:?}", self.open);
        assert!(self.wrong.is_none(), "not told: {:?}", self.wrong);
    }

    /// The device hears something.
    pub fn hears(&mut self, facts: &Facts, frame: ServerFrame) {
        match frame {
            ServerFrame::Welcome(welcome) => self.welcome(facts, &welcome),
            ServerFrame::Reset(reset) => self.reset(facts, &reset),
            ServerFrame::Sync(frame) => self.sync(facts, &frame),
            ServerFrame::Answer(answer) => self.answer(facts, &answer.id, answer.body),
            ServerFrame::Error(error) => self.error(error),
            ServerFrame::Heads { .. } => {}
            other => panic!("unasked: {other:?}"),
        }
    }

    fn welcome(&mut self, facts: &Facts, welcome: &Welcome) {
        let hello = self.hello.take().expect("a welcome, once, after a hello");
        let (head, floor) = (facts.head(), facts.floor());
        assert_eq!((&welcome.id, &welcome.device_id), (&hello.id, &hello.device_id));
        assert_eq!((welcome.head_seq, welcome.floor_seq, &welcome.epoch), (head, floor, &facts.epoch));
        let (mode, position, owed) = match &hello.cursor {
            None => (SyncMode::Fresh, head, None),
            Some(cursor) if cursor.epoch != facts.epoch => (SyncMode::Reset, head, Some(ResetReason::EpochMismatch)),
            Some(cursor) if cursor.seq > head => (SyncMode::Reset, head, Some(ResetReason::Ahead)),
            Some(cursor) if cursor.seq < floor => (SyncMode::Reset, head, Some(ResetReason::TooOld)),
            Some(cursor) => (SyncMode::Resumed, cursor.seq, None),
        };
        assert_eq!(welcome.sync, mode, "{:?} at floor {floor}, head {head}", hello.cursor);
        (self.position, self.acked, self.told, self.owed) = (position, position, position, owed);
        self.welcomed = true;
    }

    fn reset(&mut self, facts: &Facts, reset: &Reset) {
        let (head, floor) = (facts.head(), facts.floor());
        assert_eq!((reset.head_seq, reset.floor_seq, &reset.epoch), (head, floor, &facts.epoch));
        if let Some(owed) = self.owed.take() {
            assert_eq!((reset.reason, &reset.id), (owed, &None));
        } else {
            let from = self.asked_sync(reset.id.as_ref()).unwrap_or(self.position);
            let right = match reset.reason {
                ResetReason::TooOld => from < floor,
                ResetReason::Ahead => from > head,
                ResetReason::EpochMismatch => false,
            };
            assert!(right, "{reset:?} at {from}");
        }
        (self.position, self.acked, self.told) = (head, head, self.told.max(head));
    }

    /// The `sync` under way, which this answers: where it asked from.
    fn asked_sync(&mut self, id: Option<&MsgId>) -> Option<u64> {
        let Some(Envelope { request: Request::Sync { after_seq }, id: asked }) = &self.open else {
            assert_eq!(id, None, "nobody asked");
            return None;
        };
        let after = *after_seq;
        assert_eq!(id, Some(asked), "the next frame answers the sync");
        self.open = None;
        Some(after)
    }

    fn sync(&mut self, facts: &Facts, frame: &SyncFrame) {
        assert!(self.welcomed && self.owed.is_none(), "before the welcome or its reset");
        if let Some(after) = self.asked_sync(frame.id.as_ref()) {
            assert!((facts.floor()..=facts.head()).contains(&after), "{after} is no cursor, and was answered");
            (self.position, self.acked, self.told) = (after, self.acked.max(after), self.told.max(after));
        }
        let (from, to, head) = (frame.from_seq, frame.to_seq, facts.head());
        assert_eq!(from, self.position, "a frame continues the one before");
        assert!(from <= to && to <= head, "({from}, {to}] of head {head}");
        assert!(to <= self.acked + WINDOW, "up to {to}, {} acknowledged", self.acked);
        assert!(from >= facts.floor() || from == to, "({from}, {to}] begins below the floor {}", facts.floor());
        assert_eq!(frame.live, to == head, "({from}, {to}] of head {head}");
        let mut entries = frame.entries.iter().peekable();
        for seq in from + 1..=to {
            let told = facts.timeline[seq as usize - 1];
            let entry = entries.next_if(|entry| entry.seq == seq);
            match told {
                Told::LeftOut => assert!(entry.is_none(), "{entry:?} is left out"),
                Told::Superseded(by) if by <= to => assert!(entry.is_none(), "{entry:?} is superseded"),
                told => shows(entry.unwrap_or_else(|| panic!("a gap at {seq} in ({from}, {to}]")), told),
            }
        }
        assert!(entries.next().is_none(), "not in ({from}, {to}], or not in order: {frame:?}");
        self.position = to;
        self.told = self.told.max(to);
    }

    fn answer(&mut self, facts: &Facts, id: &MsgId, answer: AnswerBody) {
        let open = self.open.take().expect("an answer nobody asked for");
        assert_eq!(*id, open.id);
        if open.request.conv_id() != Some(&conversation()) {
            return;
        }
        match (open.request, answer) {
            (Request::History { from, limit, .. }, AnswerBody::History { entries, next, complete, head_seq }) => {
                assert_eq!((head_seq, complete), (facts.conv_head, next.is_none()));
                history(facts, from, limit as usize, &entries, next);
            }
            (
                Request::Changes { since, .. },
                AnswerBody::Changes { recalled, edited, reacted, up_to, more, deleted, cleared_up_to },
            ) => {
                assert_eq!((more, up_to, cleared_up_to), (false, facts.conv_head, facts.cleared_up_to));
                assert_eq!(deleted, facts.deleted);
                let later =
                    |all: &[(u64, u64)]| -> Vec<_> { all.iter().copied().filter(|(_, at)| *at > since).collect() };
                let recalled: Vec<_> = recalled.iter().map(|change| (change.target, change.conv_seq)).collect();
                let edited: Vec<_> = edited.iter().map(|change| (change.target, change.conv_seq)).collect();
                assert_eq!((recalled, edited), (later(&facts.recalls), later(&facts.edits)), "since {since}");
                assert!(reacted.is_empty());
            }
            (request, answer) => panic!("{request:?} was answered {answer:?}"),
        }
    }

    fn error(&mut self, error: ErrorFrame) {
        if let Some(wrong) = self.wrong.take() {
            return assert_eq!((error.id, error.code), wrong);
        }
        let open = self.open.take().unwrap_or_else(|| panic!("nobody asked: {error:?}"));
        assert_eq!(error.id, Some(open.id));
        let elsewhere = open.request.conv_id().is_some_and(|conv| *conv != conversation());
        assert!(elsewhere && matches!(error.code, ErrorCode::NotFound | ErrorCode::Forbidden), "{error:?}");
    }
}

/// An entry is what was told at its seq.
fn shows(entry: &Entry, told: Told) {
    let found = match &entry.event {
        Event::Message(message) => {
            let whole = if message.recalled { None } else { Some(body(message.conv_seq)) };
            assert_eq!(message.body, whole, "{message:?}");
            Told::Message { conv_seq: message.conv_seq, recalled: message.recalled }
        }
        Event::Recall { conv_seq, target, .. } => Told::Recall { conv_seq: *conv_seq, target: *target },
        Event::Edit { conv_seq, target, .. } => Told::Edit { conv_seq: *conv_seq, target: *target },
        Event::Clear { .. } => Told::Own("clear"),
        Event::Delete { .. } => Told::Own("delete"),
        Event::Read { .. } => Told::Own("read"),
        other => panic!("{other:?}"),
    };
    let told = if let Told::Superseded(_) = told { Told::Own("read") } else { told };
    assert_eq!(found, told, "at {}", entry.seq);
}

/// A page: without a gap from where it was asked, and all of it when there is no `next`.
fn history(facts: &Facts, from: HistoryFrom, limit: usize, entries: &[HistoryEntry], next: Option<u64>) {
    let (all, newest_first) = asked(facts, from);
    let found = entries.iter().map(|entry| match &entry.event {
        Event::Message(message) => (message.conv_seq, message.sent_at, message.recalled),
        other => panic!("{other:?}"),
    });
    let found: Vec<_> = found.collect();
    let by_time = matches!(from, HistoryFrom::AfterAt(_));
    assert!(found.len() <= limit || by_time, "{} of {limit}", found.len());
    let covered = all.into_iter().filter(|(seq, at, _)| match next {
        None => true,
        Some(next) if newest_first => *seq >= next,
        Some(next) if by_time && next >= HISTORY_PLACES => *seq <= next - HISTORY_PLACES,
        Some(next) if by_time => *at < next,
        Some(next) => *seq <= next,
    });
    let covered: Vec<_> = covered.collect();
    assert_eq!(found, covered, "{from:?} limit {limit} next {next:?}");
}
