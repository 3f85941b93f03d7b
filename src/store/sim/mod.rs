//! A store in memory, with faults made on purpose: for `--store memory:` (without faults) and for
//! simulations, where several nodes share one of these and a seed decides everything.
//!
//! ```text
//!   Sim (node 1) --\                      plan: latency, fate         one mutex: State
//!   Sim (node 2) ---+-- switches of the node --> dice of the seed --> timelines, marks, unsynced
//!   Sim (node 3) --/
//! ```
//!
//! It must keep the contract of `store` under every fault: it may be slow, silent and unreachable, but
//! never answers wrongly. Same seed, same calls, tokio's paused clock on one thread: same story.
//!
//! How it can hurt: it keeps nothing over a restart. A simulation that is kinder than a real backend
//! hides bugs, so entries at the floor are removed at once and unknown requests land late.

mod faults;
mod inspect;
mod node;
mod state;
mod strict;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, join_all, ready};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::oneshot;

use self::faults::{Fate, Plan};
use self::node::{Held, Node};
use self::state::State;
use super::{Commit, Entry, Error, Head, KnownNode, Mark, Outcome, Result, RowKey, Section, Span, Store, TimelineId};
use crate::config::Clock;
use crate::protocol::ConvId;

pub use faults::{Faults, Unknown};
pub use inspect::Dump;
pub use node::{Hold, Moment};

/// How a simulated store is made.
#[derive(Debug, Clone)]
pub struct SimOptions {
    /// Decides every latency and fault.
    pub seed: u64,
    /// Decides when rows expire.
    pub clock: Clock,
    /// The kind of backend it plays: see [`Store::together`].
    pub together: bool,
    /// What goes wrong; [`Sim::set_faults`] changes it later.
    pub faults: Faults,
}

/// One node's handle of a simulated store. A clone is the same node; [`Sim::handle`] makes another.
#[derive(Debug, Clone)]
pub struct Sim {
    shared: Arc<Shared>,
    node: Arc<Node>,
}

#[derive(Debug)]
struct Shared {
    seed: u64,
    clock: Clock,
    together: bool,
    faults: Mutex<Faults>,
    state: Mutex<State>,
    /// Every living node, for [`Sim::crash`].
    nodes: Mutex<Vec<Arc<Node>>>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add_node(&self) -> Arc<Node> {
        let node = Arc::new(Node::default());
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).push(node.clone());
        node
    }
}

impl Sim {
    /// An empty store and its first node.
    pub fn new(options: SimOptions) -> Self {
        let shared = Arc::new(Shared {
            seed: options.seed,
            clock: options.clock,
            together: options.together,
            faults: Mutex::new(options.faults),
            state: Mutex::new(State::new(StdRng::seed_from_u64(options.seed))),
            nodes: Mutex::new(Vec::new()),
        });
        let node = shared.add_node();
        Self { shared, node }
    }

    /// Another node on the same data, with switches of its own.
    pub fn handle(&self) -> Self {
        Self { shared: self.shared.clone(), node: self.shared.add_node() }
    }

    /// Changes what goes wrong from the next call on.
    pub fn set_faults(&self, faults: Faults) {
        *self.shared.faults() = faults;
    }

    /// Cuts this node off (or mends it): its calls end `Unknown` or `Unavailable`. What is under way
    /// still lands, its answer is lost.
    pub fn cut(&self, on: bool) {
        self.node.cut(on);
    }

    /// Stops this node (or lets it go on): its calls hang. What is under way still lands.
    pub fn pause(&self, on: bool) {
        self.node.pause(on);
    }

    /// Parks the next commit call of this node before or after its effect, until released. In a store
    /// that commits together, later calls wait behind one held `Before`.
    pub fn hold_next_commit(&self, moment: Moment) -> Hold {
        self.node.hold_next(moment)
    }

    /// Kills this node's process and returns the handle of the restarted one. Calls of the dead node
    /// never complete.
    ///
    /// In a store that commits together the store dies with its process: all nodes are dead, and with
    /// [`Faults::lose_unsynced`] what was not durable is forgotten (else it had just become durable).
    /// In the other kind only the node is gone; what it has under way still lands.
    pub fn crash(&self) -> Self {
        if self.shared.together {
            let lose = self.shared.faults().lose_unsynced;
            self.shared.state().crash(!lose);
            let nodes = std::mem::take(&mut *self.shared.nodes.lock().unwrap_or_else(PoisonError::into_inner));
            nodes.iter().for_each(|node| node.kill());
        }
        self.node.kill();
        self.handle()
    }

    /// Waits for this node and throws a read's dice: `Err` when it fails, else the way back.
    async fn read_there(&self) -> Result<Duration> {
        let (there, back, fails) = {
            let faults = self.shared.faults().clone();
            faults.read_plan(&mut self.shared.state().rng)
        };
        self.node.running().await;
        pass(there).await;
        if fails || self.node.is_cut() { Err(unreachable()) } else { Ok(back) }
    }

    fn read<'a, T, F>(&'a self, what: F) -> BoxFuture<'a, Result<T>>
    where
        T: Send + 'a,
        F: FnOnce(&State, u64) -> T + Send + 'a,
    {
        let look = move || what(&self.shared.state(), self.shared.clock.now_ms());
        if self.node.quiet() && self.shared.faults().immediate() {
            return Box::pin(ready(Ok(look())));
        }
        Box::pin(async move {
            let back = self.read_there().await?;
            let found = look();
            pass(back).await;
            self.node.running().await;
            if self.node.is_cut() { Err(unreachable()) } else { Ok(found) }
        })
    }

    fn read_timeline<'a, T, F>(&'a self, timeline: &'a TimelineId, what: F) -> BoxFuture<'a, Result<T>>
    where
        T: Send + Default + 'a,
        F: FnOnce(&state::Timeline, u64) -> T + Send + 'a,
    {
        self.read(move |state, now_ms| {
            let found = state.timelines.get(timeline);
            found.map_or_else(T::default, |timeline| what(timeline, now_ms))
        })
    }

    fn plan(&self) -> Plan {
        let faults = self.shared.faults().clone();
        faults.plan(&mut self.shared.state().rng)
    }

    /// Carries one change to the data of a store that does not commit together; `None` = unknown.
    async fn request<T, F>(self, plan: Plan, held: Option<Arc<Held>>, act: F) -> Option<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut State) -> T + Send + 'static,
    {
        self.node.running().await;
        if self.node.is_cut() {
            return None;
        }
        if let Some(held) = &held {
            held.park(Moment::Before).await;
        }
        pass(plan.there).await;
        let answer = match plan.fate {
            Fate::RequestLost => None,
            Fate::Late(delay) => {
                let shared = self.shared.clone();
                tokio::spawn(async move {
                    pass(delay).await;
                    act(&mut shared.state());
                });
                None
            }
            Fate::AnswerLost => {
                act(&mut self.shared.state());
                None
            }
            Fate::Answered => Some(act(&mut self.shared.state())),
        };
        if let Some(held) = &held {
            held.park(Moment::After).await;
        }
        pass(plan.back).await;
        self.node.running().await;
        answer.filter(|_| !self.node.is_cut())
    }

    /// Each commit is a request of its own and may overtake others.
    fn commit_each(&self, commits: Vec<Commit>) -> BoxFuture<'static, Vec<Outcome>> {
        let held = self.node.take_hold();
        let requests = commits.into_iter().map(|commit| {
            let act = move |state: &mut State| state.decide_one(commit);
            tokio::spawn(self.clone().request(self.plan(), held.clone(), act))
        });
        let requests: Vec<_> = requests.collect();
        Box::pin(async move {
            let ends = join_all(requests).await;
            ends.into_iter().map(|end| end.ok().flatten().unwrap_or(Outcome::Unknown)).collect()
        })
    }

    /// Judged now, in the order of the calls; durable and answered later, in the same order.
    fn commit_queued(&self, commits: Vec<Commit>) -> BoxFuture<'static, Vec<Outcome>> {
        let (count, plan, held) = (commits.len(), self.plan(), self.node.take_hold());
        let unknown = vec![Outcome::Unknown; count];
        let sim = self.clone();
        if self.node.is_dead() || self.node.is_cut() || matches!(plan.fate, Fate::RequestLost) {
            return Box::pin(async move {
                sim.node.running().await;
                pass(plan.there).await;
                unknown
            });
        }
        let (answer, answered) = oneshot::channel();
        let id = {
            let mut state = self.shared.state();
            let outcomes = state.decide_together(&commits);
            state.queue(commits, outcomes, answer)
        };
        let (shared, parked) = (self.shared.clone(), held.clone());
        let late = if let Fate::Late(delay) = plan.fate { delay } else { Duration::ZERO };
        tokio::spawn(async move {
            pass(plan.there + late).await;
            if let Some(held) = parked {
                held.park(Moment::Before).await;
            }
            shared.state().ready(id);
        });
        Box::pin(async move {
            let outcomes = match plan.fate {
                Fate::Late(_) => unknown.clone(),
                _ => match answered.await {
                    Ok(outcomes) => outcomes,
                    // Forgotten by a crash: nobody is left to answer.
                    Err(_) => std::future::pending().await,
                },
            };
            if let Some(held) = held {
                held.park(Moment::After).await;
            }
            sim.node.running().await;
            let lost = sim.node.is_cut() || matches!(plan.fate, Fate::AnswerLost);
            if lost { unknown } else { outcomes }
        })
    }

    fn change_mark<F>(&self, act: F) -> BoxFuture<'_, Result<()>>
    where
        F: FnOnce(&mut State) + Send + 'static,
    {
        if self.node.quiet() && self.shared.faults().immediate() {
            act(&mut self.shared.state());
            return Box::pin(ready(Ok(())));
        }
        let request = tokio::spawn(self.clone().request(self.plan(), None, act));
        Box::pin(async move { request.await.ok().flatten().ok_or_else(unreachable) })
    }
}

impl Store for Sim {
    fn epoch(&self) -> String {
        format!("sim-{:x}", self.shared.seed)
    }

    fn together(&self) -> bool {
        self.shared.together
    }

    fn commit(&self, commits: Vec<Commit>) -> BoxFuture<'static, Vec<Outcome>> {
        self.shared.state().look_at(&commits);
        let immediate = self.node.quiet() && self.shared.faults().immediate();
        if immediate && !self.shared.together {
            let mut state = self.shared.state();
            let outcomes = commits.into_iter().map(|commit| state.decide_one(commit)).collect();
            return Box::pin(ready(outcomes));
        }
        if !self.shared.together {
            return self.commit_each(commits);
        }
        if immediate {
            let mut state = self.shared.state();
            if state.unsynced.is_empty() {
                let outcomes = state.decide_together(&commits);
                if outcomes.first() == Some(&Outcome::Applied) {
                    commits.into_iter().for_each(|commit| state.apply(commit));
                }
                return Box::pin(ready(outcomes));
            }
        }
        self.commit_queued(commits)
    }

    fn head<'a>(&'a self, timeline: &'a TimelineId) -> BoxFuture<'a, Result<Head>> {
        self.read_timeline(timeline, |timeline, _| timeline.head)
    }

    fn entries<'a>(&'a self, timeline: &'a TimelineId, span: Span) -> BoxFuture<'a, Result<Vec<Entry>>> {
        self.read_timeline(timeline, move |timeline, _| timeline.page(span))
    }

    fn row<'a>(&'a self, timeline: &'a TimelineId, key: &'a RowKey) -> BoxFuture<'a, Result<Option<Bytes>>> {
        self.read_timeline(timeline, move |timeline, now_ms| timeline.row(key, now_ms))
    }

    fn rows<'a>(
        &'a self,
        timeline: &'a TimelineId,
        section: Section,
        after: Option<RowKey>,
        up_to_n: u64,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(RowKey, Bytes)>>> {
        self.read_timeline(timeline, move |timeline, now_ms| {
            timeline.section(section, after.as_ref(), up_to_n, limit, now_ms)
        })
    }

    fn timelines<'a>(&'a self, after: Option<TimelineId>, limit: usize) -> BoxFuture<'a, Result<Vec<TimelineId>>> {
        self.read(move |state, _| {
            let after = after.as_ref();
            let next = state.timelines.keys().filter(|id| after.is_none_or(|after| *id > after));
            next.take(limit).cloned().collect()
        })
    }

    fn unfinished(&self) -> BoxFuture<'_, Result<Vec<ConvId>>> {
        let together = self.shared.together;
        self.read(move |state, _| if together { state.unfinished() } else { Vec::new() })
    }

    fn put_mark(&self, mark: Mark) -> BoxFuture<'_, Result<()>> {
        self.change_mark(move |state| {
            state.trace(("put", &mark));
            state.marks.insert(mark);
        })
    }

    fn delete_mark(&self, mark: Mark) -> BoxFuture<'_, Result<()>> {
        self.change_mark(move |state| {
            state.trace(("delete", &mark));
            state.marks.remove(&mark);
        })
    }

    fn marks_of(&self, node: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Mark>>> {
        self.read(move |state, _| state.marks.iter().filter(|mark| mark.node == node).take(limit).cloned().collect())
    }

    fn begin_at(&self, timeline: TimelineId, head: Head) -> BoxFuture<'_, Result<Outcome>> {
        let request =
            tokio::spawn(self.clone().request(self.plan(), None, move |state| state.begin_at(timeline, head)));
        Box::pin(async move { Ok(request.await.ok().flatten().unwrap_or(Outcome::Unknown)) })
    }

    fn renew_node(&self, node: u64, ttl: Duration) -> BoxFuture<'_, Result<()>> {
        let until = self.shared.clock.now_ms().saturating_add(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        self.change_mark(move |state| {
            state.nodes.insert(node, until);
        })
    }

    fn nodes(&self) -> BoxFuture<'_, Result<Vec<KnownNode>>> {
        self.read(|state, now_ms| {
            state.nodes.iter().map(|(node, until)| KnownNode { node: *node, alive: *until > now_ms }).collect()
        })
    }

    fn forget_node(&self, node: u64) -> BoxFuture<'_, Result<()>> {
        self.change_mark(move |state| {
            state.nodes.remove(&node);
        })
    }
}

async fn pass(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

fn unreachable() -> Error {
    Error::Unavailable("simulated".to_owned())
}
