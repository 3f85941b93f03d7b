//! All lanes of one kind, made on demand and dropped when long unused.

use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;

use super::lane::{Lane, Weigh};

/// Lanes by the name of their timeline.
#[derive(Debug)]
pub struct Lanes<K: Eq + Hash, I, S> {
    map: DashMap<K, Arc<Lane<I, S>>>,
    most: usize,
    bytes: usize,
    made: AtomicUsize,
    /// Bytes of the states of all.
    scale: Arc<AtomicUsize>,
    /// At which the next sweep is due.
    heavy: AtomicUsize,
}

impl<K: Eq + Hash + Clone, I, S: Weigh> Lanes<K, I, S> {
    /// Keeps about `most` lanes whose states take about `bytes`; more only while more are in use at once.
    pub fn new(most: usize, bytes: usize) -> Self {
        let (made, scale, heavy) = (AtomicUsize::new(0), Arc::default(), AtomicUsize::new(bytes));
        Self { map: DashMap::new(), most, bytes, made, scale, heavy }
    }

    /// The lane of a timeline.
    pub fn get(&self, key: &K) -> Arc<Lane<I, S>> {
        if let Some(lane) = self.map.get(key) {
            return Arc::clone(&lane);
        }
        let many = self.made.fetch_add(1, Ordering::Relaxed) >= self.most;
        if many || self.scale.load(Ordering::Relaxed) > self.heavy.load(Ordering::Relaxed) {
            self.sweep();
        }
        Arc::clone(&self.map.entry(key.clone()).or_insert_with(|| Arc::new(Lane::new(&self.scale))))
    }

    /// Drops lanes that are at rest, held by nobody and unused since the sweep before.
    fn sweep(&self) {
        // Held by the map alone, under the map's lock: nobody can be about to use it.
        self.map.retain(|_, lane| Arc::strong_count(lane) > 1 || !lane.idle());
        // Sweep again after another quarter of a bound has been made.
        self.made.store(self.map.len().min(self.most.saturating_sub(self.most / 4)), Ordering::Relaxed);
        let left = self.scale.load(Ordering::Relaxed);
        self.heavy.store(self.bytes.max(left.saturating_add(self.bytes / 4)), Ordering::Relaxed);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Heavy(usize);

    impl Weigh for Heavy {
        fn bytes(&self) -> usize {
            self.0
        }
    }

    fn use_one(lanes: &Lanes<u32, (), Heavy>, key: u32, bytes: usize) {
        let lane = lanes.get(&key);
        assert!(lane.try_take().is_some());
        assert!(!lane.put_and_release(Some(Heavy(bytes))));
    }

    #[test]
    fn lanes_long_unused_go_when_they_are_too_many_or_too_heavy() {
        let many = Lanes::new(100, usize::MAX);
        (0..10_000).for_each(|key| use_one(&many, key, 1));
        assert!(many.len() < 300, "{}", many.len());
        let heavy = Lanes::new(usize::MAX, 100_000);
        (0..10_000).for_each(|key| use_one(&heavy, key, 1000));
        assert!(heavy.len() < 300, "{}", heavy.len());
        assert_eq!(heavy.scale.load(Ordering::Relaxed), heavy.len() * 1000);
        // What is in use stays, and what has become lighter counts as it is now.
        let held = heavy.get(&1);
        (10_000..20_000).for_each(|key| use_one(&heavy, key, 1000));
        assert!(Arc::ptr_eq(&held, &heavy.get(&1)));
        use_one(&heavy, 1, 500);
        use_one(&heavy, 1, 5);
        assert_eq!(heavy.scale.load(Ordering::Relaxed), (heavy.len() - 1) * 1000 + 5);
    }
}
