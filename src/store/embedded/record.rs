//! The journal record: every commit of one group commit, in one value.
//!
//! ```text
//! record := version u8 | commit_no u64 | first ordinal varint | hash of the record before u64
//!         | count of calls varint | call ... | xxh3 of all that u64
//! call   := count of commits varint | count of contents varint | content ... | commit ...
//! ```
//!
//! A call is encoded by whoever submits it, not by the committer. Contents that are one allocation (the
//! entries of a fan-out) are written once in the call and named by index, and what repeats from commit to
//! commit (time, attempt, name of a row) is a difference: a fan-out to 100 members is one record of some
//! 50 bytes a member.
//!
//! Must not know the engine. How it can hurt: what is wrong here is wrong after every restart. Decoding
//! checks the whole before it looks at a part, and never panics.

use std::sync::Arc;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::codec::{Reader, put_bytes, put_delta, put_varint, put_wide_delta};
use crate::protocol::{ConvId, UserId};
use crate::store::{Attempt, Commit, NewEntry, Position, RowKey, RowWrite, Section, TimelineId};

const VERSION: u8 = 1;
const HASH: usize = 8;
/// How far back a content is compared with earlier ones; a fan-out has one or two.
const LOOK_BACK: usize = 8;

const HAS_VALUE: u8 = 0x10;
const HAS_EXPIRY: u8 = 0x20;
const SAME_ID: u8 = 0x40;
const HAS_N: u8 = 0x80;

/// A decoded record.
#[derive(Debug)]
pub(super) struct Record {
    /// Number of the group commit; the key it stands under.
    pub(super) commit_no: u64,
    /// Ordinal of the first commit; the others follow.
    pub(super) first_ordinal: u64,
    /// Hash of the record before.
    pub(super) previous: u64,
    /// Hash of this one.
    pub(super) hash: u64,
    /// In the order in which they were applied.
    pub(super) commits: Vec<Commit>,
}

/// Puts encoded calls together. Returns the record and its hash.
pub(super) fn encode(commit_no: u64, first_ordinal: u64, previous: u64, calls: &[&[u8]]) -> (Vec<u8>, u64) {
    let body: usize = calls.iter().map(|call| call.len()).sum();
    let mut out = Vec::with_capacity(body + 64);
    out.push(VERSION);
    out.extend_from_slice(&commit_no.to_be_bytes());
    put_varint(&mut out, first_ordinal);
    out.extend_from_slice(&previous.to_be_bytes());
    put_varint(&mut out, calls.len() as u64);
    for call in calls {
        out.extend_from_slice(call);
    }
    let hash = xxh3_64(&out);
    out.extend_from_slice(&hash.to_be_bytes());
    (out, hash)
}

/// Reads a record; the error says in words what is wrong with it.
pub(super) fn decode(record: &Bytes) -> Result<Record, &'static str> {
    let len = record.len().checked_sub(HASH).ok_or("is too short")?;
    let (body, sum) = record.split_at_checked(len).ok_or("is too short")?;
    let hash = xxh3_64(body);
    if hash.to_be_bytes() != sum {
        return Err("does not match its checksum");
    }
    if body.first() != Some(&VERSION) {
        return Err("has an unknown version");
    }
    parse(record, body, hash).ok_or("cannot be decoded")
}

fn parse(record: &Bytes, body: &[u8], hash: u64) -> Option<Record> {
    let mut reader = Reader::new(body);
    reader.u8()?;
    let commit_no = reader.u64_be()?;
    let first_ordinal = reader.varint()?;
    let previous = reader.u64_be()?;
    let mut commits = Vec::new();
    for _ in 0..reader.count()? {
        parse_call(record, &mut reader, &mut commits)?;
    }
    reader.rest().is_empty().then_some(Record { commit_no, first_ordinal, previous, hash, commits })
}

/// What commits of a call take from the one before.
#[derive(Default)]
struct Before {
    at: u64,
    attempt: u128,
    id: Arc<str>,
}

/// Encodes the commits of one call.
pub(super) fn encode_call(commits: &[Commit]) -> Vec<u8> {
    let mut contents: Vec<&Bytes> = Vec::new();
    let mut body = Vec::with_capacity(64 * commits.len());
    let mut before = Before::default();
    for commit in commits {
        put_commit(&mut body, commit, &mut contents, &mut before);
    }
    let bytes: usize = contents.iter().map(|content| content.len() + 4).sum();
    let mut out = Vec::with_capacity(body.len() + bytes + 16);
    put_varint(&mut out, commits.len() as u64);
    put_varint(&mut out, contents.len() as u64);
    for content in contents {
        put_bytes(&mut out, content);
    }
    out.extend_from_slice(&body);
    out
}

fn put_commit<'a>(out: &mut Vec<u8>, commit: &'a Commit, contents: &mut Vec<&'a Bytes>, before: &mut Before) {
    let (kind, id) = match &commit.timeline {
        TimelineId::Conversation(id) => (0, id.as_str()),
        TimelineId::User(id) => (1, id.as_str()),
    };
    out.push(kind);
    put_bytes(out, id.as_bytes());
    put_varint(out, commit.expected.seq);
    put_varint(out, commit.expected.term);
    put_delta(out, commit.term, commit.expected.term);
    put_wide_delta(out, commit.attempt.0, before.attempt);
    before.attempt = commit.attempt.0;
    put_varint(out, commit.floor);
    put_varint(out, commit.fanned);
    put_varint(out, commit.entries.len() as u64);
    for entry in &commit.entries {
        put_delta(out, entry.at, before.at);
        before.at = entry.at;
        put_varint(out, content_index(contents, &entry.data));
    }
    put_varint(out, commit.rewrite.len() as u64);
    for (seq, data) in &commit.rewrite {
        put_varint(out, *seq);
        put_varint(out, content_index(contents, data));
    }
    put_varint(out, commit.rows.len() as u64);
    for row in &commit.rows {
        put_row(out, row, before);
    }
}

/// The place of a content in the call's list; one allocation has one place.
fn content_index<'a>(contents: &mut Vec<&'a Bytes>, data: &'a Bytes) -> u64 {
    let recent = contents.iter().enumerate().rev().take(LOOK_BACK);
    for (index, known) in recent {
        if known.as_ptr() == data.as_ptr() && known.len() == data.len() {
            return index as u64;
        }
    }
    contents.push(data);
    contents.len() as u64 - 1
}

fn put_row(out: &mut Vec<u8>, row: &RowWrite, before: &mut Before) {
    let same = row.key.id == before.id;
    let mut tag = row.key.section as u8;
    for (flag, set) in [
        (HAS_VALUE, row.value.is_some()),
        (HAS_EXPIRY, row.expires_at.is_some()),
        (SAME_ID, same),
        (HAS_N, row.key.n != 0),
    ] {
        tag |= if set { flag } else { 0 };
    }
    out.push(tag);
    if row.key.n != 0 {
        put_varint(out, row.key.n);
    }
    if !same {
        put_bytes(out, row.key.id.as_bytes());
        before.id = row.key.id.clone();
    }
    if let Some(value) = &row.value {
        put_bytes(out, value);
    }
    if let Some(expires_at) = row.expires_at {
        put_delta(out, expires_at, before.at);
    }
}

fn parse_call(record: &Bytes, reader: &mut Reader<'_>, commits: &mut Vec<Commit>) -> Option<()> {
    let count = reader.count()?;
    let mut contents = Vec::new();
    for _ in 0..reader.count()? {
        contents.push(record.slice_ref(reader.bytes()?));
    }
    let mut before = Before::default();
    for _ in 0..count {
        commits.push(parse_commit(record, reader, &contents, &mut before)?);
    }
    Some(())
}

fn parse_commit(record: &Bytes, reader: &mut Reader<'_>, contents: &[Bytes], before: &mut Before) -> Option<Commit> {
    let content = |reader: &mut Reader<'_>| contents.get(usize::try_from(reader.varint()?).ok()?).cloned();
    let timeline = match reader.u8()? {
        0 => TimelineId::Conversation(ConvId::parse(reader.text()?).ok()?),
        1 => TimelineId::User(UserId::parse(reader.text()?).ok()?),
        _ => return None,
    };
    let expected = Position { seq: reader.varint()?, term: reader.varint()? };
    let term = reader.delta(expected.term)?;
    before.attempt = reader.wide_delta(before.attempt)?;
    let (floor, fanned) = (reader.varint()?, reader.varint()?);
    let mut entries = Vec::new();
    for _ in 0..reader.count()? {
        before.at = reader.delta(before.at)?;
        entries.push(NewEntry { at: before.at, data: content(reader)? });
    }
    let mut rewrite = Vec::new();
    for _ in 0..reader.count()? {
        rewrite.push((reader.varint()?, content(reader)?));
    }
    let mut rows = Vec::new();
    for _ in 0..reader.count()? {
        rows.push(parse_row(record, reader, before)?);
    }
    let attempt = Attempt(before.attempt);
    Some(Commit { timeline, expected, term, attempt, entries, rewrite, rows, floor, fanned })
}

fn parse_row(record: &Bytes, reader: &mut Reader<'_>, before: &mut Before) -> Option<RowWrite> {
    let tag = reader.u8()?;
    let section = *Section::ALL.iter().find(|section| **section as u8 == tag & 0x0f)?;
    let n = if tag & HAS_N != 0 { reader.varint()? } else { 0 };
    if tag & SAME_ID == 0 {
        before.id = Arc::from(reader.text()?);
    }
    let value = if tag & HAS_VALUE != 0 { Some(record.slice_ref(reader.bytes()?)) } else { None };
    let expires_at = if tag & HAS_EXPIRY != 0 { Some(reader.delta(before.at)?) } else { None };
    Some(RowWrite { key: RowKey { section, n, id: before.id.clone() }, value, expires_at })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by it")]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    fn timeline() -> impl Strategy<Value = TimelineId> {
        let conversation = "[a-zA-Z0-9._@:-]{1,20}".prop_filter_map("an id", |name| ConvId::parse(&name).ok());
        let user = "[a-zA-Z0-9._@-]{1,20}".prop_filter_map("an id", |name| UserId::parse(&name).ok());
        prop_oneof![conversation.prop_map(TimelineId::Conversation), user.prop_map(TimelineId::User)]
    }

    fn content() -> impl Strategy<Value = Bytes> {
        vec(any::<u8>(), 0..40).prop_map(Bytes::from)
    }

    fn row() -> impl Strategy<Value = RowWrite> {
        let key = (0..Section::ALL.len(), any::<u64>(), "[ -~\n]{0,3}");
        (key, option::of(content()), option::of(any::<u64>())).prop_map(|((section, n, id), value, expires_at)| {
            let key = RowKey { section: Section::ALL[section], n: n >> (n % 64), id: Arc::from(id) };
            RowWrite { key, value, expires_at }
        })
    }

    prop_compose! {
        fn commit()(
            timeline in timeline(),
            numbers: [u64; 5],
            attempt: u128,
            entries in vec((any::<u64>(), content()), 0..4),
            rewrite in vec((any::<u64>(), content()), 0..3),
            rows in vec(row(), 0..5),
        ) -> Commit {
            let [seq, before, term, floor, fanned] = numbers;
            let entries = entries.into_iter().map(|(at, data)| NewEntry { at, data }).collect();
            let expected = Position { seq, term: before };
            Commit { timeline, expected, term, attempt: Attempt(attempt), entries, rewrite, rows, floor, fanned }
        }
    }

    /// Commits have no equality of their own: nobody but this asks.
    fn show(commits: &[Commit]) -> Vec<String> {
        commits.iter().map(|commit| format!("{commit:?}")).collect()
    }

    fn record(calls: &[Vec<Commit>]) -> Bytes {
        let calls: Vec<Vec<u8>> = calls.iter().map(|call| encode_call(call)).collect();
        let calls: Vec<&[u8]> = calls.iter().map(|call| &**call).collect();
        Bytes::from(encode(9, 77, 0xabcd, &calls).0)
    }

    proptest! {
        #[test]
        fn commits_come_back(calls in vec(vec(commit(), 1..5), 0..4), shared in content()) {
            let mut calls = calls;
            for commit in calls.iter_mut().flatten() {
                commit.entries.push(NewEntry { at: 5, data: shared.clone() });
            }
            let back = decode(&record(&calls)).unwrap();
            prop_assert_eq!((back.commit_no, back.first_ordinal, back.previous), (9, 77, 0xabcd));
            prop_assert_eq!(show(&back.commits), show(&calls.concat()));
        }

        #[test]
        fn damaged_bytes_are_refused(calls in vec(vec(commit(), 1..3), 1..3), at: usize, bit in 0u8..8, cut: usize) {
            let whole = record(&calls);
            let mut damaged = whole.to_vec();
            let at = at % damaged.len();
            damaged[at] ^= 1 << bit;
            prop_assert!(decode(&Bytes::from(damaged)).is_err());
            prop_assert!(decode(&whole.slice(..cut % whole.len())).is_err());
        }

        /// As if the checksum happened to fit.
        #[test]
        fn nonsense_does_not_panic(
            calls in vec(vec(commit(), 1..3), 1..3),
            changes in vec((any::<usize>(), any::<u8>()), 1..9),
        ) {
            let mut body = record(&calls).to_vec();
            for (at, byte) in changes {
                let at = at % body.len();
                body[at] = byte;
            }
            let body = Bytes::from(body);
            parse(&body, &body[..body.len() - HASH], 0);
        }
    }

    #[test]
    fn a_fan_out_is_written_once() {
        let content = Bytes::from(vec![b'x'; 1000]);
        let member = |no: u64| Commit {
            timeline: TimelineId::User(UserId::parse(&format!("user-{no}")).unwrap()),
            expected: Position { seq: no, term: 0 },
            term: 0,
            attempt: Attempt(1 << 64 | u128::from(no)),
            entries: vec![NewEntry { at: 1_700_000_000_000, data: content.clone() }],
            rewrite: Vec::new(),
            rows: Vec::new(),
            floor: 0,
            fanned: 0,
        };
        let call: Vec<Commit> = (0..100).map(member).collect();
        let len = encode_call(&call).len();
        assert!(len < 1000 + 100 * 24, "{len} bytes");
    }
}
