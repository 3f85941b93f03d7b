//! Looking into (and breaking) a simulated store from outside, past all faults: for the oracles of
//! simulations. No part of the service may call this.

use bytes::Bytes;

use super::Sim;
use crate::planted::{Bug, planted};
use crate::store::{Entry, Head, Mark, RowKey, TimelineId};

/// Everything one timeline holds, expired rows included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dump {
    /// Its head.
    pub head: Head,
    /// Entries still there, ascending.
    pub entries: Vec<Entry>,
    /// Side rows by key: value and expiry.
    pub rows: Vec<(RowKey, Bytes, Option<u64>)>,
}

impl Sim {
    /// What a timeline holds (durably, in a store that commits together).
    pub fn dump(&self, timeline: &TimelineId) -> Dump {
        let state = self.shared.state();
        let Some(timeline) = state.timelines.get(timeline) else { return Dump::default() };
        let rows = timeline.rows.iter().map(|(key, row)| (key.clone(), row.value.clone(), row.expires_at));
        Dump { head: timeline.head, entries: timeline.entries.values().cloned().collect(), rows: rows.collect() }
    }

    /// Every timeline, ascending.
    pub fn all_timelines(&self) -> Vec<TimelineId> {
        self.shared.state().timelines.keys().cloned().collect()
    }

    /// Every mark.
    pub fn all_marks(&self) -> Vec<Mark> {
        self.shared.state().marks.iter().cloned().collect()
    }

    /// Removes one entry, as damage would. False if it was not there.
    pub fn damage(&self, timeline: &TimelineId, seq: u64) -> bool {
        let mut state = self.shared.state();
        state.timelines.get_mut(timeline).is_some_and(|timeline| timeline.entries.remove(&seq).is_some())
    }

    /// Removes the entries of user timelines that are older than `before_ms`, as a TTL would: heads stay.
    pub fn expire_entries(&self, before_ms: u64) {
        let mut state = self.shared.state();
        let users = state.timelines.iter_mut().filter(|(id, _)| matches!(id, TimelineId::User(_)));
        for (_, timeline) in users {
            timeline.entries.retain(|_, entry| entry.at >= before_ms);
            if timeline.entries.is_empty() && planted(Bug::HeadExpires) {
                timeline.head = Head::default();
            }
        }
    }

    /// What callers did against the contract, as far as it is checked (not in release builds): each
    /// simulation should end with none.
    pub fn breaches(&self) -> Vec<String> {
        self.shared.state().breaches.clone()
    }

    /// Number of decisions so far and a hash over them: equal for equal stories.
    pub fn fingerprint(&self) -> (u64, u64) {
        self.shared.state().fingerprint()
    }
}
