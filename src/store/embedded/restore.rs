//! Restore: a backup file becomes a new directory with a new epoch.
//!
//! The file is read twice: once to check every block, the counts and the end; then to write the directory
//! under a temporary name, which is opened (replaying and checking the journal) and only then renamed.
//!
//! Must not touch an existing directory, nor make one from a file that is not whole. How it can hurt: the
//! old epoch kept would let devices go on with cursors of another history.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use super::backup::{BackupReport, FOOTER, MAGIC, SectionCount, fold, partial, sync_parent};
use super::codec::Reader;
use super::disk::{Disk, Sizes, Sync};
use super::keys;
use super::open::{self, OpenError};
use super::{BackupReport as Report, Options};
use xxhash_rust::xxh3::xxh3_64;

/// A batch is written beyond so many bytes.
const BATCH_BYTES: usize = 1024 * 1024;

/// Why nothing was restored. Each prints as one line.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Restoring never writes into what is there.
    #[error("{0} exists already")]
    Exists(String),
    /// Cut, changed, or not a backup.
    #[error("{0} is not a whole backup: {1}")]
    Corrupt(String, String),
    /// A file or directory cannot be read or written.
    #[error("{0}: {1}")]
    Io(String, String),
    /// What was restored cannot be opened.
    #[error("restored data is refused: {0}")]
    Open(#[from] OpenError),
}

type Result<T> = std::result::Result<T, RestoreError>;

/// Writes the backup `file` into the new directory `options.dir`, under a new epoch. Blocks.
///
/// # Errors
/// [`RestoreError`]; nothing is then left under the name of the directory.
pub fn restore(file: &Path, options: &Options) -> Result<Report> {
    let dir = &options.dir;
    let temporary = partial(dir);
    for path in [dir, &temporary] {
        if path.exists() {
            return Err(RestoreError::Exists(path.display().to_string()));
        }
    }
    let report = Backup::open(file)?.read(|_, _, _| Ok(()))?;
    let options = Options { dir: temporary.clone(), ..options.clone() };
    let written = write(file, &options).and_then(|()| {
        let renamed = std::fs::rename(&temporary, dir).and_then(|()| sync_parent(dir));
        renamed.map_err(|error| RestoreError::Io(dir.display().to_string(), error.to_string()))
    });
    if written.is_err() {
        // The error at hand says more than one about the leftover.
        drop(std::fs::remove_dir_all(&temporary));
    }
    written.map(|()| report)
}

/// Fills a directory, and checks it by opening it.
fn write(file: &Path, options: &Options) -> Result<()> {
    let name = options.dir.display().to_string();
    let failed = |error: fjall::Error| RestoreError::Io(name.clone(), error.to_string());
    let sizes = Sizes { cache: options.cache_bytes, memtable: options.memtable_bytes };
    let disk = Disk::open(&options.dir, sizes, &options.clock).map_err(&failed)?;
    let keyspaces = disk.all();
    let mut batch = disk.batch();
    Backup::open(file)?.read(|section, key, value| {
        if let Some(keyspace) = keyspaces.get(section) {
            batch.insert(keyspace, key.to_vec(), value.to_vec());
        }
        if batch.bytes() < BATCH_BYTES {
            return Ok(());
        }
        std::mem::replace(&mut batch, disk.batch()).commit(Sync::Later).map_err(&failed)
    })?;
    batch.insert(&disk.meta, keys::META_EPOCH.to_vec(), open::new_epoch().into_bytes());
    batch.commit(Sync::Data).map_err(&failed)?;
    disk.sync_all().map_err(&failed)?;
    drop(disk);
    drop(open::open(options)?);
    Ok(())
}

/// A backup file being read.
struct Backup {
    name: String,
    input: BufReader<File>,
    left: u64,
    file_bytes: u64,
    sum: u64,
}

impl Backup {
    fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let opened = File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (len, file) = opened.map_err(|error| RestoreError::Io(name.clone(), error.to_string()))?;
        Ok(Self { name, input: BufReader::new(file), left: len, file_bytes: len, sum: 0 })
    }

    fn corrupt(&self, what: &str) -> RestoreError {
        let at = self.file_bytes - self.left;
        RestoreError::Corrupt(self.name.clone(), format!("{what} before byte {at}"))
    }

    fn take(&mut self, len: u64) -> Result<Vec<u8>> {
        if len > self.left {
            return Err(self.corrupt("cut short"));
        }
        // Not more than the file has.
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        let read = self.input.read_exact(&mut bytes);
        read.map_err(|error| RestoreError::Io(self.name.clone(), error.to_string()))?;
        self.left -= len;
        Ok(bytes)
    }

    /// The next block's payload; also the sum of the blocks before it.
    fn block(&mut self) -> Result<(Vec<u8>, u64)> {
        let head = self.take(12)?;
        let (len, sum) = head.split_at(4);
        let len = len.iter().fold(0, |len, byte| len << 8 | u64::from(*byte));
        let payload = self.take(len)?;
        if xxh3_64(&payload).to_be_bytes() != sum {
            return Err(self.corrupt("wrong checksum"));
        }
        let before = self.sum;
        self.sum = fold(before, xxh3_64(&payload));
        Ok((payload, before))
    }

    /// Checks the whole file, handing out (section, key, value).
    fn read(mut self, mut each: impl FnMut(usize, &[u8], &[u8]) -> Result<()>) -> Result<BackupReport> {
        if self.take(MAGIC.len() as u64)? != MAGIC {
            return Err(self.corrupt("unknown beginning"));
        }
        let mut sections = keys::KEYSPACES.map(|name| SectionCount { name, keys: 0, bytes: 0 }).to_vec();
        loop {
            let (payload, sum) = self.block()?;
            let mut reader = Reader::new(&payload);
            let section = reader.u8().ok_or_else(|| self.corrupt("empty block"))?;
            if section == FOOTER {
                self.footer(reader, &sections, sum)?;
                return Ok(BackupReport { file_bytes: self.file_bytes, sections });
            }
            let section = usize::from(section);
            let count = sections.get_mut(section).ok_or_else(|| self.corrupt("unknown section"))?;
            for _ in 0..reader.varint().unwrap_or(0) {
                let pair = reader.bytes().zip(reader.bytes());
                let (key, value) = pair.ok_or_else(|| self.corrupt("unreadable block"))?;
                count.keys += 1;
                count.bytes += (key.len() + value.len()) as u64;
                each(section, key, value)?;
            }
        }
    }

    fn footer(&self, mut reader: Reader<'_>, sections: &[SectionCount], sum: u64) -> Result<()> {
        let mut agrees = reader.varint() == Some(sections.len() as u64);
        for section in sections {
            agrees &= reader.varint() == Some(section.keys);
            agrees &= reader.varint() == Some(section.bytes);
        }
        agrees &= reader.u64_be() == Some(sum);
        if !agrees || self.left != 0 {
            return Err(self.corrupt("counts and contents disagree"));
        }
        Ok(())
    }
}
