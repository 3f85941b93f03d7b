//! Counters of the store, for `/metrics` and for the tests that count engine writes.
//!
//! Must not influence anything. How it can hurt: not at all.

use std::sync::atomic::{AtomicU64, Ordering};

/// What the store has done since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Keys written or deleted in the engine, journal and checkpoints together.
    pub engine_writes: u64,
    /// Bytes of those keys and values.
    pub engine_bytes: u64,
    /// Values looked up in the engine, or met while walking it, by those who read from the store.
    pub engine_reads: u64,
    /// Journal records written; each is one engine write and one fsync, whatever it holds.
    pub group_commits: u64,
    /// Calls of `commit` that were applied.
    pub calls: u64,
    /// Commits in those calls.
    pub commits: u64,
    /// Times the journal was synced.
    pub fsyncs: u64,
    /// Checkpoints completed.
    pub checkpoints: u64,
    /// Estimated memory of what is durable in the journal only.
    pub overlay_bytes: u64,
    /// Times the committer waited for a checkpoint because too much was in memory.
    pub stalls: u64,
}

/// The counters themselves.
#[derive(Debug, Default)]
pub(super) struct Stats {
    pub(super) engine_writes: AtomicU64,
    pub(super) engine_bytes: AtomicU64,
    pub(super) engine_reads: AtomicU64,
    pub(super) group_commits: AtomicU64,
    pub(super) calls: AtomicU64,
    pub(super) commits: AtomicU64,
    pub(super) fsyncs: AtomicU64,
    pub(super) checkpoints: AtomicU64,
    pub(super) stalls: AtomicU64,
}

pub(super) fn add(counter: &AtomicU64, by: usize) {
    counter.fetch_add(by as u64, Ordering::Relaxed);
}

impl Stats {
    pub(super) fn read(&self, overlay_bytes: u64) -> Counters {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            engine_writes: of(&self.engine_writes),
            engine_bytes: of(&self.engine_bytes),
            engine_reads: of(&self.engine_reads),
            group_commits: of(&self.group_commits),
            calls: of(&self.calls),
            commits: of(&self.commits),
            fsyncs: of(&self.fsyncs),
            checkpoints: of(&self.checkpoints),
            overlay_bytes,
            stalls: of(&self.stalls),
        }
    }
}
