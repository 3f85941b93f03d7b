//! A whole embedded store into another one: everything goes along, and what was interrupted goes on.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod cql_support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use everline::audit::verify::verify;
use everline::config::{Clock, Policy};
use everline::engine::{Caller, Engine, PageRead};
use everline::hub::Hub;
use everline::migrate::{Error, Progress, Terms, migrate};
use everline::protocol::{
    AnswerBody, Body, ConvId, DeviceId, HistoryMode, MsgId, Range, Request, Send, SendTo, UserId,
};
use everline::store::embedded::{self, Embedded};
use everline::store::sim::{Faults, Sim, SimOptions};
use everline::store::{Store, TimelineId};

const USERS: [&str; 4] = ["alice", "bob", "carol", "dave"];
const TERMS: Terms = Terms { keep_until: u64::MAX / 4, node: 77 };

fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

fn engine(store: Arc<dyn Store>, incarnation: u64) -> Engine {
    // Few entries are kept, so that timelines begin above 1.
    let policy = Policy { sync_max_entries: 10, ..Policy::default() };
    Engine::new(store, Arc::new(Hub::default()), Clock::system(), policy, incarnation)
}

async fn ask(engine: &Engine, who: &str, request: Request) -> AnswerBody {
    let caller = Caller { user: user(who), device: DeviceId::parse("phone").unwrap() };
    engine.submit(&caller, request).await.unwrap()
}

async fn send(engine: &Engine, who: &str, conv: &ConvId, id: &str) -> AnswerBody {
    let body = Body::from_value(&serde_json::json!({ "text": id })).unwrap();
    let send = Send {
        to: SendTo::Conv(conv.clone()),
        client_msg_id: MsgId::parse(id).unwrap(),
        body,
        reply_to: None,
        mentions: vec![],
    };
    ask(engine, who, Request::Send(send)).await
}

/// A store with a group, direct conversations, recalls, deletes, devices; and the group.
async fn filled(dir: &std::path::Path) -> (Arc<Embedded>, ConvId) {
    let store = Embedded::open(embedded::Options::new(dir, Clock::system())).unwrap();
    let engine = engine(store.clone(), 1);
    let members = USERS.iter().skip(1).map(|name| user(name)).collect();
    let op_id = MsgId::parse("op").unwrap();
    let create = Request::Create { members, title: None, attributes: None, history: HistoryMode::SinceJoin, op_id };
    let AnswerBody::Ok { conv_id: Some(group), .. } = ask(&engine, "alice", create).await else { panic!("created") };
    for who in USERS {
        let caller = Caller { user: user(who), device: DeviceId::parse("phone").unwrap() };
        engine.hello(&caller, None).await.unwrap();
    }
    for n in 0..30 {
        let who = USERS.get(n % USERS.len()).unwrap();
        send(&engine, who, &group, &format!("g{n}")).await;
        send(&engine, "alice", &ConvId::direct(&user("alice"), &user("bob")), &format!("d{n}")).await;
    }
    ask(&engine, "alice", Request::Recall { conv_id: group.clone(), target: 2 }).await;
    ask(&engine, "bob", Request::Delete { conv_id: group.clone(), ranges: vec![Range { from: 3, to: 5 }] }).await;
    (store, group)
}

/// Everything of every timeline, as far as the store shows it.
async fn heads(store: &dyn Store) -> BTreeMap<TimelineId, (u64, u64, u64)> {
    let mut heads = BTreeMap::new();
    for id in store.timelines(None, 1000).await.unwrap() {
        let head = store.head(&id).await.unwrap();
        heads.insert(id, (head.position.seq, head.floor, head.at));
    }
    heads
}

/// What must hold on any target that was migrated into.
async fn holds(source: &Arc<Embedded>, target: &Arc<dyn Store>, group: &ConvId) {
    assert_eq!(heads(&**source).await, heads(&**target).await);
    let report = verify(&**target).await.unwrap();
    assert!(report.is_clean(), "{:?}", report.differences);
    // A resend is known; numbers go on; a cursor from before goes on.
    let engine = engine(Arc::clone(target), 2);
    let again = send(&engine, "alice", group, "g28").await;
    assert!(matches!(again, AnswerBody::Sent { duplicate: true, .. }), "{again:?}");
    let before = engine.standing(&user("carol")).await.unwrap();
    assert!(before.floor > 0, "some of it is gone already");
    let new = send(&engine, "alice", group, "new").await;
    let last = source.head(&TimelineId::Conversation(group.clone())).await.unwrap().position.seq;
    assert!(matches!(new, AnswerBody::Sent { conv_seq, duplicate: false, .. } if conv_seq == last + 1), "{new:?}");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let page = engine.page(&user("carol"), before.head, 100, 1 << 20).await.unwrap();
        let PageRead::Page(page) = page else { panic!("{page:?}") };
        if page.to > before.head {
            assert_eq!(page.to, before.head + 1);
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "never delivered");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn empty() -> (Sim, Arc<dyn Store>) {
    let options = SimOptions { seed: 5, clock: Clock::system(), together: false, faults: Faults::none() };
    let sim = Sim::new(options);
    (sim.clone(), Arc::new(sim))
}

#[tokio::test]
async fn everything_goes_along_and_a_second_run_finds_it_done() {
    let dir = tempfile::tempdir().unwrap();
    let (source, group) = filled(dir.path()).await;
    let (_, target) = empty();
    let (first, second) = (Progress::default(), Progress::default());
    migrate(&*source, &target, TERMS, &first).await.unwrap();
    migrate(&*source, &target, TERMS, &second).await.unwrap();
    let timelines = first.timelines.load(Ordering::Relaxed);
    assert_eq!((timelines, first.found_done.load(Ordering::Relaxed)), (USERS.len() as u64 + 2, 0));
    assert_eq!(second.found_done.load(Ordering::Relaxed), timelines);
    assert!(first.entries.load(Ordering::Relaxed) > 60 && first.rows.load(Ordering::Relaxed) > 60);
    holds(&source, &target, &group).await;
    // The target was served: it is not overwritten.
    let third = migrate(&*source, &target, TERMS, &Progress::default()).await;
    assert!(matches!(third, Err(Error::Other(_))), "{third:?}");
}

#[tokio::test]
async fn what_was_interrupted_goes_on_and_unknown_outcomes_double_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (source, group) = filled(dir.path()).await;
    let (sim, target) = empty();
    let latency = Duration::ZERO..Duration::from_millis(2);
    sim.set_faults(Faults { unknown_p: 0.3, latency, ..Faults::none() });
    for after in [3, 10, 30, 100] {
        // Wherever it is then, the target is gone.
        let progress = Progress::default();
        let run = migrate(&*source, &target, TERMS, &progress);
        let _ = tokio::time::timeout(Duration::from_millis(after), run).await;
        sim.cut(true);
        tokio::time::sleep(Duration::from_millis(5)).await;
        sim.cut(false);
    }
    migrate(&*source, &target, TERMS, &Progress::default()).await.unwrap();
    sim.set_faults(Faults::none());
    holds(&source, &target, &group).await;
}

#[tokio::test]
async fn a_target_with_other_data_is_refused() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (source, _) = filled(one.path()).await;
    let (another, _) = filled(other.path()).await;
    let (_, target) = empty();
    migrate(&*another, &target, TERMS, &Progress::default()).await.unwrap();
    let refused = migrate(&*source, &target, TERMS, &Progress::default()).await;
    assert!(matches!(refused, Err(Error::Other(_))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn into_a_cql_keyspace() {
    let Some(keyspace) = cql_support::keyspace().await else { return };
    let dir = tempfile::tempdir().unwrap();
    let (source, group) = filled(dir.path()).await;
    everline::store::cql::schema::set_epoch(&keyspace, &source.epoch()).await.unwrap();
    let target: Arc<dyn Store> = cql_support::open(cql_support::options(&keyspace)).await;
    assert_eq!(target.epoch(), source.epoch());
    let (first, second) = (Progress::default(), Progress::default());
    migrate(&*source, &target, TERMS, &first).await.unwrap();
    migrate(&*source, &target, TERMS, &second).await.unwrap();
    assert_eq!(second.found_done.load(Ordering::Relaxed), first.timelines.load(Ordering::Relaxed));
    holds(&source, &target, &group).await;
}
