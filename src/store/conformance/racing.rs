//! Promises about several tasks at one store: nobody's commit is lost or doubled, readers see whole
//! commits, and see what was applied.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::join_all;

use super::fixture::{Fixture, above, append, append_numbers, conversation, key, put, settle, user};
use crate::store::{Attempt, Commit, Outcome, Position, Section, Store, TimelineId};

/// Appends `commits` commits of two entries, trying anew after each conflict; returns its attempts in
/// the order they were applied.
async fn appender(store: Arc<dyn Store>, timeline: TimelineId, commits: usize) -> Vec<Attempt> {
    let mut applied = Vec::new();
    let mut seq = 0;
    while applied.len() < commits {
        let commit = append(&timeline, seq, &["x", "y"]);
        let attempt = commit.attempt;
        match settle(&*store, vec![commit]).await[..] {
            [Outcome::Applied] => applied.push(attempt),
            [Outcome::Conflict(head)] => {
                assert_ne!(head.position, Position { seq, term: 0 }, "refused at the head it expected");
                seq = head.position.seq;
                tokio::task::yield_now().await;
            }
            ref other => panic!("{other:?}"),
        }
        if applied.len() % 3 == 0 {
            tokio::task::yield_now().await;
        }
    }
    applied
}

/// Sixteen appenders that try again on conflict fill a timeline densely, each commit once, each
/// appender's in its order.
pub async fn appenders_share_a_timeline(mut fixture: Fixture) {
    let timeline = conversation("g:busy");
    let tasks = (0..16).map(|_| tokio::spawn(appender(fixture.store().clone(), timeline.clone(), 10)));
    let applied: Vec<Vec<Attempt>> = join_all(tasks).await.into_iter().map(|task| task.unwrap()).collect();
    fixture.reopen().await;
    let entries = fixture.above(&timeline, 0).await;
    assert_eq!(fixture.head(&timeline).await.position.seq, 320);
    assert!(entries.iter().map(|entry| entry.seq).eq(1..=320));
    let order: Vec<Attempt> = entries.chunks(2).map(|pair| pair[0].attempt).collect();
    assert!(entries.chunks(2).all(|pair| pair[0].attempt == pair[1].attempt));
    assert_eq!(order.iter().map(|attempt| attempt.0).collect::<BTreeSet<_>>().len(), 160, "each once");
    for attempts in applied {
        let places: Vec<_> = attempts.iter().map(|mine| order.iter().position(|attempt| attempt == mine)).collect();
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?}");
    }
}

/// Every kind of read made after `Applied` shows the commit, at once.
pub async fn what_was_applied_is_read_at_once(fixture: Fixture) {
    let (log, reader) = (conversation("g:now"), user("now"));
    for seq in 0..100_u64 {
        let row = key(Section::Change, seq, "");
        let commit = Commit { rows: vec![put(&row, "x")], ..append_numbers(&log, seq, 1) };
        let outcomes = settle(&**fixture.store(), vec![commit, append_numbers(&reader, seq, 1)]).await;
        assert_eq!(outcomes, [Outcome::Applied; 2]);
        for timeline in [&log, &reader] {
            assert_eq!(fixture.head(timeline).await.position.seq, seq + 1);
            assert_eq!(fixture.above(timeline, seq).await.len(), 1);
        }
        assert!(fixture.row(&log, &row).await.is_some());
        assert_eq!(fixture.section(&log, Section::Change).await.len() as u64, seq + 1);
    }
}

/// A reader beside a writer never sees half a commit.
pub async fn a_commit_is_seen_whole(fixture: Fixture) {
    let timeline = conversation("g:whole");
    let done = Arc::new(AtomicBool::new(false));
    let readers = (0..4).map(|_| {
        let (store, timeline, done) = (fixture.store().clone(), timeline.clone(), done.clone());
        tokio::spawn(async move {
            while !done.load(Ordering::Acquire) {
                let entries = store.entries(&timeline, above(0)).await.unwrap();
                assert!(entries.iter().map(|entry| entry.seq).eq(1..=entries.len() as u64), "dense");
                assert_eq!(entries.len() % 3, 0, "commits have three entries");
                let rows = store.rows(&timeline, Section::Member, None, u64::MAX, usize::MAX).await.unwrap();
                assert_eq!(rows.len() % 2, 0, "commits have two rows");
                tokio::task::yield_now().await;
            }
        })
    });
    let readers: Vec<_> = readers.collect();
    for seq in (0..300).step_by(3) {
        let rows = ["a", "b"].map(|id| put(&key(Section::Member, seq, id), "x")).to_vec();
        fixture.apply(Commit { rows, ..append_numbers(&timeline, seq, 3) }).await;
        tokio::task::yield_now().await;
    }
    done.store(true, Ordering::Release);
    for reader in readers {
        reader.await.unwrap();
    }
}

/// Of many commits made at once for the same place exactly one is applied.
pub async fn one_of_many_equals_wins(fixture: Fixture) {
    let timeline = user("wanted");
    for seq in 0..20 {
        let tasks = (0..8).map(|_| {
            let (store, commit) = (fixture.store().clone(), append(&timeline, seq, &["same"]));
            tokio::spawn(async move { (commit.attempt, settle(&*store, vec![commit]).await[0]) })
        });
        let ends = join_all(tasks).await.into_iter().map(|task| task.unwrap());
        let winners: Vec<Attempt> =
            ends.filter(|(_, outcome)| *outcome == Outcome::Applied).map(|(attempt, _)| attempt).collect();
        let stored: Vec<Attempt> = fixture.above(&timeline, seq).await.iter().map(|entry| entry.attempt).collect();
        assert_eq!(winners, stored);
        assert_eq!(stored.len(), 1);
    }
}
