//! Short words for the tests of the embedded store.
#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses its part; a test fails by an unwrap")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use everline::config::Clock;
use everline::protocol::{ConvId, UserId};
use everline::store::embedded::{Embedded, Options};
use everline::store::{
    Attempt, Commit, Entry, NewEntry, Outcome, Position, RowKey, RowWrite, Section, Span, Store, TimelineId,
};

/// A time; nothing here depends on the real one.
pub(crate) const NOW: u64 = 1_700_000_000_000;

/// The defaults, but without the timer: checkpoints come when asked for, or by size.
pub(crate) fn options(dir: &Path) -> Options {
    let hour = std::time::Duration::from_secs(3600);
    Options { checkpoint_every: hour, ..Options::new(dir, Clock::system()) }
}

pub(crate) fn open(dir: &Path) -> Arc<Embedded> {
    Embedded::open(options(dir)).unwrap()
}

pub(crate) fn conversation(name: &str) -> TimelineId {
    TimelineId::Conversation(ConvId::parse(name).unwrap())
}

pub(crate) fn user(name: &str) -> TimelineId {
    TimelineId::User(UserId::parse(name).unwrap())
}

/// A commit that appends these contents.
pub(crate) fn append(timeline: &TimelineId, seq: u64, contents: &[Bytes]) -> Commit {
    let entries = contents.iter().map(|data| NewEntry { at: NOW + seq, data: data.clone() }).collect();
    Commit {
        timeline: timeline.clone(),
        expected: Position { seq, term: 0 },
        term: 0,
        attempt: Attempt(u128::from(seq) << 64 | 7),
        entries,
        rewrite: Vec::new(),
        rows: Vec::new(),
        floor: 0,
        fanned: seq + contents.len() as u64,
    }
}

/// A row of this section.
pub(crate) fn row(section: Section, id: &str, value: Bytes, expires_at: Option<u64>) -> RowWrite {
    RowWrite { key: RowKey { section, n: 0, id: id.into() }, value: Some(value), expires_at }
}

/// A message as the engine commits it: entry and dedupe row of the conversation; of each member a small
/// entry, shared by all, and the row of the conversation.
pub(crate) fn message(
    conv: &str,
    members: &[String],
    no: u64,
    seqs: impl Fn(&str) -> u64,
    conv_seq: u64,
) -> Vec<Commit> {
    let body = Bytes::from(format!("{{\"text\":\"message {no} {}\"}}", "x".repeat(160)));
    let pointer = Bytes::from(format!("{{\"op\":\"message\",\"conv_id\":\"{conv}\",\"conv_seq\":{}}}", conv_seq + 1));
    let mut sent = append(&conversation(conv), conv_seq, &[body]);
    let dedupe = format!("{}\nclient-message-{no:08}", members[0]);
    let hash = Bytes::copy_from_slice(&no.to_be_bytes());
    sent.rows.push(row(Section::Dedupe, &dedupe, hash, Some(NOW + 7 * 86_400_000)));
    let mut call = vec![sent];
    for member in members {
        let seq = seqs(member);
        let mut commit = append(&user(member), seq, std::slice::from_ref(&pointer));
        let (delivered, read) = (conv_seq + 1, seq / 2);
        let state = format!("{{\"stays\":[[1,null]],\"delivered\":{delivered},\"read\":{read},\"unread\":{seq}}}");
        commit.rows.push(row(Section::Conv, conv, Bytes::from(state), None));
        call.push(commit);
    }
    call
}

/// Commits, and asserts that all of it was applied.
pub(crate) async fn apply(store: &Embedded, call: Vec<Commit>) {
    let outcomes = store.commit(call).await;
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Applied), "{outcomes:?}");
}

/// Every entry of a timeline.
pub(crate) async fn all(store: &Embedded, timeline: &TimelineId) -> Vec<Entry> {
    let span = Span { after: 0, up_to: u64::MAX, limit: usize::MAX, max_bytes: usize::MAX, backward: false };
    store.entries(timeline, span).await.unwrap()
}

/// Everything a store tells.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) epoch: String,
    pub(crate) timelines: Vec<(TimelineId, Vec<Entry>, Vec<u8>)>,
}

/// All of it, or what is damaged.
pub(crate) async fn told(store: &Embedded) -> everline::store::Result<Told> {
    let mut timelines = Vec::new();
    for id in store.timelines(None, 1000).await? {
        let head = store.head(&id).await?;
        let span = Span { after: 0, up_to: u64::MAX, limit: 9999, max_bytes: 1 << 30, backward: false };
        let entries = store.entries(&id, span).await?;
        let mut rest = format!("{head:?}").into_bytes();
        for section in Section::ALL {
            for (key, value) in store.rows(&id, section, None, u64::MAX, 9999).await? {
                rest.extend_from_slice(format!("{key:?}={value:?}").as_bytes());
            }
        }
        timelines.push((id, entries, rest));
    }
    store.unfinished().await?;
    Ok(Told { epoch: store.epoch(), timelines })
}

/// Contents of files, by their names in the directory.
pub(crate) type Files = BTreeMap<PathBuf, Vec<u8>>;

/// What stands in the files of a directory.
pub(crate) fn files(dir: &Path) -> Files {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let bytes = fs::read(&path).unwrap();
                found.insert(path.strip_prefix(dir).unwrap().to_owned(), bytes);
            }
        }
    }
    found
}

/// Makes a directory what it was; files not touched stay.
pub(crate) fn put_back(dir: &Path, files: &Files) {
    let _ = fs::remove_dir_all(dir);
    for (name, bytes) in files {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}
