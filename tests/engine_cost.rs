//! What a message and a page cost the embedded store, counted in values written and read: neither may grow
//! with the length of the log, nor with the members of a large conversation.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, missing_docs)]

mod embedded_support;

use std::sync::Arc;

use everline::config::{Clock, Policy};
use everline::engine::{Caller, Engine};
use everline::hub::Hub;
use everline::protocol::*;
use everline::store::Store;
use everline::store::embedded::Embedded;
use futures::future::join_all;

/// Sync timelines are this long; the logs are longer, so that they are trimmed at every length.
const SYNC_ENTRIES: u64 = 256;
/// Messages between two checkpoints while a log is filled.
const STRETCH: u64 = 1024;
/// Messages whose cost is counted.
const COUNTED: u64 = 64;

struct World {
    store: Arc<Embedded>,
    engine: Engine,
    _dir: tempfile::TempDir,
}

/// Values of the engine.
#[derive(Debug, PartialEq, Eq)]
struct Cost {
    written_before_the_answer: u64,
    written_with_the_checkpoint: u64,
    read: u64,
}

fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = embedded_support::open(&dir.path().join("data"));
        let policy = Policy { sync_max_entries: SYNC_ENTRIES, large_conversation_members: 20, ..Policy::default() };
        let engine =
            Engine::new(Arc::clone(&store) as Arc<dyn Store>, Arc::new(Hub::default()), Clock::system(), policy, 1);
        Self { store, engine, _dir: dir }
    }

    async fn ask(&self, who: &str, request: Request) -> AnswerBody {
        let caller = Caller { user: user(who), device: DeviceId::parse("phone").unwrap() };
        self.engine.submit(&caller, request).await.unwrap()
    }

    async fn send(&self, who: &str, conv: &ConvId, number: u64) {
        let body = serde_json::json!({"text": format!("message {number:08}")});
        let send = Send {
            to: SendTo::Conv(conv.clone()),
            client_msg_id: MsgId::parse(&format!("{number:08}")).unwrap(),
            body: Body::from_value(&body).unwrap(),
            reply_to: None,
            mentions: vec![],
        };
        self.ask(who, Request::Send(send)).await;
    }

    /// Sends messages of these numbers, many at a time, with a checkpoint after each stretch.
    async fn fill(&self, who: &str, conv: &ConvId, from: u64, to: u64) {
        for first in (from..to).step_by(STRETCH as usize) {
            for batch in (first..to.min(first + STRETCH)).step_by(128) {
                let end = to.min(first + STRETCH).min(batch + 128);
                join_all((batch..end).map(|number| self.send(who, conv, number))).await;
            }
            self.store.checkpoint().unwrap();
        }
    }

    /// What the messages from this number on cost, one at a time.
    async fn cost_of_messages(&self, who: &str, conv: &ConvId, from: u64) -> Cost {
        self.store.checkpoint().unwrap();
        let before = self.store.counters();
        for number in from..from + COUNTED {
            self.send(who, conv, number).await;
        }
        let answered = self.store.counters();
        self.store.checkpoint().unwrap();
        let after = self.store.counters();
        Cost {
            written_before_the_answer: answered.engine_writes - before.engine_writes,
            written_with_the_checkpoint: after.engine_writes - before.engine_writes,
            read: answered.engine_reads - before.engine_reads,
        }
    }

    /// Values read for a page of 100, which must be the messages from `first` on.
    async fn cost_of_page(&self, who: &str, conv: &ConvId, from: HistoryFrom, first: u64) -> u64 {
        let before = self.store.counters();
        let answer = self.ask(who, Request::History { conv_id: conv.clone(), from, limit: 100 }).await;
        let after = self.store.counters();
        assert_eq!(after.engine_writes, before.engine_writes, "reading writes nothing");
        let AnswerBody::History { entries, .. } = answer else { panic!("{answer:?}") };
        let numbers = entries.iter().filter_map(|entry| entry.event.conv_seq());
        assert!(numbers.eq(first..first + 100), "the page from {first}");
        after.engine_reads - before.engine_reads
    }
}

#[tokio::test]
async fn appending_and_reading_cost_the_same_however_long_the_log_is() {
    let world = World::new();
    let conv = ConvId::parse("d:ann:ben").unwrap();
    let (mut length, mut costs) = (0, Vec::new());
    // A lane knows the newest thousand client_msg_ids: from there on each message looks its own up.
    for longer in [2 * STRETCH, 20 * STRETCH] {
        world.fill("ann", &conv, length, longer).await;
        let pages = [
            world.cost_of_page("ann", &conv, HistoryFrom::Newest, longer - 99).await,
            world.cost_of_page("ann", &conv, HistoryFrom::Before(longer / 2), longer / 2 - 100).await,
            world.cost_of_page("ann", &conv, HistoryFrom::After(0), 1).await,
        ];
        let messages = world.cost_of_messages("ann", &conv, longer).await;
        println!("{longer} messages: a page reads {pages:?} values, {COUNTED} messages cost {messages:?}");
        length = longer + COUNTED;
        costs.push((pages, messages));
    }
    assert_eq!(costs[0], costs[1]);
    let (pages, messages) = &costs[0];
    assert!(pages.iter().all(|read| (100..110).contains(read)), "{pages:?} values for a page of 100");
    assert_eq!(messages.written_before_the_answer, COUNTED);
}

#[tokio::test]
async fn a_message_to_a_large_conversation_costs_the_same_however_many_are_in_it() {
    let mut costs = Vec::new();
    for members in [30, 3000] {
        let world = World::new();
        let names: Vec<UserId> = (0..members).map(|number| user(&format!("m{number:05}"))).collect();
        let (first, rest) = names.split_at(30);
        let create = Request::Create {
            members: first[1..].to_vec(),
            title: None,
            attributes: None,
            history: HistoryMode::SinceJoin,
            op_id: MsgId::parse("op").unwrap(),
        };
        let answer = world.ask("m00000", create).await;
        let AnswerBody::Ok { conv_id: Some(conv), .. } = answer else { panic!("{answer:?}") };
        for page in rest.chunks(1000) {
            world.ask("m00000", Request::Invite { conv_id: conv.clone(), users: page.to_vec() }).await;
        }
        // The first makes it large if the limit was crossed by the founding.
        world.fill("m00000", &conv, 0, 128).await;
        let cost = world.cost_of_messages("m00000", &conv, 1000).await;
        println!("{members} members: {COUNTED} messages cost {cost:?}");
        costs.push(cost);
    }
    assert_eq!(costs[0], costs[1]);
    assert_eq!(costs[0].written_before_the_answer, COUNTED);
    // An entry and its dedupe row each; head, marker and the journal's cutting are shared or one each.
    assert!(costs[0].written_with_the_checkpoint < 5 * COUNTED, "{:?}", costs[0]);
}
