//! Where the timelines are: a simulated store, a directory, or a CQL keyspace; and the ways to look into it past
//! everything a node does.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use everline::config::{Clock, CqlTarget, Policy};
use everline::store::cql::{Cql, schema};
use everline::store::embedded::{Embedded, Options};
use everline::store::sim::{Faults, Sim, SimOptions};
use everline::store::{Entry, Head, Result, Section, Span, Store, TimelineId};
use futures::FutureExt;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Where a history is to be played.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// A simulated store, in paused time.
    Simulated,
    /// The embedded store.
    Directory,
    /// A keyspace of its own at these hosts.
    Keyspace(String),
}

#[derive(Clone)]
pub enum Place {
    Sim(Sim),
    Directory(Arc<Directory>),
    Keyspace(Arc<Keyspace>),
}

/// A keyspace on a database that is really there, seen by a session of its own: histories are played in one
/// thread, and what looks into the store waits for it.
pub struct Keyspace {
    seen: Arc<Cql>,
    options: everline::store::cql::Options,
}

/// Where CQL sessions live: the runtime of a history may stand still while it looks into the store.
fn sessions() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
    })
}

/// Runs there, and waits.
fn there<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> T {
    let (tell, told) = std::sync::mpsc::channel();
    sessions().spawn(async move { tell.send(future.await) });
    told.recv().expect("a read that does not panic")
}

/// A directory, and the store while it is open.
pub struct Directory {
    dir: TempDir,
    clock: Clock,
    store: std::sync::Mutex<Option<Arc<Embedded>>>,
}

const EVERYTHING: usize = 1 << 20;

impl Place {
    pub fn new(stage: &Stage, seed: u64, clock: Clock, together: bool) -> Self {
        match stage {
            Stage::Simulated => Self::simulated(seed, clock, together),
            Stage::Directory => Self::directory(clock),
            Stage::Keyspace(hosts) => Self::keyspace(hosts, clock),
        }
    }

    fn simulated(seed: u64, clock: Clock, together: bool) -> Self {
        Self::Sim(Sim::new(SimOptions { seed, clock, together, faults: Faults::none() }))
    }

    fn directory(clock: Clock) -> Self {
        let dir = TempDir::new().expect("a place for files");
        let place = Directory { dir, clock, store: std::sync::Mutex::default() };
        place.open();
        Self::Directory(Arc::new(place))
    }

    /// A new keyspace.
    fn keyspace(hosts: &str, clock: Clock) -> Self {
        let name = format!("property_{:016x}", rand::random::<u64>());
        let target = CqlTarget::parse(&format!("//{hosts}/{name}?replication=1")).expect("an address");
        let usual = everline::store::cql::Options::new(target.clone(), clock, &Policy::default());
        // Small, so that a short history fills some.
        let options = everline::store::cql::Options { bucket_entries: 12, ..usual };
        let opened = options.clone();
        let seen = there(async move {
            schema::apply(&target, false).await.expect("the schema");
            Cql::open(opened).await.expect("the store")
        });
        Self::Keyspace(Arc::new(Keyspace { seen, options }))
    }

    pub fn is_directory(&self) -> bool {
        matches!(self, Self::Directory(_))
    }

    pub fn is_keyspace(&self) -> bool {
        matches!(self, Self::Keyspace(_))
    }

    /// The store as another node uses it; and its switches, if it has any.
    pub fn handle(&self) -> (Arc<dyn Store>, Option<Sim>) {
        match self {
            Self::Sim(sim) => {
                let sim = sim.handle();
                (Arc::new(sim.clone()), Some(sim))
            }
            Self::Directory(place) => (place.store(), None),
            Self::Keyspace(place) => {
                let options = place.options.clone();
                (there(async move { Cql::open(options).await.expect("the store") }), None)
            }
        }
    }

    fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Sim(sim) => Arc::new(sim.clone()),
            Self::Directory(place) => place.store(),
            Self::Keyspace(place) => place.seen.clone(),
        }
    }

    pub fn dump(&self, timeline: &TimelineId) -> (Head, Vec<Entry>) {
        match self {
            Self::Sim(sim) => {
                let dump = sim.dump(timeline);
                (dump.head, dump.entries)
            }
            _ => {
                let (store, timeline) = (self.store(), timeline.clone());
                self.now(async move {
                    let head = store.head(&timeline).await?;
                    let (after, up_to) = (head.floor, head.position.seq);
                    let span = Span { after, up_to, limit: EVERYTHING, max_bytes: usize::MAX, backward: false };
                    Ok((head, store.entries(&timeline, span).await?))
                })
            }
        }
    }

    /// Every value in a timeline: contents of entries and rows.
    pub fn values(&self, timeline: &TimelineId) -> Vec<bytes::Bytes> {
        let mut values: Vec<_> = self.dump(timeline).1.into_iter().map(|entry| entry.data).collect();
        match self {
            Self::Sim(sim) => values.extend(sim.dump(timeline).rows.into_iter().map(|(_, value, _)| value)),
            _ => {
                for section in Section::ALL {
                    let (store, timeline) = (self.store(), timeline.clone());
                    let rows =
                        self.now(async move { store.rows(&timeline, section, None, u64::MAX, EVERYTHING).await });
                    values.extend(rows.into_iter().map(|(_, value)| value));
                }
            }
        }
        values
    }

    pub fn timelines(&self) -> Vec<TimelineId> {
        match self {
            Self::Sim(sim) => sim.all_timelines(),
            _ => {
                let store = self.store();
                let mut found = self.now(async move { store.timelines(None, EVERYTHING).await });
                found.sort();
                found
            }
        }
    }

    pub fn marks(&self) -> usize {
        match self {
            Self::Sim(sim) => sim.all_marks().len(),
            Self::Directory(_) => 0,
            Self::Keyspace(place) => {
                let store = place.seen.clone();
                self.now(async move { store.marks().await }).len()
            }
        }
    }

    pub fn fingerprint(&self) -> (u64, u64) {
        if let Self::Sim(sim) = self { sim.fingerprint() } else { (0, 0) }
    }

    pub fn set_faults(&self, faults: Faults) {
        if let Self::Sim(sim) = self {
            sim.set_faults(faults);
        }
    }

    pub fn expire(&self, before_ms: u64) {
        if let Self::Sim(sim) = self {
            sim.expire_entries(before_ms);
        }
    }

    pub async fn unfinished(&self) -> usize {
        self.store().unfinished().await.map_or(usize::MAX, |found| found.len())
    }

    /// Looks into the store without giving anybody else a turn.
    fn now<T: Send + 'static>(&self, read: impl Future<Output = Result<T>> + Send + 'static) -> T {
        match self {
            Self::Keyspace(_) => there(read).expect("the database answers"),
            // Reads of a local store are ready at once.
            _ => read.now_or_never().expect("ready at once").expect("a sound store"),
        }
    }

    /// A process that is gone holds the directory no longer; the next one opens it.
    pub fn reopen(&self) {
        if let Self::Directory(place) = self {
            drop(place.store.lock().expect("whole").take());
            place.open();
        }
    }
}

impl Directory {
    fn store(&self) -> Arc<Embedded> {
        self.store.lock().expect("whole").clone().expect("open")
    }

    fn open(&self) {
        let options = Options {
            // Small, so that a short history sees checkpoints.
            checkpoint_bytes: 16 * 1024,
            memtable_bytes: 1 << 20,
            cache_bytes: 1 << 20,
            checkpoint_every: Duration::from_millis(200),
            ..Options::new(self.dir.path(), self.clock.clone())
        };
        let opened = Embedded::open(options).expect("the directory opens again");
        *self.store.lock().expect("whole") = Some(opened);
    }
}
