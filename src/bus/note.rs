//! Notes and their bytes: version, node, epoch, kind, content.
//!
//! Bytes come from outside: reading never panics, and what cannot be read is dropped by the caller. A
//! node of another version is such an outside, so a kind it does not know is dropped as well.

use std::sync::Arc;

use bytes::Bytes;

use crate::protocol::{CloseCode, DeviceId};
use crate::timeline::codec::{Reader, put_number, put_text};

/// First byte of every note; another is not read.
const VERSION: u8 = 1;
/// Bytes of a note's entries; an entry above it goes as head only.
pub const MAX_NOTE: usize = 64 * 1024;

const MOVED: u8 = 1;
const ENTRIES: u8 = 2;
const CONNECTED: u8 = 3;
const CLOSE: u8 = 4;
const OTHER: u8 = 5;
const PROBE: u8 = 6;
const STAYS: u8 = 7;

/// The entry has a text.
const HAS_TEXT: u8 = 1;
/// See [`Live::changes_earlier`].
const CHANGES_EARLIER: u8 = 2;

/// One entry of a user's sync timeline on its way to that user's live sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Live {
    /// Its number in the user's sync timeline.
    pub seq: u64,
    /// What follows `{"seq":N,` on the wire, encoded once for all members; `None` when this reader is
    /// not shown the entry (its number still counts).
    pub text: Option<Arc<str>>,
    /// Changes what earlier entries show (recall, edit, delete, clear, read): a frame with this and
    /// other entries must be read from the log, where everything superseded is left out.
    pub changes_earlier: bool,
}

/// What one node tells others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// The log has come to this head.
    Moved {
        /// Last number given, of a commit known to be applied.
        head: u64,
    },
    /// Entries of a commit known to be applied, in order.
    Entries(Vec<Live>),
    /// A device has connected to the node that tells this.
    Connected {
        /// Which of the user's devices.
        device: DeviceId,
        /// When, by that node's clock: milliseconds since 1970.
        at_ms: u64,
    },
    /// A connection of the device stays, which takes itself for newer than one just told of.
    Stays {
        /// Which of the user's devices.
        device: DeviceId,
        /// When it connected, as was told.
        at_ms: u64,
    },
    /// Sockets of the user are to be closed.
    Close {
        /// Of which device; none: of all.
        device: Option<DeviceId>,
        /// With this code.
        code: CloseCode,
    },
    /// What is no business of the bus; may be dropped like all others.
    Other {
        /// Tells its kinds apart.
        kind: u8,
        /// Up to [`MAX_NOTE`].
        payload: Bytes,
    },
    /// Of the bus's own: has a subscription reached the server?
    Probe,
}

impl Note {
    /// Entries as notes: together as far as they fit, what does not fit at all as head only.
    pub fn of_entries(entries: &[Live]) -> Vec<Self> {
        let size = |entry: &Live| 16 + entry.text.as_ref().map_or(0, |text| text.len());
        let (mut notes, mut part, mut bytes) = (Vec::new(), Vec::new(), 0);
        for entry in entries {
            let size = size(entry);
            if bytes + size > MAX_NOTE && !part.is_empty() {
                notes.push(Self::Entries(std::mem::take(&mut part)));
                bytes = 0;
            }
            if size > MAX_NOTE {
                notes.push(Self::Moved { head: entry.seq });
            } else {
                bytes += size;
                part.push(entry.clone());
            }
        }
        if !part.is_empty() {
            notes.push(Self::Entries(part));
        }
        notes
    }
}

/// The bytes of a note.
pub(super) fn encode(node: u64, epoch: &str, note: &Note) -> Vec<u8> {
    let mut out = vec![VERSION];
    out.extend_from_slice(&node.to_be_bytes());
    put_text(&mut out, epoch);
    match note {
        Note::Moved { head } => {
            out.push(MOVED);
            put_number(&mut out, *head);
        }
        Note::Entries(entries) => {
            out.push(ENTRIES);
            entries.iter().for_each(|entry| put_entry(&mut out, entry));
        }
        Note::Connected { device, at_ms } => {
            out.push(CONNECTED);
            put_text(&mut out, device);
            put_number(&mut out, *at_ms);
        }
        Note::Stays { device, at_ms } => {
            out.push(STAYS);
            put_text(&mut out, device);
            put_number(&mut out, *at_ms);
        }
        Note::Close { device, code } => {
            out.push(CLOSE);
            put_text(&mut out, device.as_deref().unwrap_or_default());
            put_number(&mut out, u64::from(code.code()));
        }
        Note::Other { kind, payload } => {
            out.extend_from_slice(&[OTHER, *kind]);
            out.extend_from_slice(payload);
        }
        Note::Probe => out.push(PROBE),
    }
    out
}

fn put_entry(out: &mut Vec<u8>, entry: &Live) {
    put_number(out, entry.seq);
    let has_text = if entry.text.is_some() { HAS_TEXT } else { 0 };
    out.push(has_text | if entry.changes_earlier { CHANGES_EARLIER } else { 0 });
    if let Some(text) = &entry.text {
        put_text(out, text);
    }
}

/// Node, epoch and note; `None`: not readable.
pub(super) fn decode(bytes: &[u8]) -> Option<(u64, &str, Note)> {
    let mut read = Reader::new(bytes);
    if read.byte()? != VERSION {
        return None;
    }
    let mut node = [0; 8];
    for byte in &mut node {
        *byte = read.byte()?;
    }
    let epoch = read.text()?;
    let note = match read.byte()? {
        MOVED => Note::Moved { head: read.number()? },
        ENTRIES => Note::Entries(entries(read)?),
        CONNECTED => Note::Connected { device: DeviceId::parse(read.text()?).ok()?, at_ms: read.number()? },
        STAYS => Note::Stays { device: DeviceId::parse(read.text()?).ok()?, at_ms: read.number()? },
        CLOSE => {
            let device = Some(read.text()?).filter(|text| !text.is_empty());
            let (device, code) = (device.map(DeviceId::parse).transpose().ok()?, read.number()?);
            let code = CloseCode::ALL.into_iter().find(|known| u64::from(known.code()) == code)?;
            Note::Close { device, code }
        }
        OTHER => Note::Other { kind: read.byte()?, payload: Bytes::copy_from_slice(read.rest()) },
        PROBE => Note::Probe,
        _ => return None,
    };
    Some((u64::from_be_bytes(node), epoch, note))
}

fn entries(mut read: Reader<'_>) -> Option<Vec<Live>> {
    let mut entries = Vec::new();
    while !read.rest().is_empty() {
        let (seq, flags) = (read.number()?, read.byte()?);
        let text = if flags & HAS_TEXT == 0 { None } else { Some(Arc::from(read.text()?)) };
        entries.push(Live { seq, text, changes_earlier: flags & CHANGES_EARLIER != 0 });
    }
    Some(entries)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn live(seq: u64, bytes: usize) -> Live {
        Live { seq, text: Some("x".repeat(bytes).into()), changes_earlier: seq.is_multiple_of(2) }
    }

    #[test]
    fn notes_come_back_equal_and_cut_ones_are_not_misread() {
        let device = DeviceId::parse("phone").unwrap();
        let hidden = Live { seq: u64::MAX, text: None, changes_earlier: true };
        let notes = [
            Note::Moved { head: 7 },
            Note::Entries(vec![live(1, 0), live(2, 300), hidden]),
            Note::Connected { device: device.clone(), at_ms: 1_795_174_000_000 },
            Note::Stays { device: device.clone(), at_ms: 7 },
            Note::Close { device: Some(device), code: CloseCode::Revoked },
            Note::Close { device: None, code: CloseCode::Restart },
            Note::Other { kind: 9, payload: Bytes::from_static(b"{}") },
            Note::Probe,
        ];
        for note in notes {
            let bytes = encode(u64::MAX - 1, "k3v9", &note);
            assert_eq!(decode(&bytes), Some((u64::MAX - 1, "k3v9", note.clone())));
            for cut in 0..bytes.len() {
                assert_ne!(decode(&bytes[..cut]).map(|(_, _, read)| read), Some(note.clone()));
            }
        }
        assert_eq!(decode(&[2; 40]), None);
    }

    #[test]
    fn entries_are_split_and_one_that_is_too_large_goes_as_head_only() {
        let entries = [live(1, 30_000), live(2, 30_000), live(3, 30_000), live(4, MAX_NOTE + 1), live(5, 10)];
        let notes = Note::of_entries(&entries);
        let one = |range: std::ops::Range<usize>| Note::Entries(entries[range].to_vec());
        assert_eq!(notes, [one(0..2), one(2..3), Note::Moved { head: 4 }, one(4..5)]);
        assert!(notes.iter().all(|note| encode(1, "e", note).len() < MAX_NOTE + 64));
        assert_eq!(Note::of_entries(&[]), []);
    }
}
