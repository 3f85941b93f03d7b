//! The first frame: who, which device, from where.

use std::time::Duration;

use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};

use crate::harness::{House, NOW_MS, SECRET, seqs_of};

fn signed(claims: &Value, secret: &str) -> String {
    jsonwebtoken::encode(&Header::default(), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

#[tokio::test]
async fn welcome_tells_where_the_device_stands_and_what_is_allowed() {
    let house = House::start().await;
    house.post("bob", "alice", 3).await;
    let (mut client, welcome) = house.device("alice", "phone", json!({"client":{"name":"t","version":"1"}})).await;
    assert_eq!(welcome["id"], "h");
    assert_eq!((&welcome["user_id"], &welcome["device_id"]), (&json!("alice"), &json!("phone")));
    assert_eq!(
        (&welcome["sync"], &welcome["head_seq"], &welcome["floor_seq"]),
        (&json!("fresh"), &json!(3), &json!(0))
    );
    assert_eq!(welcome["heartbeat_ms"], 25_000);
    assert!(welcome["server_at"].as_u64().unwrap() >= NOW_MS);
    let limits = json!({"max_frame_bytes":65536,"max_body_bytes":32768,"max_server_frame_bytes":1_048_576,
        "window_entries":500,"dedupe_seconds":604_800});
    assert_eq!(welcome["limits"], limits);
    let first = client.next().await;
    assert_eq!(first, json!({"type":"sync","from_seq":3,"to_seq":3,"live":true,"entries":[]}));
    let (_, other) = house.device("alice", "tablet", json!({})).await;
    assert_ne!(welcome["session_id"], other["session_id"]);
}

#[tokio::test]
async fn a_usable_cursor_is_resumed_from_exactly_there() {
    let house = House::start().await;
    house.post("bob", "alice", 20).await;
    let (_, welcome) = house.device("alice", "probe", json!({})).await;
    for seq in 0..=20 {
        let cursor = json!({"cursor":{"epoch":welcome["epoch"],"seq":seq}});
        let (mut client, welcome) = house.device("alice", "phone", cursor).await;
        assert_eq!(welcome["sync"], "resumed");
        client.seq = seq;
        let frame = client.next().await;
        assert_eq!((&frame["from_seq"], &frame["to_seq"], &frame["live"]), (&json!(seq), &json!(20), &json!(true)));
        assert_eq!(seqs_of(&frame), (seq + 1..=20).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_cursor_of_no_use_is_reset_for_each_of_three_reasons() {
    let house = House::with(|settings| settings.policy.sync_max_entries = 10).await;
    house.post("bob", "alice", 30).await;
    let (_, welcome) = house.device("alice", "probe", json!({})).await;
    let epoch = welcome["epoch"].as_str().unwrap();
    for (epoch, seq, reason) in [(epoch, 19, "too_old"), ("other", 25, "epoch_mismatch"), (epoch, 31, "ahead")] {
        let cursor = json!({"cursor":{"epoch":epoch,"seq":seq}});
        let (mut client, welcome) = house.device("alice", "phone", cursor).await;
        assert_eq!((&welcome["sync"], &welcome["floor_seq"]), (&json!("reset"), &json!(20)), "{reason}");
        let reset = client.next().await;
        let expected = json!({"type":"reset","reason":reason,"epoch":welcome["epoch"],"head_seq":30,"floor_seq":20});
        assert_eq!(reset, expected);
        let frame = client.next().await;
        assert_eq!(frame, json!({"type":"sync","from_seq":30,"to_seq":30,"live":true,"entries":[]}), "{reason}");
    }
    let (_, welcome) = house.device("alice", "phone", json!({"cursor":{"epoch":epoch,"seq":20}})).await;
    assert_eq!(welcome["sync"], "resumed", "the floor itself is usable");
}

#[tokio::test]
async fn anything_before_hello_asks_for_it_and_closes() {
    let house = House::start().await;
    for frame in [
        json!({"type":"send","id":"7","to":"bob","client_msg_id":"m","body":{}}),
        json!({"type":"devices","id":"7"}),
        json!({"type":"ack","seq":0}),
    ] {
        let mut client = house.socket().await;
        client.send(frame.clone()).await;
        let error = client.fails("hello_required", 4501).await;
        assert_eq!(error["id"], frame.get("id").cloned().unwrap_or_default());
        assert_eq!(error["retryable"], false);
    }
}

#[tokio::test]
async fn no_hello_in_time_closes() {
    let house = House::with(|settings| settings.session.hello_deadline = Duration::from_millis(500)).await;
    let mut client = house.socket().await;
    assert_eq!(client.rest().await, (vec![], 4502));
    let mut busy = house.socket().await;
    busy.send(json!({"type":"hello","id":"1"})).await;
    let (frames, code) = busy.rest().await;
    assert_eq!((frames.len(), code), (1, 4502), "a wrong hello buys no time");
}

#[tokio::test]
async fn a_hello_with_a_wrong_field_may_be_said_again() {
    let house = House::start().await;
    let mut client = house.socket().await;
    let error = client.hello("", "no spaces", json!({})).await;
    assert_eq!(
        (&error["code"], &error["field"], &error["id"]),
        (&json!("invalid_field"), &json!("device_id"), &json!("h"))
    );
    let welcome = client.hello(&house.token("alice"), "phone", json!({})).await;
    assert_eq!(welcome["type"], "welcome");
}

#[tokio::test]
async fn a_second_hello_is_an_error_and_changes_nothing() {
    let house = House::start().await;
    let mut client = house.live("alice", "phone").await;
    let error = client.hello(&house.token("bob"), "other", json!({})).await;
    assert_eq!((&error["code"], &error["id"]), (&json!("already_connected"), &json!("h")));
    assert_eq!(client.ask(json!({"type":"devices"})).await["devices"][0]["device_id"], "phone");
}

#[tokio::test]
async fn every_invalid_token_is_refused_with_one_wording() {
    let house = House::start().await;
    let exp = NOW_MS / 1000 + 60;
    let none =
        "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJzdWIiOiJhbGljZSIsImF1ZCI6ImV2ZXJsaW5lIiwiZXhwIjo5OTk5OTk5OTk5fQ.";
    let tokens = [
        String::new(),
        none.to_owned(),
        signed(&json!({"sub":"alice","aud":"everline","exp":exp}), "another secret"),
        signed(&json!({"sub":"alice","aud":"other","exp":exp}), SECRET),
        signed(&json!({"sub":"alice","aud":"everline"}), SECRET),
        signed(&json!({"aud":"everline","exp":exp}), SECRET),
        signed(&json!({"sub":"alice","aud":"everline","exp":exp,"nbf":exp}), SECRET),
        house.token_for("alice", Some("tablet"), Duration::from_secs(60)),
    ];
    let mut messages = Vec::new();
    for token in tokens {
        let mut client = house.socket().await;
        client.send(json!({"type":"hello","id":"h","token":token,"device_id":"phone"})).await;
        messages.push(client.fails("invalid_token", 4503).await);
    }
    let mut client = house.socket().await;
    client.send(json!({"type":"hello","id":"h","device_id":"phone"})).await;
    messages.push(client.fails("invalid_token", 4503).await);
    messages.dedup();
    assert_eq!(messages.len(), 1, "{messages:?}");
}

#[tokio::test]
async fn an_expired_token_is_refused_so_that_the_client_comes_back_with_another() {
    let house = House::start().await;
    let mut client = house.socket().await;
    let token = signed(&json!({"sub":"alice","aud":"everline","exp":NOW_MS / 1000 - 60}), SECRET);
    client.send(json!({"type":"hello","id":"h","token":token,"device_id":"phone"})).await;
    client.fails("token_expired", 4401).await;
}

#[tokio::test]
async fn the_token_of_the_upgrade_wins_over_the_one_in_hello() {
    let house = House::start().await;
    let bearer = format!("Bearer {}", house.token("alice"));
    let mut client = house.socket_with(&[("authorization", &bearer)]).await.unwrap();
    let welcome = client.hello(&house.token("bob"), "phone", json!({})).await;
    assert_eq!(welcome["user_id"], "alice");
    let mut client = house.socket_with(&[("authorization", "Bearer nonsense")]).await.unwrap();
    client.send(json!({"type":"hello","id":"h","token":house.token("alice"),"device_id":"phone"})).await;
    client.fails("invalid_token", 4503).await;
}

#[tokio::test]
async fn a_token_bound_to_a_device_lets_that_device_in() {
    let house = House::start().await;
    let mut client = house.socket().await;
    let token = house.token_for("alice", Some("phone"), Duration::from_secs(60));
    assert_eq!(client.hello(&token, "phone", json!({})).await["type"], "welcome");
}

#[tokio::test]
async fn the_same_device_again_replaces_the_older_session() {
    let house = House::start().await;
    let mut older = house.live("alice", "phone").await;
    let mut newer = house.live("alice", "phone").await;
    assert_eq!(older.rest().await, (vec![], 4509));
    house.post("bob", "alice", 1).await;
    assert_eq!(seqs_of(&newer.next().await), [1]);
    assert_eq!(house.handle.hub().sessions(), 1);
}

#[tokio::test]
async fn a_device_beyond_the_limit_is_refused_and_a_known_one_is_not() {
    let house = House::with(|settings| settings.policy.max_devices = 2).await;
    let _first = house.live("alice", "one").await;
    let _second = house.live("alice", "two").await;
    let mut third = house.socket().await;
    third.send(json!({"type":"hello","id":"h","token":house.token("alice"),"device_id":"three"})).await;
    assert_eq!(third.fails("too_many_connections", 4506).await["id"], "h");
    let _again = house.live("alice", "two").await;
    let _bob = house.live("bob", "three").await;
}
