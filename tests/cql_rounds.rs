//! What a message costs the database, counted: conditional rounds and reads with everything warm.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a failed unwrap is a failed test")]

mod cql_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cql_support::{keyspace, open, options, until};
use everline::config::{Clock, Policy};
use everline::engine::{Caller, Engine};
use everline::hub::Hub;
use everline::protocol::{AnswerBody, Body, ConvId, DeviceId, HistoryMode, MsgId, Request, Send, SendTo, UserId};
use everline::store::Store;
use everline::store::cql::{Counters, Cql};
use futures::StreamExt as _;

/// Reads of one look at all marks.
const MARK_READS: u64 = 64;

fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

struct World {
    /// How often this test looked at the marks.
    looks: AtomicU64,
    cql: Arc<Cql>,
    engine: Engine,
}

impl World {
    async fn open() -> Option<Self> {
        let cql = open(options(&keyspace().await?)).await;
        let hub = Arc::new(Hub::default());
        let engine = Engine::new(cql.clone(), hub, Clock::system(), Policy::default(), rand::random());
        Some(Self { looks: AtomicU64::new(0), cql, engine })
    }

    async fn ask(&self, who: &str, request: Request) -> AnswerBody {
        let caller = Caller { user: user(who), device: DeviceId::parse("phone").unwrap() };
        self.engine.submit(&caller, request).await.unwrap()
    }

    async fn group(&self, members: &[String]) -> ConvId {
        let request = Request::Create {
            members: members.iter().map(|name| user(name)).collect(),
            title: None,
            attributes: None,
            history: HistoryMode::SinceJoin,
            op_id: MsgId::parse("made").unwrap(),
        };
        match self.ask(&members[0], request).await {
            AnswerBody::Ok { conv_id: Some(id), .. } => id,
            other => panic!("{other:?}"),
        }
    }

    async fn send(&self, who: &str, conv: &ConvId, id: &str) {
        self.send_text(who, conv, id, "how much?").await;
    }

    async fn send_text(&self, who: &str, conv: &ConvId, id: &str, text: &str) {
        let send = Send {
            to: SendTo::Conv(conv.clone()),
            client_msg_id: MsgId::parse(id).unwrap(),
            body: Body::from_value(&serde_json::json!({ "text": text })).unwrap(),
            reply_to: None,
            mentions: vec![],
        };
        let answer = self.ask(who, Request::Send(send)).await;
        assert!(matches!(answer, AnswerBody::Sent { .. }), "{answer:?}");
    }

    /// Waits until nothing is under way: the mark of the burst is gone. Reads without those of looking.
    async fn idle(&self) -> Counters {
        until("idle", async || {
            self.looks.fetch_add(MARK_READS, Ordering::Relaxed);
            self.cql.marks().await.unwrap().is_empty()
        })
        .await;
        let counters = self.cql.counters();
        Counters { reads: counters.reads - self.looks.load(Ordering::Relaxed), ..counters }
    }
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("member{i}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_costs_a_round_and_one_a_member_and_no_read() {
    let Some(world) = World::open().await else { return };
    let members = names(8);
    let conv = world.group(&members).await;
    world.send(&members[0], &conv, "warms everything").await;
    let mut seen = Vec::new();
    for i in 0..10 {
        let before = world.idle().await;
        world.send(&members[i % members.len()], &conv, &format!("m{i}")).await;
        let after = world.idle().await;
        let rounds = after.conversation_rounds - before.conversation_rounds + after.user_rounds - before.user_rounds;
        let reads = after.reads + after.serial_reads - before.reads - before.serial_reads;
        let writes = after.writes - before.writes;
        assert_eq!(rounds, 1 + members.len() as u64, "one for the conversation, one a member");
        assert_eq!(writes, 2, "a mark, and its deletion");
        assert_eq!(after.refused + after.unknown, 0);
        seen.push(reads);
    }
    assert!(seen.iter().all(|reads| *reads == 0), "reads a message: {seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hot_conversation_shares_its_rounds() {
    const MESSAGES: usize = 800;
    let Some(world) = World::open().await else { return };
    let members = names(3);
    let conv = world.group(&members).await;
    world.send(&members[0], &conv, "warms everything").await;
    // How many gather depends on how the machine's cores are shared: the best of three counts.
    let mut best = f64::MAX;
    for run in 0..3 {
        let before = world.idle().await;
        futures::stream::iter(0..MESSAGES)
            .map(async |i| world.send(&members[i % members.len()], &conv, &format!("m{run}.{i}")).await)
            .buffer_unordered(16)
            .for_each(async |()| {})
            .await;
        let after = world.idle().await;
        let per_message = |count: u64| count as f64 / MESSAGES as f64;
        let rounds = per_message(after.conversation_rounds - before.conversation_rounds);
        let users = per_message(after.user_rounds - before.user_rounds);
        let reads = per_message(after.reads + after.serial_reads - before.reads - before.serial_reads);
        let writes = per_message(after.writes - before.writes);
        eprintln!("a message: {rounds:.3} rounds, {users:.3} of users, {reads:.3} reads, {writes:.3} plain writes");
        assert!(reads <= 0.05, "{reads} reads a message");
        best = best.min(rounds);
        if best <= 0.3 {
            return;
        }
    }
    panic!("{best} rounds a message");
}

/// A database takes only so much in one batch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_are_spread_over_commits() {
    let Some(world) = World::open().await else { return };
    let members = names(2);
    let conv = world.group(&members).await;
    let text = "x".repeat(30_000);
    let before = world.idle().await;
    futures::future::join_all((0..64).map(async |i| {
        world.send_text(&members[i % 2], &conv, &format!("m{i}"), &text).await;
    }))
    .await;
    let after = world.idle().await;
    let rounds = after.conversation_rounds - before.conversation_rounds;
    assert!((8..=64).contains(&rounds), "{rounds} rounds for 1.9 MB");
    assert_eq!(after.unknown, 0);
}
