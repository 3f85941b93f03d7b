//! What stands in the keyspaces: heads, entries, segments, rows, the marker. Every value ends with a
//! checksum that covers its key.
//!
//! Must not do: decide anything. How it can hurt: like `codec`; a change is a new format.

use bytes::Bytes;

use super::codec::{Reader, put_bytes, put_delta, put_varint, put_wide_delta, seal, unseal};
use crate::store::{Attempt, Entry, Head, Position};

/// What `heads` holds of a timeline.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct StoredHead {
    /// The head.
    pub(super) head: Head,
    /// Ordinal of the last commit in it; replay skips those up to here.
    pub(super) as_of: u64,
    /// Entries up to here stand in `entries` or `segments`, those above in this value.
    pub(super) spilled: u64,
    /// Entries up to here are removed.
    pub(super) trimmed: u64,
    /// The entries above `spilled` (and above the floor).
    pub(super) entries: Vec<Entry>,
}

/// Up to where the journal is no longer needed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Marker {
    /// Last group commit the checkpoint covers.
    pub(super) commit_no: u64,
    /// Hash of its record.
    pub(super) hash: u64,
    /// Ordinal of the first commit after it.
    pub(super) next_ordinal: u64,
}

pub(super) fn encode_head(key: &[u8], stored: &StoredHead) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    let Head { position, floor, at, fanned } = stored.head;
    for number in [position.seq, position.term, floor, at, fanned, stored.as_of, stored.spilled, stored.trimmed] {
        put_varint(&mut out, number);
    }
    put_entries(&mut out, &stored.entries);
    seal(key, out)
}

pub(super) fn decode_head(key: &[u8], value: &[u8]) -> Option<StoredHead> {
    let mut reader = Reader::new(unseal(key, value)?);
    let position = Position { seq: reader.varint()?, term: reader.varint()? };
    let head = Head { position, floor: reader.varint()?, at: reader.varint()?, fanned: reader.varint()? };
    let (as_of, spilled, trimmed) = (reader.varint()?, reader.varint()?, reader.varint()?);
    let entries = entries(&mut reader)?;
    Some(StoredHead { head, as_of, spilled, trimmed, entries })
}

pub(super) fn encode_entry(key: &[u8], entry: &Entry) -> Vec<u8> {
    let mut out = Vec::with_capacity(entry.data.len() + 40);
    put_varint(&mut out, entry.at);
    put_wide_delta(&mut out, entry.attempt.0, 0);
    out.extend_from_slice(&entry.data);
    seal(key, out)
}

pub(super) fn decode_entry(key: &[u8], seq: u64, value: &[u8]) -> Option<Entry> {
    let mut reader = Reader::new(unseal(key, value)?);
    let at = reader.varint()?;
    let attempt = Attempt(reader.wide_delta(0)?);
    Some(Entry { seq, at, attempt, data: Bytes::copy_from_slice(reader.rest()) })
}

pub(super) fn encode_segment(key: &[u8], entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 * entries.len());
    put_entries(&mut out, entries);
    seal(key, out)
}

pub(super) fn decode_segment(key: &[u8], value: &[u8]) -> Option<Vec<Entry>> {
    entries(&mut Reader::new(unseal(key, value)?))
}

/// Consecutive entries: number of the first, then differences.
fn put_entries(out: &mut Vec<u8>, entries: &[Entry]) {
    put_varint(out, entries.len() as u64);
    let Some(first) = entries.first() else { return };
    put_varint(out, first.seq);
    let (mut at, mut attempt) = (0, 0);
    for entry in entries {
        put_delta(out, entry.at, at);
        put_wide_delta(out, entry.attempt.0, attempt);
        put_bytes(out, &entry.data);
        (at, attempt) = (entry.at, entry.attempt.0);
    }
}

fn entries(reader: &mut Reader<'_>) -> Option<Vec<Entry>> {
    let count = reader.count()?;
    let mut entries = Vec::with_capacity(count.min(1024));
    if count == 0 {
        return Some(entries);
    }
    let first = reader.varint()?;
    let (mut at, mut attempt) = (0, 0);
    for index in 0..count {
        at = reader.delta(at)?;
        attempt = reader.wide_delta(attempt)?;
        let data = Bytes::copy_from_slice(reader.bytes()?);
        let seq = first.checked_add(index as u64)?;
        entries.push(Entry { seq, at, attempt: Attempt(attempt), data });
    }
    Some(entries)
}

pub(super) fn encode_row(key: &[u8], value: &[u8], expires_at: Option<u64>) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len() + 16);
    put_varint(&mut out, expires_at.map_or(0, |at| at.saturating_add(1)));
    out.extend_from_slice(value);
    seal(key, out)
}

pub(super) fn decode_row(key: &[u8], value: &[u8]) -> Option<Bytes> {
    let mut reader = Reader::new(unseal(key, value)?);
    reader.varint()?;
    Some(Bytes::copy_from_slice(reader.rest()))
}

/// When a row expires, if it does and the value is whole.
pub(super) fn row_expiry(key: &[u8], value: &[u8]) -> Option<u64> {
    Reader::new(unseal(key, value)?).varint()?.checked_sub(1)
}

pub(super) fn encode_marker(key: &[u8], marker: Marker) -> Vec<u8> {
    let mut out = Vec::with_capacity(32);
    put_varint(&mut out, marker.commit_no);
    out.extend_from_slice(&marker.hash.to_be_bytes());
    put_varint(&mut out, marker.next_ordinal);
    seal(key, out)
}

pub(super) fn decode_marker(key: &[u8], value: &[u8]) -> Option<Marker> {
    let mut reader = Reader::new(unseal(key, value)?);
    Some(Marker { commit_no: reader.varint()?, hash: reader.u64_be()?, next_ordinal: reader.varint()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(first: u64, parts: Vec<(u64, u128, Vec<u8>)>) -> Vec<Entry> {
        let entry = |(index, (at, attempt, data)): (usize, (u64, u128, Vec<u8>))| Entry {
            seq: first + index as u64,
            at,
            attempt: Attempt(attempt),
            data: Bytes::from(data),
        };
        parts.into_iter().enumerate().map(entry).collect()
    }

    proptest! {
        #[test]
        fn values_come_back(
            numbers: [u64; 8],
            first in 0..u64::MAX / 2,
            parts: Vec<(u64, u128, Vec<u8>)>,
            value: Vec<u8>,
            expires_at in proptest::option::of(0..u64::MAX - 1),
        ) {
            let entries = run(first, parts);
            let [seq, term, floor, at, fanned, as_of, spilled, trimmed] = numbers;
            let head = Head { position: Position { seq, term }, floor, at, fanned };
            let stored = StoredHead { head, as_of, spilled, trimmed, entries: entries.clone() };
            prop_assert_eq!(decode_head(b"k", &encode_head(b"k", &stored)), Some(stored));
            prop_assert_eq!(decode_segment(b"k", &encode_segment(b"k", &entries)), Some(entries.clone()));
            for entry in &entries {
                let back = decode_entry(b"k", entry.seq, &encode_entry(b"k", entry));
                prop_assert_eq!(back.as_ref(), Some(entry));
            }
            let row = encode_row(b"k", &value, expires_at);
            prop_assert_eq!(decode_row(b"k", &row), Some(Bytes::from(value)));
            prop_assert_eq!(row_expiry(b"k", &row), expires_at);
            let marker = Marker { commit_no: seq, hash: term, next_ordinal: floor };
            prop_assert_eq!(decode_marker(b"k", &encode_marker(b"k", marker)), Some(marker));
        }
    }
}
