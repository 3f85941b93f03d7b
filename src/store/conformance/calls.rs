//! Promises about a call of many commits: each in its place, and one or all of them refused.

use bytes::Bytes;
use futures::future::join_all;

use super::fixture::{Fixture, append, append_numbers, conversation, key, numbered, put, seqs, settle, user};
use crate::store::{Commit, Head, Outcome, Section, TimelineId};

/// A call without commits is answered with nothing.
pub async fn an_empty_call_has_no_outcomes(fixture: Fixture) {
    assert_eq!(fixture.store().commit(Vec::new()).await, []);
}

/// Stores that do not commit together apply and refuse the commits of one call each by itself, and
/// answer them in the order given.
pub async fn a_call_is_answered_commit_by_commit(fixture: Fixture) {
    if fixture.store().together() {
        return;
    }
    let timelines: Vec<TimelineId> = (0..20).map(|i| user(&format!("u{i}"))).collect();
    for (i, timeline) in timelines.iter().enumerate().filter(|(i, _)| i % 3 == 0) {
        fixture.apply(append_numbers(timeline, 0, 1 + i as u64)).await;
    }
    // Later names first, so that the order is the call's and not the keys'.
    let call: Vec<Commit> = timelines.iter().rev().map(|timeline| append(timeline, 0, &["x"])).collect();
    let outcomes = settle(&**fixture.store(), call).await;
    for (i, (timeline, outcome)) in timelines.iter().zip(outcomes.into_iter().rev()).enumerate() {
        let head = fixture.head(timeline).await;
        if i % 3 == 0 {
            assert_eq!(outcome, Outcome::Conflict(head), "{timeline:?}");
            assert_eq!(head.position.seq, 1 + i as u64);
        } else {
            assert_eq!(outcome, Outcome::Applied, "{timeline:?}");
            assert_eq!(head.position.seq, 1);
        }
    }
}

/// Stores that commit together refuse a whole call for one conflict, tell each its own head, and
/// change nothing.
pub async fn a_call_with_a_conflict_is_refused_whole(mut fixture: Fixture) {
    if !fixture.store().together() {
        return;
    }
    let (one, two, three) = (conversation("g:one"), user("two"), user("three"));
    fixture.apply(append_numbers(&one, 0, 2)).await;
    fixture.apply(append_numbers(&two, 0, 5)).await;
    let row = key(Section::Conv, 0, "g:one");
    let with_row = |commit| Commit { rows: vec![put(&row, "x")], fanned: 1, ..commit };
    for wrong in [0, 4, 6] {
        let call = vec![
            with_row(append(&three, 0, &["x"])),
            with_row(append(&one, 2, &["x"])),
            with_row(append(&two, wrong, &["x"])),
        ];
        let heads = [Head::default(), fixture.head(&one).await, fixture.head(&two).await];
        let outcomes = settle(&**fixture.store(), call).await;
        assert_eq!(outcomes, heads.map(Outcome::Conflict));
        fixture.reopen().await;
        for (timeline, seq) in [(&one, 2), (&two, 5), (&three, 0)] {
            assert_eq!(fixture.head(timeline).await.position.seq, seq);
            assert_eq!(fixture.above(timeline, 0).await.len() as u64, seq);
            assert_eq!(fixture.row(timeline, &row).await, None);
        }
    }
    let call = vec![append(&three, 0, &["x"]), append(&one, 2, &["x"]), append(&two, 5, &["x"])];
    assert_eq!(settle(&**fixture.store(), call).await, [Outcome::Applied; 3]);
}

/// One call to a thousand timelines with one content reaches each of them, and stays.
pub async fn a_large_fan_out_reaches_every_timeline(mut fixture: Fixture) {
    let content = Bytes::from_static(b"to all of you");
    let timelines: Vec<TimelineId> = (0..1000).map(|i| user(&format!("member.{i}"))).collect();
    for seq in 0..2 {
        let call = timelines.iter().map(|timeline| {
            let mut commit = append(timeline, seq, &[""]);
            commit.entries[0].data = content.clone();
            commit.rows = vec![put(&key(Section::Conv, 0, "g:large"), &seq.to_string())];
            commit
        });
        let outcomes = settle(&**fixture.store(), call.collect()).await;
        assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Applied));
    }
    fixture.reopen().await;
    for timeline in &timelines {
        let entries = fixture.above(timeline, 0).await;
        assert_eq!(seqs(&entries), [1, 2]);
        assert!(entries.iter().all(|entry| entry.data == content));
        let row = fixture.row(timeline, &key(Section::Conv, 0, "g:large")).await;
        assert_eq!(row.as_deref(), Some(&b"1"[..]));
    }
}

/// Stores that commit together decide calls in the order made: each may build on the one before it
/// without having seen its answer.
pub async fn calls_are_decided_in_their_order(fixture: Fixture) {
    if !fixture.store().together() {
        return;
    }
    let (log, reader) = (conversation("g:pipeline"), user("reader"));
    let calls: Vec<Vec<Commit>> =
        (0..50).map(|seq| vec![append_numbers(&log, seq, 1), append_numbers(&reader, seq * 2, 2)]).collect();
    let answers: Vec<_> = calls.iter().map(|call| fixture.store().commit(call.clone())).collect();
    for (call, outcomes) in calls.into_iter().zip(join_all(answers).await) {
        if outcomes.contains(&Outcome::Unknown) {
            assert_eq!(settle(&**fixture.store(), call).await.len(), 2);
        } else {
            assert_eq!(outcomes, [Outcome::Applied; 2]);
        }
    }
    assert_eq!(fixture.head(&log).await.position.seq, 50);
    assert_eq!(fixture.head(&reader).await.position.seq, 100);
}

/// Contents that share memory without being equal, and contents that follow each other in the same
/// memory, are not taken for one another.
pub async fn shared_contents_are_told_apart(mut fixture: Fixture) {
    let whole = Bytes::from(b"0123456789".to_vec());
    let parts = [whole.clone(), whole.slice(0..5), whole.slice(0..0), whole.slice(5..), whole.clone()];
    let timelines: Vec<TimelineId> = (0..parts.len()).map(|i| user(&format!("part{i}"))).collect();
    let call = timelines.iter().zip(&parts).map(|(timeline, part)| {
        let mut commit = append(timeline, 0, &["", ""]);
        commit.entries[0].data = part.clone();
        commit.entries[1].data = whole.clone();
        commit
    });
    let outcomes = settle(&**fixture.store(), call.collect()).await;
    assert_eq!(outcomes, [Outcome::Applied; 5]);
    let reused = user("reused");
    let mut expected = Vec::new();
    for seq in 0..50 {
        // Freed after each call: the allocator likes to give the same place again.
        let commit = append(&reused, seq, &[format!("{seq:0>64}")]);
        expected.push(commit.entries[0].data.to_vec());
        fixture.apply(commit).await;
    }
    fixture.reopen().await;
    for (timeline, part) in timelines.iter().zip(&parts) {
        let entries = fixture.above(timeline, 0).await;
        assert_eq!((&entries[0].data, &entries[1].data), (part, &whole));
    }
    let entries = fixture.above(&reused, 0).await;
    assert!(entries.iter().map(|entry| &entry.data[..]).eq(expected.iter().map(Vec::as_slice)));
}

/// Timelines whose names are prefixes of each other, or the same but of another kind, share nothing.
pub async fn timelines_with_like_names_are_apart(mut fixture: Fixture) {
    let long = "x".repeat(160);
    let names = ["a", "a:", "a.b", "ab", "a:b", "a-", "a@", "A", "a.", "a_", "a::", "d:a:b", "d:a:b.", "d:a", &long];
    let conversations = names.iter().map(|name| conversation(name));
    let user_names = ["a", "a.b", "ab", "a-", "a@", "A", "a.", "a_", &long[..64], &long[..63]];
    let timelines: Vec<TimelineId> = conversations.chain(user_names.iter().map(|name| user(name))).collect();
    let row = key(Section::State, 0, "");
    let mut expected = Vec::new();
    for (i, timeline) in timelines.iter().enumerate() {
        let contents: Vec<String> = (0..=i).map(|n| format!("{timeline:?} {n}")).collect();
        let commit = Commit { rows: vec![put(&row, &contents[0])], ..append(timeline, 0, &contents) };
        expected.push((numbered(&commit), contents[0].clone()));
        fixture.apply(commit).await;
    }
    fixture.reopen().await;
    for (timeline, (entries, content)) in timelines.iter().zip(expected) {
        assert_eq!(fixture.head(timeline).await.position.seq, entries.len() as u64);
        assert_eq!(fixture.above(timeline, 0).await, entries);
        assert_eq!(fixture.section(timeline, Section::State).await, [(row.clone(), content.into())]);
    }
}
