//! Scenarios of `tests/rules` on a real database: two nodes, each with a store of its own on one keyspace. What
//! the simulated store plays there the database decides here.
//!
//! Buckets are small, so that everything crosses their boundaries. A node dies as its store does: no call of it
//! ends any more.
#![cfg(feature = "server")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "a failed unwrap is a failed test"
)]

mod between;
mod cql_support;
#[path = "cql_support/door.rs"]
mod door;

use std::sync::Arc;
use std::time::Duration;

use between::Between;
use cql_support::{keyspace, open, options, until};
use door::Door;
use everline::config::{Clock, Policy};
use everline::conversation::entry::kind_and_text;
use everline::engine::{Answer, Caller, Engine, PageRead, Sights};
use everline::hub::Hub;
use everline::protocol::*;
use everline::store::cql::Options;
use everline::store::{Span, Store, TimelineId};
use tokio::task::JoinHandle;

/// Entries of a conversation's bucket.
const BUCKET: u64 = 4;
/// Looks at whether something has come to all, and the pause between two.
const LOOKS: usize = 600;
const PAUSE: Duration = Duration::from_millis(50);

fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

fn of(name: &str) -> TimelineId {
    TimelineId::User(user(name))
}

fn log_of(conv: &ConvId) -> TimelineId {
    TimelineId::Conversation(conv.clone())
}

fn body(text: &str) -> Body {
    Body::from_value(&serde_json::json!({ "text": text })).unwrap()
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

fn send(conv: &ConvId, id: &str) -> Request {
    message(conv, id, id)
}

fn history(conv: &ConvId) -> Request {
    Request::History { conv_id: conv.clone(), from: HistoryFrom::Newest, limit: 100 }
}

/// One process.
struct Node {
    engine: Engine,
    door: Arc<Door>,
}

impl Node {
    /// Hands a request in; its answer may be waited for later.
    fn start(&self, who: &str, request: Request) -> JoinHandle<Answer> {
        let caller = Caller { user: user(who), device: DeviceId::parse("phone").unwrap() };
        tokio::spawn(self.engine.submit(&caller, request))
    }

    /// A request that must succeed.
    async fn ask(&self, who: &str, request: Request) -> AnswerBody {
        self.start(who, request).await.unwrap().unwrap()
    }

    /// conv_seq of a message that was handed in: a caller who waits in vain, because the machine is slow, asks again.
    async fn sent_at_last(&self, who: &str, message: Request, mut answer: Answer) -> u64 {
        while answer.as_ref().is_err_and(|refusal| refusal.code == ErrorCode::Unavailable) {
            answer = self.start(who, message.clone()).await.unwrap();
        }
        sent(answer.unwrap()).0
    }

    /// A request that must be refused.
    async fn refused(&self, who: &str, request: Request) -> ErrorCode {
        self.start(who, request).await.unwrap().unwrap_err().code
    }

    /// conv_seq of the message, and whether it was there already.
    async fn send(&self, who: &str, conv: &ConvId, id: &str) -> (u64, bool) {
        sent(self.ask(who, send(conv, id)).await)
    }

    async fn create(&self, members: &[&str]) -> ConvId {
        let request = Request::Create {
            members: members.iter().map(|name| user(name)).collect(),
            title: None,
            attributes: None,
            history: HistoryMode::SinceJoin,
            op_id: MsgId::parse("made").unwrap(),
        };
        match self.ask("alice", request).await {
            AnswerBody::Ok { conv_id: Some(id), .. } => id,
            other => panic!("{other:?}"),
        }
    }

    /// All of a user's sync timeline, as a device at this node reads it.
    async fn events(&self, who: &str) -> Vec<Event> {
        let (mut after, mut found) = (0, Vec::new());
        loop {
            let page = match self.engine.page(&user(who), after, 100, 1 << 20).await.unwrap() {
                PageRead::Page(page) => page,
                other => panic!("{who} after {after}: {other:?}"),
            };
            assert_eq!(page.from, after, "{who}'s page begins at its cursor");
            found.extend(page.entries.iter().map(|(_, text)| Event::decode(text).unwrap()));
            after = page.to;
            if page.to == page.standing.head {
                return found;
            }
        }
    }

    /// conv_seqs of a conversation in a user's timeline, in its order.
    async fn told(&self, who: &str, conv: &ConvId) -> Vec<u64> {
        let of_it = |event: &Event| event.conv_id() == Some(conv);
        self.events(who).await.iter().filter(|event| of_it(event)).filter_map(Event::conv_seq).collect()
    }

    /// What entry `seq` is in the history this user reads.
    async fn shown(&self, who: &str, conv: &ConvId, seq: u64) -> Message {
        let AnswerBody::History { entries, .. } = self.ask(who, history(conv)).await else { panic!("history") };
        let messages = entries.into_iter().filter_map(|entry| match entry.event {
            Event::Message(message) => Some(message),
            _ => None,
        });
        messages.into_iter().find(|message| message.conv_seq == seq).unwrap()
    }

    /// The text of the body of entry `seq`, as the store gives it.
    async fn text_of(&self, conv: &ConvId, seq: u64) -> Option<String> {
        let span = Span { after: seq - 1, up_to: seq, limit: 1, max_bytes: usize::MAX, backward: false };
        let entries = self.door.cql.entries(&log_of(conv), span).await.unwrap();
        let (_, text) = kind_and_text(&entries[0].data).unwrap();
        match Event::decode(text).unwrap() {
            Event::Message(message) => Some(message.body?.to_value()["text"].as_str().unwrap().to_owned()),
            other => panic!("{other:?}"),
        }
    }

    /// How often a message of this id stands in the conversation's log.
    async fn times(&self, conv: &ConvId, id: &str) -> usize {
        let needle = format!("\"{id}\"");
        let span = Span { after: 0, up_to: u64::MAX, limit: usize::MAX, max_bytes: usize::MAX, backward: false };
        let entries = self.door.cql.entries(&log_of(conv), span).await.unwrap();
        let holds = |data: &[u8]| data.windows(needle.len()).any(|part| part == needle.as_bytes());
        entries.iter().filter(|entry| holds(&entry.data)).count()
    }

    /// Every member has the whole conversation in his timeline, once and in order, wherever he reads it.
    /// `sights`: the node finishes meanwhile what dead ones left, as it does every few seconds.
    async fn all_delivered(&self, conv: &ConvId, members: &[&str], mut sights: Option<Sights>) {
        let mut wrong = Vec::new();
        for _ in 0..LOOKS {
            if let Some(sights) = &mut sights {
                self.engine.renew().await.unwrap();
                self.engine.finish_for_the_dead(sights).await.unwrap();
            }
            let head = self.door.cql.head(&log_of(conv)).await.unwrap().position.seq;
            wrong.clear();
            for who in members {
                let told = self.told(who, conv).await;
                if told != (1..=head).collect::<Vec<_>>() {
                    wrong.push((*who, told));
                }
            }
            if wrong.is_empty() {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
        panic!("{conv}: not everything once and in order with everybody: {wrong:?}");
    }
}

fn sent(answer: AnswerBody) -> (u64, bool) {
    match answer {
        AnswerBody::Sent { conv_seq, duplicate, .. } => (conv_seq, duplicate),
        other => panic!("{other:?}"),
    }
}

/// The members of the group.
const MEMBERS: [&str; 3] = ["alice", "bob", "carol"];

/// Two nodes on a fresh keyspace.
async fn two_nodes() -> Option<(Node, Node)> {
    let target = keyspace().await?;
    let node = async || {
        let cql = open(Options { bucket_entries: BUCKET, ..options(&target) }).await;
        let (door, hub) = (Door::new(cql), Arc::new(Hub::default()));
        let store = Arc::new(Between(Arc::clone(&door)));
        let engine = Engine::new(store, hub, Clock::system(), Policy::default(), rand::random());
        Node { engine, door }
    };
    Some(tokio::join!(node(), node()))
}

/// Two nodes, and a group of alice (owner), bob and carol made on the first.
async fn with_group() -> Option<(Node, Node, ConvId)> {
    let (a, b) = two_nodes().await?;
    let conv = a.create(&MEMBERS[1..]).await;
    a.all_delivered(&conv, &MEMBERS, None).await;
    Some((a, b, conv))
}

/// Marks, term, redelivery.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_whose_node_dies_is_finished_by_another() {
    let Some((a, b, conv)) = with_group().await else { return };
    a.door.die_once_applied(log_of(&conv));
    let never = a.start("alice", send(&conv, "m2"));
    until("the node is dead", async || a.door.is_dead()).await;
    b.all_delivered(&conv, &MEMBERS, Some(Sights::default())).await;
    assert_eq!(b.send("alice", &conv, "m2").await, (2, true), "alice asks again");
    assert_eq!(b.send("bob", &conv, "m3").await, (3, false));
    b.all_delivered(&conv, &MEMBERS, Some(Sights::default())).await;
    assert!(!never.is_finished(), "a dead node answers");
}

/// A stands still between its mark and its append; B takes over, A goes on and then dies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_wrongly_taken_for_dead_is_fenced_off() {
    let Some((a, b, conv)) = with_group().await else { return };
    let append = a.door.hold(log_of(&conv));
    a.start("alice", send(&conv, "m2"));
    append.reached().await;
    let mut sights = Sights::default();
    b.engine.renew().await.unwrap();
    until("taken over", async || b.engine.finish_for_the_dead(&mut sights).await.unwrap() > 0).await;
    a.door.die_once_applied(log_of(&conv));
    append.release();
    until("the node has come as far as it could", async || a.door.is_dead()).await;
    assert_eq!(b.send("alice", &conv, "m2").await, (2, true), "told that it is there, so it must reach everybody");
    b.all_delivered(&conv, &MEMBERS, Some(Sights::default())).await;
    assert_eq!(b.times(&conv, "m2").await, 1);
}

/// alice's own timeline is slow: nobody is told that the message is sent before she sees it everywhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_waits_for_the_callers_own_timeline() {
    let Some((a, b, conv)) = with_group().await else { return };
    let own = a.door.hold(of("alice"));
    let asked = a.start("alice", send(&conv, "m2"));
    own.reached().await;
    until("bob and carol have it", async || {
        b.told("bob", &conv).await == [1, 2] && b.told("carol", &conv).await == [1, 2]
    })
    .await;
    let early = asked.is_finished();
    own.release();
    let answer = asked.await.unwrap();
    assert!(!early || answer.is_err(), "answered before alice's other devices can see it");
    assert_eq!(a.sent_at_last("alice", send(&conv, "m2"), answer).await, 2);
    assert_eq!(b.told("alice", &conv).await, [1, 2], "alice's device at the other node");
}

/// Both change what stands in sealed buckets, each at another node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recall_and_an_edit_reach_back_over_buckets() {
    let Some((a, b, conv)) = with_group().await else { return };
    for n in 2..=3 * BUCKET {
        let node = if n % 2 == 0 { &a } else { &b };
        assert_eq!(node.send("alice", &conv, &format!("m{n}")).await, (n, false));
    }
    let head = 3 * BUCKET;
    let edit = Request::Edit { conv_id: conv.clone(), target: 2, body: body("edited") };
    let recall = Request::Recall { conv_id: conv.clone(), target: 3 };
    let ok = |seq| AnswerBody::Ok { conv_id: None, conv_seq: Some(seq), seq: None };
    assert_eq!(a.ask("alice", edit).await, ok(head + 1));
    assert_eq!(b.ask("alice", recall.clone()).await, ok(head + 2));
    for node in [&a, &b] {
        assert_eq!(node.shown("bob", &conv, 2).await.body, Some(body("edited")));
        let recalled = node.shown("bob", &conv, 3).await;
        assert_eq!((recalled.recalled, recalled.body), (true, None));
        assert_eq!(node.shown("bob", &conv, 4).await.body, Some(body("m4")));
        assert_eq!(node.text_of(&conv, 3).await, None, "the recalled body is not to be read from the store");
    }
    // Where it is judged: both nodes know of the other's change.
    assert_eq!(a.ask("alice", recall).await, ok(head + 2));
    let late = Request::Edit { conv_id: conv.clone(), target: 3, body: body("too late") };
    assert_eq!(a.refused("alice", late).await, ErrorCode::Gone);
    a.all_delivered(&conv, &MEMBERS, None).await;
}

/// Also when what was sent stands in an older bucket, and when both are asked at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_sent_again_at_another_node_is_the_same_message() {
    let Some((a, b, conv)) = with_group().await else { return };
    assert_eq!(a.send("alice", &conv, "m2").await, (2, false));
    assert_eq!(b.send("alice", &conv, "m2").await, (2, true));
    assert_eq!(b.refused("alice", message(&conv, "m2", "another text")).await, ErrorCode::IdempotencyConflict);
    assert_eq!(b.send("bob", &conv, "m2").await, (3, false), "the same id of another sender");
    for n in 4..3 * BUCKET {
        a.send("carol", &conv, &format!("m{n}")).await;
    }
    for node in [&b, &a] {
        assert_eq!(node.send("alice", &conv, "m2").await, (2, true));
    }
    for n in 0..6 {
        let id = format!("at once {n}");
        let (here, there) = tokio::join!(a.send("alice", &conv, &id), b.send("alice", &conv, &id));
        assert_eq!((here.0, here.1), (there.0, !there.1), "{id}: one of them is the first");
    }
    a.all_delivered(&conv, &MEMBERS, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_membership_changed_at_another_node_is_seen_by_a_send_here() {
    let Some((a, b, conv)) = with_group().await else { return };
    assert_eq!(a.send("bob", &conv, "m2").await, (2, false), "this node knows the members");
    assert_eq!(a.refused("dave", send(&conv, "too early")).await, ErrorCode::NotFound);
    b.ask("alice", Request::Remove { conv_id: conv.clone(), users: vec![user("bob")] }).await;
    b.ask("alice", Request::Invite { conv_id: conv.clone(), users: vec![user("dave")] }).await;
    assert_eq!(a.refused("bob", send(&conv, "too late")).await, ErrorCode::NotFound);
    assert_eq!(a.send("dave", &conv, "m5").await, (5, false));
    a.all_delivered(&conv, &["alice", "carol"], None).await;
    until("each has what was said while he was a member", async || {
        b.told("bob", &conv).await == [1, 2, 3] && b.told("dave", &conv).await == [4, 5]
    })
    .await;
}

/// Two lanes at each timeline: the database decides who is first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sends_of_two_nodes_at_once_stand_in_one_order_for_all() {
    const EACH: usize = 12;
    let Some((a, b, conv)) = with_group().await else { return };
    // Of one sender's messages at one node the order is kept; alice also hears from others at both nodes.
    let mut started = Vec::new();
    for n in 0..EACH {
        for (node, place, who) in [(&a, "a", "bob"), (&b, "b", "carol")] {
            let stranger = format!("{place}{n:02}");
            let to_alice = send(&ConvId::direct(&user("alice"), &user(&stranger)), "hello");
            for (who, message) in [(who.to_owned(), send(&conv, &stranger)), (stranger, to_alice)] {
                started.push((node, node.start(&who, message.clone()), who, message));
            }
        }
    }
    let (mut numbers, mut direct) = (Vec::new(), Vec::new());
    for (node, answer, who, message) in started {
        let seq = node.sent_at_last(&who, message, answer.await.unwrap()).await;
        if who == "bob" || who == "carol" { numbers.push(seq) } else { direct.push(seq) }
    }
    assert_eq!(direct, [1; 2 * EACH]);
    for place in 0..2 {
        let of_one: Vec<_> = numbers.iter().skip(place).step_by(2).collect();
        assert!(of_one.is_sorted(), "one sender's messages at one node: {of_one:?}");
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (2..2 + 2 * EACH as u64).collect::<Vec<_>>());
    a.all_delivered(&conv, &MEMBERS, None).await;
    until("alice has all", async || a.events("alice").await.len() == 1 + 4 * EACH).await;
    let (here, there) = (a.events("alice").await, b.events("alice").await);
    assert_eq!(here, there, "one order, wherever it is read");
    for n in 0..EACH {
        for place in ["a", "b"] {
            let with_alice = ConvId::direct(&user("alice"), &user(&format!("{place}{n:02}")));
            assert_eq!(a.told("alice", &with_alice).await, [1], "{with_alice}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nodes_word_of_being_alive_expires() {
    let Some((a, b)) = two_nodes().await else { return };
    let nodes = async || b.door.cql.nodes().await.unwrap();
    let alive = async || -> Vec<u64> {
        nodes().await.into_iter().filter(|known| known.alive).map(|known| known.node).collect()
    };
    a.door.cql.renew_node(7, Duration::from_secs(1)).await.unwrap();
    a.door.cql.renew_node(8, Duration::from_secs(600)).await.unwrap();
    until("7 is not alive any more", async || alive().await == [8]).await;
    assert_eq!(nodes().await.len(), 2, "it is known all the same");
    a.engine.renew().await.unwrap();
    assert!(a.engine.is_renewed() && !b.engine.is_renewed());
    assert_eq!(alive().await.len(), 2);
    a.door.cql.renew_node(7, Duration::from_secs(600)).await.unwrap();
    assert!(alive().await.contains(&7), "back again");
    b.door.cql.forget_node(7).await.unwrap();
    assert!(nodes().await.iter().all(|known| known.node != 7), "forgotten");
}
