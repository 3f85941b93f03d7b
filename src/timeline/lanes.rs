//! All lanes of one kind, made on demand and dropped when long unused.

use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;

use super::lane::Lane;

/// Lanes by the name of their timeline.
#[derive(Debug)]
pub struct Lanes<K: Eq + Hash, I, S> {
    map: DashMap<K, Arc<Lane<I, S>>>,
    most: usize,
    made: AtomicUsize,
}

impl<K: Eq + Hash + Clone, I, S> Lanes<K, I, S> {
    /// Keeps about `most` lanes; more only while more are in use at once.
    pub fn new(most: usize) -> Self {
        Self { map: DashMap::new(), most, made: AtomicUsize::new(0) }
    }

    /// The lane of a timeline.
    pub fn get(&self, key: &K) -> Arc<Lane<I, S>> {
        if let Some(lane) = self.map.get(key) {
            return Arc::clone(&lane);
        }
        if self.made.fetch_add(1, Ordering::Relaxed) >= self.most {
            self.sweep();
        }
        Arc::clone(&self.map.entry(key.clone()).or_default())
    }

    /// Drops lanes that are at rest, held by nobody and unused since the sweep before.
    fn sweep(&self) {
        // Held by the map alone, under the map's lock: nobody can be about to use it.
        self.map.retain(|_, lane| Arc::strong_count(lane) > 1 || !lane.idle());
        // Sweep again after another quarter of the bound has been made.
        self.made.store(self.map.len().min(self.most.saturating_sub(self.most / 4)), Ordering::Relaxed);
    }

    /// How many lanes there are.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }
}
