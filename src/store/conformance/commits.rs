//! Promises about one commit of one timeline: condition, numbering, head, floor, term.

use std::time::Duration;

use bytes::Bytes;

use super::fixture::{Fixture, append, append_numbers, conversation, key, nothing, numbered, put, remove, seqs, user};
use crate::store::{Commit, Head, Outcome, Position, Section};

/// A timeline nobody wrote has a head of zeros, no entries and no rows.
pub async fn an_unknown_timeline_is_all_zero(fixture: Fixture) {
    for timeline in [conversation("g:nobody"), user("nobody")] {
        assert_eq!(fixture.head(&timeline).await, Head::default());
        assert_eq!(fixture.above(&timeline, 0).await, []);
        for section in Section::ALL {
            assert_eq!(fixture.row(&timeline, &key(section, 0, "")).await, None);
            assert_eq!(fixture.section(&timeline, section).await, []);
        }
    }
}

/// The entries of commits of any size are numbered 1, 2, 3 ... and come back as they were given.
pub async fn entries_are_numbered_densely(fixture: Fixture) {
    for timeline in [conversation("d:alice:bob"), user("alice")] {
        let (mut seq, mut expected) = (0, Vec::new());
        for count in [1, 2, 7, 1, 30] {
            let commit = append_numbers(&timeline, seq, count);
            expected.extend(numbered(&commit));
            fixture.apply(commit).await;
            seq += count;
            let head = fixture.head(&timeline).await;
            let position = Position { seq, term: 0 };
            assert_eq!(head, Head { position, floor: 0, at: 1000 + seq, fanned: 0 });
        }
        assert_eq!(fixture.above(&timeline, 0).await, expected);
        assert_eq!(seqs(&expected), (1..=41).collect::<Vec<_>>());
    }
}

/// A commit whose expectation is wrong, either way, changes nothing at all and is told the head.
pub async fn a_conflict_tells_the_present_head_and_changes_nothing(fixture: Fixture) {
    let timeline = conversation("g:conflict");
    let (kept, other) = (key(Section::Member, 0, "kept"), key(Section::Member, 0, "other"));
    let first = Commit { rows: vec![put(&kept, "1")], ..append(&timeline, 0, &["a", "b", "c"]) };
    let expected = numbered(&first);
    fixture.apply(first).await;
    let before = fixture.head(&timeline).await;
    for seq in [0, 1, 2, 4, 1000, 1 << 60] {
        let wrong = Commit {
            rewrite: vec![(1, Bytes::from_static(b"erased"))],
            rows: vec![put(&other, "2"), remove(&kept)],
            floor: 2,
            fanned: 3,
            term: 9,
            ..append(&timeline, seq, &["x", "y"])
        };
        assert_eq!(fixture.refuse(wrong).await, before);
        assert_eq!(fixture.head(&timeline).await, before);
        assert_eq!(fixture.above(&timeline, 0).await, expected);
        assert_eq!(fixture.row(&timeline, &kept).await.as_deref(), Some(&b"1"[..]));
        assert_eq!(fixture.row(&timeline, &other).await, None);
    }
    fixture.apply(append(&timeline, 3, &["d"])).await;
}

/// Of two commits that both expect an empty timeline one is applied; one that expects more is refused.
pub async fn a_first_write_is_conditional_too(fixture: Fixture) {
    for timeline in [conversation("g:first"), user("first")] {
        assert_eq!(fixture.refuse(append(&timeline, 1, &["early"])).await, Head::default());
        let term = Position { seq: 0, term: 1 };
        let fenced = Commit { expected: term, term: 1, ..append(&timeline, 0, &["early"]) };
        assert_eq!(fixture.refuse(fenced).await, Head::default());
        fixture.apply(append(&timeline, 0, &["one"])).await;
        assert_eq!(fixture.refuse(append(&timeline, 0, &["another"])).await.position.seq, 1);
        assert_eq!(fixture.above(&timeline, 0).await.len(), 1);
    }
}

/// A commit that was applied is refused when sent again, and stays applied once.
pub async fn the_same_commit_again_is_a_conflict(fixture: Fixture) {
    let timeline = conversation("g:again");
    let commit = append(&timeline, 0, &["a", "b"]);
    fixture.apply(commit.clone()).await;
    for _ in 0..3 {
        assert_eq!(fixture.refuse(commit.clone()).await.position.seq, 2);
    }
    fixture.apply(append(&timeline, 2, &["c"])).await;
    assert_eq!(fixture.refuse(commit).await.position.seq, 3);
    assert_eq!(seqs(&fixture.above(&timeline, 0).await), [1, 2, 3]);
}

/// A commit under another term is refused; an empty commit raises the term and so fences others off.
pub async fn the_term_is_part_of_the_condition(mut fixture: Fixture) {
    let timeline = conversation("g:term");
    fixture.apply(append(&timeline, 0, &["a", "b"])).await;
    let at = |seq, term| Position { seq, term };
    let ahead = Commit { expected: at(2, 1), term: 1, ..append(&timeline, 2, &["x"]) };
    assert_eq!(fixture.refuse(ahead).await.position, at(2, 0));

    fixture.apply(Commit { term: 5, ..nothing(&timeline, 2) }).await;
    let head = fixture.head(&timeline).await;
    assert_eq!(head, Head { position: at(2, 5), floor: 0, at: 1002, fanned: 0 });
    assert_eq!(fixture.refuse(append(&timeline, 2, &["late"])).await.position, at(2, 5));
    assert_eq!(fixture.refuse(Commit { term: 5, ..nothing(&timeline, 2) }).await.position, at(2, 5));

    fixture.reopen().await;
    assert_eq!(fixture.refuse(append(&timeline, 2, &["late"])).await.position, at(2, 5));
    fixture.apply(Commit { expected: at(2, 5), term: 5, ..append(&timeline, 2, &["c"]) }).await;
    let raising = Commit { expected: at(3, 5), term: 6, ..append(&timeline, 3, &["d"]) };
    fixture.apply(raising).await;
    assert_eq!(fixture.head(&timeline).await.position, at(4, 6));
    assert_eq!(seqs(&fixture.above(&timeline, 0).await), [1, 2, 3, 4]);
}

/// The floor follows the highest one committed; a lower one is ignored, not refused.
pub async fn the_floor_never_regresses(mut fixture: Fixture) {
    let timeline = user("floor");
    fixture.apply(append_numbers(&timeline, 0, 10)).await;
    let mut seq = 10;
    for (floor, expected) in [(3, 3), (2, 3), (0, 3), (7, 7), (7, 7), (6, 7), (12, 12)] {
        fixture.apply(Commit { floor, ..append_numbers(&timeline, seq, 1) }).await;
        seq += 1;
        assert_eq!(fixture.head(&timeline).await.floor, expected);
        let left = fixture.above(&timeline, expected).await;
        assert_eq!(seqs(&left), (expected + 1..=seq).collect::<Vec<_>>());
        fixture.reopen().await;
        assert_eq!(fixture.head(&timeline).await.floor, expected);
    }
    fixture.apply(Commit { floor: 13, ..nothing(&timeline, seq) }).await;
    assert_eq!(fixture.head(&timeline).await.floor, 13, "by a commit without entries");
}

/// `fanned` follows the highest one committed; a lower one is ignored, not refused.
pub async fn fanned_never_regresses(mut fixture: Fixture) {
    let timeline = conversation("g:fanned");
    fixture.apply(append_numbers(&timeline, 0, 10)).await;
    let mut seq = 10;
    for (fanned, expected) in [(4, 4), (3, 4), (0, 4), (9, 9), (9, 9)] {
        fixture.apply(Commit { fanned, ..append_numbers(&timeline, seq, 1) }).await;
        seq += 1;
        assert_eq!(fixture.head(&timeline).await.fanned, expected);
        fixture.reopen().await;
        assert_eq!(fixture.head(&timeline).await.fanned, expected);
    }
    fixture.apply(Commit { fanned: 10, ..nothing(&timeline, seq) }).await;
    assert_eq!(fixture.head(&timeline).await.fanned, 10, "by a commit without entries");
}

/// With every entry below the floor the head stays, and numbering goes on after it.
pub async fn the_head_outlives_its_entries(mut fixture: Fixture) {
    let timeline = user("emptied");
    fixture.apply(append_numbers(&timeline, 0, 130)).await;
    fixture.apply(Commit { floor: 130, ..nothing(&timeline, 130) }).await;
    for _ in 0..2 {
        let position = Position { seq: 130, term: 0 };
        let expected = Head { position, floor: 130, at: 1130, fanned: 0 };
        assert_eq!(fixture.head(&timeline).await, expected);
        assert_eq!(fixture.above(&timeline, 130).await, []);
        assert_eq!(fixture.refuse(append(&timeline, 0, &["from the start"])).await, expected);
        fixture.reopen().await;
    }
    fixture.apply(append(&timeline, 130, &["on"])).await;
    assert_eq!(seqs(&fixture.above(&timeline, 130).await), [131]);
}

/// A commit whose future is dropped once begun still takes effect, whole.
pub async fn a_dropped_commit_is_not_taken_back(fixture: Fixture) {
    let timeline = conversation("g:dropped");
    let row = key(Section::State, 0, "");
    for seq in [0, 2, 4] {
        let commit = Commit { rows: vec![put(&row, "x")], ..append_numbers(&timeline, seq, 2) };
        let mut future = fixture.store().commit(vec![commit]);
        if let std::task::Poll::Ready(outcomes) = futures::poll!(&mut future) {
            assert_eq!(outcomes, [Outcome::Applied]);
        }
        drop(future);
        let mut waited = 0;
        while fixture.head(&timeline).await.position.seq == seq {
            assert!(waited < 10_000, "did not take effect within 10 s");
            waited += 5;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(seqs(&fixture.above(&timeline, seq).await), [seq + 1, seq + 2]);
        assert!(fixture.row(&timeline, &row).await.is_some());
    }
}
