//! Where the timelines are: a simulated store or a directory; and the ways to look into it past
//! everything a node does.

use std::sync::Arc;
use std::time::Duration;

use everline::config::Clock;
use everline::store::embedded::{Embedded, Options};
use everline::store::sim::{Faults, Sim, SimOptions};
use everline::store::{Entry, Head, Section, Span, Store, TimelineId};
use futures::FutureExt;
use tempfile::TempDir;

#[derive(Clone)]
pub enum Place {
    Sim(Sim),
    Directory(Arc<Directory>),
}

/// A directory, and the store while it is open.
pub struct Directory {
    dir: TempDir,
    clock: Clock,
    store: std::sync::Mutex<Option<Arc<Embedded>>>,
}

const EVERYTHING: usize = 1 << 20;

impl Place {
    pub fn simulated(seed: u64, clock: Clock, together: bool) -> Self {
        Self::Sim(Sim::new(SimOptions { seed, clock, together, faults: Faults::none() }))
    }

    pub fn directory(clock: Clock) -> Self {
        let dir = TempDir::new().expect("a place for files");
        let place = Directory { dir, clock, store: std::sync::Mutex::default() };
        place.open();
        Self::Directory(Arc::new(place))
    }

    pub fn is_directory(&self) -> bool {
        matches!(self, Self::Directory(_))
    }

    /// The store as another node uses it; and its switches, if it has any.
    pub fn handle(&self) -> (Arc<dyn Store>, Option<Sim>) {
        match self {
            Self::Sim(sim) => {
                let sim = sim.handle();
                (Arc::new(sim.clone()), Some(sim))
            }
            Self::Directory(place) => (place.store(), None),
        }
    }

    fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Sim(sim) => Arc::new(sim.clone()),
            Self::Directory(place) => place.store(),
        }
    }

    pub fn dump(&self, timeline: &TimelineId) -> (Head, Vec<Entry>) {
        match self {
            Self::Sim(sim) => {
                let dump = sim.dump(timeline);
                (dump.head, dump.entries)
            }
            Self::Directory(place) => {
                let store = place.store();
                let head = now(store.head(timeline));
                let (after, up_to) = (head.floor, head.position.seq);
                let span = Span { after, up_to, limit: EVERYTHING, max_bytes: usize::MAX, backward: false };
                (head, now(store.entries(timeline, span)))
            }
        }
    }

    /// Every value in a timeline: contents of entries and rows.
    pub fn values(&self, timeline: &TimelineId) -> Vec<bytes::Bytes> {
        let mut values: Vec<_> = self.dump(timeline).1.into_iter().map(|entry| entry.data).collect();
        match self {
            Self::Sim(sim) => values.extend(sim.dump(timeline).rows.into_iter().map(|(_, value, _)| value)),
            Self::Directory(place) => {
                let store = place.store();
                for section in Section::ALL {
                    let rows = now(store.rows(timeline, section, None, u64::MAX, EVERYTHING));
                    values.extend(rows.into_iter().map(|(_, value)| value));
                }
            }
        }
        values
    }

    pub fn timelines(&self) -> Vec<TimelineId> {
        match self {
            Self::Sim(sim) => sim.all_timelines(),
            Self::Directory(place) => now(place.store().timelines(None, EVERYTHING)),
        }
    }

    pub fn marks(&self) -> usize {
        if let Self::Sim(sim) = self { sim.all_marks().len() } else { 0 }
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

/// Reads of a local store are ready at once.
fn now<T>(read: impl Future<Output = everline::store::Result<T>>) -> T {
    read.now_or_never().expect("ready at once").expect("a sound store")
}
