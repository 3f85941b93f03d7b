//! Buckets of conversations: what a crash between two steps leaves is right to read and is finished later.
//!
//! A process dies here as its runtime does: its tasks stop where they are.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod cql_support;

use std::sync::Arc;

use bytes::Bytes;
use cql_support::{keyspace, open, options, until};
use everline::config::CqlTarget;
use everline::protocol::ConvId;
use everline::store::cql::{Cql, Options};
use everline::store::{
    Attempt, Commit, NewEntry, Outcome, Position, RowKey, RowWrite, Section, Span, Store, TimelineId,
};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;

/// Entries of a bucket.
const BUCKET: u64 = 3;

fn timeline() -> TimelineId {
    TimelineId::Conversation(ConvId::parse("g:buckets").unwrap())
}

fn small(target: &CqlTarget) -> Options {
    Options { bucket_entries: BUCKET, ..options(target) }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// A commit of one entry after `seq` with a row of its own, and one that every commit writes.
fn one(seq: u64) -> Commit {
    let row = |id: String, value: String| RowWrite {
        key: RowKey { section: Section::Member, n: 0, id: id.into() },
        value: Some(value.into()),
        expires_at: None,
    };
    Commit {
        timeline: timeline(),
        expected: Position { seq, term: 0 },
        term: 0,
        attempt: Attempt(u128::from(seq) + 1),
        entries: vec![NewEntry { at: seq, data: Bytes::from(format!("body {}", seq + 1)) }],
        rewrite: Vec::new(),
        rows: vec![row(format!("of {seq}"), "1".to_owned()), row("all".to_owned(), seq.to_string())],
        floor: 0,
        fanned: 0,
    }
}

async fn apply(store: &Cql, commit: Commit) {
    assert_eq!(store.commit(vec![commit]).await, [Outcome::Applied]);
}

async fn bodies(store: &Cql, backward: bool) -> Vec<Bytes> {
    let span = Span { after: 0, up_to: u64::MAX, limit: usize::MAX, max_bytes: usize::MAX, backward };
    store.entries(&timeline(), span).await.unwrap().into_iter().map(|entry| entry.data).collect()
}

/// All member rows, the last word on the one everybody writes, and one of the first bucket.
async fn check_rows(store: &Cql, commits: u64) {
    let rows = store.rows(&timeline(), Section::Member, None, u64::MAX, usize::MAX).await.unwrap();
    assert_eq!(rows.len() as u64, commits + 1);
    let row = async |id: &str| {
        let key = RowKey { section: Section::Member, n: 0, id: id.into() };
        store.row(&timeline(), &key).await.unwrap()
    };
    assert_eq!(row("all").await.unwrap(), (commits - 1).to_string());
    assert_eq!(row("of 0").await.unwrap(), "1");
    assert_eq!(row("nobody").await, None);
}

/// A session beside the store, to see what stands in the tables.
async fn beside(target: &CqlTarget) -> Session {
    SessionBuilder::new().known_nodes(&target.hosts).build().await.unwrap()
}

/// How many buckets are settled.
async fn settled(session: &Session, target: &CqlTarget) -> i64 {
    let query = format!(
        "SELECT bucket FROM {}.conversation_settled WHERE conv_id = 'g:buckets' AND section = -1",
        target.keyspace
    );
    let rows = session.query_unpaged(query, ()).await.unwrap().into_rows_result().unwrap();
    rows.maybe_first_row::<(i64,)>().unwrap().map_or(0, |(count,)| count)
}

/// The stored body of entry 1, which stands in the first bucket.
async fn first_body(session: &Session, target: &CqlTarget) -> Vec<u8> {
    let query = format!(
        "SELECT value FROM {}.conversation_timeline WHERE conv_id = 'g:buckets' AND bucket = 0 AND section = 0",
        target.keyspace
    );
    let rows = session.query_unpaged(query, ()).await.unwrap().into_rows_result().unwrap();
    rows.first_row::<(Vec<u8>,)>().unwrap().0
}

/// Erasures noted in any bucket.
async fn noted(session: &Session, target: &CqlTarget) -> usize {
    let query = format!("SELECT section FROM {}.conversation_timeline WHERE conv_id = 'g:buckets'", target.keyspace);
    let rows = session.query_unpaged(format!("{query} AND section = 100 ALLOW FILTERING"), ()).await.unwrap();
    rows.into_rows_result().unwrap().rows_num()
}

/// Waits until the store asks the database for nothing any more.
async fn quiet(store: &Cql) {
    until("nothing is asked of the database", async || {
        let before = store.counters();
        tokio::time::sleep(std::time::Duration::from_millis(250)).await;
        store.counters() == before
    })
    .await;
}

#[test]
fn a_crash_between_sealing_and_settling_loses_no_row() {
    for commits in [BUCKET + 1, 2 * BUCKET, 5 * BUCKET + 2] {
        let Some(target) = block_on(keyspace()) else { return };
        block_on(async {
            let store = open(small(&target)).await;
            for seq in 0..commits {
                apply(&store, one(seq)).await;
            }
        });
        block_on(async {
            let store = open(small(&target)).await;
            check_rows(&store, commits).await;
            assert_eq!(bodies(&store, false).await.len() as u64, commits);
            // Whoever loads a conversation finishes what it finds.
            let session = beside(&target).await;
            let sealed = ((commits - 1) / BUCKET).cast_signed();
            until("settled", async || settled(&session, &target).await == sealed).await;
            check_rows(&store, commits).await;
            apply(&store, one(commits)).await;
            check_rows(&store, commits + 1).await;
        });
    }
}

#[test]
fn looking_up_a_row_costs_the_same_however_many_buckets_there_are() {
    let Some(target) = block_on(keyspace()) else { return };
    block_on(async {
        let store = open(small(&target)).await;
        let session = beside(&target).await;
        let mut costs = Vec::new();
        for seq in 0..10 * BUCKET {
            apply(&store, one(seq)).await;
            if seq % BUCKET == 0 && seq > 0 {
                let sealed = (seq / BUCKET).cast_signed();
                until("settled", async || settled(&session, &target).await == sealed).await;
                // Nothing else runs now.
                let key = RowKey { section: Section::Dedupe, n: 0, id: "never sent".into() };
                let before = store.counters().reads;
                assert_eq!(store.row(&timeline(), &key).await.unwrap(), None);
                costs.push(store.counters().reads - before);
            }
        }
        assert!(costs.iter().all(|cost| *cost <= 3), "{costs:?}");
    });
}

#[test]
fn a_body_erased_in_an_older_bucket_is_never_seen_again_and_goes_from_its_place() {
    for crash in [false, true] {
        let Some(target) = block_on(keyspace()) else { return };
        let erased = Bytes::from_static(b"erased");
        let last = 4 * BUCKET;
        let erase = async |store: &Cql| {
            apply(store, Commit { rewrite: vec![(1, Bytes::from_static(b"erased"))], ..one(last) }).await;
        };
        let seen = async |store: &Cql| {
            let (forward, backward) = (bodies(store, false).await, bodies(store, true).await);
            assert_eq!((forward.first(), backward.last()), (Some(&erased), Some(&erased)));
            assert_eq!(forward.len() as u64, last + 1);
        };
        block_on(async {
            let store = open(small(&target)).await;
            for seq in 0..last {
                apply(&store, one(seq)).await;
            }
            erase(&store).await;
            if !crash {
                seen(&store).await;
            }
        });
        block_on(async {
            let store = open(small(&target)).await;
            let session = beside(&target).await;
            seen(&store).await;
            until("erased in its place", async || first_body(&session, &target).await == b"erased").await;
            until("off the list", async || noted(&session, &target).await == 0).await;
            quiet(&store).await;
            seen(&store).await;
            check_rows(&store, last + 1).await;
        });
    }
}

/// The commit lands, its node does not hear of it and sends it again: it is refused, as a stranger's would be.
#[test]
fn a_body_erased_by_a_commit_of_unknown_outcome_goes_from_its_place() {
    let Some(target) = block_on(keyspace()) else { return };
    let erase = || Commit { rewrite: vec![(1, Bytes::from_static(b"erased"))], ..one(2 * BUCKET) };
    block_on(async {
        let store = open(small(&target)).await;
        for seq in 0..2 * BUCKET {
            apply(&store, one(seq)).await;
        }
    });
    let loaded = async || {
        let store = open(small(&target)).await;
        bodies(&store, false).await;
        quiet(&store).await;
        store
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let store = runtime.block_on(loaded());
    block_on(async { apply(&*loaded().await, erase()).await });
    runtime.block_on(async {
        let session = beside(&target).await;
        assert_ne!(first_body(&session, &target).await, b"erased", "who committed it is dead");
        assert!(matches!(store.commit(vec![erase()]).await[..], [Outcome::Conflict(_)]));
        until("erased in its place", async || first_body(&session, &target).await == b"erased").await;
        until("off the list", async || noted(&session, &target).await == 0).await;
    });
}

/// Every node that loads the conversation would ask for ever.
#[test]
fn what_cannot_be_taken_off_the_list_keeps_no_node_busy() {
    let Some(target) = block_on(keyspace()) else { return };
    block_on(async {
        let store = open(small(&target)).await;
        for seq in 0..=BUCKET {
            apply(&store, one(seq)).await;
        }
        // Younger than any deletion, as if the database took them for nothing.
        let note = format!(
            "INSERT INTO {}.conversation_timeline (conv_id, bucket, section, n, id, value) \
             VALUES ('g:buckets', 1, 100, 1, '', 0x00) USING TIMESTAMP {}",
            target.keyspace,
            i64::MAX / 2
        );
        let session = beside(&target).await;
        session.query_unpaged(note, ()).await.unwrap();
    });
    block_on(async {
        let store = open(small(&target)).await;
        bodies(&store, false).await;
        until("looked after", async || store.counters().erasure_rounds == 2).await;
        quiet(&store).await;
        assert_eq!(store.counters().erasure_rounds, 2, "one erasure, one try to take it off the list");
        assert_eq!(noted(&beside(&target).await, &target).await, 1);
        assert_eq!(bodies(&store, false).await[0].as_ref(), [0_u8]);
    });
}

#[test]
fn a_fence_raised_on_a_full_bucket_opens_the_next_and_keeps_others_out() {
    let Some(target) = block_on(keyspace()) else { return };
    block_on(async {
        let (store, other): (Arc<Cql>, Arc<Cql>) = (open(small(&target)).await, open(small(&target)).await);
        for seq in 0..BUCKET {
            apply(&store, one(seq)).await;
        }
        let fence = Commit { term: 1, entries: Vec::new(), rows: Vec::new(), ..one(BUCKET) };
        assert_eq!(other.head(&timeline()).await.unwrap().position, Position { seq: BUCKET, term: 0 });
        apply(&other, fence.clone()).await;
        // Who did not see it is refused, in whatever bucket he believes to be.
        for late in [one(BUCKET), fence] {
            let [Outcome::Conflict(head)] = store.commit(vec![late]).await[..] else { panic!("not refused") };
            assert_eq!(head.position, Position { seq: BUCKET, term: 1 });
        }
        let expected = Position { seq: BUCKET, term: 1 };
        apply(&store, Commit { expected, term: 1, ..one(BUCKET) }).await;
        check_rows(&other, BUCKET + 1).await;
        assert_eq!(bodies(&other, false).await.len() as u64, BUCKET + 1);
    });
}
