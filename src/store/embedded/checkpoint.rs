//! The checkpoint: puts what only the journal has into its place, then cuts the journal.
//!
//! ```text
//! end of journal = N -> every dirty timeline: freeze, write, finish -> marker N -> delete records <= N
//! ```
//!
//! It is fuzzy: commits go on meanwhile and may be written with the rest. Replay skips those a timeline
//! already holds (their ordinals), so a crash anywhere in between loses and doubles nothing. Each batch is
//! synced before the engine shows it: the engine flushes its keyspaces one by one, and a power loss between
//! would else keep the marker, or the deletion of a record, and lose what it stands for.
//!
//! Must write the marker last. How it can hurt: large batches make group commits wait for the engine's
//! writer; hence many modest ones.

use std::time::Instant;

use super::disk::{Batch, Sync};
use super::keys;
use super::overlay::lock;
use super::place;
use super::shared::{Shared, Wake};
use super::stats::add;
use super::tail::Frozen;
use super::values::{self, Marker};
use crate::store::TimelineId;

/// A batch is written when it has so many keys ...
const BATCH_KEYS: usize = 512;
/// ... or so many bytes.
const BATCH_BYTES: usize = 256 * 1024;

/// What the disk says at the beginning.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress {
    /// The marker on disk is for this group commit.
    pub(super) marked: u64,
    /// Journal records up to here are deleted.
    pub(super) deleted: u64,
}

/// Runs until told to stop, or the engine fails.
pub(super) fn run(shared: &Shared, mut progress: Progress) {
    while let Wake::Checkpoint(wish) = shared.bell.wait(shared.limits.checkpoint_every) {
        match checkpoint(shared, &mut progress) {
            Ok(()) => shared.bell.completed(wish),
            Err(why) => return shared.fail(&format!("checkpoint: {why}")),
        }
    }
}

/// Writes in batches; timelines are finished when the batch with their head is written.
pub(super) struct Writer<'a> {
    pub(super) shared: &'a Shared,
    batch: Batch<'a>,
    written: Vec<(TimelineId, Frozen)>,
}

impl<'a> Writer<'a> {
    fn new(shared: &'a Shared) -> Self {
        Self { shared, batch: shared.disk.batch(), written: Vec::new() }
    }

    /// The batch being filled.
    pub(super) fn batch(&mut self) -> &mut Batch<'a> {
        &mut self.batch
    }

    /// Everything of this timeline is in the batch, or was in earlier ones.
    pub(super) fn complete(&mut self, id: TimelineId, frozen: Frozen) -> Result<(), String> {
        self.written.push((id, frozen));
        self.cut()
    }

    /// A place where the batch may end.
    pub(super) fn cut(&mut self) -> Result<(), String> {
        if self.batch.len() >= BATCH_KEYS || self.batch.bytes() >= BATCH_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), String> {
        let batch = std::mem::replace(&mut self.batch, self.shared.disk.batch());
        batch.commit(Sync::Data).map_err(|error| error.to_string())?;
        for (id, frozen) in self.written.drain(..) {
            self.shared.overlay.finish(&id, &frozen);
        }
        self.shared.bell.progress();
        // Let a group commit that waits for the engine's writer go first.
        std::thread::yield_now();
        Ok(())
    }
}

fn checkpoint(shared: &Shared, progress: &mut Progress) -> Result<(), String> {
    let end = *lock(&shared.end);
    if end.commit_no == progress.marked && progress.deleted == progress.marked {
        return Ok(());
    }
    let begun = Instant::now();
    let mut writer = Writer::new(shared);
    for id in shared.overlay.dirty() {
        if shared.bell.stopped() {
            return Ok(());
        }
        if let Some(frozen) = shared.overlay.look(&id, |tail| tail.map(|tail| tail.freeze(&id))) {
            place::timeline(&mut writer, id, frozen)?;
        }
    }
    writer.flush()?;
    mark(shared, end)?;
    progress.marked = end.commit_no;
    cut_journal(shared, progress)?;
    add(&shared.disk.stats.checkpoints, 1);
    tracing::debug!(took = ?begun.elapsed(), records = end.commit_no, "checkpoint");
    Ok(())
}

fn mark(shared: &Shared, end: Marker) -> Result<(), String> {
    let mut batch = shared.disk.batch();
    let value = values::encode_marker(keys::META_MARKER, end);
    batch.insert(&shared.disk.meta, keys::META_MARKER.to_vec(), value);
    batch.commit(Sync::Data).map_err(|error| error.to_string())
}

/// Deletes the records the marker covers.
fn cut_journal(shared: &Shared, progress: &mut Progress) -> Result<(), String> {
    while progress.deleted < progress.marked && !shared.bell.stopped() {
        let mut batch = shared.disk.batch();
        let to = progress.marked.min(progress.deleted + BATCH_KEYS as u64);
        for commit_no in progress.deleted + 1..=to {
            batch.remove(&shared.disk.journal, commit_no.to_be_bytes().to_vec());
        }
        batch.commit(Sync::Data).map_err(|error| error.to_string())?;
        progress.deleted = to;
        std::thread::yield_now();
    }
    Ok(())
}
