//! Backup: everything a snapshot of the engine shows, in one file, while serving goes on.
//!
//! ```text
//! file  := magic | block ... | footer block
//! block := length u32 | xxh3 of the payload u64 | payload
//! payload := section u8 | count varint | (key, value) ...          each with its length before it
//! footer  := ff | count of sections | (keys, bytes) of each | xxh3 over the sums of all blocks u64
//! ```
//!
//! A snapshot is taken between two writes of the engine, so it is what a crash at that moment would have
//! left: journal and tables that belong together. `restore` opens it like any directory.
//!
//! Must not overwrite a file, nor leave one under the final name that is not whole and synced. How it can
//! hurt: the snapshot keeps overwritten values on disk until it is done.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use super::codec::{put_bytes, put_varint, unseal};
use super::disk::{Disk, damaged, pair};
use super::keys;
use crate::store::{Error, Result};

/// What a file begins with; the last digits are the version of this file format.
pub(super) const MAGIC: &[u8; 8] = b"EVLBAK01";
/// First byte of the footer's payload.
pub(super) const FOOTER: u8 = 0xff;
/// A block is closed beyond so many bytes.
const BLOCK: usize = 1024 * 1024;
/// Keyspaces whose values carry a checksum of their own.
const SEALED: [&str; 5] = ["heads", "entries", "segments", "rows", "expiring"];

/// How much of one keyspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SectionCount {
    /// The keyspace.
    pub name: &'static str,
    /// Its keys.
    pub keys: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
}

/// What a backup or restore has copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupReport {
    /// Size of the file.
    pub file_bytes: u64,
    /// By keyspace.
    pub sections: Vec<SectionCount>,
}

/// The name a file has until it is complete.
pub(super) fn partial(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    PathBuf::from(name)
}

/// Makes a name in the directory of `path` durable.
pub(super) fn sync_parent(path: &Path) -> std::io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// See [`super::Embedded::backup`].
pub(super) fn write(disk: &Disk, path: &Path) -> Result<BackupReport> {
    let unavailable = |what: String| Error::Unavailable(format!("{}: {what}", path.display()));
    if path.exists() {
        return Err(unavailable("exists already".to_owned()));
    }
    let temporary = partial(path);
    let file = File::create_new(&temporary)
        .map_err(|error| Error::Unavailable(format!("{}: {error}", temporary.display())))?;
    let copied = Writer::new(file).copy(disk).and_then(|report| {
        let renamed = std::fs::rename(&temporary, path).and_then(|()| sync_parent(path));
        renamed.map(|()| report).map_err(|error| unavailable(error.to_string()))
    });
    if copied.is_err() {
        // The error at hand says more than one about the leftover.
        drop(std::fs::remove_file(&temporary));
    }
    copied
}

struct Writer {
    out: BufWriter<File>,
    sections: Vec<SectionCount>,
    /// Sums of all blocks, one after the other, hashed as they come.
    sum: u64,
    file_bytes: u64,
}

/// Folds a block's sum into that of the file.
pub(super) fn fold(sum: u64, block: u64) -> u64 {
    let mut both = [0; 16];
    both[..8].copy_from_slice(&sum.to_be_bytes());
    both[8..].copy_from_slice(&block.to_be_bytes());
    xxh3_64(&both)
}

fn io(error: &std::io::Error) -> Error {
    Error::Unavailable(format!("backup: {error}"))
}

impl Writer {
    fn new(file: File) -> Self {
        Self { out: BufWriter::new(file), sections: Vec::new(), sum: 0, file_bytes: 0 }
    }

    fn copy(mut self, disk: &Disk) -> Result<BackupReport> {
        let snapshot = disk.snapshot();
        self.put(MAGIC).map_err(|error| io(&error))?;
        for (index, (name, keyspace)) in keys::KEYSPACES.into_iter().zip(disk.all()).enumerate() {
            let mut count = SectionCount { name, keys: 0, bytes: 0 };
            let mut block = Block::new(index);
            for guard in fjall::Readable::iter(&snapshot, keyspace) {
                let (key, value) = pair(keyspace, guard)?;
                if SEALED.contains(&name) && unseal(&key, &value).is_none() {
                    return Err(damaged(keyspace, &key));
                }
                count.keys += 1;
                count.bytes += (key.len() + value.len()) as u64;
                block.push(&key, &value);
                if block.pairs.len() >= BLOCK {
                    self.block(&block.close()).map_err(|error| io(&error))?;
                    block = Block::new(index);
                }
            }
            self.block(&block.close()).map_err(|error| io(&error))?;
            self.sections.push(count);
        }
        self.finish().map_err(|error| io(&error))
    }

    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.file_bytes += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn block(&mut self, payload: &[u8]) -> std::io::Result<()> {
        let len = u32::try_from(payload.len()).map_err(|_| std::io::Error::other("block too long"))?;
        let sum = xxh3_64(payload);
        self.sum = fold(self.sum, sum);
        self.put(&len.to_be_bytes())?;
        self.put(&sum.to_be_bytes())?;
        self.put(payload)
    }

    fn finish(mut self) -> std::io::Result<BackupReport> {
        let mut footer = vec![FOOTER];
        put_varint(&mut footer, self.sections.len() as u64);
        for section in &self.sections {
            put_varint(&mut footer, section.keys);
            put_varint(&mut footer, section.bytes);
        }
        footer.extend_from_slice(&self.sum.to_be_bytes());
        self.block(&footer)?;
        let file = self.out.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        file.sync_all()?;
        Ok(BackupReport { file_bytes: self.file_bytes, sections: self.sections })
    }
}

/// A block being filled.
struct Block {
    section: u8,
    count: u64,
    pairs: Vec<u8>,
}

impl Block {
    /// `section` is an index into the eight keyspaces.
    fn new(section: usize) -> Self {
        Self { section: section as u8, count: 0, pairs: Vec::new() }
    }

    fn push(&mut self, key: &[u8], value: &[u8]) {
        put_bytes(&mut self.pairs, key);
        put_bytes(&mut self.pairs, value);
        self.count += 1;
    }

    fn close(self) -> Vec<u8> {
        let mut payload = Vec::with_capacity(self.pairs.len() + 12);
        payload.push(self.section);
        put_varint(&mut payload, self.count);
        payload.extend_from_slice(&self.pairs);
        payload
    }
}
