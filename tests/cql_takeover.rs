//! Measures, on a CQL database, how long it takes from a node's death until others have finished what it left.
//! By hand, for it takes minutes:
//!
//! ```text
//! EVERLINE_TEST_CQL=host:port cargo test --test cql_takeover -- --ignored --nocapture
//! ```
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a failed unwrap is a failed test")]

mod between;
mod cql_support;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use between::{Between, Way};
use cql_support::{keyspace, open, options, until};
use everline::config::{Clock, CqlTarget, Policy};
use everline::engine::{Caller, Engine, Sights};
use everline::hub::Hub;
use everline::protocol::{Body, DeviceId, MsgId, Request, Send, SendTo, UserId};
use everline::store::cql::Cql;
use everline::store::{Commit, Outcome, Store, TimelineId};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval, sleep};

/// Conversations with a message in the log, under a mark, that nobody was told of.
const LEFT: usize = 200;
/// Nodes that die, one after the other, each at another moment between two renewals of its word.
const DEATHS: u32 = 6;
/// As a server does.
const EVERY: Duration = Duration::from_secs(3);

/// When a first commit of each user's timeline was applied.
type Delivered = Arc<Mutex<HashMap<UserId, Instant>>>;

/// The store as one node has it.
#[derive(Debug, Clone)]
struct Watched {
    cql: Arc<Cql>,
    delivered: Delivered,
    /// Nobody here is told that a conversation's commit was applied; so many were.
    silent: Option<Arc<AtomicUsize>>,
}

impl Watched {
    async fn open(target: &CqlTarget, delivered: &Delivered) -> Self {
        Self { cql: open(options(target)).await, delivered: Arc::clone(delivered), silent: None }
    }

    fn engine(&self, incarnation: u64) -> Engine {
        let store = Arc::new(Between(Arc::new(self.clone())));
        Engine::new(store, Arc::new(Hub::default()), Clock::system(), Policy::default(), incarnation)
    }
}

impl Way for Watched {
    fn store(&self) -> &dyn Store {
        &*self.cql
    }

    fn commit(self: Arc<Self>, commits: Vec<Commit>) -> BoxFuture<'static, Vec<Outcome>> {
        let timelines: Vec<TimelineId> = commits.iter().map(|commit| commit.timeline.clone()).collect();
        async move {
            let outcomes = self.cql.commit(commits).await;
            for (timeline, outcome) in timelines.into_iter().zip(&outcomes) {
                match (timeline, outcome, &self.silent) {
                    (TimelineId::Conversation(_), Outcome::Applied, Some(applied)) => {
                        applied.fetch_add(1, Ordering::SeqCst);
                        return std::future::pending().await;
                    }
                    (TimelineId::User(user), Outcome::Applied, None) => {
                        self.delivered.lock().unwrap().entry(user).or_insert_with(Instant::now);
                    }
                    _ => {}
                }
            }
            outcomes
        }
        .boxed()
    }
}

fn user(death: u32, side: &str, i: usize) -> UserId {
    UserId::parse(&format!("{side}{death}x{i}")).unwrap()
}

fn send(to: &UserId) -> Request {
    Request::Send(Send {
        to: SendTo::User(to.clone()),
        client_msg_id: MsgId::parse("m1").unwrap(),
        body: Body::from_value(&serde_json::json!({ "text": "hi" })).unwrap(),
        reply_to: None,
        mentions: vec![],
    })
}

/// Says that a node is alive, every three seconds.
fn renew(engine: Engine) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut ticks = interval(EVERY);
        loop {
            ticks.tick().await;
            engine.renew().await.unwrap();
        }
    })
}

/// Looks for what dead nodes left, every three seconds.
fn finish(engine: Engine) -> JoinHandle<()> {
    tokio::spawn(async move {
        let (mut ticks, mut sights) = (interval(EVERY), Sights::default());
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            engine.finish_for_the_dead(&mut sights).await.unwrap();
        }
    })
}

/// A node writes its messages, tells nobody, and is gone; seconds from then until each was with both.
async fn one_death(watched: &Watched, death: u32) -> Vec<f64> {
    let applied = Arc::new(AtomicUsize::new(0));
    let silent = Watched { silent: Some(Arc::clone(&applied)), ..watched.clone() };
    let engine = silent.engine(1000 + u64::from(death));
    let alive = renew(engine.clone());
    let device = DeviceId::parse("phone").unwrap();
    for i in 0..LEFT {
        let caller = Caller { user: user(death, "a", i), device: device.clone() };
        drop(engine.submit(&caller, send(&user(death, "b", i))));
    }
    until("every message is in its log", async || applied.load(Ordering::SeqCst) == LEFT).await;
    // The word was given some time within the last three seconds: each death at another moment of them.
    engine.renew().await.unwrap();
    alive.abort();
    sleep(EVERY * death / DEATHS).await;
    let died = Instant::now();
    let pairs: Vec<_> = (0..LEFT).map(|i| (user(death, "a", i), user(death, "b", i))).collect();
    until("every message is with both", async || {
        let delivered = watched.delivered.lock().unwrap();
        pairs.iter().all(|(a, b)| delivered.contains_key(a) && delivered.contains_key(b))
    })
    .await;
    until("no mark is left", async || watched.cql.marks().await.unwrap().is_empty()).await;
    let delivered = watched.delivered.lock().unwrap();
    let after = |(a, b): &(UserId, UserId)| delivered[a].max(delivered[b]).duration_since(died).as_secs_f64();
    let mut seconds: Vec<f64> = pairs.iter().map(after).collect();
    seconds.sort_by(f64::total_cmp);
    seconds
}

#[ignore = "measures for some minutes; run by hand, see above"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_long_after_a_death_everything_is_finished() {
    let Some(target) = keyspace().await else { return };
    let delivered = Delivered::default();
    let living: Vec<Watched> = futures::future::join_all((0..2).map(|_| Watched::open(&target, &delivered))).await;
    let engines: Vec<Engine> = living.iter().zip(1..).map(|(watched, node)| watched.engine(node)).collect();
    for (engine, offset) in engines.iter().zip([Duration::ZERO, EVERY / 2]) {
        sleep(offset).await;
        renew(engine.clone());
        finish(engine.clone());
    }
    let mut all = Vec::new();
    for death in 0..DEATHS {
        let seconds = one_death(&living[0], death).await;
        tell(
            &format!("death {death}, {:.1} s after its last word", f64::from(death) * 3.0 / f64::from(DEATHS)),
            &seconds,
        );
        all.extend(seconds);
    }
    all.sort_by(f64::total_cmp);
    tell("all", &all);
}

fn tell(what: &str, seconds: &[f64]) {
    let (Some(min), Some(max)) = (seconds.first(), seconds.last()) else { return };
    let median = seconds[seconds.len() / 2];
    eprintln!(
        "{what}: {} fan-outs finished {min:.1} s (first), {median:.1} s (median), {max:.1} s (last) after it",
        seconds.len()
    );
}
