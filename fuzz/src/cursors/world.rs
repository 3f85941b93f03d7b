//! A small engine on the simulated store, and what is in it: made anew for each input, always the same.

use std::sync::Arc;

use everline::auth::{Minter, Verifier};
use everline::config::{Clock, Policy, SessionLimits, Settings};
use everline::engine::{Caller, Engine};
use everline::hub::Hub;
use everline::protocol::limits::HISTORY_PLACES;
use everline::protocol::{
    AnswerBody, Body, ConvId, DeviceId, HistoryFrom, MsgId, Range, Request, Send, SendTo, UserId,
};
use everline::session;
use everline::store::sim::{Faults, Sim, SimOptions};
use tokio_util::sync::CancellationToken;

/// Entries a sync timeline keeps.
pub const KEPT: u64 = 16;
/// Entries sent ahead of the acknowledgement.
pub const WINDOW: u64 = 6;
const SECRET: &str = "a secret for tests, and only for them";

/// What alice's sync timeline says at one seq.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    Message {
        conv_seq: u64,
        recalled: bool,
    },
    Recall {
        conv_seq: u64,
        target: u64,
    },
    Edit {
        conv_seq: u64,
        target: u64,
    },
    /// An entry of her own, by its `op`.
    Own(&'static str),
    /// Of no use to her any more: a message she deleted, an edit of a message recalled since.
    LeftOut,
    /// Left out where a frame also covers this later one.
    Superseded(u64),
}

/// What is true of the world, as far as alice may know it.
#[derive(Debug, Default)]
pub struct Facts {
    pub epoch: String,
    /// From seq 1.
    pub timeline: Vec<Told>,
    pub conv_head: u64,
    /// What history shows her: conv_seq, time, and whether recalled.
    pub messages: Vec<(u64, u64, bool)>,
    /// (target, conv_seq)
    pub recalls: Vec<(u64, u64)>,
    pub edits: Vec<(u64, u64)>,
    pub deleted: Vec<Range>,
    pub cleared_up_to: u64,
}

impl Facts {
    pub fn head(&self) -> u64 {
        self.timeline.len() as u64
    }

    pub fn floor(&self) -> u64 {
        self.head().saturating_sub(KEPT)
    }
}

/// The engine, its sessions' common part, and the facts.
pub struct World {
    engine: Engine,
    pub shared: Arc<session::Shared>,
    pub token: String,
    pub facts: Facts,
}

pub fn conversation() -> ConvId {
    ConvId::parse("d:alice:bob").unwrap()
}

fn caller(name: &str) -> Caller {
    Caller { user: UserId::parse(name).unwrap(), device: DeviceId::parse("elsewhere").unwrap() }
}

/// The body of the message with this number.
pub fn body(conv_seq: u64) -> Body {
    Body::from_value(&serde_json::json!({ "n": conv_seq })).unwrap()
}

impl World {
    /// Made by the same requests each time: messages, recalls, edits, a delete, a clear, readings.
    pub async fn new() -> Self {
        let clock = Clock::simulated(1_795_000_000_000);
        let faults = Faults::none();
        let sim = Sim::new(SimOptions { seed: 1, clock: clock.clone(), together: true, faults });
        let policy = Policy { sync_max_entries: KEPT, ..Policy::default() };
        let hub = Arc::new(Hub::default());
        let engine = Engine::new(Arc::new(sim), Arc::clone(&hub), clock.clone(), policy.clone(), 1);
        let session = Settings::default().session;
        let limits = SessionLimits { window_entries: WINDOW, rate_messages: 0, rate_requests: 0, ..session };
        let verifier = Verifier::with_secret(SECRET, clock.clone());
        let token =
            Minter::new(SECRET, clock.clone()).mint(&caller("alice").user, None, std::time::Duration::from_secs(3600));
        let stop = CancellationToken::new();
        let shared = session::Shared::new(engine.clone(), hub, clock, verifier, limits, &policy, stop);
        let facts = Facts { epoch: engine.epoch(), ..Facts::default() };
        let mut world = Self { engine, shared: Arc::new(shared), token, facts };
        world.fill().await;
        world
    }

    async fn fill(&mut self) {
        for _ in 0..8 {
            self.bob_writes().await;
        }
        self.alice(Request::Clear { conv_id: conversation(), up_to: 2 }, Told::Own("clear")).await;
        self.facts.cleared_up_to = 2;
        self.facts.messages.retain(|(seq, ..)| *seq > 2);
        self.bob_recalls(4).await;
        for _ in 0..4 {
            self.bob_writes().await;
        }
        let range = Range { from: 11, to: 11 };
        self.alice(Request::Delete { conv_id: conversation(), ranges: vec![range] }, Told::Own("delete")).await;
        self.facts.deleted.push(range);
        self.facts.messages.retain(|(seq, ..)| *seq != 11);
        self.left_out(11);
        self.bob_edits(12).await;
        self.bob_recalls(13).await;
        self.bob_edits(10).await;
        let edit = self.facts.timeline.len() - 1;
        self.bob_recalls(10).await;
        self.facts.timeline[edit] = Told::LeftOut;
        self.facts.edits.retain(|(target, _)| *target != 10);
        self.alice(Request::Read { conv_id: conversation(), read_seq: 5 }, Told::Superseded(21)).await;
        self.alice(Request::Read { conv_id: conversation(), read_seq: 8 }, Told::Own("read")).await;
        for _ in 0..3 {
            self.bob_writes().await;
        }
    }

    async fn bob(&mut self, request: Request) -> (u64, u64) {
        self.facts.conv_head += 1;
        match self.engine.submit(&caller("bob"), request).await {
            Ok(AnswerBody::Sent { conv_seq, sent_at, .. }) => (conv_seq, sent_at),
            Ok(AnswerBody::Ok { conv_seq: Some(conv_seq), .. }) => (conv_seq, 0),
            other => panic!("{other:?}"),
        }
    }

    /// One more message.
    pub async fn bob_writes(&mut self) {
        let next = self.facts.conv_head + 1;
        let client_msg_id = MsgId::parse(&format!("m{next}")).unwrap();
        let to = SendTo::Conv(conversation());
        let send = Send { to, client_msg_id, body: body(next), reply_to: None, mentions: Vec::new() };
        let (conv_seq, sent_at) = self.bob(Request::Send(send)).await;
        assert_eq!(conv_seq, next);
        self.facts.messages.push((conv_seq, sent_at, false));
        self.facts.timeline.push(Told::Message { conv_seq, recalled: false });
    }

    async fn bob_recalls(&mut self, target: u64) {
        let (conv_seq, _) = self.bob(Request::Recall { conv_id: conversation(), target }).await;
        self.facts.recalls.push((target, conv_seq));
        for told in &mut self.facts.timeline {
            if matches!(told, Told::Message { conv_seq, .. } if *conv_seq == target) {
                *told = Told::Message { conv_seq: target, recalled: true };
            }
        }
        self.facts.messages.iter_mut().filter(|(seq, ..)| *seq == target).for_each(|(.., recalled)| *recalled = true);
        self.facts.timeline.push(Told::Recall { conv_seq, target });
    }

    async fn bob_edits(&mut self, target: u64) {
        let (conv_seq, _) = self.bob(Request::Edit { conv_id: conversation(), target, body: body(target) }).await;
        self.facts.edits.push((target, conv_seq));
        self.facts.timeline.push(Told::Edit { conv_seq, target });
    }

    async fn alice(&mut self, request: Request, told: Told) {
        let answer = self.engine.submit(&caller("alice"), request).await.unwrap();
        self.facts.timeline.push(told);
        assert!(matches!(answer, AnswerBody::Ok { seq: Some(seq), .. } if seq == self.facts.head()), "{answer:?}");
    }

    fn left_out(&mut self, message: u64) {
        for told in &mut self.facts.timeline {
            if matches!(told, Told::Message { conv_seq, .. } if *conv_seq == message) {
                *told = Told::LeftOut;
            }
        }
    }
}

/// What of the messages shown lies on the asked side, in ascending order; and whether a page begins at the
/// newer end of it.
pub fn asked(facts: &Facts, from: HistoryFrom) -> (Vec<(u64, u64, bool)>, bool) {
    let all = facts.messages.iter().copied();
    match from {
        HistoryFrom::Newest => (all.collect(), true),
        HistoryFrom::Before(seq) => (all.filter(|message| message.0 < seq).collect(), true),
        HistoryFrom::After(seq) => (all.filter(|message| message.0 > seq).collect(), false),
        HistoryFrom::AfterAt(place) if place >= HISTORY_PLACES => {
            asked(facts, HistoryFrom::After(place - HISTORY_PLACES))
        }
        HistoryFrom::AfterAt(time) => (all.filter(|message| message.1 >= time).collect(), false),
    }
}
