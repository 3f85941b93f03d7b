//! A set of inclusive `conv_seq` intervals: what this user has deleted.
//!
//! Kept in one normal form (sorted, disjoint, merged where they touch, nothing at or below the
//! cleared number), so that two devices that know the same compare equal.

use serde::{Deserialize, Serialize};

use crate::protocol::Range;

/// Inclusive intervals in normal form.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct RangeSet(Vec<Range>);

impl RangeSet {
    /// Whether `seq` is in one of them.
    #[must_use]
    pub fn contains(&self, seq: u64) -> bool {
        let after = self.0.partition_point(|range| range.from <= seq);
        after > 0 && self.0.get(after - 1).is_some_and(|range| seq <= range.to)
    }

    /// How many numbers from `from` to `to` are in it.
    #[must_use]
    pub fn count_in(&self, from: u64, to: u64) -> u64 {
        let within = |range: &Range| range.to.min(to).saturating_add(1).saturating_sub(range.from.max(from));
        self.as_slice().iter().map(within).sum()
    }

    /// Adds an interval; an inverted one is ignored.
    pub fn insert(&mut self, range: Range) {
        if range.from > range.to {
            return;
        }
        let mut merged = range;
        self.0.retain(|held| {
            let apart = held.to.saturating_add(1) < merged.from || merged.to.saturating_add(1) < held.from;
            if !apart {
                merged.from = merged.from.min(held.from);
                merged.to = merged.to.max(held.to);
            }
            apart
        });
        let at = self.0.partition_point(|held| held.from < merged.from);
        self.0.insert(at, merged);
    }

    /// Takes away everything up to `up_to`, inclusive.
    pub fn drop_up_to(&mut self, up_to: u64) {
        self.0.retain(|range| range.to > up_to);
        for range in &mut self.0 {
            range.from = range.from.max(up_to.saturating_add(1));
        }
    }

    /// The intervals, ascending.
    #[must_use]
    pub fn as_slice(&self) -> &[Range] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ranges: &[(u64, u64)]) -> RangeSet {
        let mut set = RangeSet::default();
        for &range in ranges {
            set.insert(range.into());
        }
        set
    }

    #[test]
    fn the_same_numbers_have_one_form() {
        let expected = set(&[(1, 9), (12, 12)]);
        assert_eq!(expected.as_slice(), [(1, 9).into(), (12, 12).into()]);
        for other in [[(12, 12), (1, 3), (4, 9)], [(5, 9), (1, 6), (12, 12)], [(1, 9), (12, 12), (2, 2)]] {
            assert_eq!(set(&other), expected);
        }
        assert_eq!(set(&[(9, 8)]), RangeSet::default());
    }

    #[test]
    fn contains_is_inclusive_and_clearing_cuts() {
        let mut held = set(&[(3, 5), (8, 10)]);
        let inside: Vec<u64> = (0..12).filter(|&seq| held.contains(seq)).collect();
        assert_eq!(inside, [3, 4, 5, 8, 9, 10]);
        held.drop_up_to(8);
        assert_eq!(held, set(&[(9, 10)]));
        held.drop_up_to(u64::MAX);
        assert_eq!(held, RangeSet::default());
    }
}
