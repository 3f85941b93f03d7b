//! A store in front of the CQL store that stops a process at an exact moment: before a chosen commit, or as
//! soon as one is applied.
//!
//! It only delays and withholds answers; what is stored and decided is the database's.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use everline::store::cql::Cql;
use everline::store::{Commit, Mark, Outcome, Result, Store, TimelineId};
use futures::FutureExt as _;
use futures::future::{BoxFuture, pending};
use tokio::sync::Semaphore;

use crate::between::Way;

/// A commit that stands still.
#[derive(Debug)]
pub struct Held {
    reached: Semaphore,
    released: Semaphore,
}

impl Held {
    /// Waits until the commit stands here.
    pub async fn reached(&self) {
        drop(self.reached.acquire().await.unwrap());
    }

    pub fn release(&self) {
        self.released.add_permits(1);
    }
}

#[derive(Debug, Default)]
struct Plans {
    holds: Vec<(TimelineId, Arc<Held>)>,
    last: Option<TimelineId>,
}

/// See the module. One process's handle.
#[derive(Debug)]
pub struct Door {
    pub cql: Arc<Cql>,
    plans: Mutex<Plans>,
    dead: AtomicBool,
}

impl Door {
    pub fn new(cql: Arc<Cql>) -> Arc<Self> {
        Arc::new(Self { cql, plans: Mutex::default(), dead: AtomicBool::new(false) })
    }

    /// Stops the next commit of this timeline before it is sent.
    pub fn hold(&self, timeline: TimelineId) -> Arc<Held> {
        let held = Arc::new(Held { reached: Semaphore::new(0), released: Semaphore::new(0) });
        self.plans.lock().unwrap().holds.push((timeline, Arc::clone(&held)));
        held
    }

    /// The process dies as soon as a commit of this timeline is applied, before it is told.
    pub fn die_once_applied(&self, timeline: TimelineId) {
        self.plans.lock().unwrap().last = Some(timeline);
    }

    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    async fn one(self: Arc<Self>, commit: Commit) -> Outcome {
        let timeline = commit.timeline.clone();
        let held = {
            let holds = &mut self.plans.lock().unwrap().holds;
            holds.iter().position(|(of, _)| *of == timeline).map(|at| holds.remove(at).1)
        };
        if let Some(held) = held {
            held.reached.add_permits(1);
            held.released.acquire().await.unwrap().forget();
        }
        if self.is_dead() {
            return pending().await;
        }
        let outcome = self.cql.commit(vec![commit]).await.remove(0);
        if outcome == Outcome::Applied && self.plans.lock().unwrap().last.as_ref() == Some(&timeline) {
            self.dead.store(true, Ordering::SeqCst);
        }
        self.alive(outcome).await
    }

    /// An answer, unless the process is dead by now.
    async fn alive<T>(&self, answer: T) -> T {
        if self.is_dead() { pending().await } else { answer }
    }
}

impl Way for Door {
    fn store(&self) -> &dyn Store {
        &*self.cql
    }

    fn commit(self: Arc<Self>, commits: Vec<Commit>) -> BoxFuture<'static, Vec<Outcome>> {
        // Tasks of their own: whoever drops the future does not take the commits back.
        let each: Vec<_> = commits.into_iter().map(|commit| tokio::spawn(Arc::clone(&self).one(commit))).collect();
        async move { futures::future::join_all(each).await.into_iter().map(|end| end.unwrap()).collect() }.boxed()
    }

    fn put_mark(&self, mark: Mark) -> BoxFuture<'_, Result<()>> {
        async move { if self.is_dead() { pending().await } else { self.cql.put_mark(mark).await } }.boxed()
    }

    fn delete_mark(&self, mark: Mark) -> BoxFuture<'_, Result<()>> {
        async move { if self.is_dead() { pending().await } else { self.cql.delete_mark(mark).await } }.boxed()
    }
}
