//! A store in memory with an engine on it, for tests that look at what is stored or change it.

#![allow(dead_code, unreachable_pub)]

use std::sync::Arc;

use bytes::Bytes;
use everline::config::{Clock, Policy};
use everline::conversation::member::Member;
use everline::conversation::pointer::Pointer;
use everline::engine::{Answer, Caller, Engine};
use everline::hub::Hub;
use everline::protocol::*;
use everline::store::sim::{Faults, Sim, SimOptions};
use everline::store::{Attempt, Commit, NewEntry, Outcome, RowKey, RowWrite, Store, TimelineId};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// People of a random story.
const PEOPLE: [&str; 4] = ["alice", "bob", "carol", "dave"];

pub struct World {
    pub engine: Engine,
    pub sim: Sim,
}

pub fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

pub fn body(text: &str) -> Body {
    Body::from_value(&serde_json::json!({ "text": text })).unwrap()
}

pub fn member(value: &[u8]) -> Member {
    serde_json::from_slice(value).unwrap()
}

impl World {
    pub fn new(seed: u64, together: bool) -> Self {
        Self::build(seed, together, Policy::default())
    }

    pub fn with_retention(seed: u64, sync_max_entries: u64) -> Self {
        Self::build(seed, true, Policy { sync_max_entries, ..Policy::default() })
    }

    fn build(seed: u64, together: bool, policy: Policy) -> Self {
        let clock = Clock::simulated(1_795_000_000_000);
        let sim = Sim::new(SimOptions { seed, clock: clock.clone(), together, faults: Faults::none() });
        let store: Arc<dyn Store> = Arc::new(sim.handle());
        let engine = Engine::new(store, Arc::new(Hub::default()), clock, policy, 1);
        Self { engine, sim }
    }

    pub async fn try_ask(&self, who: &str, request: Request) -> Answer {
        let caller = Caller { user: user(who), device: DeviceId::parse("phone").unwrap() };
        self.engine.submit(&caller, request).await
    }

    pub async fn ask(&self, who: &str, request: Request) -> AnswerBody {
        self.try_ask(who, request).await.unwrap()
    }

    fn message(conv: &ConvId, id: &str, text: &str) -> Request {
        Request::Send(Send {
            to: SendTo::Conv(conv.clone()),
            client_msg_id: MsgId::parse(id).unwrap(),
            body: body(text),
            reply_to: None,
            mentions: vec![],
        })
    }

    pub async fn send(&self, who: &str, conv: &ConvId, id: &str, text: &str) {
        self.ask(who, Self::message(conv, id, text)).await;
    }

    pub async fn create(&self, who: &str, members: &[&str]) -> ConvId {
        let request = Request::Create {
            members: members.iter().map(|name| user(name)).collect(),
            title: Some("town".into()),
            attributes: None,
            history: HistoryMode::SinceJoin,
            op_id: MsgId::parse("op").unwrap(),
        };
        match self.ask(who, request).await {
            AnswerBody::Ok { conv_id: Some(id), .. } => id,
            other => panic!("{other:?}"),
        }
    }

    /// Everything that is under way comes to rest.
    pub async fn settle(&self) {
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
    }

    /// A random story of so many requests; most succeed, all are allowed to be refused.
    pub async fn play(&self, seed: u64, steps: usize) {
        let mut rng = SmallRng::seed_from_u64(seed);
        let group = self.create("alice", &["bob", "carol"]).await;
        let convs =
            [group.clone(), ConvId::direct(&user("alice"), &user("bob")), ConvId::direct(&user("dave"), &user("bob"))];
        for step in 0..steps {
            let which = rng.random_range(0..convs.len());
            let among = [&PEOPLE[..3], &PEOPLE[..2], &["dave", "bob"]][which];
            let who = among[rng.random_range(0..among.len())];
            let conv_id = convs[which].clone();
            let n = rng.random_range(1..=40);
            let whom = vec![user(PEOPLE[rng.random_range(0..PEOPLE.len())])];
            let request = match rng.random_range(0..24) {
                0..=8 => Self::message(&conv_id, &format!("m{step}"), &format!("text {step}")),
                9..=10 => Request::Recall { conv_id, target: n },
                11..=12 => Request::Edit { conv_id, target: n, body: body(&format!("edit {step}")) },
                13..=14 => Request::React { conv_id, target: n, key: "+1".into(), add: rng.random_bool(0.7) },
                15..=16 => Request::Read { conv_id, read_seq: n },
                17 => Request::Clear { conv_id, up_to: n / 3 },
                18..=19 => Request::Delete { conv_id, ranges: vec![Range { from: n, to: n + 2 }] },
                20 => Request::Settings { conv_id, muted: Some(rng.random_bool(0.5)), pinned: None, hidden: None },
                21 => Request::Invite { conv_id: group.clone(), users: whom },
                22 => Request::Remove { conv_id: group.clone(), users: whom },
                _ if who == "alice" || rng.random_bool(0.7) => {
                    Request::Update { conv_id: group.clone(), title: Some(format!("t{step}")), attributes: None }
                }
                _ => Request::Leave { conv_id: group.clone() },
            };
            let _ = self.try_ask(who, request).await;
        }
        self.settle().await;
    }

    /// Number and content of the entry of a user's timeline that points at `conv_seq`.
    pub fn pointer_to(&self, who: &str, conv: &ConvId, conv_seq: u64) -> (u64, Bytes) {
        let entries = self.sim.dump(&TimelineId::User(user(who))).entries;
        let points = |data: &[u8]| matches!(Pointer::load(data), Some(Pointer::Log { conv_id, conv_seq: at, .. }) if conv_id == conv.as_str() && at == conv_seq);
        entries.iter().find(|entry| points(&entry.data)).map(|entry| (entry.seq, entry.data.clone())).unwrap()
    }

    pub fn row(&self, timeline: &TimelineId, key: &RowKey) -> Option<Bytes> {
        let rows = self.sim.dump(timeline).rows;
        rows.into_iter().find(|(stored, _, _)| stored == key).map(|(_, value, _)| value)
    }

    pub fn empty_commit(&self, timeline: &TimelineId) -> Commit {
        let head = self.sim.dump(timeline).head;
        Commit {
            timeline: timeline.clone(),
            expected: head.position,
            term: head.position.term,
            attempt: Attempt(7),
            entries: vec![],
            rewrite: vec![],
            rows: vec![],
            floor: head.floor,
            fanned: head.fanned,
        }
    }

    pub async fn commit(&self, commit: Commit) {
        assert_eq!(self.sim.commit(vec![commit]).await, [Outcome::Applied]);
    }

    pub async fn set_row(&self, timeline: &TimelineId, key: RowKey, value: Option<Bytes>) {
        let mut commit = self.empty_commit(timeline);
        commit.rows = vec![RowWrite { key, value, expires_at: None }];
        self.commit(commit).await;
    }

    pub async fn rewrite(&self, timeline: &TimelineId, seq: u64, data: Bytes) {
        let mut commit = self.empty_commit(timeline);
        commit.rewrite = vec![(seq, data)];
        self.commit(commit).await;
    }

    pub async fn append(&self, timeline: &TimelineId, contents: Vec<Bytes>) {
        let mut commit = self.empty_commit(timeline);
        let at = self.sim.dump(timeline).head.at;
        commit.entries = contents.into_iter().map(|data| NewEntry { at, data }).collect();
        self.commit(commit).await;
    }
}
