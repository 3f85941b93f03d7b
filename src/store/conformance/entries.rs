//! Promises about what entries hold: attempt, time, content, and the erasing of a content.

use bytes::Bytes;

use super::fixture::{Fixture, append, append_numbers, conversation, nothing, numbered, seqs, settle, user};
use crate::store::{Attempt, Commit, Outcome, Position};

/// Every entry tells the attempt that wrote it, in all its 128 bits, also where contents are equal.
pub async fn the_attempt_comes_back(mut fixture: Fixture) {
    let timeline = user("attempts");
    let attempts = [0, 1, u128::MAX, 1 << 64, (1 << 64) - 1, 1 << 127, 255];
    let mut expected = Vec::new();
    for attempt in attempts {
        let seq = expected.len() as u64;
        let commit = Commit { attempt: Attempt(attempt), ..append(&timeline, seq, &["same", "same"]) };
        expected.extend(numbered(&commit));
        fixture.apply(commit).await;
    }
    assert_eq!(fixture.above(&timeline, 0).await, expected);
    fixture.reopen().await;
    assert_eq!(fixture.above(&timeline, 0).await, expected);
}

/// A rewrite puts another content in an entry's place: number, time and attempt stay, the others too.
/// A number never written is skipped.
pub async fn a_rewrite_erases_the_body_only(mut fixture: Fixture) {
    let timeline = conversation("g:recall");
    let first = append_numbers(&timeline, 0, 130);
    let mut expected = numbered(&first);
    fixture.apply(first).await;
    let erase = |seq| (seq, Bytes::from_static(b"erased"));
    let second = Commit {
        rewrite: vec![erase(64), erase(1), erase(65), erase(130), erase(9999), erase(0)],
        ..append_numbers(&timeline, 130, 1)
    };
    expected.extend(numbered(&second));
    fixture.apply(second).await;
    for seq in [64, 1, 65, 130] {
        expected[seq - 1].data = Bytes::from_static(b"erased");
    }
    assert_eq!(fixture.above(&timeline, 0).await, expected);

    // Again, now to nothing, and by a commit without entries.
    let third = Commit { rewrite: vec![(64, Bytes::new())], term: 1, ..nothing(&timeline, 131) };
    fixture.apply(third).await;
    expected[63].data = Bytes::new();
    fixture.reopen().await;
    assert_eq!(fixture.above(&timeline, 0).await, expected);
    assert_eq!(fixture.head(&timeline).await.at, 1131, "a rewrite is not a new entry");
    let expected = Position { seq: 131, term: 1 };
    fixture.apply(Commit { expected, term: 1, ..append(&timeline, 131, &["x"]) }).await;
    assert_eq!(seqs(&fixture.above(&timeline, 0).await), (1..=132).collect::<Vec<_>>());
}

/// Where one content went to many timelines, erasing it in one leaves it in the others.
pub async fn a_rewrite_leaves_other_copies_alone(mut fixture: Fixture) {
    let content = Bytes::from(vec![b'm'; 500]);
    let timelines = [conversation("g:source"), user("one"), user("two")];
    let copies = timelines.iter().map(|timeline| {
        let mut commit = append(timeline, 0, &["", ""]);
        commit.entries.iter_mut().for_each(|entry| entry.data = content.clone());
        commit
    });
    assert_eq!(settle(&**fixture.store(), copies.collect()).await, [Outcome::Applied; 3]);
    let erased = Bytes::from_static(b"-");
    for (done, timeline) in timelines.iter().enumerate() {
        let erase = Commit { rewrite: vec![(1, erased.clone())], ..append(timeline, 2, &["recall"]) };
        fixture.apply(erase).await;
        fixture.reopen().await;
        for (i, timeline) in timelines.iter().enumerate() {
            let entries = fixture.above(timeline, 0).await;
            assert_eq!(entries[0].data, if i <= done { &erased } else { &content });
            assert_eq!(entries[1].data, content);
        }
    }
}

/// Contents of no bytes, of any byte, and of 300 KiB come back as they were.
pub async fn empty_and_large_contents_come_back(mut fixture: Fixture) {
    let timeline = conversation("g:contents");
    let every: Vec<u8> = (0..=255).collect();
    let large: Vec<u8> = (0..300 * 1024_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let contents = [Vec::new(), every, vec![0; 300 * 1024], Vec::new(), large, vec![0], vec![255]];
    let mut expected = Vec::new();
    for content in &contents {
        let commit = append(&timeline, expected.len() as u64, &[content]);
        expected.extend(numbered(&commit));
        fixture.apply(commit).await;
    }
    assert_eq!(fixture.above(&timeline, 0).await, expected);
    fixture.reopen().await;
    assert_eq!(fixture.above(&timeline, 0).await, expected);
}

/// A commit of a hundred entries with bodies is applied whole.
pub async fn many_bytes_in_one_commit(mut fixture: Fixture) {
    let timeline = user("burst");
    let contents: Vec<Vec<u8>> = (0..100).map(|i| vec![i; 4096]).collect();
    let commit = append(&timeline, 0, &contents);
    let expected = numbered(&commit);
    fixture.apply(commit).await;
    fixture.reopen().await;
    assert_eq!(fixture.above(&timeline, 0).await, expected);
}
