//! What a message costs the engine: keys written or deleted, checkpoints and the cutting of the journal
//! included. The layout of rows decides it, so it is held here.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "figures are printed; a test fails by an unwrap")]

mod embedded_support;

use std::collections::HashMap;

use embedded_support::{all, apply, conversation, message, open, user};
use everline::store::embedded::{Counters, Embedded};
use futures::future::join_all;

/// Counts what `messages` cost, with everything put into its place at the end.
async fn count(what: &str, messages: u64, members: u64, run: impl AsyncFnOnce(&Embedded)) -> f64 {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("data"));
    let before = store.counters();
    run(&store).await;
    let journal = store.counters();
    store.checkpoint().unwrap();
    let after = store.counters();
    let writes = |counters: &Counters| (counters.engine_writes - before.engine_writes) as f64 / messages as f64;
    println!(
        "{what}: {:.2} engine writes a message before the answer, {:.2} with the checkpoint ({:.3} a member), \
         {:.0} bytes, {:.3} fsyncs",
        writes(&journal),
        writes(&after),
        writes(&after) / members as f64,
        (after.engine_bytes - before.engine_bytes) as f64 / messages as f64,
        (after.fsyncs - before.fsyncs) as f64 / messages as f64,
    );
    writes(&after)
}

/// Twenty messages in each of fifty pairs, one after the other: nothing is shared between messages.
#[tokio::test]
async fn a_message_between_two_is_five_engine_writes_or_fewer() {
    let writes = count("1:1, 50 pairs, one at a time", 1000, 2, async |store| {
        for no in 0..1000 {
            let (pair, seq) = (no % 50, no / 50);
            let names = [format!("a{pair}"), format!("b{pair}")];
            apply(store, message(&format!("d:{pair}"), &names, no, |_| seq, seq)).await;
        }
        for pair in [0, 49] {
            assert_eq!(all(store, &conversation(&format!("d:{pair}"))).await.len(), 20);
            assert_eq!(all(store, &user(&format!("a{pair}"))).await.len(), 20);
        }
    });
    assert!(writes.await <= 5.0);
}

/// The same with all pairs sending at once: a group commit is shared by what comes together.
#[tokio::test]
async fn messages_that_come_together_share_their_journal_write() {
    let writes = count("1:1, 50 pairs at once", 1000, 2, async |store| {
        for seq in 0..20 {
            let sent = (0..50).map(|pair| {
                let names = [format!("a{pair}"), format!("b{pair}")];
                apply(store, message(&format!("d:{pair}"), &names, seq * 50 + pair, |_| seq, seq))
            });
            join_all(sent).await;
        }
        assert!(store.counters().group_commits < 500);
    });
    assert!(writes.await <= 4.0);
}

/// Two hundred messages in one group of a hundred.
#[tokio::test]
async fn a_group_message_is_far_fewer_than_three_engine_writes_a_member() {
    let members: Vec<String> = (0..100).map(|member| format!("m{member}")).collect();
    let writes = count("group of 100, 200 messages", 200, 100, async |store| {
        for no in 0..200 {
            apply(store, message("g:1", &members, no, |_| no, no)).await;
        }
        assert_eq!(store.counters().engine_writes, 202, "one a message (and two of a new directory)");
        assert_eq!(all(store, &user("m99")).await.len(), 200);
    });
    assert!(writes.await < 10.0, "a tenth of a write a member");
}

/// The worst case: every group has other members, nobody gets a second message before the checkpoint.
#[tokio::test]
async fn a_message_to_cold_members_is_fewer_than_three_engine_writes_a_member() {
    let writes = count("groups of 100, all members cold", 20, 100, async |store| {
        for no in 0..20 {
            let members: Vec<String> = (0..100).map(|member| format!("m{no}.{member}")).collect();
            apply(store, message(&format!("g:{no}"), &members, no, |_| 0, 0)).await;
        }
    });
    assert!(writes.await < 210.0, "head with its newest entries, and the row of the conversation");
}

/// Over many checkpoints a sync timeline of 1000 entries is put into segments and trimmed.
#[tokio::test]
async fn a_trimmed_sync_timeline_stays_small_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("data"));
    let mut seqs: HashMap<String, u64> = HashMap::new();
    let members = ["one".to_owned(), "two".to_owned()];
    let before = store.counters().engine_writes;
    for no in 0..3000 {
        let mut call = message("d:x", &members, no, |member| seqs.get(member).copied().unwrap_or(0), no);
        for commit in call.iter_mut().skip(1) {
            commit.floor = (no + 1).saturating_sub(1000);
        }
        apply(&store, call).await;
        members.iter().for_each(|member| *seqs.entry(member.clone()).or_default() += 1);
        if no % 10 == 9 {
            store.checkpoint().unwrap();
        }
    }
    let writes = (store.counters().engine_writes - before) as f64 / 3000.0;
    println!("1:1, a checkpoint every ten messages: {writes:.2} engine writes a message");
    assert!(writes <= 6.0);
    assert_eq!(all(&store, &user("one")).await.len(), 1000);
    store.close().unwrap();
    drop(store);
    let store = open(&dir.path().join("data"));
    let kept = all(&store, &user("two")).await;
    assert_eq!((kept[0].seq, kept.len()), (2001, 1000));
}
