//! The service: nodes on one simulated store, each with its engine, hub and real sessions; and the ways
//! to hurt them.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use everline::auth::{Minter, Verifier};
use everline::bus::{self, Bus, Exchange, Identity};
use everline::config::{Clock, Policy, SessionLimits, Settings};
use everline::engine::{Engine, Sights};
use everline::hub::Hub;
use everline::protocol::*;
use everline::session;
use everline::store::sim::{Faults, Sim, SimOptions};
use everline::store::{Store, TimelineId};
use tokio::io::DuplexStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::between::Between;
use crate::line::{self, Frame, Frames, Gate, Line, Way};
use crate::model::{ConnId, Model, Rules};
use crate::rough::{Hints, Rough};
use crate::trap::Trap;

const SECRET: &str = "a secret of the simulation";
/// When it begins, milliseconds since 1970.
const BEGIN_MS: u64 = 1_795_000_000_000;

/// What a seed decides once.
#[derive(Debug, Clone)]
pub struct Setting {
    pub seed: u64,
    pub together: bool,
    pub nodes: usize,
    pub faults: Faults,
    pub rules: Rules,
    pub heartbeat: Duration,
    pub max_age_ms: u64,
    pub token_ttl: Duration,
    pub page_bytes: usize,
    /// The bus between nodes; `None`: there is none, and heartbeats must do.
    pub hints: Option<Hints>,
    /// Conversations of more members are large; `None`: none is.
    pub large: Option<usize>,
    /// The application's server notifies users.
    pub notices: bool,
    /// Once more messages come than any queue holds.
    pub flood: bool,
}

impl Setting {
    /// One node, on a store that decides each commit by itself.
    pub fn is_alone(&self) -> bool {
        !self.together && self.nodes == 1
    }
}

/// One node: what is shared by its sessions, and its switches.
struct Node {
    incarnation: u64,
    switches: Sim,
    trap: Arc<Trap>,
    engine: Engine,
    shared: Arc<session::Shared>,
    /// Shut while it stands still.
    still: Arc<Gate>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    lines: Vec<Weak<Line>>,
    up: bool,
    /// Since when it stands still, and since when it does not reach the store.
    still_since: Option<Instant>,
    cut_since: Option<Instant>,
}

/// See the module. A handle: clones are the same house.
#[derive(Clone)]
pub struct House(Arc<Inner>);

struct Inner {
    setting: Setting,
    pub clock: Clock,
    /// Of the machine of each node.
    clocks: Vec<Clock>,
    turned_back: AtomicBool,
    state: Mutex<State>,
    model: Mutex<Model>,
    trace: Mutex<Trace>,
    exchange: Exchange,
    hints: Arc<Mutex<Hints>>,
}

struct State {
    store: Sim,
    nodes: Vec<Node>,
    /// Incarnations that died with marks perhaps left.
    orphans: Vec<u64>,
    incarnations: u64,
}

/// What happened on the wire, as a hash, and as text where it is asked for.
#[derive(Debug, Default)]
struct Trace {
    hash: u64,
    steps: u64,
    lines: Option<Vec<String>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl House {
    pub fn new(setting: Setting, traced: bool) -> Self {
        let clock = Clock::simulated(BEGIN_MS);
        let faults = Faults { lose_unsynced: true, ..Faults::none() };
        let options = SimOptions { seed: setting.seed, clock: clock.clone(), together: setting.together, faults };
        let store = Sim::new(options);
        let state = State { store, nodes: Vec::new(), orphans: Vec::new(), incarnations: 0 };
        let model = Mutex::new(Model::new(setting.rules.clone()));
        let trace = Mutex::new(Trace { lines: traced.then(Vec::new), ..Trace::default() });
        let (exchange, hints) = (Exchange::default(), Arc::default());
        let clocks = (0..setting.nodes).map(|_| Clock::simulated(BEGIN_MS)).collect();
        let (turned_back, state) = (AtomicBool::new(false), Mutex::new(state));
        let house = Self(Arc::new(Inner { clock, clocks, turned_back, state, model, trace, setting, exchange, hints }));
        for machine in 0..house.0.setting.nodes {
            let handle = locked(&house.0.state).store.handle();
            let node = house.start(handle, machine);
            locked(&house.0.state).nodes.push(node);
        }
        house
    }

    pub fn setting(&self) -> &Setting {
        &self.0.setting
    }

    /// The right time; a machine may have another.
    pub fn now_ms(&self) -> u64 {
        self.0.clock.now_ms()
    }

    /// All clocks jump.
    pub fn jump(&self, by_ms: i64) {
        self.0.turned_back.fetch_or(by_ms < 0, Ordering::Relaxed);
        self.0.clock.jump(by_ms);
        self.0.clocks.iter().for_each(|clock| clock.jump(by_ms));
    }

    /// The clock of one node's machine goes wrong by so much more.
    pub fn skew(&self, node: usize, by_ms: i64) {
        self.0.clocks[node].jump(by_ms);
    }

    /// Whether the clocks once went back: the word of a dead node then holds for longer than it should.
    pub fn has_turned_back(&self) -> bool {
        self.0.turned_back.load(Ordering::Relaxed)
    }

    pub fn model(&self) -> MutexGuard<'_, Model> {
        locked(&self.0.model)
    }

    /// Adds to the trace.
    pub fn note(&self, text: &str) {
        let mut trace = locked(&self.0.trace);
        trace.steps += 1;
        // FNV: the same in every build.
        for byte in text.bytes() {
            trace.hash = (trace.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if let Some(lines) = &mut trace.lines {
            lines.push(text.to_owned());
        }
    }

    pub fn trace(&self) -> String {
        locked(&self.0.trace).lines.as_ref().map(|lines| lines.join("\n")).unwrap_or_default()
    }

    /// Equal for equal stories.
    pub fn fingerprint(&self) -> (u64, u64, u64) {
        let trace = locked(&self.0.trace);
        let (steps, hash) = locked(&self.0.state).store.fingerprint();
        (trace.steps + steps, trace.hash, hash)
    }

    fn policy(&self) -> Policy {
        let setting = self.setting();
        Policy {
            sync_max_entries: setting.rules.max_entries,
            sync_max_age_ms: setting.max_age_ms,
            dedupe_ms: 1000 * 24 * 60 * 60 * 1000,
            max_devices: 50,
            large_conversation_members: setting.large.unwrap_or(500),
            ..Policy::default()
        }
    }

    fn start(&self, switches: Sim, machine: usize) -> Node {
        let incarnation = {
            let mut state = locked(&self.0.state);
            state.incarnations += 1;
            state.incarnations
        };
        let hub = Arc::new(Hub::new(self.bus(incarnation)));
        let (clock, policy) = (self.0.clocks[machine].clone(), self.policy());
        let trap = Trap::new(switches.clone());
        let store: Arc<dyn Store> = Arc::new(Between(Arc::clone(&trap)));
        let engine = Engine::new(store, Arc::clone(&hub), clock.clone(), policy.clone(), incarnation);
        let setting = self.setting();
        let limits = SessionLimits {
            heartbeat: setting.heartbeat,
            window_entries: setting.rules.window,
            page_bytes: setting.page_bytes,
            rate_messages: 0,
            rate_requests: 0,
            ..Settings::default().session
        };
        let verifier = Verifier::with_secret(SECRET, clock.clone());
        let draining = CancellationToken::new();
        let shared = session::Shared::new(engine.clone(), hub, clock, verifier, limits, &policy, draining);
        let mut alone = Vec::new();
        if !setting.together {
            alone.push(tokio::spawn(renew(engine.clone())));
            alone.push(tokio::spawn(finish(engine.clone())));
            // Elsewhere there is nothing to look at but `b:all`, of which nothing comes.
            let looks = setting.large.is_some() || setting.notices;
            alone.extend(looks.then(|| tokio::spawn(look(engine.clone()))));
        }
        Node {
            incarnation,
            switches,
            trap,
            engine,
            shared: Arc::new(shared),
            still: Arc::default(),
            tasks: alone,
            lines: Vec::new(),
            up: true,
            still_since: None,
            cut_since: None,
        }
    }

    fn bus(&self, incarnation: u64) -> Arc<dyn Bus> {
        let Some(_) = self.setting().hints.filter(|_| !self.setting().together) else {
            return bus::alone(incarnation);
        };
        let epoch = self.store().epoch();
        let identity = Identity { node: incarnation, epoch: Arc::new(move || epoch.clone()) };
        let house = Arc::downgrade(&self.0);
        let told = Arc::new(move |what| {
            if let Some(inner) = house.upgrade() {
                locked(&inner.model).count(what);
            }
        });
        let seed = self.setting().seed ^ (incarnation << 32);
        Arc::new(Rough::new(self.0.exchange.join(identity), seed, Arc::clone(&self.0.hints), told))
    }

    /// Another service on the same bus, with the same users and data of its own.
    pub fn stranger(&self) -> Arc<dyn Bus> {
        let identity = Identity { node: u64::MAX, epoch: Arc::new(|| "another epoch".to_owned()) };
        self.0.exchange.join(identity)
    }

    /// Whether nodes hear each other at all.
    pub fn has_bus(&self) -> bool {
        self.setting().hints.is_some() && !self.setting().together
    }

    /// The bus says nothing at all, or what it is meant to.
    pub fn silence(&self, on: bool) {
        self.0.exchange.silence(on);
    }

    pub fn token(&self, user: &UserId) -> String {
        Minter::new(SECRET, self.0.clock.clone()).mint(user, None, self.setting().token_ttl)
    }

    pub fn nodes(&self) -> usize {
        self.setting().nodes
    }

    pub fn is_up(&self, node: usize) -> bool {
        locked(&self.0.state).nodes[node].up
    }

    pub fn engine(&self, node: usize) -> Engine {
        locked(&self.0.state).nodes[node].engine.clone()
    }

    /// For how long the store has not heard of this node.
    pub fn unheard_for(&self, node: usize) -> Option<Duration> {
        let state = locked(&self.0.state);
        let node = &state.nodes[node];
        Some([node.still_since, node.cut_since].into_iter().flatten().min()?.elapsed())
    }

    /// A connection to a node; refused while it is down.
    pub fn dial(&self, node: usize, user: &UserId, device: &DeviceId) -> io::Result<(DuplexStream, ConnId, Arc<Line>)> {
        let mut state = locked(&self.0.state);
        let node = &mut state.nodes[node];
        if !node.up {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let conn = self.model().opens(user, device);
        let line = Arc::new(Line::default());
        let reads = (Mutex::new(Frames::default()), Mutex::new(Frames::default()));
        let (house, tapped) = (Arc::downgrade(&self.0), Arc::new(reads));
        let reads_along = move |way: Way, bytes: &[u8]| {
            let Some(inner) = house.upgrade() else { return };
            let frames = if way == Way::Up { &tapped.0 } else { &tapped.1 };
            for frame in locked(frames).take(bytes) {
                Self(Arc::clone(&inner)).hears(conn, way, &frame);
            }
        };
        let (client, mut server) = line::connect(&line, &node.still, reads_along);
        let (shared, served) = (Arc::clone(&node.shared), Arc::clone(&line));
        node.tasks.retain(|task| !task.is_finished());
        node.tasks.push(tokio::spawn(async move {
            if let Ok(rest) = line::upgrade(&mut server).await {
                session::serve(shared, server, rest, None).await;
            }
            served.end();
        }));
        node.lines.retain(|line| line.strong_count() > 0);
        node.lines.push(Arc::downgrade(&line));
        Ok((client, conn, line))
    }

    /// A call of the server API at a node; `None`: the node died, or is down.
    pub async fn call<T, F>(&self, node: usize, call: impl FnOnce(Engine) -> F) -> Option<T>
    where
        T: std::marker::Send + 'static,
        F: Future<Output = T> + std::marker::Send + 'static,
    {
        let (reply, answer) = tokio::sync::oneshot::channel();
        {
            let mut state = locked(&self.0.state);
            let node = &mut state.nodes[node];
            if !node.up {
                return None;
            }
            let (call, still) = (call(node.engine.clone()), Arc::clone(&node.still));
            node.tasks.push(tokio::spawn(async move {
                let came = call.await;
                still.open().await;
                let _ = reply.send(came);
            }));
        }
        answer.await.ok()
    }

    fn hears(&self, conn: ConnId, way: Way, frame: &Frame) {
        let mut model = self.model();
        match frame {
            Frame::Text(text) => {
                self.note(&format!("{conn} {way:?} {text}"));
                match way {
                    Way::Up => match ClientFrame::parse(text) {
                        Ok(frame) => model.asks(conn, frame),
                        Err(reject) => model.blame(format!("conn {conn}: the client sent {text}: {reject:?}")),
                    },
                    Way::Down => match ServerFrame::parse(text) {
                        Ok(frame) => model.told(conn, frame),
                        Err(error) => model.blame(format!("conn {conn}: {error}: {text}")),
                    },
                }
            }
            Frame::Close(code) => {
                self.note(&format!("{conn} {way:?} close {code}"));
                model.closes(conn, *code);
            }
        }
    }

    /// Faults on, or none.
    pub fn trouble(&self, on: bool) {
        let faults = self.setting().faults.clone();
        let calm = Faults { lose_unsynced: faults.lose_unsynced, ..Faults::none() };
        locked(&self.0.state).store.set_faults(if on { faults } else { calm });
        *locked(&self.0.hints) = self.setting().hints.filter(|_| on).unwrap_or_default();
    }

    /// A node stands still (or goes on): nothing of it reaches anybody.
    pub fn pause(&self, node: usize, on: bool) {
        self.pause_store(node, on);
        locked(&self.0.state).nodes[node].still.shut(on);
    }

    /// A node's store answers nothing (or does again); the node itself goes on.
    pub fn pause_store(&self, node: usize, on: bool) {
        let mut state = locked(&self.0.state);
        state.nodes[node].switches.pause(on);
        note_since(&mut state.nodes[node].still_since, on);
    }

    /// What can be set for this life of a node.
    pub fn trap(&self, node: usize) -> Arc<Trap> {
        Arc::clone(&locked(&self.0.state).nodes[node].trap)
    }

    /// A node does not reach the store (or does again).
    pub fn cut(&self, node: usize, on: bool) {
        let mut state = locked(&self.0.state);
        state.nodes[node].switches.cut(on);
        note_since(&mut state.nodes[node].cut_since, on);
    }

    /// Kills a node. `silent`: its peers are not told.
    pub fn crash(&self, node: usize, silent: bool) {
        let mut state = locked(&self.0.state);
        if !state.nodes[node].up {
            return;
        }
        let handle = state.nodes[node].switches.crash();
        let dead = &mut state.nodes[node];
        dead.up = false;
        dead.tasks.drain(..).for_each(|task| task.abort());
        for line in dead.lines.drain(..).filter_map(|line| line.upgrade()) {
            if silent {
                line.up.shut(true);
                line.down.shut(true);
            } else {
                line.cut();
            }
        }
        dead.still.shut(false);
        dead.switches = handle.clone();
        let incarnation = dead.incarnation;
        state.orphans.push(incarnation);
        if self.setting().together {
            state.store = handle;
        }
    }

    /// Starts a dead node again; it finishes what it left before it serves.
    pub async fn restart(&self, node: usize) {
        let (up, switches) = {
            let state = locked(&self.0.state);
            (state.nodes[node].up, state.nodes[node].switches.clone())
        };
        if up {
            return;
        }
        let fresh = self.start(switches, node);
        if self.setting().together {
            while fresh.engine.recover().await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        locked(&self.0.state).nodes[node] = fresh;
    }

    /// A node finishes what the dead left undone. `wrongly`: also what this living one has under way.
    pub async fn take_over(&self, by: usize, wrongly: Option<usize>) -> bool {
        let (engine, orphans, victim) = {
            let mut state = locked(&self.0.state);
            let victim = wrongly.map(|node| state.nodes[node].incarnation);
            let orphans = std::mem::take(&mut state.orphans);
            if !state.nodes[by].up {
                state.orphans = orphans;
                return false;
            }
            (state.nodes[by].engine.clone(), orphans, victim)
        };
        let dead = |node: u64| orphans.contains(&node) || victim == Some(node);
        let taken = tokio::time::timeout(Duration::from_secs(60), engine.take_over(dead)).await;
        let done = matches!(taken, Ok(Ok(_)));
        if !done {
            locked(&self.0.state).orphans.extend(orphans);
        }
        matches!(taken, Ok(Ok(1..)))
    }

    /// The first node finishes everything whose mark names no living node; whether there was any.
    pub async fn take_over_the_dead(&self) -> bool {
        if self.setting().together {
            return false;
        }
        let (engine, living) = {
            let state = locked(&self.0.state);
            let living: Vec<u64> = state.nodes.iter().filter(|node| node.up).map(|node| node.incarnation).collect();
            (state.nodes[0].engine.clone(), living)
        };
        loop {
            if let Ok(taken) = engine.take_over(|node| !living.contains(&node)).await {
                return taken > 0;
            }
        }
    }

    /// The store drops entries of users long too old, as a TTL does.
    pub fn expire(&self) {
        let day = 24 * 60 * 60 * 1000;
        let before = self.0.clock.now_ms().saturating_sub(self.setting().max_age_ms + day);
        locked(&self.0.state).store.expire_entries(before);
    }

    pub fn sync_head(&self, user: &UserId) -> u64 {
        self.store().dump(&TimelineId::User(user.clone())).head.position.seq
    }

    pub fn store(&self) -> Sim {
        locked(&self.0.state).store.clone()
    }
}

fn note_since(since: &mut Option<Instant>, on: bool) {
    *since = on.then(|| since.unwrap_or_else(Instant::now));
}

/// What a node does by itself, as the server does, so often.
const EVERY: Duration = Duration::from_secs(3);

/// It says that it lives,
async fn renew(engine: Engine) {
    loop {
        let _ = tokio::time::timeout(EVERY, engine.renew()).await;
        tokio::time::sleep(EVERY).await;
    }
}

/// finishes what the dead left,
async fn finish(engine: Engine) {
    let mut sights = Sights::default();
    loop {
        let _ = engine.finish_for_the_dead(&mut sights).await;
        tokio::time::sleep(EVERY).await;
    }
}

/// and looks where large conversations stand.
async fn look(engine: Engine) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        engine.look_at_followed().await;
    }
}
