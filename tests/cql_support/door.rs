//! A store in front of the CQL store that stops a process at an exact moment: before a chosen commit, or as
//! soon as one is applied.
//!
//! It only delays and withholds answers; what is stored and decided is the database's.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use everline::protocol::ConvId;
use everline::store::cql::Cql;
use everline::store::{
    Commit, Entry, Head, KnownNode, Mark, Outcome, Result, RowKey, Section, Span, Store, TimelineId,
};
use futures::FutureExt as _;
use futures::future::{BoxFuture, pending};
use tokio::sync::Semaphore;

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

#[derive(Default)]
struct Plans {
    holds: Vec<(TimelineId, Arc<Held>)>,
    last: Option<TimelineId>,
}

/// See the module. One process's handle.
#[derive(Clone)]
pub struct Door {
    pub cql: Arc<Cql>,
    plans: Arc<Mutex<Plans>>,
    dead: Arc<AtomicBool>,
}

impl Door {
    pub fn new(cql: Arc<Cql>) -> Self {
        Self { cql, plans: Arc::default(), dead: Arc::default() }
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

    async fn one(self, commit: Commit) -> Outcome {
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

impl Store for Door {
    fn epoch(&self) -> String {
        self.cql.epoch()
    }

    fn together(&self) -> bool {
        self.cql.together()
    }

    fn commit(&self, commits: Vec<Commit>) -> BoxFuture<'static, Vec<Outcome>> {
        // Tasks of their own: whoever drops the future does not take the commits back.
        let each: Vec<_> = commits.into_iter().map(|commit| tokio::spawn(self.clone().one(commit))).collect();
        async move { futures::future::join_all(each).await.into_iter().map(|end| end.unwrap()).collect() }.boxed()
    }

    fn head<'a>(&'a self, timeline: &'a TimelineId) -> BoxFuture<'a, Result<Head>> {
        self.cql.head(timeline)
    }

    fn entries<'a>(&'a self, timeline: &'a TimelineId, span: Span) -> BoxFuture<'a, Result<Vec<Entry>>> {
        self.cql.entries(timeline, span)
    }

    fn row<'a>(&'a self, timeline: &'a TimelineId, key: &'a RowKey) -> BoxFuture<'a, Result<Option<Bytes>>> {
        self.cql.row(timeline, key)
    }

    fn rows<'a>(
        &'a self,
        timeline: &'a TimelineId,
        section: Section,
        after: Option<RowKey>,
        up_to_n: u64,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(RowKey, Bytes)>>> {
        self.cql.rows(timeline, section, after, up_to_n, limit)
    }

    fn timelines<'a>(&'a self, after: Option<TimelineId>, limit: usize) -> BoxFuture<'a, Result<Vec<TimelineId>>> {
        self.cql.timelines(after, limit)
    }

    fn unfinished(&self) -> BoxFuture<'_, Result<Vec<ConvId>>> {
        self.cql.unfinished()
    }

    fn put_mark(&self, mark: Mark) -> BoxFuture<'_, Result<()>> {
        async move { if self.is_dead() { pending().await } else { self.cql.put_mark(mark).await } }.boxed()
    }

    fn delete_mark(&self, mark: Mark) -> BoxFuture<'_, Result<()>> {
        async move { if self.is_dead() { pending().await } else { self.cql.delete_mark(mark).await } }.boxed()
    }

    fn marks_of(&self, node: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Mark>>> {
        self.cql.marks_of(node, limit)
    }

    fn renew_node(&self, node: u64, ttl: Duration) -> BoxFuture<'_, Result<()>> {
        self.cql.renew_node(node, ttl)
    }

    fn forget_node(&self, node: u64) -> BoxFuture<'_, Result<()>> {
        self.cql.forget_node(node)
    }

    fn nodes(&self) -> BoxFuture<'_, Result<Vec<KnownNode>>> {
        self.cql.nodes()
    }
}
