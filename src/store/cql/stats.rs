//! Counters of the store, for `/metrics` and for the tests that count rounds and reads.
//!
//! Must not influence anything. How it can hurt: not at all.

use std::sync::atomic::{AtomicU64, Ordering};

/// What was asked of the database since the store was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Conditional batches sent to conversations' timelines.
    pub conversation_rounds: u64,
    /// Conditional batches sent to users' timelines.
    pub user_rounds: u64,
    /// Conditional statements for erased bodies in older buckets.
    pub erasure_rounds: u64,
    /// Of all these, refused.
    pub refused: u64,
    /// Of all these, with an unknown outcome.
    pub unknown: u64,
    /// Entries in batches that were applied.
    pub entries: u64,
    /// Bytes of values in the batches sent.
    pub bytes: u64,
    /// Reads at QUORUM.
    pub reads: u64,
    /// Reads at SERIAL.
    pub serial_reads: u64,
    /// Plain writes: marks, nodes, settled rows.
    pub writes: u64,
}

/// The counters themselves.
#[derive(Debug, Default)]
pub(super) struct Stats {
    pub(super) conversation_rounds: AtomicU64,
    pub(super) user_rounds: AtomicU64,
    pub(super) erasure_rounds: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) unknown: AtomicU64,
    pub(super) entries: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) reads: AtomicU64,
    pub(super) serial_reads: AtomicU64,
    pub(super) writes: AtomicU64,
}

pub(super) fn add(counter: &AtomicU64, by: usize) {
    counter.fetch_add(by as u64, Ordering::Relaxed);
}

impl Stats {
    pub(super) fn read(&self) -> Counters {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            conversation_rounds: of(&self.conversation_rounds),
            user_rounds: of(&self.user_rounds),
            erasure_rounds: of(&self.erasure_rounds),
            refused: of(&self.refused),
            unknown: of(&self.unknown),
            entries: of(&self.entries),
            bytes: of(&self.bytes),
            reads: of(&self.reads),
            serial_reads: of(&self.serial_reads),
            writes: of(&self.writes),
        }
    }
}
