//! Opening a directory: lock, format, checks, replay. A directory that is damaged, of a newer format, in
//! use or not ours is refused with one line; it is never half served.
//!
//! Replay: the records after the checkpoint's marker must be numbered without a gap, each naming the hash of
//! the one before, and reach at least as far as the witness has seen. Commits that a timeline already holds
//! are skipped by their ordinal.
//!
//! Must write nothing into a directory it refuses. How it can hurt: whatever is let through here is served.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rand::Rng;

use super::Options;
use super::backup::sync_parent;
use super::checkpoint::Progress;
use super::disk::{Disk, Sizes, Sync};
use super::keys;
use super::manifest;
use super::overlay::Overlay;
use super::queue::Queue;
use super::record::{self, Record};
use super::seal::{self, Broken};
use super::shared::{Limits, Shared};
use super::torn::{self, Refused};
use super::values::{self, Marker};
use super::witness::{self, Seen, Witness};

/// Raised with every change of keys, values or records.
pub(super) const FORMAT: u32 = 1;
/// Digits of an epoch: without those that look like others.
const DIGITS: &[u8; 32] = b"abcdefghjkmnpqrstuvwxyz023456789";
const EPOCH_LEN: usize = 12;
/// Present in a directory that the engine has created.
const ENGINE_MARKER: &str = "version";
/// There from before the engine makes its first file until all of it is durable: what stands beside it is of
/// no use. The engine itself confuses keyspaces if it goes on with a part of what it had made.
const CREATING: &str = "creating";

/// Why a directory was not opened. Each prints as one line.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpenError {
    /// Another process (or another store of this one) has it open.
    #[error("{0} is in use by another process")]
    Locked(String),
    /// Written by a version that this one does not know.
    #[error("{0} has an unknown format: {1}; use the version that wrote it")]
    Format(String, String),
    /// Not empty and not a store.
    #[error("{0} is not empty and holds no store")]
    Foreign(String),
    /// What is there is not what was written.
    #[error("{0} is damaged: {1}; restore a backup")]
    Damaged(String, String),
    /// Acknowledged commits are missing at the end.
    #[error(
        "{dir} has lost commits {first} to {last}, which were acknowledged; restore a backup, \
         or delete {witness} to go on without them"
    )]
    Lost {
        /// The directory.
        dir: String,
        /// First group commit that is missing.
        first: u64,
        /// Last one known.
        last: u64,
        /// The file that knows.
        witness: String,
    },
    /// The directory cannot be read or written.
    #[error("{0} cannot be opened: {1}")]
    Io(String, String),
}

/// An opened directory, before its threads are started.
pub(super) struct Opened {
    pub(super) shared: Arc<Shared>,
    pub(super) witness: Witness,
    pub(super) progress: Progress,
}

pub(super) fn open(options: &Options) -> Result<Opened, OpenError> {
    let dir = Dir(&options.dir);
    dir.prepare()?;
    let is_sealed = dir.seal()?;
    let seen = witness::seen(dir.0).map_err(|error| dir.io(&error))?;
    // What was closed cleanly has no torn end, and was compared file by file.
    if !is_sealed {
        dir.manifests()?;
        dir.torn(seen)?;
    }
    let disk = dir.engine(options)?;
    let epoch = dir.meta(&disk)?;
    let marker = dir.marker(&disk)?;
    let overlay = Overlay::new(options.timeline_cache_bytes);
    let (end, first_record) = dir.replay(&disk, &overlay, marker)?;
    dir.compare(end, seen)?;
    let witness = Witness::open(dir.0).map_err(|error| dir.io(&error))?;
    let checkpoint_bytes = options.checkpoint_bytes;
    let limits = Limits {
        checkpoint_bytes,
        overlay_bytes: options.overlay_bytes.max(checkpoint_bytes),
        checkpoint_every: options.checkpoint_every,
    };
    let deleted = first_record.map_or(marker.commit_no, |first| marker.commit_no.min(first.saturating_sub(1)));
    let progress = Progress { marked: marker.commit_no, deleted };
    let shared = Arc::new(Shared::new(disk, overlay, Queue::new(), limits, epoch, end));
    Ok(Opened { shared, witness, progress })
}

/// A new name for an incarnation of the data.
pub(super) fn new_epoch() -> String {
    let mut random = rand::rng();
    (0..EPOCH_LEN).map(|_| char::from(DIGITS[random.random_range(0..DIGITS.len())])).collect()
}

/// Writes what makes an engine's directory a store.
pub(super) fn write_meta(disk: &Disk, epoch: &str) -> fjall::Result<()> {
    let mut batch = disk.batch();
    batch.insert(&disk.meta, keys::META_FORMAT.to_vec(), FORMAT.to_be_bytes().to_vec());
    batch.insert(&disk.meta, keys::META_EPOCH.to_vec(), epoch.as_bytes().to_vec());
    batch.commit(Sync::Data)?;
    disk.sync_all()
}

/// The directory being opened, for messages.
struct Dir<'a>(&'a Path);

impl Dir<'_> {
    fn name(&self) -> String {
        self.0.display().to_string()
    }

    fn io(&self, error: &std::io::Error) -> OpenError {
        OpenError::Io(self.name(), error.to_string())
    }

    fn damaged(&self, what: impl ToString) -> OpenError {
        OpenError::Damaged(self.name(), what.to_string())
    }

    fn engine_error(&self, error: &fjall::Error) -> OpenError {
        match error {
            fjall::Error::Locked => OpenError::Locked(self.name()),
            fjall::Error::InvalidVersion(version) => OpenError::Format(self.name(), format!("engine {version:?}")),
            fjall::Error::Io(error) => self.io(error),
            other => self.damaged(other),
        }
    }

    /// Makes a new directory ready for the engine; clears what a creation that was interrupted has left.
    fn prepare(&self) -> Result<(), OpenError> {
        let is_unfinished = self.0.join(CREATING).exists();
        if !is_unfinished && self.0.join(ENGINE_MARKER).exists() {
            return Ok(());
        }
        self.make().map_err(|error| self.io(&error))?;
        // Nobody else may be creating it: his files would be taken for leftovers.
        let lock = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(self.0.join("lock"));
        let lock = lock.map_err(|error| self.io(&error))?;
        lock.try_lock().map_err(|_| OpenError::Locked(self.name()))?;
        let listing = std::fs::read_dir(self.0).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
        for found in listing.map_err(|error| self.io(&error))? {
            let (name, path) = (found.file_name(), found.path());
            let is_ours = is_unfinished && (name == ENGINE_MARKER || path.extension().is_some_and(|end| end == "jnl"));
            match name.to_str() {
                Some("lock" | CREATING) => Ok(()),
                Some("keyspaces") if is_unfinished => std::fs::remove_dir_all(path),
                _ if is_ours => std::fs::remove_file(path),
                _ => return Err(OpenError::Foreign(self.name())),
            }
            .map_err(|error| self.io(&error))?;
        }
        let begin = || std::fs::File::create(self.0.join(CREATING))?.sync_all().and_then(|()| self.sync());
        begin().map_err(|error| self.io(&error))
    }

    /// Everything the engine has made is durable.
    fn created(&self) -> std::io::Result<()> {
        std::fs::remove_file(self.0.join(CREATING))?;
        self.sync()
    }

    /// Makes the names in it durable.
    fn sync(&self) -> std::io::Result<()> {
        std::fs::File::open(self.0)?.sync_all()
    }

    /// Makes the directory, with those above it, durably: a name lost with the power is a lost store.
    fn make(&self) -> std::io::Result<()> {
        let full = std::path::absolute(self.0)?;
        let missing = full.ancestors().skip(1).take_while(|above| !above.exists()).count();
        std::fs::create_dir_all(&full)?;
        full.ancestors().take(missing + 1).try_for_each(sync_parent)
    }

    /// Compares a directory that was closed cleanly with its seal; false: it was not.
    fn seal(&self) -> Result<bool, OpenError> {
        let lock = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(self.0.join("lock"));
        let lock = lock.map_err(|error| self.io(&error))?;
        lock.try_lock().map_err(|_| OpenError::Locked(self.name()))?;
        seal::open(self.0, FORMAT).map_err(|broken| match broken {
            Broken::Format(number) => self.other_format(number),
            Broken::Differs(what) => self.damaged(what),
            Broken::Io(error) => self.io(&error),
        })
    }

    fn other_format(&self, number: impl std::fmt::Display) -> OpenError {
        OpenError::Format(self.name(), format!("{number}, this version reads {FORMAT}"))
    }

    /// The engine's lists of tables are what was written.
    fn manifests(&self) -> Result<(), OpenError> {
        let damage = manifest::damage(self.0).map_err(|error| self.io(&error))?;
        damage.map_or(Ok(()), |what| Err(self.damaged(what)))
    }

    /// Cuts off what power loss has left of a write that nobody was told of.
    fn torn(&self, seen: Option<Seen>) -> Result<(), OpenError> {
        let seen = seen.map_or(0, |seen| seen.commit_no);
        torn::cut(self.0, seen).map_err(|refused| match refused {
            Refused::Damaged(what) => self.damaged(what),
            Refused::Lost(first) => self.lost(first, seen),
            Refused::Io(error) => self.io(&error),
        })
    }

    fn lost(&self, first: u64, last: u64) -> OpenError {
        OpenError::Lost { dir: self.name(), first, last, witness: witness::path(self.0).display().to_string() }
    }

    /// The engine may panic over files it did not expect; that is damage like any other.
    fn engine(&self, options: &Options) -> Result<Disk, OpenError> {
        let sizes = Sizes { cache: options.cache_bytes, memtable: options.memtable_bytes };
        let open = || Disk::open(self.0, sizes, &options.clock);
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(open)) {
            Ok(opened) => opened.map_err(|error| self.engine_error(&error)),
            Err(_) => Err(self.damaged("the engine cannot read its files")),
        }
    }

    /// Checks the format and gives the epoch; a new directory gets both.
    fn meta(&self, disk: &Disk) -> Result<String, OpenError> {
        let get = |key| disk.meta.get(key).map_err(|error| self.engine_error(&error));
        if self.0.join(CREATING).exists() {
            let epoch = new_epoch();
            write_meta(disk, &epoch).map_err(|error| self.engine_error(&error))?;
            self.created().map_err(|error| self.io(&error))?;
            return Ok(epoch);
        }
        let format = get(keys::META_FORMAT)?.ok_or_else(|| self.damaged("meta at key format is missing"))?;
        if *format != FORMAT.to_be_bytes() {
            let number = <[u8; 4]>::try_from(&*format).map(u32::from_be_bytes);
            let what = number.map_or_else(|_| "not a number".to_owned(), |number| number.to_string());
            return Err(self.other_format(what));
        }
        let epoch = get(keys::META_EPOCH)?.and_then(|epoch| String::from_utf8(epoch.to_vec()).ok());
        epoch.ok_or_else(|| self.damaged("meta at key epoch"))
    }

    fn marker(&self, disk: &Disk) -> Result<Marker, OpenError> {
        let marker = disk.meta.get(keys::META_MARKER).map_err(|error| self.engine_error(&error))?;
        match marker {
            // Ordinal 0 stays unused: it is what a timeline nobody wrote has.
            None => Ok(Marker { next_ordinal: 1, ..Marker::default() }),
            Some(value) => {
                values::decode_marker(keys::META_MARKER, &value).ok_or_else(|| self.damaged("meta at key checkpoint"))
            }
        }
    }

    /// Applies what the checkpoint does not cover. Returns the journal's end and its first record.
    fn replay(&self, disk: &Disk, overlay: &Overlay, marker: Marker) -> Result<(Marker, Option<u64>), OpenError> {
        let mut end = marker;
        let mut first = None;
        for guard in disk.journal.iter() {
            let (key, value) = guard.into_inner().map_err(|error| self.engine_error(&error))?;
            let number = <[u8; 8]>::try_from(&*key).map(u64::from_be_bytes);
            let number = number.map_err(|_| self.damaged(format!("journal at key {}", keys::show(&key))))?;
            first = first.or(Some(number));
            if number <= marker.commit_no {
                continue;
            }
            let record = record::decode(&Bytes::copy_from_slice(&value))
                .map_err(|what| self.damaged(format!("journal record {number} {what}")))?;
            self.follows(end, number, &record)?;
            let next_ordinal = record.first_ordinal + record.commits.len() as u64;
            end = Marker { commit_no: number, hash: record.hash, next_ordinal };
            self.apply(disk, overlay, record)?;
        }
        Ok((end, first))
    }

    fn follows(&self, end: Marker, number: u64, record: &Record) -> Result<(), OpenError> {
        if number != end.commit_no + 1 {
            return Err(self.damaged(format!("journal record {} is missing", end.commit_no + 1)));
        }
        let continues =
            record.commit_no == number && record.previous == end.hash && record.first_ordinal == end.next_ordinal;
        if !continues {
            return Err(self.damaged(format!("journal record {number} does not continue the one before")));
        }
        Ok(())
    }

    fn apply(&self, disk: &Disk, overlay: &Overlay, record: Record) -> Result<(), OpenError> {
        for (ordinal, commit) in (record.first_ordinal..).zip(record.commits) {
            let id = &commit.timeline;
            let key = keys::timeline(id);
            let known = match overlay.look(id, |tail| tail.map(|tail| (tail.head, tail.as_of))) {
                Some(known) => known,
                None => {
                    let tail = overlay.clean(disk, id).map_err(|error| self.damaged(error))?;
                    (tail.head, tail.as_of)
                }
            };
            let (head, as_of) = known;
            if ordinal <= as_of {
                continue;
            }
            if head.position != commit.expected {
                let no = record.commit_no;
                return Err(self.damaged(format!("heads at key {} before journal record {no}", keys::show(&key))));
            }
            overlay.apply(disk, commit, ordinal, None).map_err(|error| self.damaged(error))?;
        }
        Ok(())
    }

    /// Compares the journal's end with what the witness has seen.
    fn compare(&self, end: Marker, seen: Option<Seen>) -> Result<(), OpenError> {
        let Some(seen) = seen else { return Ok(()) };
        if seen.commit_no > end.commit_no {
            return Err(self.lost(end.commit_no + 1, seen.commit_no));
        }
        if seen.commit_no == end.commit_no && seen.hash != end.hash {
            return Err(self.damaged(format!("journal record {} is another than was written", seen.commit_no)));
        }
        Ok(())
    }
}
