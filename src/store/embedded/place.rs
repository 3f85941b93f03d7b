//! Where the parts of a frozen timeline go. Conversations: each entry under its own key, so that a recalled
//! body is overwritten in its place. Users: the newest few entries stay with the head (one write per user
//! and checkpoint, however few entries came), older ones go in segments (one write for many).
//!
//! A batch may be cut after rows and entries of conversations: they are absolute, writing them again
//! changes nothing. A user's segments and head must be in one batch, or segments would overlap.
//!
//! Must not read the overlay. How it can hurt: entries spilled but not written.

use super::checkpoint::Writer;
use super::disk::{damaged, failed, pair};
use super::keys;
use super::tail::Frozen;
use super::values;
use crate::store::{Entry, Error, Result, Section, TimelineId};

/// Entries a segment holds at most.
const SEGMENT: usize = 64;
/// A sync timeline is trimmed when the floor has moved so far.
const TRIM_STEP: u64 = 64;

/// Writes everything the disk lacks of a timeline.
pub(super) fn timeline(writer: &mut Writer<'_>, id: TimelineId, mut frozen: Frozen) -> std::result::Result<(), String> {
    rows(writer, &id, &frozen)?;
    match &id {
        TimelineId::Conversation(_) => {
            entries(writer, &id, &frozen)?;
            trim_entries(writer, &id, &mut frozen)?;
            index(writer, &id, &frozen);
        }
        TimelineId::User(_) => {
            segments(writer, &id, &frozen).or_else(report)?;
            trim_segments(writer, &id, &mut frozen).or_else(report)?;
        }
    }
    let key = keys::timeline(&id);
    let head = values::encode_head(&key, &frozen.stored);
    let heads = &writer.shared.disk.heads;
    writer.batch().insert(heads, key, head);
    writer.complete(id, frozen)
}

/// What is damaged stays so and is told to whoever reads it; an engine that cannot read fails the store.
fn report(error: Error) -> std::result::Result<(), String> {
    match error {
        Error::Damaged(_) => {
            tracing::error!(%error, "passed over by the checkpoint");
            Ok(())
        }
        Error::Unavailable(why) => Err(why),
    }
}

fn rows(writer: &mut Writer<'_>, id: &TimelineId, frozen: &Frozen) -> std::result::Result<(), String> {
    let disk = &writer.shared.disk;
    for (key, row) in &frozen.rows {
        let keyspace = if key.section == Section::Dedupe { &disk.expiring } else { &disk.rows };
        let key = keys::row(id, key);
        match &row.value {
            Some(value) => {
                let value = values::encode_row(&key, value, row.expires_at);
                writer.batch().insert(keyspace, key, value);
            }
            None => writer.batch().remove(keyspace, key),
        }
        writer.cut()?;
    }
    Ok(())
}

fn entries(writer: &mut Writer<'_>, id: &TimelineId, frozen: &Frozen) -> std::result::Result<(), String> {
    let disk = &writer.shared.disk;
    let in_place = frozen.rewrites.iter().filter(|(seq, _)| *seq <= frozen.was_spilled);
    for (seq, data) in in_place {
        let key = keys::entry(id, *seq);
        match disk.entry(&key, *seq) {
            Ok(Some(entry)) => {
                let value = values::encode_entry(&key, &Entry { data: data.clone(), ..entry });
                writer.batch().insert(&disk.entries, key, value);
            }
            Ok(None) => {}
            Err(error) => report(error)?,
        }
        writer.cut()?;
    }
    for entry in &frozen.spill {
        let key = keys::entry(id, entry.seq);
        let value = values::encode_entry(&key, entry);
        writer.batch().insert(&disk.entries, key, value);
        writer.cut()?;
    }
    Ok(())
}

fn trim_entries(writer: &mut Writer<'_>, id: &TimelineId, frozen: &mut Frozen) -> std::result::Result<(), String> {
    let stored = &mut frozen.stored;
    let to = stored.head.floor.min(frozen.was_spilled);
    for seq in stored.trimmed + 1..=to {
        let entries = &writer.shared.disk.entries;
        writer.batch().remove(entries, keys::entry(id, seq));
        writer.cut()?;
    }
    stored.trimmed = stored.trimmed.max(stored.head.floor.min(stored.spilled));
    Ok(())
}

/// Names the conversation in the index of unfinished ones, or takes it out.
fn index(writer: &mut Writer<'_>, id: &TimelineId, frozen: &Frozen) {
    let head = &frozen.stored.head;
    let is_unfinished = head.fanned < head.position.seq;
    let unfinished = &writer.shared.disk.unfinished;
    match (frozen.was_indexed, is_unfinished) {
        (false, true) => writer.batch().insert(unfinished, keys::timeline(id), Vec::new()),
        (true, false) => writer.batch().remove(unfinished, keys::timeline(id)),
        _ => {}
    }
}

fn segments(writer: &mut Writer<'_>, id: &TimelineId, frozen: &Frozen) -> Result<()> {
    let segments = &writer.shared.disk.segments;
    for chunk in frozen.spill.chunks(SEGMENT) {
        let Some(last) = chunk.last() else { continue };
        let key = keys::entry(id, last.seq);
        let value = values::encode_segment(&key, chunk);
        writer.batch().insert(segments, key, value);
    }
    let mut rest = frozen.rewrites.iter().filter(|(seq, _)| *seq <= frozen.was_spilled).peekable();
    while let Some((seq, _)) = rest.peek() {
        let Some((key, mut entries)) = segment_with(writer, id, *seq)? else {
            rest.next();
            continue;
        };
        let last = entries.last().map_or(*seq, |entry| entry.seq);
        while let Some((seq, data)) = rest.next_if(|(seq, _)| *seq <= last) {
            if let Some(entry) = entries.iter_mut().find(|entry| entry.seq == *seq) {
                entry.data = data.clone();
            }
        }
        let value = values::encode_segment(&key, &entries);
        writer.batch().insert(segments, key, value);
    }
    Ok(())
}

/// The segment on disk that holds an entry.
fn segment_with(writer: &Writer<'_>, id: &TimelineId, seq: u64) -> Result<Option<(Vec<u8>, Vec<Entry>)>> {
    let segments = &writer.shared.disk.segments;
    let range = keys::entry(id, seq)..=keys::entry(id, u64::MAX);
    let Some(guard) = segments.range(range).next() else { return Ok(None) };
    let (key, value) = pair(segments, guard)?;
    let entries = values::decode_segment(&key, &value).ok_or_else(|| damaged(segments, &key))?;
    Ok(Some((key.to_vec(), entries)))
}

/// Removes segments wholly at or below the floor.
fn trim_segments(writer: &mut Writer<'_>, id: &TimelineId, frozen: &mut Frozen) -> Result<()> {
    let stored = &mut frozen.stored;
    let floor = stored.head.floor.min(frozen.was_spilled);
    if floor < stored.trimmed.saturating_add(TRIM_STEP) {
        return Ok(());
    }
    let segments = &writer.shared.disk.segments;
    let range = keys::entry(id, stored.trimmed + 1)..=keys::entry(id, floor);
    for guard in segments.range(range) {
        let key = guard.key().map_err(|error| failed(segments, &error))?;
        writer.batch().remove(segments, key.to_vec());
    }
    stored.trimmed = floor;
    Ok(())
}
