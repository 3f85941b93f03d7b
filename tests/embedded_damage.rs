//! Damage to a small store that was closed: every file cut at every byte, every bit flipped. It is refused
//! with one line that names file and offset; where no seal stands (as after a crash) it is refused, told by
//! the read it hits, or harmless. Never wrong data, never fewer entries, never a panic.
//!
//! `EVERLINE_DAMAGE=sample` tries one in 101 places instead of every one.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test fails by them; counts are printed")]

mod embedded_support;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use embedded_support::{Files, Told, all, apply, conversation, files, message, open, options, put_back, told, user};
use everline::store::embedded::{Embedded, OpenError};
use everline::store::{Error, Span, Store};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// What the files of a directory hold beyond this is zeros; a third of it is the engine's own list of keyspaces.
const WRITTEN: usize = 32 * 1024;
const THREADS: usize = 2;

/// A small store with a part in tables, a part in the journal.
async fn small_store(dir: &Path) -> Told {
    let names = ["a".to_owned(), "b".to_owned()];
    let store = open(dir);
    for seq in 0..2 {
        apply(&store, message("d:a:b", &names, seq, |_| seq, seq)).await;
    }
    store.compact().unwrap();
    store.close().unwrap();
    drop(store);
    // Opened again, the journal is cut to what is written, and reading it is quick.
    let store = open(dir);
    for seq in 2..4 {
        apply(&store, message("d:a:b", &names, seq, |_| seq, seq)).await;
    }
    let told = told(&store).await.unwrap();
    assert_eq!(all(&store, &user("b")).await.len(), 4);
    assert_eq!(all(&store, &conversation("d:a:b")).await.len(), 4);
    store.close().unwrap();
    drop(store);
    told
}

/// One damage to one file.
#[derive(Debug, Clone)]
enum Damage {
    Cut(usize),
    Flip(usize, u8),
}

fn damages(bytes: &[u8]) -> impl Iterator<Item = Damage> {
    let written = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let cuts = (0..bytes.len().min(written + 1)).map(Damage::Cut);
    cuts.chain((0..written).flat_map(|at| (0..8).map(move |bit| Damage::Flip(at, bit))))
}

fn inflict(dir: &Path, name: &Path, damage: &Damage, bytes: &[u8]) {
    let file = fs::OpenOptions::new().write(true).open(dir.join(name)).unwrap();
    match *damage {
        Damage::Cut(len) => file.set_len(len as u64).unwrap(),
        Damage::Flip(at, bit) => file.write_all_at(&[bytes[at] ^ (1 << bit)], at as u64).unwrap(),
    }
}

fn one_line(error: &OpenError, dir: &Path) -> String {
    let line = error.to_string();
    assert!(!line.contains('\n') && line.contains(&*dir.to_string_lossy()), "{line}");
    line
}

/// Tries a share of all damages against a sealed directory: refused, with the place, nothing written.
fn sealed_share(dir: &Path, files: &Files, share: usize, step: usize) -> (usize, usize) {
    put_back(dir, files);
    let (mut cuts, mut flips) = (0, 0);
    for (name, bytes) in files {
        let mine =
            damages(bytes).enumerate().filter(|(no, _)| no % THREADS == share && (no / THREADS).is_multiple_of(step));
        for (_, damage) in mine {
            inflict(dir, name, &damage, bytes);
            let refused = Embedded::open(options(dir)).expect_err("refused");
            let line = one_line(&refused, dir);
            assert!(matches!(refused, OpenError::Damaged(..)), "{name:?} {damage:?}: {line}");
            let named = format!("{} ", name.display());
            assert!(line.contains(&named) && line.contains(" at byte "), "{name:?} {damage:?}: {line}");
            let path = dir.join(name);
            match damage {
                Damage::Cut(_) => {
                    cuts += 1;
                    fs::write(&path, bytes).unwrap();
                }
                Damage::Flip(at, bit) => {
                    flips += 1;
                    let mut changed = bytes.clone();
                    changed[at] ^= 1 << bit;
                    assert_eq!(fs::read(&path).unwrap(), changed, "{name:?} {damage:?}: written to");
                    inflict(dir, name, &Damage::Flip(at, bit), &changed);
                }
            }
        }
    }
    (cuts, flips)
}

/// Every byte and every bit of a store at rest.
#[tokio::test]
async fn a_closed_store_with_any_byte_cut_or_any_bit_flipped_is_refused_with_file_and_offset() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("small");
    let told = small_store(&dir).await;
    let files = files(&dir);
    let written: usize = files.values().map(|bytes| bytes.iter().filter(|byte| **byte != 0).count()).sum();
    assert!(written <= WRITTEN, "{written} bytes are written");
    let step = if std::env::var("EVERLINE_DAMAGE").is_ok_and(|how| how == "sample") { 101 } else { 1 };
    let tried: Vec<(usize, usize)> = std::thread::scope(|scope| {
        let share = |share: usize| {
            let (files, dir) = (&files, home.path().join(format!("try{share}")));
            scope.spawn(move || sealed_share(&dir, files, share, step))
        };
        let threads: Vec<_> = (0..THREADS).map(share).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let (cuts, flips) = tried.iter().fold((0, 0), |sum, tried| (sum.0 + tried.0, sum.1 + tried.1));
    println!("{} files, {written} bytes not zero: {cuts} cuts, {flips} flipped bits, all refused", files.len());
    assert!(step > 1 || flips >= written * 8);
    put_back(&dir, &files);
    let store = open(&dir);
    assert_eq!(self::told(&store).await.unwrap(), told, "the undamaged one opens");
}

/// The rest of a file allocated ahead is zeros, and must stay so.
#[tokio::test]
async fn a_bit_flipped_in_the_zeros_of_a_fresh_journal_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let names = ["a".to_owned(), "b".to_owned()];
    let store = open(dir.path());
    apply(&store, message("d:a:b", &names, 0, |_| 0, 0)).await;
    store.close().unwrap();
    drop(store);
    let journal = fs::read_dir(dir.path()).unwrap().map(|found| found.unwrap().path());
    let journal = journal.filter(|path| path.extension().is_some_and(|ext| ext == "jnl")).max().unwrap();
    let len = fs::metadata(&journal).unwrap().len();
    let mut rng = StdRng::seed_from_u64(8);
    for _ in 0..10 {
        let at = rng.random_range(len / 2..len);
        let file = fs::OpenOptions::new().write(true).open(&journal).unwrap();
        file.write_all_at(&[1 << rng.random_range(0..8)], at).unwrap();
        let refused = Embedded::open(options(dir.path())).expect_err("refused");
        assert!(one_line(&refused, dir.path()).contains(".jnl at byte "), "{refused}");
        file.write_all_at(&[0], at).unwrap();
    }
    drop(open(dir.path()));
}

/// Without a seal, as a crash leaves a directory: the journal's chain, the witness and the checksums of
/// values stand between damage and a wrong answer.
#[tokio::test]
async fn damage_after_a_crash_is_refused_or_told_or_harmless() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("small");
    let whole = small_store(&dir).await;
    fs::remove_file(dir.join("seal")).unwrap();
    let files = files(&dir);
    let seed = std::env::var("EVERLINE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("seed {seed}: EVERLINE_SEED={seed} cargo test --test embedded_damage");
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut refused, mut by_read, mut harmless) = (0, 0, 0);
    let every: Vec<(PathBuf, Damage)> =
        files.iter().flat_map(|(name, bytes)| damages(bytes).map(|damage| (name.clone(), damage))).collect();
    for _ in 0..400 {
        let (name, damage) = &every[rng.random_range(0..every.len())];
        put_back(&dir, &files);
        inflict(&dir, name, damage, &files[name]);
        match Embedded::open(options(&dir)) {
            Err(error) => {
                one_line(&error, &dir);
                refused += 1;
            }
            Ok(store) => match told(&store).await {
                Ok(told) => {
                    assert_eq!(told, whole, "{name:?} {damage:?}");
                    harmless += 1;
                }
                Err(Error::Damaged(_)) => by_read += 1,
                Err(other) => panic!("{name:?} {damage:?}: {other}"),
            },
        }
    }
    println!("400 damages: {refused} refused, {by_read} told by a read, {harmless} harmless");
}

/// The engine believes its lists of tables without looking at their checksums: some damage hides entries.
#[tokio::test]
async fn a_damaged_list_of_tables_is_refused_with_its_file_also_after_a_crash() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("small");
    small_store(&dir).await;
    fs::remove_file(dir.join("seal")).unwrap();
    let files = files(&dir);
    let lists =
        files.iter().filter(|(name, _)| name.file_name().is_some_and(|name| name.as_encoded_bytes()[0] == b'v'));
    let lists: Vec<_> = lists.filter(|(name, _)| name.starts_with("keyspaces")).collect();
    assert!(lists.len() > 5, "{lists:?}");
    for (name, bytes) in lists {
        for at in [0, bytes.len() / 2, bytes.len() - 1] {
            inflict(&dir, name, &Damage::Flip(at, 3), bytes);
            let refused = Embedded::open(options(&dir)).expect_err("refused");
            assert!(one_line(&refused, &dir).contains(&format!("{} at byte 0", name.display())), "{refused}");
            fs::write(dir.join(name), bytes).unwrap();
        }
    }
    drop(open(&dir));
}

/// Whatever it was that took an entry away: its number is missing, and that is told.
#[tokio::test]
async fn an_entry_that_is_not_there_is_told_as_damage() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("small");
    small_store(&dir).await;
    fs::remove_file(dir.join("seal")).unwrap();
    {
        let engine = fjall::Database::builder(&dir).open().unwrap();
        let entries = engine.keyspace("entries", fjall::KeyspaceCreateOptions::default).unwrap();
        let second = entries.iter().nth(1).unwrap().key().unwrap();
        entries.remove(second).unwrap();
        engine.persist(fjall::PersistMode::SyncAll).unwrap();
    }
    let store = open(&dir);
    assert_eq!(all(&store, &user("b")).await.len(), 4);
    let span = Span { after: 0, up_to: u64::MAX, limit: 9, max_bytes: 1 << 20, backward: false };
    for span in [span, Span { limit: 2, ..span }, Span { backward: true, ..span }, Span { after: 1, up_to: 2, ..span }]
    {
        let read = store.entries(&conversation("d:a:b"), span).await;
        assert!(matches!(&read, Err(Error::Damaged(what)) if what.contains("entries at key")), "{span:?}: {read:?}");
    }
    let later = store.entries(&conversation("d:a:b"), Span { after: 2, ..span }).await.unwrap();
    assert_eq!(later.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [3, 4]);
}

/// The format stands in the seal too: another one is refused before anything is touched.
#[tokio::test]
async fn a_store_closed_by_another_format_is_refused_and_left_as_it_is() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("small");
    small_store(&dir).await;
    let seal = dir.join("seal");
    let mut bytes = fs::read(&seal).unwrap();
    let body = bytes.len() - 8;
    bytes[11] = 9;
    let sum = xxhash_rust::xxh3::xxh3_64(&bytes[..body]).to_be_bytes();
    bytes[body..].copy_from_slice(&sum);
    fs::write(&seal, &bytes).unwrap();
    let before = files(&dir);
    let refused = Embedded::open(options(&dir)).expect_err("refused");
    assert!(matches!(refused, OpenError::Format(..)), "{refused}");
    assert!(one_line(&refused, &dir).contains("format: 9, this version reads"), "{refused}");
    assert_eq!(files(&dir), before);
}
