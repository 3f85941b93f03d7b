//! Promises about side rows: key order, paging, sections, values, expiry.

use bytes::Bytes;

use super::fixture::{Fixture, append, conversation, key, put, remove, user};
use crate::store::{Commit, RowKey, RowWrite, Section, TimelineId};

/// Applies one commit of these rows (and one entry) after `seq`.
async fn write(fixture: &Fixture, timeline: &TimelineId, seq: u64, rows: Vec<RowWrite>) {
    fixture.apply(Commit { rows, ..append(timeline, seq, &["x"]) }).await;
}

/// Names that break keys built by gluing: empty, prefixes of each other, separators, zero and 0xff
/// bytes of longer characters, 256 bytes. In ascending order of bytes.
fn odd_names() -> Vec<String> {
    let mut names: Vec<String> = ["", "a", "a:", "a.b", "ab", "a\n", "a\nb", "a\0", "a\0b", "\0", "\0\0", " ", "~"]
        .into_iter()
        .map(str::to_owned)
        .collect();
    let more = ["ä", "\u{ffff}", "\u{10ffff}", "b", "A", "a/b", "a%00", "\u{1}", "a\u{1}", "\u{7f}", "a,b\"'"];
    names.extend(more.into_iter().map(str::to_owned));
    names.push("n".repeat(256));
    names.push("n".repeat(255));
    names.sort();
    names
}

/// A row has the value last committed for its key, and none once removed; removing none is no error.
pub async fn a_row_is_put_replaced_and_removed(mut fixture: Fixture) {
    let timeline = user("rows");
    let row = key(Section::Conv, 0, "g:one");
    let steps = [Some("1"), Some("2"), None, None, Some("3"), Some("3"), None];
    for (seq, value) in (0..).zip(steps) {
        write(&fixture, &timeline, seq, vec![value.map_or_else(|| remove(&row), |value| put(&row, value))]).await;
        for _ in 0..2 {
            let found = fixture.row(&timeline, &row).await;
            assert_eq!(found.as_deref(), value.map(str::as_bytes));
            let listed = fixture.section(&timeline, Section::Conv).await;
            assert_eq!(listed, found.map(|value| (row.clone(), value)).into_iter().collect::<Vec<_>>());
            fixture.reopen().await;
        }
    }
}

/// One commit puts and removes rows of several sections at once, and touches no other row.
pub async fn rows_change_with_their_commit_only(fixture: Fixture) {
    let timeline = conversation("g:rows");
    let rows: Vec<RowKey> = Section::ALL.iter().map(|&section| key(section, 1, "r")).collect();
    write(&fixture, &timeline, 0, rows.iter().map(|row| put(row, "old")).collect()).await;
    let change = vec![put(&rows[0], "new"), remove(&rows[3]), put(&key(Section::Change, 2, "r"), "new")];
    write(&fixture, &timeline, 1, change).await;
    for (i, row) in rows.iter().enumerate() {
        let expected = match i {
            0 => Some(&b"new"[..]),
            3 => None,
            _ => Some(&b"old"[..]),
        };
        assert_eq!(fixture.row(&timeline, row).await.as_deref(), expected, "{row:?}");
    }
    fixture.apply(append(&timeline, 2, &["rows are not lost by a commit without any"])).await;
    assert_eq!(fixture.section(&timeline, Section::Member).await.len(), 1);
    assert_eq!(fixture.section(&timeline, Section::Target).await.len(), 1);
}

/// Every row of a section: numbers 0 to the largest, and odd names, in ascending order of (n, id).
async fn odd_rows(fixture: &Fixture, timeline: &TimelineId, section: Section) -> Vec<(RowKey, Bytes)> {
    let mut keys: Vec<RowKey> = Vec::new();
    for n in [0, 1, 9, 10, 255, 256, 65_536, u64::MAX - 1, u64::MAX] {
        keys.extend(odd_names().iter().map(|name| key(section, n, name)));
    }
    // Written upside down, so that the order is the keys' and not that of writing.
    let writes: Vec<RowWrite> = keys.iter().rev().map(|key| put(key, &format!("{key:?}"))).collect();
    for (seq, chunk) in (0..).zip(writes.chunks(50)) {
        write(fixture, timeline, seq, chunk.to_vec()).await;
    }
    keys.into_iter().map(|key| (key.clone(), Bytes::from(format!("{key:?}")))).collect()
}

/// Rows come ordered by number, then by the bytes of the name, whatever the name is made of.
pub async fn rows_are_ordered_by_number_then_name(mut fixture: Fixture) {
    let timeline = conversation("g:order");
    let expected = odd_rows(&fixture, &timeline, Section::Dedupe).await;
    for _ in 0..2 {
        assert_eq!(fixture.section(&timeline, Section::Dedupe).await, expected);
        for (key, value) in &expected {
            assert_eq!(fixture.row(&timeline, key).await.as_ref(), Some(value), "{key:?}");
        }
        fixture.reopen().await;
    }
    assert_eq!(fixture.row(&timeline, &key(Section::Dedupe, 0, "a:b")).await, None);
    assert_eq!(fixture.row(&timeline, &key(Section::Dedupe, 2, "a")).await, None);
}

/// Read page by page, each after the last key of the one before, a section comes whole and once; the
/// key to go on from need not exist.
pub async fn pages_of_rows_follow_each_other(fixture: Fixture) {
    let timeline = user("paging");
    let expected = odd_rows(&fixture, &timeline, Section::Conv).await;
    for limit in [1, 2, 7, 100, expected.len(), usize::MAX] {
        let (mut after, mut found) = (None, Vec::new());
        loop {
            let page = fixture.store().rows(&timeline, Section::Conv, after.clone(), u64::MAX, limit).await.unwrap();
            assert!(page.len() <= limit);
            let Some((last, _)) = page.last() else { break };
            assert!(after.as_ref().is_none_or(|after| last > after), "a page goes on");
            after = Some(last.clone());
            found.extend(page);
        }
        assert_eq!(found, expected, "limit {limit}");
    }
    for after in [key(Section::Conv, 0, "a:b"), key(Section::Conv, 5, ""), key(Section::Conv, 300, "zz")] {
        let rest: Vec<_> = expected.iter().filter(|(key, _)| *key > after).cloned().collect();
        let page = fixture.store().rows(&timeline, Section::Conv, Some(after), u64::MAX, usize::MAX).await.unwrap();
        assert_eq!(page, rest);
    }
}

/// `up_to_n` ends a section at a number, inclusive, together with a key to go on from and a limit.
pub async fn rows_end_at_a_number(fixture: Fixture) {
    let timeline = conversation("g:until");
    let expected = odd_rows(&fixture, &timeline, Section::Change).await;
    let afters = [None, Some(key(Section::Change, 9, "b")), Some(key(Section::Change, 256, ""))];
    for after in afters {
        for up_to_n in [0, 1, 8, 9, 254, 255, 256, 65_535, 65_536, u64::MAX - 1, u64::MAX] {
            for limit in [3, usize::MAX] {
                let fits = |key: &RowKey| key.n <= up_to_n && after.as_ref().is_none_or(|after| key > after);
                let rest: Vec<_> = expected.iter().filter(|(key, _)| fits(key)).take(limit).cloned().collect();
                let rows = fixture.store().rows(&timeline, Section::Change, after.clone(), up_to_n, limit);
                assert_eq!(rows.await.unwrap(), rest, "after {after:?} up to {up_to_n}, {limit}");
            }
        }
    }
}

/// The same (n, id) in another section or timeline is another row.
pub async fn sections_and_timelines_are_separate(mut fixture: Fixture) {
    let timelines = [conversation("a"), conversation("a:"), user("a"), user("ab"), conversation("ab")];
    let value = |timeline: &TimelineId, row: &RowKey| format!("{timeline:?} {row:?}");
    let rows: Vec<RowKey> =
        Section::ALL.iter().flat_map(|&section| ["", "b", ":"].map(|id| key(section, 7, id))).collect();
    for timeline in &timelines {
        let writes = rows.iter().map(|row| put(row, &value(timeline, row))).collect();
        write(&fixture, timeline, 0, writes).await;
    }
    write(&fixture, &timelines[0], 1, rows.iter().map(remove).collect()).await;
    fixture.reopen().await;
    for timeline in &timelines[1..] {
        for section in Section::ALL {
            let mut expected: Vec<_> = rows.iter().filter(|row| row.section == section).cloned().collect();
            expected.sort();
            let expected: Vec<_> =
                expected.into_iter().map(|row| (row.clone(), value(timeline, &row).into())).collect();
            assert_eq!(fixture.section(timeline, section).await, expected);
        }
    }
    for section in Section::ALL {
        assert_eq!(fixture.section(&timelines[0], section).await, []);
    }
}

/// A value of no bytes is a value, and 100 KiB come back.
pub async fn empty_and_large_values_come_back(mut fixture: Fixture) {
    let timeline = conversation("g:values");
    let values = [(key(Section::State, 0, ""), String::new()), (key(Section::State, 0, "big"), "v".repeat(100 * 1024))];
    write(&fixture, &timeline, 0, values.iter().map(|(key, value)| put(key, value)).collect()).await;
    for _ in 0..2 {
        for (key, value) in &values {
            let found = fixture.row(&timeline, key).await.expect("present, even if empty");
            assert_eq!(found, value.as_bytes());
        }
        assert_eq!(fixture.section(&timeline, Section::State).await.len(), 2);
        fixture.reopen().await;
    }
}

/// A row with an expiry is there until then. One already expired may be there or not, harms no other,
/// and its key can be used again without inheriting the expiry.
pub async fn a_row_stays_until_it_expires(mut fixture: Fixture) {
    let timeline = conversation("g:expiry");
    let now = fixture.now_ms();
    let row = |id: &str, expires_at| RowWrite { expires_at, ..put(&key(Section::Dedupe, 0, id), id) };
    let hour = 3_600_000;
    let rows = vec![
        row("a.past", Some(now.saturating_sub(hour))),
        row("b.hour", Some(now + hour)),
        row("c.never", None),
        row("d.long past", Some(1)),
        row("e.far", Some(now + 3650 * 24 * hour)),
        row("f.last", Some(u64::MAX)),
    ];
    write(&fixture, &timeline, 0, rows).await;
    for _ in 0..2 {
        let found = fixture.section(&timeline, Section::Dedupe).await;
        let found: Vec<&str> = found.iter().map(|(key, _)| &*key.id).filter(|id| !id.contains("past")).collect();
        assert_eq!(found, ["b.hour", "c.never", "e.far", "f.last"]);
        for id in found {
            assert!(fixture.row(&timeline, &key(Section::Dedupe, 0, id)).await.is_some(), "{id}");
        }
        fixture.reopen().await;
    }
    write(&fixture, &timeline, 1, vec![row("a.past", None), row("d.long past", Some(now + hour))]).await;
    assert_eq!(fixture.section(&timeline, Section::Dedupe).await.len(), 6);
}
