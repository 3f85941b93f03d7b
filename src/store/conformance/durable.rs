//! Promises about what is kept over a restart, and about finding what is there.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::fixture::{Fixture, above, append, append_numbers, conversation, key, nothing, put, seqs, user};
use crate::protocol::ConvId;
use crate::store::{Commit, Head, KnownNode, Mark, Position, Section, TimelineId};

/// Head, entries, rewritten bodies and rows of every applied commit outlive the process, again and
/// again.
pub async fn everything_applied_is_there_after_reopening(mut fixture: Fixture) {
    let timeline = conversation("g:kept");
    let row = |seq: u64| key(Section::Change, seq, "r");
    for round in 0..5_u64 {
        let seq = round * 40;
        let commit = Commit {
            expected: Position { seq, term: round },
            term: round + 1,
            rewrite: vec![(seq, Bytes::from_static(b"erased"))],
            rows: vec![put(&row(round), &round.to_string())],
            fanned: seq,
            ..append_numbers(&timeline, seq, 40)
        };
        fixture.apply(commit).await;
        fixture.reopen().await;
        let position = Position { seq: seq + 40, term: round + 1 };
        let expected = Head { position, floor: 0, at: 1040 + seq, fanned: seq };
        assert_eq!(fixture.head(&timeline).await, expected);
        let entries = fixture.above(&timeline, 0).await;
        assert_eq!(seqs(&entries), (1..=seq + 40).collect::<Vec<_>>());
        for entry in &entries {
            let erased = entry.seq % 40 == 0 && entry.seq <= seq;
            let content = if erased { "erased".to_owned() } else { entry.seq.to_string() };
            assert_eq!(entry.data, content.as_bytes());
        }
        assert_eq!(fixture.section(&timeline, Section::Change).await.len() as u64, round + 1);
    }
}

/// The epoch names the data: it is the same before and after a restart.
pub async fn the_epoch_is_kept(mut fixture: Fixture) {
    let epoch = fixture.store().epoch();
    assert!(!epoch.is_empty() && epoch.len() <= 64, "{epoch:?}");
    fixture.apply(append(&user("epoch"), 0, &["x"])).await;
    fixture.reopen().await;
    assert_eq!(fixture.store().epoch(), epoch);
}

/// After a restart a commit that expects an older head is refused.
pub async fn numbers_are_not_reused_after_reopening(mut fixture: Fixture) {
    let timeline = user("restart");
    for seq in 0..10 {
        fixture.apply(append(&timeline, seq, &["x"])).await;
        fixture.reopen().await;
        assert_eq!(fixture.refuse(append(&timeline, seq, &["y"])).await.position.seq, seq + 1);
    }
    assert!(fixture.above(&timeline, 0).await.iter().all(|entry| entry.data == "x"));
}

/// A mark put twice is one; it is listed with its node's, also after a restart, until it is deleted. Deleting
/// one that is not there is no error.
pub async fn marks_are_kept_until_deleted(mut fixture: Fixture) {
    let mark = |name: &str, node, burst, from| {
        let conversation = ConvId::parse(name).unwrap();
        Mark { conversation, node, burst, from }
    };
    let marks = [
        mark("g:a", 1, 1, 0),
        mark("g:a", 1, 2, 0),
        mark("g:a", 2, 1, 7),
        mark("g:a:", 1, 1, 0),
        mark("g:ab", u64::MAX, u64::MAX, u64::MAX),
    ];
    for node in [1, 2, u64::MAX] {
        fixture.renew(node).await;
    }
    let mut expected: BTreeSet<Mark> = marks.iter().cloned().collect();
    for mark in marks.iter().chain(&marks[1..3]) {
        fixture.mark(mark, true).await;
    }
    for gone in &marks {
        let found = fixture.store().marks().await.unwrap();
        assert_eq!(found.len(), expected.len(), "each once: {found:?}");
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
        for node in [0, 1, 2, u64::MAX] {
            let found: BTreeSet<Mark> = fixture.store().marks_of(node, 9).await.unwrap().into_iter().collect();
            let of_it: BTreeSet<Mark> = expected.iter().filter(|mark| mark.node == node).cloned().collect();
            assert_eq!(found, of_it);
            assert_eq!(fixture.store().marks_of(node, 1).await.unwrap().len(), of_it.len().min(1));
        }
        fixture.mark(gone, false).await;
        fixture.mark(gone, false).await;
        expected.remove(gone);
        fixture.reopen().await;
    }
    assert_eq!(fixture.store().marks().await.unwrap(), []);
}

/// Who has given his word is alive, and known until he is forgotten, also after a restart; forgetting one who is
/// not known is no error. (A store that commits together has no other nodes.)
pub async fn nodes_are_known_until_forgotten(mut fixture: Fixture) {
    if fixture.store().together() {
        return;
    }
    let mut expected = BTreeSet::new();
    for node in [7, 1 << 63, u64::MAX] {
        fixture.renew(node).await;
        fixture.renew(node).await;
        expected.insert(KnownNode { node, alive: true });
    }
    for node in [u64::MAX, 7, 7, 5] {
        let found = fixture.store().nodes().await.unwrap();
        assert_eq!(found.len(), expected.len(), "each once: {found:?}");
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
        fixture.forget(node).await;
        expected.remove(&KnownNode { node, alive: true });
        fixture.reopen().await;
    }
    fixture.renew(7).await;
    expected.insert(KnownNode { node: 7, alive: true });
    assert_eq!(fixture.store().nodes().await.unwrap().into_iter().collect::<BTreeSet<_>>(), expected);
}

/// Stores that commit together list exactly the conversations whose `fanned` is below their head.
pub async fn unfinished_are_those_below_their_head(mut fixture: Fixture) {
    if !fixture.store().together() {
        return;
    }
    for (name, count, fanned) in [("a", 3, 3), ("a:", 3, 2), ("ab", 3, 0), ("b", 1, 1), ("c", 1, 0)] {
        fixture.apply(Commit { fanned, ..append_numbers(&conversation(name), 0, count) }).await;
    }
    fixture.apply(append_numbers(&user("a"), 0, 3)).await;
    assert_unfinished(&mut fixture, &["a:", "ab", "c"]).await;
    fixture.apply(Commit { fanned: 1, ..nothing(&conversation("c"), 1) }).await;
    fixture.apply(Commit { fanned: 2, ..nothing(&conversation("ab"), 3) }).await;
    fixture.apply(Commit { fanned: 4, ..append(&conversation("a:"), 3, &["x"]) }).await;
    fixture.apply(append(&conversation("b"), 1, &["x"])).await;
    assert_unfinished(&mut fixture, &["ab", "b"]).await;
    fixture.apply(Commit { fanned: 3, ..nothing(&conversation("ab"), 3) }).await;
    fixture.apply(Commit { fanned: 2, ..nothing(&conversation("b"), 2) }).await;
    assert_unfinished(&mut fixture, &[]).await;
}

async fn assert_unfinished(fixture: &mut Fixture, expected: &[&str]) {
    for _ in 0..2 {
        let mut found = fixture.store().unfinished().await.unwrap();
        found.sort();
        assert_eq!(found, expected);
        fixture.reopen().await;
    }
}

/// Page by page every timeline is listed once, always in the same order, also one whose entries are all
/// gone.
pub async fn timelines_are_listed_once(mut fixture: Fixture) {
    let conversations = ["a", "a:", "a.b", "ab", "a:b", "b:all", "d:a:b", "A", "z"].map(conversation);
    let users = ["a", "ab", "a.b", "a-", "z", "Z", "0"].map(user);
    let mut expected: Vec<TimelineId> = conversations.into_iter().chain(users).collect();
    for timeline in &expected {
        fixture.apply(append_numbers(timeline, 0, 3)).await;
    }
    fixture.apply(Commit { floor: 3, ..nothing(&user("ab"), 3) }).await;
    expected.sort();
    let whole = fixture.store().timelines(None, usize::MAX).await.unwrap();
    for limit in [1, 2, 5, expected.len(), 1000] {
        let (mut after, mut found) = (None, Vec::new());
        loop {
            let page = fixture.store().timelines(after.clone(), limit).await.unwrap();
            assert!(page.len() <= limit);
            let Some(last) = page.last() else { break };
            after = Some(last.clone());
            found.extend(page);
            assert!(found.len() <= expected.len(), "a page goes on");
        }
        assert_eq!(found, whole);
        fixture.reopen().await;
    }
    let mut sorted = whole;
    sorted.sort();
    assert_eq!(sorted, expected);
}

/// Reading a timeline, or being refused by it, does not bring it into being.
pub async fn asking_makes_no_timeline(mut fixture: Fixture) {
    let timeline = conversation("g:asked");
    fixture.head(&timeline).await;
    fixture.read(&timeline, above(0)).await;
    fixture.refuse(append(&timeline, 5, &["x"])).await;
    for _ in 0..2 {
        assert_eq!(fixture.store().timelines(None, 10).await.unwrap(), []);
        fixture.reopen().await;
    }
}
