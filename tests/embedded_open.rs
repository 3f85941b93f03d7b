//! What is opened and what is refused: a directory in use, of a newer format, damaged, cut, or not ours.
//! A refusal is one line that names what is wrong; nothing is half served.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by them")]

mod embedded_support;

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use embedded_support::{all, append, apply, conversation, message, open, options, row, user};
use everline::config::Clock;
use everline::store::embedded::{Embedded, OpenError, Options};
use everline::store::{Commit, Error, Section, Store};
use fjall::{Database, KeyspaceCreateOptions};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

fn refusal(dir: &Path) -> OpenError {
    let error = Embedded::open(options(dir)).expect_err("refused");
    let line = error.to_string();
    assert!(!line.contains('\n') && line.contains(&*dir.to_string_lossy()), "{line}");
    error
}

/// Messages between two, each a group commit of its own, in the journal only.
async fn write(dir: &Path, from: u64, to: u64) {
    let store = open(dir);
    let names = ["a".to_owned(), "b".to_owned()];
    for seq in from..to {
        apply(&store, message("d:a:b", &names, seq, |_| seq, seq)).await;
    }
}

/// Changes one key of the engine's own, behind the store's back; a seal would notice.
fn tamper(dir: &Path, keyspace: &str, change: impl FnOnce(&fjall::Keyspace)) {
    let _ = fs::remove_file(dir.join("seal"));
    let db = Database::builder(dir).open().unwrap();
    change(&db.keyspace(keyspace, KeyspaceCreateOptions::default).unwrap());
    db.persist(fjall::PersistMode::SyncAll).unwrap();
}

fn write_ahead_file(dir: &Path) -> PathBuf {
    let files = fs::read_dir(dir).unwrap().map(|found| found.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|ext| ext == "jnl")).max().unwrap()
}

fn flip(path: &Path, at: u64, bit: u8) {
    let mut file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.seek(SeekFrom::Start(at)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&[byte[0] ^ 1 << bit]).unwrap();
}

#[tokio::test]
async fn a_second_open_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert!(matches!(refusal(dir.path()), OpenError::Locked(_)));
    apply(&store, vec![append(&user("u"), 0, &[Bytes::from_static(b"still ours")])]).await;
    drop(store);
    assert_eq!(all(&open(dir.path()), &user("u")).await.len(), 1);
}

#[test]
fn a_newer_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    tamper(dir.path(), "meta", |meta| meta.insert("format", 2u32.to_be_bytes()).unwrap());
    let error = refusal(dir.path());
    assert!(matches!(error, OpenError::Format(..)), "{error}");
    assert!(error.to_string().contains("format: 2, this version reads 1"), "{error}");
}

#[test]
fn a_directory_of_something_else_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.txt"), "years of work").unwrap();
    assert!(matches!(refusal(dir.path()), OpenError::Foreign(_)));
    assert_eq!(fs::read_to_string(dir.path().join("thesis.txt")).unwrap(), "years of work");
}

/// Power lost while the engine created its files: any part of them may be there, and what it held of them
/// was told to nobody.
#[tokio::test]
async fn a_creation_that_was_interrupted_is_begun_again() {
    for left in [&["version"][..], &["0.jnl"], &["keyspaces"], &["keyspaces", "version"], &["0.jnl", "version"]] {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path()));
        for found in fs::read_dir(dir.path()).unwrap() {
            let path = found.unwrap().path();
            match path.file_name().unwrap().to_str().unwrap() {
                name if left.contains(&name) => {}
                "keyspaces" => fs::remove_dir_all(path).unwrap(),
                _ => fs::remove_file(path).unwrap(),
            }
        }
        // Of the keyspaces some only, as when names are lost.
        let _ = fs::remove_dir_all(dir.path().join("keyspaces/1"));
        refusal(dir.path());
        fs::write(dir.path().join("creating"), "").unwrap();
        drop(open(dir.path()));
        assert!(!dir.path().join("creating").exists());
        write(dir.path(), 0, 3).await;
        assert_eq!(all(&open(dir.path()), &user("b")).await.len(), 3, "{left:?}");
    }
}

#[test]
fn a_directory_of_something_else_is_not_taken_for_an_interrupted_creation() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("creating"), "a poem").unwrap();
    fs::write(dir.path().join("thesis.txt"), "years of work").unwrap();
    assert!(matches!(refusal(dir.path()), OpenError::Foreign(_)));
    assert_eq!(fs::read_to_string(dir.path().join("thesis.txt")).unwrap(), "years of work");
}

#[tokio::test]
async fn a_missing_journal_record_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), 0, 20).await;
    tamper(dir.path(), "journal", |journal| journal.remove(9u64.to_be_bytes()).unwrap());
    let error = refusal(dir.path());
    assert!(error.to_string().contains("journal record 9 is missing"), "{error}");
}

#[tokio::test]
async fn a_changed_journal_record_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), 0, 20).await;
    tamper(dir.path(), "journal", |journal| {
        let mut record = journal.get(9u64.to_be_bytes()).unwrap().unwrap().to_vec();
        record[100] ^= 4;
        journal.insert(9u64.to_be_bytes(), record).unwrap();
    });
    let error = refusal(dir.path());
    assert!(error.to_string().contains("journal record 9 does not match its checksum"), "{error}");
}

#[tokio::test]
async fn a_record_of_another_history_is_refused() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(dir.path(), 0, 5).await;
    write(other.path(), 0, 3).await;
    // The same numbers and heads, another message 4.
    let store = open(other.path());
    apply(&store, vec![append(&conversation("d:a:b"), 3, &[Bytes::from_static(b"other")])]).await;
    apply(&store, vec![append(&conversation("d:a:b"), 4, &[Bytes::from_static(b"other")])]).await;
    drop(store);
    let mut record = Vec::new();
    tamper(other.path(), "journal", |journal| {
        record = journal.get(5u64.to_be_bytes()).unwrap().unwrap().to_vec();
    });
    tamper(dir.path(), "journal", |journal| journal.insert(5u64.to_be_bytes(), record).unwrap());
    let error = refusal(dir.path());
    assert!(error.to_string().contains("journal record 5 does not continue the one before"), "{error}");
}

/// The engine cuts its file at the first thing it cannot read and goes on without a word. The witness
/// knows better; and whoever deletes it gets the whole messages before the cut.
#[tokio::test]
async fn acknowledged_commits_cut_off_the_end_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    write(dir.path(), 0, 20).await;
    let file = write_ahead_file(dir.path());
    let len = fs::metadata(&file).unwrap().len();
    fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(len - 700).unwrap();
    let OpenError::Lost { first, last, witness, .. } = refusal(dir.path()) else { panic!("lost") };
    assert_eq!(last, 20);
    assert!((15..=20).contains(&first), "{first}");
    fs::remove_file(witness).unwrap();
    let store = open(dir.path());
    for timeline in [conversation("d:a:b"), user("a"), user("b")] {
        assert_eq!(all(&store, &timeline).await.len() as u64, first - 1);
    }
}

/// Power lost between write and fsync: a sector within the record of `number` was not written, what is
/// around it was. Without a witness nothing but the file itself tells whether it was acknowledged.
async fn tear(dir: &Path, number: u64) -> Result<Arc<Embedded>, OpenError> {
    let store = open(dir);
    for at in 0..5 {
        let body = Bytes::from(vec![b'a' + at as u8; 2000]);
        apply(&store, vec![append(&conversation("g:x"), at, &[body])]).await;
    }
    drop(store);
    let file = write_ahead_file(dir);
    let mut bytes = fs::read(&file).unwrap();
    let letter = b'a' + number as u8 - 1;
    let body = bytes.windows(1024).position(|part| part.iter().all(|byte| *byte == letter)).unwrap();
    let sector = body.next_multiple_of(512);
    bytes[sector..sector + 512].fill(0);
    fs::write(&file, &bytes).unwrap();
    let opened = Embedded::open(options(dir));
    if opened.is_err() {
        assert!(fs::read(&file).unwrap() == bytes, "nothing is written where nothing is served");
    }
    opened
}

#[tokio::test]
async fn a_torn_end_of_the_journal_is_cut_off_unless_it_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let refused = tear(dir.path(), 5).await.expect_err("the witness has seen it");
    assert!(matches!(refused, OpenError::Damaged(..)), "{refused}");
    assert!(refused.to_string().contains(".jnl at byte "), "{refused}");
    fs::remove_file(dir.path().join("witness")).unwrap();
    let store = open(dir.path());
    assert_eq!(all(&store, &conversation("g:x")).await.len(), 4);
    apply(&store, vec![append(&conversation("g:x"), 4, &[Bytes::from_static(b"goes on")])]).await;
    drop(store);
    assert_eq!(all(&open(dir.path()), &conversation("g:x")).await.len(), 5);
}

/// A record is written when the one before is durable: two behind the wrong one say that it is no torn end.
#[tokio::test]
async fn a_wrong_record_with_others_behind_it_is_damage_also_without_a_witness() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let refused = tear(dir.path(), 3).await.expect_err("acknowledged");
    assert!(refused.to_string().contains(".jnl at byte "), "{refused}");
    fs::remove_file(dir.path().join("witness")).unwrap();
    let refused = refusal(dir.path());
    assert!(refused.to_string().contains(".jnl at byte "), "{refused}");
}

/// One flipped bit anywhere in the write-ahead file: refused, or it mattered to nothing.
#[tokio::test]
async fn a_flipped_bit_never_loses_a_message_silently() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    write(dir.path(), 0, 20).await;
    let file = write_ahead_file(dir.path());
    let original = fs::read(&file).unwrap();
    let witness = fs::read(dir.path().join("witness")).unwrap();
    let mut rng = StdRng::seed_from_u64(5);
    let mut refused = 0;
    for _ in 0..60 {
        let (at, bit) = (rng.random_range(0..original.len() as u64), rng.random_range(0..8));
        fs::write(&file, &original).unwrap();
        fs::write(dir.path().join("witness"), &witness).unwrap();
        flip(&file, at, bit);
        match Embedded::open(options(dir.path())) {
            Err(OpenError::Damaged(..) | OpenError::Lost { .. }) => refused += 1,
            Err(error) => panic!("byte {at}: {error}"),
            Ok(store) => {
                for timeline in [conversation("d:a:b"), user("a"), user("b")] {
                    assert_eq!(all(&store, &timeline).await.len(), 20, "byte {at} bit {bit}");
                }
            }
        }
    }
    assert!(refused > 50, "{refused} of 60");
}

/// What was written a little differently behind the store's back is an error that names the place.
#[tokio::test]
async fn a_damaged_value_is_an_error_never_an_answer() {
    let dir = tempfile::tempdir().unwrap();
    let (conv, member) = (conversation("g:x"), user("u"));
    let entries: Vec<Bytes> = (0..40).map(|no| Bytes::from(format!("entry {no}"))).collect();
    let rows = vec![row(Section::Conv, "g:x", Bytes::from_static(b"state"), None)];
    let store = open(dir.path());
    apply(&store, vec![append(&conv, 0, &entries), Commit { rows, ..append(&member, 0, &entries) }]).await;
    store.close().unwrap();
    drop(store);
    for keyspace in ["entries", "segments", "rows"] {
        tamper(dir.path(), keyspace, |keyspace| {
            let (key, value) = keyspace.first_key_value().unwrap().into_inner().unwrap();
            let mut value = value.to_vec();
            value[3] ^= 1;
            keyspace.insert(key, value).unwrap();
        });
    }
    let store = open(dir.path());
    let span = everline::store::Span { after: 0, up_to: 9, limit: 9, max_bytes: 999, backward: false };
    let key = everline::store::RowKey { section: Section::Conv, n: 0, id: "g:x".into() };
    let found = [
        ("entries", store.entries(&conv, span).await.map(drop)),
        ("segments", store.entries(&member, span).await.map(drop)),
        ("rows", store.row(&member, &key).await.map(drop)),
        ("rows", store.rows(&member, Section::Conv, None, u64::MAX, 9).await.map(drop)),
        ("entries", store.backup(&dir.path().join("backup")).map(drop)),
    ];
    for (keyspace, result) in found {
        let Err(Error::Damaged(what)) = result else { panic!("{keyspace}: {result:?}") };
        assert!(what.starts_with(keyspace), "{what}");
    }
    let undamaged = everline::store::Span { after: 1, ..span };
    assert_eq!(store.entries(&conv, undamaged).await.unwrap().len(), 8);
}

/// A recalled body is gone from the tables once they are compacted.
#[tokio::test]
async fn an_erased_body_is_gone_after_a_compaction() {
    let dir = tempfile::tempdir().unwrap();
    let (conv, member) = (conversation("g:x"), user("u"));
    let entries: Vec<Bytes> = (0..40).map(|no| Bytes::from(format!("SECRET{no:03}END"))).collect();
    let store = open(dir.path());
    apply(&store, vec![append(&conv, 0, &entries), append(&member, 0, &entries)]).await;
    store.compact().unwrap();
    let rewrite = vec![(7, Bytes::new())];
    let call = [&conv, &member].map(|id| Commit { rewrite: rewrite.clone(), ..append(id, 40, &[]) });
    apply(&store, call.to_vec()).await;
    store.compact().unwrap();
    assert_eq!(count(&dir.path().join("keyspaces"), b"SECRET006END"), 0);
    assert_ne!(count(&dir.path().join("keyspaces"), b"SECRET007END"), 0);
    assert_eq!(all(&store, &conv).await[6].data, "");
    assert_eq!(all(&store, &member).await[6].data, "");
}

/// Occurrences in the files of a directory.
fn count(dir: &Path, text: &[u8]) -> usize {
    let of = |path: PathBuf| {
        if path.is_dir() {
            return count(&path, text);
        }
        fs::read(path).unwrap().windows(text.len()).filter(|window| *window == text).count()
    };
    fs::read_dir(dir).unwrap().map(|found| of(found.unwrap().path())).sum()
}

/// Expired rows go when the engine compacts, others stay.
#[tokio::test]
async fn expired_rows_vanish_with_a_compaction() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::simulated(1_000_000_000);
    let store = Embedded::open(Options { clock: clock.clone(), ..options(dir.path()) }).unwrap();
    let hour = 3_600_000;
    let rows = (0..10).map(|no| {
        let expires_at = (no != 9).then(|| clock.now_ms() + no * hour);
        row(Section::Dedupe, &format!("u\nm{no}"), Bytes::from_static(b"1"), expires_at)
    });
    let conv = conversation("g:x");
    apply(&store, vec![Commit { rows: rows.collect(), ..append(&conv, 0, &[Bytes::new()]) }]).await;
    store.checkpoint().unwrap();
    clock.jump(5 * 3_600_000);
    store.compact().unwrap();
    let left = store.rows(&conv, Section::Dedupe, None, u64::MAX, 99).await.unwrap();
    let left: Vec<&str> = left.iter().map(|(key, _)| &*key.id).collect();
    assert_eq!(left, ["u\nm5", "u\nm6", "u\nm7", "u\nm8", "u\nm9"]);
}

/// After a failure nothing is answered `Applied` and nothing is read.
#[tokio::test]
async fn a_closed_store_takes_no_commits() {
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<Embedded> = open(dir.path());
    store.close().unwrap();
    store.close().unwrap();
    let outcomes = store.commit(vec![append(&user("u"), 0, &[])]).await;
    assert_eq!(outcomes, [everline::store::Outcome::Unknown]);
    assert_eq!(*store.failed().borrow(), None);
    assert_eq!(store.head(&user("u")).await.unwrap().position.seq, 0);
}
