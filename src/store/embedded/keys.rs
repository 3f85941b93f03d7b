//! Where things stand: the keyspaces and their keys. This file is the schema of a directory.
//!
//! | keyspace | key | value |
//! |---|---|---|
//! | `meta` | a word | format, epoch, checkpoint marker |
//! | `journal` | commit_no | one group commit ([`super::record`]) |
//! | `heads` | timeline | head, and of a user the newest entries |
//! | `entries` | conversation 00 seq | one entry: a recalled body is overwritten in its place |
//! | `segments` | user 00 last seq | consecutive entries of a sync timeline |
//! | `rows` | timeline 00 section n id | a side row |
//! | `expiring` | the same, for `Dedupe` | a side row; compaction drops expired ones |
//! | `unfinished` | conversation | nothing: its fan-out was below its head |
//! | `marks` | conversation 00 node burst from | nothing |
//!
//! A timeline is a letter and its name; names hold no byte below 0x20, so 00 ends them and no name's keys
//! lie within another's. Numbers are big endian: keys stand in the order of what they name.
//!
//! Must not do: anything but keys. How it can hurt: two things under one key.

use std::sync::Arc;

use super::codec::Reader;
use crate::protocol::{ConvId, UserId};
use crate::store::{Mark, RowKey, Section, TimelineId};

/// Names of the keyspaces, in the order in which a backup holds them.
pub(super) const KEYSPACES: [&str; 9] =
    ["meta", "journal", "heads", "entries", "segments", "rows", "expiring", "unfinished", "marks"];

/// `meta`: number of the format, 4 bytes.
pub(super) const META_FORMAT: &[u8] = b"format";
/// `meta`: name of this incarnation of the data, text.
pub(super) const META_EPOCH: &[u8] = b"epoch";
/// `meta`: what the checkpoint covers.
pub(super) const META_MARKER: &[u8] = b"checkpoint";
/// Stands there only while a write-ahead file is filled up; says nothing.
pub(super) const META_FILLER: &[u8] = b"filler";
/// A key no keyspace ever has.
pub(super) const NOBODYS: &[u8] = b"\xff\xffnobody";

/// Key of a timeline in `heads`.
pub(super) fn timeline(id: &TimelineId) -> Vec<u8> {
    let (letter, name) = match id {
        TimelineId::Conversation(id) => (b'c', id.as_str()),
        TimelineId::User(id) => (b'u', id.as_str()),
    };
    let mut key = Vec::with_capacity(name.len() + 48);
    key.push(letter);
    key.extend_from_slice(name.as_bytes());
    key
}

/// The timeline of a key in `heads`.
pub(super) fn parse_timeline(key: &[u8]) -> Option<TimelineId> {
    let (letter, name) = key.split_first()?;
    let name = std::str::from_utf8(name).ok()?;
    match letter {
        b'c' => Some(TimelineId::Conversation(ConvId::parse(name).ok()?)),
        b'u' => Some(TimelineId::User(UserId::parse(name).ok()?)),
        _ => None,
    }
}

/// Key of an entry in `entries`, or of the segment that ends with it in `segments`.
pub(super) fn entry(id: &TimelineId, seq: u64) -> Vec<u8> {
    let mut key = timeline(id);
    key.push(0);
    key.extend_from_slice(&seq.to_be_bytes());
    key
}

/// The number at the end of a key of `entries` or `segments`.
pub(super) fn parse_seq(key: &[u8]) -> Option<u64> {
    let at = key.len().checked_sub(8)?;
    Reader::new(key.get(at..)?).u64_be()
}

/// Key of a side row.
pub(super) fn row(id: &TimelineId, key: &RowKey) -> Vec<u8> {
    let mut out = section(id, key.section);
    out.extend_from_slice(&key.n.to_be_bytes());
    out.extend_from_slice(key.id.as_bytes());
    out
}

/// What the keys of a section of a timeline begin with.
pub(super) fn section(id: &TimelineId, section: Section) -> Vec<u8> {
    let mut out = timeline(id);
    out.push(0);
    out.push(section as u8);
    out
}

/// The row of a key that begins with `prefix`, a [`section`].
pub(super) fn parse_row(prefix: &[u8], section: Section, key: &[u8]) -> Option<RowKey> {
    let mut reader = Reader::new(key.strip_prefix(prefix)?);
    let n = reader.u64_be()?;
    let id = Arc::from(std::str::from_utf8(reader.rest()).ok()?);
    Some(RowKey { section, n, id })
}

/// Key of a mark.
pub(super) fn mark(mark: &Mark) -> Vec<u8> {
    let mut key = mark.conversation.as_bytes().to_vec();
    key.push(0);
    for number in [mark.node, mark.burst, mark.from] {
        key.extend_from_slice(&number.to_be_bytes());
    }
    key
}

/// The mark of a key in `marks`.
pub(super) fn parse_mark(key: &[u8]) -> Option<Mark> {
    let end = key.iter().position(|byte| *byte == 0)?;
    let mut reader = Reader::new(key);
    let name = std::str::from_utf8(reader.take(end)?).ok()?;
    reader.u8()?;
    let (node, burst, from) = (reader.u64_be()?, reader.u64_be()?, reader.u64_be()?);
    reader.rest().is_empty().then_some(Mark { conversation: ConvId::parse(name).ok()?, node, burst, from })
}

/// For messages: a key with what is not printable escaped.
pub(super) fn show(key: &[u8]) -> String {
    key.escape_ascii().to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by it")]
mod tests {
    use super::*;

    fn conv(name: &str) -> TimelineId {
        TimelineId::Conversation(ConvId::parse(name).unwrap())
    }

    #[test]
    fn keys_stand_in_the_order_of_what_they_name_and_within_their_timeline() {
        let (short, long) = (conv("a"), conv("a-b"));
        assert!(entry(&short, u64::MAX) < entry(&long, 0));
        assert!(entry(&short, 255) < entry(&short, 256));
        let of = |section, n, id: &str| RowKey { section, n, id: Arc::from(id) };
        let keys = [
            of(Section::State, 0, ""),
            of(Section::Member, 0, "b"),
            of(Section::Member, 0, "ba"),
            of(Section::Change, 1, "z"),
            of(Section::Change, 2, ""),
        ];
        let encoded: Vec<_> = keys.iter().map(|key| row(&short, key)).collect();
        assert!(encoded.is_sorted());
        assert!(encoded.iter().all(|key| *key < row(&long, &keys[0])));
    }

    #[test]
    fn keys_come_back() {
        let id = conv("d:a@x:b");
        assert_eq!(parse_timeline(&timeline(&id)), Some(id.clone()));
        assert_eq!(parse_seq(&entry(&id, 77)), Some(77));
        let key = RowKey { section: Section::Dedupe, n: 3, id: Arc::from("bob\nkey 1") };
        let prefix = section(&id, Section::Dedupe);
        assert_eq!(parse_row(&prefix, Section::Dedupe, &row(&id, &key)), Some(key));
        assert_eq!(parse_timeline(b"x"), None);
        let known = Mark { conversation: ConvId::parse("g:1").unwrap(), node: 0, burst: 256, from: u64::MAX };
        assert_eq!(parse_mark(&mark(&known)), Some(known));
    }
}
