//! What one receiver got of one sender's numbered messages: lost, twice, out of order, exactly.
//!
//! Senders number their messages 0, 1, 2, ... and send them in that order, so the order they must
//! arrive in is known without asking anyone.

use std::collections::BTreeSet;
use std::ops::AddAssign;

/// Follows one sender.
#[derive(Debug, Default)]
pub(crate) struct Tracker {
    next: u64,
    missing: BTreeSet<u64>,
    faults: Faults,
}

/// Counts of what must not happen.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Faults {
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) out_of_order: u64,
}

impl Faults {
    pub(crate) fn any(self) -> bool {
        self != Self::default()
    }
}

impl AddAssign for Faults {
    fn add_assign(&mut self, other: Self) {
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.out_of_order += other.out_of_order;
    }
}

impl Tracker {
    /// Message `index` arrived.
    pub(crate) fn arrived(&mut self, index: u64) {
        if index >= self.next {
            self.missing.extend(self.next..index);
            self.next = index + 1;
        } else if self.missing.remove(&index) {
            self.faults.out_of_order += 1;
        } else {
            self.faults.duplicated += 1;
        }
    }

    /// How many different messages arrived.
    pub(crate) fn seen(&self) -> u64 {
        self.next - u64::try_from(self.missing.len()).unwrap_or(u64::MAX)
    }

    /// The verdict, given that `sent` messages were acknowledged to the sender.
    pub(crate) fn faults(&self, sent: u64) -> Faults {
        Faults { lost: sent.saturating_sub(self.seen()), ..self.faults }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(arrivals: &[u64], sent: u64) -> (u64, u64, u64) {
        let mut tracker = Tracker::default();
        for &index in arrivals {
            tracker.arrived(index);
        }
        let Faults { lost, duplicated, out_of_order } = tracker.faults(sent);
        (lost, duplicated, out_of_order)
    }

    #[test]
    fn each_fault_is_counted_once() {
        assert_eq!(faults(&[0, 1, 2], 3), (0, 0, 0));
        assert_eq!(faults(&[0, 2], 3), (1, 0, 0));
        assert_eq!(faults(&[0, 1], 3), (1, 0, 0));
        assert_eq!(faults(&[0, 2, 1], 3), (0, 0, 1));
        assert_eq!(faults(&[0, 1, 1, 2], 3), (0, 1, 0));
        assert_eq!(faults(&[], 3), (3, 0, 0));
    }
}
