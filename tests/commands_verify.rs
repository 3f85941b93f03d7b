//! `verify` finds each kind of difference planted in a store, and none after ordinary use.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod commands_support;

use bytes::Bytes;
use commands_support::{World, body, member, user};
use everline::audit::inspect::{Wanted, inspect};
use everline::audit::verify::{Report, verify};
use everline::conversation::member::{OPEN, Stay};
use everline::conversation::ranges::Ranges;
use everline::conversation::rows::{self, Change, ChangeKind, SentAs, Word};
use everline::conversation::user_row::UserRow;
use everline::protocol::{ConvId, DeviceId, MsgId, Range, Request};
use everline::store::{Store, TimelineId};

/// A group of three with some history: alice sent 2..=6, bob read and deleted, 3 is recalled after an
/// edit, 4 edited, 5 reacted to; carol left and came back.
async fn used() -> (World, ConvId) {
    let world = World::new(1, true);
    let conv = world.create("alice", &["bob", "carol"]).await;
    for n in 2..=6 {
        world.send("alice", &conv, &format!("m{n}"), &format!("text {n}")).await;
    }
    world.ask("alice", Request::Edit { conv_id: conv.clone(), target: 3, body: body("edited 3") }).await;
    world.ask("alice", Request::Edit { conv_id: conv.clone(), target: 4, body: body("edited 4") }).await;
    world.ask("alice", Request::Recall { conv_id: conv.clone(), target: 3 }).await;
    world.ask("bob", Request::React { conv_id: conv.clone(), target: 5, key: "+1".into(), add: true }).await;
    world.ask("bob", Request::Read { conv_id: conv.clone(), read_seq: 2 }).await;
    world.ask("bob", Request::Delete { conv_id: conv.clone(), ranges: vec![Range { from: 5, to: 5 }] }).await;
    world.ask("carol", Request::Leave { conv_id: conv.clone() }).await;
    world.ask("alice", Request::Edit { conv_id: conv.clone(), target: 4, body: body("again 4") }).await;
    world.send("alice", &conv, "away", "without carol").await;
    world.ask("alice", Request::Invite { conv_id: conv.clone(), users: vec![user("carol")] }).await;
    world.send("bob", &conv, "b1", "welcome back").await;
    world.settle().await;
    (world, conv)
}

async fn report(world: &World) -> Report {
    verify(&world.sim).await.unwrap()
}

/// The planted difference is found, and told in these words.
async fn found(world: &World, words: &str) {
    let report = report(world).await;
    let told: Vec<String> = report.differences.iter().map(|one| format!("{}: {}", one.timeline, one.what)).collect();
    assert!(told.iter().any(|line| line.contains(words)), "expected `{words}` in {told:#?}");
}

#[tokio::test]
async fn nothing_differs_after_use() {
    let (world, _) = used().await;
    let report = report(&world).await;
    assert!(report.is_clean(), "{report:#?}");
    assert_eq!((report.conversations, report.users), (1, 3));
    assert!(report.entries > 40 && report.rows > 15, "{report:?}");
}

#[tokio::test]
async fn nothing_differs_after_random_use_in_either_kind_of_store() {
    for together in [true, false] {
        for seed in 1..=6 {
            let world = World::new(seed, together);
            world.play(seed, 150).await;
            let report = report(&world).await;
            assert!(report.is_clean(), "seed {seed} together {together}: {report:#?}");
            assert!(report.entries > 100, "the generator does nothing: {report:?}");
        }
    }
}

#[tokio::test]
async fn nothing_differs_where_old_entries_are_gone() {
    let world = World::with_retention(3, 20);
    world.play(3, 300).await;
    let report = report(&world).await;
    assert!(report.is_clean(), "{report:#?}");
    let floor = world.sim.dump(&TimelineId::User(user("alice"))).head.floor;
    assert!(floor > 0, "nothing was trimmed");
}

#[tokio::test]
async fn a_missing_entry_is_found() {
    let (world, conv) = used().await;
    world.sim.damage(&TimelineId::Conversation(conv), 4);
    found(&world, "entries 4 to 4 are missing").await;
    // Who was sent it points into nothing now.
    found(&world, "4) does not exist").await;

    let (world, _) = used().await;
    let timeline = TimelineId::User(user("bob"));
    let head = world.sim.dump(&timeline).head.position.seq;
    world.sim.damage(&timeline, head);
    found(&world, &format!("user bob: entries {head} to {head} are missing")).await;
    found(&world, "the last entry here is").await;
}

#[tokio::test]
async fn a_pointer_left_out_is_found() {
    let (world, conv) = used().await;
    let timeline = TimelineId::User(user("alice"));
    // Another instruction stands where message 6 was.
    let (seq, _) = world.pointer_to("alice", &conv, 6);
    let other = world.sim.dump(&timeline).entries.last().unwrap().data.clone();
    world.rewrite(&timeline, seq, other).await;
    found(&world, "6 is addressed to this user and was left out").await;
}

#[tokio::test]
async fn a_doubled_pointer_is_found() {
    let (world, conv) = used().await;
    let (_, last) = world.pointer_to("bob", &conv, 15);
    let (_, data) = world.pointer_to("bob", &conv, 6);
    world.append(&TimelineId::User(user("bob")), vec![last, data]).await;
    found(&world, "is there twice").await;
    found(&world, "6) comes after").await;
}

#[tokio::test]
async fn an_entry_of_somebody_else_is_found() {
    let (world, conv) = used().await;
    let (_, data) = world.pointer_to("bob", &conv, 6);
    world.append(&TimelineId::User(user("mallory")), vec![data]).await;
    found(&world, "is not addressed to this user").await;
    found(&world, "but no row").await;
}

#[tokio::test]
async fn wrong_numbers_in_a_users_row_are_found() {
    type Change = fn(&mut UserRow);
    let changes: [(Change, &str); 6] = [
        (|row| row.unread += 1, "unread is"),
        (|row| row.delivered -= 1, "entries up to"),
        (|row| row.delivered += 1, "the last entry addressed to him is"),
        (|row| row.last_at += 1, "last_at is"),
        (|row| row.read_seq = 1, "read_seq is 1, the timeline told 2"),
        (|row| row.has_hidden = false, "are not named by its row"),
    ];
    for (change, words) in changes {
        let (world, conv) = used().await;
        let timeline = TimelineId::User(user("bob"));
        let mut row = UserRow::load(&world.row(&timeline, &rows::conv_key(&conv)).unwrap()).unwrap();
        change(&mut row);
        world.set_row(&timeline, rows::conv_key(&conv), Some(row.store())).await;
        found(&world, words).await;
    }
}

#[tokio::test]
async fn a_lost_row_is_found() {
    let (world, conv) = used().await;
    world.set_row(&TimelineId::User(user("bob")), rows::conv_key(&conv), None).await;
    found(&world, "bob has no row").await;

    let (world, conv) = used().await;
    world.set_row(&TimelineId::User(user("bob")), rows::hidden_key(&conv), None).await;
    found(&world, "there are deleted ranges, and there are none").await;
    found(&world, "what was deleted in").await;

    let (world, conv) = used().await;
    world.set_row(&TimelineId::Conversation(conv), rows::state_key(), None).await;
    found(&world, "there is no state row").await;
}

#[tokio::test]
async fn what_was_deleted_and_came_back_is_found() {
    let (world, conv) = used().await;
    let mut ranges = Ranges::default();
    ranges.insert(6, 6);
    world.set_row(&TimelineId::User(user("bob")), rows::hidden_key(&conv), Some(ranges.store())).await;
    found(&world, "what was deleted in").await;
}

#[tokio::test]
async fn wrong_members_are_found() {
    let (world, conv) = used().await;
    let timeline = TimelineId::Conversation(conv);
    let mut carol = member(&world.row(&timeline, &rows::member_key(&user("carol"))).unwrap());
    carol.stays = vec![Stay(1, OPEN)];
    world.set_row(&timeline, rows::member_key(&user("carol")), Some(rows::pack(&carol))).await;
    found(&world, "stays of carol are 1-, by the log").await;
    // Judged by that row she missed what came while she was away.
    found(&world, "was left out").await;

    world.set_row(&timeline, rows::member_key(&user("mallory")), Some(rows::pack(&carol))).await;
    found(&world, "mallory, who never was a member").await;
    world.set_row(&timeline, rows::member_key(&user("bob")), None).await;
    found(&world, "member bob has no row").await;
    found(&world, "is not addressed to this user").await;
}

#[tokio::test]
async fn a_wrong_count_of_members_is_found() {
    let (world, conv) = used().await;
    let timeline = TimelineId::Conversation(conv);
    let state = world.row(&timeline, &rows::state_key()).unwrap();
    let state = String::from_utf8(state.to_vec()).unwrap().replace("\"members_count\":3", "\"members_count\":4");
    world.set_row(&timeline, rows::state_key(), Some(Bytes::from(state))).await;
    found(&world, "members_count is 4, by the log 3").await;
}

#[tokio::test]
async fn a_broken_change_index_is_found() {
    let (world, conv) = used().await;
    let timeline = TimelineId::Conversation(conv);
    world.set_row(&timeline, rows::change_key(9), None).await;
    found(&world, "change 9 is not in the change index").await;
    let change = Change { kind: ChangeKind::Recall, target: 2 };
    world.set_row(&timeline, rows::change_key(2), Some(rows::pack(&change))).await;
    found(&world, "change index names 2, which is no change").await;
    world.set_row(&timeline, rows::change_key(99), Some(rows::pack(&change))).await;
    found(&world, "is above the head").await;
    let target: rows::Target = serde_json::from_slice(&world.row(&timeline, &rows::target_key(5)).unwrap()).unwrap();
    let mut wrong = target.clone();
    wrong.reactions[0].count += 1;
    world.set_row(&timeline, rows::target_key(5), Some(rows::pack(&wrong))).await;
    found(&world, "message 5: its row has 2 reactions with").await;
    world.set_row(&timeline, rows::target_key(5), Some(rows::pack(&target))).await;
    world.set_row(&timeline, rows::word_key(2, "!", "bob"), Some(rows::pack(&Word { conv_seq: 3, add: true }))).await;
    found(&world, "message 2: its row has 0 as the last reaction, there is 3").await;
    found(&world, "target row of 2 names 3, which is no Reaction of it").await;
    world.set_row(&timeline, rows::target_key(5), None).await;
    found(&world, "reaction 10 is not in the row of its target 5").await;
    let target = rows::Target { edits: vec![8], ..rows::Target::default() };
    world.set_row(&timeline, rows::target_key(2), Some(rows::pack(&target))).await;
    found(&world, "target row of 2 names 8, which is no Edit of it").await;
}

#[tokio::test]
async fn a_recalled_body_that_is_still_there_is_found() {
    let (before, conv) = {
        let world = World::new(1, true);
        let conv = world.create("alice", &["bob", "carol"]).await;
        for n in 2..=6 {
            world.send("alice", &conv, &format!("m{n}"), &format!("text {n}")).await;
        }
        let edit = Request::Edit { conv_id: conv.clone(), target: 3, body: body("edited 3") };
        world.ask("alice", edit).await;
        (world.sim.dump(&TimelineId::Conversation(conv.clone())), conv)
    };
    let (world, same) = used().await;
    assert_eq!(conv, same);
    let timeline = TimelineId::Conversation(conv);
    let content = |seq: u64| before.entries.iter().find(|entry| entry.seq == seq).unwrap().data.clone();
    world.rewrite(&timeline, 3, content(3)).await;
    found(&world, "message 3 is recalled, but its body is there").await;
    world.rewrite(&timeline, 7, content(7)).await;
    found(&world, "the body of its edit 7 is there").await;
    world.rewrite(&timeline, 4, Bytes::from_static(b"?")).await;
    found(&world, "entry 4 is unreadable").await;
}

#[tokio::test]
async fn a_dedupe_row_that_names_another_message_is_found() {
    let (world, conv) = used().await;
    let timeline = TimelineId::Conversation(conv);
    let key = rows::dedupe_key(&user("alice"), &MsgId::parse("m2").unwrap());
    let sent: SentAs = serde_json::from_slice(&world.row(&timeline, &key).unwrap()).unwrap();
    world.set_row(&timeline, key, Some(rows::pack(&SentAs { conv_seq: 4, ..sent }))).await;
    found(&world, "names 4, which is another entry").await;
}

#[tokio::test]
async fn a_head_beyond_the_log_and_foreign_rows_are_found() {
    let (world, conv) = used().await;
    let timeline = TimelineId::Conversation(conv.clone());
    world.set_row(&timeline, rows::device_key(&DeviceId::parse("phone").unwrap()), Some(Bytes::new())).await;
    found(&world, "rows of section Device do not belong here").await;
    let mut commit = world.empty_commit(&timeline);
    (commit.floor, commit.fanned) = (2, 999);
    world.commit(commit).await;
    found(&world, "the floor is 2: conversations are kept for good").await;
    found(&world, "fan-out is said to be complete up to 999").await;
}

#[tokio::test]
async fn unfinished_deliveries_are_told_and_no_difference() {
    let (world, conv) = used().await;
    let timeline = TimelineId::Conversation(conv.clone());
    let entries = world.sim.dump(&timeline).entries;
    let last = entries.last().unwrap();
    // A message that a crash left without its deliveries.
    let text = String::from_utf8(last.data.to_vec()).unwrap();
    let next = last.seq + 1;
    let text = text.replace(&format!("\"conv_seq\":{}", last.seq), &format!("\"conv_seq\":{next}"));
    world.append(&timeline, vec![Bytes::from(text.replace("\"b1\"", "\"b2\""))]).await;
    let report = report(&world).await;
    assert!(report.is_clean(), "{report:#?}");
    assert_eq!(report.unfinished, [conv.to_string()]);
}

#[tokio::test]
async fn inspect_shows_what_people_wrote_only_when_asked() {
    let (world, conv) = used().await;
    for (timeline, entries) in [(TimelineId::Conversation(conv), 14), (TimelineId::User(user("bob")), 14)] {
        for bodies in [false, true] {
            let wanted = Wanted { timeline: timeline.clone(), after: 0, limit: 1000, bodies };
            let mut lines = Vec::new();
            inspect(&world.sim, &wanted, &mut |line| lines.push(line)).await.unwrap();
            let text = lines.join("\n");
            let is_log = matches!(timeline, TimelineId::Conversation(_));
            assert_eq!(text.contains("text 2") || text.contains("town"), bodies && is_log, "{text}");
            assert!(lines.len() > entries, "{text}");
            assert!(text.contains("row "), "{text}");
        }
    }
    let store: &dyn Store = &world.sim;
    let wanted = Wanted { timeline: TimelineId::User(user("bob")), after: 3, limit: 2, bodies: false };
    let mut lines = Vec::new();
    inspect(store, &wanted, &mut |line| lines.push(line)).await.unwrap();
    let numbered: Vec<&String> = lines.iter().filter(|line| line.starts_with("    ")).collect();
    assert!(numbered.len() == 2 && numbered[0].trim_start().starts_with("4 "), "{lines:#?}");
}
