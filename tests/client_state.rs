//! The model alone: what entries and answers make of a state, in whatever order they come.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod client_fake;

use client_fake::{conv, entry, row, stored};
use everline::client::state::*;
use everline::protocol::*;
use serde_json::{Value, json};

const ME: &str = "alice";

fn fresh() -> State {
    let mut state = State { user_id: Some(UserId::parse(ME).unwrap()), ..State::default() };
    first_start(&mut state, Cursor { epoch: "e1".into(), seq: 0 });
    state
}

/// With messages 1 to `n` of bob in the direct conversation.
fn holding(n: u64) -> State {
    let mut state = fresh();
    (1..=n).for_each(|seq| take(&mut state, entry(seq)));
    state
}

fn take(state: &mut State, entry: Value) {
    apply(state, &serde_json::from_str(&entry.to_string()).unwrap());
}

fn held(state: &State) -> &ConversationState {
    &state.conversations[&conv()]
}

fn recall(n: u64, target: u64) -> Value {
    json!({"seq":n,"op":"recall","conv_id":"d:alice:bob","conv_seq":n,"target":target,"by":"bob"})
}

fn edit(n: u64, target: u64) -> Value {
    json!({"seq":n,"op":"edit","conv_id":"d:alice:bob","conv_seq":n,"target":target,"by":"bob",
        "body":{"edit":n},"edited_at":n})
}

fn react(n: u64, target: u64, user: &str, add: bool) -> Value {
    json!({"seq":n,"op":"reaction","conv_id":"d:alice:bob","conv_seq":n,"target":target,"user_id":user,"key":"+1",
        "add":add})
}

fn own(op: &str, fields: Value) -> Value {
    let mut entry = fields;
    entry["op"] = json!(op);
    entry["seq"] = json!(99);
    entry["conv_id"] = json!("d:alice:bob");
    entry
}

fn member(n: u64, user: &str, change: &str) -> Value {
    json!({"seq":n,"op":"member","conv_id":"g:1","conv_seq":n,"change":change,"user_id":user,"by":"bob"})
}

fn page(messages: Vec<Value>, next: Option<u64>, head_seq: u64) -> HistoryAnswer {
    let entries = messages.iter().map(|message| serde_json::from_str(&message.to_string()).unwrap()).collect();
    HistoryAnswer { entries, next, complete: next.is_none(), head_seq }
}

fn no_changes(up_to: u64) -> ChangesAnswer {
    let (recalled, edited, reacted, deleted) = (vec![], vec![], vec![], vec![]);
    ChangesAnswer { recalled, edited, reacted, up_to, more: false, deleted, cleared_up_to: 0 }
}

fn body_of(state: &State, seq: u64) -> String {
    held(state).messages[&seq].body.as_ref().unwrap().as_str().to_owned()
}

#[test]
fn a_delete_hides_what_it_names_now_and_later() {
    let mut state = holding(3);
    take(&mut state, own("delete", json!({"ranges":[[2,2],[5,6]]})));
    for seq in 4..=7 {
        take(&mut state, entry(seq));
    }
    let answer = page((1..=7).map(stored).collect(), None, 7);
    apply_history(&mut state, &conv(), HistoryFrom::Newest, &answer, false);
    assert_eq!(held(&state).messages.keys().copied().collect::<Vec<_>>(), [1, 3, 4, 7]);
    take(&mut state, own("clear", json!({"up_to":3})));
    assert_eq!(held(&state).messages.keys().copied().collect::<Vec<_>>(), [4, 7]);
    assert_eq!(held(&state).deleted.as_slice(), [Range { from: 5, to: 6 }]);
    assert_eq!(state.unread(&conv()), 2);
}

#[test]
fn a_recall_takes_the_body_for_good_whatever_comes_when() {
    // Before, between and after: the recall wins in every order.
    let things = [recall(8, 1), edit(6, 1), react(7, 1, "carol", true), entry(1)];
    for first in 0..4 {
        for second in 0..4 {
            let mut state = fresh();
            for index in [first, second, 0, 1, 2, 3] {
                take(&mut state, things[index].clone());
            }
            // An older answer that knows nothing of it, and one that does.
            for head in [5, 9] {
                apply_history(&mut state, &conv(), HistoryFrom::Newest, &page(vec![stored(1)], None, head), false);
            }
            let message = &held(&state).messages[&1];
            assert!(message.recalled && message.body.is_none() && message.reactions.is_empty(), "{first} {second}");
            assert_eq!(message.edited_at, None);
            assert_eq!(state.unread(&conv()), 0);
        }
    }
}

#[test]
fn the_edit_with_the_highest_number_stands() {
    let mut state = holding(2);
    for n in [6, 4, 5] {
        take(&mut state, edit(n, 1));
    }
    assert_eq!(body_of(&state, 1), r#"{"edit":6}"#);
    // An answer of before the edit changes nothing; one that is newer does, and keeps old edits out.
    apply_history(&mut state, &conv(), HistoryFrom::Newest, &page(vec![stored(1)], None, 5), false);
    assert_eq!(body_of(&state, 1), r#"{"edit":6}"#);
    let mut newer = stored(1);
    (newer["body"], newer["edited_at"]) = (json!({"edit":9}), json!(9));
    apply_history(&mut state, &conv(), HistoryFrom::Newest, &page(vec![newer], None, 10), false);
    assert_eq!(body_of(&state, 1), r#"{"edit":9}"#);
    take(&mut state, edit(8, 1));
    assert_eq!(body_of(&state, 1), r#"{"edit":9}"#);
    take(&mut state, edit(11, 1));
    assert_eq!(body_of(&state, 1), r#"{"edit":11}"#);
}

#[test]
fn changes_wait_for_a_message_that_an_older_answer_brings() {
    let mut state = holding(0);
    take(&mut state, entry(5));
    take(&mut state, edit(6, 2));
    take(&mut state, react(7, 2, "carol", true));
    take(&mut state, recall(8, 3));
    let answer = page(vec![stored(2), stored(3), stored(4)], Some(2), 5);
    apply_history(&mut state, &conv(), HistoryFrom::Before(5), &answer, false);
    assert_eq!(body_of(&state, 2), r#"{"edit":6}"#);
    assert_eq!(held(&state).messages[&2].reactions["+1"].count(), 1);
    assert!(held(&state).messages[&3].recalled);
    assert_eq!(body_of(&state, 4), r#"{"n":4}"#);
}

#[test]
fn reactions_count_once_and_their_names_come_later() {
    let mut state = holding(1);
    let mut told = stored(1);
    told["reactions"] = json!([{"key":"+1","count":3,"users":["bob"]}]);
    apply_history(&mut state, &conv(), HistoryFrom::Newest, &page(vec![told], None, 10), false);
    // Contained in the answer already: names only.
    take(&mut state, react(4, 1, "carol", true));
    take(&mut state, react(5, 1, "bob", true));
    let reaction = held(&state).messages[&1].reactions["+1"].clone();
    assert_eq!((reaction.users.len(), reaction.count()), (2, 3));
    // New ones count.
    take(&mut state, react(11, 1, "dave", true));
    take(&mut state, react(12, 1, "bob", false));
    take(&mut state, react(11, 1, "bob", true));
    let reaction = held(&state).messages[&1].reactions["+1"].clone();
    assert_eq!((reaction.users.len(), reaction.count()), (2, 3));
    for (n, user) in [(13, "carol"), (14, "dave"), (15, "erin")] {
        take(&mut state, react(n, 1, user, false));
    }
    assert!(held(&state).messages[&1].reactions.is_empty());
}

#[test]
fn complete_changes_name_everybody_and_keep_what_is_newer() {
    let mut state = holding(1);
    let mut told = stored(1);
    told["reactions"] = json!([{"key":"+1","count":3,"users":["bob"]}]);
    // The answer knew of erin's, which is after the changes' `up_to`.
    apply_history(&mut state, &conv(), HistoryFrom::Newest, &page(vec![told], None, 9), false);
    let acts = [(2, "bob", true), (3, "carol", true), (4, "dave", false)];
    let reacted = acts.map(|(conv_seq, user, add)| ReactionChange {
        target: 1,
        conv_seq,
        user_id: UserId::parse(user).unwrap(),
        key: "+1".into(),
        add,
    });
    let answer = ChangesAnswer { reacted: reacted.to_vec(), ..no_changes(8) };
    apply_changes(&mut state, &conv(), 0, &answer, true);
    assert_eq!(held(&state).messages[&1].reactions["+1"].count(), 2);
    take(&mut state, react(9, 1, "erin", true));
    let reaction = held(&state).messages[&1].reactions["+1"].clone();
    assert_eq!((reaction.users.len(), reaction.unnamed), (3, 0));
}

#[test]
fn unread_follows_the_rule() {
    let mut state = holding(5);
    assert_eq!(state.unread(&conv()), 5);
    let mut mine = entry(6);
    mine["sender_id"] = json!(ME);
    take(&mut state, mine);
    assert_eq!(state.unread(&conv()), 5, "own messages never count");
    take(&mut state, recall(7, 5));
    take(&mut state, own("delete", json!({"ranges":[[4,4]]})));
    assert_eq!(state.unread(&conv()), 3);
    take(&mut state, own("read", json!({"read_seq":2,"unread":1})));
    assert_eq!(state.unread(&conv()), 1);
    take(&mut state, recall(8, 1));
    take(&mut state, entry(9));
    assert_eq!(state.unread(&conv()), 2);
    take(&mut state, own("clear", json!({"up_to":9})));
    assert_eq!(state.unread(&conv()), 0);
}

#[test]
fn unread_of_messages_not_held_is_carried_from_the_servers_number() {
    let mut state = fresh();
    let told: ConversationSummary = serde_json::from_str(&row(10, 6).to_string()).unwrap();
    apply_conversations(&mut state, &[told], 0);
    assert_eq!(state.unread(&conv()), 6);
    take(&mut state, entry(11));
    assert_eq!(state.unread(&conv()), 7);
    take(&mut state, recall(12, 8));
    assert_eq!(state.unread(&conv()), 6);
    // Pages move messages from the rest to those held; the number stays.
    apply_history(&mut state, &conv(), HistoryFrom::Before(11), &page(vec![stored(9), stored(10)], Some(9), 12), false);
    assert_eq!(state.unread(&conv()), 6);
    // With everything held it is counted.
    apply_history(&mut state, &conv(), HistoryFrom::Before(9), &page(vec![stored(1)], None, 12), false);
    assert_eq!(state.unread(&conv()), 4);
}

#[test]
fn numbers_of_unknown_ops_count_and_change_nothing() {
    let mut state = holding(1);
    let before = state.conversations.clone();
    let frame = json!({"from_seq":0,"to_seq":9,"live":true,"entries":[
        {"seq":3,"op":"poll","conv_id":"d:alice:bob","conv_seq":4,"options":[1]},
        {"seq":4,"op":"mention","conv_id":"g:town","target":3,"sender_id":"bob"}]});
    apply_frame(&mut state, &serde_json::from_str(&frame.to_string()).unwrap());
    assert_eq!((state.seq(), state.conversations), (9, before));
}

#[test]
fn members_title_settings_and_receipts_are_kept() {
    let mut state = fresh();
    take(
        &mut state,
        json!({"seq":1,"op":"conversation","conv_id":"g:1","conv_seq":1,"change":"created",
        "members":["bob","alice"],"title":"one"}),
    );
    take(&mut state, member(2, "carol", "joined"));
    take(
        &mut state,
        json!({"seq":3,"op":"conversation","conv_id":"g:1","conv_seq":3,"change":"renamed","title":"two"}),
    );
    take(&mut state, json!({"seq":4,"op":"settings","conv_id":"g:1","muted":true,"pinned":false,"hidden":false}));
    take(&mut state, own("receipt", json!({"user_id":"bob","read_seq":4})));
    let group = &state.conversations[&ConvId::parse("g:1").unwrap()];
    assert_eq!(group.members.as_ref().unwrap().len(), 3);
    assert_eq!((group.title.as_deref(), group.settings.muted), (Some("two"), true));
    assert_eq!(held(&state).peer_read_seq, 4);
    take(&mut state, member(5, ME, "removed"));
    let group = &state.conversations[&ConvId::parse("g:1").unwrap()];
    assert_eq!((group.left_seq, &group.members), (Some(5), &None));
}

#[test]
fn an_older_row_takes_back_nothing_that_entries_told() {
    let mut state = fresh();
    let group = ConvId::parse("g:1").unwrap();
    take(
        &mut state,
        json!({"seq":1,"op":"conversation","conv_id":"g:1","conv_seq":1,"change":"created",
        "members":["bob","alice"],"title":"one"}),
    );
    take(
        &mut state,
        json!({"seq":7,"op":"conversation","conv_id":"g:1","conv_seq":7,"change":"renamed","title":"new"}),
    );
    take(&mut state, json!({"seq":8,"op":"settings","conv_id":"g:1","muted":true,"pinned":false,"hidden":false}));
    take(&mut state, member(9, ME, "left"));
    let mut told = row(6, 0);
    (told["conv_id"], told["kind"], told["title"]) = (json!("g:1"), json!("group"), json!("old"));
    let told: ConversationSummary = serde_json::from_str(&told.to_string()).unwrap();
    apply_conversations(&mut state, &[told], 6);
    let held = &state.conversations[&group];
    assert_eq!((held.title.as_deref(), held.settings.muted, held.left_seq), (Some("new"), true, Some(9)));
}

#[test]
fn a_return_loads_the_time_between_the_stays() {
    let mut state = fresh();
    let group = ConvId::parse("g:1").unwrap();
    let created = json!({"seq":1,"op":"conversation","conv_id":"g:1","conv_seq":1,"change":"created",
        "members":["bob","alice"]});
    take(&mut state, created);
    take(&mut state, member(2, ME, "removed"));
    // A row may tell of the return before its entry does.
    let mut told = row(9, 0);
    (told["conv_id"], told["kind"]) = (json!("g:1"), json!("group"));
    apply_conversations(&mut state, &[serde_json::from_str(&told.to_string()).unwrap()], 9);
    assert_eq!(state.conversations[&group].left_seq, None);
    take(&mut state, member(9, ME, "joined"));
    assert_eq!(state.conversations[&group].stale.gap, Some(2));
}

#[test]
fn a_reset_marks_once_where_the_hole_begins() {
    let mut state = holding(3);
    let too_old =
        |head_seq| Reset { id: None, reason: ResetReason::TooOld, epoch: "e1".into(), head_seq, floor_seq: 1 };
    reset(&mut state, &too_old(50));
    take(&mut state, entry(60));
    assert!(!close_if_done(&mut state));
    assert_eq!((held(&state).stale.gap, held(&state).stale.changes), (Some(3), Some(3)));
    assert_eq!(held(&state).reconciled_seq, Some(3), "moved while the reset is open");
    // Complete changes move it on; entries don't, even then.
    apply_changes(&mut state, &conv(), 3, &no_changes(40), true);
    take(&mut state, entry(61));
    assert_eq!(held(&state).reconciled_seq, Some(40));
    reset(&mut state, &too_old(70));
    assert_eq!((held(&state).stale.gap, held(&state).stale.changes), (Some(3), Some(40)));
    state.list_wanted = false;
    // What was asked before finishes nothing; what was asked after does.
    let whole = page((4..=61).map(stored).collect(), None, 61);
    apply_history(&mut state, &conv(), HistoryFrom::After(3), &whole, false);
    apply_changes(&mut state, &conv(), 40, &no_changes(61), false);
    assert!(!close_if_done(&mut state));
    apply_history(&mut state, &conv(), HistoryFrom::After(3), &whole, true);
    apply_changes(&mut state, &conv(), 40, &no_changes(61), true);
    assert!(!close_if_done(&mut state), "its row has not been read");
    apply_conversations(&mut state, &[serde_json::from_str(&row(61, 61).to_string()).unwrap()], 70);
    assert!(close_if_done(&mut state));
    assert_eq!((state.seq(), held(&state).reconciled_seq, state.unread(&conv())), (70, Some(61), 61));
    take(&mut state, entry(62));
    assert_eq!(held(&state).reconciled_seq, Some(62));
}

#[test]
fn a_row_that_came_before_its_entries_holds_none_of_them() {
    let mut state = fresh();
    apply_conversations(&mut state, &[serde_json::from_str(&row(4, 4).to_string()).unwrap()], 0);
    take(&mut state, entry(1));
    let too_old = ResetReason::TooOld;
    reset(&mut state, &Reset { id: None, reason: too_old, epoch: "e1".into(), head_seq: 20, floor_seq: 5 });
    assert_eq!((held(&state).stale.gap, held(&state).stale.changes), (Some(1), Some(1)));
}

#[test]
fn what_was_had_until_a_removal_is_loaded_also_where_it_is_known_to_be_large_only_later() {
    let mut state = State { preload: Preload::History(u32::MAX), ..fresh() };
    let group = ConvId::parse("g:1").unwrap();
    take(&mut state, member(3, ME, "joined"));
    // Both are asked for by now, and answered as things stood before a message and the removal.
    take(&mut state, member(6, ME, "removed"));
    apply_history(&mut state, &group, HistoryFrom::Newest, &page(vec![], None, 4), true);
    apply_changes(&mut state, &group, 0, &no_changes(6), true);
    assert_eq!((state.conversations[&group].stale.gap, state.conversations[&group].stale.changes), (None, None));
    let mut told = row(6, 1);
    (told["conv_id"], told["kind"], told["large"], told["left_seq"]) =
        (json!("g:1"), json!("group"), json!(true), json!(6));
    apply_conversations(&mut state, &[serde_json::from_str(&told.to_string()).unwrap()], 9);
    assert_eq!(state.conversations[&group].stale.gap, Some(4));
    apply_history(&mut state, &group, HistoryFrom::After(4), &page(vec![], None, 6), true);
    apply_changes(&mut state, &group, 4, &no_changes(6), true);
    let stale = &state.conversations[&group].stale;
    assert_eq!((stale.gap, stale.changes), (None, None), "and once is enough");
}

#[test]
fn a_row_asked_for_before_another_undoes_nothing() {
    let mut state = fresh();
    let told = |head: u64, unread: u64, muted: bool| {
        let mut told = row(head, unread);
        told["settings"]["muted"] = json!(muted);
        [serde_json::from_str(&told.to_string()).unwrap()]
    };
    apply_conversations(&mut state, &told(15, 9, true), 61);
    apply_conversations(&mut state, &told(5, 3, false), 7);
    assert_eq!((held(&state).settings.muted, state.unread(&conv())), (true, 9));
}

#[test]
fn what_is_deleted_is_not_unread_though_it_was_never_held() {
    let mut state = fresh();
    apply_conversations(&mut state, &[serde_json::from_str(&row(3, 2).to_string()).unwrap()], 0);
    assert_eq!(state.unread(&conv()), 2);
    take(&mut state, own("delete", json!({"ranges":[[1,2]]})));
    assert_eq!(state.unread(&conv()), 1);
    take(&mut state, own("clear", json!({"up_to":3})));
    assert_eq!(state.unread(&conv()), 0);
}

#[test]
fn a_state_survives_being_written_down() {
    let mut state = holding(3);
    take(&mut state, edit(4, 1));
    take(&mut state, react(5, 2, "carol", true));
    take(&mut state, own("delete", json!({"ranges":[[3,3]]})));
    let text = serde_json::to_string(&state).unwrap();
    assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state);
}
