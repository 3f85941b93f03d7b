//! The seal: what the files of a directory held when it was closed cleanly, block by block.
//!
//! The engine cuts its write-ahead file at the first thing it cannot read, silently, and panics over some
//! damaged files; the witness notices lost commits but names no place. A sealed directory is compared with
//! its seal before the engine sees it, so damage to one at rest is refused with file and offset.
//!
//! ```text
//! seal := magic | format u32 | count varint | file ... | xxh3 of all that u64
//! file := name | length varint | written varint | count varint | xxh3 of each block u64 ...
//! ```
//! `written` is the length without the zeros at the end (files are allocated ahead). Contents beyond
//! [`BUDGET`] are left to the engine's own checksums, which cover tables when they are read.
//!
//! Must be gone before the engine may write: a stale one would refuse what is whole. It is therefore
//! removed, durably, at each opening, and written when the engine has closed its files. How it can hurt:
//! a start reads up to [`BUDGET`] more.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use xxhash_rust::xxh3::xxh3_64;

use super::codec::{Reader, put_bytes, put_varint};

const NAME: &str = "seal";
const PARTIAL: &str = "seal.partial";
const MAGIC: &[u8; 8] = b"EVLSEAL1";
const BLOCK: usize = 4096;
/// Bytes of contents covered, the smallest files first.
const BUDGET: u64 = 256 * 1024 * 1024;
/// Not covered: the seal itself, and the lock, which is empty.
const LEFT_OUT: [&str; 3] = [NAME, PARTIAL, "lock"];

/// Why a seal does not fit.
#[derive(Debug)]
pub(super) enum Broken {
    /// Written under this number of the directory's format.
    Format(u32),
    /// What differs, and where.
    Differs(String),
    Io(io::Error),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Writes the seal when it is dropped, if it was armed: a field dropped after the engine.
#[derive(Debug)]
pub(super) struct Sealer {
    dir: PathBuf,
    format: u32,
    armed: AtomicBool,
}

impl Sealer {
    pub(super) fn new(dir: &Path, format: u32) -> Self {
        Self { dir: dir.to_owned(), format, armed: AtomicBool::new(false) }
    }

    /// Everything is in its place and synced: seal when the engine has closed its files.
    pub(super) fn arm(&self) {
        self.armed.store(true, Ordering::Release);
    }
}

impl Drop for Sealer {
    fn drop(&mut self) {
        if self.armed.load(Ordering::Acquire)
            && let Err(error) = write(&self.dir, self.format)
        {
            // Without one the directory opens like after a crash.
            tracing::warn!(%error, "directory not sealed");
        }
    }
}

/// One file as it was sealed.
#[derive(Debug)]
struct Sealed {
    name: String,
    len: u64,
    written: u64,
    blocks: Vec<u64>,
}

/// Compares a sealed directory with its seal and removes it; false: there is none.
pub(super) fn open(dir: &Path, format: u32) -> Result<bool, Broken> {
    let bytes = match fs::read(dir.join(NAME)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let unreadable = || Broken::Differs(format!("{NAME} at byte 0 (remove that file to go on without it)"));
    let body = bytes.len().checked_sub(8).and_then(|len| bytes.split_at_checked(len));
    let (body, sum) = body.ok_or_else(unreadable)?;
    if xxh3_64(body).to_be_bytes() != sum {
        return Err(unreadable());
    }
    let (found, files) = decode(body).ok_or_else(unreadable)?;
    if found != format {
        return Err(Broken::Format(found));
    }
    files.iter().try_for_each(|file| compare(dir, file))?;
    fs::remove_file(dir.join(NAME))?;
    File::open(dir)?.sync_all()?;
    Ok(true)
}

fn decode(body: &[u8]) -> Option<(u32, Vec<Sealed>)> {
    let mut reader = Reader::new(body.strip_prefix(MAGIC)?);
    let format = u32::from_be_bytes(reader.take(4)?.try_into().ok()?);
    let mut files = Vec::new();
    for _ in 0..reader.count()? {
        let (name, len, written) = (reader.text()?.to_owned(), reader.varint()?, reader.varint()?);
        let blocks = (0..reader.count()?).map(|_| reader.u64_be()).collect::<Option<_>>()?;
        files.push(Sealed { name, len, written, blocks });
    }
    reader.rest().is_empty().then_some((format, files))
}

fn compare(dir: &Path, sealed: &Sealed) -> Result<(), Broken> {
    let differs = |at: u64| Broken::Differs(format!("{} at byte {at} is not what was written", sealed.name));
    let path = dir.join(&sealed.name);
    let len = match fs::metadata(&path) {
        Ok(found) => found.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Broken::Differs(format!("{} is missing", sealed.name)));
        }
        Err(error) => return Err(error.into()),
    };
    if len != sealed.len {
        let what = if len < sealed.len { "was cut" } else { "goes on" };
        return Err(Broken::Differs(format!("{} {what} at byte {}", sealed.name, len.min(sealed.len))));
    }
    if sealed.blocks.is_empty() && sealed.written > 0 {
        return Ok(());
    }
    let mut known = sealed.blocks.iter();
    each_block(&path, |at, block| match at < sealed.written {
        true if known.next() == Some(&xxh3_64(block)) => Ok(()),
        false if is_zero(block) => Ok(()),
        _ => Err(differs(at)),
    })
}

/// Hands out a file's blocks with their offsets.
fn each_block<E: From<io::Error>>(path: &Path, mut f: impl FnMut(u64, &[u8]) -> Result<(), E>) -> Result<(), E> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 64 * BLOCK];
    let mut at = 0;
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read(&mut buffer[filled..])? {
                0 => break,
                read => filled += read,
            }
        }
        for block in buffer[..filled].chunks(BLOCK) {
            f(at, block)?;
            at += block.len() as u64;
        }
        if filled < buffer.len() {
            return Ok(());
        }
    }
}

fn is_zero(block: &[u8]) -> bool {
    block.iter().all(|byte| *byte == 0)
}

fn write(dir: &Path, format: u32) -> io::Result<()> {
    let mut files = Vec::new();
    list(dir, "", &mut files)?;
    files.sort();
    let mut body = MAGIC.to_vec();
    body.extend_from_slice(&format.to_be_bytes());
    put_varint(&mut body, files.len() as u64);
    let mut budget = BUDGET;
    for (len, name) in files {
        let path = dir.join(&name);
        // What the seal says must not be more durable than what it speaks of.
        OpenOptions::new().read(true).write(true).open(&path)?.sync_all()?;
        let (written, blocks) = if len <= budget { sums(&path)? } else { (len, Vec::new()) };
        budget = budget.saturating_sub(len);
        put_bytes(&mut body, name.as_bytes());
        put_varint(&mut body, len);
        put_varint(&mut body, written);
        put_varint(&mut body, blocks.len() as u64);
        blocks.iter().for_each(|sum| body.extend_from_slice(&sum.to_be_bytes()));
    }
    let sum = xxh3_64(&body);
    body.extend_from_slice(&sum.to_be_bytes());
    let partial = dir.join(PARTIAL);
    let mut file = File::create(&partial)?;
    file.write_all(&body)?;
    file.sync_all()?;
    fs::rename(&partial, dir.join(NAME))?;
    File::open(dir)?.sync_all()
}

/// Where the written part ends, and the sums of its blocks.
fn sums(path: &Path) -> io::Result<(u64, Vec<u64>)> {
    let (mut written, mut blocks) = (0, Vec::new());
    each_block(path, |at, block| {
        blocks.push(xxh3_64(block));
        if !is_zero(block) {
            written = at + block.len() as u64;
        }
        io::Result::Ok(())
    })?;
    blocks.truncate(usize::try_from(written.div_ceil(BLOCK as u64)).unwrap_or(usize::MAX));
    Ok((written, blocks))
}

/// Lengths and names of all files, names relative to the directory.
fn list(dir: &Path, prefix: &str, files: &mut Vec<(u64, String)>) -> io::Result<()> {
    let mut names_durable = false;
    for found in fs::read_dir(dir.join(prefix))? {
        let found = found?;
        // Names that are no text are nobody's.
        let Ok(name) = found.file_name().into_string() else { continue };
        let name = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        let about = found.metadata()?;
        if about.is_dir() {
            list(dir, &name, files)?;
        } else if about.is_file() && !LEFT_OUT.contains(&name.as_str()) {
            files.push((about.len(), name));
        }
        if !names_durable {
            File::open(dir.join(prefix))?.sync_all()?;
            names_durable = true;
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by them")]
mod tests {
    use super::*;

    fn differs(dir: &Path, what: &str) {
        let Err(Broken::Differs(said)) = open(dir, 1) else { panic!("refused: {what}") };
        assert!(said.contains(what), "{said}");
        assert!(dir.join(NAME).exists(), "a refusal removes nothing");
    }

    #[test]
    fn what_differs_is_named_and_a_seal_is_good_for_one_opening() {
        let dir = tempfile::tempdir().unwrap();
        let (small, ahead) = (dir.path().join("sub/small"), dir.path().join("ahead"));
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(&small, [7; 5000]).unwrap();
        fs::write(&ahead, [1; 10]).unwrap();
        File::options().write(true).open(&ahead).unwrap().set_len(1 << 20).unwrap();
        write(dir.path(), 1).unwrap();
        let mut bytes = fs::read(&small).unwrap();
        bytes[4500] ^= 1;
        fs::write(&small, &bytes).unwrap();
        differs(dir.path(), "sub/small at byte 4096 is not");
        bytes.truncate(3000);
        fs::write(&small, &bytes).unwrap();
        differs(dir.path(), "sub/small was cut at byte 3000");
        fs::write(&small, [7; 5000]).unwrap();
        let mut zeros = fs::read(&ahead).unwrap();
        zeros[900_000] = 1;
        fs::write(&ahead, &zeros).unwrap();
        differs(dir.path(), "ahead at byte 897024");
        zeros[900_000] = 0;
        fs::write(&ahead, &zeros).unwrap();
        assert!(matches!(open(dir.path(), 2), Err(Broken::Format(1))));
        assert!(open(dir.path(), 1).unwrap());
        assert!(!dir.path().join(NAME).exists());
        fs::write(&small, "other").unwrap();
        assert!(!open(dir.path(), 1).unwrap());
    }
}
