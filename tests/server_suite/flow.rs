//! Sync frames: continuity, window, live and pages, resets, heartbeats.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Client, House, seqs_of};

#[tokio::test]
async fn live_entries_reach_every_device_in_order() {
    let house = House::start().await;
    let mut devices = [house.live("alice", "one").await, house.live("alice", "two").await];
    for _ in 0..10 {
        house.post("bob", "alice", 30).await;
    }
    for device in &mut devices {
        assert_eq!(device.read_to(300).await, (1..=300).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_device_that_does_not_acknowledge_gets_one_window_and_no_more() {
    let house = House::start().await;
    let mut client = house.live("alice", "phone").await;
    house.post("bob", "alice", 900).await;
    let mut seqs = Vec::new();
    while client.seq < 500 {
        seqs.extend(seqs_of(&client.next_of("sync").await));
    }
    assert_eq!(seqs, (1..=500).collect::<Vec<_>>());
    // Answers do not count; and no frame may come before this one that reaches beyond the window.
    assert_eq!(client.ask(json!({"type":"devices"})).await["type"], "devices");
    assert_eq!(client.seq, 500);
    client.send(json!({"type":"ack","seq":200})).await;
    while client.seq < 700 {
        seqs.extend(seqs_of(&client.next_of("sync").await));
    }
    assert_eq!(client.ask(json!({"type":"devices"})).await["type"], "devices");
    assert_eq!(client.seq, 700);
    client.send(json!({"type":"ack","seq":700})).await;
    seqs.extend(client.read_to(900).await);
    assert_eq!(seqs, (1..=900).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_slow_reader_gets_everything_in_order_by_pages() {
    let house = House::with(|settings| settings.session.page_bytes = 2000).await;
    let mut client = house.live("alice", "phone").await;
    // More than the hub's queue at a time, while the client reads nothing.
    for _ in 0..3 {
        house.post("bob", "alice", 300).await;
    }
    assert_eq!(client.read_to(900).await, (1..=900).collect::<Vec<_>>());
    house.post("bob", "alice", 1).await;
    let frame = client.next_of("sync").await;
    assert_eq!((seqs_of(&frame), &frame["live"]), (vec![901], &json!(true)));
}

#[tokio::test]
async fn frames_stay_below_their_size_and_the_first_at_the_head_is_live() {
    let house = House::with(|settings| settings.session.page_bytes = 3000).await;
    let (_, welcome) = house.device("alice", "probe", json!({})).await;
    house.post("bob", "alice", 100).await;
    let cursor = json!({"cursor":{"epoch":welcome["epoch"],"seq":0}});
    let (mut client, _) = house.device("alice", "phone", cursor).await;
    let mut frames = Vec::new();
    while client.seq < 100 {
        frames.push(client.next_of("sync").await);
    }
    assert!(frames.len() > 3);
    assert!(frames.iter().all(|frame| frame.to_string().len() < 5000));
    let live: Vec<bool> = frames.iter().map(|frame| frame["live"].as_bool().unwrap()).collect();
    assert_eq!(live.iter().position(|live| *live), Some(frames.len() - 1), "{live:?}");
}

#[tokio::test]
async fn many_entries_at_once_come_in_few_frames() {
    let house = House::start().await;
    let (_, welcome) = house.device("alice", "probe", json!({})).await;
    house.post("bob", "alice", 200).await;
    let cursor = json!({"cursor":{"epoch":welcome["epoch"],"seq":0}});
    let (mut client, _) = house.device("alice", "phone", cursor).await;
    let frame = client.next_of("sync").await;
    assert_eq!(seqs_of(&frame), (1..=200).collect::<Vec<_>>());
}

async fn asked(client: &mut Client, after: u64) -> Value {
    client.ask(json!({"type":"sync","after_seq":after})).await
}

#[tokio::test]
async fn sync_goes_on_from_any_kept_position() {
    let house = House::start().await;
    let mut client = house.live("alice", "phone").await;
    house.post("bob", "alice", 50).await;
    client.read_to(50).await;
    for after in [0, 1, 25, 49] {
        let frame = asked(&mut client, after).await;
        assert_eq!((&frame["type"], &frame["from_seq"]), (&json!("sync"), &json!(after)));
        assert_eq!(seqs_of(&frame), (after + 1..=50).collect::<Vec<_>>());
    }
    let frame = asked(&mut client, 50).await;
    assert_eq!((&frame["from_seq"], &frame["to_seq"], &frame["live"]), (&json!(50), &json!(50), &json!(true)));
    house.post("bob", "alice", 1).await;
    assert_eq!(client.read_to(51).await, [51], "and pushing goes on from there");
}

#[tokio::test]
async fn several_syncs_at_once_are_each_answered() {
    let house = House::start().await;
    let mut client = house.live("alice", "phone").await;
    house.post("bob", "alice", 50).await;
    client.read_to(50).await;
    for (id, after) in [("a", 10), ("b", 40), ("c", 0)] {
        client.send(json!({"type":"sync","id":id,"after_seq":after})).await;
    }
    for (id, after) in [("a", 10), ("b", 40), ("c", 0)] {
        let frame = client.next_of("sync").await;
        assert_eq!((&frame["id"], &frame["from_seq"]), (&json!(id), &json!(after)));
    }
}

#[tokio::test]
async fn sync_outside_of_what_is_kept_resets() {
    let house = House::with(|settings| settings.policy.sync_max_entries = 10).await;
    let mut client = house.live("alice", "phone").await;
    house.post("bob", "alice", 30).await;
    client.read_to(30).await;
    for (after, reason) in [(19, "too_old"), (31, "ahead"), (9_007_199_254_740_991_u64, "ahead")] {
        let reset = asked(&mut client, after).await;
        assert_eq!(
            (&reset["type"], &reset["reason"], &reset["head_seq"]),
            (&json!("reset"), &json!(reason), &json!(30))
        );
        let frame = client.next().await;
        assert_eq!((&frame["from_seq"], &frame["to_seq"], &frame["live"]), (&json!(30), &json!(30), &json!(true)));
    }
    client.send(json!({"type":"ack","seq":31})).await;
    client.fails("ack_ahead", 4500).await;
}

#[tokio::test]
async fn a_device_that_falls_below_the_floor_is_reset_and_goes_on() {
    let house = House::with(|settings| {
        settings.policy.sync_max_entries = 100;
        settings.session.window_entries = 20;
    })
    .await;
    let mut client = house.live("alice", "phone").await;
    house.post("bob", "alice", 20).await;
    while client.seq < 20 {
        client.next_of("sync").await;
    }
    // The window is full: what comes now stays in the log, until it is too old.
    house.post("bob", "alice", 280).await;
    client.send(json!({"type":"ack","seq":20})).await;
    let reset = client.next_of("reset").await;
    assert_eq!(
        (&reset["reason"], &reset["head_seq"], &reset["floor_seq"]),
        (&json!("too_old"), &json!(300), &json!(200))
    );
    assert_eq!(client.next_of("sync").await["live"], true);
    house.post("bob", "alice", 1).await;
    assert_eq!(client.read_to(301).await, [301]);
}

#[tokio::test]
async fn a_quiet_connection_is_pinged_with_the_head_and_a_pong_keeps_it() {
    let house = House::with(|settings| settings.session.heartbeat = Duration::from_millis(300)).await;
    let (mut client, welcome) = house.device("alice", "phone", json!({})).await;
    assert_eq!(welcome["heartbeat_ms"], 300);
    for _ in 0..4 {
        assert_eq!(client.next_of("ping").await, json!({"type":"ping","head_seq":0}));
        client.send(json!({"type":"pong","seq":0})).await;
    }
    house.post("bob", "alice", 2).await;
    client.next_of("sync").await;
    client.next_of("ping").await;
    client.send(json!({"type":"pong","seq":2})).await;
    let devices = client.ask(json!({"type":"devices"})).await;
    assert_eq!(devices["devices"][0]["acked_seq"], 2, "a pong acknowledges");
}

#[tokio::test]
async fn two_missed_pongs_end_the_connection() {
    let house = House::with(|settings| settings.session.heartbeat = Duration::from_millis(40)).await;
    let mut client = house.live("alice", "phone").await;
    let (frames, code) = client.rest().await;
    assert_eq!(frames, vec![json!({"type":"ping","head_seq":0}); 2]);
    assert_eq!(code, 4408);
}

#[tokio::test]
async fn a_store_that_fails_for_a_while_delays_entries_and_loses_none() {
    let house = House::start().await;
    let (_, welcome) = house.device("alice", "probe", json!({})).await;
    house.post("bob", "alice", 20).await;
    let mut client = house.live("alice", "phone").await;
    house.store.cut(true);
    let error = asked(&mut client, 5).await;
    assert_eq!((&error["code"], &error["retryable"]), (&json!("unavailable"), &json!(true)));
    house.store.cut(false);
    client.seq = 5;
    assert_eq!(client.read_to(20).await, (6..=20).collect::<Vec<_>>());
    let _ = welcome;
}

#[tokio::test]
async fn the_server_says_goodbye_when_it_stops() {
    let house = House::start().await;
    let mut live = house.live("alice", "phone").await;
    let mut silent = house.socket().await;
    let (stopped, ended, silent) = tokio::join!(house.handle.stop(), live.rest(), silent.rest());
    assert!(stopped);
    assert_eq!((ended.1, silent.1), (1012, 1012));
}
