//! The embedded store keeps the contract of `store`: as it is by default, and with everything pressed
//! through the checkpoint at once.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::path::Path;
use std::sync::{Arc, Mutex, Weak};

use everline::config::Clock;
use everline::conformance_suite;
use everline::store::Store;
use everline::store::conformance::Fixture;
use everline::store::embedded::{Embedded, Options};
use tempfile::TempDir;

/// How a store is left before it is opened again.
#[derive(Clone, Copy)]
enum Leave {
    /// Everything in its place.
    Closed,
    /// As by a crash: the journal only.
    Dropped,
}

type Last = Arc<Mutex<Weak<Embedded>>>;

fn open(dir: &Path, checkpoint_bytes: usize, last: &Last) -> Arc<dyn Store> {
    let options = Options::new(dir.join("data"), Clock::system());
    // With a tiny bound every group commit waits for a checkpoint; then nothing stays in the cache either.
    let overlay_bytes = checkpoint_bytes.max(4);
    let timeline_cache_bytes = if checkpoint_bytes == 0 { 2000 } else { options.timeline_cache_bytes };
    let options = Options { checkpoint_bytes, overlay_bytes, timeline_cache_bytes, ..options };
    let store = Embedded::open(options).unwrap();
    *last.lock().unwrap() = Arc::downgrade(&store);
    store
}

fn fixture(leave: Leave, checkpoint_bytes: usize) -> Fixture {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let last = Last::default();
    let store = open(dir.path(), checkpoint_bytes, &last);
    let guard: Arc<TempDir> = dir.clone();
    let reopen = move |store: Arc<dyn Store>| {
        if let (Leave::Closed, Some(store)) = (leave, last.lock().unwrap().upgrade()) {
            store.close().unwrap();
        }
        drop(store);
        let opened = open(dir.path(), checkpoint_bytes, &last);
        async { opened }
    };
    Fixture::new(store).reopening(reopen).guarded(guard)
}

const USUAL: usize = 32 * 1024 * 1024;

conformance_suite!(closed, || async { fixture(Leave::Closed, USUAL) });
conformance_suite!(dropped, || async { fixture(Leave::Dropped, USUAL) });
conformance_suite!(pressed, || async { fixture(Leave::Dropped, 0) });
