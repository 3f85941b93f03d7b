//! Sends commits until each is decided.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::planted::{Bug, planted};
use crate::store::{Attempt, Commit, Head, Outcome, Store};

/// How a commit ended once its outcome is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decided {
    /// Applied.
    Applied,
    /// Refused, and never was in doubt: nothing of it is there.
    Refused(Head),
    /// Refused after an unknown try: the first try may have been the one that moved the head. Whose
    /// it was tells the attempt stored at the expected position + 1.
    Doubtful(Head),
}

/// First pause before an undecided commit is sent again; doubled up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Gives attempt ids that no other process or moment gives.
#[derive(Debug)]
pub struct Attempts {
    incarnation: u64,
    next: AtomicU64,
}

impl Attempts {
    /// `incarnation`: never used before with this store.
    pub fn new(incarnation: u64) -> Self {
        Self { incarnation, next: AtomicU64::new(1) }
    }

    /// The next one.
    pub fn next(&self) -> Attempt {
        let count = self.next.fetch_add(1, Ordering::Relaxed);
        Attempt((u128::from(self.incarnation) << 64) | u128::from(count))
    }

    /// The incarnation.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }
}

/// Commits, and sends what came back unknown again, the same batch under the same condition, until
/// every commit is decided. Never renumbers: a request timed out may still run (design, section 2).
/// Takes as long as the store is away; callers that owe somebody an answer bound their own waiting.
pub async fn commit_until_decided(store: &Arc<dyn Store>, commits: Vec<Commit>) -> Vec<Decided> {
    let (mut results, open) = commit_once(store, commits).await;
    commit_again(store, open, &mut results).await;
    results.into_iter().flatten().collect()
}

/// Commits once: what is decided, and with their indices those that are not. Whoever takes this must
/// give the rest to [`commit_again`].
pub async fn commit_once(store: &Arc<dyn Store>, commits: Vec<Commit>) -> (Vec<Option<Decided>>, Vec<(usize, Commit)>) {
    if store.together() {
        // Atomic, and unknown only when the store has stopped for good: nothing can be decided then.
        let outcomes = store.commit(commits).await;
        if outcomes.contains(&Outcome::Unknown) {
            return std::future::pending().await;
        }
        return (outcomes.into_iter().map(|outcome| decided(outcome, false)).collect(), Vec::new());
    }
    let mut results = vec![None; commits.len()];
    let open = commits.into_iter().enumerate().collect();
    let unknown = try_to_decide(store, open, false, &mut results).await;
    (results, unknown)
}

/// Goes on with what [`commit_once`] left undecided, and notes the outcomes at their indices.
pub async fn commit_again(store: &Arc<dyn Store>, mut open: Vec<(usize, Commit)>, results: &mut [Option<Decided>]) {
    let mut pause = FIRST_PAUSE;
    while !open.is_empty() {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        open = try_to_decide(store, open, true, results).await;
    }
}

/// Sends commits once, notes what is decided at their indices and gives back the rest.
async fn try_to_decide(
    store: &Arc<dyn Store>,
    open: Vec<(usize, Commit)>,
    again: bool,
    results: &mut [Option<Decided>],
) -> Vec<(usize, Commit)> {
    let outcomes = store.commit(open.iter().map(|(_, commit)| commit.clone()).collect()).await;
    let mut unknown = Vec::new();
    for ((index, commit), outcome) in open.into_iter().zip(outcomes) {
        let decision = match decided(outcome, again) {
            None if planted(Bug::RenumberedAfterUnknown) => {
                Some(Decided::Refused(store.head(&commit.timeline).await.unwrap_or_default()))
            }
            None if planted(Bug::UnknownTakenForApplied) => Some(Decided::Applied),
            decision => decision,
        };
        match (decision, results.get_mut(index)) {
            (None, _) => unknown.push((index, commit)),
            (known, Some(slot)) => *slot = known,
            (Some(_), None) => {}
        }
    }
    unknown
}

/// `None`: not decided yet.
fn decided(outcome: Outcome, was_unknown: bool) -> Option<Decided> {
    match outcome {
        Outcome::Unknown => None,
        Outcome::Applied => Some(Decided::Applied),
        Outcome::Conflict(head) if was_unknown => Some(Decided::Doubtful(head)),
        Outcome::Conflict(head) => Some(Decided::Refused(head)),
    }
}
