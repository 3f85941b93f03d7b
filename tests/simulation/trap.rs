//! Exact moments: what stands between a node and the simulated store, and lets a scene stop the node at its n-th
//! write, keep one timeline waiting or away, withhold or lose an answer, or delay a mark's deletion.
//!
//! With nothing set, calls go through as they are. It decides nothing: what is stored and answered is the store's.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use everline::store::sim::Sim;
use everline::store::{Commit, Error, Mark, Outcome, Result, Store, TimelineId};
use futures::FutureExt;
use futures::future::{BoxFuture, join_all, pending};
use tokio::sync::Notify;

use crate::between::{Way, What};

/// A moment of one write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// It has not been sent, and never is.
    Before,
    /// It is done, and its caller does not learn it.
    After,
}

/// What happens to commits of one timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ailment {
    /// They wait, unsent, for [`Trap::release`].
    Waits,
    /// They are done, and their callers learn it at [`Trap::release`].
    Withheld,
    /// They end unknown, and never happened.
    Away,
    /// The next one is done, and ends unknown.
    AnswerLost,
}

#[derive(Debug, Default)]
struct Plans {
    /// Writes to go before the one at which the node stops, and when.
    stop: Option<(usize, When)>,
    stopped: bool,
    ails: Option<(TimelineId, Ailment)>,
    late_deletion: Option<Duration>,
    /// Reads of this timeline to go before the one whose answer is withheld.
    read: Option<(TimelineId, usize)>,
    /// Counts releases.
    released: u64,
}

/// See the module. One node's.
#[derive(Debug)]
pub struct Trap {
    sim: Sim,
    plans: Mutex<Plans>,
    changed: Notify,
}

impl Trap {
    pub fn new(sim: Sim) -> Arc<Self> {
        Arc::new(Self { sim, plans: Mutex::default(), changed: Notify::new() })
    }

    fn plans(&self) -> MutexGuard<'_, Plans> {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node stops at its n-th write from now (from 1): a call of commits, or a mark written or deleted. No call
    /// of it ends from then on.
    pub fn stop_at(&self, write: usize, when: When) {
        self.plans().stop = Some((write, when));
    }

    /// Waits until the node has stopped there, at most so long.
    pub async fn stopped(&self, at_most: Duration) {
        drop(tokio::time::timeout(at_most, self.wait(|plans| plans.stopped)).await);
    }

    /// Something happens to commits of this timeline; of no effect in a store that commits together.
    pub fn ail(&self, timeline: TimelineId, ailment: Ailment) {
        self.plans().ails = Some((timeline, ailment));
    }

    /// All timelines are well again, and nothing else is set; what has stopped stays so.
    pub fn release(&self) {
        let mut plans = self.plans();
        *plans = Plans { stopped: plans.stopped, released: plans.released + 1, ..Plans::default() };
        drop(plans);
        self.changed.notify_waiters();
    }

    /// The n-th read of this timeline from now (from 1) is done, and its caller learns it at [`Trap::release`].
    pub fn withhold_read(&self, timeline: TimelineId, read: usize) {
        self.plans().read = Some((timeline, read));
    }

    /// The next deletion of a mark ends unknown, and happens so much later.
    pub fn delay_deletion(&self, by: Duration) {
        self.plans().late_deletion = Some(by);
    }

    async fn wait(&self, done: impl Fn(&Plans) -> bool) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if done(&self.plans()) {
                return;
            }
            changed.await;
        }
    }

    /// Counts a write; tells whether the node stops at it.
    fn step(&self) -> Option<When> {
        let mut plans = self.plans();
        let (left, when) = plans.stop.as_mut()?;
        *left = left.saturating_sub(1);
        let when = *when;
        if *left > 0 {
            return None;
        }
        plans.stop = None;
        Some(when)
    }

    async fn stop<T>(&self) -> T {
        self.plans().stopped = true;
        self.changed.notify_waiters();
        pending().await
    }

    /// A write, that may be the one at which the node stops.
    async fn write<'a, T>(&self, write: impl FnOnce() -> BoxFuture<'a, T>) -> T {
        let step = self.step();
        if step == Some(When::Before) || self.plans().stopped {
            return self.stop().await;
        }
        self.end(step, write()).await
    }

    async fn end<T>(&self, step: Option<When>, write: BoxFuture<'_, T>) -> T {
        let done = write.await;
        if step == Some(When::After) || self.plans().stopped {
            return self.stop().await;
        }
        done
    }

    async fn read_any<T>(&self, read: BoxFuture<'_, T>) -> T {
        let found = read.await;
        if self.plans().stopped { pending().await } else { found }
    }

    async fn read_of<T>(&self, timeline: &TimelineId, read: BoxFuture<'_, T>) -> T {
        let withheld = {
            let mut plans = self.plans();
            let released = plans.released;
            let left = plans.read.as_mut().filter(|(of, _)| of == timeline).map(|(_, left)| {
                *left = left.saturating_sub(1);
                *left
            });
            (left == Some(0)).then(|| {
                plans.read = None;
                released
            })
        };
        let found = self.read_any(read).await;
        if let Some(released) = withheld {
            self.wait(|plans| plans.released > released).await;
        }
        found
    }

    /// One commit of a timeline that ails.
    async fn ailing(self: Arc<Self>, commit: Commit, ailment: Ailment) -> Outcome {
        let timeline = commit.timeline.clone();
        let ails = move |plans: &Plans| plans.ails.as_ref().is_some_and(|(of, _)| *of == timeline);
        match ailment {
            Ailment::Away => {
                tokio::time::sleep(Duration::from_millis(1)).await;
                Outcome::Unknown
            }
            Ailment::Waits => {
                self.wait(|plans| !ails(plans)).await;
                one(&self.sim, commit).await
            }
            Ailment::Withheld => {
                let outcome = one(&self.sim, commit).await;
                self.wait(|plans| !ails(plans)).await;
                outcome
            }
            Ailment::AnswerLost => {
                self.plans().ails = None;
                one(&self.sim, commit).await;
                Outcome::Unknown
            }
        }
    }

    /// Commits one by one, because one of them ails.
    fn commit_ailing(self: &Arc<Self>, commits: Vec<Commit>) -> BoxFuture<'static, Vec<Outcome>> {
        let each = commits.into_iter().map(|commit| {
            let ails = self.plans().ails.clone().filter(|(of, _)| *of == commit.timeline);
            match ails {
                Some((_, ailment)) => Arc::clone(self).ailing(commit, ailment).boxed(),
                None => {
                    let done = self.sim.commit(vec![commit]);
                    async move { done.await.pop().unwrap_or(Outcome::Unknown) }.boxed()
                }
            }
        });
        let each: Vec<BoxFuture<'static, Outcome>> = each.collect();
        join_all(each).boxed()
    }
}

async fn one(sim: &Sim, commit: Commit) -> Outcome {
    sim.commit(vec![commit]).await.pop().unwrap_or(Outcome::Unknown)
}

impl Way for Trap {
    fn store(&self) -> &dyn Store {
        &self.sim
    }

    fn read<'a, T: Send + 'a>(&'a self, what: What<'a>, read: BoxFuture<'a, Result<T>>) -> BoxFuture<'a, Result<T>> {
        match what {
            Some((timeline, _)) => self.read_of(timeline, read).boxed(),
            None => self.read_any(read).boxed(),
        }
    }

    fn commit(self: Arc<Self>, commits: Vec<Commit>) -> BoxFuture<'static, Vec<Outcome>> {
        let step = self.step();
        if step == Some(When::Before) || self.plans().stopped {
            return async move { self.stop().await }.boxed();
        }
        let ails = self.plans().ails.as_ref().map(|(of, _)| of.clone()).filter(|_| !self.sim.together());
        let ails = ails.is_some_and(|of| commits.iter().any(|commit| commit.timeline == of));
        let decided = if ails { self.commit_ailing(commits) } else { self.sim.commit(commits) };
        async move { self.end(step, decided).await }.boxed()
    }

    fn put_mark(&self, mark: Mark) -> BoxFuture<'_, Result<()>> {
        self.write(|| self.sim.put_mark(mark)).boxed()
    }

    fn delete_mark(&self, mark: Mark) -> BoxFuture<'_, Result<()>> {
        let late = self.plans().late_deletion.take();
        let Some(by) = late else {
            return self.write(|| self.sim.delete_mark(mark)).boxed();
        };
        let sim = self.sim.clone();
        tokio::spawn(async move {
            tokio::time::sleep(by).await;
            drop(sim.delete_mark(mark).await);
        });
        std::future::ready(Err(Error::Unavailable("simulated: on its way".to_owned()))).boxed()
    }
}
