//! A store in front of a simulated one, that stops a process at an exact moment: before or after a
//! chosen commit, at its n-th write, or with an outcome nobody is told.
//!
//! It only delays, splits (where commits are decided one by one anyway) and withholds answers; what is
//! stored and decided is the simulated store's.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use everline::store::sim::Sim;
use everline::store::{Commit, Error, Mark, Outcome, Result, Store, TimelineId};
use futures::FutureExt;
use futures::future::{BoxFuture, pending};
use tokio::sync::Notify;

use super::between::{Way, What};

/// A moment of one commit (or of one write, for [`Gate::kill_at`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// It has not been sent.
    Before,
    /// It is decided, its caller does not know.
    After,
}

/// What becomes of a commit whose caller is told `Unknown`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Never sent.
    Lost,
    /// Decided, the answer lost.
    AnswerLost,
    /// Under way until [`Gate::land`].
    Late,
}

#[derive(Debug, Default)]
struct Plans {
    holds: Vec<Arc<Held>>,
    fates: Vec<(TimelineId, Fate)>,
    late: Vec<Commit>,
    late_delete: bool,
    late_deletes: Vec<Mark>,
    die_once_applied: Option<TimelineId>,
    kill_at: Option<(usize, When)>,
}

/// See the module. One process's handle.
#[derive(Debug)]
pub struct Gate {
    pub sim: Sim,
    plans: Mutex<Plans>,
    writes: AtomicUsize,
    /// Reads of a node's marks.
    looks: AtomicUsize,
    dead: AtomicBool,
}

#[derive(Debug)]
pub struct Held {
    timeline: TimelineId,
    when: When,
    reached: AtomicBool,
    released: AtomicBool,
    changed: Notify,
}

impl Held {
    /// Waits until a commit stands here.
    pub async fn reached(&self) {
        self.wait(&self.reached).await;
    }

    pub fn release(&self) {
        self.released.store(true, Ordering::SeqCst);
        self.changed.notify_waiters();
    }

    async fn stand(&self) {
        self.reached.store(true, Ordering::SeqCst);
        self.changed.notify_waiters();
        self.wait(&self.released).await;
    }

    async fn wait(&self, flag: &AtomicBool) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if flag.load(Ordering::SeqCst) {
                return;
            }
            changed.await;
        }
    }
}

impl Gate {
    pub fn new(sim: Sim) -> Arc<Self> {
        let (writes, looks) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { sim, plans: Mutex::default(), writes, looks, dead: AtomicBool::new(false) })
    }

    fn plans(&self) -> MutexGuard<'_, Plans> {
        self.plans.lock().unwrap()
    }

    /// Stops the next commit of this timeline. Only for stores that do not commit together: there the
    /// other commits of the call go on.
    pub fn hold(&self, timeline: TimelineId, when: When) -> Arc<Held> {
        assert!(!self.sim.together(), "hold commits of such a store with Sim::hold_next_commit");
        let (reached, released) = (AtomicBool::new(false), AtomicBool::new(false));
        let held = Arc::new(Held { timeline, when, reached, released, changed: Notify::new() });
        self.plans().holds.push(Arc::clone(&held));
        held
    }

    /// The next commit of this timeline ends unknown.
    pub fn unknown(&self, timeline: TimelineId, fate: Fate) {
        self.plans().fates.push((timeline, fate));
    }

    /// Whether every outcome that was to be unknown has been told.
    pub fn lost_one(&self) -> bool {
        self.plans().fates.is_empty()
    }

    /// What was `Late` arrives now; tells the outcomes nobody was told.
    pub async fn land(&self) -> Vec<Outcome> {
        let (late, deletes) = {
            let mut plans = self.plans();
            (std::mem::take(&mut plans.late), std::mem::take(&mut plans.late_deletes))
        };
        for mark in deletes {
            self.sim.delete_mark(mark).await.unwrap();
        }
        let mut outcomes = Vec::new();
        for commit in late {
            outcomes.extend(self.sim.commit(vec![commit]).await);
        }
        outcomes
    }

    /// The next deletion of a mark ends unknown and is under way until [`Gate::land`].
    pub fn late_delete(&self) {
        self.plans().late_delete = true;
    }

    /// The process dies as soon as a commit of this timeline is applied, before it is told.
    pub fn die_once_applied(&self, timeline: TimelineId) {
        self.plans().die_once_applied = Some(timeline);
    }

    /// The process dies at its n-th write (from 1): a commit call, or a mark written or deleted.
    pub fn kill_at(&self, write: usize, when: When) {
        self.plans().kill_at = Some((write, when));
    }

    /// The process dies: no call ends any more.
    pub fn kill(&self) {
        self.dead.store(true, Ordering::SeqCst);
    }

    /// How often a node's marks were looked at.
    pub fn looks_at_marks(&self) -> usize {
        self.looks.load(Ordering::SeqCst)
    }

    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    /// Counts a write; `Some` if the process dies at it.
    fn step(&self) -> Option<When> {
        let step = self.writes.fetch_add(1, Ordering::SeqCst) + 1;
        let kill = self.plans().kill_at.filter(|(write, _)| *write == step);
        kill.map(|(_, when)| when)
    }

    /// An answer, unless the process is dead by now.
    async fn alive<T>(&self, answer: T) -> T {
        if self.is_dead() { pending().await } else { answer }
    }

    async fn one(self: Arc<Self>, commit: Commit) -> Outcome {
        let timeline = commit.timeline.clone();
        let (held, fate) = {
            let mut plans = self.plans();
            let at = plans.holds.iter().position(|held| held.timeline == timeline);
            let held = at.map(|at| plans.holds.remove(at));
            let at = plans.fates.iter().position(|(of, _)| *of == timeline);
            (held, at.map(|at| plans.fates.remove(at).1))
        };
        if let Some(held) = held.as_ref().filter(|held| held.when == When::Before) {
            held.stand().await;
        }
        if self.is_dead() {
            return pending().await;
        }
        let outcome = match fate {
            Some(Fate::Lost) => Outcome::Unknown,
            Some(Fate::Late) => {
                self.plans().late.push(commit);
                Outcome::Unknown
            }
            _ => self.sim.commit(vec![commit]).await.remove(0),
        };
        if outcome == Outcome::Applied && self.plans().die_once_applied.as_ref() == Some(&timeline) {
            self.kill();
        }
        if let Some(held) = held.filter(|held| held.when == When::After) {
            held.stand().await;
        }
        self.alive(if fate.is_some() { Outcome::Unknown } else { outcome }).await
    }

    async fn mark_write(&self, write: BoxFuture<'_, Result<()>>) -> Result<()> {
        match if self.is_dead() { Some(When::Before) } else { self.step() } {
            Some(When::Before) => self.kill(),
            Some(When::After) => {
                write.await?;
                self.kill();
            }
            None => return self.alive(write.await).await,
        }
        pending().await
    }
}

impl Way for Gate {
    fn store(&self) -> &dyn Store {
        &self.sim
    }

    fn read<'a, T: Send + 'a>(&'a self, _: What<'a>, read: BoxFuture<'a, Result<T>>) -> BoxFuture<'a, Result<T>> {
        async move {
            if self.is_dead() {
                return pending().await;
            }
            let found = read.await;
            self.alive(found).await
        }
        .boxed()
    }

    fn commit(self: Arc<Self>, commits: Vec<Commit>) -> BoxFuture<'static, Vec<Outcome>> {
        if self.is_dead() {
            return pending().boxed();
        }
        let kill = self.step();
        if kill == Some(When::Before) {
            self.kill();
            return pending().boxed();
        }
        let decided = if self.sim.together() {
            self.sim.commit(commits)
        } else {
            let each = commits.into_iter().map(|commit| tokio::spawn(Arc::clone(&self).one(commit)));
            let each: Vec<_> = each.collect();
            async move { futures::future::join_all(each).await.into_iter().map(|end| end.unwrap()).collect() }.boxed()
        };
        async move {
            let outcomes = decided.await;
            if kill == Some(When::After) {
                self.kill();
            }
            self.alive(outcomes).await
        }
        .boxed()
    }

    fn put_mark(&self, mark: Mark) -> BoxFuture<'_, Result<()>> {
        self.mark_write(self.sim.put_mark(mark)).boxed()
    }

    fn marks_of(&self, node: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Mark>>> {
        self.looks.fetch_add(1, Ordering::SeqCst);
        self.read(None, self.sim.marks_of(node, limit))
    }

    fn delete_mark(&self, mark: Mark) -> BoxFuture<'_, Result<()>> {
        if std::mem::take(&mut self.plans().late_delete) {
            self.plans().late_deletes.push(mark);
            return std::future::ready(Err(Error::Unavailable("on its way".into()))).boxed();
        }
        async move { self.mark_write(self.sim.delete_mark(mark)).await }.boxed()
    }
}
