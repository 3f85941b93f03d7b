//! The engine (fjall) as the rest of the room sees it: keyspaces by name, counted batches, errors in our
//! terms, values checked.
//!
//! Rules kept here: one journal for all keyspaces with manual persist; no FIFO compaction, no `clear`, no
//! key-value separation, no `remove_weak` (each has lost data); memtables and cache bounded.
//!
//! Must not know timelines. How it can hurt: a batch that is acknowledged without [`Sync::Data`] is not
//! durable; only the committer's batches are acknowledged.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::RngCore as _;

use fjall::{Database, Guard, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode, Readable};

use super::expiry::Expiry;
use super::keys;
use super::open::FORMAT;
use super::seal::Sealer;
use super::stats::{Stats, add};
use super::values::{self, StoredHead};
use crate::config::Clock;
use crate::store::{Entry, Error, Result};

/// Write-ahead files together: what a start has to read again at most. Less would make small flushes.
const JOURNAL_BYTES: u64 = 256 * 1024 * 1024;

/// What a write-ahead file is filled up with at a time, and how often at most.
const FILLER: usize = 1024 * 1024;
const FILL_AT_MOST: usize = 256;
/// Old write-ahead files must be gone after so long; how often that is looked at.
const JOURNAL_DEADLINE: Duration = Duration::from_secs(60);
const JOURNAL_LOOK: Duration = Duration::from_millis(50);

/// Sizes the engine is opened with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) cache: u64,
    pub(super) memtable: u64,
}

/// Whether a batch must be durable before the engine shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sync {
    /// Yes: fdatasync of everything written so far.
    Data,
    /// No: only for a directory that nobody can take for a store yet (a restore).
    Later,
}

/// The open engine.
pub(super) struct Disk {
    db: Database,
    pub(super) meta: Keyspace,
    pub(super) journal: Keyspace,
    pub(super) heads: Keyspace,
    pub(super) entries: Keyspace,
    pub(super) segments: Keyspace,
    pub(super) rows: Keyspace,
    pub(super) expiring: Keyspace,
    pub(super) unfinished: Keyspace,
    pub(super) marks: Keyspace,
    pub(super) stats: Stats,
    /// The last field: dropped when the engine has closed its files.
    sealer: Sealer,
}

/// A view of one moment.
pub(super) type Snapshot = fjall::Snapshot;

impl Disk {
    pub(super) fn open(dir: &Path, sizes: Sizes, clock: &Clock) -> fjall::Result<Self> {
        let clock = clock.clone();
        let db = Database::builder(dir)
            .manual_journal_persist(true)
            .cache_size(sizes.cache)
            .max_journaling_size(JOURNAL_BYTES)
            .with_compaction_filter_factories(Arc::new(move |name| Expiry::factory(name, &clock)))
            .open()?;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(sizes.memtable);
        let keyspace = |name: &str| db.keyspace(name, options);
        let disk = Self {
            meta: keyspace("meta")?,
            journal: keyspace("journal")?,
            heads: keyspace("heads")?,
            entries: keyspace("entries")?,
            segments: keyspace("segments")?,
            rows: keyspace("rows")?,
            expiring: keyspace("expiring")?,
            unfinished: keyspace("unfinished")?,
            marks: keyspace("marks")?,
            stats: Stats::default(),
            db,
            sealer: Sealer::new(dir, FORMAT),
        };
        // The engine syncs what is in its directories, not the names of those it has just made.
        for dir in [&dir.join("keyspaces"), dir] {
            std::fs::File::open(dir)?.sync_all()?;
        }
        Ok(disk)
    }

    /// Everything is synced and nothing more will be written: seal the directory when it is closed.
    pub(super) fn seal_when_closed(&self) {
        self.sealer.arm();
    }

    /// All keyspaces, in the order of [`keys::KEYSPACES`].
    pub(super) fn all(&self) -> [&Keyspace; keys::KEYSPACES.len()] {
        [
            &self.meta,
            &self.journal,
            &self.heads,
            &self.entries,
            &self.segments,
            &self.rows,
            &self.expiring,
            &self.unfinished,
            &self.marks,
        ]
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        self.db.snapshot()
    }

    pub(super) fn batch(&self) -> Batch<'_> {
        Batch { disk: self, inner: self.db.batch(), bytes: 0 }
    }

    /// Makes everything written durable.
    pub(super) fn sync_all(&self) -> fjall::Result<()> {
        add(&self.stats.fsyncs, 1);
        self.db.persist(PersistMode::SyncAll)
    }

    /// Rewrites all tables without what was overwritten, deleted or expired.
    pub(super) fn compact(&self) -> fjall::Result<()> {
        for keyspace in self.all() {
            keyspace.rotate_memtable_and_wait()?;
            keyspace.major_compact()?;
        }
        Ok(())
    }

    /// The same, and begins another write-ahead file. False: an old one was still there at the deadline.
    pub(super) fn purge(&self) -> fjall::Result<bool> {
        self.seal_journal()?;
        let deadline = Instant::now() + JOURNAL_DEADLINE;
        loop {
            self.flush()?;
            let renewed = self.db.journal_count() == 1;
            if renewed || Instant::now() > deadline {
                self.compact()?;
                // Tables that were replaced are removed when the engine flushes again.
                self.flush()?;
                return Ok(renewed);
            }
            std::thread::sleep(JOURNAL_LOOK);
        }
    }

    /// Puts everything into tables. The engine lets go of an old write-ahead file when every keyspace has a
    /// table newer than it, so each gets one: with a word that a key nobody ever wrote is gone.
    fn flush(&self) -> fjall::Result<()> {
        let mut batch = self.batch();
        for keyspace in self.all() {
            batch.remove(keyspace, keys::NOBODYS.to_vec());
        }
        batch.commit(Sync::Later)?;
        self.all().into_iter().try_for_each(Keyspace::rotate_memtable_and_wait)
    }

    /// The engine begins a new write-ahead file only when one is full: so it is filled.
    fn seal_journal(&self) -> fjall::Result<()> {
        let before = self.db.journal_count();
        let mut filler = vec![0_u8; FILLER];
        for _ in 0..FILL_AT_MOST {
            rand::rng().fill_bytes(&mut filler);
            let mut batch = self.batch();
            batch.insert(&self.meta, keys::META_FILLER.to_vec(), filler.clone());
            batch.commit(Sync::Later)?;
            if self.db.journal_count() > before {
                break;
            }
        }
        let mut batch = self.batch();
        batch.remove(&self.meta, keys::META_FILLER.to_vec());
        batch.commit(Sync::Data)
    }

    /// The stored head of a timeline, by its key.
    pub(super) fn head(&self, key: &[u8]) -> Result<Option<StoredHead>> {
        add(&self.stats.engine_reads, 1);
        let Some(value) = self.heads.get(key).map_err(|error| failed(&self.heads, &error))? else {
            return Ok(None);
        };
        values::decode_head(key, &value).map(Some).ok_or_else(|| damaged(&self.heads, key))
    }

    /// The entry at a key of `entries`.
    pub(super) fn entry(&self, key: &[u8], seq: u64) -> Result<Option<Entry>> {
        let Some(value) = self.entries.get(key).map_err(|error| failed(&self.entries, &error))? else {
            return Ok(None);
        };
        values::decode_entry(key, seq, &value).map(Some).ok_or_else(|| damaged(&self.entries, key))
    }
}

/// Writes that happen together.
pub(super) struct Batch<'a> {
    disk: &'a Disk,
    inner: OwnedWriteBatch,
    bytes: usize,
}

impl Batch<'_> {
    pub(super) fn insert(&mut self, keyspace: &Keyspace, key: Vec<u8>, value: Vec<u8>) {
        self.bytes += key.len() + value.len();
        self.inner.insert(keyspace, key, value);
    }

    pub(super) fn remove(&mut self, keyspace: &Keyspace, key: Vec<u8>) {
        self.bytes += key.len();
        self.inner.remove(keyspace, key);
    }

    pub(super) fn len(&self) -> usize {
        self.inner.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Writes; counts it.
    pub(super) fn commit(self, sync: Sync) -> fjall::Result<()> {
        let stats = &self.disk.stats;
        add(&stats.engine_writes, self.inner.len());
        add(&stats.engine_bytes, self.bytes);
        let mode = match sync {
            Sync::Data => Some(PersistMode::SyncData),
            Sync::Later => None,
        };
        add(&stats.fsyncs, usize::from(mode.is_some()));
        self.inner.durability(mode).commit()
    }
}

/// Key and value of something iterated.
pub(super) fn pair(keyspace: &Keyspace, guard: Guard) -> Result<(fjall::UserKey, fjall::UserValue)> {
    guard.into_inner().map_err(|error| failed(keyspace, &error))
}

/// One value as of a snapshot.
pub(super) fn get(snapshot: &Snapshot, keyspace: &Keyspace, key: &[u8]) -> Result<Option<fjall::UserValue>> {
    snapshot.get(keyspace, key).map_err(|error| failed(keyspace, &error))
}

/// The error for a value that is not what was written.
pub(super) fn damaged(keyspace: &Keyspace, key: &[u8]) -> Error {
    Error::Damaged(format!("{} at key {}", keyspace_name(keyspace), keys::show(key)))
}

/// The error for an engine that cannot read.
pub(super) fn failed(keyspace: &Keyspace, error: &fjall::Error) -> Error {
    let what = format!("{}: {error}", keyspace_name(keyspace));
    match error {
        fjall::Error::Storage(fjall::LsmError::Io(_)) | fjall::Error::Io(_) | fjall::Error::Poisoned => {
            Error::Unavailable(what)
        }
        _ => Error::Damaged(what),
    }
}

fn keyspace_name(keyspace: &Keyspace) -> &str {
    keyspace.name()
}
