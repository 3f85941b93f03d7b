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
use everline::store::sim::{Faults, Sim};
use everline::store::{Entry, Head, Store, TimelineId};

use crate::model::Rules;
use crate::place::{Place, Stage};
use crate::user::Item;

pub struct Node {
    pub engine: Engine,
    /// Its switches, where the store has any.
    switches: Option<Sim>,
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
    place: Place,
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
pub struct Look(Place);

impl Look {
    pub fn sync_head(&self, user: &UserId) -> u64 {
        self.0.dump(&TimelineId::User(user.clone())).0.position.seq
    }
}

impl World {
    /// With its nodes started.
    pub fn new(
        stage: &Stage,
        seed: u64,
        together: bool,
        nodes: usize,
        faults: Faults,
        rules: Rules,
        people: Vec<UserId>,
    ) -> Self {
        let clock = Clock::simulated(1_795_000_000_000);
        let place = Place::new(stage, seed, clock.clone(), together);
        let policy = Policy {
            sync_max_entries: rules.sync_max_entries,
            sync_max_age_ms: rules.sync_max_age_ms,
            recall_limit_ms: rules.recall_limit_ms,
            dedupe_ms: 1000 * 24 * 60 * 60 * 1000,
            max_devices: rules.max_devices,
            ..Policy::default()
        };
        let mut world = Self {
            place,
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
            let (store, switches) = world.place.handle();
            let node = world.start(store, switches);
            world.nodes.push(node);
        }
        world
    }

    fn start(&mut self, store: Arc<dyn Store>, switches: Option<Sim>) -> Node {
        self.incarnations += 1;
        let (hub, clock) = (Arc::new(Hub::default()), self.clock.clone());
        let listener = DeviceId::parse("listener").expect("a name");
        let seat = |user: &UserId| {
            let registration = hub.register(user, &listener);
            registration.follow(0);
            Seat { user: user.clone(), registration, last: 0 }
        };
        let seats = self.people.iter().map(seat).collect();
        let engine = Engine::new(store, hub, clock, self.policy.clone(), self.incarnations);
        let dead = Arc::new(AtomicBool::new(false));
        Node { engine, switches, incarnation: self.incarnations, dead, paused: false, cut: false, seats }
    }

    /// Whether this incarnation is here and running as ever.
    pub fn lives(&self, incarnation: u64) -> bool {
        self.nodes.iter().any(|node| node.incarnation == incarnation)
    }

    pub fn now(&self) -> u64 {
        self.clock.now_ms()
    }

    /// Faults on, or none.
    pub fn trouble(&self, on: bool) {
        let faults = if on { self.faults.clone() } else { Faults { lose_unsynced: true, ..Faults::none() } };
        self.place.set_faults(faults);
    }

    pub fn pause(&mut self, node: usize, on: bool) {
        self.nodes[node].paused = on;
        if let Some(switches) = &self.nodes[node].switches {
            switches.pause(on);
        }
    }

    pub fn cut(&mut self, node: usize, on: bool) {
        self.nodes[node].cut = on;
        if let Some(switches) = &self.nodes[node].switches {
            switches.cut(on);
        }
    }

    /// Kills a node and starts it again. A store that commits together dies with it and recovers.
    pub async fn crash(&mut self, node: usize) {
        self.nodes[node].dead.store(true, Ordering::Release);
        self.orphans.push(self.nodes[node].incarnation);
        if self.place.is_keyspace() {
            // Its tasks can't be stopped from here: it goes on as a dead node does whose requests arrive late.
            let (store, switches) = self.place.handle();
            self.nodes[node] = self.start(store, switches);
            return;
        }
        let Some(switches) = self.nodes[node].switches.clone() else { return };
        let handle = switches.crash();
        if self.together {
            self.place = Place::Sim(handle.clone());
        }
        self.nodes[node] = self.start(Arc::new(handle.clone()), Some(handle));
        if self.together {
            self.recover().await;
        }
    }

    /// A process died with its directory open, and everything that ran in it is gone: the next one.
    pub async fn reopen(&mut self) {
        self.nodes.clear();
        self.place.reopen();
        let (store, switches) = self.place.handle();
        let node = self.start(store, switches);
        self.nodes.push(node);
        self.recover().await;
    }

    async fn recover(&self) {
        while self.nodes[0].engine.recover().await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn is_directory(&self) -> bool {
        self.place.is_directory()
    }

    /// The store drops entries of users long too old, as a TTL does.
    pub fn expire(&self) {
        let day = 24 * 60 * 60 * 1000;
        self.place.expire(self.now().saturating_sub(self.policy.sync_max_age_ms + day));
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
        if self.is_directory() {
            // Threads work here, and time is real: asked until it is so. A fan-out that never ends is
            // found by the checks.
            for _ in 0..2000 {
                if self.place.unfinished().await == 0 {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            return;
        }
        if self.place.is_keyspace() {
            // What dead nodes left keeps its mark until it is taken over.
            for _ in 0..1000 {
                if self.place.marks() == 0 || !self.orphans.is_empty() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            return;
        }
        let calm = self.faults.latency.end.is_zero() && self.together;
        tokio::time::sleep(if calm { Duration::from_millis(1) } else { Duration::from_secs(60) }).await;
    }

    pub fn look(&self) -> Look {
        Look(self.place.clone())
    }

    pub fn conversations(&self) -> Vec<ConvId> {
        let ids = self.place.timelines().into_iter();
        ids.filter_map(|id| if let TimelineId::Conversation(conv) = id { Some(conv) } else { None }).collect()
    }

    pub fn users(&self) -> Vec<UserId> {
        let ids = self.place.timelines().into_iter();
        ids.filter_map(|id| if let TimelineId::User(user) = id { Some(user) } else { None }).collect()
    }

    pub fn dump(&self, timeline: &TimelineId) -> (Head, Vec<Entry>) {
        self.place.dump(timeline)
    }

    /// Whether these bytes stand anywhere in a conversation's timeline.
    pub fn holds(&self, conv: &ConvId, text: &str) -> bool {
        let values = self.place.values(&TimelineId::Conversation(conv.clone()));
        values.iter().any(|data| data.windows(text.len()).any(|window| window == text.as_bytes()))
    }

    /// Everybody who listens, on every node.
    pub fn seats(&mut self) -> impl Iterator<Item = &mut Seat> {
        self.nodes.iter_mut().flat_map(|node| node.seats.iter_mut())
    }

    pub fn marks(&self) -> usize {
        self.place.marks()
    }

    pub async fn unfinished(&self) -> usize {
        self.place.unfinished().await
    }

    pub fn fingerprint(&self) -> (u64, u64) {
        self.place.fingerprint()
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
