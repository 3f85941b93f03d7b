//! A torn end of the engine's write-ahead file, cut off before the engine reads it.
//!
//! Power lost between write and fsync leaves any of the sectors of the last batches. The engine cuts off
//! what it cannot parse, whatever it was, but refuses the file where only a value lacks a sector, for its
//! checksum, and takes a damaged length for a length. Such a batch was acknowledged to nobody, unless it
//! is damage of another kind: what the witness has seen is never cut.
//!
//! ```text
//! file  := batch ... zeros
//! batch := 1 items u32 seqno u64 | item ... | 3 xxh3 of the items u64 trailer      (numbers little endian)
//! item  := 2 kind u8 compression u8 keyspace u64 key_len u16 len u32 stored_len u32 key value
//! ```
//!
//! Must write nothing unless it cuts. How it can hurt: an engine of another layout; its version is pinned.
//! A start after a crash reads one file more, 64 MiB and a batch at most.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use super::codec::Reader;

const TRAILER: &[u8] = b"FJL\x03";
const FIRST_TAG: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;

/// Why nothing was cut.
#[derive(Debug)]
pub(super) enum Refused {
    /// Something acknowledged would have gone: what and where.
    Damaged(String),
    /// The file ends before the last journal record that was acknowledged; this is the first one missing.
    Lost(u64),
    Io(io::Error),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Cuts the newest write-ahead file of a directory before its first batch that is not whole, unless that or
/// something behind it was durable. `seen` is the last journal record known to have been.
pub(super) fn cut(dir: &Path, seen: u64) -> Result<(), Refused> {
    let Some(path) = newest(dir)? else { return Ok(()) };
    let bytes = fs::read(&path)?;
    let (at, end) = whole_up_to(&bytes);
    if end == End::Clean {
        return Ok(());
    }
    let (good, torn) = bytes.split_at(at);
    let missing = records(good).last().map(|last| last + 1).filter(|missing| *missing <= seen);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match (end, missing) {
        (End::Unreadable, Some(missing)) => return Err(Refused::Lost(missing)),
        (_, None) if !was_durable(torn, seen) => {}
        _ => return Err(Refused::Damaged(format!("{name} at byte {at}: checksum of a batch that was acknowledged"))),
    }
    let file = OpenOptions::new().write(true).open(&path)?;
    file.set_len(at as u64)?;
    file.sync_all()?;
    tracing::warn!(file = %name, at, "torn end of the journal cut off: it was not acknowledged");
    Ok(())
}

/// Whether a record behind the wrong batch says that it was synced: one that was seen, or a second one,
/// since a record is written when the one before is durable.
fn was_durable(torn: &[u8], seen: u64) -> bool {
    let mut behind = records(torn);
    behind.next().is_some_and(|first| first <= seen) || behind.next().is_some()
}

/// The file being written to: the one with the highest number.
fn newest(dir: &Path) -> io::Result<Option<PathBuf>> {
    let mut newest: Option<(u64, PathBuf)> = None;
    for found in fs::read_dir(dir)? {
        let path = found?.path();
        let number = path.extension().filter(|extension| *extension == "jnl").and(path.file_stem());
        let number = number.and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        if let Some(number) = number
            && newest.as_ref().is_none_or(|(highest, _)| *highest < number)
        {
            newest = Some((number, path));
        }
    }
    Ok(newest.map(|(_, path)| path))
}

/// One batch: its items as written, and whether their checksum is right.
struct Batch<'a> {
    items: &'a [u8],
    is_whole: bool,
}

/// Takes a batch; `None` where the engine stops reading, too.
fn batch<'a>(reader: &mut Reader<'a>) -> Option<Batch<'a>> {
    if reader.take(1)? != [FIRST_TAG] {
        return None;
    }
    reader.take(12)?;
    let body = reader.rest();
    loop {
        let here = body.len() - reader.rest().len();
        match reader.take(1)? {
            [ITEM] => {
                item(reader)?;
            }
            [END] => {
                let sum = u64::from_le_bytes(reader.take(8)?.try_into().ok()?);
                let items = body.get(..here)?;
                return (reader.take(TRAILER.len())? == TRAILER)
                    .then(|| Batch { items, is_whole: xxh3_64(items) == sum });
            }
            _ => return None,
        }
    }
}

/// Takes what follows the tag of an item; gives its key.
fn item<'a>(reader: &mut Reader<'a>) -> Option<&'a [u8]> {
    reader.take(10)?;
    let key = u16::from_le_bytes(reader.take(2)?.try_into().ok()?);
    reader.take(4)?;
    let value = u32::from_le_bytes(reader.take(4)?.try_into().ok()?);
    let key = reader.take(key.into())?;
    reader.take(value as usize)?;
    Some(key)
}

/// What stands behind the whole batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Nothing, or the zeros of a file allocated ahead.
    Clean,
    /// A batch with another checksum than it says.
    WrongSum,
    /// No batch.
    Unreadable,
}

/// The length of the whole batches at the beginning, and what follows.
fn whole_up_to(bytes: &[u8]) -> (usize, End) {
    let mut reader = Reader::new(bytes);
    loop {
        let rest = reader.rest();
        let at = bytes.len() - rest.len();
        match batch(&mut reader) {
            Some(batch) if batch.is_whole => {}
            Some(_) => return (at, End::WrongSum),
            None if is_zeros(rest) => return (at, End::Clean),
            None => return (at, End::Unreadable),
        }
    }
}

fn is_zeros(bytes: &[u8]) -> bool {
    const ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROS.len()).all(|chunk| ZEROS.starts_with(chunk))
}

/// Numbers of the journal records in whole batches. Only their keys are such that eight bytes are a number
/// of commits: others begin with a letter.
fn records(bytes: &[u8]) -> impl Iterator<Item = u64> {
    let mut reader = Reader::new(bytes);
    let whole = std::iter::from_fn(move || batch(&mut reader)).filter(|batch| batch.is_whole);
    let keys = whole.flat_map(|batch| {
        let mut items = Reader::new(batch.items);
        std::iter::from_fn(move || items.take(1).and_then(|_| item(&mut items)))
    });
    keys.filter_map(|key| <[u8; 8]>::try_from(key).ok().map(u64::from_be_bytes)).filter(|number| *number < 1 << 56)
}
