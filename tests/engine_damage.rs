//! Damaged data and panics under the engine: answered, told once, in nobody else's way.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests: a failure is a panic")]

mod between;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use between::{Between, Way, What};
use everline::config::{Clock, Policy};
use everline::engine::{Answer, Caller, Engine};
use everline::hub::Hub;
use everline::protocol::{AnswerBody, ClientFrame, ConvId, DeviceId, ErrorCode, UserId};
use everline::store::sim::{Faults, Sim, SimOptions};
use everline::store::{Error, Result, Section, Store, TimelineId};
use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use serde_json::{Value, json};

/// Damaged rows (by timeline), and reading that panics.
#[derive(Debug)]
struct Hurt {
    sim: Sim,
    damaged: Mutex<HashSet<(TimelineId, Section)>>,
    reads: AtomicUsize,
    panics: AtomicBool,
}

impl Way for Hurt {
    fn store(&self) -> &dyn Store {
        &self.sim
    }

    fn read<'a, T: Send + 'a>(&'a self, what: What<'a>, read: BoxFuture<'a, Result<T>>) -> BoxFuture<'a, Result<T>> {
        let Some((timeline, Some(section))) = what else { return read };
        assert!(!self.panics.load(Ordering::SeqCst), "planted");
        if !self.damaged.lock().unwrap().contains(&(timeline.clone(), section)) {
            return read;
        }
        self.reads.fetch_add(1, Ordering::SeqCst);
        ready(Err(Error::Damaged(format!("{section:?} of {timeline:?}")))).boxed()
    }
}

struct World {
    store: Arc<Hurt>,
    engine: Engine,
    clock: Clock,
}

impl World {
    fn new() -> Self {
        let clock = Clock::simulated(1_795_174_000_000);
        let options = SimOptions { seed: 1, clock: clock.clone(), together: true, faults: Faults::none() };
        let store = Arc::new(Hurt {
            sim: Sim::new(options),
            damaged: Mutex::default(),
            reads: AtomicUsize::new(0),
            panics: AtomicBool::new(false),
        });
        let engine = Self::engine(&store, &clock, 1);
        Self { store, engine, clock }
    }

    fn engine(store: &Arc<Hurt>, clock: &Clock, incarnation: u64) -> Engine {
        Engine::new(
            Arc::new(Between(store.clone())),
            Arc::new(Hub::default()),
            clock.clone(),
            Policy::default(),
            incarnation,
        )
    }

    /// A new process over the same data: nothing is remembered.
    fn restart(&mut self) {
        self.engine = Self::engine(&self.store, &self.clock, 2);
    }

    fn damage(&self, timeline: TimelineId, section: Section) {
        self.store.damaged.lock().unwrap().insert((timeline, section));
    }

    async fn ask(&self, user: &str, request: Value) -> Answer {
        let caller = Caller { user: user_id(user), device: DeviceId::parse("phone").unwrap() };
        let Ok(ClientFrame::Request(envelope)) = ClientFrame::parse(&request.to_string()) else { panic!("{request}") };
        // Far below the engine's own deadline: an answer, not the end of somebody's patience.
        let answer = self.engine.submit(&caller, envelope.request);
        tokio::time::timeout(Duration::from_secs(5), answer).await.expect("answered")
    }

    async fn send(&self, from: &str, to: &str, id: &str) -> Answer {
        let text = json!({"type":"send","id":"1","to":to,"client_msg_id":id,"body":{"text":id}});
        self.ask(from, text).await
    }

    async fn head(&self, user: &str) -> u64 {
        self.store.sim.head(&TimelineId::User(user_id(user))).await.unwrap().position.seq
    }
}

fn user_id(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

fn is_sent(answer: &Answer) -> bool {
    matches!(answer, Ok(AnswerBody::Sent { .. }))
}

fn is_unavailable(answer: &Answer) -> bool {
    matches!(answer, Err(refusal) if refusal.code == ErrorCode::Unavailable)
}

#[tokio::test(start_paused = true)]
async fn a_damaged_conversation_is_answered_unavailable_and_others_go_on() {
    let mut world = World::new();
    assert!(is_sent(&world.send("a", "b", "one").await));
    world.restart();
    let conv = ConvId::parse("d:a:b").unwrap();
    world.damage(TimelineId::Conversation(conv), Section::State);
    world.damage(TimelineId::Conversation(ConvId::parse("d:a:b").unwrap()), Section::Member);
    for id in ["two", "three"] {
        assert!(is_unavailable(&world.send("a", "b", id).await));
    }
    let reads = world.store.reads.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.store.reads.load(Ordering::SeqCst), reads, "nobody tries again by himself");
    assert!(is_sent(&world.send("a", "c", "four").await));
}

#[tokio::test(start_paused = true)]
async fn a_damaged_row_of_one_request_leaves_the_others_of_its_batch() {
    let world = World::new();
    assert!(is_sent(&world.send("a", "b", "one").await));
    world.damage(TimelineId::Conversation(ConvId::parse("d:a:b").unwrap()), Section::Target);
    let edit = json!({"type":"edit","id":"1","conv_id":"d:a:b","target":1,"body":{"text":"x"}});
    let (edited, sent) = tokio::join!(world.ask("a", edit), world.send("b", "a", "two"));
    assert!(is_unavailable(&edited) && is_sent(&sent), "{edited:?} {sent:?}");
}

#[tokio::test(start_paused = true)]
async fn a_member_whose_row_is_damaged_is_left_out_and_holds_up_nobody() {
    let mut world = World::new();
    let create = json!({"type":"create","id":"1","members":["b","c"],"op_id":"o"});
    let Ok(AnswerBody::Ok { conv_id: Some(conv), .. }) = world.ask("a", create).await else { panic!("made") };
    world.restart();
    world.damage(TimelineId::User(user_id("b")), Section::Conv);
    let before = (world.head("a").await, world.head("b").await, world.head("c").await);
    for id in ["one", "two"] {
        let send = json!({"type":"send","id":"1","conv_id":conv,"client_msg_id":id,"body":{}});
        assert!(is_sent(&world.ask("a", send).await), "the others get it");
    }
    assert_eq!((world.head("a").await, world.head("c").await), (before.0 + 2, before.2 + 2));
    assert_eq!(world.head("b").await, before.1);
    // His own requests that need the row are answered; the rest of his works.
    let send = json!({"type":"send","id":"1","conv_id":conv,"client_msg_id":"three","body":{}});
    assert!(is_unavailable(&world.ask("b", send).await), "what he could not see himself is not sent");
    assert_eq!(world.head("c").await, before.2 + 2);
    let read = json!({"type":"read","id":"1","conv_id":conv,"read_seq":1});
    assert!(is_unavailable(&world.ask("b", read).await));
    assert!(matches!(world.ask("b", json!({"type":"devices","id":"1"})).await, Ok(AnswerBody::Devices { .. })));
    let send = json!({"type":"send","id":"1","conv_id":conv,"client_msg_id":"four","body":{}});
    assert!(is_sent(&world.ask("c", send).await), "and the conversation goes on");
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_driver_is_told_to_whoever_runs_the_engine() {
    let mut world = World::new();
    assert!(is_sent(&world.send("a", "b", "one").await));
    world.restart();
    let quiet = tokio::time::timeout(Duration::from_secs(9), world.engine.broken()).await;
    assert!(quiet.is_err(), "nothing is broken yet");
    world.store.panics.store(true, Ordering::SeqCst);
    let caller = Caller { user: user_id("a"), device: DeviceId::parse("phone").unwrap() };
    let request = json!({"type":"send","id":"1","to":"b","client_msg_id":"two","body":{}}).to_string();
    let Ok(ClientFrame::Request(envelope)) = ClientFrame::parse(&request) else { panic!("{request}") };
    drop(world.engine.submit(&caller, envelope.request));
    tokio::time::timeout(Duration::from_secs(9), world.engine.broken()).await.expect("told");
}
