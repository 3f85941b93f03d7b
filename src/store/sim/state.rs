//! What the simulated database holds: timelines, marks, and the queue of writes not yet synced.
//!
//! Plain data without faults, time or tasks; `Sim` keeps it behind one mutex that is never held across
//! an await. This is the sequential meaning of the store's contract, so a mistake here makes every
//! simulation blind: `conformance` runs against it like against any other backend.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use rand::rngs::StdRng;
use tokio::sync::oneshot;

use super::strict;
use crate::protocol::ConvId;
use crate::store::{Commit, Entry, Head, Mark, Outcome, Position, RowKey, Section, Span, TimelineId};

/// One timeline as it is stored.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    pub(super) head: Head,
    pub(super) entries: BTreeMap<u64, Entry>,
    pub(super) rows: BTreeMap<RowKey, Row>,
}

/// A side row's value and the moment after which it is no longer shown.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) value: Bytes,
    pub(super) expires_at: Option<u64>,
}

impl Row {
    fn shown_at(&self, now_ms: u64) -> bool {
        self.expires_at.is_none_or(|moment| moment >= now_ms)
    }
}

impl Timeline {
    fn apply(&mut self, commit: Commit) {
        let before = self.head;
        self.head = advanced(before, &commit);
        for (seq, entry) in (before.position.seq + 1..).zip(commit.entries) {
            let entry = Entry { seq, at: entry.at, attempt: commit.attempt, data: entry.data };
            self.entries.insert(seq, entry);
        }
        for (seq, data) in commit.rewrite {
            if let Some(entry) = self.entries.get_mut(&seq) {
                entry.data = data;
            }
        }
        for row in commit.rows {
            match row.value {
                Some(value) => self.rows.insert(row.key, Row { value, expires_at: row.expires_at }),
                None => self.rows.remove(&row.key),
            };
        }
        while self.entries.first_key_value().is_some_and(|(&seq, _)| seq <= self.head.floor) {
            self.entries.pop_first();
        }
    }

    pub(super) fn page(&self, span: Span) -> Vec<Entry> {
        if span.after >= span.up_to {
            return Vec::new();
        }
        let range = self.entries.range((Bound::Excluded(span.after), Bound::Included(span.up_to)));
        if span.backward { take(range.rev(), span) } else { take(range, span) }
    }

    pub(super) fn row(&self, key: &RowKey, now_ms: u64) -> Option<Bytes> {
        self.rows.get(key).filter(|row| row.shown_at(now_ms)).map(|row| row.value.clone())
    }

    pub(super) fn section(
        &self,
        section: Section,
        after: Option<&RowKey>,
        up_to_n: u64,
        limit: usize,
        now_ms: u64,
    ) -> Vec<(RowKey, Bytes)> {
        let first = RowKey { section, n: 0, id: Arc::from("") };
        let from = match after {
            Some(after) if *after >= first => Bound::Excluded(after),
            _ => Bound::Included(&first),
        };
        self.rows
            .range::<RowKey, _>((from, Bound::Unbounded))
            .take_while(|(key, _)| key.section == section && key.n <= up_to_n)
            .filter(|(_, row)| row.shown_at(now_ms))
            .take(limit)
            .map(|(key, row)| (key.clone(), row.value.clone()))
            .collect()
    }
}

fn take<'a>(range: impl Iterator<Item = (&'a u64, &'a Entry)>, span: Span) -> Vec<Entry> {
    let mut bytes = 0usize;
    let mut page = Vec::new();
    for (_, entry) in range.take(span.limit) {
        bytes = bytes.saturating_add(entry.data.len());
        page.push(entry.clone());
        if bytes >= span.max_bytes {
            break;
        }
    }
    page
}

/// The head after an applied commit.
fn advanced(head: Head, commit: &Commit) -> Head {
    Head {
        position: Position {
            seq: head.position.seq + commit.entries.len() as u64,
            term: head.position.term.max(commit.term),
        },
        floor: head.floor.max(commit.floor),
        at: commit.entries.last().map_or(head.at, |entry| entry.at),
        fanned: head.fanned.max(commit.fanned),
    }
}

/// A decided call of a store that commits together, waiting to become durable.
#[derive(Debug)]
pub(super) struct Unsynced {
    pub(super) id: u64,
    /// May be synced once everything before it was.
    pub(super) ready: bool,
    /// Empty when the call was refused: then only its answer waits here.
    pub(super) commits: Vec<Commit>,
    pub(super) outcomes: Vec<Outcome>,
    pub(super) answer: oneshot::Sender<Vec<Outcome>>,
}

/// Everything behind the mutex.
#[derive(Debug)]
pub(super) struct State {
    pub(super) rng: StdRng,
    pub(super) timelines: BTreeMap<TimelineId, Timeline>,
    pub(super) marks: BTreeSet<Mark>,
    /// Until when each known node's word holds.
    pub(super) nodes: BTreeMap<u64, u64>,
    /// Decided, not durable; in order of the calls.
    pub(super) unsynced: VecDeque<Unsynced>,
    /// Heads as they will be once `unsynced` is durable.
    ahead: BTreeMap<TimelineId, Head>,
    next_id: u64,
    trace: DefaultHasher,
    steps: u64,
    pub(super) breaches: Vec<String>,
}

impl State {
    pub(super) fn new(rng: StdRng) -> Self {
        Self {
            rng,
            timelines: BTreeMap::new(),
            marks: BTreeSet::new(),
            nodes: BTreeMap::new(),
            unsynced: VecDeque::new(),
            ahead: BTreeMap::new(),
            next_id: 0,
            trace: DefaultHasher::new(),
            steps: 0,
            breaches: Vec::new(),
        }
    }

    pub(super) fn head(&self, timeline: &TimelineId) -> Head {
        self.timelines.get(timeline).map_or_else(Head::default, |timeline| timeline.head)
    }

    fn head_ahead(&self, timeline: &TimelineId) -> Head {
        self.ahead.get(timeline).copied().unwrap_or_else(|| self.head(timeline))
    }

    /// Decides one commit by itself and applies it.
    pub(super) fn decide_one(&mut self, commit: Commit) -> Outcome {
        let head = self.head(&commit.timeline);
        let outcome = if head.position == commit.expected { Outcome::Applied } else { Outcome::Conflict(head) };
        self.note(&head, &commit, outcome);
        if outcome == Outcome::Applied {
            self.apply(commit);
        }
        outcome
    }

    /// Decides the commits of one call as one; nothing is applied yet.
    pub(super) fn decide_together(&mut self, commits: &[Commit]) -> Vec<Outcome> {
        let heads: Vec<Head> = commits.iter().map(|commit| self.head_ahead(&commit.timeline)).collect();
        let fits = commits.iter().zip(&heads).all(|(commit, head)| head.position == commit.expected);
        let outcome = |head: &Head| if fits { Outcome::Applied } else { Outcome::Conflict(*head) };
        let outcomes: Vec<Outcome> = heads.iter().map(outcome).collect();
        for ((commit, head), outcome) in commits.iter().zip(&heads).zip(&outcomes) {
            self.note(head, commit, *outcome);
        }
        outcomes
    }

    pub(super) fn apply(&mut self, commit: Commit) {
        self.timelines.entry(commit.timeline.clone()).or_default().apply(commit);
    }

    /// Lets a timeline begin at a head.
    pub(super) fn begin_at(&mut self, timeline: TimelineId, head: Head) -> Outcome {
        let there = self.timelines.entry(timeline).or_default();
        if there.head != Head::default() {
            return Outcome::Conflict(there.head);
        }
        there.head = head;
        Outcome::Applied
    }

    /// Takes a decided call into the queue and returns its id.
    pub(super) fn queue(
        &mut self,
        commits: Vec<Commit>,
        outcomes: Vec<Outcome>,
        answer: oneshot::Sender<Vec<Outcome>>,
    ) -> u64 {
        let applies = outcomes.first() == Some(&Outcome::Applied);
        let commits = if applies { commits } else { Vec::new() };
        for commit in &commits {
            let head = advanced(self.head_ahead(&commit.timeline), commit);
            self.ahead.insert(commit.timeline.clone(), head);
        }
        self.next_id += 1;
        self.unsynced.push_back(Unsynced { id: self.next_id, ready: false, commits, outcomes, answer });
        self.next_id
    }

    /// Lets a queued call become durable as soon as all before it are.
    pub(super) fn ready(&mut self, id: u64) {
        if let Ok(place) = self.unsynced.binary_search_by_key(&id, |call| call.id) {
            self.unsynced[place].ready = true;
        }
        while self.unsynced.front().is_some_and(|call| call.ready) {
            let Some(call) = self.unsynced.pop_front() else { break };
            call.commits.into_iter().for_each(|commit| self.apply(commit));
            // The caller may have dropped its future; that takes nothing back.
            let _ = call.answer.send(call.outcomes);
        }
        if self.unsynced.is_empty() {
            self.ahead.clear();
        }
    }

    /// The process died: what was not synced is gone, or (`keep`) had just reached the disk.
    pub(super) fn crash(&mut self, keep: bool) {
        for call in std::mem::take(&mut self.unsynced) {
            if keep {
                call.commits.into_iter().for_each(|commit| self.apply(commit));
            }
        }
        self.ahead.clear();
    }

    pub(super) fn unfinished(&self) -> Vec<ConvId> {
        let below = |timeline: &Timeline| timeline.head.fanned < timeline.head.position.seq;
        let undone = self.timelines.iter().filter(|(_, timeline)| below(timeline));
        undone
            .filter_map(|(id, _)| match id {
                TimelineId::Conversation(conversation) => Some(conversation.clone()),
                TimelineId::User(_) => None,
            })
            .collect()
    }

    fn note(&mut self, head: &Head, commit: &Commit, outcome: Outcome) {
        self.steps += 1;
        let applied = outcome == Outcome::Applied;
        (&commit.timeline, commit.expected, commit.term, commit.attempt, applied).hash(&mut self.trace);
        if cfg!(debug_assertions) && applied {
            self.blame(strict::breach(head, commit), &commit.timeline);
        }
    }

    /// Looks at a call before it is decided.
    pub(super) fn look_at(&mut self, call: &[Commit]) {
        if cfg!(debug_assertions)
            && let Some(first) = call.first()
        {
            self.blame(strict::breach_of_call(call), &first.timeline);
        }
    }

    fn blame(&mut self, breach: Option<&str>, timeline: &TimelineId) {
        if let Some(breach) = breach
            && self.breaches.len() < 100
        {
            self.breaches.push(format!("{breach}: {timeline:?}"));
        }
    }

    /// Mixes something else that happened into the trace.
    pub(super) fn trace(&mut self, what: impl Hash) {
        self.steps += 1;
        what.hash(&mut self.trace);
    }

    /// Number of decisions so far and a hash over them.
    pub(super) fn fingerprint(&self) -> (u64, u64) {
        (self.steps, self.trace.finish())
    }
}
