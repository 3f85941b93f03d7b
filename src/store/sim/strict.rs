//! What a caller of the store must keep, checked: a simulation that forgives its caller hides bugs.
//!
//! Only notes; outcomes stay those of the contract. Not checked in release builds.

use std::collections::BTreeSet;

use crate::store::{Commit, Head, RowKey, TimelineId};

/// Longest name in a [`RowKey`], bytes.
const MAX_ROW_ID: usize = 256;

/// What is wrong with the commits of a call taken together.
pub(super) fn breach_of_call(commits: &[Commit]) -> Option<&'static str> {
    let timelines: BTreeSet<&TimelineId> = commits.iter().map(|commit| &commit.timeline).collect();
    (timelines.len() < commits.len()).then_some("two commits for one timeline in a call")
}

/// What is wrong with a commit that applies at this head.
pub(super) fn breach(head: &Head, commit: &Commit) -> Option<&'static str> {
    let seq = head.position.seq + commit.entries.len() as u64;
    let times = std::iter::once(head.at).chain(commit.entries.iter().map(|entry| entry.at));
    let keys: BTreeSet<&RowKey> = commit.rows.iter().map(|row| &row.key).collect();
    let breaches = [
        (commit.term < commit.expected.term, "the term is lowered"),
        (!times.is_sorted(), "an entry is older than the one before"),
        (commit.floor > seq, "the floor is above the head"),
        (commit.fanned > seq, "fanned is above the head"),
        (keys.len() < commit.rows.len(), "a row is written twice"),
        (keys.iter().any(|key| key.id.len() > MAX_ROW_ID), "the name of a row is too long"),
        (commit.rewrite.iter().any(|(number, _)| *number > head.position.seq), "a rewrite is ahead of the head"),
    ];
    breaches.into_iter().find_map(|(wrong, what)| wrong.then_some(what))
}
