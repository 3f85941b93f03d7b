//! The committer: one thread that decides every commit, in call order, and makes a group of them durable
//! with one engine write and one fsync.
//!
//! ```text
//! take a group -> compare heads -> one record -> write + fsync -> witness -> overlay -> answer
//! ```
//!
//! Must answer nothing before the fsync returned, a refusal neither: it may rest on a commit of the same
//! group. How it can hurt: it is the one thread all sends wait for; what can be done by the caller
//! (encoding) or later (putting things in their place) is not done here. After an error of the engine it
//! ends for good: nobody knows what a failed fsync has kept.

use std::collections::HashMap;
use std::sync::Arc;

use super::disk::Sync;
use super::overlay::lock;
use super::queue::{Call, GroupLimit};
use super::record;
use super::shared::Shared;
use super::stats::add;
use super::tail::{self, Tail};
use super::values::Marker;
use super::witness::{Seen, Witness};
use crate::store::{Head, Outcome, TimelineId};

/// A group this large is written in well under the time of a few fsyncs.
const GROUP: GroupLimit = GroupLimit { commits: 4_000, bytes: 4 * 1024 * 1024 };

/// Runs until the queue is closed and empty, or the engine fails.
pub(super) fn run(shared: &Shared, mut witness: Witness) {
    while let Some(group) = shared.queue.take(GROUP) {
        if !make_room(shared) {
            break;
        }
        if let Err(why) = commit_group(shared, &mut witness, group) {
            shared.fail(&why);
            break;
        }
    }
    // Calls still queued are dropped here or with the queue: their callers learn `Unknown`.
    while shared.is_failed() && shared.queue.take(GROUP).is_some() {}
    if let Err(error) = witness.sync() {
        tracing::warn!(%error, "witness not synced");
    }
}

/// Waits while too much is in memory; asks for a checkpoint early. False: the store has failed.
fn make_room(shared: &Shared) -> bool {
    let limits = shared.limits;
    if shared.overlay.bytes() > limits.checkpoint_bytes {
        shared.bell.ring();
    }
    if shared.overlay.bytes() > limits.overlay_bytes {
        add(&shared.disk.stats.stalls, 1);
        shared.bell.demand();
        shared.bell.wait_for(|| shared.overlay.bytes() <= limits.overlay_bytes);
    }
    !shared.is_failed()
}

/// Heads as they are after the calls of this group decided so far.
type Heads = HashMap<TimelineId, (Head, Option<Arc<Tail>>)>;

fn commit_group(shared: &Shared, witness: &mut Witness, group: Vec<Call>) -> Result<(), String> {
    let mut heads = Heads::new();
    let decided: Vec<(Call, Option<Vec<Outcome>>)> =
        group.into_iter().map(|call| decide(shared, &mut heads, call)).collect();
    let applied: Vec<&Call> = decided.iter().filter(|(_, outcomes)| outcomes.is_none()).map(|(call, _)| call).collect();
    if !applied.is_empty() {
        let end = write(shared, &applied)?;
        let seen = Seen { commit_no: end.commit_no, hash: end.hash };
        if let Err(error) = witness.note(seen) {
            tracing::warn!(%error, "witness not written");
        }
        apply(shared, &applied, &mut heads, end)?;
    }
    for (call, outcomes) in decided {
        let outcomes = outcomes.unwrap_or_else(|| vec![Outcome::Applied; call.commits.len()]);
        // Nobody waiting any more is no reason for anything.
        drop(call.reply.send(outcomes));
    }
    Ok(())
}

/// Compares positions. `None`: the call will be applied, and the heads say so.
fn decide(shared: &Shared, heads: &mut Heads, call: Call) -> (Call, Option<Vec<Outcome>>) {
    let mut all = true;
    for commit in &call.commits {
        if !heads.contains_key(&commit.timeline) {
            match shared.overlay.base(&shared.disk, &commit.timeline) {
                Ok(base) => drop(heads.insert(commit.timeline.clone(), base)),
                Err(error) => {
                    tracing::error!(%error, "head not readable");
                    let unknown = vec![Outcome::Unknown; call.commits.len()];
                    return (call, Some(unknown));
                }
            }
        }
        all &= heads.get(&commit.timeline).is_some_and(|(head, _)| head.position == commit.expected);
    }
    if !all {
        let of = |id| heads.get(id).map(|(head, _)| *head).unwrap_or_default();
        let refused = call.commits.iter().map(|commit| Outcome::Conflict(of(&commit.timeline))).collect();
        return (call, Some(refused));
    }
    for commit in &call.commits {
        if let Some((head, _)) = heads.get_mut(&commit.timeline) {
            tail::advance(head, commit);
        }
    }
    (call, None)
}

/// One record, one write, one fsync. Returns the new end of the journal.
fn write(shared: &Shared, applied: &[&Call]) -> Result<Marker, String> {
    let last = *lock(&shared.end);
    let commit_no = last.commit_no + 1;
    let calls: Vec<&[u8]> = applied.iter().map(|call| &*call.bytes).collect();
    let (record, hash) = record::encode(commit_no, last.next_ordinal, last.hash, &calls);
    let mut batch = shared.disk.batch();
    batch.insert(&shared.disk.journal, commit_no.to_be_bytes().to_vec(), record);
    batch.commit(Sync::Data).map_err(|error| format!("journal not written: {error}"))?;
    let commits: usize = applied.iter().map(|call| call.commits.len()).sum();
    let stats = &shared.disk.stats;
    add(&stats.group_commits, 1);
    add(&stats.calls, applied.len());
    add(&stats.commits, commits);
    Ok(Marker { commit_no, hash, next_ordinal: last.next_ordinal + commits as u64 })
}

fn apply(shared: &Shared, applied: &[&Call], heads: &mut Heads, end: Marker) -> Result<(), String> {
    let first = lock(&shared.end).next_ordinal;
    for (ordinal, commit) in (first..).zip(applied.iter().flat_map(|call| &call.commits)) {
        let base = heads.get_mut(&commit.timeline).and_then(|(_, base)| base.take());
        shared
            .overlay
            .apply(&shared.disk, commit, ordinal, base)
            .map_err(|error| format!("durable commit not applied: {error}"))?;
    }
    *lock(&shared.end) = end;
    Ok(())
}
