//! The embedded store: all timelines in one directory of one process, on a log-structured engine.
//!
//! ```text
//! commit -> queue -> committer: compare heads, one journal record, fsync -> overlay -> answer
//!                                                                             |
//! reads  <- overlay laid over the engine's tables  <-  checkpoint  <----------+   later, in batches
//! ```
//!
//! A message's conversation entry, its dedupe row and its fan-out to every member are part of one journal
//! record, which is one engine write and shares its fsync with everything that came at the same time. What
//! the journal holds is put into its place by the checkpoint, when many commits of one timeline have
//! become a few keys. `keys` is the schema of a directory.
//!
//! Must not: answer before the fsync; serve a directory it has doubts about; go on after an error of the
//! engine ([`Embedded::failed`] tells; the process should end).
//!
//! How it can hurt: a backlog of checkpoints makes the committer wait ([`Counters::stalls`]); a directory on
//! a disk that lies about fsync loses acknowledged commits (the witness then refuses it).

mod backup;
mod checkpoint;
mod codec;
mod committer;
mod disk;
mod expiry;
mod keys;
mod manifest;
mod marks;
mod open;
mod overlay;
mod place;
mod queue;
mod read;
mod record;
mod restore;
mod seal;
mod shared;
mod stats;
mod tail;
mod torn;
mod values;
mod witness;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::{self, BoxFuture};
use tokio::sync::{oneshot, watch};

pub use backup::{BackupReport, SectionCount};
pub use open::OpenError;
pub use restore::{RestoreError, restore};
pub use stats::Counters;

use self::overlay::lock;
use self::queue::Call;
use self::read::RowSpan;
use self::shared::Shared;
use super::{Commit, Entry, Error, Head, KnownNode, Mark, Outcome, Result, RowKey, Section, Span, Store, TimelineId};
use crate::config::Clock;
use crate::protocol::ConvId;

/// Where and how large.
#[derive(Debug, Clone)]
pub struct Options {
    /// The directory; created if it is not there.
    pub dir: PathBuf,
    /// Blocks of tables kept in memory, bytes.
    pub cache_bytes: u64,
    /// Each keyspace's write buffer in the engine, bytes.
    pub memtable_bytes: u64,
    /// Heads (and newest entries) of timelines kept in memory, bytes.
    pub timeline_cache_bytes: u64,
    /// A checkpoint begins when so many bytes are in the journal only.
    pub checkpoint_bytes: usize,
    /// Commits wait for the checkpoint beyond so many bytes.
    pub overlay_bytes: usize,
    /// A checkpoint begins at the latest so long after the last.
    pub checkpoint_every: Duration,
    /// For rows that expire.
    pub clock: Clock,
}

impl Options {
    /// The defaults, for a directory.
    pub fn new(dir: impl Into<PathBuf>, clock: Clock) -> Self {
        const MIB: usize = 1024 * 1024;
        Self {
            dir: dir.into(),
            cache_bytes: 128 * MIB as u64,
            memtable_bytes: 32 * MIB as u64,
            timeline_cache_bytes: 64 * MIB as u64,
            checkpoint_bytes: 32 * MIB,
            overlay_bytes: 128 * MIB,
            checkpoint_every: Duration::from_secs(30),
            clock,
        }
    }

    /// Write buffers of so many bytes, and the bounds that follow from them.
    #[must_use]
    pub fn with_buffer(self, bytes: usize) -> Self {
        let overlay_bytes = bytes.saturating_mul(4);
        Self { memtable_bytes: bytes as u64, checkpoint_bytes: bytes, overlay_bytes, ..self }
    }
}

/// The embedded store. Reads are done in the caller's thread; they may wait for the disk.
pub struct Embedded {
    shared: Arc<Shared>,
    dir: PathBuf,
    committer: Mutex<Option<JoinHandle<()>>>,
    checkpointer: Mutex<Option<JoinHandle<()>>>,
}

impl Embedded {
    /// Opens a directory, or makes one. Blocks while it replays the journal.
    ///
    /// # Errors
    /// [`OpenError`], one line each: in use, unknown format, damaged, not a store, not accessible.
    pub fn open(options: Options) -> std::result::Result<Arc<Self>, OpenError> {
        let open::Opened { shared, witness, progress } = open::open(&options)?;
        let spawn = |name: &str, body: Box<dyn FnOnce(&Shared) + Send>| {
            let (shared, name) = (shared.clone(), name.to_owned());
            std::thread::Builder::new()
                .name(name.clone())
                .spawn(move || shared.guard(&name, || body(&shared)))
                .map_err(|error| OpenError::Io(options.dir.display().to_string(), error.to_string()))
        };
        let committer = spawn("committer", Box::new(move |shared| committer::run(shared, witness)))?;
        let checkpointer = spawn("checkpoint", Box::new(move |shared| checkpoint::run(shared, progress)));
        if checkpointer.is_err() {
            shared.queue.close();
        }
        Ok(Arc::new(Self {
            shared,
            dir: options.dir.clone(),
            committer: Mutex::new(Some(committer)),
            checkpointer: Mutex::new(Some(checkpointer?)),
        }))
    }

    /// Takes no more commits, finishes those queued, puts everything in its place, syncs. Blocks. Reads go
    /// on working; the directory is free once the store is dropped.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the store has failed; what was answered `Applied` is durable all the same.
    pub fn close(&self) -> Result<()> {
        self.shared.queue.close();
        join(&self.committer);
        self.checkpoint()?;
        self.shared.bell.stop();
        join(&self.checkpointer);
        self.shared.disk.sync_all().map_err(|error| {
            self.shared.fail(&format!("sync: {error}"));
            Error::Unavailable(error.to_string())
        })?;
        self.shared.disk.seal_when_closed();
        Ok(())
    }

    /// Makes a checkpoint of everything applied so far. Blocks.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the store has failed or is closed.
    pub fn checkpoint(&self) -> Result<()> {
        if self.shared.bell.ring_and_wait() || self.shared.bell.stopped() && !self.shared.is_failed() {
            return Ok(());
        }
        self.shared.usable()
    }

    /// Rewrites all tables without overwritten, deleted and expired values. Blocks; for rare use. An
    /// erased body may outlast this in the engine's write-ahead file: see [`Embedded::purge`].
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the engine fails.
    pub fn compact(&self) -> Result<()> {
        self.checkpoint()?;
        self.shared.disk.compact().map_err(|error| self.failing(&error))
    }

    /// As [`Embedded::compact`], and begins a new write-ahead file: what was erased before this began is in
    /// no file afterwards. Blocks, and writes some 64 MiB besides.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the engine fails, or has not let go of an old file in time (call again).
    pub fn purge(&self) -> Result<()> {
        self.checkpoint()?;
        let renewed = self.shared.disk.purge().map_err(|error| self.failing(&error))?;
        if renewed { Ok(()) } else { Err(Error::Unavailable("an old write-ahead file is still in use".to_owned())) }
    }

    fn failing(&self, error: &fjall::Error) -> Error {
        self.shared.fail(&format!("compaction: {error}"));
        Error::Unavailable(error.to_string())
    }

    /// Becomes `Some(why)` when the store has failed for good; the process should then end.
    pub fn failed(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.shared.failure()
    }

    /// What was done since the store was opened.
    pub fn counters(&self) -> Counters {
        self.shared.disk.stats.read(self.shared.overlay.bytes() as u64)
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes everything, as of one moment, into a new file, while serving. Blocks.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the file is there already or cannot be written, [`Error::Damaged`] if the
    /// data cannot be read.
    pub fn backup(&self, file: &Path) -> Result<BackupReport> {
        self.shared.usable()?;
        backup::write(&self.shared.disk, file)
    }
}

fn join(thread: &Mutex<Option<JoinHandle<()>>>) {
    let thread = lock(thread).take();
    // A panic in it has been reported by the guard.
    drop(thread.map(JoinHandle::join));
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.shared.queue.close();
        join(&self.committer);
        self.shared.bell.stop();
        join(&self.checkpointer);
    }
}

impl std::fmt::Debug for Embedded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Embedded").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Store for Embedded {
    fn epoch(&self) -> String {
        self.shared.epoch.clone()
    }

    fn together(&self) -> bool {
        true
    }

    fn commit(&self, commits: Vec<Commit>) -> BoxFuture<'static, Vec<Outcome>> {
        let count = commits.len();
        if count == 0 {
            return future::ready(Vec::new()).boxed();
        }
        let (reply, answer) = oneshot::channel();
        let bytes = record::encode_call(&commits);
        let late = self.shared.queue.try_push(Call { commits, bytes, reply }).err();
        let shared = late.is_some().then(|| self.shared.clone());
        async move {
            if let (Some(call), Some(shared)) = (late, shared) {
                shared.queue.push(call).await;
            }
            answer.await.unwrap_or_else(|_| vec![Outcome::Unknown; count])
        }
        .boxed()
    }

    fn head<'a>(&'a self, timeline: &'a TimelineId) -> BoxFuture<'a, Result<Head>> {
        future::ready(read::head(&self.shared, timeline)).boxed()
    }

    fn entries<'a>(&'a self, timeline: &'a TimelineId, span: Span) -> BoxFuture<'a, Result<Vec<Entry>>> {
        future::ready(read::entries(&self.shared, timeline, span)).boxed()
    }

    fn row<'a>(&'a self, timeline: &'a TimelineId, key: &'a RowKey) -> BoxFuture<'a, Result<Option<Bytes>>> {
        future::ready(read::row(&self.shared, timeline, key)).boxed()
    }

    fn rows<'a>(
        &'a self,
        timeline: &'a TimelineId,
        section: Section,
        after: Option<RowKey>,
        up_to_n: u64,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(RowKey, Bytes)>>> {
        let span = RowSpan { section, after, up_to_n, limit };
        future::ready(read::rows(&self.shared, timeline, &span)).boxed()
    }

    fn timelines<'a>(&'a self, after: Option<TimelineId>, limit: usize) -> BoxFuture<'a, Result<Vec<TimelineId>>> {
        future::ready(read::timelines(&self.shared, after.as_ref(), limit)).boxed()
    }

    fn unfinished(&self) -> BoxFuture<'_, Result<Vec<ConvId>>> {
        future::ready(read::unfinished(&self.shared)).boxed()
    }

    fn put_mark(&self, mark: Mark) -> BoxFuture<'_, Result<()>> {
        future::ready(marks::put(&self.shared, &mark)).boxed()
    }

    fn delete_mark(&self, mark: Mark) -> BoxFuture<'_, Result<()>> {
        future::ready(marks::delete(&self.shared, &mark)).boxed()
    }

    fn marks_of(&self, node: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Mark>>> {
        future::ready(marks::of(&self.shared, node, limit)).boxed()
    }

    fn renew_node(&self, _node: u64, _ttl: Duration) -> BoxFuture<'_, Result<()>> {
        future::ready(Ok(())).boxed()
    }

    fn nodes(&self) -> BoxFuture<'_, Result<Vec<KnownNode>>> {
        future::ready(marks::nodes(&self.shared)).boxed()
    }

    fn forget_node(&self, _node: u64) -> BoxFuture<'_, Result<()>> {
        future::ready(Ok(())).boxed()
    }
}
