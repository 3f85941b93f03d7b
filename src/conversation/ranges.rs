//! A set of conv_seqs as disjoint, ascending, inclusive ranges: what a user deleted for himself.

use bytes::Bytes;

use crate::protocol::Range;
use crate::timeline::codec::{Reader, put_number};

/// Disjoint inclusive ranges, ascending, never adjacent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// Whether `n` is in the set.
    pub fn contains(&self, n: u64) -> bool {
        let after = self.0.partition_point(|(from, _)| *from <= n);
        after.checked_sub(1).and_then(|i| self.0.get(i)).is_some_and(|(_, to)| n <= *to)
    }

    /// Whether all of [from, to] is in the set.
    pub fn contains_all(&self, from: u64, to: u64) -> bool {
        let after = self.0.partition_point(|(start, _)| *start <= from);
        after.checked_sub(1).and_then(|i| self.0.get(i)).is_some_and(|(_, end)| to <= *end)
    }

    /// The largest number in it.
    pub fn last(&self) -> Option<u64> {
        self.0.last().map(|(_, to)| *to)
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many ranges it is made of.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Adds [from, to], joining what it touches.
    pub fn insert(&mut self, from: u64, to: u64) {
        let first = self.0.partition_point(|(_, end)| end.saturating_add(1) < from);
        let last = self.0.partition_point(|(start, _)| *start <= to.saturating_add(1));
        let touched = self.0.get(first..last).unwrap_or_default();
        let low = touched.first().map_or(from, |(start, _)| from.min(*start));
        let high = touched.last().map_or(to, |(_, end)| to.max(*end));
        self.0.splice(first..last.max(first), [(low, high)]);
    }

    /// The last number before the run of the set that holds `n`; `n` itself when it is not in the set.
    pub fn below_run(&self, n: u64) -> u64 {
        let after = self.0.partition_point(|(from, _)| *from <= n);
        match after.checked_sub(1).and_then(|i| self.0.get(i)) {
            Some((from, to)) if n <= *to => from.saturating_sub(1),
            _ => n,
        }
    }

    /// As the protocol tells them.
    pub fn to_wire(&self) -> Vec<Range> {
        self.0.iter().map(|(from, to)| Range { from: *from, to: *to }).collect()
    }

    /// As stored: steps from one bound to the next.
    pub fn store(&self) -> Bytes {
        let mut out = Vec::with_capacity(self.0.len() * 4);
        let mut last = 0;
        for (from, to) in &self.0 {
            put_number(&mut out, from - last);
            put_number(&mut out, to - from);
            last = *to;
        }
        Bytes::from(out)
    }

    /// From what was stored; `None` when damaged.
    pub fn load(data: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(data);
        let (mut ranges, mut last) = (Vec::new(), 0u64);
        while !reader.rest().is_empty() {
            let from = last.checked_add(reader.number()?)?;
            let to = from.checked_add(reader.number()?)?;
            ranges.push((from, to));
            last = to;
        }
        Some(Self(ranges))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng, rngs::SmallRng};

    #[test]
    fn ranges_behave_as_a_set() {
        let mut rng = SmallRng::seed_from_u64(7);
        for _ in 0..300 {
            let (mut ranges, mut set) = (Ranges::default(), std::collections::BTreeSet::new());
            for _ in 0..rng.random_range(1..20) {
                let from = rng.random_range(1..60u64);
                let to = from + rng.random_range(0..9u64);
                ranges.insert(from, to);
                set.extend(from..=to);
                assert_eq!(ranges.last(), set.last().copied());
                for n in 0..75 {
                    assert_eq!(ranges.contains(n), set.contains(&n), "{n} in {ranges:?}");
                }
                assert!(ranges.0.windows(2).all(|w| w[0].1 + 1 < w[1].0), "{ranges:?}");
                assert!(ranges.contains_all(from, to));
                assert!(!ranges.contains(ranges.below_run(to)));
            }
            assert_eq!(Ranges::load(&ranges.store()), Some(ranges));
        }
    }
}
