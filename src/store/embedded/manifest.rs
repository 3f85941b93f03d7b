//! The engine's lists of its tables, compared with their checksums before the engine believes them.
//!
//! ```text
//! keyspaces/N/current := number u64 | xxh3 of the list u128 | kind of checksum u8 = 0        (little endian)
//! keyspaces/N/v<number>  the list
//! ```
//! The engine writes the checksum and never looks at it: a damaged list hides tables, or makes older values the
//! newer ones. A list is synced before `current` names it, so a crash leaves nothing that this refuses.
//!
//! Of each table the engine reads a directory at its end, and makes room for as many entries as it says before it
//! compares its checksum: one that says more than the file can hold is refused here.
//!
//! Must write nothing. How it can hurt: an engine of another layout; its version is pinned.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use xxhash_rust::xxh3::xxh3_128;

const CURRENT: &str = "current";

/// The first damage found, by file and place; `None`: every list is what was written.
pub(super) fn damage(dir: &Path) -> io::Result<Option<String>> {
    let keyspaces = match fs::read_dir(dir.join("keyspaces")) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    for keyspace in keyspaces {
        let keyspace = keyspace?.file_name();
        let name = |file: &str| format!("keyspaces/{}/{file}", keyspace.to_string_lossy());
        // One whose creation was interrupted has none yet; nothing was ever put into it.
        let Some(current) = read(&dir.join(name(CURRENT)))? else { continue };
        let Some((number, sum)) = decode(&current) else {
            return Ok(Some(format!("{} at byte 0 is not what was written", name(CURRENT))));
        };
        let list = name(&format!("v{number}"));
        match read(&dir.join(&list))? {
            None => return Ok(Some(format!("{list} is missing, or {} damaged", name(CURRENT)))),
            Some(bytes) if xxh3_128(&bytes) != sum => {
                return Ok(Some(format!("{list} at byte 0 has another checksum than {} says", name(CURRENT))));
            }
            Some(_) => {}
        }
        let tables = match fs::read_dir(dir.join(name("tables"))) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for table in tables {
            let table = table?;
            if let Some(at) = impossible_directory(&table.path())? {
                let file = name(&format!("tables/{}", table.file_name().to_string_lossy()));
                return Ok(Some(format!("{file} at byte {at} tells of more parts than it can hold")));
            }
        }
    }
    Ok(None)
}

/// Where a table's directory begins, if it says that it has more entries than bytes. What does not begin as the
/// engine expects is its to judge, before it believes any number: a table that a crash has left unfinished ends
/// anywhere in its data.
fn impossible_directory(path: &Path) -> io::Result<Option<u64>> {
    // Magic 4, version 1, kind of checksum 1, checksum 16, place of the directory 8, its length 8.
    const TRAILER: usize = 38;
    const TRAILER_MAGIC: &[u8] = b"SFA!";
    const PLACE: usize = 22;
    const MAGIC: &[u8] = b"TOC!";
    // An entry: place 8, length 8, length of its name 2.
    const ENTRY: u64 = 18;
    let mut file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    let Some(trailer_at) = length.checked_sub(TRAILER as u64) else { return Ok(None) };
    let mut trailer = [0; TRAILER];
    file.seek(SeekFrom::Start(trailer_at))?;
    file.read_exact(&mut trailer)?;
    let place = trailer.get(PLACE..).and_then(|rest| rest.first_chunk());
    let Some(place) = place.filter(|_| trailer.starts_with(TRAILER_MAGIC)) else { return Ok(None) };
    let at = u64::from_le_bytes(*place);
    // Its magic, then how many entries follow.
    let mut begin = [0; 8];
    if at.checked_add(begin.len() as u64).is_none_or(|end| end > length) {
        return Ok(None);
    }
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut begin)?;
    let Some(count) = begin.strip_prefix(MAGIC).and_then(|count| count.first_chunk()) else { return Ok(None) };
    Ok((u64::from(u32::from_le_bytes(*count)) > length / ENTRY).then_some(at))
}

/// A file's contents, if there is one.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

fn decode(current: &[u8]) -> Option<(u64, u128)> {
    let (number, rest) = current.split_first_chunk()?;
    let (sum, kind) = rest.split_first_chunk()?;
    (kind == [0]).then_some((u64::from_le_bytes(*number), u128::from_le_bytes(*sum)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by it")]
mod tests {
    use super::*;

    #[test]
    fn a_list_must_have_the_checksum_that_was_noted_for_it() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(damage(dir.path()).unwrap(), None, "no engine yet");
        let keyspace = dir.path().join("keyspaces/3");
        fs::create_dir_all(&keyspace).unwrap();
        assert_eq!(damage(dir.path()).unwrap(), None, "interrupted while it was made");
        let list = b"a list of tables";
        let current = [&7_u64.to_le_bytes()[..], &xxh3_128(list).to_le_bytes(), &[0]].concat();
        fs::write(keyspace.join(CURRENT), &current).unwrap();
        assert!(damage(dir.path()).unwrap().unwrap().contains("keyspaces/3/v7 is missing"));
        fs::write(keyspace.join("v7"), list).unwrap();
        assert_eq!(damage(dir.path()).unwrap(), None);
        let tables = keyspace.join("tables");
        fs::create_dir_all(&tables).unwrap();
        let table = |count: u32| {
            let directory = [&b"data"[..], b"TOC!", &count.to_le_bytes(), &[0; 40]].concat();
            let trailer = [&b"SFA!\x01\x00"[..], &[0; 16], &4_u64.to_le_bytes(), &48_u64.to_le_bytes()].concat();
            [directory, trailer].concat()
        };
        // Unfinished: what stands where the trailer would, or the directory, is any data.
        let end = table(u32::MAX).len() - 38;
        let (mut no_trailer, mut no_directory) = (table(u32::MAX), table(u32::MAX));
        no_trailer[end..end + 4].copy_from_slice(b"data");
        no_directory[4..8].copy_from_slice(b"data");
        for whole in [table(2), no_trailer, no_directory, vec![0; 100], vec![0; 3], Vec::new()] {
            fs::write(tables.join("1"), whole).unwrap();
            assert_eq!(damage(dir.path()).unwrap(), None);
        }
        fs::write(tables.join("1"), table(u32::MAX)).unwrap();
        assert!(damage(dir.path()).unwrap().unwrap().starts_with("keyspaces/3/tables/1 at byte 4"));
        fs::write(tables.join("1"), table(2)).unwrap();
        fs::write(keyspace.join("v7"), b"a list of tablet").unwrap();
        assert!(damage(dir.path()).unwrap().unwrap().starts_with("keyspaces/3/v7 at byte 0"));
        fs::write(keyspace.join(CURRENT), &current[..20]).unwrap();
        assert!(damage(dir.path()).unwrap().unwrap().starts_with("keyspaces/3/current at byte 0"));
    }
}
