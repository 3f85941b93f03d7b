//! Frames, gaps, acknowledgements: what a client does with the sync timeline.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod client_fake;

use std::sync::Arc;

use client_fake::*;
use everline::client::*;
use everline::protocol::ConvId;
use futures::future::BoxFuture;
use serde_json::json;
use tokio::sync::Semaphore;

#[tokio::test]
async fn a_frame_is_applied_iff_it_continues_the_cursor() {
    let (fake, cache) = (Fake::new().await, MemoryCache::default());
    let (client, mut events) = connect(&fake, &cache, Preload::None);
    let mut peer = fake.live().await;
    peer.send(sync(0, 3, true, entries(1, 3))).await;
    peer.send(sync(0, 3, true, entries(1, 3))).await;
    peer.send(sync(0, 2, true, entries(1, 2))).await;
    peer.send(sync(3, 4, true, entries(4, 4))).await;
    let mut applied = Vec::new();
    while applied.len() < 4 {
        let event = until(&mut events, "entries", |event| matches!(event, Event::Applied { .. })).await;
        let Event::Applied { entries, .. } = event else { panic!() };
        applied.extend(entries.iter().map(|entry| entry.seq));
    }
    assert_eq!(applied, [1, 2, 3, 4]);
    assert_eq!(client.state().await.unwrap().seq(), 4);
}

#[tokio::test]
async fn a_gap_is_asked_for_once_and_nothing_is_live_until_it_is_closed() {
    let (fake, cache) = (Fake::new().await, MemoryCache::default());
    let (client, _events) = connect(&fake, &cache, Preload::None);
    let mut peer = fake.live().await;
    peer.send(sync(0, 2, true, entries(1, 2))).await;
    until_live(&client).await;
    assert_eq!(peer.expect("ack").await["seq"], 2);
    for seq in 4..9 {
        peer.send(sync(seq, seq + 1, true, entries(seq + 1, seq + 1))).await;
    }
    let ask = peer.expect("sync").await;
    assert_eq!(ask["after_seq"], 2);
    assert_eq!(peer.expect_nothing().await, 2, "asked again, or applied over a gap");
    assert_eq!(client.status(), ConnectionState::Syncing);
    let mut answer = sync(2, 9, true, entries(3, 9));
    answer["id"] = ask["id"].clone();
    peer.send(answer).await;
    until_live(&client).await;
    let state = client.state().await.unwrap();
    assert_eq!(state.seq(), 9);
    let held: Vec<u64> = state.conversations[&conv()].messages.keys().copied().collect();
    assert_eq!(held, (1..=9).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_sync_request_that_is_refused_for_now_is_asked_again() {
    let (fake, cache) = (Fake::new().await, MemoryCache::default());
    let (client, _events) = connect(&fake, &cache, Preload::None);
    let mut peer = fake.live().await;
    peer.send(sync(4, 5, true, entries(5, 5))).await;
    let ask = peer.expect("sync").await;
    peer.error(&ask, "unavailable", json!(1)).await;
    let ask = peer.expect("sync").await;
    assert_eq!(ask["after_seq"], 0);
    let mut answer = sync(0, 5, true, entries(1, 5));
    answer["id"] = ask["id"].clone();
    peer.send(answer).await;
    until_live(&client).await;
    assert_eq!(client.state().await.unwrap().seq(), 5);
}

/// Saves when it is allowed to.
struct SlowCache(MemoryCache, Arc<Semaphore>);

impl Cache for SlowCache {
    fn load(&mut self) -> BoxFuture<'_, Result<Saved, BoxError>> {
        self.0.load()
    }

    fn save<'a>(&'a mut self, write: Write<'a>) -> BoxFuture<'a, Result<(), BoxError>> {
        Box::pin(async move {
            self.1.acquire().await?.forget();
            self.0.save(write).await
        })
    }
}

#[tokio::test]
async fn nothing_is_acknowledged_or_told_before_it_is_saved() {
    let (fake, cache) = (Fake::new().await, MemoryCache::default());
    let saves = Arc::new(Semaphore::new(2));
    let options = options(&fake).cache(SlowCache(cache.clone(), Arc::clone(&saves)));
    let (_client, mut events) = Client::connect(options).unwrap();
    let mut peer = fake.live().await;
    peer.send(sync(0, 30, true, entries(1, 30))).await;
    peer.send(json!({"type":"ping","head_seq":30})).await;
    // The third save waits: neither ack nor pong nor event may come.
    let early = tokio::time::timeout(std::time::Duration::from_millis(200), peer.next()).await;
    assert!(early.is_err(), "{early:?} before the save");
    assert_eq!(cache.saved().state.seq(), 0);
    saves.add_permits(100);
    assert_eq!(peer.expect("ack").await["seq"], 30);
    assert_eq!(cache.saved().state.seq(), 30);
    assert_eq!(cache.saved().state.conversations[&conv()].messages.len(), 30);
    peer.expect("pong").await;
    until(&mut events, "entries", |event| matches!(event, Event::Applied { .. })).await;
}

#[tokio::test]
async fn acks_come_at_a_quarter_of_the_window_and_when_it_is_quiet() {
    let (fake, cache) = (Fake::new().await, MemoryCache::default());
    let (_client, _events) = connect(&fake, &cache, Preload::None);
    let mut peer = fake.live().await;
    for seq in 0..25 {
        peer.send(sync(seq, seq + 1, false, entries(seq + 1, seq + 1))).await;
    }
    let mut acked = 0;
    while acked < 25 {
        let seq = peer.expect("ack").await["seq"].as_u64().unwrap();
        assert!(seq > acked && seq <= acked + 10, "{acked} then {seq}: a quarter of the window is 10");
        acked = seq;
    }
    assert_eq!(peer.expect_nothing().await, 25);
}

#[tokio::test]
async fn a_next_process_goes_on_from_the_saved_cursor() {
    let (fake, cache) = (Fake::new().await, MemoryCache::default());
    let (client, _events) = connect(&fake, &cache, Preload::None);
    let mut peer = fake.live().await;
    assert!(peer.hello["cursor"].is_null());
    assert_eq!(peer.hello["token"], "secret");
    peer.send(sync(0, 7, true, entries(1, 7))).await;
    assert_eq!(peer.expect("ack").await["seq"], 7);
    client.close().await;
    peer.expect_close().await;
    assert_eq!(client.status(), ConnectionState::Disconnected(Some(StopReason::Closed)));
    let (client, _events) = connect(&fake, &cache, Preload::None);
    let peer = fake.live().await;
    assert_eq!(peer.hello["cursor"], json!({"epoch":"e1","seq":7}));
    until_live(&client).await;
    assert_eq!(client.state().await.unwrap().unread(&conv()), 7);
}

#[tokio::test]
async fn an_application_that_reads_no_events_keeps_nothing_from_arriving() {
    let (fake, cache) = (Fake::new().await, MemoryCache::default());
    let mut options = options(&fake).cache(cache.clone());
    options.event_capacity = 2;
    let (client, mut events) = Client::connect(options).unwrap();
    let mut peer = fake.live().await;
    for seq in 0..50 {
        peer.send(sync(seq, seq + 1, true, entries(seq + 1, seq + 1))).await;
    }
    while peer.expect("ack").await["seq"] != 50 {}
    peer.send(reset("too_old", "e1", 90)).await;
    let list = peer.expect("conversations").await;
    peer.send(json!({"type":"conversations","id":list["id"],"conversations":[row(51, 51)]})).await;
    let after = peer.expect("history").await;
    assert_eq!(after["after"], 50);
    let page = json!({"type":"history","id":after["id"],"entries":[stored(51)],"complete":true,"head_seq":51});
    peer.send(page).await;
    let changes = peer.expect("changes").await;
    assert_eq!(changes["since"], 50);
    peer.send(json!({"type":"changes","id":changes["id"],"recalled":[],"edited":[],"reacted":[],"up_to":51,
        "more":false,"deleted":[],"cleared_up_to":0}))
        .await;
    peer.send(sync(90, 90, true, json!([]))).await;
    until_live(&client).await;
    until(&mut events, "how many were lost", |event| matches!(event, Event::Lagged(_))).await;
}

#[tokio::test]
async fn news_of_a_large_conversation_continue_or_are_loaded() {
    let (fake, cache) = (Fake::new().await, MemoryCache::default());
    let (client, mut events) = connect(&fake, &cache, Preload::None);
    let mut peer = fake.live().await;
    let town = ConvId::parse("g:town").unwrap();
    let message = |seq: u64| {
        json!({"op":"message","conv_id":"g:town","conv_seq":seq,"sender_id":"bob","client_msg_id":format!("t{seq}"),
            "sent_at":seq,"body":{"n":seq},"reactions":[]})
    };
    let heads = |from: u64, head: u64, entries: serde_json::Value| json!({"type":"heads","conversations":[{"conv_id":"g:town","from_seq":from,"head_seq":head,"entries":entries}]});
    peer.send(json!({"type":"heads","conversations":[{"conv_id":"g:town","head_seq":10}]})).await;
    peer.send(heads(10, 12, json!([message(11), message(12)]))).await;
    // What is held already is not taken twice.
    peer.send(heads(11, 13, json!([message(12), message(13)]))).await;
    for _ in 0..3 {
        until(&mut events, "log", |event| matches!(event, Event::Log { .. })).await;
        if client.state().await.unwrap().conversations[&town].position() == Some(13) {
            break;
        }
    }
    assert_eq!(client.conversation(town.clone()).await.unwrap().messages.len(), 3);
    let row = |ask: &serde_json::Value, head: u64| {
        json!({"type":"conversations","id":ask["id"],"conversations":[
        {"conv_id":"g:town","kind":"group","title":"town","head_seq":head,"last_at":head,"read_seq":1,"unread":0,
        "join_seq":1,"large":true,"members_count":3,"settings":{"muted":false,"pinned":false,"hidden":false}}]})
    };
    // Entries left out: the row, pages and changes are asked for from where it is held.
    peer.send(json!({"type":"heads","conversations":[{"conv_id":"g:town","from_seq":13,"head_seq":15}]})).await;
    let ask = peer.expect("conversations").await;
    peer.send(row(&ask, 15)).await;
    let ask = peer.expect("history").await;
    assert_eq!((&ask["conv_id"], &ask["after"]), (&json!("g:town"), &json!(13)));
    peer.send(json!({"type":"history","id":ask["id"],"entries":[message(14)],"complete":true,"head_seq":15})).await;
    let ask = peer.expect("changes").await;
    assert_eq!(ask["since"], 13);
    // News meanwhile are not lost.
    peer.send(heads(15, 16, json!([message(16)]))).await;
    peer.send(json!({"type":"changes","id":ask["id"],"recalled":[{"target":12,"conv_seq":15,"by":"bob"}],"edited":[],
        "reacted":[],"up_to":15,"more":false,"deleted":[],"cleared_up_to":0}))
        .await;
    let ask = peer.expect("conversations").await;
    peer.send(row(&ask, 16)).await;
    let ask = peer.expect("history").await;
    assert_eq!(ask["after"], 15);
    peer.send(json!({"type":"history","id":ask["id"],"entries":[message(16)],"complete":true,"head_seq":16})).await;
    let ask = peer.expect("changes").await;
    peer.send(json!({"type":"changes","id":ask["id"],"recalled":[],"edited":[],"reacted":[],"up_to":16,"more":false,
        "deleted":[],"cleared_up_to":0}))
        .await;
    until_live(&client).await;
    let held = client.conversation(town).await.unwrap();
    assert_eq!(held.position(), Some(16));
    assert!(held.messages[&12].recalled && held.messages.contains_key(&16));
    peer.close(1012).await;
    let peer = fake.accept().await;
    assert_eq!(peer.hello["conversations"], json!({"g:town":16}));
}
