//! The witness: a small file beside the engine that remembers the number of the last durable group commit.
//!
//! The engine cuts its write-ahead file at the first thing it cannot read and says nothing, also when that
//! is damage in the middle and acknowledged commits stand behind it. The witness is written after each
//! fsync (not synced itself: it may be behind, never ahead), so a journal that ends before it has lost
//! something.
//!
//! Must never be written before the commit is durable. How it can hurt: a store that is refused although
//! it is whole. Deleting the file takes the check away.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::codec::{Reader, seal, unseal};

const NAME: &str = "witness";
const SLOT: usize = 20;
/// Far enough apart that one torn write spoils one slot only.
const STRIDE: u64 = 4096;

/// The open file.
#[derive(Debug)]
pub(super) struct Witness {
    file: File,
}

/// What it remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) commit_no: u64,
    pub(super) hash: u64,
}

/// Where it is.
pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join(NAME)
}

/// The last commit a directory's witness saw; `None` without one, or for a new one. Makes nothing.
pub(super) fn seen(dir: &Path) -> io::Result<Option<Seen>> {
    let mut file = match File::open(path(dir)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut newest: Option<Seen> = None;
    for slot in 0..2 {
        let mut bytes = [0; SLOT];
        file.seek(SeekFrom::Start(slot * STRIDE))?;
        match file.read_exact(&mut bytes) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => continue,
            Err(error) => return Err(error),
        }
        let seen = decode(&bytes).filter(|seen| newest.is_none_or(|old| old.commit_no < seen.commit_no));
        newest = seen.or(newest);
    }
    Ok(newest)
}

impl Witness {
    /// Opens or creates it, to go on with.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path(dir))?;
        Ok(Self { file })
    }

    /// Notes a durable commit. A failure is harmless: the witness stays behind.
    pub(super) fn note(&mut self, seen: Seen) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(SLOT);
        bytes.extend_from_slice(&seen.commit_no.to_be_bytes());
        bytes.extend_from_slice(&seen.hash.to_be_bytes());
        self.file.seek(SeekFrom::Start(seen.commit_no % 2 * STRIDE))?;
        self.file.write_all(&seal(NAME.as_bytes(), bytes))
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

fn decode(bytes: &[u8]) -> Option<Seen> {
    let mut reader = Reader::new(unseal(NAME.as_bytes(), bytes)?);
    Some(Seen { commit_no: reader.u64_be()?, hash: reader.u64_be()? })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by it")]
mod tests {
    use super::*;

    #[test]
    fn remembers_the_last_and_survives_a_torn_slot() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(seen(dir.path()).unwrap(), None);
        let mut witness = Witness::open(dir.path()).unwrap();
        assert_eq!(seen(dir.path()).unwrap(), None);
        for commit_no in 1..=5 {
            witness.note(Seen { commit_no, hash: commit_no * 7 }).unwrap();
        }
        assert_eq!(seen(dir.path()).unwrap(), Some(Seen { commit_no: 5, hash: 35 }));
        witness.file.seek(SeekFrom::Start(STRIDE + 3)).unwrap();
        witness.file.write_all(&[0xee]).unwrap();
        assert_eq!(seen(dir.path()).unwrap(), Some(Seen { commit_no: 4, hash: 28 }));
    }
}
