//! Promises about reading a range of entries: bounds, direction, limits. The numbers tried lie around
//! 64 and 128, where a backend that keeps entries in chunks has its seams.

use super::fixture::{Fixture, above, append, append_numbers, conversation, numbered, seqs, user};
use crate::store::{Commit, Entry, Span, TimelineId};

const SEAMS: [u64; 18] = [0, 1, 2, 62, 63, 64, 65, 66, 126, 127, 128, 129, 255, 256, 257, 998, 999, 1000];

/// A timeline of 1000 entries, written in commits of many sizes.
async fn thousand(fixture: &Fixture, timeline: &TimelineId) -> Vec<Entry> {
    let mut expected = Vec::new();
    for count in [1, 62, 1, 1, 63, 128, 3, 64, 65, 200, 1, 1, 1, 409] {
        let commit = append_numbers(timeline, expected.len() as u64, count);
        expected.extend(numbered(&commit));
        fixture.apply(commit).await;
    }
    assert_eq!(expected.len(), 1000);
    expected
}

fn between(expected: &[Entry], after: u64, up_to: u64) -> Vec<Entry> {
    expected.iter().filter(|entry| entry.seq > after && entry.seq <= up_to).cloned().collect()
}

/// `after` is exclusive, `up_to` inclusive, in both directions, at every seam.
pub async fn a_span_is_bounded_on_both_sides(mut fixture: Fixture) {
    let timeline = conversation("g:spans");
    let expected = thousand(&fixture, &timeline).await;
    for round in 0..2 {
        for after in SEAMS {
            for up_to in SEAMS.into_iter().chain([1001, 5000, u64::MAX]) {
                let mut entries = between(&expected, after, up_to);
                let span = Span { up_to, ..above(after) };
                assert_eq!(fixture.read(&timeline, span).await, entries, "{span:?} in round {round}");
                entries.reverse();
                let span = Span { backward: true, ..span };
                assert_eq!(fixture.read(&timeline, span).await, entries, "{span:?} in round {round}");
            }
        }
        fixture.reopen().await;
    }
}

/// Spans that are empty, upside down or beyond the head give no entries and no error.
pub async fn a_span_without_entries_is_empty(fixture: Fixture) {
    let timeline = user("short");
    fixture.apply(append_numbers(&timeline, 0, 5)).await;
    let spans = [(5, u64::MAX), (6, 9), (100, u64::MAX), (u64::MAX, u64::MAX), (3, 3), (4, 2), (u64::MAX, 0), (0, 0)];
    for (after, up_to) in spans {
        for backward in [false, true] {
            let span = Span { up_to, backward, ..above(after) };
            assert_eq!(fixture.read(&timeline, span).await, [], "{span:?}");
        }
    }
}

/// A limit keeps the lowest numbers of a span, or the highest when it is read backward.
pub async fn a_limit_counts_from_the_right_end(fixture: Fixture) {
    let timeline = user("limits");
    let expected = thousand(&fixture, &timeline).await;
    for limit in [1, 2, 63, 64, 65, 128, 1000, 1001] {
        for (after, up_to) in [(0, u64::MAX), (63, 128), (64, 1000), (1, 999), (127, 129)] {
            let mut entries = between(&expected, after, up_to);
            let span = Span { up_to, limit, ..above(after) };
            let lowest = &entries[..limit.min(entries.len())];
            assert_eq!(fixture.read(&timeline, span).await, lowest, "{span:?}");
            entries.reverse();
            let highest = &entries[..limit.min(entries.len())];
            let span = Span { backward: true, ..span };
            assert_eq!(fixture.read(&timeline, span).await, highest, "{span:?}");
        }
    }
}

/// A page ends once its contents reach `max_bytes`: not an entry later, not two entries earlier, and
/// never before the first.
pub async fn max_bytes_stops_a_page_but_not_before_one_entry(fixture: Fixture) {
    let timeline = conversation("g:bytes");
    let sizes: Vec<usize> = (0..140).map(|i| [100, 0, 1, 5000, 250][i % 5]).collect();
    for (seq, chunk) in (0..).step_by(7).zip(sizes.chunks(7)) {
        let contents: Vec<Vec<u8>> = chunk.iter().map(|&size| vec![b'x'; size]).collect();
        fixture.apply(append(&timeline, seq, &contents)).await;
    }
    for max_bytes in [0, 1, 99, 100, 101, 350, 5000, 5101, 20_000, 149_828, 1 << 40] {
        for (after, backward) in [(0, false), (3, false), (62, false), (0, true), (126, true)] {
            let span = Span { max_bytes, backward, ..above(after) };
            let page = fixture.read(&timeline, span).await;
            let numbers: Vec<u64> =
                if backward { (after + 1..=140).rev().collect() } else { (after + 1..=140).collect() };
            assert_eq!(seqs(&page), numbers[..page.len()], "{span:?}");
            let size = |seq: &u64| sizes[*seq as usize - 1];
            let (&last, before) = numbers[..page.len()].split_last().expect("at least one entry");
            let before: usize = before.iter().map(size).sum();
            let total = before + size(&last);
            assert!(page.len() == 1 || before < max_bytes, "{span:?} went on after {before} bytes");
            if let Some(next) = numbers.get(page.len()) {
                assert!(total + size(next) >= max_bytes, "{span:?} stopped at {total} bytes");
            }
        }
    }
}

/// Read page by page, each after the last of the one before, a timeline comes whole and once; so it
/// does above a floor.
pub async fn pages_follow_each_other_to_the_head(mut fixture: Fixture) {
    let timeline = user("pages");
    let mut expected = thousand(&fixture, &timeline).await;
    for floor in [0, 63, 64, 65, 500] {
        let seq = expected.len() as u64;
        let commit = Commit { floor, ..append_numbers(&timeline, seq, 1) };
        expected.extend(numbered(&commit));
        fixture.apply(commit).await;
        fixture.reopen().await;
        for limit in [7, 64, 100, 499] {
            let (mut after, mut found) = (floor, Vec::new());
            loop {
                let page = fixture.read(&timeline, Span { limit, ..above(after) }).await;
                let Some(last) = page.last() else { break };
                assert!(last.seq > after, "a page goes on");
                after = last.seq;
                found.extend(page);
            }
            assert_eq!(found, expected[floor as usize..]);
        }
    }
}
