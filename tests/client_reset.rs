//! Resets: what is asked, what is kept, and that an interrupted one goes on.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod client_fake;

use client_fake::*;
use everline::client::state::Loading;
use everline::client::*;
use everline::protocol::{HistoryFrom, MsgId, Request};
use serde_json::{Value, json};

fn changes(request: &Value, up_to: u64, recalled: Value, deleted: Value) -> Value {
    json!({"type":"changes","id":request["id"],"recalled":recalled,"edited":[],"reacted":[],"up_to":up_to,
        "more":false,"deleted":deleted,"cleared_up_to":0})
}

fn history(request: &Value, messages: &[u64], next: Option<u64>, head: u64) -> Value {
    let entries: Vec<Value> = messages.iter().copied().map(stored).collect();
    let mut page = json!({"type":"history","id":request["id"],"entries":entries,"complete":next.is_none(),
        "head_seq":head});
    if let Some(next) = next {
        page["next"] = json!(next);
    }
    page
}

fn list(request: &Value, rows: Value) -> Value {
    json!({"type":"conversations","id":request["id"],"conversations":rows})
}

/// A client that holds messages 1-3, live; and its server's side.
async fn holding_three(fake: &Fake, cache: &MemoryCache) -> (Client, Events, Peer) {
    let (client, events) = connect(fake, cache, Preload::None);
    let mut peer = fake.live().await;
    peer.send(sync(0, 3, true, entries(1, 3))).await;
    assert_eq!(peer.expect("ack").await["seq"], 3);
    until_live(&client).await;
    (client, events, peer)
}

#[tokio::test]
async fn too_old_keeps_the_cache_and_reconciles_it() {
    let (fake, cache) = (Fake::new().await, MemoryCache::default());
    let (client, mut events, mut peer) = holding_three(&fake, &cache).await;
    peer.send(reset("too_old", "e1", 100)).await;
    peer.send(sync(100, 100, true, json!([]))).await;
    let ask = peer.expect("conversations").await;
    let after = peer.expect("history").await;
    assert_eq!(after["after"], 3);
    assert_eq!(client.status(), ConnectionState::Syncing, "stale, shown as live");
    peer.send(list(&ask, json!([row(9, 4)]))).await;
    peer.send(history(&after, &[5], Some(5), 9)).await;
    let more = peer.expect("history").await;
    assert_eq!(more["after"], 5);
    // A new message comes meanwhile: it moves neither mark.
    let mut news = entry(101);
    news["conv_seq"] = json!(10);
    peer.send(sync(100, 101, true, json!([news]))).await;
    peer.send(history(&more, &[7], None, 9)).await;
    let ask = loop {
        let frame = peer.next().await;
        if frame["type"] == "changes" {
            break frame;
        }
        assert_eq!(frame["type"], "ack");
    };
    assert_eq!(ask["since"], 3);
    let recalled = json!([{"target":1,"conv_seq":8,"by":"bob"}]);
    peer.send(changes(&ask, 9, recalled, json!([[2, 2]]))).await;
    until(&mut events, "Reconciled", |event| *event == Event::Reconciled).await;
    until_live(&client).await;
    let state = client.state().await.unwrap();
    let held = &state.conversations[&conv()];
    assert_eq!(held.messages.keys().copied().collect::<Vec<_>>(), [1, 3, 5, 7, 10]);
    assert!(held.messages[&1].recalled && held.messages[&1].body.is_none());
    assert_eq!(state.unread(&conv()), 4);
    assert_eq!(held.reconciled_seq, Some(9));
    assert_eq!(state, cache.saved().state);
}

#[tokio::test]
async fn a_conversation_that_came_below_the_floor_is_asked_for_its_deletes() {
    let (fake, cache) = (Fake::new().await, MemoryCache::default());
    let (client, mut events) = connect(&fake, &cache, Preload::None);
    let mut peer = fake.live().await;
    peer.send(sync(0, 0, true, json!([]))).await;
    until_live(&client).await;
    peer.send(reset("too_old", "e1", 100)).await;
    peer.send(sync(100, 100, true, json!([]))).await;
    let ask = peer.expect("conversations").await;
    peer.send(list(&ask, json!([row(9, 4)]))).await;
    let ask = peer.expect("changes").await;
    assert_eq!(ask["since"], 9, "what is not held has no changes to learn");
    peer.send(changes(&ask, 9, json!([]), json!([[2, 3]]))).await;
    until(&mut events, "Reconciled", |event| *event == Event::Reconciled).await;
    let state = client.state().await.unwrap();
    let deleted = state.conversations[&conv()].deleted.as_slice();
    assert_eq!(deleted, [everline::protocol::Range { from: 2, to: 3 }]);
}

#[tokio::test]
async fn an_interrupted_reconciliation_goes_on_from_where_it_was() {
    let (fake, cache) = (Fake::new().await, MemoryCache::default());
    let (client, events, mut peer) = holding_three(&fake, &cache).await;
    peer.send(reset("too_old", "e1", 100)).await;
    let ask = peer.expect("conversations").await;
    peer.send(list(&ask, json!([row(9, 4)]))).await;
    let after = peer.expect("history").await;
    peer.send(history(&after, &[5], Some(5), 9)).await;
    peer.expect("history").await;
    let mut news = entry(101);
    news["conv_seq"] = json!(10);
    peer.send(sync(100, 101, true, json!([news]))).await;
    assert_eq!(peer.expect("ack").await["seq"], 101);
    client.close().await;
    peer.expect_close().await;
    drop(events);
    assert_eq!(cache.saved().state.loading, Loading::Reset);
    // Another process: its cursor is good, yet it is not live before the rest is done.
    let (client, mut events) = connect(&fake, &cache, Preload::None);
    let mut peer = fake.live().await;
    assert_eq!(peer.hello["cursor"]["seq"], 101);
    let after = peer.expect("history").await;
    assert_eq!(after["after"], 5, "neither from the start nor from the newest message");
    assert_eq!(client.status(), ConnectionState::Syncing);
    peer.send(history(&after, &[7], None, 10)).await;
    let ask = peer.expect("changes").await;
    assert_eq!(ask["since"], 3, "moved by an entry while the reset was open");
    peer.send(changes(&ask, 10, json!([]), json!([]))).await;
    until(&mut events, "Reconciled", |event| *event == Event::Reconciled).await;
    until_live(&client).await;
    let held = client.conversation(conv()).await.unwrap();
    assert_eq!(held.messages.keys().copied().collect::<Vec<_>>(), [1, 2, 3, 5, 7, 10]);
}

#[tokio::test]
async fn a_reset_during_a_reconciliation_begins_it_anew() {
    let (fake, cache) = (Fake::new().await, MemoryCache::default());
    let (client, mut events, mut peer) = holding_three(&fake, &cache).await;
    peer.send(reset("too_old", "e1", 100)).await;
    let (old_list, old_history) = (peer.expect("conversations").await, peer.expect("history").await);
    peer.send(reset("too_old", "e1", 200)).await;
    peer.send(sync(200, 200, true, json!([]))).await;
    let new_list = peer.expect("conversations").await;
    // Answers to what was asked before it are good, but prove nothing.
    peer.send(list(&old_list, json!([row(9, 4)]))).await;
    peer.send(history(&old_history, &[5], None, 9)).await;
    let after = peer.expect("history").await;
    assert_eq!(after["after"], 3);
    peer.send(list(&new_list, json!([row(20, 9)]))).await;
    peer.send(history(&after, &[5, 11], None, 20)).await;
    let ask = peer.expect("changes").await;
    assert_eq!(ask["since"], 3);
    assert_eq!(client.status(), ConnectionState::Syncing);
    peer.send(changes(&ask, 20, json!([]), json!([]))).await;
    until(&mut events, "Reconciled", |event| *event == Event::Reconciled).await;
    until_live(&client).await;
    let held = client.conversation(conv()).await.unwrap();
    assert_eq!(held.messages.keys().copied().collect::<Vec<_>>(), [1, 2, 3, 5, 11]);
    assert_eq!(client.state().await.unwrap().seq(), 200);
}

#[tokio::test]
async fn the_list_and_changes_are_paged_to_their_end() {
    let (fake, cache) = (Fake::new().await, MemoryCache::default());
    let (client, mut events, mut peer) = holding_three(&fake, &cache).await;
    peer.send(reset("too_old", "e1", 100)).await;
    peer.send(sync(100, 100, true, json!([]))).await;
    let ask = peer.expect("conversations").await;
    assert!(ask["page"].is_null());
    let mut other = row(4, 2);
    other["conv_id"] = json!("d:alice:carol");
    let mut page = list(&ask, json!([other]));
    page["next"] = json!("p2");
    let after = peer.expect("history").await;
    peer.send(page).await;
    let ask = peer.expect("conversations").await;
    assert_eq!(ask["page"], "p2");
    let new = peer.expect("changes").await;
    assert_eq!((&new["conv_id"], &new["since"]), (&json!("d:alice:carol"), &json!(4)));
    peer.send(changes(&new, 4, json!([]), json!([]))).await;
    peer.error(&ask, "rate_limited", json!(1)).await;
    let ask = peer.expect("conversations").await;
    assert_eq!(ask["page"], "p2", "the page that was refused for now");
    peer.send(list(&ask, json!([row(9, 4)]))).await;
    peer.send(history(&after, &[], None, 9)).await;
    let ask = peer.expect("changes").await;
    let mut page = changes(&ask, 6, json!([{"target":1,"conv_seq":5,"by":"bob"}]), json!([]));
    page["more"] = json!(true);
    peer.send(page).await;
    let ask = peer.expect("changes").await;
    assert_eq!(ask["since"], 6);
    peer.send(changes(&ask, 9, json!([{"target":2,"conv_seq":8,"by":"bob"}]), json!([]))).await;
    until(&mut events, "Reconciled", |event| *event == Event::Reconciled).await;
    let state = client.state().await.unwrap();
    let held = &state.conversations[&conv()];
    assert!(held.messages[&1].recalled && held.messages[&2].recalled && !held.messages[&3].recalled);
    let new = &state.conversations[&everline::protocol::ConvId::parse("d:alice:carol").unwrap()];
    assert_eq!((new.messages.len(), state.conversations.len(), new.reconciled_seq), (0, 2, Some(4)));
}

#[tokio::test]
async fn a_row_that_moved_while_the_list_was_paged_is_looked_for_again() {
    let (fake, cache) = (Fake::new().await, MemoryCache::default());
    let (client, mut events, mut peer) = holding_three(&fake, &cache).await;
    peer.send(reset("too_old", "e1", 100)).await;
    peer.send(sync(100, 100, true, json!([]))).await;
    let ask = peer.expect("conversations").await;
    let after = peer.expect("history").await;
    peer.send(list(&ask, json!([]))).await;
    let again = peer.expect("conversations").await;
    let mut muted = row(3, 3);
    muted["settings"]["muted"] = json!(true);
    peer.send(list(&again, json!([muted]))).await;
    peer.send(history(&after, &[], None, 3)).await;
    let ask = peer.expect("changes").await;
    peer.send(changes(&ask, 3, json!([]), json!([]))).await;
    until(&mut events, "Reconciled", |event| *event == Event::Reconciled).await;
    assert!(client.conversation(conv()).await.unwrap().settings.muted);
}

#[tokio::test]
async fn other_data_or_a_cursor_ahead_drop_the_cache_and_keep_the_outbox() {
    for reason in ["epoch_mismatch", "ahead"] {
        let (fake, cache) = (Fake::new().await, MemoryCache::default());
        let (client, mut events, mut peer) = holding_three(&fake, &cache).await;
        let message = Outgoing::new(bob(), body(1)).client_msg_id(MsgId::parse("m1").unwrap());
        drop(client.queue(message).await.unwrap());
        peer.expect("send").await;
        peer.close(1012).await;
        let mut peer = fake.accept().await;
        assert_eq!(peer.hello["cursor"], json!({"epoch":"e1","seq":3}));
        let mut answer = welcome(&peer.hello, "reset", 50);
        answer["epoch"] = json!("e2");
        peer.send(answer).await;
        peer.send(reset(reason, "e2", 50)).await;
        peer.send(sync(50, 50, true, json!([]))).await;
        until(&mut events, "Reset", |event| matches!(event, Event::Reset(_))).await;
        assert_eq!(peer.expect("send").await["client_msg_id"], "m1");
        until_live(&client).await;
        let state = client.state().await.unwrap();
        assert!(state.conversations.is_empty(), "{reason}");
        assert_eq!(state.cursor, Some(everline::protocol::Cursor { epoch: "e2".into(), seq: 50 }));
        assert_eq!(state, cache.saved().state);
        assert_eq!((cache.saved().outbox.len(), client.outbox().await.len()), (1, 1));
    }
}

#[tokio::test]
async fn a_fresh_device_preloads_what_it_was_told_to() {
    let (fake, cache) = (Fake::new().await, MemoryCache::default());
    let (client, _events) = connect(&fake, &cache, Preload::History(2));
    let mut peer = fake.accept().await;
    peer.send(welcome(&peer.hello.clone(), "fresh", 70)).await;
    peer.send(sync(70, 70, true, json!([]))).await;
    let ask = peer.expect("conversations").await;
    peer.send(list(&ask, json!([row(9, 4)]))).await;
    let page = peer.expect("history").await;
    assert!(page["before"].is_null() && page["after"].is_null());
    peer.send(history(&page, &[8, 9], Some(8), 9)).await;
    let page = peer.expect("history").await;
    assert_eq!(page["before"], 8);
    assert_eq!(client.status(), ConnectionState::Syncing);
    peer.send(history(&page, &[6, 7], Some(6), 9)).await;
    let ask = peer.expect("changes").await;
    assert_eq!(ask["since"], 5, "for names and deleted ranges of what is held");
    peer.send(changes(&ask, 9, json!([]), json!([]))).await;
    let ask = peer.expect("members").await;
    peer.send(json!({"type":"members","id":ask["id"],"members":[
        {"user_id":"alice","joined_at":1,"join_seq":1,"role":"member","read_seq":0},
        {"user_id":"bob","joined_at":1,"join_seq":1,"role":"member","read_seq":6}]}))
        .await;
    until_live(&client).await;
    let state = client.state().await.unwrap();
    let held = &state.conversations[&conv()];
    assert_eq!((held.messages.len(), held.complete_from, held.peer_read_seq), (4, Some(6), 6));
    assert_eq!(state.unread(&conv()), 4);
}

#[tokio::test]
async fn what_the_application_loaded_before_the_list_came_is_asked_for_its_deletes_too() {
    let (fake, cache) = (Fake::new().await, MemoryCache::default());
    let (client, _events) = connect(&fake, &cache, Preload::History(u32::MAX));
    let mut peer = fake.accept().await;
    peer.send(welcome(&peer.hello.clone(), "fresh", 70)).await;
    peer.send(sync(70, 70, true, json!([]))).await;
    let list_asked = peer.expect("conversations").await;
    let newest = Request::History { conv_id: conv(), from: HistoryFrom::Newest, limit: 30 };
    let asking = {
        let client = client.clone();
        tokio::spawn(async move { client.request(newest).await })
    };
    let page = peer.expect("history").await;
    peer.send(history(&page, &[1, 3], None, 3)).await;
    asking.await.unwrap().unwrap();
    peer.send(list(&list_asked, json!([row(3, 2)]))).await;
    let ask = peer.expect("changes").await;
    assert_eq!(ask["since"], 0);
    peer.send(changes(&ask, 3, json!([]), json!([[2, 2]]))).await;
    let ask = peer.expect("members").await;
    peer.send(json!({"type":"members","id":ask["id"],"members":[
        {"user_id":"alice","joined_at":1,"join_seq":1,"role":"member","read_seq":0},
        {"user_id":"bob","joined_at":1,"join_seq":1,"role":"member","read_seq":3}]}))
        .await;
    until_live(&client).await;
    let state = client.state().await.unwrap();
    let held = &state.conversations[&conv()];
    assert_eq!(held.deleted.as_slice(), [everline::protocol::Range { from: 2, to: 2 }]);
    assert_eq!((held.messages.len(), held.peer_read_seq), (2, 3));
}
