//! The contract as a plain value: what a store must hold after each call. Written apart from every
//! backend and without their concerns, so that a mistake in one is not repeated here.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::protocol::ConvId;
use crate::store::{Commit, Entry, Head, Outcome, RowKey, Section, Span, TimelineId};

/// One timeline: `entries[i]` has the number i + 1, and stays here below the floor.
#[derive(Debug, Default, Clone)]
pub(super) struct Plain {
    pub(super) head: Head,
    pub(super) entries: Vec<Entry>,
    pub(super) rows: BTreeMap<RowKey, Bytes>,
}

/// All timelines.
#[derive(Debug, Default)]
pub(super) struct Model(pub(super) BTreeMap<TimelineId, Plain>);

impl Model {
    pub(super) fn of(&self, timeline: &TimelineId) -> Plain {
        self.0.get(timeline).cloned().unwrap_or_default()
    }

    /// What a call comes to.
    pub(super) fn call(&mut self, commits: &[Commit], together: bool) -> Vec<Outcome> {
        let fits: Vec<bool> = commits.iter().map(|c| self.of(&c.timeline).head.position == c.expected).collect();
        let all = fits.iter().all(|fits| *fits);
        let applies = |i: usize| if together { all } else { fits[i] };
        let outcomes = (0..commits.len())
            .map(|i| if applies(i) { Outcome::Applied } else { Outcome::Conflict(self.of(&commits[i].timeline).head) });
        let outcomes: Vec<Outcome> = outcomes.collect();
        for (commit, _) in commits.iter().zip(&outcomes).filter(|(_, outcome)| **outcome == Outcome::Applied) {
            self.0.entry(commit.timeline.clone()).or_default().apply(commit);
        }
        outcomes
    }

    /// Conversations whose fan-out is behind.
    pub(super) fn unfinished(&self) -> Vec<ConvId> {
        let mut found = Vec::new();
        for (id, plain) in &self.0 {
            if let TimelineId::Conversation(conversation) = id
                && plain.head.fanned < plain.head.position.seq
            {
                found.push(conversation.clone());
            }
        }
        found
    }
}

impl Plain {
    fn apply(&mut self, commit: &Commit) {
        for (number, body) in &commit.rewrite {
            if *number >= 1 && *number <= self.entries.len() as u64 {
                self.entries[*number as usize - 1].data = body.clone();
            }
        }
        for new in &commit.entries {
            let seq = self.entries.len() as u64 + 1;
            self.entries.push(Entry { seq, at: new.at, attempt: commit.attempt, data: new.data.clone() });
            self.head.at = new.at;
        }
        for row in &commit.rows {
            self.rows.remove(&row.key);
            if let Some(value) = &row.value {
                self.rows.insert(row.key.clone(), value.clone());
            }
        }
        self.head.position.seq = self.entries.len() as u64;
        self.head.position.term = commit.term;
        self.head.floor = self.head.floor.max(commit.floor);
        self.head.fanned = self.head.fanned.max(commit.fanned);
    }

    /// What a span that begins at or above the floor gives; contents are not counted.
    pub(super) fn page(&self, span: Span) -> Vec<Entry> {
        let mut page: Vec<Entry> =
            self.entries.iter().filter(|entry| entry.seq > span.after && entry.seq <= span.up_to).cloned().collect();
        if span.backward {
            page.reverse();
        }
        page.truncate(span.limit);
        page
    }

    /// A page of a section.
    pub(super) fn section(
        &self,
        section: Section,
        after: Option<&RowKey>,
        up_to_n: u64,
        limit: usize,
    ) -> Vec<(RowKey, Bytes)> {
        let rows = self.rows.iter().filter(|(key, _)| key.section == section && key.n <= up_to_n);
        let rows = rows.filter(|(key, _)| after.is_none_or(|after| *key > after));
        rows.take(limit).map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}
