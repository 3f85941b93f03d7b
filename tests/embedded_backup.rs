//! Backup while serving, and restore: a consistent prefix under a new epoch, or a refusal.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod embedded_support;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use embedded_support::{all, apply, conversation, message, open, options, user};
use everline::store::Store;
use everline::store::embedded::{Embedded, Options, RestoreError, restore};

const PAIRS: u64 = 6;

/// Sends in every pair until told to stop; `acked` counts.
fn senders(
    store: &Arc<Embedded>,
    stop: &Arc<AtomicBool>,
    acked: &Arc<[AtomicU64; PAIRS as usize]>,
) -> Vec<tokio::task::JoinHandle<()>> {
    (0..PAIRS)
        .map(|pair| {
            let (store, stop, acked) = (store.clone(), stop.clone(), acked.clone());
            tokio::spawn(async move {
                let names = [format!("a{pair}"), format!("b{pair}")];
                for seq in 0.. {
                    apply(&store, message(&format!("d:{pair}"), &names, seq, |_| seq, seq)).await;
                    acked[pair as usize].store(seq + 1, Ordering::SeqCst);
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                }
            })
        })
        .collect()
}

fn now(acked: &[AtomicU64]) -> Vec<u64> {
    acked.iter().map(|count| count.load(Ordering::SeqCst)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_restores_to_a_state_that_was() {
    let dir = tempfile::tempdir().unwrap();
    let small = Options { checkpoint_bytes: 100_000, overlay_bytes: 400_000, ..options(&dir.path().join("data")) };
    let store = Embedded::open(small).unwrap();
    let (stop, acked) = (Arc::default(), Arc::default());
    let tasks = senders(&store, &stop, &acked);
    while now(&*acked).iter().any(|count| *count < 100) {
        tokio::task::yield_now().await;
    }
    let mut backups = Vec::new();
    for no in 0..3 {
        let (before, file) = (now(&*acked), dir.path().join(format!("backup{no}")));
        let report = {
            let (store, file) = (store.clone(), file.clone());
            tokio::task::spawn_blocking(move || store.backup(&file).unwrap()).await.unwrap()
        };
        assert_eq!(report.file_bytes, fs::metadata(&file).unwrap().len());
        assert!(store.backup(&file).is_err(), "an existing file is refused");
        backups.push((before, file, report, now(&*acked)));
    }
    stop.store(true, Ordering::SeqCst);
    for task in tasks {
        task.await.unwrap();
    }
    for (no, (before, file, report, after)) in backups.into_iter().enumerate() {
        let target = dir.path().join(format!("restored{no}"));
        assert_eq!(restore(&file, &options(&target)).unwrap(), report);
        let restored = open(&target);
        assert_ne!(restored.epoch(), store.epoch());
        for pair in 0..PAIRS {
            let conv = conversation(&format!("d:{pair}"));
            let (mine, theirs) = (all(&restored, &conv).await, all(&store, &conv).await);
            let count = mine.len();
            assert_eq!(mine, theirs[..count]);
            // One may have been durable but not yet counted.
            let range = before[pair as usize]..=after[pair as usize] + 1;
            assert!(range.contains(&(count as u64)), "{count} not in {range:?}");
            for name in [format!("a{pair}"), format!("b{pair}")] {
                assert_eq!(all(&restored, &user(&name)).await, all(&store, &user(&name)).await[..count]);
            }
        }
        apply(&restored, message("d:new", &["x".to_owned(), "y".to_owned()], 0, |_| 0, 0)).await;
    }
}

#[tokio::test]
async fn what_is_there_is_not_restored_over() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("data"));
    let file = dir.path().join("backup");
    store.backup(&file).unwrap();
    let target = dir.path().join("target");
    fs::create_dir(&target).unwrap();
    assert!(matches!(restore(&file, &options(&target)), Err(RestoreError::Exists(_))));
    assert!(matches!(restore(&dir.path().join("none"), &options(&dir.path().join("new"))), Err(RestoreError::Io(..))));
    assert!(!dir.path().join("new").exists());
}

#[tokio::test]
async fn a_cut_or_changed_backup_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("data"));
    let names = ["a".to_owned(), "b".to_owned()];
    for seq in 0..50 {
        apply(&store, message("d:a:b", &names, seq, |_| seq, seq)).await;
        if seq == 30 {
            store.checkpoint().unwrap();
        }
    }
    let file = dir.path().join("backup");
    store.backup(&file).unwrap();
    let whole = fs::read(&file).unwrap();
    let target = dir.path().join("target");
    let refuse = |bytes: &[u8], what: &str| {
        fs::write(&file, bytes).unwrap();
        let error = restore(&file, &options(&target)).expect_err(what);
        assert!(matches!(error, RestoreError::Corrupt(..)), "{what}: {error}");
        assert!(!error.to_string().contains('\n'));
        assert!(!target.exists());
    };
    for len in (0..whole.len()).step_by(whole.len() / 50).chain([whole.len() - 1]) {
        refuse(&whole[..len], &format!("cut at {len}"));
    }
    for at in (0..whole.len()).step_by(whole.len() / 100) {
        let mut changed = whole.clone();
        changed[at] ^= 0x20;
        refuse(&changed, &format!("changed at {at}"));
    }
    refuse(&[&whole[..], b"more"].concat(), "longer");
    fs::write(&file, &whole).unwrap();
    restore(&file, &options(&target)).unwrap();
    assert_eq!(all(&open(&target), &conversation("d:a:b")).await, all(&store, &conversation("d:a:b")).await);
}
