//! The faults of the simulated store are the ones it promises, and a seed decides all of them.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use everline::config::Clock;
use everline::protocol::{ConvId, UserId};
use everline::store::sim::{Faults, Moment, Sim, SimOptions, Unknown};
use everline::store::{
    Attempt, Commit, Error, Mark, NewEntry, Outcome, Position, RowKey, RowWrite, Section, Span, Store, TimelineId,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::{sleep, timeout};

const MS: Duration = Duration::from_millis(1);
const LONG: Duration = Duration::from_secs(3600);

fn sim(seed: u64, together: bool, faults: Faults) -> Sim {
    Sim::new(SimOptions { seed, clock: Clock::simulated(1_000_000), together, faults })
}

fn always_unknown(happened: f64, did_not: f64, later: f64) -> Faults {
    let late = Duration::from_secs(5)..Duration::from_secs(10);
    Faults { unknown_p: 1.0, unknown: Unknown { happened, did_not, later }, late, ..Faults::none() }
}

fn latency(ms: std::ops::Range<u64>) -> Faults {
    Faults {
        latency: Duration::from_millis(ms.start)..Duration::from_millis(ms.end),
        lose_unsynced: true,
        ..Faults::none()
    }
}

fn log() -> TimelineId {
    TimelineId::Conversation(ConvId::parse("g:log").unwrap())
}

fn user() -> TimelineId {
    TimelineId::User(UserId::parse("alice").unwrap())
}

fn append_to(timeline: TimelineId, seq: u64, attempt: u128) -> Commit {
    Commit {
        timeline,
        expected: Position { seq, term: 0 },
        term: 0,
        attempt: Attempt(attempt),
        entries: vec![NewEntry { at: 1000 + seq, data: Bytes::from(attempt.to_string()) }],
        rewrite: Vec::new(),
        rows: Vec::new(),
        floor: 0,
        fanned: 0,
    }
}

fn append(seq: u64, attempt: u128) -> Vec<Commit> {
    vec![append_to(log(), seq, attempt)]
}

fn attempts(sim: &Sim) -> Vec<u128> {
    sim.dump(&log()).entries.iter().map(|entry| entry.attempt.0).collect()
}

fn is_refused(outcomes: &[Outcome]) -> bool {
    matches!(outcomes, [Outcome::Conflict(_)])
}

#[tokio::test(start_paused = true)]
async fn an_unknown_that_happened_is_found_by_its_attempt() {
    for together in [false, true] {
        let sim = sim(1, together, always_unknown(1.0, 0.0, 0.0));
        assert_eq!(sim.commit(append(0, 7)).await, [Outcome::Unknown]);
        assert_eq!(attempts(&sim), [7]);
        sim.set_faults(Faults::none());
        assert!(is_refused(&sim.commit(append(0, 7)).await));
        assert_eq!(attempts(&sim), [7]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_that_did_not_happen_never_does() {
    for together in [false, true] {
        let sim = sim(1, together, always_unknown(0.0, 1.0, 0.0));
        assert_eq!(sim.commit(append(0, 7)).await, [Outcome::Unknown]);
        sleep(LONG).await;
        assert_eq!(attempts(&sim), []);
        sim.set_faults(Faults::none());
        assert_eq!(sim.commit(append(0, 7)).await, [Outcome::Applied]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_that_happens_later_is_judged_when_it_lands() {
    let sim = sim(1, false, always_unknown(0.0, 0.0, 1.0));
    assert_eq!(sim.commit(append(0, 1)).await, [Outcome::Unknown]);
    sleep(Duration::from_secs(4)).await;
    assert_eq!(attempts(&sim), [], "still under way");
    sleep(Duration::from_secs(7)).await;
    assert_eq!(attempts(&sim), [1], "landed");

    assert_eq!(sim.commit(append(1, 2)).await, [Outcome::Unknown]);
    sim.set_faults(Faults::none());
    assert_eq!(sim.commit(append(1, 3)).await, [Outcome::Applied]);
    sleep(LONG).await;
    assert_eq!(attempts(&sim), [1, 3], "came too late");
}

#[tokio::test(start_paused = true)]
async fn in_a_store_that_commits_together_what_lands_later_keeps_its_place() {
    let sim = sim(1, true, always_unknown(0.0, 0.0, 1.0));
    assert_eq!(sim.commit(append(0, 1)).await, [Outcome::Unknown]);
    sim.set_faults(Faults::none());
    assert_eq!(attempts(&sim), []);
    assert!(is_refused(&sim.commit(append(0, 2)).await), "decided in the order of the calls");
    assert_eq!(attempts(&sim), [1]);
}

/// Appends messages 1..=20, an attempt being message + 100 * number of the try. What ended unknown is
/// sent again the same; or (wrong) looked up and, not being there, taken for undone and numbered anew.
async fn send_all(sim: &Sim, numbers_anew: bool) {
    for message in 1..=20 {
        let mut seq = sim.head(&log()).await.unwrap().position.seq;
        let mut attempt = message;
        loop {
            let outcome = sim.commit(append(seq, attempt)).await[0];
            let head = sim.head(&log()).await.unwrap().position.seq;
            let written = attempts(sim).contains(&attempt);
            match outcome {
                Outcome::Applied => break,
                Outcome::Unknown if !numbers_anew => {}
                _ if written => break,
                _ => (seq, attempt) = (head, attempt + 100),
            }
        }
    }
    sleep(LONG).await;
}

/// Read and number anew: the mistake that unknown outcomes invite. The simulation must be able to show
/// it; otherwise it would be blind to it in the real lanes.
#[tokio::test(start_paused = true)]
async fn numbering_anew_after_unknown_doubles_and_sending_the_same_does_not() {
    let mut doubled = 0;
    for seed in 0..40 {
        for numbers_anew in [false, true] {
            let unknown = Unknown { happened: 1.0, did_not: 1.0, later: 2.0 };
            let late = MS..50 * MS;
            let sim = sim(seed, false, Faults { unknown_p: 0.3, unknown, late, ..latency(1..20) });
            let other = sim.handle();
            let rival = tokio::spawn(async move {
                let mut seq = 0;
                for attempt in 1_000_000..1_000_020 {
                    if let [Outcome::Conflict(head)] = other.commit(append(seq, attempt)).await[..] {
                        seq = head.position.seq;
                    }
                }
            });
            send_all(&sim, numbers_anew).await;
            rival.await.unwrap();
            let mut found = attempts(&sim);
            found.retain(|attempt| *attempt < 1_000_000);
            found.iter_mut().for_each(|attempt| *attempt %= 100);
            let all = found.len();
            found.sort_unstable();
            found.dedup();
            assert_eq!(found.len(), 20, "seed {seed}");
            assert!(numbers_anew || all == 20, "seed {seed} doubled although the same was sent again");
            doubled += usize::from(all > 20);
        }
    }
    assert!(doubled > 0, "the simulation is blind to late requests");
}

#[tokio::test(start_paused = true)]
async fn a_crash_forgets_what_was_not_durable_and_nothing_else() {
    let sim = sim(1, true, latency(10..11));
    assert_eq!(sim.commit(append(0, 1)).await, [Outcome::Applied]);
    let (second, third) = (sim.commit(append(1, 2)), sim.commit(append(2, 3)));
    let refused = sim.commit(append(0, 4));
    sleep(5 * MS).await;
    assert_eq!(sim.dump(&log()).head.position.seq, 1, "not seen before durable");
    let restarted = sim.crash();
    assert_eq!(attempts(&restarted), [1]);
    for future in [second, third, refused] {
        assert!(timeout(LONG, future).await.is_err(), "nobody is left to answer");
    }
    assert!(timeout(LONG, sim.commit(append(1, 5))).await.is_err(), "the dead do nothing");
    assert!(timeout(LONG, sim.head(&log())).await.is_err());
    assert_eq!(attempts(&restarted), [1]);
    assert_eq!(restarted.commit(append(1, 6)).await, [Outcome::Applied]);
    assert_eq!(attempts(&restarted), [1, 6]);
}

#[tokio::test(start_paused = true)]
async fn a_crash_may_come_after_the_sync_and_before_the_answer() {
    let sim = sim(1, true, Faults { lose_unsynced: false, ..latency(10..11) });
    let unanswered = sim.commit(append(0, 1));
    let restarted = sim.crash();
    assert!(timeout(LONG, unanswered).await.is_err());
    assert_eq!(attempts(&restarted), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_dead_node_of_a_cluster_leaves_its_requests_under_way() {
    let one = sim(1, false, latency(10..11));
    let other = one.handle();
    let unanswered = tokio::spawn(one.commit(append(0, 1)));
    sleep(5 * MS).await;
    let restarted = one.crash();
    assert_eq!(attempts(&restarted), []);
    sleep(LONG).await;
    assert_eq!(attempts(&restarted), [1], "landed after the death of its sender");
    assert!(!unanswered.is_finished());
    assert_eq!(other.commit(append(1, 2)).await, [Outcome::Applied]);
    assert_eq!(restarted.commit(append(2, 3)).await, [Outcome::Applied]);
}

#[tokio::test(start_paused = true)]
async fn a_commit_can_be_held_before_and_after_its_effect() {
    for together in [false, true] {
        let sim = sim(1, together, Faults::none());
        for (seq, moment) in [(0, Moment::Before), (1, Moment::After)] {
            let hold = sim.hold_next_commit(moment);
            let commit = tokio::spawn(sim.commit(append(seq, 2)));
            hold.reached().await;
            sleep(LONG).await;
            let effect = u64::from(moment == Moment::After);
            assert_eq!(sim.dump(&log()).head.position.seq, seq + effect);
            assert!(!commit.is_finished());
            hold.release();
            assert_eq!(commit.await.unwrap(), [Outcome::Applied]);
            assert_eq!(sim.head(&log()).await.unwrap().position.seq, seq + 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn another_node_may_overtake_a_held_commit() {
    let one = sim(1, false, Faults::none());
    let other = one.handle();
    let hold = one.hold_next_commit(Moment::Before);
    let late = tokio::spawn(one.commit(append(0, 1)));
    hold.reached().await;
    assert_eq!(other.commit(append(0, 2)).await, [Outcome::Applied]);
    drop(hold);
    assert!(is_refused(&late.await.unwrap()));
    assert_eq!(attempts(&one), [2]);
}

#[tokio::test(start_paused = true)]
async fn in_a_store_that_commits_together_later_calls_wait_behind_a_held_one() {
    let sim = sim(1, true, Faults::none());
    let hold = sim.hold_next_commit(Moment::Before);
    let first = tokio::spawn(sim.commit(append(0, 1)));
    let second = tokio::spawn(sim.commit(append(1, 2)));
    sleep(LONG).await;
    assert!(hold.is_reached() && !second.is_finished() && attempts(&sim).is_empty());
    hold.release();
    assert_eq!(first.await.unwrap(), [Outcome::Applied]);
    assert_eq!(second.await.unwrap(), [Outcome::Applied]);
}

#[tokio::test(start_paused = true)]
async fn a_node_cut_off_hears_nothing_and_the_others_go_on() {
    for together in [false, true] {
        let one = sim(1, together, latency(10..11));
        let other = one.handle();
        let under_way = tokio::spawn(one.commit(append(0, 1)));
        sleep(5 * MS).await;
        one.cut(true);
        assert_eq!(under_way.await.unwrap(), [Outcome::Unknown], "the answer is lost");
        assert_eq!(one.commit(append(1, 2)).await, [Outcome::Unknown]);
        assert!(matches!(one.head(&log()).await, Err(Error::Unavailable(_))));
        let mark = Mark { conversation: ConvId::parse("g:log").unwrap(), node: 1, burst: 1, from: 0 };
        assert!(one.put_mark(mark).await.is_err());
        assert_eq!(other.commit(append(1, 3)).await, [Outcome::Applied]);
        one.cut(false);
        assert_eq!(one.head(&log()).await.unwrap().position.seq, 2);
        assert_eq!(attempts(&one), [1, 3]);
        assert_eq!(one.all_marks(), []);
    }
}

#[tokio::test(start_paused = true)]
async fn a_paused_node_stands_still_and_what_it_had_sent_lands() {
    let one = sim(1, false, latency(10..11));
    let other = one.handle();
    let under_way = tokio::spawn(one.commit(append(0, 1)));
    sleep(5 * MS).await;
    one.pause(true);
    let (waiting, reader) = (tokio::spawn(one.commit(append(1, 2))), one.clone());
    let reading = tokio::spawn(async move { reader.head(&log()).await });
    sleep(LONG).await;
    assert!(!under_way.is_finished() && !waiting.is_finished() && !reading.is_finished());
    assert_eq!(attempts(&one), [1]);
    assert_eq!(other.commit(append(1, 3)).await, [Outcome::Applied]);
    one.pause(false);
    assert_eq!(under_way.await.unwrap(), [Outcome::Applied]);
    assert!(is_refused(&waiting.await.unwrap()));
    assert_eq!(reading.await.unwrap().unwrap().position.seq, 2);
}

#[tokio::test(start_paused = true)]
async fn reads_fail_as_often_as_asked() {
    let sim = sim(3, false, Faults { read_error_p: 0.25, ..Faults::none() });
    let mut failed = 0;
    for _ in 0..1000 {
        failed += usize::from(sim.head(&log()).await.is_err());
    }
    assert!((200..300).contains(&failed), "{failed}");
}

#[tokio::test(start_paused = true)]
async fn rows_vanish_when_they_expire() {
    let clock = Clock::simulated(1_000_000);
    let sim = Sim::new(SimOptions { seed: 1, clock: clock.clone(), together: true, faults: Faults::none() });
    let key = RowKey { section: Section::Dedupe, n: 0, id: Arc::from("a") };
    let row = RowWrite { key: key.clone(), value: Some(Bytes::new()), expires_at: Some(1_060_000) };
    let commit = Commit { rows: vec![row], ..append_to(log(), 0, 1) };
    assert_eq!(sim.commit(vec![commit]).await, [Outcome::Applied]);
    sleep(Duration::from_secs(60)).await;
    assert!(sim.row(&log(), &key).await.unwrap().is_some(), "never before its moment");
    clock.jump(1);
    assert!(sim.row(&log(), &key).await.unwrap().is_none());
    assert_eq!(sim.rows(&log(), Section::Dedupe, None, u64::MAX, 10).await.unwrap(), []);
}

#[tokio::test]
async fn old_entries_of_users_and_damaged_ones_are_gone_and_heads_stay() {
    let sim = sim(1, false, Faults::none());
    for seq in 0..10 {
        let call = vec![append_to(log(), seq, 1), append_to(user(), seq, 1)];
        assert_eq!(sim.commit(call).await, [Outcome::Applied; 2]);
    }
    sim.expire_entries(1004);
    assert!(sim.damage(&user(), 7) && !sim.damage(&user(), 7));
    let span = Span { after: 0, up_to: u64::MAX, limit: 100, max_bytes: 100, backward: false };
    let left = sim.entries(&user(), span).await.unwrap();
    assert_eq!(left.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [5, 6, 8, 9, 10]);
    assert_eq!(sim.head(&user()).await.unwrap().position.seq, 10);
    assert_eq!(sim.entries(&log(), span).await.unwrap().len(), 10);
    assert_eq!(sim.all_timelines(), [log(), user()]);
}

#[tokio::test]
async fn a_careless_caller_is_told_of() {
    let sim = sim(1, true, Faults::none());
    sim.commit(append(0, 1)).await;
    assert_eq!(sim.breaches(), Vec::<String>::new());
    let floor = Commit { floor: 9, ..append_to(log(), 1, 1) };
    let mut older = append_to(log(), 2, 1);
    older.entries[0].at = 5;
    for careless in [floor, older] {
        sim.commit(vec![careless]).await;
    }
    sim.commit(vec![append_to(user(), 0, 1), append_to(user(), 0, 2)]).await;
    assert_eq!(sim.breaches().len(), 3, "{:?}", sim.breaches());
}

/// Three nodes and everything that can go wrong; returns what was seen, in order.
async fn story(seed: u64, together: bool) -> (Vec<String>, (u64, u64)) {
    let unknown = Unknown { happened: 1.0, did_not: 1.0, later: 1.0 };
    let sim = sim(seed, together, Faults { unknown_p: 0.2, unknown, read_error_p: 0.1, ..latency(0..20) });
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let nodes = (0..3_u64).map(|node| {
        let (sim, seen) = (sim.handle(), seen.clone());
        tokio::spawn(async move {
            let mut rng = StdRng::seed_from_u64(seed ^ node);
            for step in 0..60 {
                let seq = sim.head(&log()).await.map_or(0, |head| head.position.seq);
                let outcomes = sim.commit(append(seq, u128::from(node * 1000 + step))).await;
                seen.lock().unwrap().push(format!("{node} {step} {seq} {outcomes:?}"));
                sim.cut(rng.random_bool(0.1));
                sleep(MS * rng.random_range(0..10)).await;
            }
        })
    });
    for node in nodes.collect::<Vec<_>>() {
        node.await.unwrap();
    }
    sleep(LONG).await;
    let seen = seen.lock().unwrap().clone();
    (seen, sim.fingerprint())
}

#[tokio::test(start_paused = true)]
async fn a_seed_decides_the_story() {
    for together in [false, true] {
        let first = story(5, together).await;
        assert_eq!(first, story(5, together).await);
        assert_ne!(first, story(6, together).await);
        for outcome in ["Applied", "Conflict", "Unknown"] {
            assert!(first.0.iter().any(|line| line.contains(outcome)), "no {outcome}");
        }
    }
}
