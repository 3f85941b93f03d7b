//! Timelines in memory: those with something the disk lacks (dirty, never evicted), and a bounded cache of
//! others as the disk has them.
//!
//! Only the committer makes a timeline dirty, only the checkpoint makes it clean again; both hold the lock
//! of its shard for that moment. So what is not dirty is on disk, and a snapshot of the disk taken under
//! the lock belongs to the tail seen under it.
//!
//! Must hold no lock during I/O. How it can hurt: a stale head in the cache makes the committer number from
//! a place already taken. Whoever loads a head from disk therefore puts it into the cache only if nothing
//! of its shard became dirty or clean meanwhile.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use xxhash_rust::xxh3::xxh3_64;

use super::disk::Disk;
use super::keys;
use super::tail::{Frozen, Tail};
use crate::store::{Commit, Head, Result, TimelineId};

const SHARDS: usize = 64;
/// Timelines the cache is laid out for, by its bytes.
const USUAL_COST: u64 = 600;

/// See the module.
pub(super) struct Overlay {
    shards: Box<[Mutex<Shard>]>,
    clean: Cache<TimelineId, Arc<Tail>, ByCost>,
    bytes: AtomicUsize,
}

#[derive(Default)]
struct Shard {
    dirty: HashMap<TimelineId, Held>,
    /// Counts timelines that became dirty or clean.
    turns: u64,
}

struct Held {
    tail: Tail,
    /// What it adds to the overlay's bytes.
    charged: usize,
}

#[derive(Clone)]
struct ByCost;

impl Weighter<TimelineId, Arc<Tail>> for ByCost {
    fn weight(&self, _: &TimelineId, tail: &Arc<Tail>) -> u64 {
        tail.cost() as u64
    }
}

/// Locks; a thread that panicked with the lock has already failed the store.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Overlay {
    pub(super) fn new(cache_bytes: u64) -> Self {
        let items = usize::try_from(cache_bytes / USUAL_COST).unwrap_or(usize::MAX);
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            clean: Cache::with_weighter(items.max(16), cache_bytes, ByCost),
            bytes: AtomicUsize::new(0),
        }
    }

    fn shard(&self, id: &TimelineId) -> MutexGuard<'_, Shard> {
        let name = match id {
            TimelineId::Conversation(id) => id.as_bytes(),
            TimelineId::User(id) => id.as_bytes(),
        };
        // The remainder is below SHARDS, the length.
        lock(&self.shards[xxh3_64(name) as usize % SHARDS])
    }

    /// Estimated memory of dirty timelines.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Looks at a timeline under its lock: the tail if it is dirty. `f` must not block.
    pub(super) fn look<R>(&self, id: &TimelineId, f: impl FnOnce(Option<&Tail>) -> R) -> R {
        f(self.shard(id).dirty.get(id).map(|held| &held.tail))
    }

    /// The head, from memory or disk.
    pub(super) fn head(&self, disk: &Disk, id: &TimelineId) -> Result<Head> {
        match self.look(id, |tail| tail.map(|tail| tail.head)) {
            Some(head) => Ok(head),
            None => Ok(self.clean(disk, id)?.head),
        }
    }

    /// A timeline that was seen not to be dirty, as of some moment since.
    pub(super) fn clean(&self, disk: &Disk, id: &TimelineId) -> Result<Arc<Tail>> {
        if let Some(tail) = self.clean.get(id) {
            return Ok(tail);
        }
        let turns = {
            let shard = self.shard(id);
            if let Some(held) = shard.dirty.get(id) {
                return Ok(Arc::new(held.tail.clone()));
            }
            shard.turns
        };
        let stored = disk.head(&keys::timeline(id))?;
        let tail = Arc::new(stored.map(Tail::from_stored).unwrap_or_default());
        let shard = self.shard(id);
        if shard.turns == turns {
            self.clean.insert(id.clone(), tail.clone());
        }
        Ok(tail)
    }

    /// For the committer: the head, and the tail to begin with if the timeline is not dirty.
    pub(super) fn base(&self, disk: &Disk, id: &TimelineId) -> Result<(Head, Option<Arc<Tail>>)> {
        if let Some(head) = self.look(id, |tail| tail.map(|tail| tail.head)) {
            return Ok((head, None));
        }
        let tail = self.clean(disk, id)?;
        Ok((tail.head, Some(tail)))
    }

    /// For the committer: applies a durable commit. `base` is from [`Overlay::base`], if it gave one.
    pub(super) fn apply(&self, disk: &Disk, commit: Commit, ordinal: u64, base: Option<Arc<Tail>>) -> Result<()> {
        let base = match base {
            Some(base) => base,
            None => {
                let mut shard = self.shard(&commit.timeline);
                if let Some(held) = shard.dirty.get_mut(&commit.timeline) {
                    let cost = held.tail.apply(commit, ordinal);
                    held.charged += cost;
                    self.bytes.fetch_add(cost, Ordering::Relaxed);
                    return Ok(());
                }
                drop(shard);
                // Made clean since it was looked at; nobody else makes it dirty.
                self.clean(disk, &commit.timeline)?
            }
        };
        let id = commit.timeline.clone();
        let mut tail = Arc::unwrap_or_clone(base);
        let charged = tail.cost() + tail.apply(commit, ordinal);
        self.bytes.fetch_add(charged, Ordering::Relaxed);
        let mut shard = self.shard(&id);
        shard.turns += 1;
        // Under the lock: who loads it from disk meanwhile puts it into the cache under the lock, too.
        self.clean.remove(&id);
        shard.dirty.insert(id, Held { tail, charged });
        Ok(())
    }

    /// Timelines that are dirty now.
    pub(super) fn dirty(&self) -> Vec<TimelineId> {
        self.shards.iter().flat_map(|shard| lock(shard).dirty.keys().cloned().collect::<Vec<_>>()).collect()
    }

    /// Dirty timelines with their heads.
    pub(super) fn dirty_heads(&self) -> Vec<(TimelineId, Head)> {
        let of = |shard: &Mutex<Shard>| -> Vec<_> {
            lock(shard).dirty.iter().map(|(id, held)| (id.clone(), held.tail.head)).collect()
        };
        self.shards.iter().flat_map(of).collect()
    }

    /// For the checkpoint: finishes a timeline whose frozen copy is on disk.
    pub(super) fn finish(&self, id: &TimelineId, frozen: &Frozen) {
        let mut shard = self.shard(id);
        let Some(held) = shard.dirty.get_mut(id) else { return };
        let is_clean = held.tail.finish(frozen);
        self.bytes.fetch_sub(held.charged, Ordering::Relaxed);
        if !is_clean {
            held.charged = held.tail.cost();
            self.bytes.fetch_add(held.charged, Ordering::Relaxed);
            return;
        }
        if let Some(held) = shard.dirty.remove(id) {
            self.clean.insert(id.clone(), Arc::new(held.tail));
        }
        shard.turns += 1;
    }
}
