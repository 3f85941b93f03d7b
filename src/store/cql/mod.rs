//! The CQL store: timelines in ScyllaDB or Apache Cassandra, sequenced by compare-and-set.
//!
//! ```text
//! commit -> known place? -> one conditional batch on the head -> Applied
//!                               | refused        | error
//!                               v                v
//!                       read at SERIAL       Unknown: its caller sends the same again
//! ```
//!
//! A commit is one conditional batch in one partition; what is cached (where a timeline stands) only saves
//! reads, for the condition decides. `schema.cql` is the model, `place` and `settle` are about
//! buckets.
//!
//! **What reads see.** An answer `Applied` means that the database has the commit at a quorum, so reads at
//! QUORUM show every commit that was answered so, and each is of one moment of one partition. A commit
//! that is decided but not answered may show in one such read and (until the database repairs it, at the latest
//! with the timeline's next ballot) not in another: whatever is decided on a read that must not miss it
//! (the head told with a conflict, the opening of a bucket, its settling) is read at SERIAL, which finishes
//! what has begun.
//!
//! Must not: send a conditional statement twice by itself under another number; write plainly where
//! conditions rule; call an outcome known that is not.
//!
//! How it can hurt: a client timeout below the server's makes every slow moment an unknown outcome; clocks of
//! database nodes far apart make expiry of dedupe rows early or late by as much.

mod commit;
mod marks;
mod place;
mod read;
mod routing;
pub mod schema;
mod session;
mod settle;
mod statements;
mod stats;
mod values;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{self, BoxFuture};
use futures::{FutureExt as _, StreamExt as _};
use quick_cache::sync::Cache;
use scylla::client::session::Session;

pub use stats::Counters;

use self::place::Place;
use self::session::{Connected, unavailable};
use self::statements::{Statements, Timeline};
use self::stats::Stats;
use super::{Commit, Entry, Head, KnownNode, Mark, Outcome, Result, RowKey, Section, Span, Store, TimelineId};
use crate::config::{Clock, CqlTarget, Policy};
use crate::protocol::ConvId;

/// How often a running store looks whether its data got another epoch.
const EPOCH_EVERY: Duration = Duration::from_secs(30);
/// What an entry of a user's timeline outlives the maximum age by.
const AFTER_MAX_AGE_MS: u64 = 24 * 60 * 60 * 1000;

/// Where and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// Nodes and keyspace.
    pub target: CqlTarget,
    /// For what is left of a row's life.
    pub clock: Clock,
    /// How long entries of users' timelines are kept, milliseconds; 0 = for ever.
    pub user_entry_ttl_ms: u64,
    /// A conversation's bucket takes entries until it holds so many. May differ between nodes.
    pub bucket_entries: u64,
    /// Of one request; above what the server takes before it gives up by itself (2 s, or what it is set to).
    pub timeout: Duration,
    /// Commits of one call, or writes of one settling, under way at once.
    pub in_flight: usize,
    /// Timelines whose place is kept in memory.
    pub places: usize,
}

impl Options {
    /// The defaults, for a target.
    pub fn new(target: CqlTarget, clock: Clock, policy: &Policy) -> Self {
        Self {
            target,
            clock,
            user_entry_ttl_ms: policy.sync_max_age_ms.saturating_add(AFTER_MAX_AGE_MS),
            bucket_entries: 10_000,
            timeout: Duration::from_secs(8),
            in_flight: 64,
            places: 400_000,
        }
    }
}

/// Why a store cannot be served: one line that names the remedy.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpenError {
    /// No answer.
    #[error("no CQL database answers at {hosts}: check the addresses in --store and that it runs ({why})")]
    Unreachable {
        /// As configured.
        hosts: String,
        /// The driver's words.
        why: String,
    },
    /// The file of trusted certificates cannot be used.
    #[error("--store: tls={file}: {why}; give the PEM file of whoever signed the database's certificates")]
    Tls {
        /// As configured.
        file: String,
        /// What is wrong with it.
        why: String,
    },
    /// There is no such keyspace.
    #[error("there is no keyspace {0}: make it with `everline schema --store ...`, or correct --store")]
    NoKeyspace(String),
    /// The keyspace is not Everline's.
    #[error("keyspace {0} holds no Everline tables: make them with `everline schema --store ...`")]
    NoSchema(String),
    /// Made by an older Everline.
    #[error(
        "keyspace {keyspace} has schema version {found}, this program needs {needed}: run `everline schema` with it"
    )]
    Older {
        /// Which.
        keyspace: String,
        /// There.
        found: String,
        /// Here.
        needed: u32,
    },
    /// Made by a newer Everline.
    #[error("keyspace {keyspace} has schema version {found}, this program knows {needed}: use a newer Everline")]
    Newer {
        /// Which.
        keyspace: String,
        /// There.
        found: String,
        /// Here.
        needed: u32,
    },
    /// Compare-and-set does not work.
    #[error(
        "conditional writes do not work in keyspace {keyspace}: {why}; with ScyllaDB before 2025.4 drop the keyspace, \
         make it with tablets = {{'enabled': false}} and run `everline schema` again"
    )]
    NoConditionalWrites {
        /// Which.
        keyspace: String,
        /// The server's words.
        why: String,
    },
    /// Fewer nodes of the database are alive than its copies need.
    #[error(
        "too few nodes of the database are alive for keyspace {keyspace}: start them, or give it no more copies than \
         there are nodes (?replication=N when it is made) ({why})"
    )]
    TooFewNodes {
        /// Which.
        keyspace: String,
        /// The server's words.
        why: String,
    },
    /// The database refuses something.
    #[error("the database refuses: {0}")]
    Refused(String),
}

/// The CQL store. Cheap to clone.
#[derive(Clone)]
pub struct Cql {
    inner: Arc<Inner>,
}

/// What all calls share.
struct Inner {
    session: Session,
    conditional: scylla::client::execution_profile::ExecutionProfileHandle,
    statements: Statements,
    options: Options,
    stats: Stats,
    epoch: RwLock<String>,
    /// Where timelines stood when last seen; the condition of a commit decides whether they still do.
    places: Cache<TimelineId, Place>,
    /// Where sealed buckets begin and end: that never changes.
    buckets: Cache<(ConvId, u64), (u64, u64)>,
    /// How many buckets of a conversation are settled at least.
    settled: Cache<ConvId, u64>,
    /// Conversations being settled by this process; whether that has to go through once more.
    settling: Mutex<HashMap<ConvId, bool>>,
}

impl Cql {
    /// Connects, checks the schema and that conditional writes work, prepares every statement. Call inside
    /// a runtime.
    ///
    /// # Errors
    /// [`OpenError`], one line each.
    pub async fn open(options: Options) -> std::result::Result<Arc<Self>, OpenError> {
        let connected = session::connect(&options.target, options.timeout).await?;
        let epoch = schema::check(&connected.session, &options.target).await?;
        let statements = Statements::prepare(&connected, &options.target).await?;
        let Connected { session, conditional } = connected;
        let inner = Arc::new(Inner {
            session,
            conditional,
            statements,
            stats: Stats::default(),
            epoch: RwLock::new(epoch),
            places: Cache::new(options.places),
            buckets: Cache::new(options.places),
            settled: Cache::new(options.places),
            settling: Mutex::default(),
            options,
        });
        tokio::spawn(watch_epoch(Arc::downgrade(&inner)));
        Ok(Arc::new(Self { inner }))
    }

    /// What was asked of the database since the store was opened.
    pub fn counters(&self) -> Counters {
        self.inner.stats.read()
    }
}

/// Rereads the epoch now and then, as long as the store is in use.
async fn watch_epoch(store: Weak<Inner>) {
    loop {
        tokio::time::sleep(EPOCH_EVERY).await;
        let Some(inner) = store.upgrade() else { return };
        if let Ok(epoch) = inner.read_epoch().await {
            let mut known = inner.epoch.write().unwrap_or_else(PoisonError::into_inner);
            if *known != epoch {
                tracing::warn!(was = %known, %epoch, "the data have another epoch: devices load everything again");
                *known = epoch;
            }
        }
    }
}

impl Inner {
    async fn read_epoch(&self) -> Result<String> {
        let rows = self.read(&self.statements.epoch, &[]).await?;
        let row = rows.maybe_first_row::<(Option<String>,)>().map_err(unavailable)?;
        row.and_then(|(epoch,)| epoch).ok_or_else(|| unavailable("the epoch is gone"))
    }

    fn of(&self, timeline: &TimelineId) -> &Timeline {
        match timeline {
            TimelineId::Conversation(_) => &self.statements.conversation,
            TimelineId::User(_) => &self.statements.user,
        }
    }
}

impl std::fmt::Debug for Cql {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let target = &self.inner.options.target;
        f.debug_struct("Cql").field("hosts", &target.hosts).field("keyspace", &target.keyspace).finish_non_exhaustive()
    }
}

impl Store for Cql {
    fn epoch(&self) -> String {
        self.inner.epoch.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn together(&self) -> bool {
        false
    }

    fn commit(&self, commits: Vec<Commit>) -> BoxFuture<'static, Vec<Outcome>> {
        let (inner, count) = (Arc::clone(&self.inner), commits.len());
        if count == 0 {
            return future::ready(Vec::new()).boxed();
        }
        // A task of its own: whoever drops the future does not take the commits back.
        let task = tokio::spawn(async move {
            let in_flight = inner.options.in_flight.max(1);
            let each = commits.into_iter().map(|commit| commit::one(Arc::clone(&inner), commit));
            futures::stream::iter(each).buffered(in_flight).collect::<Vec<_>>().await
        });
        async move { task.await.unwrap_or_else(|_| vec![Outcome::Unknown; count]) }.boxed()
    }

    fn head<'a>(&'a self, timeline: &'a TimelineId) -> BoxFuture<'a, Result<Head>> {
        async move { self.inner.locate(timeline, place::Sight::Quorum).await.map(|place| place.head) }.boxed()
    }

    fn entries<'a>(&'a self, timeline: &'a TimelineId, span: Span) -> BoxFuture<'a, Result<Vec<Entry>>> {
        self.inner.entries(timeline, span).boxed()
    }

    fn row<'a>(&'a self, timeline: &'a TimelineId, key: &'a RowKey) -> BoxFuture<'a, Result<Option<Bytes>>> {
        self.inner.row(timeline, key).boxed()
    }

    fn rows<'a>(
        &'a self,
        timeline: &'a TimelineId,
        section: Section,
        after: Option<RowKey>,
        up_to_n: u64,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(RowKey, Bytes)>>> {
        self.inner.rows(timeline, section, after, up_to_n, limit).boxed()
    }

    fn timelines<'a>(&'a self, after: Option<TimelineId>, limit: usize) -> BoxFuture<'a, Result<Vec<TimelineId>>> {
        self.inner.timelines(after, limit).boxed()
    }

    fn unfinished(&self) -> BoxFuture<'_, Result<Vec<ConvId>>> {
        future::ready(Ok(Vec::new())).boxed()
    }

    fn put_mark(&self, mark: Mark) -> BoxFuture<'_, Result<()>> {
        async move { self.inner.put_mark(&mark).await }.boxed()
    }

    fn delete_mark(&self, mark: Mark) -> BoxFuture<'_, Result<()>> {
        async move { self.inner.delete_mark(&mark).await }.boxed()
    }

    fn marks_of(&self, node: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Mark>>> {
        self.inner.marks_of(node, limit).boxed()
    }

    fn begin_at(&self, timeline: TimelineId, head: Head) -> BoxFuture<'_, Result<Outcome>> {
        commit::begin_at(Arc::clone(&self.inner), timeline, head).boxed()
    }

    fn renew_node(&self, node: u64, ttl: Duration) -> BoxFuture<'_, Result<()>> {
        self.inner.renew_node(node, ttl).boxed()
    }

    fn nodes(&self) -> BoxFuture<'_, Result<Vec<KnownNode>>> {
        self.inner.nodes().boxed()
    }

    fn forget_node(&self, node: u64) -> BoxFuture<'_, Result<()>> {
        self.inner.forget_node(node).boxed()
    }
}
