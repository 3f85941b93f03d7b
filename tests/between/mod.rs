//! What stands between an engine and a store: a test says what happens to calls on their way.
//!
//! It stores and decides nothing: what a [`Way`] leaves alone goes through as it is.

#![allow(unreachable_pub, reason = "the tests that take it in differ in how they see it")]

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use everline::protocol::ConvId;
use everline::store::{
    Commit, Entry, Head, KnownNode, Mark, Outcome, Result, RowKey, Section, Span, Store, TimelineId,
};
use futures::future::BoxFuture;

/// What is read: of one timeline, rows of one section. `None`: neither.
pub type What<'a> = Option<(&'a TimelineId, Option<Section>)>;

/// What happens to calls.
pub trait Way: Debug + Send + Sync + 'static {
    /// The store behind it.
    fn store(&self) -> &dyn Store;

    /// Reads, and what a node says and asks about nodes.
    fn read<'a, T: Send + 'a>(&'a self, _: What<'a>, read: BoxFuture<'a, Result<T>>) -> BoxFuture<'a, Result<T>> {
        read
    }

    /// To be handed on when it is called, not when first polled: a store that commits together decides in the order
    /// of calls.
    fn commit(self: Arc<Self>, commits: Vec<Commit>) -> BoxFuture<'static, Vec<Outcome>> {
        self.store().commit(commits)
    }

    fn put_mark(&self, mark: Mark) -> BoxFuture<'_, Result<()>> {
        self.store().put_mark(mark)
    }

    fn delete_mark(&self, mark: Mark) -> BoxFuture<'_, Result<()>> {
        self.store().delete_mark(mark)
    }

    fn marks_of(&self, node: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Mark>>> {
        self.read(None, self.store().marks_of(node, limit))
    }
}

/// What an engine is given.
#[derive(Debug)]
pub struct Between<W>(pub Arc<W>);

impl<W: Way> Store for Between<W> {
    fn epoch(&self) -> String {
        self.0.store().epoch()
    }

    fn together(&self) -> bool {
        self.0.store().together()
    }

    fn commit(&self, commits: Vec<Commit>) -> BoxFuture<'static, Vec<Outcome>> {
        Arc::clone(&self.0).commit(commits)
    }

    fn head<'a>(&'a self, timeline: &'a TimelineId) -> BoxFuture<'a, Result<Head>> {
        self.0.read(Some((timeline, None)), self.0.store().head(timeline))
    }

    fn entries<'a>(&'a self, timeline: &'a TimelineId, span: Span) -> BoxFuture<'a, Result<Vec<Entry>>> {
        self.0.read(Some((timeline, None)), self.0.store().entries(timeline, span))
    }

    fn row<'a>(&'a self, timeline: &'a TimelineId, key: &'a RowKey) -> BoxFuture<'a, Result<Option<Bytes>>> {
        self.0.read(Some((timeline, Some(key.section))), self.0.store().row(timeline, key))
    }

    fn rows<'a>(
        &'a self,
        timeline: &'a TimelineId,
        section: Section,
        after: Option<RowKey>,
        up_to_n: u64,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(RowKey, Bytes)>>> {
        let rows = self.0.store().rows(timeline, section, after, up_to_n, limit);
        self.0.read(Some((timeline, Some(section))), rows)
    }

    fn timelines<'a>(&'a self, after: Option<TimelineId>, limit: usize) -> BoxFuture<'a, Result<Vec<TimelineId>>> {
        self.0.read(None, self.0.store().timelines(after, limit))
    }

    fn unfinished(&self) -> BoxFuture<'_, Result<Vec<ConvId>>> {
        self.0.read(None, self.0.store().unfinished())
    }

    fn put_mark(&self, mark: Mark) -> BoxFuture<'_, Result<()>> {
        self.0.put_mark(mark)
    }

    fn delete_mark(&self, mark: Mark) -> BoxFuture<'_, Result<()>> {
        self.0.delete_mark(mark)
    }

    fn marks_of(&self, node: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Mark>>> {
        self.0.marks_of(node, limit)
    }

    fn begin_at(&self, timeline: TimelineId, head: Head) -> BoxFuture<'_, Result<Outcome>> {
        self.0.read(None, self.0.store().begin_at(timeline, head))
    }

    fn renew_node(&self, node: u64, ttl: Duration) -> BoxFuture<'_, Result<()>> {
        self.0.read(None, self.0.store().renew_node(node, ttl))
    }

    fn nodes(&self) -> BoxFuture<'_, Result<Vec<KnownNode>>> {
        self.0.read(None, self.0.store().nodes())
    }

    fn forget_node(&self, node: u64) -> BoxFuture<'_, Result<()>> {
        self.0.read(None, self.0.store().forget_node(node))
    }
}
