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
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::disk::Sync;
use super::overlay::lock;
use super::queue::{Call, GroupLimit};
use super::record;
use super::shared::Shared;
use super::stats::add;
use super::tail::{self, Tail};
use super::values::Marker;
use super::witness::{Seen, Witness};
use crate::store::{Commit, Error, Head, Outcome, TimelineId};

/// A group this large is written in well under the time of a few fsyncs.
const GROUP: GroupLimit = GroupLimit { commits: 4_000, bytes: 4 * 1024 * 1024 };

/// A group commit that takes longer is worth a line for whoever looks for the largest latencies.
const SLOW: Duration = Duration::from_millis(5);

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

/// The head, and the tail to begin with if the timeline is not dirty.
type Known = (Head, Option<Arc<Tail>>);

/// Timelines of this group, as they are after the calls decided so far.
#[derive(Default)]
struct Heads<'a> {
    slots: HashMap<&'a TimelineId, usize>,
    known: Vec<Known>,
    /// The slots of all commits to apply, in order.
    order: Vec<usize>,
}

impl<'a> Heads<'a> {
    fn slot(&mut self, shared: &Shared, id: &'a TimelineId) -> Result<usize, Error> {
        if let Some(slot) = self.slots.get(id) {
            return Ok(*slot);
        }
        self.known.push(shared.overlay.base(&shared.disk, id)?);
        let slot = self.known.len() - 1;
        self.slots.insert(id, slot);
        Ok(slot)
    }
}

fn commit_group(shared: &Shared, witness: &mut Witness, group: Vec<Call>) -> Result<(), String> {
    let mut heads = Heads::default();
    let refused: Vec<Option<Vec<Outcome>>> = group.iter().map(|call| decide(shared, &mut heads, call)).collect();
    let Heads { known, order, .. } = heads;
    if !order.is_empty() {
        let end = write(shared, &group, &refused, order.len())?;
        let seen = Seen { commit_no: end.commit_no, hash: end.hash };
        if let Err(error) = witness.note(seen) {
            tracing::warn!(%error, "witness not written");
        }
        let (applied, replies) = split(group, refused);
        apply(shared, applied, (known, order), end)?;
        answer(replies);
    } else {
        answer(split(group, refused).1);
    }
    Ok(())
}

type Reply = (oneshot::Sender<Vec<Outcome>>, Vec<Outcome>);

/// The commits to apply, in order, and what each caller will hear.
fn split(group: Vec<Call>, refused: Vec<Option<Vec<Outcome>>>) -> (Vec<Commit>, Vec<Reply>) {
    let mut commits = Vec::new();
    let mut replies = Vec::with_capacity(group.len());
    for (call, refused) in group.into_iter().zip(refused) {
        let outcomes = refused.unwrap_or_else(|| {
            let applied = vec![Outcome::Applied; call.commits.len()];
            commits.extend(call.commits);
            applied
        });
        replies.push((call.reply, outcomes));
    }
    (commits, replies)
}

fn answer(replies: Vec<Reply>) {
    for (reply, outcomes) in replies {
        // Nobody waiting any more is no reason for anything.
        drop(reply.send(outcomes));
    }
}

/// Compares positions. `None`: the call will be applied, and the heads say so.
fn decide<'a>(shared: &Shared, heads: &mut Heads<'a>, call: &'a Call) -> Option<Vec<Outcome>> {
    let start = heads.order.len();
    let mut all = true;
    for commit in &call.commits {
        match heads.slot(shared, &commit.timeline) {
            Ok(slot) => {
                heads.order.push(slot);
                all &= heads.known[slot].0.position == commit.expected;
            }
            Err(error) => {
                tracing::error!(%error, "head not readable");
                heads.order.truncate(start);
                return Some(vec![Outcome::Unknown; call.commits.len()]);
            }
        }
    }
    if all {
        for (commit, slot) in call.commits.iter().zip(&heads.order[start..]) {
            tail::advance(&mut heads.known[*slot].0, commit);
        }
        return None;
    }
    let refused = heads.order[start..].iter().map(|slot| Outcome::Conflict(heads.known[*slot].0)).collect();
    heads.order.truncate(start);
    Some(refused)
}

/// One record, one write, one fsync. Returns the new end of the journal.
fn write(shared: &Shared, group: &[Call], refused: &[Option<Vec<Outcome>>], commits: usize) -> Result<Marker, String> {
    let last = *lock(&shared.end);
    let commit_no = last.commit_no + 1;
    let applied = group.iter().zip(refused).filter(|(_, refused)| refused.is_none());
    let calls: Vec<&[u8]> = applied.map(|(call, _)| &*call.bytes).collect();
    let (record, hash) = record::encode(commit_no, last.next_ordinal, last.hash, &calls);
    let mut batch = shared.disk.batch();
    batch.insert(&shared.disk.journal, commit_no.to_be_bytes().to_vec(), record);
    let begun = Instant::now();
    batch.commit(Sync::Data).map_err(|error| format!("journal not written: {error}"))?;
    let took = begun.elapsed();
    // Looked up each time: the recorder may be installed after the store was opened.
    metrics::histogram!("everline_store_group_commit_seconds").record(took);
    if took > SLOW {
        tracing::debug!(?took, commits, "slow group commit");
    }
    let stats = &shared.disk.stats;
    add(&stats.group_commits, 1);
    add(&stats.calls, calls.len());
    add(&stats.commits, commits);
    Ok(Marker { commit_no, hash, next_ordinal: last.next_ordinal + commits as u64 })
}

fn apply(
    shared: &Shared,
    commits: Vec<Commit>,
    (mut known, order): (Vec<Known>, Vec<usize>),
    end: Marker,
) -> Result<(), String> {
    let first = lock(&shared.end).next_ordinal;
    for ((ordinal, commit), slot) in (first..).zip(commits).zip(order) {
        let base = known[slot].1.take();
        shared
            .overlay
            .apply(&shared.disk, commit, ordinal, base)
            .map_err(|error| format!("durable commit not applied: {error}"))?;
    }
    *lock(&shared.end) = end;
    Ok(())
}
