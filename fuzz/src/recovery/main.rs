//! Damaged files of the embedded store: a small directory, closed or left by a crash, with the edits an input
//! asks for. It is refused with one line, or what is read is what was written or told as damage: never other
//! data, never fewer entries without a word, never a panic.
//!
//! One thing cannot be known: after a crash the witness alone says how far acknowledged commits went. Where an
//! edit has changed the witness, an earlier state counts as right, too; a whole one.
#![no_main]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    unreachable_pub,
    reason = "a panic is what is looked for"
)]

mod edits;
#[path = "../../../tests/embedded_support/mod.rs"]
mod embedded_support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex};

use everline::config::Clock;
use everline::store::Error;
use everline::store::embedded::{Embedded, Options};
use futures::executor::block_on;
use libfuzzer_sys::fuzz_target;

use edits::Edits;
use embedded_support::{Files, NOW, Told, apply, files, message, options, put_back, told};

/// Commits before the closing, and after it until the crash.
const COMMITS: (u64, u64) = (4, 3);

/// The directories to damage, made once.
struct Stores {
    home: tempfile::TempDir,
    closed: Files,
    crashed: Files,
    /// Everything told after each commit.
    states: Vec<Told>,
}

impl Stores {
    fn files(&self, edits: &Edits) -> &Files {
        if edits.crashed { &self.crashed } else { &self.closed }
    }
}

static STORES: LazyLock<Stores> = LazyLock::new(|| block_on(make(tempfile::tempdir().unwrap())));

/// What the last panic said. Some of the engine's, over files it did not expect, are caught where it is opened; the
/// fuzzer's own hook would take them for the end.
static SAID: Mutex<String> = Mutex::new(String::new());

fuzz_target!(
    init: {
        std::panic::set_hook(Box::new(|panic| *SAID.lock().unwrap() = panic.to_string()));
        LazyLock::force(&STORES);
    },
    |data: &[u8]| {
        if catch_unwind(|| block_on(try_out(&STORES, data))).is_err() {
            let edits = Edits::read(data);
            eprintln!("{}\n{edits:?} of {:?}", SAID.lock().unwrap(), STORES.files(&edits).keys());
            std::process::abort();
        }
    }
);

/// At a time at which nothing has expired.
fn small(dir: &Path) -> Options {
    Options { cache_bytes: 1 << 20, clock: Clock::simulated(NOW), ..options(dir) }
}

fn open(dir: &Path) -> std::sync::Arc<Embedded> {
    Embedded::open(small(dir)).unwrap()
}

async fn write(store: &Embedded, seqs: std::ops::Range<u64>, mut each: impl AsyncFnMut()) {
    let names = ["a".to_owned(), "b".to_owned()];
    for seq in seqs {
        apply(store, message("d:a:b", &names, seq, |_| seq, seq)).await;
        each().await;
    }
}

/// A part of it in tables, a part in the journal only.
async fn make(home: tempfile::TempDir) -> Stores {
    let dir = home.path().join("made");
    let store = open(&dir);
    let mut states = Vec::new();
    write(&store, 0..COMMITS.0 / 2, async || states.push(told(&store).await.unwrap())).await;
    store.compact().unwrap();
    write(&store, COMMITS.0 / 2..COMMITS.0, async || states.push(told(&store).await.unwrap())).await;
    store.close().unwrap();
    drop(store);
    // Opened once more, the journal is cut to what is written, and reading it is quick.
    let store = open(&dir);
    store.close().unwrap();
    drop(store);
    let closed = files(&dir);
    let store = open(&dir);
    write(&store, COMMITS.0..COMMITS.0 + COMMITS.1, async || states.push(told(&store).await.unwrap())).await;
    drop(store);
    let mut crashed = files(&dir);
    for bytes in crashed.values_mut() {
        // A file allocated ahead; a crash may leave any of its zeros.
        let written = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        bytes.truncate(written + 64);
    }
    assert!(closed.contains_key(Path::new("seal")) && !crashed.contains_key(Path::new("seal")));
    Stores { home, closed, crashed, states }
}

async fn try_out(stores: &Stores, data: &[u8]) {
    let dir = stores.home.path().join("tried");
    let edits = Edits::read(data);
    let before = stores.files(&edits);
    let last = if edits.crashed { stores.states.len() - 1 } else { COMMITS.0 as usize - 1 };
    let mut after = before.clone();
    edits.apply(&mut after);
    put_back(&dir, &after);
    let witness = PathBuf::from("witness");
    let allowed = match edits.crashed && before.get(&witness) != after.get(&witness) {
        true => &stores.states[..],
        false => &stores.states[last..=last],
    };
    let opened = catch_unwind(AssertUnwindSafe(|| Embedded::open(small(&dir)))).expect("opening does not panic");
    let store = match opened {
        Ok(store) => store,
        Err(refused) => {
            let line = refused.to_string();
            assert!(!line.contains('\n') && line.contains(&*dir.to_string_lossy()), "{line}");
            assert!(before != &after, "refused though whole: {line}");
            return;
        }
    };
    match told(&store).await {
        Ok(found) => assert!(allowed.contains(&found), "other than what was written: {found:?}"),
        Err(Error::Damaged(line)) => {
            assert!(!line.contains('\n'), "{line}");
            assert!(before != &after, "damaged though whole: {line}");
        }
        Err(other) => panic!("{other}"),
    }
}
