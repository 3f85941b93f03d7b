//! Reads beside commits and checkpoints, with next to nothing kept in memory: nobody sees a head go back,
//! and no commit is refused for a head that was true a moment ago.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod embedded_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use embedded_support::{append, apply, options, row, user};
use everline::store::embedded::{Embedded, Options};
use everline::store::{Commit, RowKey, Section, Span, Store};

const TIMELINES: usize = 40;
const ROUNDS: u64 = 150;

/// Reads a timeline: head, last entry and row are never older than what was acknowledged before.
async fn look(store: &Embedded, no: usize, acked: &AtomicU64) {
    let id = user(&format!("u{no}"));
    let before = acked.load(Ordering::SeqCst);
    let head = store.head(&id).await.unwrap().position.seq;
    assert!(head >= before, "head {head} after {before} were acknowledged");
    let last = Span { after: 0, up_to: u64::MAX, limit: 3, max_bytes: usize::MAX, backward: true };
    let entries = store.entries(&id, last).await.unwrap();
    let seqs: Vec<u64> = entries.iter().map(|entry| entry.seq).collect();
    let newest = seqs.first().copied().unwrap_or(0);
    assert!(newest >= head);
    assert_eq!(seqs, (1..=newest).rev().take(3).collect::<Vec<_>>());
    let key = RowKey { section: Section::Conv, n: 0, id: "g".into() };
    let value = store.row(&id, &key).await.unwrap();
    let value = value.map_or(0, |value| u64::from_be_bytes(value[..].try_into().unwrap()));
    assert!(value >= newest, "row {value} is older than entry {newest} of the same commit");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_sees_a_head_go_back() {
    let dir = tempfile::tempdir().unwrap();
    let pressed = Options { checkpoint_bytes: 0, overlay_bytes: 1, timeline_cache_bytes: 8_000, ..options(dir.path()) };
    let store = Embedded::open(pressed).unwrap();
    let acked: Arc<Vec<AtomicU64>> = Arc::new((0..TIMELINES).map(|_| AtomicU64::new(0)).collect());
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..3)
        .map(|reader| {
            let (store, acked, done) = (store.clone(), acked.clone(), done.clone());
            tokio::spawn(async move {
                for no in (0..TIMELINES).cycle().skip(reader * 13) {
                    look(&store, no, &acked[no]).await;
                    tokio::task::yield_now().await;
                    if done.load(Ordering::SeqCst) {
                        break;
                    }
                }
            })
        })
        .collect();
    let writers = (0..TIMELINES).map(|no| {
        let (store, acked) = (store.clone(), acked.clone());
        tokio::spawn(async move {
            let id = user(&format!("u{no}"));
            for seq in 0..ROUNDS {
                let value = Bytes::copy_from_slice(&(seq + 1).to_be_bytes());
                let rows = vec![row(Section::Conv, "g", value, None)];
                apply(&store, vec![Commit { rows, ..append(&id, seq, &[Bytes::from_static(b"x")]) }]).await;
                acked[no].store(seq + 1, Ordering::SeqCst);
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    done.store(true, Ordering::SeqCst);
    for reader in readers {
        reader.await.unwrap();
    }
}
