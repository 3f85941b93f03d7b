//! Requests that are given up after a few milliseconds end unknown by the thousand, and may run later than
//! anything done since. Appenders of several stores on the same timelines must give 1..N all the same,
//! each commit once, each appender's in its order.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a failed unwrap is a failed test")]

mod cql_support;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cql_support::{keyspace, open, options};
use everline::protocol::{ConvId, UserId};
use everline::store::cql::{Cql, Options};
use everline::store::{Attempt, Commit, Entry, NewEntry, Position, Span, Store, TimelineId};
use everline::timeline::{Decided, commit_until_decided};

/// Client timeouts, one store each; far below what a busy moment of the database takes.
const TIMEOUTS_MS: [u64; 4] = [4, 6, 8, 12];
const APPENDERS: usize = 48;
/// The run ends when so many outcomes were unknown ...
const UNKNOWN: u64 = 2000;
/// ... or after this, and then too few is a failure.
const LONGEST: Duration = Duration::from_secs(150);

fn timelines() -> Vec<TimelineId> {
    let conversations = ["g:one", "g:two", "g:three"].map(|id| TimelineId::Conversation(ConvId::parse(id).unwrap()));
    let users = ["one", "two"].map(|id| TimelineId::User(UserId::parse(id).unwrap()));
    conversations.into_iter().chain(users).collect()
}

fn span(after: u64, up_to: u64) -> Span {
    Span { after, up_to, limit: usize::MAX, max_bytes: usize::MAX, backward: false }
}

/// Reads until it is answered: reads are given up as quickly.
async fn attempt_at(store: &Arc<dyn Store>, timeline: &TimelineId, seq: u64) -> Option<Attempt> {
    loop {
        match store.entries(timeline, span(seq - 1, seq)).await {
            Ok(entries) => return entries.first().map(|entry| entry.attempt),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

/// One appender: commits of one or two entries as fast as they are decided. Returns the attempts applied.
async fn appender(store: Arc<dyn Store>, timeline: TimelineId, me: u128, stop: impl Fn() -> bool) -> Vec<Attempt> {
    let (mut position, mut applied) = (Position::default(), Vec::new());
    for count in 1_u128.. {
        if stop() {
            break;
        }
        let attempt = Attempt(me << 64 | count);
        let data = Bytes::copy_from_slice(&attempt.0.to_be_bytes());
        loop {
            let commit = Commit {
                timeline: timeline.clone(),
                expected: position,
                term: position.term,
                attempt,
                entries: vec![NewEntry { at: 1, data: data.clone() }; 1 + (count % 2) as usize],
                rewrite: Vec::new(),
                rows: Vec::new(),
                floor: 0,
                fanned: 0,
            };
            let length = commit.entries.len() as u64;
            match commit_until_decided(&store, vec![commit]).await[0] {
                Decided::Applied => position.seq += length,
                Decided::Doubtful(_) if attempt_at(&store, &timeline, position.seq + 1).await == Some(attempt) => {
                    position.seq += length;
                }
                Decided::Refused(head) | Decided::Doubtful(head) => {
                    position = head.position;
                    continue;
                }
            }
            applied.push(attempt);
            break;
        }
    }
    applied
}

fn verify(timeline: &TimelineId, entries: &[Entry], applied: &[Vec<Attempt>]) {
    assert!(entries.iter().map(|entry| entry.seq).eq(1..=entries.len() as u64), "{timeline:?} is not dense");
    let mut order: Vec<Attempt> = Vec::new();
    for entry in entries {
        assert_eq!(entry.data, &entry.attempt.0.to_be_bytes()[..], "content and attempt differ");
        if order.last() != Some(&entry.attempt) {
            order.push(entry.attempt);
        }
    }
    let place: HashMap<Attempt, usize> = order.iter().enumerate().map(|(place, attempt)| (*attempt, place)).collect();
    assert_eq!(place.len(), order.len(), "a commit stands twice in {timeline:?}");
    let acknowledged: usize = applied.iter().map(Vec::len).sum();
    assert_eq!(order.len(), acknowledged, "what stands in {timeline:?} is what was applied");
    for mine in applied {
        let places: Vec<usize> = mine.iter().map(|attempt| place[attempt]).collect();
        assert!(places.is_sorted(), "order of an appender in {timeline:?}");
    }
    let expected: usize = applied.iter().flatten().map(|attempt| 1 + (attempt.0 % 2) as usize).sum();
    assert_eq!(entries.len(), expected, "a commit stands whole in {timeline:?}");
}

async fn appenders(bucket_entries: u64) {
    let Some(target) = keyspace().await else { return };
    let patient = Options { bucket_entries, ..options(&target) };
    let mut stores: Vec<Arc<Cql>> = Vec::new();
    for ms in TIMEOUTS_MS {
        stores.push(open(Options { timeout: Duration::from_millis(ms), ..patient.clone() }).await);
    }
    let unknown = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let tasks: Vec<_> = (0..APPENDERS)
        .map(|me| {
            let all = timelines();
            let (timeline, store) = (all[me % all.len()].clone(), stores[me % stores.len()].clone());
            let unknown = Arc::clone(&unknown);
            let stop = move || unknown.load(Ordering::Relaxed) >= UNKNOWN || began.elapsed() > LONGEST;
            (timeline.clone(), tokio::spawn(appender(store, timeline, me as u128 + 1, stop)))
        })
        .collect();
    while tasks.iter().any(|(_, task)| !task.is_finished()) {
        unknown.store(stores.iter().map(|store| store.counters().unknown).sum(), Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut applied: HashMap<TimelineId, Vec<Vec<Attempt>>> = HashMap::new();
    for (timeline, task) in tasks {
        applied.entry(timeline).or_default().push(task.await.unwrap());
    }
    let store = open(patient).await;
    let mut total = 0;
    for (timeline, applied) in &applied {
        let entries = store.entries(timeline, span(0, u64::MAX)).await.unwrap();
        verify(timeline, &entries, applied);
        assert_eq!(store.head(timeline).await.unwrap().position.seq, entries.len() as u64);
        total += entries.len();
    }
    let seen = unknown.load(Ordering::Relaxed);
    eprintln!("{total} entries, {seen} unknown outcomes, {:.1} s", began.elapsed().as_secs_f64());
    assert!(seen >= UNKNOWN, "only {seen} unknown outcomes: this has tested little");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appenders_of_several_stores_give_each_number_once_with_thousands_of_unknown_outcomes() {
    appenders(10_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_while_buckets_fill_and_are_settled() {
    appenders(25).await;
}
