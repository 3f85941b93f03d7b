//! The system under test: nodes with an engine each on one simulated store, and the ways to hurt them.
//! Looks into the store past all faults.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use everline::config::{Clock, Policy};
use everline::conversation::entry;
use everline::conversation::pointer::Pointer;
use everline::engine::{Answer, Caller, Engine};
use everline::hub::{Hub, Live, Registration, Signal};
use everline::protocol::*;
use everline::store::sim::{Faults, Sim, SimOptions};
use everline::store::{Entry, Head, Store, TimelineId};

use crate::model::Rules;
use crate::user::Item;

pub struct Node {
    pub engine: Engine,
    store: Sim,
    pub incarnation: u64,
    /// Shared with those who wait for its answers: a dead node's words count for nothing.
    pub dead: Arc<AtomicBool>,
    pub paused: bool,
    pub cut: bool,
    /// A live session of each user.
    seats: Vec<Seat>,
}

/// A live session that only listens.
pub struct Seat {
    pub user: UserId,
    registration: Registration,
    /// The last seq it was pushed.
    pub last: u64,
}

impl Seat {
    /// What was pushed since; of one that fell behind, nothing.
    pub fn take(&mut self) -> Vec<Live> {
        let mut batch = Vec::new();
        if self.registration.take(&mut batch) == Signal::Behind {
            self.last = self.registration.newest();
            self.registration.follow(self.last);
        }
        batch
    }
}

pub struct World {
    sim: Sim,
    pub together: bool,
    pub faults: Faults,
    pub clock: Clock,
    policy: Policy,
    pub nodes: Vec<Node>,
    /// Incarnations that died with marks perhaps left.
    pub orphans: Vec<u64>,
    incarnations: u64,
    people: Vec<UserId>,
}

/// The read-only view of the store that request futures carry.
#[derive(Clone)]
pub struct Look(Sim);

impl Look {
    pub fn sync_head(&self, user: &UserId) -> u64 {
        self.0.dump(&TimelineId::User(user.clone())).head.position.seq
    }
}

impl World {
    pub fn new(seed: u64, together: bool, nodes: usize, faults: Faults, rules: Rules, people: Vec<UserId>) -> Self {
        let clock = Clock::simulated(1_795_000_000_000);
        let sim = Sim::new(SimOptions { seed, clock: clock.clone(), together, faults: Faults::none() });
        let policy = Policy {
            sync_max_entries: rules.sync_max_entries,
            sync_max_age_ms: rules.sync_max_age_ms,
            recall_limit_ms: rules.recall_limit_ms,
            dedupe_ms: 1000 * 24 * 60 * 60 * 1000,
            max_devices: rules.max_devices,
            ..Policy::default()
        };
        let mut world = Self {
            sim,
            together,
            faults,
            clock,
            policy,
            nodes: Vec::new(),
            orphans: Vec::new(),
            incarnations: 0,
            people,
        };
        for _ in 0..nodes {
            let handle = world.sim.handle();
            let node = world.start(handle);
            world.nodes.push(node);
        }
        world
    }

    fn start(&mut self, store: Sim) -> Node {
        self.incarnations += 1;
        let shared: Arc<dyn Store> = Arc::new(store.clone());
        let (hub, clock) = (Arc::new(Hub::default()), self.clock.clone());
        let listener = DeviceId::parse("listener").expect("a name");
        let seat = |user: &UserId| {
            let registration = hub.register(user, &listener);
            registration.follow(0);
            Seat { user: user.clone(), registration, last: 0 }
        };
        let seats = self.people.iter().map(seat).collect();
        let engine = Engine::new(shared, hub, clock, self.policy.clone(), self.incarnations);
        let dead = Arc::new(AtomicBool::new(false));
        Node { engine, store, incarnation: self.incarnations, dead, paused: false, cut: false, seats }
    }

    pub fn now(&self) -> u64 {
        self.clock.now_ms()
    }

    /// Faults on, or none.
    pub fn trouble(&self, on: bool) {
        let faults = if on { self.faults.clone() } else { Faults { lose_unsynced: true, ..Faults::none() } };
        self.sim.set_faults(faults);
    }

    pub fn pause(&mut self, node: usize, on: bool) {
        self.nodes[node].paused = on;
        self.nodes[node].store.pause(on);
    }

    pub fn cut(&mut self, node: usize, on: bool) {
        self.nodes[node].cut = on;
        self.nodes[node].store.cut(on);
    }

    /// Kills a node and starts it again. A store that commits together dies with it and recovers.
    pub async fn crash(&mut self, node: usize) -> Result<(), String> {
        self.nodes[node].dead.store(true, Ordering::Release);
        let handle = self.nodes[node].store.crash();
        self.orphans.push(self.nodes[node].incarnation);
        if self.together {
            self.sim = handle.clone();
        }
        let started = self.start(handle);
        self.nodes[node] = started;
        if self.together {
            while let Err(error) = self.nodes[node].engine.recover().await {
                tokio::time::sleep(Duration::from_millis(10)).await;
                drop(error);
            }
        }
        Ok(())
    }

    /// A node finishes what others left undone. `wrong`: also what a living node has under way.
    pub async fn take_over(&mut self, by: usize, victim: Option<u64>) -> bool {
        let orphans = std::mem::take(&mut self.orphans);
        let dead = |node: u64| orphans.contains(&node) || victim == Some(node);
        let engine = self.nodes[by].engine.clone();
        let taken = tokio::time::timeout(Duration::from_secs(120), engine.take_over(dead)).await;
        let done = matches!(taken, Ok(Ok(_)));
        if !done {
            self.orphans = orphans;
        }
        done
    }

    /// Whether everything acked can be expected to be everywhere once all is quiet.
    pub fn whole(&self) -> bool {
        (self.together || self.orphans.is_empty()) && self.nodes.iter().all(|node| !node.paused && !node.cut)
    }

    /// Waits, faults off, until nothing is under way any more.
    pub async fn settle(&self) {
        self.trouble(false);
        let calm = self.faults.latency.end.is_zero() && self.together;
        tokio::time::sleep(if calm { Duration::from_millis(1) } else { Duration::from_secs(60) }).await;
    }

    pub fn look(&self) -> Look {
        Look(self.sim.clone())
    }

    pub fn conversations(&self) -> Vec<ConvId> {
        let ids = self.sim.all_timelines().into_iter();
        ids.filter_map(|id| if let TimelineId::Conversation(conv) = id { Some(conv) } else { None }).collect()
    }

    pub fn users(&self) -> Vec<UserId> {
        let ids = self.sim.all_timelines().into_iter();
        ids.filter_map(|id| if let TimelineId::User(user) = id { Some(user) } else { None }).collect()
    }

    pub fn dump(&self, timeline: &TimelineId) -> (Head, Vec<Entry>) {
        let dump = self.sim.dump(timeline);
        (dump.head, dump.entries)
    }

    /// Whether these bytes stand anywhere in a conversation's timeline.
    pub fn holds(&self, conv: &ConvId, text: &str) -> bool {
        let dump = self.sim.dump(&TimelineId::Conversation(conv.clone()));
        let has = |data: &[u8]| data.windows(text.len()).any(|window| window == text.as_bytes());
        dump.entries.iter().any(|entry| has(&entry.data)) || dump.rows.iter().any(|(_, value, _)| has(value))
    }

    /// Everybody who listens, on every node.
    pub fn seats(&mut self) -> impl Iterator<Item = &mut Seat> {
        self.nodes.iter_mut().flat_map(|node| node.seats.iter_mut())
    }

    pub fn marks(&self) -> usize {
        self.sim.all_marks().len()
    }

    pub async fn unfinished(&self) -> usize {
        self.sim.unfinished().await.map_or(usize::MAX, |found| found.len())
    }

    pub fn fingerprint(&self) -> (u64, u64) {
        self.sim.fingerprint()
    }

    /// Submits a request now; the future waits for the answer. `None`: its node died before it came.
    pub fn ask(&self, node: usize, user: &UserId, request: Request) -> impl Future<Output = Option<Answer>> + use<> {
        let node = &self.nodes[node];
        let dead = Arc::clone(&node.dead);
        let device = DeviceId::parse("any").expect("a name");
        let answer = node.engine.submit(&Caller { user: user.clone(), device }, request);
        async move {
            let answer = answer.await;
            (!dead.load(Ordering::Acquire)).then_some(answer)
        }
    }
}

/// A conversation's entry as stored, as an event. Of one whose message is recalled the body is gone.
pub fn logged(entry: &Entry) -> Result<Event, String> {
    let (_, text) = entry::Header::load(&entry.data).ok_or("an entry without header")?;
    Event::decode(text).map_err(|error| format!("an entry that is no event: {error}: {text}"))
}

/// A sync timeline's entry as stored.
pub fn synced(entry: &Entry) -> Result<Item, String> {
    let parse = |conv: &str| ConvId::parse(conv).map_err(|error| error.to_string());
    Ok(match Pointer::load(&entry.data).ok_or("a sync entry that is none")? {
        Pointer::Log { conv_id, conv_seq, .. } => Item::Log(parse(conv_id)?, conv_seq),
        Pointer::Own { text, .. } => Item::Own(Event::decode(text).map_err(|error| error.to_string())?),
    })
}
